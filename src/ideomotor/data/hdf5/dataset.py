"""Episodes in HDF5 files, whatever the layout: columns and cameras by their places below the group of an episode."""

import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.core.spec import Camera, Channel, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.dataset import EpisodeView, Feature, checked_index
from ideomotor.data.hdf5.files import Node, OpenFiles, array, member, members, read_all, reading
from ideomotor.data.images import MAX_PIXELS

Orientation = Literal["upright", "flipped", "rotated_180", "unknown"]
Alignment = Literal["observation_before_action", "observation_after_action", "unknown"]

KEPT_COLUMNS = 64 << 20  # [bytes] of columns that stay in memory: a window asks for those of its episode again
KEPT_PICTURES = 16  # open datasets of images; each has HDF5's cache of chunks
LARGEST_FRAME = 1 << 20  # numbers of one column in one frame


@dataclass(frozen=True)
class Demo:
    """Where an episode lies."""

    file: Path
    group: str  # "data/demo_0"; "" where the whole file is one episode
    length: int  # frames
    instruction: str

    def __str__(self) -> str:
        """For messages."""
        return f"{self.file}, {self.group}" if self.group else str(self.file)


@dataclass(frozen=True)
class Column:
    """A column: datasets below the group of an episode, joined along the last axis."""

    feature: Feature
    parts: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A camera, and the dataset below the group of an episode that holds its images."""

    camera: Camera
    key: str


@dataclass(frozen=True)
class Layout:
    """What a reader has found out about its files."""

    format: str
    fps: float | None  # [1/s]
    embodiment: Embodiment | None
    demos: tuple[Demo, ...]
    columns: Mapping[str, Column]
    views: Mapping[str, View]  # by role
    splits: Mapping[str, range]
    notes: tuple[str, ...]


class Hdf5Dataset:
    """A `Dataset` in HDF5 files. Its files are opened by the process that reads, when it reads."""

    def __init__(self, path: Path, layout: Layout, files: OpenFiles) -> None:
        self.path = path
        self.layout = layout
        self.format: str = layout.format
        self.fps: float | None = layout.fps
        self.embodiment: Embodiment | None = layout.embodiment
        self.cameras: Mapping[str, Camera] = {role: view.camera for role, view in layout.views.items()}
        self.features: Mapping[str, Feature] = {name: column.feature for name, column in layout.columns.items()}
        self.splits: Mapping[str, range] = layout.splits
        self.notes: tuple[str, ...] = layout.notes
        self._files = files
        self._columns: OrderedDict[tuple[int, str], np.ndarray] = OrderedDict()
        self._columns_size = 0  # [bytes]
        self._kept: OrderedDict[tuple[int, Demo, str], Node] = OrderedDict()  # images, with their decompressed chunks

    def __len__(self) -> int:
        return len(self.layout.demos)

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:
        """The number of frames of an episode."""
        return self.layout.demos[episode].length

    def instruction(self, episode: int) -> str:
        """The sentence that was given to the robot, "" where the file has none."""
        return self.layout.demos[episode].instruction

    def success(self, episode: int) -> Success:
        """Whether the attempt succeeded."""
        assert 0 <= episode < len(self)
        return "unknown"

    def column(self, episode: int, name: str) -> np.ndarray:
        """Return one column of an episode, frames first; a shape of (1,) gives `(frames,)`."""
        if name not in self.layout.columns:
            raise unknown("column", name, self.layout.columns)
        key = (checked_index(episode, len(self), "episode", str(self.path)), name)
        if key not in self._columns:
            self._columns[key] = self._read_column(*key)
            self._columns_size += self._columns[key].nbytes
            while self._columns_size > KEPT_COLUMNS and len(self._columns) > 1:
                self._columns_size -= self._columns.popitem(last=False)[1].nbytes
        self._columns.move_to_end(key)
        return self._columns[key]

    def image(self, episode: int, frame: int, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """Return one image as it is stored; `Camera.orientation` says which way up that is."""
        node, where = self._pictures(episode, camera)
        frame = checked_index(frame, self.length(episode), "frame", where)
        return self._decode(node, frame, self.cameras[camera], f"{where}, frame {frame}")

    @property
    def content_hash(self) -> str:
        """SHA-256 over the columns, the episodes, and the first and the last image of each episode and camera."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        features = {name: [f.dtype, list(f.shape)] for name, f in sorted(self.features.items())}
        embodiment = self.embodiment.hash if self.embodiment else None
        digest.update(jsonable.canonical([self.format, features, sorted(self.cameras), embodiment]).encode())
        for episode in range(len(self)):
            facts = [self.length(episode), self.instruction(episode), self.success(episode)]
            digest.update(jsonable.canonical(facts).encode())
            for name in sorted(self.features):
                digest.update(np.ascontiguousarray(self.column(episode, name)).tobytes())
            for camera in sorted(self.cameras):
                node, where = self._pictures(episode, camera)
                digest.update(jsonable.canonical([node.id.get_storage_size(), list(node.shape)]).encode())
                for frame in {0, self.length(episode) - 1} if self.length(episode) else ():
                    with reading(where):
                        digest.update(np.asarray(node[frame]).tobytes())
        return digest.hexdigest()

    def _decode(self, node: Node, frame: int, camera: Camera, where: str) -> np.ndarray:
        if node.shape[1:] != (camera.height, camera.width, 3) or node.dtype != np.uint8:
            raise UserError(
                f"{where} is {node.dtype}{list(node.shape[1:])}, the first episode has uint8"
                f"[{camera.height}, {camera.width}, 3]; take the episode out"
            )
        with reading(where):
            return np.asarray(node[frame])

    def _pictures(self, episode: int, camera: str) -> tuple[Node, str]:
        """Return the dataset that holds the images of an episode, and its place for messages."""
        if camera not in self.layout.views:
            raise unknown("camera", camera, self.layout.views)
        demo, key = self.layout.demos[episode], self.layout.views[camera].key
        where = f"{demo}/{key}"
        kept = self._kept.get((os.getpid(), demo, key))
        if kept:  # false once its file is closed
            self._files(demo.file)
            return kept, where
        node = self._checked_pictures(self._node(demo, key), where)
        if node.shape[0] != demo.length:
            raise UserError(f"{where} has {node.shape[0]} images, the episode {demo.length} frames; take it out")
        self._kept[os.getpid(), demo, key] = node
        if len(self._kept) > KEPT_PICTURES:
            self._kept.popitem(last=False)
        return node, where

    def _checked_pictures(self, node: Node | None, where: str) -> Node:
        return array(node, where)

    def _node(self, demo: Demo, key: str) -> Node | None:
        return member(self._files(demo.file), f"{demo.group}/{key}")

    def _read_column(self, episode: int, name: str) -> np.ndarray:
        demo, column = self.layout.demos[episode], self.layout.columns[name]
        feature, where = column.feature, f"{demo}, column '{name}'"
        parts: list[np.ndarray] = []
        for key in column.parts:
            place = f"{demo}/{key}"
            node = array(self._node(demo, key), place)
            if node.shape[0] != demo.length:
                raise UserError(f"{place} has {node.shape[0]} rows, the episode {demo.length} frames; take it out")
            parts.append(read_all(node, place))
        values = parts[0] if len(parts) == 1 else np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
        if (values.shape[1:] or (1,)) != feature.shape or not np.can_cast(values.dtype, feature.dtype, "same_kind"):
            raise UserError(
                f"{where} is {values.dtype}{list(values.shape[1:])}, in the first episode {feature.dtype}"
                f"{list(feature.shape)}; take the episode out"
            )
        values = values.astype(feature.dtype, copy=False)
        return values.reshape(-1) if feature.shape == (1,) else values


