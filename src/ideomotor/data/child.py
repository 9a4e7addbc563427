"""Run a function behind a wall: in a child process with limits on memory and time, whose death is an error and not a crash.

The C libraries under parquet and HDF5 read what strangers wrote; a damaged file can end a process or ask for all memory. Requests
and replies are lines of JSON: nothing that comes back is executed, whatever happened to the child.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ideomotor.core.errors import UserError

MEMORY = 2 << 30  # [bytes] that a call may take beyond what the child has loaded
SECONDS = 60.0  # that a call may last
LARGEST_REPLY = 64 << 20  # [bytes]

_MAIN = "from ideomotor.data.child import serve; serve({}, {}, {})"
_ENVIRONMENT = {  # one thread, and allocators that map no more than they are asked for: the limit counts what is mapped
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_STARTING = 30.0  # [s] on a busy machine


class ChildDiedError(UserError):
    """The file ended the child, or made it run out of memory or time."""


class ChildFaultError(RuntimeError):
    """The function raised what is no `UserError`: a fault of the program, not of the file."""


class Child:
    """One child process for many calls; it starts with the first call, and again after a death."""

    def __init__(self, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self.memory, self.seconds = memory, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ask = self._reply = -1
        self._imported: set[str] = set()

    def __enter__(self) -> "Child":  # noqa: PYI034  the shape checker of the tests knows no Self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def start(self) -> None:
        """Start the process, if there is none; a later call then finds it ready."""
        if self._process is not None:
            return
        theirs_in, self._ask = os.pipe()
        self._reply, theirs_out = os.pipe()
        command = [sys.executable, "-P", "-c", _MAIN.format(theirs_in, theirs_out, self.memory)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, **_ENVIRONMENT},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._send(sys.path)

    def call(self, function: Callable[..., Any], *arguments: Any, about: object) -> Any:
        """Return `function(*arguments)`, both as JSON values; the function is found by the name of its module.

        Raises:
            UserError: the function raised it.
            ChildDiedError: the child died, ran out of memory or time; `about` names the file.
            ChildFaultError: the function raised anything else.
        """
        module = function.__module__
        self.start()
        try:
            if module not in self._imported:  # which may take longer than a call, and reads no foreign file
                self._send([module, "", []])
                self._line(_STARTING)
                self._imported.add(module)
            self._send([module, function.__qualname__, list(arguments)])
            line = self._line(self.seconds)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.close()
            raise ChildDiedError(
                f"{about} was not read after {self.seconds:g} s; it is damaged or made to stall: leave it out"
            )
        if not line:
            raise self._died(about)
        kind, value = json.loads(line)
        if kind == "result":
            return value
        if kind == "refused":
            raise UserError(value)
        if kind == "memory":
            self.close()  # what a failed allocation left behind is not worth guessing
            raise ChildDiedError(
                f"{about} asks for more than {self.memory >> 20} MB of memory; it is damaged: leave it out"
            )
        raise ChildFaultError(f"{function.__qualname__} on {about}:\n{value}")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        self._imported.clear()
        if process is None:
            return
        os.close(self._ask)
        os.close(self._reply)
        process.kill()
        process.wait()

    def _send(self, value: Any) -> None:
        content = memoryview(json.dumps(value).encode() + b"\n")
        while content:
            content = content[os.write(self._ask, content) :]

    def _line(self, seconds: float) -> bytes | None:
        """Return the reply's line, empty where the child is gone, None where it did not come in time."""
        until, parts, size = time.monotonic() + seconds, list[bytes](), 0
        while True:
            if not select.select([self._reply], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            part = os.read(self._reply, 1 << 16)
            parts.append(part)
            size += len(part)
            if not part or size > LARGEST_REPLY:
                return b""
            if part.endswith(b"\n"):
                return b"".join(parts)

    def _died(self, about: object) -> ChildDiedError:
        process = self._process
        assert process is not None, "start has run"
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:  # a reply that was too long
            code = 0
        self.close()
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return ChildDiedError(
            f"{about} ended the process that was reading it ({cause}): it is damaged in a way that the library under it does"
            " not survive. Leave it out, or copy it again"
        )


def serve(ask: int, reply: int, memory: int) -> None:
    """The child's main program: answer calls until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with os.fdopen(ask, "rb") as questions, os.fdopen(reply, "wb") as answers:
        sys.path[:] = json.loads(questions.readline())
        for line in questions:
            module, name, arguments = json.loads(line)
            answers.write(json.dumps(_answer(module, name, arguments, memory)).encode() + b"\n")
            answers.flush()


def _answer(module: str, name: str, arguments: list[Any], memory: int) -> tuple[str, Any]:
    try:
        found = importlib.import_module(module)
        if not name:
            return "result", None
        function = getattr(found, name)
        _limit(memory)
        return "result", json.loads(json.dumps(function(*arguments)))
    except UserError as error:
        return "refused", str(error)
    except MemoryError:
        return "memory", ""
    except Exception:  # noqa: BLE001  it travels to the parent, which raises it
        return "fault", traceback.format_exc()[-4000:]


def _limit(memory: int) -> None:
    """Allow `memory` bytes beyond what is mapped now; without effect where the system cannot tell."""
    if sys.platform != "linux":
        return
    import resource
    from pathlib import Path

    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
