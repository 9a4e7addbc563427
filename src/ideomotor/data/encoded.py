"""Stored images where single ones are read fast: JPEG and PNG files of a dataset, copied once one after the other and memory-mapped.

In a table many images are compressed as one block, so reading one reads them all. This copy is as large as the images in the dataset, some
ten times smaller than decoded frames (cache.py), and decodes at every access.

N = frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ideomotor.core import files, jsonable
from ideomotor.core.errors import unknown
from ideomotor.core.spec import Camera
from ideomotor.data.cache import user_cache
from ideomotor.data.columns import mapped, no_space, write_header
from ideomotor.data.dataset import Dataset, EncodedImages
from ideomotor.data.png import decode_image

FORMAT = 1


@dataclass(frozen=True)
class _Files:
    """Of one camera: the images one after the other, and where each begins; one that is missing has no bytes."""

    content: Path
    starts: Path


class EncodedCache:
    """The stored images of a dataset by the number of the frame. Pickled as file names, so that processes share the memory."""

    def __init__(self, paths: Mapping[str, _Files], sizes: Mapping[str, Camera]) -> None:
        self.cameras = tuple(paths)
        self._paths, self._sizes = dict(paths), dict(sizes)
        self._content = {camera: mapped(each.content) for camera, each in paths.items()}
        self._starts = {camera: mapped(each.starts) for camera, each in paths.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._paths, self._sizes)

    def __len__(self) -> int:
        return min(len(starts) for starts in self._starts.values()) - 1

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(part.nbytes for array in (self._content, self._starts) for part in array.values())

    def encoded(self, number: int, camera: str) -> bytes | None:
        """Return the stored file of a frame, counted over the dataset; None where there is none."""
        starts = self._starts[camera]
        content = self._content[camera][int(starts[number]) : int(starts[number + 1])].tobytes()
        return content or None

    def image(self, number: int, camera: str) -> np.ndarray | None:
        """Return a decoded frame [height, width, 3]; None where none is stored.

        Raises:
            UserError: it is damaged, or of another size than the dataset states.
        """
        content, size = self.encoded(number, camera), self._sizes[camera]
        if content is None:
            return None
        return decode_image(content, size.height, size.width, f"frame {number}, camera '{camera}'")


def open_encoded(dataset: Dataset, cameras: Sequence[str], folder: Path | None = None) -> EncodedCache | None:
    """Return the stored images of a dataset; copy them if that was never done. None: it does not store single images.

    Args:
        dataset: any.
        cameras: roles.
        folder: where copies lie; default `images` in the user's cache.

    Raises:
        UserError: an unknown camera, an image that cannot be read, or no space.
    """
    if not isinstance(dataset, EncodedImages) or len(dataset) == 0:
        return None
    for camera in cameras:
        if camera not in dataset.cameras:
            raise unknown("camera", camera, dataset.cameras)
        if dataset.encoded_image(0, 0, camera) is None:
            return None
    place = folder or user_cache() / "images"
    place.mkdir(parents=True, exist_ok=True)
    paths: dict[str, _Files] = {}
    for camera in cameras:
        key = jsonable.fingerprint([FORMAT, dataset.content_hash, camera])[:32]
        paths[camera] = _Files(place / f"{key}.npy", place / f"{key}.starts.npy")
        with files.locked(place / f"{key}.lock"):
            if not paths[camera].starts.exists():  # written last
                _copy(dataset, camera, paths[camera], place)
    return EncodedCache(paths, {camera: dataset.cameras[camera] for camera in cameras})


def _copy(dataset: Dataset, camera: str, paths: _Files, place: Path) -> None:
    assert isinstance(dataset, EncodedImages), "the caller looked"
    lengths = [dataset.length(episode) for episode in range(len(dataset))]
    ends = np.zeros(sum(lengths) + 1, np.int64)
    number = 0
    try:
        with (
            files.atomic_path(paths.content) as temporary,
            temporary.open("w+b") as file,
            tqdm(
                total=sum(lengths), desc=f"copy images of {camera} once", unit=" frames", disable=None, leave=False
            ) as bar,
        ):
            write_header(file, "uint8", (0,))
            begin = file.tell()
            for episode, length in enumerate(lengths):
                for frame in range(length):
                    file.write(dataset.encoded_image(episode, frame, camera) or b"")
                    number += 1
                    ends[number] = file.tell() - begin
                bar.update(length)
            file.seek(0)
            write_header(file, "uint8", (int(ends[-1]),))
            assert file.tell() == begin, "numpy leaves room for the length in its header"
        with files.atomic_path(paths.starts) as temporary, temporary.open("wb") as file:
            np.save(file, ends)
    except OSError as error:
        raise no_space(error, f"the images of {camera}", place) from error
