"""ALOHA and ACT HDF5 files: a folder of `episode_<i>.hdf5`, every file one episode (github.com/tonyzhaozh/act).

Surprises: images are raw, JPEG padded with zeros to one length, or buffers of variable length, told apart by their axes; a JPEG
needs no stored length, because it says where it ends. Nothing records the order of the colours: OpenCV encoded frames of either
order, so that in some files every viewer shows red as blue. It has to be said (`Reading.colour`), after a look at
`colour_preview`. Instructions are not in the files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from PIL import Image, ImageDraw

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper
from ideomotor.data.dataset import ACTION, STATE, Reading
from ideomotor.data.hdf5.dataset import Column, Demo, Hdf5Dataset, Layout, View, feature_of, is_picture, sort_members
from ideomotor.data.hdf5.files import (
    SUFFIXES,
    Node,
    OpenFiles,
    array,
    check_storage,
    find_files,
    gap_note,
    looks_like_hdf5,
    member,
    members,
    numbered,
    open_file,
    reading,
)
from ideomotor.data.images import JPEG_MAGIC, PNG_MAGIC, decode

RATE = 50.0  # [1/s] of ALOHA's recorder (DT = 0.02)
OFT_RATE = 25.0  # [1/s] of OpenVLA-OFT's recordings, which alone have `relative_action`
EPISODE = rf"episode_(\d{{1,9}})({'|'.join(end.replace('.', '[.]') for end in SUFFIXES)})"
IMAGES = "observations/images"
COLUMNS = ("base_action", "relative_action")
PREVIEW_HEIGHT = 320  # [px]

Colour = Literal["", "rgb", "bgr"]


class AlohaDataset(Hdf5Dataset):
    """A folder of ALOHA episodes, or one of them. Episodes by their number."""

    def __init__(self, path: Path, how: Reading | None = None) -> None:
        """Open the dataset; `how.colour` is the order of the colours, without which images cannot be read.

        Raises:
            UserError: no such files, damaged, or not of this layout.
        """
        self._how = how or Reading()
        found = episode_files(path)
        files = OpenFiles()
        demos = [_demo(files(file), file) for _, file in found]
        first = found[0][1]
        columns, views, unread = _members(files(first), first, self._how.colour)
        rate = OFT_RATE if "relative_action" in columns else RATE
        notes = [
            f"{rate:g} frames/s are the recorder's; the files do not state a rate",
            "the files hold no instruction",
        ]
        if views and not self._how.colour:
            notes.append("the order of the colours is not stated: images need `--colour rgb` or `--colour bgr`")
        if unread:
            notes.append(f"not read: {', '.join(unread[:20])}")
        super().__init__(
            path,
            Layout(
                format="ALOHA HDF5",
                fps=rate,
                embodiment=embodiment(columns, tuple(view.camera for view in views.values()), rate),
                demos=tuple(demos),
                columns=columns,
                views=views,
                splits={},
                notes=(*gap_note([number for number, _ in found], "episode"), *notes),
            ),
            files,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._how)

    def encoded_image(self, episode: int, frame: int, camera: str) -> bytes | None:
        """Return the stored JPEG without its padding; None where pixels are raw, or a viewer would show wrong colours.

        Raises:
            UserError: the order of the colours is not said.
        """
        node, where = self._pictures(episode, camera)
        self._colour(where)
        return stored_file(node, frame, where) if self._how.colour == "rgb" and not is_picture(node) else None

    def touch_images(self) -> None:
        """Read the first image of each episode and camera that has files of variable length, which HDF5 keeps in heaps.

        Raises:
            UserError: one cannot be read.
        """
        for episode, demo in enumerate(self.layout.demos):
            for camera in self.layout.views if demo.length else ():
                node, where = self._pictures(episode, camera)
                if len(node.shape) == 1:
                    stored_file(node, 0, where)

    def _decode(self, node: Node, frame: int, camera: Camera, where: str) -> np.ndarray:
        colour = self._colour(where)
        image = as_stored(node, frame, where)
        if image.shape != (camera.height, camera.width, 3):
            raise UserError(
                f"{where} has {image.shape[0]} x {image.shape[1]} px, the first episode {camera.height} x {camera.width};"
                " take the episode out"
            )
        return image if colour == "rgb" else np.ascontiguousarray(image[..., ::-1])

    def _colour(self, where: str) -> Colour:
        if not self._how.colour:
            raise UserError(
                f"{where}: nothing in an ALOHA file says in which order the colours are; give `--colour rgb` or"
                " `--colour bgr`. `ideomotor data preview` draws both readings side by side: take the natural one"
            )
        return self._how.colour

    def _checked_pictures(self, node: Node | None, where: str) -> Node:
        return checked_pictures(node, where)


def looks_like(path: Path) -> bool:
    """Whether the first `episode_<i>.hdf5` of `path` has `observations/qpos` and `action`."""
    if not looks_like_hdf5(path):
        return False
    if path.is_file():
        file = path
    else:
        names = numbered((child.name for child in find_files(path)), EPISODE)
        if not names:
            return False
        file = path / names[0][1]
    root = open_file(file)
    return member(root, "observations/qpos") is not None and member(root, "action") is not None


def colour_preview(path: Path, picture: Path) -> str:
    """Draw the first image of every camera in both readings, side by side, into a PNG; return what to do with it.

    Raises:
        UserError: no ALOHA files, no cameras, or an image that cannot be decoded.
    """
    _, file = episode_files(path)[0]
    root = open_file(file)
    _, views, _ = _members(root, file, "")
    if not views:
        raise UserError(f"{file} has no images; no colours need to be said")
    rows: list[np.ndarray] = []
    for view in views.values():
        where = f"{file}/{view.key}"
        image = Image.fromarray(as_stored(checked_pictures(member(root, view.key), where), 0, where))
        small = np.asarray(image.resize((max(1, image.width * PREVIEW_HEIGHT // image.height), PREVIEW_HEIGHT)))
        rows.append(np.concatenate([small, small[..., ::-1]], axis=1))
    width = max(row.shape[1] for row in rows)
    sheet = np.zeros((PREVIEW_HEIGHT * len(rows), width, 3), np.uint8)
    for number, row in enumerate(rows):
        sheet[number * PREVIEW_HEIGHT : (number + 1) * PREVIEW_HEIGHT, : row.shape[1]] = row
    image = Image.fromarray(sheet)
    draw = ImageDraw.Draw(image)
    for number, (role, row) in enumerate(zip(views, rows, strict=True)):
        for side, colour in enumerate(("rgb", "bgr")):
            corner = (side * row.shape[1] // 2 + 8, number * PREVIEW_HEIGHT + 8)
            text = f"--colour {colour}  ({role})"
            draw.rectangle(draw.textbbox(corner, text, font_size=18), fill=(0, 0, 0))
            draw.text(corner, text, fill=(255, 255, 255), font_size=18)
    picture.parent.mkdir(parents=True, exist_ok=True)
    image.save(picture, "PNG")
    return f"{picture}: left `--colour rgb`, right `--colour bgr`; give the one whose colours are natural"


def episode_files(path: Path) -> list[tuple[int, Path]]:
    """Return number and file of each episode, by number.

    Raises:
        UserError: there are none.
    """
    files = {file.name: file for file in find_files(path)}
    if path.is_file():
        named = numbered(files, EPISODE)
        return [(named[0][0] if named else 0, path)]
    found = [(number, files[name]) for number, name in numbered(files, EPISODE)]
    if not found:
        raise UserError(f"{path} holds no episode_<number>.hdf5; give a folder of ALOHA episodes")
    return found


def embodiment(columns: Mapping[str, Column], cameras: tuple[Camera, ...], rate: float) -> Embodiment:
    """Return ALOHA's specification: joints of each arm [rad] and its gripper (0 closed, 1 open), commanded by the leader."""
    action, state = (columns[name].feature.shape[0] for name in (ACTION, STATE))
    arms = {14: "aloha-bimanual", 7: "aloha-single-arm", 6: "aloha-single-arm"}
    gripper = Gripper("gripper", open=1.0, closed=0.0, threshold=0.5) if action == 7 else None
    return Embodiment(
        name=arms.get(action, "aloha"),
        robot="aloha",
        rate_hz=rate,
        action=joint_channels(action),
        state=joint_channels(state),
        cameras=cameras,
        gripper=gripper,
        alignment="observation_before_action",
    )


