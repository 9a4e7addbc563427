"""What a dataset holds, in numbers: the content of `ideomotor data info`, over any format."""

from collections import Counter
from pathlib import Path
from typing import Any

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.data.dataset import ACTION, STATE, Dataset, Noted
from ideomotor.data.statistics import training_statistics


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return plain JSON values; what the dataset does not say is null."""
    episodes = range(len(dataset))
    instructions = Counter(dataset.instruction(episode) for episode in episodes)
    return {
        "path": str(dataset.path),
        "format": dataset.format,
        "episodes": len(dataset),
        "frames": sum(dataset.length(episode) for episode in episodes),
        "fps": dataset.fps,
        "cameras": {role: {"height": c.height, "width": c.width} for role, c in dataset.cameras.items()},
        "features": {name: {"dtype": f.dtype, "shape": list(f.shape)} for name, f in dataset.features.items()},
        "instructions": dict(instructions.most_common()),
        "success": dict(Counter(dataset.success(episode) for episode in episodes)),
        "embodiment": jsonable.to_json(dataset.embodiment),
        "splits": {name: {"first": split.start, "episodes": len(split)} for name, split in dataset.splits.items()},
        "constant_columns": _constant_columns(dataset),
        "bytes": sum(path.stat().st_size for path in [dataset.path, *dataset.path.rglob("*")] if path.is_file()),
        "content_hash": dataset.content_hash,
        "notes": [*(dataset.notes if isinstance(dataset, Noted) else ()), *_meaning(dataset)],
    }


def _meaning(dataset: Dataset) -> list[str]:
    """Return what is known of the numbers beside the dataset: its record of Open X-Embodiment, or that nobody says."""
    from ideomotor.data.openx.standardized import record_for

    record = record_for(dataset)
    if record is not None:
        return [
            f"Open X-Embodiment record '{record.name}': training reads state {record.formulas[0]}, action {record.formulas[1]}",
            *([f"dropped: {record.drops}"] if record.drops else []),
            *record.notes,
            *(f"open question: {question}" for question in record.questions),
        ]
    if dataset.embodiment is None:
        return [
            "nothing says what the numbers mean, and training will ask: `ideomotor data guess` writes a guess to correct"
        ]
    return []


def describe_text(description: dict[str, Any]) -> str:
    """Return the description as lines for people."""
    embodiment = description["embodiment"]
    instructions = list(description["instructions"].items())
    shown = [f"  {count:5} x {printable(text)}" for text, count in instructions[:10]]
    if len(instructions) > len(shown):
        shown.append(f"  and {len(instructions) - len(shown)} more")
    cameras = ", ".join(f"{role} {c['width']} x {c['height']}" for role, c in description["cameras"].items())
    splits = ", ".join(f"{name}: {split['episodes']}" for name, split in description["splits"].items())
    columns = ", ".join(f"{name}{feature['shape']}" for name, feature in description["features"].items())
    lines = [
        f"{Path(description['path']).name}: {description['format']}, {description['bytes'] / 1e6:.1f} MB",
        f"episodes    {description['episodes']} ({', '.join(f'{n} {label}' for label, n in description['success'].items())})",
        f"frames      {description['frames']} at {description['fps'] or 'an unknown number of'} frames/s",
        f"cameras     {cameras or 'none'}",
        f"embodiment  {embodiment['name'] + ' (' + embodiment['robot'] + ')' if embodiment else 'not stated'}",
        f"splits      {splits or 'none'}",
        f"constant    {', '.join(description['constant_columns']) or 'no column'}",
        f"columns     {columns}",
        *(f"note        {printable(note)}" for note in description["notes"]),
        f"instructions ({len(instructions)})",
        *shown,
    ]
    return "\n".join(lines)


def printable(text: str) -> str:
    r"""Return a foreign string without what would steer a terminal.

    >>> printable("pick\x1b[2J it")
    'pick?[2J it'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _constant_columns(dataset: Dataset) -> list[str]:
    """Name the channels of state and action that never change in the training split."""
    try:
        statistics = training_statistics(dataset)
    except UserError:  # no frames, or values that are not finite: `data check` says which
        return []
    return [
        f"{name}[{channel}]{_channel_name(dataset, name, channel)}"
        for name, summary in statistics.columns.items()
        for channel in summary.constant
    ]


def _channel_name(dataset: Dataset, column: str, channel: int) -> str:
    embodiment = dataset.embodiment
    channels = {STATE: embodiment.state, ACTION: embodiment.action}[column] if embodiment else ()
    return f" {channels[channel].name}" if channel < len(channels) else ""
