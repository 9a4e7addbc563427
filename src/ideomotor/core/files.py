"""Write files so that a crash leaves the old version or the new one, never half of one; read what others wrote with suspicion."""

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ideomotor.core.errors import UserError

LARGEST_JSON = 256 << 20  # [bytes] a text file that is larger is no configuration, nor a tokenizer
LARGEST_NOTICE = 1 << 20  # [bytes]


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


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Let one process at a time in."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_small(path: Path, largest: int) -> bytes:
    """Return a file's content.

    Raises:
        UserError: it has more than `largest` bytes.
    """
    size = path.stat().st_size  # read(largest) would make room for all of it first
    if size > largest:
        raise UserError(f"{path} has {size:,} bytes; such a file has at most {largest:,}. Copy it again")
    with path.open("rb") as file:
        return file.read(size)


def read_text(path: Path) -> str:
    """Return a text file's content.

    Raises:
        UserError: it is no UTF-8, or far too large.
    """
    try:
        return read_small(path, LARGEST_JSON).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); mend the file, or copy it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, one that `write_json` can write again.

    Raises:
        UserError: it is none, or holds NaN, an infinite number or half a character.
    """
    try:
        value: Any = json.loads(read_text(path), parse_constant=_finite, parse_float=_finite)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); mend the file, or copy it again") from error
    except OverflowError as error:
        raise UserError(f"{path} holds {error}, which is no finite number; write a finite one there") from error
    except ValueError as error:  # a whole number of more digits than Python reads
        raise UserError(f"{path} is not JSON ({error}); mend the file, or copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object; mend the file, or copy it again")
    refuse_half_characters(value, str(path))
    return dict(value)


def refuse_half_characters(value: Any, where: str) -> None:
    """Refuse JSON that no UTF-8 file can hold: half of a surrogate pair, which JSON can write as an escape.

    Raises:
        UserError: it holds one.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds half of a surrogate pair ({error.reason}); mend the file, or copy it again"
        ) from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise OverflowError(text[:40])
    return number
