"""The parent's side of a policy in a child process: the same protocol, no deep learning here, and a death that is an error.

```
parent (numpy)                         child (ideomotor.policy.worker; may import torch)
ProcessPolicy.act_batch ──request──►   policy.act_batch
                        ◄──chunks───
```

One request is in flight at a time, over a pair of local sockets that no other process can reach.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Chunk, Observation
from ideomotor.policy import wire
from ideomotor.policy.options import PolicyOptions

PROGRAM = (sys.executable, "-m", "ideomotor.policy.worker")
STOP_S = 2.0  # [s] for the child to leave by itself after its stream was closed
LAST_WORDS = 1500  # [B] of the child's error output shown when it dies


class PolicyDied(UserError):  # noqa: N818 (named after the event)
    """The policy's process ended, or was ended because it did not answer in time."""


class ProcessPolicy:
    """A `BatchPolicy` that runs in a child process. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        policy: str,
        options: PolicyOptions = PolicyOptions(),  # noqa: B008 (frozen)
        *,
        timeout_s: float = 30.0,
        start_timeout_s: float = 600.0,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Start the child and wait until the policy is loaded.

        Args:
            policy: "shipped", or the folder of a policy or checkpoint; handed to the child.
            options: handed to the child as well.
            timeout_s: [s] longest time for an answer; after it the child is killed.
            start_timeout_s: [s] longest time to load; a checkpoint may have 15 GB.
            program: the child's command line, to which `--policy`, `--options` and `--stream` are added.

        Raises:
            UserError: the policy cannot be loaded; the message is the child's.
            PolicyDied: the child ended or was too slow.
        """
        self._policy = policy
        self._options = json.dumps(jsonable.to_json(options))
        self.illegal_ids = (
            0  # given by the policy since it was started: ids that are no actions, decoded as an end of the range
        )
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._program = tuple(program)
        self._child: subprocess.Popen[bytes] | None = None
        self._stream: socket.socket | None = None
        self._words: IO[bytes] | None = None
        self._count = 0
        self._start()

    # ------------------------------------------------------------------------------------------------ protocol

    @property
    def policy_id(self) -> str:
        """The child's policy id."""
        return self._policy_id

    @property
    def embodiment(self) -> Embodiment:
        """The child's embodiment."""
        return self._embodiment

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it was trained on; empty where not known."""
        return self._tasks

    def reset(self, instruction: str) -> None:
        """Begin an episode with this instruction."""
        self._ask({"call": "reset", "instruction": instruction})

    def act(self, observation: Observation) -> Chunk:
        """Return the chunk for this observation."""
        answer = self._ask({"call": "act", "observation": wire.observation_to_wire(observation)})
        return wire.chunk_from_wire(answer["chunk"])

    def act_batch(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Chunk]:
        """Return one chunk for each pair of instruction and observation."""
        request = {
            "call": "act_batch",
            "instructions": list(instructions),
            "observations": [wire.observation_to_wire(observation) for observation in observations],
        }
        chunks = [wire.chunk_from_wire(chunk) for chunk in self._ask(request)["chunks"]]
        if len(chunks) != len(observations):
            raise UserError(f"policy '{self._policy}' gave {len(chunks)} chunks for {len(observations)} observations")
        return chunks

    # ------------------------------------------------------------------------------------------------ life of the child

    @property
    def pid(self) -> int:
        """Process id of the child."""
        assert self._child is not None, "the policy is closed"
        return self._child.pid

    def restart(self) -> None:
        """End the child, if it still lives, and start a new one."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the child. Calling it twice does no harm."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_S)
            self._kill()
            self._child = None
        if self._words is not None:
            self._words.close()
            self._words = None

    def __enter__(self) -> "ProcessPolicy":  # noqa: PYI034 (the shape checker of the tests knows no Self)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._stream = ours
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the child)
        with theirs:
            self._child = subprocess.Popen(
                [
                    *self._program,
                    "--policy",
                    self._policy,
                    "--options",
                    self._options,
                    "--stream",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                start_new_session=True,  # Ctrl-C in a terminal is the parent's business
            )
        try:
            hello = self._receive(self._start_timeout_s)
            if hello.get("schema") != wire.SCHEMA:
                raise UserError(f"policy '{self._policy}' speaks schema {hello.get('schema')}; this is {wire.SCHEMA}")
            self._policy_id = str(hello["policy_id"])
            self._tasks = tuple(str(task) for task in hello.get("tasks", ()))
            self._embodiment = Embodiment.from_text(
                str(hello["embodiment"]), f"the handshake of policy '{self._policy}'"
            )
        except BaseException:
            self.close()
            raise

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._stream is None:
            raise PolicyDied(f"policy '{self._policy}' has no process any more; call restart() for a new one")
        self._count += 1
        try:
            wire.send(self._stream, {**request, "id": self._count}, self._timeout_s)
        except wire.Closed:
            raise self._died("ended") from None
        except wire.TimedOut:
            raise self._died(f"did not take a request within {self._timeout_s:g} s and was ended") from None
        answer = self._receive(self._timeout_s)
        if answer.get("id") != self._count:
            raise self._died(f"answered request {answer.get('id')} instead of {self._count} and was ended")
        self.illegal_ids = int(answer.get("illegal_ids", self.illegal_ids))
        return answer

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._stream is not None
        try:
            answer = wire.receive(self._stream, timeout_s)
        except wire.Closed:
            raise self._died("ended") from None
        except wire.TimedOut:
            raise self._died(f"did not answer within {timeout_s:g} s and was ended") from None
        except wire.WireError as error:
            raise self._died(f"sent bytes that are no message ({error}) and was ended") from error
        except BaseException:  # an interrupt leaves half an answer in the stream
            self._stream.close()
            self._stream = None
            raise
        if not isinstance(answer, dict):
            raise self._died("sent something that is no answer and was ended")
        if "error" in answer:
            raise UserError(f"policy '{self._policy}': {answer['error']}")
        return answer

    def _died(self, what: str) -> PolicyDied:
        """Collect the child's last words and its exit status, and return the error that tells them."""
        child, words = self._child, self._words
        assert child is not None
        assert words is not None
        if what == "ended":
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
        self._kill()
        words.seek(0, 2)
        words.seek(max(0, words.tell() - LAST_WORDS))
        said = words.read().decode(errors="replace").strip()
        status = _status(child.returncode)
        self.close()
        tail = f" Its last words:\n{said}" if said else ""
        return PolicyDied(f"the process of policy '{self._policy}' {what} ({status}). Start it again to go on.{tail}")

    def _kill(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
