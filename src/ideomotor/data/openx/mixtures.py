"""Named mixtures of datasets, as tables of weights, and what of them lies on a disk.

OpenVLA's weights count per frame: of the samples, dataset i gets the share p_i = w_i N_i / sum of w N over the datasets that are there,
where N_i are the frames of its training split (before DROID's idle steps are left out, as OpenVLA counts them). RT-X's count per
dataset: p_i = w_i / sum of w. One pass over a mixture is nominally the largest N_i / p_i among the datasets of weight exactly 1.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ideomotor.core.errors import UserError, unknown
from ideomotor.data.dataset import Dataset, Reading, training_episodes
from ideomotor.data.opening import AS_IT_IS, open_dataset
from ideomotor.data.openx.record import Record
from ideomotor.data.openx.records import ALIASES, CONVERTED, record_of
from ideomotor.data.openx.standardized import record_for

LARGEST_FILE = 1 << 20  # [bytes] of a mixture that a user writes
LARGEST_WEIGHT = 1e12


@dataclass(frozen=True)
class Part:
    """One dataset of a mixture."""

    name: str  # of the folder below the root of the data, and of the record
    weight: float  # relative to the others
    path: str = ""  # where the folder is called otherwise: absolute, or below the root


@dataclass(frozen=True)
class NamedMixture:
    """Datasets and their weights."""

    name: str
    parts: tuple[Part, ...]
    source: str = ""
    per: Literal["frame", "dataset"] = "frame"  # what a weight counts for


@dataclass(frozen=True)
class Row:
    """What a mixture's table says of one dataset."""

    name: str
    weight: float
    path: Path | None  # its folder, None where there is none
    frames: int = 0  # of the training split, in the standard form
    share: float = 0.0  # of the samples
    missing: str = ""  # why it is not there; empty: it is


def _parts(weights: Mapping[str, float]) -> tuple[Part, ...]:
    return tuple(Part(name, weight) for name, weight in weights.items())


OPENVLA_FIRST: Mapping[str, float] = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 1.0,
    "language_table": 0.1,
    f"stanford_hydra_dataset{CONVERTED}": 2.0,
    f"austin_buds_dataset{CONVERTED}": 1.0,
    f"nyu_franka_play_dataset{CONVERTED}": 3.0,
    f"furniture_bench_dataset{CONVERTED}": 0.1,
    f"ucsd_kitchen_dataset{CONVERTED}": 2.0,
    f"austin_sailor_dataset{CONVERTED}": 1.0,
    f"austin_sirius_dataset{CONVERTED}": 1.0,
    f"dlr_edan_shared_control{CONVERTED}": 1.0,
    f"iamlab_cmu_pickup_insert{CONVERTED}": 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
    "bc_z": 0.2,
    "fmb_dataset": 1.0,
    "dobbe": 0.2,
    "droid": 0.06,
}
OPENVLA_LAST: Mapping[str, float] = {
    name: 1.0 if name == "fractal20220817_data" else weight
    for name, weight in OPENVLA_FIRST.items()
    if name not in ("language_table", "droid")
}
RTX_EXAMPLE: Mapping[str, float] = {
    "fractal20220817_data": 150.0,
    "bridge": 50.0,
    "taco_play": 5.0,
    "jaco_play": 20.0,
    "berkeley_cable_routing": 20.0,
    "roboturk": 10.0,
    "nyu_door_opening_surprising_effectiveness": 5.0,
    "viola": 3.0,
    "berkeley_autolab_ur5": 5.0,
    "toto": 5.0,
}
RTX: Mapping[str, float] = {**RTX_EXAMPLE, "kuka": 20.0, "language_table": 30.0}

MIXTURES: Mapping[str, NamedMixture] = {
    mixture.name: mixture
    for mixture in (
        NamedMixture("openvla-first", _parts(OPENVLA_FIRST), "OpenVLA's first stage (arXiv 2406.09246)"),
        NamedMixture("openvla-last", _parts(OPENVLA_LAST), "OpenVLA's last stage, without language_table and droid"),
        NamedMixture("rtx", _parts(RTX), "RT-X (arXiv 2310.08864), weights of its public training example", "dataset"),
        NamedMixture(
            "rtx-example", _parts(RTX_EXAMPLE), "those of RT-X that its public training example maps", "dataset"
        ),
    )
}


