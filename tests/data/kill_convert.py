"""Kill a conversion at every one of its writes (or every n-th), start it again, and print a hash of what it ends with.

Run as a program: kill_convert.py FOLDER TARGET EVERY --video or ""; prints one line for each kill: its number, whether the target was
there, what lies in the folder after the second start, and a hash of it.
"""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))
from odd_source import OddSource

from ideomotor.data.convert.job import convert


class SmallSource(OddSource):
    """What a conversion treats differently, once each."""

    features: ClassVar = {name: OddSource.features[name] for name in ("action", "note", "boxes")}
    cameras: ClassVar = {"image_0": OddSource.cameras["image_0"]}


def killing(original: Callable[..., Any], countdown: list[int]) -> Callable[..., Any]:
    """Wrap a call that changes the disk, so that the process dies before the n-th such call."""

    def call(*args: Any, **keywords: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **keywords)

    return call


def run(out: Path, target: Any, *, video: bool, kill_at: int | None) -> bool:
    """Convert in a child; return whether it was killed."""
    child = os.fork()
    if child == 0:
        if kill_at is not None:
            countdown = [kill_at]
            for name in ("replace", "unlink", "write_bytes", "rmdir"):
                setattr(Path, name, killing(getattr(Path, name), countdown))
            shutil.rmtree = killing(shutil.rmtree, countdown)
        code = 1
        try:
            source: Any = SmallSource((2, 0, 3, 1))
            convert(source, out, target, video=video, progress=False)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def digest(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    content = b"".join(str(path.relative_to(folder)).encode() + path.read_bytes() for path in paths)
    return hashlib.sha256(content).hexdigest()


def main(root: Path, target: str, every: int, *, video: bool) -> None:
    os.fsync = lambda descriptor: None  # what it protects from is a loss of power, not a kill
    kill_at, again = 0, True
    while again:
        kill_at += every
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        again = run(root / "out", target, video=video, kill_at=kill_at)
        there = (root / "out").exists()
        if not there:
            run(root / "out", target, video=video, kill_at=None)
        left = sorted(path.name for path in root.iterdir())
        sys.stdout.write(f"{kill_at} {there} {','.join(left)} {digest(root / 'out')}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), video=sys.argv[4] == "--video")