def raw_view(role: str, key: str, node: Node, orientation: Orientation, source: str = "unknown") -> View:
    """Return the camera of a dataset of raw images (frames, height, width, 3)."""
    height, width = int(node.shape[1]), int(node.shape[2])
    return View(Camera(role, height, width, orientation=orientation, source=source), key)


def feature_of(name: str, nodes: Sequence[Node], channels: Sequence[Channel] = ()) -> Feature:
    """Return the feature of datasets that are joined along their last axis; those of one axis count as width 1."""
    dtype = np.result_type(*(node.dtype for node in nodes)).name
    shapes = [tuple(map(int, node.shape[1:])) or (1,) for node in nodes]
    shape = shapes[0] if len(nodes) == 1 else (sum(int(np.prod(s)) for s in shapes),)
    names = tuple(channel.name for channel in channels)
    return Feature(name, dtype, shape, names if shape == (len(names),) else None)


def is_picture(node: Node) -> bool:
    """Whether a dataset holds raw RGB images, one a frame."""
    shape = node.shape
    return node.dtype == np.uint8 and len(shape) == 4 and shape[3] == 3 and 0 < shape[1] * shape[2] <= MAX_PIXELS


def is_column(node: Node) -> bool:
    """Whether a dataset holds numbers, few enough a frame to be a column (depth images are none)."""
    return len(node.shape) <= 3 and 0 < int(np.prod([float(n) for n in node.shape[1:]])) <= LARGEST_FRAME


def sort_members(group: Node, where: str) -> tuple[dict[str, Node], dict[str, Node], list[str]]:
    """Return the columns of a group, its raw images, and the names of what is neither, each by name."""
    columns: dict[str, Node] = {}
    pictures: dict[str, Node] = {}
    rest: list[str] = []
    for name in sorted(members(group, where)):
        try:
            node = array(member(group, name), f"{where}/{name}")
        except UserError:
            rest.append(name)  # text, groups: not read; what is asked for by name is refused with its reason
            continue
        if is_picture(node):
            pictures[name] = node
        elif is_column(node):
            columns[name] = node
        else:
            rest.append(name)
    return columns, pictures, rest


def roles(keys: Sequence[str], suffixes: Sequence[str]) -> dict[str, str]:
    """Return the role of each key of images: the key without its suffix, or whole where two would be the same.

    >>> roles(["agentview_image", "wrist"], ["_image"])
    {'agentview_image': 'agentview', 'wrist': 'wrist'}
    """
    short = {key: functools.reduce(lambda name, end: name.removesuffix(end), suffixes, key) for key in keys}
    counts = list(short.values())
    return {key: role if counts.count(role) == 1 else key for key, role in short.items()}