def load_mixture(name_or_file: str | Path) -> NamedMixture:
    """Return a mixture by its name, or from a user's JSON file: {dataset: weight or {"weight": .., "path": ..}}.

    Raises:
        UserError: no such name or file, or a file that says something else.
    """
    if str(name_or_file) in MIXTURES:
        return MIXTURES[str(name_or_file)]
    path = Path(name_or_file)
    if not path.is_file():
        if path.suffix == ".json" or path.exists():
            raise UserError(f"{path} is no file; give a mixture's JSON file, or one of {', '.join(MIXTURES)}")
        raise unknown("mixture", str(name_or_file), MIXTURES)
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has {path.stat().st_size} bytes; a mixture has at most {LARGEST_FILE}")
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); it should be like {EXAMPLE}") from error
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path} should hold an object with a dataset or more; it should be like {EXAMPLE}")
    return NamedMixture(
        path.stem, tuple(_read_part(path, str(name), entry) for name, entry in value.items()), str(path)
    )


EXAMPLE = '{"bridge_orig": 1.0, "mine": {"weight": 2.0, "path": "folder/of/mine"}}'


def _read_part(file: Path, name: str, entry: Any) -> Part:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {"weight": entry}
    weight, path = fields.get("weight"), fields.get("path", "")
    if set(fields) - {"weight", "path"} or not isinstance(path, str) or not name:
        raise UserError(f"{file}, '{name}' is {entry!r}; write a weight, or a weight and a path, as in {EXAMPLE}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= LARGEST_WEIGHT:
        raise UserError(
            f"{file}, '{name}' has the weight {weight!r}; weights are positive numbers up to 1e12, as in {EXAMPLE}"
        )
    return Part(name, float(weight), path)


def mixture_table(mixture: NamedMixture, data_root: Path, reading: Reading = AS_IT_IS) -> tuple[Row, ...]:
    """Look for each dataset of a mixture below a folder, and work out the shares of those that are there.

    Raises:
        UserError: a dataset is there, but cannot be read: what fails to load is never passed over.
    """
    return with_shares([_row(part, data_root, reading) for part in mixture.parts], mixture.per)


def with_shares(rows: Sequence[Row], per: Literal["frame", "dataset"]) -> tuple[Row, ...]:
    """Return the rows with their shares: of w N, or of w, among those that are not missing."""
    sizes = [0.0 if row.missing else row.weight * (row.frames if per == "frame" else 1) for row in rows]
    total = sum(sizes) or 1.0
    return tuple(replace(row, share=size / total) for row, size in zip(rows, sizes, strict=True))


def nominal_length(rows: Sequence[Row]) -> int | None:
    """Return the frames of one nominal pass: the largest N / p among weights of exactly 1; None where there are none."""
    lengths = [row.frames / row.share for row in rows if row.weight == 1.0 and row.share > 0]
    return round(max(lengths)) if lengths else None


def _row(part: Part, data_root: Path, reading: Reading) -> Row:
    folder = _folder(part, data_root)
    if folder is None:
        known = record_of(part.name) is not None or part.path
        return Row(part.name, part.weight, None, missing="not on disk" + ("" if known else ", and no record of it"))
    dataset = open_dataset(folder, reading)
    record = record_for(dataset)
    if record is None and dataset.embodiment is None:
        return Row(part.name, part.weight, folder, missing="no record of it: nothing says what its numbers mean")
    frames = frames_of(dataset, record)
    return Row(part.name, part.weight, folder, frames, missing="" if frames else "its training split has no frames")


def frames_of(dataset: Dataset, record: Record | None) -> int:
    """Return the frames of the training split that remain after the steps that the record drops at both ends."""
    trim = sum(record.trim or (0, 0)) if record else 0
    return sum(max(0, dataset.length(episode) - trim) for episode in training_episodes(dataset))


def _folder(part: Part, data_root: Path) -> Path | None:
    names = [part.path] if part.path else [part.name, *(alias for alias, name in ALIASES.items() if name == part.name)]
    return next((data_root / name for name in names if (data_root / name).is_dir()), None)


def mixture_text(rows: Sequence[Row]) -> str:
    """Return the table for people."""
    width = max([len("dataset"), *(len(row.name) for row in rows)])
    lines = [f"{'dataset':{width}} {'frames':>12} {'weight':>14} {'share':>8}"]
    for row in rows:
        there = f"{row.frames:>12,}" if not row.missing else f"{'-':>12}"
        share = f"{100 * row.share:>7.2f}%" if not row.missing else f"{'-':>8}  missing: {row.missing}"
        lines.append(f"{row.name:{width}} {there} {row.weight:>14g} {share}")
    present = [row for row in rows if not row.missing]
    lines.append(
        f"{len(present)} of {len(rows)} datasets, {sum(row.frames for row in present):,} frames"
        + (f", one nominal pass {length:,} frames" if (length := nominal_length(rows)) else "")
    )
    return "\n".join(lines)
