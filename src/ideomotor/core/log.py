"""Append-only JSON-lines logs that survive a crash."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class JsonLines:
    """A log with one JSON object a line, flushed at each line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one object."""
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a last line cut off by a crash is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
