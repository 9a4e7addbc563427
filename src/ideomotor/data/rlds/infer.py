"""The features of an RLDS dataset without a features.json, from one of its records.

Surprises: a record holds flat lists, so a shape has no more than one axis, and a list with one value a step is a scalar; what is
called `is_...` is a boolean, other integers are int64. Strings are pictures or text by their first bytes.
"""

from collections.abc import Mapping

from ideomotor.core.errors import UserError
from ideomotor.data.images import JPEG_MAGIC, PNG_MAGIC
from ideomotor.data.rlds.example import Feature, Strings
from ideomotor.data.rlds.features import DEEPEST_SEQUENCE, Features, Leaf

_COUNTERS = ("steps/is_first", "steps/is_last", "steps/is_terminal")
_VALUES = "/ragged_flat_values"
_LENGTHS = "/ragged_row_lengths_"
_BITS, _COLOURS = 24, 25  # bytes of a PNG's header: bits a channel, type of colour (PNG specification, 11.2.1)
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by type of colour


def infer_features(parsed: Mapping[str, Feature], payload: memoryview) -> Features | None:
    """Return the features of a record, None where the episode is empty and shows nothing.

    Raises:
        UserError: the record is no episode.
    """
    if not any(key.startswith("steps/") for key in parsed):
        raise UserError(
            f"a record holds no steps/..., only {', '.join(sorted(parsed)[:8]) or 'nothing'}; it is no episode"
        )
    steps = _num_steps(parsed)
    if not steps:
        return None
    found: list[Leaf | str] = []
    for key in sorted(parsed):
        if _LENGTHS not in key:
            lengths = _row_lengths(parsed, key.removesuffix(_VALUES)) if key.endswith(_VALUES) else []
            found.append(_leaf(key, parsed[key], payload, steps, lengths))
    leaves = [leaf for leaf in found if isinstance(leaf, Leaf)]
    return Features(
        tuple(leaf for leaf in leaves if leaf.key.startswith("steps/")),
        tuple(leaf for leaf in leaves if not leaf.key.startswith("steps/")),
        tuple(text for text in found if isinstance(text, str)),
    )


def _leaf(key: str, values: Feature, payload: memoryview, steps: int, lengths: list[int]) -> Leaf | str:
    """Return the leaf of one key; `lengths` are the sums of its row lengths, outermost first."""
    name, inside = key.removesuffix(_VALUES), key.startswith("steps/")
    if values is None or not len(values):
        return f"'{name}' is not read: the first record holds no value of it, and no features.json says what it is"
    items = lengths[-1] if lengths else steps if inside else len(values)
    if not items or len(values) % items or len(lengths) >= DEEPEST_SEQUENCE:
        return f"'{name}' is not read: its {len(values)} values do not go into {items} items"
    rows = 1 if inside or lengths or len(values) > 1 else 0
    levels = (-1,) * (rows + len(lengths))
    shape = () if len(values) == items else (len(values) // items,)
    if isinstance(values, Strings):
        first = next((text for text in values.of(payload) if text), b"")
        if first.startswith((JPEG_MAGIC, PNG_MAGIC)) and not shape:
            return Leaf(name, "picture", *_picture(first), "none", levels)
        return Leaf(name, "text", "string", shape, "none", levels)
    if values.dtype.kind == "f":
        return Leaf(name, "number", "float32", shape, "none", levels)
    is_bool = name.rpartition("/")[2].startswith("is_") and bool(((values == 0) | (values == 1)).all())
    return Leaf(name, "number", "bool" if is_bool else "int64", shape, "none", levels)


def _num_steps(parsed: Mapping[str, Feature]) -> int:
    """Return the number of steps: of a flag that every episode has, else of the first list of strings."""
    for key in _COUNTERS:
        values = parsed.get(key)
        if values is not None:
            return len(values)
    for key, values in sorted(parsed.items()):
        if key.startswith("steps/") and isinstance(values, Strings) and not key.endswith(_VALUES):
            return len(values)
    raise UserError("a record has neither steps/is_first nor text or pictures, so its number of steps is unknown")


def _row_lengths(parsed: Mapping[str, Feature], name: str) -> list[int]:
    """Return the number of items at each level of a ragged feature."""
    sums: list[int] = []
    while (lengths := parsed.get(f"{name}{_LENGTHS}{len(sums)}")) is not None:
        if isinstance(lengths, Strings):
            raise UserError(f"the lengths of '{name}' are no numbers")
        sums.append(int(lengths.sum()))
    return sums


def _picture(first: bytes) -> tuple[str, tuple[int, ...]]:
    """Return dtype and shape of the pictures that begin so."""
    if not first.startswith(PNG_MAGIC) or len(first) <= _COLOURS:
        return "uint8", (-1, -1, 3)
    return ("uint16" if first[_BITS] == 16 else "uint8"), (-1, -1, _CHANNELS.get(first[_COLOURS], 3))
