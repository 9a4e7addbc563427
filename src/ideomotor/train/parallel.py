"""Data-parallel processes: started, joined in a group, one flat all-reduce a step, and none left behind.

A rank is a fresh Python process with one thread and its own memory settings. On a CPU, two ranks of one thread are
faster than one rank of two threads (two threads in one process give about 1.4 times the speed of one, not 2).
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

import ideomotor
from ideomotor.core.errors import UserError

RANK_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # two threads on a shared machine meet at barriers and can be ten times slower
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",  # glibc: keep freed memory; without, a fifth of the time goes into page faults
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
ENDED_AT_REQUEST = 3  # exit code of a rank that saved and stopped because it was asked to
ENDED_WITH_MESSAGE = 4  # exit code of a rank that wrote its error for the user to the error file
ENDED_ALONE = 5  # exit code of a rank whose group fell apart
TO_NOTICE = 2.0  # [s] until the other ranks are killed when one has failed


class LostRankError(RuntimeError):
    """Another process of the group is gone; it, or the one that started both, tells why."""


class InterruptedRunError(UserError):
    """The run was asked to stop; it saved itself and can be continued."""


@dataclass(frozen=True)
class Group:
    """The processes that train together."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints and saves."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all ranks, which is the same to the bit on each of them."""
        if self.world > 1:
            with _together():
                dist.all_reduce(tensor)

    def agree(self, value: float) -> float:
        """Return rank 0's `value` on every rank."""
        if self.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        with _together():
            dist.broadcast(tensor, src=0)
        return float(tensor[0])

    def wait(self) -> None:
        """Wait until every rank has come here."""
        if self.world > 1:
            with _together():
                dist.barrier()


@contextlib.contextmanager
def _together() -> Generator[None, None, None]:
    """Tell a group that fell apart from other errors; gloo knows no kinds of errors."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(str(error)) from error


@contextlib.contextmanager
def joined(rank: int, world: int, store: Path) -> Generator[Group, None, None]:
    """Join the group that meets at the file `store`; leave it at the end."""
    torch.set_num_threads(1)
    if world == 1:
        yield Group()
        return
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        yield Group(rank, world)
    finally:
        dist.destroy_process_group()


def launch(module: str, arguments: list[str], world: int) -> None:
    """Run `python -m module *arguments RANK WORLD STORE ERRORS` as `world` ranks and wait for all of them.

    The first Ctrl-C (or SIGTERM) asks the ranks to finish their step and save, a second one ends them at once.

    Raises:
        UserError: a rank ended with an error, or was killed.
        InterruptedRunError: the ranks stopped because they were asked to.
    """
    root = str(Path(ideomotor.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    environment = os.environ | RANK_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory(prefix="ideomotor-") as folder:
        store, errors = Path(folder) / "store", Path(folder) / "errors"
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(rank), str(world), str(store), f"{errors}-{rank}"],
                env=environment,
                stdin=subprocess.PIPE,  # closes when this process dies, by whatever death: see `die_with_parent`
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on
            )
            for rank in range(world)
        ]
        try:
            with _passing_signals_on(ranks):
                codes = _wait(ranks)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
                if rank.stdin is not None:
                    rank.stdin.close()
        _raise_for(codes, [Path(f"{errors}-{rank}") for rank in range(world)])


def _wait(ranks: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return the exit codes; when one rank has failed, the others get a moment to notice and are then killed."""
    failed_at = 0.0
    while any(rank.poll() is None for rank in ranks):
        time.sleep(0.05)
        failed = any(rank.poll() not in (None, 0, ENDED_AT_REQUEST) for rank in ranks)
        failed_at = (failed_at or time.monotonic()) if failed else 0.0
        if failed and time.monotonic() - failed_at > TO_NOTICE:
            for rank in ranks:
                rank.kill()
    return [int(rank.returncode) for rank in ranks]


def _raise_for(codes: list[int], errors: list[Path]) -> None:
    for path in errors:
        if path.exists():
            raise UserError(path.read_text(encoding="utf-8"))
    if ENDED_AT_REQUEST in codes:
        raise InterruptedRunError("stopped as asked; everything is saved. Continue with the same command and --resume")
    causes = [code for code in codes if code not in (0, ENDED_ALONE)] or codes
    killed = [f"rank {rank} ({_ending(code)})" for rank, code in enumerate(codes) if code in causes and code]
    if killed:
        raise UserError(
            f"training processes ended early: {', '.join(killed)}; their output is above. Complete checkpoints are kept: "
            "continue with the same command and --resume"
        )


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (
        ", often for lack of memory: a smaller --batch needs less" if name == "SIGKILL" else ""
    )


@contextlib.contextmanager
def _passing_signals_on(ranks: list[subprocess.Popen[bytes]]) -> Generator[None, None, None]:
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface of signal handlers)
        nonlocal asked
        asked += 1
        for rank in ranks:
            if asked == 1:
                rank.send_signal(signal.SIGTERM)
            else:
                rank.kill()

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopRequest:
    """Whether this process was asked to stop, by SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as a request from now on."""

        def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the interface of signal handlers)
            self.received = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, note)


def die_with_parent() -> None:
    """End this process as soon as the one that started it is gone (its end of our standard input closes)."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
