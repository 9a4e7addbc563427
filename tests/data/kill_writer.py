"""Kill a recording at every one of its writes; each time, look at what a reader and the next writer find.

Run as a program, so that it can fork before any thread is started. Prints one line for each kill: the write, the episodes that
were finished, those that a reader finds, and those that the next writer finds.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from recordings import EMBODIMENT, episode

from ideomotor.core.errors import UserError
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.opening import open_dataset

EPISODES = 3
FILE_SIZE = 15_000  # [bytes]: the first two episodes are joined while another is still to come


def killing(original: Callable[..., Any], countdown: list[int]) -> Callable[..., Any]:
    """Wrap a call that changes the disk, so that the process dies before the n-th such call (after the one before it)."""

    def call(*args: Any, **keywords: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **keywords)

    return call


def record(folder: Path, finished: int, kill_at: int) -> None:
    """The child: record, note each finished episode in a pipe, and die at the given write."""
    countdown = [kill_at]
    for name in ("replace", "unlink", "write_bytes", "rmdir"):
        setattr(Path, name, killing(getattr(Path, name), countdown))
    with DatasetWriter(folder, EMBODIMENT, file_size=FILE_SIZE) as writer:
        for index in range(writer.num_episodes, EPISODES):
            writer.add_episode(episode(index, 3 + index))
            os.write(finished, b".")


def killed(folder: Path, kill_at: int) -> tuple[bool, int]:
    """Return whether the child was killed, and how many episodes it had finished."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        record(folder, write, kill_at)
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    finished = len(os.read(read, 1000))
    os.close(read)
    return os.WIFSIGNALED(status), finished


def found(folder: Path) -> int:
    """Read everything a reader finds, and compare it with what was recorded."""
    try:
        dataset = open_dataset(folder)
    except UserError:
        return 0  # killed before there was a dataset
    for index in range(len(dataset)):
        expected = episode(index, 3 + index)
        assert dataset.length(index) == len(expected.steps)
        assert dataset.instruction(index) == expected.instruction
        for frame, step in enumerate(expected.steps):
            assert (dataset[index][frame]["action"] == step.action).all()
            assert (dataset.image(index, frame, "front") == step.observation.images["front"]).all()
    return len(dataset)


def main(folder: Path) -> None:
    os.fsync = lambda descriptor: None  # what it protects from is a loss of power, not a kill
    kill_at, again = 0, True
    while again:
        kill_at += 1
        shutil.rmtree(folder, ignore_errors=True)
        again, finished = killed(folder, kill_at)
        seen = found(folder)
        with DatasetWriter(folder, EMBODIMENT, file_size=FILE_SIZE) as writer:
            kept = writer.num_episodes
            for index in range(kept, EPISODES):
                writer.add_episode(episode(index, 3 + index))
        left = [
            path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".old")) or "recording" in path.name
        ]
        line = (kill_at, finished, seen, kept, found(folder), open_dataset(folder).content_hash, ",".join(left) or "-")
        sys.stdout.write(" ".join(map(str, line)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
