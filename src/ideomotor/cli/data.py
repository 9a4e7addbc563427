"""`ideomotor data info|view|check|guess|convert|mixture|preview`: datasets of any readable format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, assert_never

import tyro
from tyro.conf import OmitArgPrefixes, Positional, subcommand

if TYPE_CHECKING:
    from ideomotor.data.dataset import Dataset


@dataclass(frozen=True)
class Read:
    """How to read."""

    salvage: bool = False
    """Of a damaged TFRecord shard, keep the records before the damage, and say what was lost."""
    version: str = ""
    """Which of several versions of an RLDS dataset in one folder; default: the highest."""
    colour: Literal["", "rgb", "bgr"] = ""
    """Order of the colours in ALOHA's images, which the files do not record (`ideomotor data preview` shows both)."""
    embodiment: Path | None = None
    """File that says what the numbers mean (`ideomotor data guess` writes one to correct)."""

    def open(self, folder: Path) -> "Dataset":
        """Open a dataset so."""
        from ideomotor.data.dataset import Reading
        from ideomotor.data.examine import check_once
        from ideomotor.data.meaning.described import DescribedDataset, read_embodiment
        from ideomotor.data.opening import open_dataset

        reading = Reading(self.salvage, self.version, self.colour)
        if (folder / "meta").is_dir():  # a damaged parquet file can end the process that reads it
            check_once(folder, reading)
        dataset = open_dataset(folder, reading)
        return dataset if self.embodiment is None else DescribedDataset(dataset, read_embodiment(self.embodiment))


@dataclass(frozen=True)
class Info:
    """Print what a dataset holds: format, episodes, frames, rate, cameras, instructions, what its numbers mean."""

    folder: Positional[Path]
    """Folder of the dataset."""
    read: OmitArgPrefixes[Read]
    json: bool = False
    """Print JSON, and nothing else."""


@dataclass(frozen=True)
class View:
    """Write a page with frames, plots of state and action, and the instructions."""

    folder: Positional[Path]
    """Folder of the dataset."""
    read: OmitArgPrefixes[Read]
    out: Path | None = None
    """The page; default: NAME-view.html in the current folder, NAME being that of the dataset's folder."""
    episodes: int = 8
    """How many episodes to show, evenly spaced."""


@dataclass(frozen=True)
class Check:
    """Report every fault with its place and remedy. Exit code 1 if there is one."""

    folder: Positional[Path]
    """Folder of the dataset."""
    read: OmitArgPrefixes[Read]


@dataclass(frozen=True)
class Guess:
    """Guess what the numbers of a dataset mean, print the evidence, and write the guess to a file for you to correct and confirm."""

    folder: Positional[Path]
    """Folder of the dataset."""
    out: Path
    """The file. With `--embodiment FILE` the other commands take its word."""
    read: OmitArgPrefixes[Read]


@dataclass(frozen=True)
class Convert:
    """Write a dataset of any readable format as a LeRobotDataset: raw values, every frame. Started again after a stop, it goes on."""

    source: Positional[Path]
    """Folder (or HDF5 file) to read."""
    target: Positional[Path]
    """Folder to write."""
    read: OmitArgPrefixes[Read]
    to: Literal["lerobot-v3", "lerobot-v2.1"] = "lerobot-v3"
    """The format."""
    video: bool = False
    """Store images as video: much smaller, and no longer bit for bit (the loss is stated)."""
    fps: float | None = None
    """Frames a second [1/s], where the dataset does not say."""


@dataclass(frozen=True)
class Mixture:
    """Print the datasets of a mixture: frames, weights, shares, and which are missing."""

    mixture: Positional[str]
    """A name, or a JSON file {dataset: weight}."""
    data_root: Path
    """Folder that holds the datasets' folders."""
    salvage: bool = False
    """Of a damaged TFRecord shard, count the records before the damage."""


@dataclass(frozen=True)
class Preview:
    """Write a picture of a frame in both orders of colours, for ALOHA's files."""

    folder: Positional[Path]
    """Folder of the dataset."""
    out: Path = Path("colours.png")
    """The picture."""


Command = (
    Annotated[Info, subcommand("info")]
    | Annotated[View, subcommand("view")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Guess, subcommand("guess")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Mixture, subcommand("mixture")]
    | Annotated[Preview, subcommand("preview")]
)


def main(arguments: list[str]) -> None:
    """Parse the command line, and do it."""
    command: Info | View | Check | Guess | Convert | Mixture | Preview = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType] (tyro takes unions, its type does not say so)
        prog="ideomotor data",
        args=arguments,
        description=__doc__,
    )
    match command:
        case Info():
            info(command)
        case View():
            print(f"page: {view(command)}")
        case Check():
            check(command)
        case Guess():
            guess(command)
        case Convert():
            convert(command)
        case Mixture():
            mixture(command)
        case Preview():
            from ideomotor.data.hdf5.aloha import colour_preview

            print(colour_preview(command.folder, command.out))
        case _:
            assert_never(command)


def info(command: Info) -> None:
    """Print a description."""
    from ideomotor.data.info import describe, describe_text

    described = describe(command.read.open(command.folder))
    print(json.dumps(described, indent=2, ensure_ascii=False) if command.json else describe_text(described))


def view(command: View) -> Path:
    """Write the page and return its path."""
    from ideomotor.core.errors import UsageError
    from ideomotor.data.view import write_page

    if command.episodes < 1:
        raise UsageError(f"--episodes is {command.episodes}; allowed are whole numbers from 1 up")
    dataset = command.read.open(command.folder)
    shown = min(command.episodes, len(dataset))
    path = command.out or Path(f"{command.folder.resolve().stem}-view.html")
    write_page(dataset, path, [i * len(dataset) // shown for i in range(shown)])
    return path


def check(command: Check) -> None:
    """Print the faults; raise if there is one."""
    from ideomotor.core.errors import UserError
    from ideomotor.data.check import check_behind_wall, check_dataset

    plain = command.read == Read()  # then in a process of its own, which damaged files may end
    faults = check_behind_wall(command.folder) if plain else check_dataset(command.folder, command.read.open)
    for fault in faults:
        print(fault)
    if faults:
        raise UserError(
            f"{command.folder} has {len(faults)} fault{'s' if len(faults) > 1 else ''}, listed above with their remedies"
        )
    print(f"{command.folder}: no faults")


def guess(command: Guess) -> None:
    """Print a guess with its evidence, and write it for the user to correct."""
    from ideomotor.data.meaning import guess as meaning

    found = meaning.guess(command.read.open(command.folder))
    meaning.write_guess(found, command.out)
    print(
        f"{meaning.guess_text(found)}\n\nwritten: {command.out}. It is a guess: correct what is wrong and fill in what you know, then add --embodiment {command.out}"
    )


def convert(command: Convert) -> None:
    """Write the dataset in another format, and say what was lost."""
    from ideomotor.data.convert.job import convert_folder
    from ideomotor.data.openx.standardized import record_for

    dataset = command.read.open(command.source)
    record = record_for(dataset)
    fps = command.fps or (record.embodiment.rate_hz if record is not None and dataset.fps is None else None)
    print(convert_folder(dataset, command.target, command.to, video=command.video, fps=fps))


def mixture(command: Mixture) -> None:
    """Print the table of a mixture."""
    from ideomotor.data.dataset import Reading
    from ideomotor.data.openx.mixtures import load_mixture, mixture_table, mixture_text

    rows = mixture_table(load_mixture(command.mixture), command.data_root, Reading(salvage=command.salvage))
    print(mixture_text(rows))
