"""Names of columns and cameras that other tools do not misread, by a rule that can be undone.

1. What no name may hold is written as `%` and two hexadecimal digits a byte, as in web addresses: `%`, slashes, and what cannot be printed.
   The word `image` in the name of a column becomes `im%61ge`: lerobot expects statistics of an image wherever it reads that word.
2. A column whose name would be taken for something else gets the prefix `raw.`: lerobot feeds every column that begins with `observation`
   or `action` to the policy, GR00T reads every one that begins with `annotation`, and some columns are written anyway.

`meta/names.json` of a converted dataset lists every name that changed, and the shape of each column that had to be flattened.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.lerobot.episode import IMAGE_PREFIX
from ideomotor.data.lerobot.info import AUTOMATIC

RAW = "raw."
NAMES_PATH = "meta/names.json"
_EMPTY = "%"  # a camera without a name; a percent sign of a name is always followed by two digits


def legal(name: str) -> str:
    """Return the name of a column in a LeRobotDataset.

    >>> [legal(name) for name in ("action", "reward", "action.rotation", "observation.image_mask", "a/b", "index")]
    ['action', 'reward', 'raw.action.rotation', 'raw.observation.im%61ge_mask', 'a%2Fb', 'raw.index']
    """
    safe = _escaped(name).replace("image", "im%61ge")
    return RAW + safe if _misread(name) else safe


def original(name: str) -> str:
    """Undo `legal`.

    >>> original("raw.observation.im%61ge_mask")
    'observation.image_mask'
    """
    return _unescaped(name.removeprefix(RAW))


def legal_camera(role: str) -> str:
    """Return the name of a camera's column in a LeRobotDataset.

    >>> legal_camera("image_0"), legal_camera("left/wrist")
    ('observation.images.image_0', 'observation.images.left%2Fwrist')
    """
    safe = _escaped(role) or _EMPTY
    if safe.startswith("observation."):  # readers cut this off
        safe = "%6F" + safe[1:]
    return IMAGE_PREFIX + safe


def original_camera(key: str) -> str:
    """Undo `legal_camera`."""
    safe = key.removeprefix(IMAGE_PREFIX)
    return "" if safe == _EMPTY else _unescaped(safe)


def _misread(name: str) -> bool:
    if name in (STATE, ACTION):
        return False
    return (
        name in (*AUTOMATIC, "task")
        or name.startswith(("observation", "action", "annotation", RAW))
        or not (name[:1].isascii() and name[:1].isalpha())
    )


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() and c not in "%/\\" else _percent(c) for c in text)


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


def _unescaped(text: str) -> str:
    def letters(match: re.Match[str]) -> str:
        return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")

    return re.sub(r"(?:%[0-9A-F]{2})+", letters, text)


@dataclass(frozen=True)
class OriginalColumn:
    """A column as it was before the conversion."""

    name: str
    shape: tuple[int, ...]
    form: Literal["same", "json"] = (
        "same"  # "json": each frame is a text of JSON (texts of more than one axis, ragged numbers)
    )
    dtype: str = ""  # of what the JSON holds
    plain: bool = False  # the values had this shape: `(frames,)` of one number a frame, else `(frames, *shape)`


@dataclass(frozen=True)
class Names:
    """What is under another name, or in another shape, than in the dataset that was converted."""

    source: str  # its format
    columns: Mapping[str, OriginalColumn]  # by the name here
    cameras: Mapping[str, str]  # original role by the role here

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the rule for people."""
        return {
            "rule": "%XX is a byte of UTF-8; the prefix 'raw.' keeps other tools from taking a column for something else",
            "source": self.source,
            "columns": {name: jsonable.to_json(column) for name, column in self.columns.items()},
            "cameras": dict(self.cameras),
        }


def read_names(root: Path) -> Names | None:
    """Return `meta/names.json`, None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = root / NAMES_PATH
    if not path.is_file():
        return None
    value = files.read_json(path)
    columns, cameras = value.get("columns", {}), value.get("cameras", {})
    if not isinstance(columns, dict) or not isinstance(cameras, dict):
        raise UserError(
            f"{path}: `columns` and `cameras` should be objects; restore it, or remove it to go without old names"
        )
    return Names(
        source=str(value.get("source", "")),
        columns={
            name: jsonable.from_json(OriginalColumn, column, f"{path}: {name}")
            for name, column in cast("dict[str, Any]", columns).items()
        },
        cameras={name: str(role) for name, role in cast("dict[str, Any]", cameras).items()},
    )
