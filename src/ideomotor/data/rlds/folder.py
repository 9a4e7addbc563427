"""Where an RLDS dataset lies: its folder, its version, its splits and their shards.

`<name>[/<config>]/<version>/{features.json, dataset_info.json, <name>-<split>.tfrecord-00000-of-00001}`. Surprises: integers in the JSON
files are strings; people rename folders and shards, copy some of the shards, and leave out either JSON file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Reading

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MARKS = ("features.json", "dataset_info.json", "*.tfrecord*")  # of a folder that holds a dataset
_DEEPEST = 3  # folders below the one that was given
_MOST_SHARDS = 1 << 20
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")
_SHARD = re.compile(r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord(-(?P<number>\d+)-of-(?P<count>\d+))?(\.gz)?")


@dataclass(frozen=True)
class Split:
    """Some of the episodes, under a name."""

    name: str
    shards: tuple[tuple[Path, int | None], ...]  # and how many records each is said to hold


@dataclass(frozen=True)
class Folder:
    """A dataset on disk."""

    path: Path
    name: str
    version: str
    splits: tuple[Split, ...]
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> Path | None:
        """The file that declares the features, if there is one."""
        path = self.path / "features.json"
        return path if path.is_file() else None


def read_folder(path: Path, reading: Reading) -> Folder:
    """Find the dataset at `path` or below it, and its shards.

    Raises:
        UserError: there is none, or several; or shards are missing and `reading.salvage` is not set.
    """
    folder, notes = _find(path, reading.version)
    file = folder / "dataset_info.json"
    found = _stated(folder, files.read_json(file)) if file.is_file() else _listed(folder)
    if reading.version and found.version not in ("", reading.version) and folder.name != reading.version:
        raise UserError(
            f"{folder} is version {found.version}, not {reading.version}; leave --version out, or name that one"
        )
    kept: list[Split] = []
    for split in found.splits:
        absent = [shard for shard, _ in split.shards if not shard.is_file()]
        if absent and not reading.salvage:
            raise UserError(
                f"shard {absent[0]} is missing, as {len(absent)} of {len(split.shards)} are; copy all shards that"
                " dataset_info.json lists, or read those that are there with --salvage"
            )
        if absent:
            notes.append(f"{len(absent)} of {len(split.shards)} shards of '{split.name}' are missing: {_few(absent)}")
        kept.append(Split(split.name, tuple(shard for shard in split.shards if shard[0] not in set(absent))))
    return Folder(folder, found.name, found.version, tuple(kept), (*notes, *found.notes))


def _find(path: Path, version: str) -> tuple[Path, list[str]]:
    """Return the folder of the version that is asked for, or else of the highest one, and what to say about it."""
    for depth in range(_DEEPEST + 1):
        marks = {hit.parent for mark in _MARKS for hit in path.glob("*/" * depth + mark)}
        folders = sorted(folder for folder in marks if not _passed_over(folder.relative_to(path)))
        if folders:
            break
    else:
        raise UserError(
            f"{path} holds neither features.json nor *.tfrecord* files (searched three folders deep); give the folder of an"
            " RLDS dataset"
        )
    if len(folders) == 1 and not version:
        return folders[0], []
    datasets = sorted({folder.parent for folder in folders if folder != path})
    versions = {folder.name: folder for folder in folders if _VERSION.fullmatch(folder.name)}
    if len(datasets) > 1:
        raise UserError(f"{path} holds several RLDS datasets: {_few(datasets)}; give one of them")
    if version and (versions or folders[0].name == version):
        if version not in versions:
            raise UserError(f"{path} has no version '{version}'; it has {', '.join(sorted(versions, key=_order))}")
        return versions[version], []
    if len(folders) == 1:
        return folders[0], []
    if len(versions) < len(folders):
        raise UserError(f"{path} holds several RLDS datasets: {_few(folders)}; give one of them")
    highest = max(versions, key=_order)
    return versions[highest], [
        f"of the versions {', '.join(sorted(versions, key=_order))} the highest is read, {highest}; --version takes another"
    ]


def _passed_over(folder: Path) -> bool:
    """Whether it holds indices, or what TFDS had not finished."""
    return any(part.startswith(".") or ".incomplete" in part for part in folder.parts)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _stated(folder: Path, info: Mapping[str, Any]) -> Folder:
    """Return what dataset_info.json says; shards that it does not list are looked for."""
    form = info.get("fileFormat") or "tfrecord"
    if form != "tfrecord":
        raise UserError(
            f"{folder} stores its records as {form}; tfrecord is read. Convert it with TFDS (`file_format=`)"
        )
    name, version, stated = info.get("name"), str(info.get("version") or ""), info.get("splits", [])
    if not isinstance(name, str) or not isinstance(stated, list):
        raise UserError(f"{folder / 'dataset_info.json'} states no name and list of splits; copy it again")
    splits, notes = list[Split](), list[str]()
    for split in stated:
        if not isinstance(split, dict) or not isinstance(split.get("name"), str):
            raise UserError(f"{folder / 'dataset_info.json'} has a split without a name; copy it again")
        lengths = split.get("shardLengths")
        shards = _by_template(folder, name, split, lengths) if lengths else _by_name(folder, name, split["name"])
        if lengths and not any(shard.is_file() for shard, _ in shards):
            renamed = _by_name(folder, None, split["name"])
            if len(renamed) == len(shards):
                notes.append(f"the shards of '{split['name']}' were renamed to {renamed[0][0].name}, ...")
                shards = [(path, stated) for (path, _), (_, stated) in zip(renamed, shards, strict=True)]
        splits.append(Split(split["name"], tuple(shards)))
    return Folder(folder, name, version, tuple(splits) or _listed(folder).splits, tuple(notes))


def _by_template(folder: Path, name: str, split: Mapping[str, Any], lengths: Any) -> list[tuple[Path, int | None]]:
    template, count = split.get("filepathTemplate") or TEMPLATE, len(lengths)
    if not isinstance(lengths, list) or not isinstance(template, str) or count > _MOST_SHARDS:
        raise UserError(f"{folder / 'dataset_info.json'} lists no shards for '{split['name']}'; copy it again")
    shards: list[tuple[Path, int | None]] = []
    for x, length in enumerate(lengths):
        text = template
        parts = {"DATASET": name, "SPLIT": split["name"], "FILEFORMAT": "tfrecord", "SHARD_INDEX": f"{x:05d}"}
        parts |= {"NUM_SHARDS": f"{count:05d}", "SHARD_X_OF_Y": f"{x:05d}-of-{count:05d}"}
        for part, value in parts.items():
            text = text.replace("{" + part + "}", value)
        if Path(text).name != text or "\0" in text or len(text) > 255:  # datasets come from strangers
            raise UserError(
                f"{folder / 'dataset_info.json'} names the shard '{text[:80]}', which lies outside of its folder"
            )
        if not str(length).isascii() or not str(length).isdigit() or len(str(length)) > 18:
            raise UserError(f"{folder / 'dataset_info.json'} states {str(length)[:40]!r} records; copy it again")
        path, packed = folder / text, folder / f"{text}.gz"
        shards.append((packed if packed.is_file() and not path.is_file() else path, int(str(length))))
    return shards


def _by_name(folder: Path, name: str | None, split: str) -> list[tuple[Path, int | None]]:
    """Return the shards of a split by their file names, in order; missing numbers are in the list too."""
    numbered: dict[int, Path] = {}
    count = 0
    for path in sorted(folder.iterdir()):
        parts = _SHARD.fullmatch(path.name)
        if parts and parts["split"] == split and name in (None, parts["name"]):
            number, count = int(parts["number"] or 0), max(count, int(parts["count"] or 1))
            if number in numbered or count > _MOST_SHARDS:
                raise UserError(
                    f"{folder} holds shards of several datasets: {numbered.get(number, path)}, {path}; keep one"
                )
            numbered[number] = path
    first = next(iter(numbered.values()), None)
    return [
        (numbered.get(x, first.with_name(re.sub(r"\d+(-of-\d+)", rf"{x:05d}\1", first.name))), None)
        for x in range(count)
        if first is not None
    ]


def _listed(folder: Path) -> Folder:
    """Return what the file names say, where dataset_info.json is absent."""
    paths = [path for path in sorted(folder.glob("*.tfrecord*")) if path.is_file()]
    named = [parts for path in paths if (parts := _SHARD.fullmatch(path.name))]
    version = folder.name if _VERSION.fullmatch(folder.name) else ""
    note = f"{folder} has no dataset_info.json: the shards are those that lie there"
    if not paths:
        raise UserError(f"{folder} holds no *.tfrecord* files; copy the shards of the dataset")
    if len(named) < len(paths):  # other names: one split of all files
        shards = tuple((path, None) for path in paths)
        return Folder(folder, folder.name, version, (Split("train", shards),), (note,))
    names = sorted({parts["name"] for parts in named})
    if len(names) > 1:
        raise UserError(f"{folder} holds shards of several datasets: {', '.join(names)}; keep one in the folder")
    splits = [Split(name, tuple(_by_name(folder, names[0], name))) for name in sorted({p["split"] for p in named})]
    return Folder(folder, names[0], version, tuple(splits), (note,))


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
