"""Write files so that a crash leaves the old version or the new one, never half of one."""

import contextlib
import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary name beside `path`; on success it is synced to disk and renamed to `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON (indent 2, UTF-8, no NaN) in one step."""
    write_bytes(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Generator[Path]:
    """Yield a temporary folder beside `folder`; on success it takes the place of `folder`, else it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        _sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
