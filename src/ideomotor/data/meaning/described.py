"""A dataset with a stated meaning: what a user has written into a file, in place of what the dataset itself says or does not say.

A camera of the file is the dataset's of that name, or the one that its `source` names: so roles are given.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.dataset import ACTION, STATE, Dataset, EncodedImages, EpisodeView, Feature, Noted

LARGEST = 1 << 20  # [bytes] of a specification
FASTEST = 10_000.0  # [1/s] of any rate


class DescribedDataset:
    """A dataset whose meaning is stated from outside, as a `Dataset`; its numbers stay what they are."""

    def __init__(self, dataset: Dataset, embodiment: Embodiment) -> None:
        """State what a dataset's numbers mean.

        Raises:
            UserError: the specification does not fit the dataset, or itself.
        """
        self._dataset = dataset
        self._names = check_fits(dataset, embodiment)
        self._embodiment = embodiment

    @property
    def path(self) -> Path:
        return self._dataset.path

    @property
    def format(self) -> str:
        return self._dataset.format

    @property
    def fps(self) -> float | None:
        return self._embodiment.rate_hz

    @property
    def embodiment(self) -> Embodiment | None:
        return self._embodiment

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """The cameras of the specification; others of the dataset are not seen."""
        return self._embodiment.cameras_by_role

    @property
    def features(self) -> Mapping[str, Feature]:
        """The dataset's columns, state and action with the specification's names."""
        names = {ACTION: self._embodiment.action, STATE: self._embodiment.state}
        return {
            name: replace(feature, names=tuple(c.name for c in names[name])) if name in names else feature
            for name, feature in self._dataset.features.items()
        }

    @property
    def splits(self) -> Mapping[str, range]:
        return self._dataset.splits

    @property
    def content_hash(self) -> str:
        """Changes with the specification, too."""
        return jsonable.fingerprint([self._dataset.content_hash, self._embodiment.hash])

    @property
    def notes(self) -> tuple[str, ...]:
        """What the dataset's reader has to say."""
        return self._dataset.notes if isinstance(self._dataset, Noted) else ()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        return self._dataset.length(episode)

    def instruction(self, episode: int) -> str:
        return self._dataset.instruction(episode)

    def success(self, episode: int) -> Success:
        return self._dataset.success(episode)

    def column(self, episode: int, name: str) -> np.ndarray:
        return self._dataset.column(episode, name)

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        return self._dataset.image(episode, frame, self._names.get(camera, camera))

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        """Return the stored file of an image, None where the dataset stores none."""
        if not isinstance(self._dataset, EncodedImages):
            return None
        return self._dataset.encoded_image(episode, frame, self._names.get(camera, camera))


def check_fits(dataset: Dataset, embodiment: Embodiment) -> dict[str, str]:
    """Return the dataset's own name of each camera of a specification.

    Raises:
        UserError: it does not fit the dataset, or its parts do not fit each other; every reason is named.
    """
    faults = [*_own_faults(embodiment)]
    for name, channels in ((ACTION, embodiment.action), (STATE, embodiment.state)):
        width = int(np.prod(dataset.features[name].shape)) if name in dataset.features else 0
        if width != len(channels):
            faults.append(f"it states {len(channels)} channels of '{name}', the dataset has {width}")
    if dataset.fps is not None and abs(dataset.fps - embodiment.rate_hz) > 1e-6 * dataset.fps:
        faults.append(f"it states {embodiment.rate_hz:g} Hz, the dataset has {dataset.fps:g} frames a second")
    names: dict[str, str] = {}
    for camera in embodiment.cameras:
        name = next((n for n in (camera.role, camera.source) if n in dataset.cameras), None)
        if name is None:
            known = ", ".join(dataset.cameras) or "none"
            faults.append(
                f"the dataset has no camera '{camera.role}', nor '{camera.source}' as its source says; it has {known}"
            )
            continue
        names[camera.role] = name
        own = dataset.cameras[name]
        if (own.height, own.width) != (camera.height, camera.width):
            stated = f"{camera.width} x {camera.height}"
            faults.append(
                f"it states {stated} pixels of camera '{camera.role}', the dataset has {own.width} x {own.height}"
            )
    if len(set(names.values())) != len(names):
        faults.append("two of its cameras are one of the dataset's")
    if faults:
        raise UserError(
            f"the embodiment '{embodiment.name}' does not fit {dataset.path}: {'; '.join(faults)}. Correct its file, or write it again:"
            f" ideomotor data guess {dataset.path} --out FILE"
        )
    return names


