"""Messages between processes: msgpack maps whose arrays are (dtype, shape, bytes). No pickle, no code, no surprises.

The decoder takes bytes from strangers. It accepts None, booleans, integers, finite floats, text, bytes, lists, maps with text
keys, and arrays of fixed-size numbers; anything else is a `WireError`. A message on a stream is a length (4 bytes, big-endian)
and then that many bytes.
"""

import math
import re
import socket
import time
from typing import Any, cast

import msgpack
import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.core.types import Chunk, Observation

SCHEMA = 1  # version of the messages below
MAX_BYTES = 64 * 2**20  # [B] largest message
MAX_KEYS = 4096  # in one map
MAX_ITEMS = 65536  # in one list
MAX_DEPTH = 16
MAX_AXES = 8
ARRAY = "__ndarray__"
NUMBER = re.compile(r"[<|][biuf][1248]")  # little-endian numbers of a fixed size: no objects, text, structures, complex


class WireError(UserError):
    """Bytes that are no message of ours, or a value that cannot be sent."""


# ---------------------------------------------------------------------------------------------------- values


def encode(value: Any) -> bytes:
    """Return the bytes of `value`.

    Raises:
        WireError: a type without a form on the wire, NaN or Inf, or more than `MAX_BYTES`.

    >>> decode(encode({"go": np.ones(2, np.float32)}))
    {'go': array([1., 1.], dtype=float32)}
    """
    data = cast("bytes", msgpack.packb(_to_wire(value, 0), use_bin_type=True))
    if len(data) > MAX_BYTES:
        raise WireError(f"the message has {len(data)} bytes; at most {MAX_BYTES} are allowed")
    return data


def decode(data: bytes) -> Any:
    """Undo `encode`. Arrays are copies that can be written to.

    Raises:
        WireError: the bytes break one of the rules at the top of this file.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"the message has {len(data)} bytes; at most {MAX_BYTES} are allowed")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique_pairs,
            ext_hook=_refuse_extension,
            max_map_len=MAX_KEYS,
            max_array_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise WireError(
            f"the bytes are no msgpack message within the limits ({type(error).__name__}: {error})"
        ) from error
    return _from_wire(value, 0)


def _to_wire(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError(f"the message is nested deeper than {MAX_DEPTH}")
    if isinstance(value, np.ndarray):
        return _array_to_wire(cast("np.ndarray[Any, np.dtype[Any]]", value))
    if isinstance(value, np.generic):
        return _to_wire(value.item(), depth)
    if isinstance(value, dict):
        return {_check_key(k): _to_wire(v, depth + 1) for k, v in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_to_wire(item, depth + 1) for item in cast("list[Any]", value)]
    return _check_scalar(value)


def _from_wire(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError(f"the message is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        if ARRAY in fields:
            return _array_from_wire(fields)
        return {_check_key(k): _from_wire(v, depth + 1) for k, v in fields.items()}
    if isinstance(value, list):
        return [_from_wire(item, depth + 1) for item in cast("list[Any]", value)]
    return _check_scalar(value)


def _check_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WireError(f"the message holds {value}; only finite numbers are allowed")
        return value
    raise WireError(f"a {type(value).__name__} has no form on the wire")


def _check_key(key: Any) -> str:
    if not isinstance(key, str):
        raise WireError(f"the message has the key {key!r}; keys are text")
    if key.startswith("__"):
        raise WireError(f"the message has the unknown marker '{key[:40]}'")
    return key


def _unique_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise WireError("the message has a map with the same key twice")
    return result


def _refuse_extension(code: int, data: bytes) -> Any:
    raise WireError(f"the message has an extension of type {code} ({len(data)} bytes); none is allowed")


# ---------------------------------------------------------------------------------------------------- arrays


def _array_to_wire(array: np.ndarray[Any, np.dtype[Any]]) -> dict[str, Any]:
    little = array.dtype.newbyteorder("<")
    if not NUMBER.fullmatch(little.str) or array.ndim > MAX_AXES:
        raise WireError(f"an array of {array.dtype} with {array.ndim} axes has no form on the wire; send numbers")
    _check_finite(array)
    data = np.ascontiguousarray(array, dtype=little).tobytes()
    return {ARRAY: True, "dtype": little.str, "shape": list(array.shape), "data": data}


def _array_from_wire(fields: dict[Any, Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Undo `_array_to_wire`: the type is one of a short list, and the bytes are exactly those of the shape."""
    if set(fields) != {ARRAY, "dtype", "shape", "data"} or fields[ARRAY] is not True:
        raise WireError(f"an array on the wire has the fields {ARRAY}, dtype, shape and data")
    kind, shape, data = fields["dtype"], fields["shape"], fields["data"]
    if not (isinstance(kind, str) and NUMBER.fullmatch(kind)) or kind[1:] in {"b2", "b4", "b8", "f1"}:
        raise WireError(
            f"an array on the wire has the type {str(kind)[:40]!r}; allowed are fixed-size numbers such as '<f4'"
        )
    if not (isinstance(shape, list) and len(cast("list[Any]", shape)) <= MAX_AXES and all(map(_is_size, shape))):
        raise WireError(
            f"an array on the wire has the shape {str(shape)[:80]}; allowed are up to {MAX_AXES} sizes >= 0"
        )
    dtype = np.dtype(kind)
    expected = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != expected:
        got = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"an array on the wire of shape {shape} and type {kind} needs {expected} bytes; it has {got}")
    flat = np.frombuffer(data, dtype)
    if dtype.kind == "b":
        flat = np.frombuffer(data, np.uint8) != 0  # a byte other than 0 and 1 is no legal bool
    _check_finite(flat)
    return flat.astype(dtype.newbyteorder("="), copy=True).reshape(shape)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BYTES


