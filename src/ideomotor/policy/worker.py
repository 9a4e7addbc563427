"""The child's side of a policy process: load the policy, then answer requests until the parent closes the stream.

Started by `ideomotor.policy.process`; not meant to be started by hand.
"""

import argparse
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.types import BatchPolicy
from ideomotor.policy import wire
from ideomotor.policy.options import PolicyOptions

Load = Callable[[str, PolicyOptions], BatchPolicy]


def serve(stream: socket.socket, load: Callable[[], BatchPolicy]) -> None:
    """Load a policy, say hello, and answer until the stream is closed. A failure is an answer, not the end."""
    try:
        policy = load()
        hello = {
            "schema": wire.SCHEMA,
            "policy_id": policy.policy_id,
            "embodiment": policy.embodiment.to_text(),
            "tasks": list(getattr(policy, "tasks", ())),
        }
    except Exception as error:  # noqa: BLE001 (process border: the parent raises it again)
        wire.send(stream, {"error": _told(error)}, None)
        return
    wire.send(stream, hello, None)
    while True:
        try:
            request = wire.receive(stream, None)
        except wire.Closed:
            return
        try:
            answer = _answer(policy, request)
            data = {"id": request["id"], **answer}
            wire.encode(data)  # a chunk with NaN is refused here, as an answer
        except Exception as error:  # noqa: BLE001 (process border: the parent raises it again)
            data = {"id": request.get("id", 0), "error": _told(error)}
        wire.send(stream, data, None)


def _answer(policy: BatchPolicy, request: dict[str, Any]) -> dict[str, Any]:
    match request["call"]:
        case "act_batch":
            observations = [wire.observation_from_wire(value) for value in request["observations"]]
            chunks = policy.act_batch(request["instructions"], observations)
            return {"chunks": [wire.chunk_to_wire(chunk) for chunk in chunks], **_told_beside(policy)}
        case "act":
            chunk = policy.act(wire.observation_from_wire(request["observation"]))
            return {"chunk": wire.chunk_to_wire(chunk), **_told_beside(policy)}
        case "reset":
            policy.reset(request["instruction"])
            return {}
        case other:
            raise UserError(f"unknown request {other!r}; known: act, act_batch, reset")


def _told_beside(policy: BatchPolicy) -> dict[str, Any]:
    return {"illegal_ids": int(getattr(policy, "illegal_ids", 0))}


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def run(load: Load, arguments: Sequence[str] | None = None) -> None:
    """Serve the policy that the command line names, loaded by `load`, over the inherited stream."""
    parser = argparse.ArgumentParser(description="The child's side of a policy process.")
    parser.add_argument("--policy", required=True)
    parser.add_argument("--options", default="{}", help="the policy's options as JSON")
    parser.add_argument("--stream", required=True, type=int, help="inherited file descriptor of a connected socket")
    given = parser.parse_args(arguments)
    options = jsonable.from_json(PolicyOptions, json.loads(given.options), "--options")
    with socket.socket(fileno=given.stream) as stream:
        serve(stream, lambda: load(given.policy, options))


def _load(name: str, options: PolicyOptions) -> BatchPolicy:
    from ideomotor.policy.local import load_policy  # torch: what fails here becomes an answer

    return load_policy(name, options)


if __name__ == "__main__":
    run(_load)