def joint_channels(width: int) -> tuple[Channel, ...]:
    """Return the channels of 14 (two arms), 7 (one arm) or 6 (one arm without gripper) numbers; of others unknown ones.

    >>> [channel.name for channel in joint_channels(7)][-2:]
    ['joint_5', 'gripper']
    """
    if width == 14:
        return tuple(channel for side in ("left_", "right_") for channel in _arm(side, gripper=True))
    if width in (6, 7):
        return _arm("", gripper=width == 7)
    return tuple(Channel(f"joint_{i}", "unknown", "unknown", "unknown") for i in range(width))


def as_stored(node: Node, frame: int, where: str) -> np.ndarray:
    """Return an image with its colours in the order that a viewer shows, uint8 (height, width, 3)."""
    if is_picture(node):
        with reading(where):
            return np.asarray(node[frame])
    content = stored_file(node, frame, where)
    try:
        return decode(content)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def stored_file(node: Node, frame: int, where: str) -> bytes:
    """Return the JPEG or PNG of a frame; the zeros that pad it are taken off."""
    with reading(where):
        content = np.asarray(node[frame], np.uint8).tobytes()
    if not content.startswith((JPEG_MAGIC, PNG_MAGIC)):
        raise UserError(
            f"{where} begins with {content[:4]!r}, neither JPEG nor PNG; the file is damaged, copy it again"
        )
    return content.rstrip(b"\0") if content.startswith(JPEG_MAGIC) else content