def _own_faults(embodiment: Embodiment) -> list[str]:
    faults: list[str] = []
    if not 0 < embodiment.rate_hz <= FASTEST:
        faults.append(f"its rate_hz is {embodiment.rate_hz:g}; a rate lies above 0 and up to {FASTEST:g}")
    for column, channels, rotation in (
        ("action", embodiment.action, embodiment.action_rotation),
        ("state", embodiment.state, embodiment.state_rotation),
    ):
        names = [channel.name for channel in channels]
        if len(set(names)) != len(names):
            faults.append(f"two channels of its {column} have one name")
        if rotation.form not in ("none", "unknown") and not 0 <= rotation.first < len(channels):
            faults.append(f"its {column}_rotation begins at channel {rotation.first}, of {len(channels)}")
    if len(embodiment.cameras_by_role) != len(embodiment.cameras):
        faults.append("two of its cameras have one role")
    gripper = embodiment.gripper
    if gripper is not None:
        if gripper.channel not in [channel.name for channel in embodiment.action]:
            faults.append(f"its gripper moves by '{gripper.channel}', which is no channel of its action")
        if not np.isfinite([gripper.open, gripper.closed, gripper.threshold]).all() or gripper.open == gripper.closed:
            faults.append("its gripper opens and closes at one value, or at none")
    return faults


def for_training(dataset: Dataset, embodiment: Path | None) -> Dataset:
    """Return the dataset as training reads it: with a meaning for every number.

    What a user's file says comes first; then a record of Open X-Embodiment, whose standardization is applied; then what the dataset itself
    says.

    Raises:
        UserError: nothing says what the numbers mean (with a guess, and how to confirm it), or the file does not fit.
    """
    if embodiment is not None:
        return DescribedDataset(dataset, read_embodiment(embodiment))
    if (standard := _standardized(dataset)) is not None:
        return standard
    if dataset.embodiment is not None:
        return dataset
    from ideomotor.data.meaning.guess import guess, guess_text

    raise UserError(
        f"{dataset.path} does not say what its numbers mean. They themselves make this likely:\n\n{guess_text(guess(dataset))}\n\n"
        "Nothing is learned from a guess. Write it to a file, correct what is wrong, fill in what is unknown and you know:\n"
        f"  ideomotor data guess {dataset.path} --out embodiment.json\n"
        "then add to the command\n"
        "  --embodiment embodiment.json"
    )


def _standardized(dataset: Dataset) -> Dataset | None:
    """Return the dataset in the standard form of its record, None where there is no record of it."""
    from ideomotor.data.openx.standardized import standardized  # imported here: it brings all records

    return standardized(dataset)


def read_embodiment(path: Path) -> Embodiment:
    """Return the embodiment in a file of the user's.

    Raises:
        UserError: it is not there, or no specification.
    """
    try:
        text = files.read_small(path, LARGEST).decode()
        return Embodiment.from_text(text, str(path))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give the file of an embodiment, as `ideomotor data guess DIR --out FILE` writes it"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); mend the file, or write it again") from error


def write_embodiment(embodiment: Embodiment, path: Path) -> None:
    """Write an embodiment as a file to be corrected: without the hash, which would speak of what it was before.

    Raises:
        UserError: the file is there already.
    """
    if path.exists():
        raise UserError(f"{path} is there already; choose another name, or remove it")
    value = json.loads(replace(embodiment, chunk=None, normalization=None).to_text())
    del value["hash"]
    files.write_bytes(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")
