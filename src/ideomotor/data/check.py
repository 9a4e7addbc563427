"""Find the faults of a dataset: what is damaged, and what other programs would misread without a word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.data.child import Child, ChildDiedError
from ideomotor.data.dataset import ACTION, STATE, Dataset
from ideomotor.data.examine import SECONDS
from ideomotor.data.opening import open_dataset

CHECK_MEMORY = 8 << 30  # [bytes]
SLOWEST = 1e5  # [bytes/s] at which images are decoded by a slow machine: a check that takes longer hangs


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a dataset."""

    where: str  # file, column, episode, frame
    what: str
    remedy: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.where}: {self.what}. {self.remedy}" if self.remedy else f"{self.where}: {self.what}"


def check_dataset(path: Path, opened: Callable[[Path], Dataset] = open_dataset) -> list[Fault]:
    """Return every fault that is found; every table is read and every image decoded.

    Args:
        path: of the dataset.
        opened: how it is opened.

    Raises:
        UserError: the folder is missing or holds no dataset.
    """
    if (path / "meta").is_dir():
        from ideomotor.data.lerobot.check import lerobot_faults
        from ideomotor.data.lerobot.check_v2 import lerobot_v2_faults
        from ideomotor.data.lerobot.info import stated_version

        version = stated_version(path)
        second = isinstance(version, str) and version.removeprefix("v").startswith("2.")
        return list(lerobot_v2_faults(path) if second else lerobot_faults(path))
    dataset = opened(path)
    return [*column_faults(dataset), *image_faults(dataset), *embodiment_faults(dataset)]


def of_error(where: object, error: UserError) -> Fault:
    """Return an error as a fault; its message holds the remedy."""
    text = str(error)
    return Fault(str(where), text.removeprefix(f"{where}: ").removeprefix(f"{where} "), "")


def column_faults(dataset: Dataset) -> Iterator[Fault]:
    """Read every column; what cannot be read or is not finite is a fault."""
    for name, feature in dataset.features.items():
        for episode in range(len(dataset)):
            where = f"{dataset.path}, column '{name}', episode {episode}"
            try:
                values = dataset.column(episode, name)
            except UserError as error:
                yield of_error(where, error)
                break
            if len(values) != dataset.length(episode):
                yield Fault(
                    where, f"has {len(values)} of {dataset.length(episode)} frames", "Restore the file from a copy"
                )
            if feature.numeric and np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                frame, *channel = np.argwhere(~np.isfinite(values))[0].tolist()
                value = values[(frame, *channel)]
                yield Fault(
                    where, f"frame {frame}, channel {channel or 0} is {value}", "Remove the episode or record it again"
                )


def image_faults(dataset: Dataset) -> Iterator[Fault]:
    """Decode every image; one fault for each camera of each episode at most."""
    for episode in range(len(dataset)):
        for camera in dataset.cameras:
            for frame in range(dataset.length(episode)):
                try:
                    dataset.image(episode, frame, camera)
                except UserError as error:
                    yield of_error(f"{dataset.path}, episode {episode}, frame {frame}, camera '{camera}'", error)
                    break


def embodiment_faults(dataset: Dataset) -> Iterator[Fault]:
    """Compare the columns and cameras with the embodiment specification, where there is one."""
    embodiment = dataset.embodiment
    if embodiment is None:
        return
    where, remedy = f"{dataset.path}, embodiment '{embodiment.name}'", "Correct the specification or the columns"
    for name, channels in ((ACTION, embodiment.action), (STATE, embodiment.state)):
        width = int(np.prod(dataset.features[name].shape)) if name in dataset.features else 0
        if width != len(channels):
            yield Fault(where, f"states {len(channels)} channels of '{name}', the dataset holds {width}", remedy)
    if dataset.fps is not None and dataset.fps != embodiment.rate_hz:
        yield Fault(where, f"states {embodiment.rate_hz:g} Hz, the dataset {dataset.fps:g} frames a second", remedy)
    yield from _camera_faults(dataset, embodiment, where, remedy)


def _camera_faults(dataset: Dataset, embodiment: Embodiment, where: str, remedy: str) -> Iterator[Fault]:
    stated, held = set(embodiment.cameras_by_role), set(dataset.cameras)
    for role in sorted(stated - held):
        yield Fault(where, f"states the camera '{role}', the dataset has none of that name but {sorted(held)}", remedy)
    for role in sorted(held - stated):
        yield Fault(where, f"lacks the camera '{role}', which the dataset has", remedy)


def check_behind_wall(path: Path) -> list[Fault]:
    """Return what `check_dataset` finds, from a child process; what ends that process is the one fault of the list.

    Raises:
        UserError: the folder is missing or holds no dataset.
    """
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    with Child(memory=CHECK_MEMORY, seconds=10 * SECONDS + size / SLOWEST) as child:
        try:
            found = child.call(_faults, str(path), about=path)
        except ChildDiedError as error:
            return [Fault(str(path), str(error).removeprefix(f"{path} "), "")]
    return [Fault(*fault) for fault in found]


def _faults(path: str) -> list[list[str]]:
    return [[fault.where, fault.what, fault.remedy] for fault in check_dataset(Path(path))]