def checked_pictures(node: Node | None, where: str) -> Node:
    """Return a dataset of images: raw (frames, H, W, 3), padded files (frames, bytes), or files of variable length (frames,).

    Raises:
        UserError: none of these, or not safe to read.
    """
    with reading(where):
        if isinstance(node, h5py.Dataset) and len(node.shape or ()) == 1:
            if h5py.check_vlen_dtype(node.dtype) in (np.uint8, np.int8):
                check_storage(node, where)
                return node
            raise UserError(f"{where} holds {node.dtype}; images of variable length are arrays of bytes (uint8)")
        found = array(node, where)
        if not is_picture(found) and not (found.dtype == np.uint8 and len(found.shape) == 2):
            raise UserError(
                f"{where} is {found.dtype}{list(found.shape)}; images are uint8: (frames, height, width, 3) raw,"
                " (frames, bytes) padded JPEG, or buffers of variable length"
            )
        return found


def _arm(side: str, *, gripper: bool) -> tuple[Channel, ...]:
    joints = tuple(Channel(f"{side}joint_{i}", "rad", "joint") for i in range(6))
    return (*joints, Channel(f"{side}gripper", "fraction", "none", "absolute", 0.0, 1.0)) if gripper else joints


def _demo(root: Node, file: Path) -> Demo:
    return Demo(file, "", int(array(member(root, "action"), f"{file}, /action").shape[0]), "")


def _members(root: Node, file: Path, colour: Colour) -> tuple[dict[str, Column], dict[str, View], list[str]]:
    joints = [array(member(root, key), f"{file}/{key}") for key in ("action", "observations/qpos")]
    for node in joints:
        if len(node.shape) != 2 or not 0 < node.shape[1] <= 1 << 10:
            raise UserError(f"{file}{node.name} has the shape {node.shape}; rows of joint angles are needed")
    action, state = joints
    columns = {
        ACTION: Column(feature_of(ACTION, [action], joint_channels(int(action.shape[1]))), ("action",)),
        STATE: Column(feature_of(STATE, [state], joint_channels(int(state.shape[1]))), ("observations/qpos",)),
    }
    observed, _, unread = sort_members(member(root, "observations"), f"{file}/observations")
    for name, node in observed.items():
        if name != "qpos":
            columns[f"observation.{name}"] = Column(
                feature_of(f"observation.{name}", [node]), (f"observations/{name}",)
            )
    for name in COLUMNS:
        if (node := member(root, name)) is not None:
            columns[name] = Column(feature_of(name, [array(node, f"{file}/{name}")]), (name,))
    views = _views(root, file, colour)
    return columns, views, [f"observations/{name}" for name in unread if name != "images"]


def _views(root: Node, file: Path, colour: Colour) -> dict[str, View]:
    group = member(root, IMAGES)
    views: dict[str, View] = {}
    for name in sorted(members(group, f"{file}/{IMAGES}")) if group is not None else ():
        if "depth" in name:
            continue
        where = f"{file}/{IMAGES}/{name}"
        node = checked_pictures(member(group, name), where)
        if not node.shape[0]:
            continue
        height, width = map(int, node.shape[1:3]) if is_picture(node) else as_stored(node, 0, where).shape[:2]
        views[name] = View(Camera(name, height, width, colour="rgb" if colour else "unknown"), f"{IMAGES}/{name}")
    return views
