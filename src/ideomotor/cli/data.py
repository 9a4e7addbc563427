"""`ideomotor data info|view|check`: look at a dataset of any readable format."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, assert_never

import tyro
from tyro.conf import Positional, subcommand


@dataclass(frozen=True)
class Info:
    """Print what a dataset holds: format, episodes, frames, rate, cameras, instructions, embodiment."""

    folder: Positional[Path]
    """Folder of the dataset."""
    json: bool = False
    """Print JSON, and nothing else."""


@dataclass(frozen=True)
class View:
    """Write a page with frames, plots of state and action, and the instructions."""

    folder: Positional[Path]
    """Folder of the dataset."""
    out: Path | None = None
    """The page; default: NAME-view.html in the current folder, NAME being that of the dataset's folder."""
    episodes: int = 8
    """How many episodes to show, evenly spaced."""


@dataclass(frozen=True)
class Check:
    """Report every fault with its place and remedy. Exit code 1 if there is one."""

    folder: Positional[Path]
    """Folder of the dataset."""


Command = (
    Annotated[Info, subcommand("info")] | Annotated[View, subcommand("view")] | Annotated[Check, subcommand("check")]
)


def main(arguments: list[str]) -> None:
    """Parse the command line, and look."""
    command: Info | View | Check = tyro.cli(Command, prog="ideomotor data", args=arguments, description=__doc__)  # pyright: ignore[reportArgumentType, reportCallIssue] (tyro takes unions, its type does not say so)
    match command:
        case Info():
            info(command)
        case View():
            print(f"page: {view(command)}")
        case Check():
            check(command.folder)
        case _:
            assert_never(command)


def info(command: Info) -> None:
    """Print a description."""
    from ideomotor.data.dataset import open_dataset
    from ideomotor.data.info import describe, describe_text

    described = describe(open_dataset(command.folder))
    print(json.dumps(described, indent=2, ensure_ascii=False) if command.json else describe_text(described))


def view(command: View) -> Path:
    """Write the page and return its path."""
    from ideomotor.core.errors import UsageError
    from ideomotor.data.dataset import open_dataset
    from ideomotor.data.view import write_page

    if command.episodes < 1:
        raise UsageError(f"--episodes is {command.episodes}; allowed are whole numbers from 1 up")
    dataset = open_dataset(command.folder)
    shown = min(command.episodes, len(dataset))
    path = command.out or Path(f"{command.folder.resolve().name}-view.html")
    write_page(dataset, path, [i * len(dataset) // shown for i in range(shown)])
    return path


def check(folder: Path) -> None:
    """Print the faults; raise if there is one."""
    from ideomotor.core.errors import UserError
    from ideomotor.data.check import check_dataset

    faults = check_dataset(folder)
    for fault in faults:
        print(fault)
    if faults:
        raise UserError(
            f"{folder} has {len(faults)} fault{'s' if len(faults) > 1 else ''}, listed above with their remedies"
        )
    print(f"{folder}: no faults")
