"""Reading the text files of a policy's folder; what is wrong with them is said to the user."""

import json
from pathlib import Path
from typing import Any

from ideomotor.core.errors import UserError


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        UserError: it is none.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); take the file from the checkpoint again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: it is none.
    """
    try:
        value: Any = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); take the file from the checkpoint again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object; take the file from the checkpoint again")
    return dict(value)