def _check_finite(array: np.ndarray[Any, np.dtype[Any]]) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WireError(f"an array of shape {array.shape} holds NaN or Inf; only finite numbers are allowed")


# ---------------------------------------------------------------------------------------------------- streams


class Closed(WireError):  # noqa: N818 (named after the event)
    """The other side closed the stream."""


class TimedOut(WireError):  # noqa: N818
    """The other side did not answer in time."""


def send(stream: socket.socket, value: Any, timeout_s: float | None) -> None:
    """Write one message.

    Raises:
        Closed: the other side is gone.
        TimedOut: it did not take the message within `timeout_s`.
    """
    data = encode(value)
    stream.settimeout(timeout_s)
    try:
        stream.sendall(len(data).to_bytes(4, "big") + data)
    except TimeoutError as error:
        raise TimedOut(f"the message was not taken within {timeout_s} s") from error
    except OSError as error:
        raise Closed(f"the stream is closed ({error})") from error


def receive(stream: socket.socket, timeout_s: float | None) -> Any:
    """Read one message.

    Raises:
        Closed: the other side is gone.
        TimedOut: the message was not there, complete, within `timeout_s`.
        WireError: it breaks the rules at the top of this file.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    size = int.from_bytes(_read(stream, 4, deadline), "big")
    if size > MAX_BYTES:
        raise WireError(f"a message of {size} bytes was announced; at most {MAX_BYTES} are allowed")
    return decode(_read(stream, size, deadline))


def _read(stream: socket.socket, size: int, deadline: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0.0:
            raise TimedOut("no complete message within the time allowed")
        stream.settimeout(left)
        try:
            part = stream.recv(min(size - len(parts), 1 << 20))
        except TimeoutError as error:
            raise TimedOut("no complete message within the time allowed") from error
        except OSError as error:
            raise Closed(f"the stream is closed ({error})") from error
        if not part:
            raise Closed("the stream is closed")
        parts += part
    return bytes(parts)


# ---------------------------------------------------------------------------------------------------- observations and chunks


def observation_to_wire(observation: Observation) -> dict[str, Any]:
    """Return the map of an observation; images by camera role."""
    return {
        "time": float(observation.time),
        "state": np.asarray(observation.state),
        "images": [[role, np.asarray(image)] for role, image in observation.images.items()],
    }


def observation_from_wire(value: Any) -> Observation:
    """Undo `observation_to_wire`."""
    fields = _fields(value, "observation", ("time", "state", "images"))
    state = _array(fields["state"], "state", "f", 1)
    images = {str(role): _array(image, f"image {role}", "u", 3) for role, image in fields["images"]}
    return Observation(time=float(fields["time"]), images=images, state=state)


def chunk_to_wire(chunk: Chunk) -> dict[str, Any]:
    """Return the map of a chunk."""
    return {
        "obs_time": float(chunk.obs_time),
        "t0": float(chunk.t0),
        "dt": float(chunk.dt),
        "actions": np.asarray(chunk.actions),
        "policy_id": chunk.policy_id,
        "sequence": int(chunk.sequence),
    }


def chunk_from_wire(value: Any) -> Chunk:
    """Undo `chunk_to_wire`."""
    fields = _fields(value, "chunk", ("obs_time", "t0", "dt", "actions", "policy_id", "sequence"))
    return Chunk(
        obs_time=float(fields["obs_time"]),
        t0=float(fields["t0"]),
        dt=float(fields["dt"]),
        actions=_array(fields["actions"], "actions", "f", 2),
        policy_id=str(fields["policy_id"]),
        sequence=int(fields["sequence"]),
    )


def _fields(value: Any, name: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != set(names):
        raise WireError(f"this is no {name}: it should be a map with the fields {', '.join(names)}")
    return cast("dict[str, Any]", value)


def _array(value: Any, name: str, kind: str, axes: int) -> np.ndarray[Any, np.dtype[Any]]:
    if not isinstance(value, np.ndarray) or value.dtype.kind != kind or value.ndim != axes:
        raise WireError(f"{name} should be an array of kind '{kind}' with {axes} axes")
    return cast("np.ndarray[Any, np.dtype[Any]]", value)
