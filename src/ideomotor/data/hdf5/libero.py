"""LIBERO HDF5 files: a folder of `<task>_demo.hdf5`, every file a task (libero-project.github.io).

Two kinds are in the field. Files as released record an observation *after* the action of its row (LIBERO's
`scripts/create_dataset.py` steps first), `states` before it. Files regenerated for OpenVLA ("no_noops") record it before, have no
attributes at all and gaps in the numbering, because no-ops and failures were taken out. Images of both lie in OpenGL's order of
rows, upside down; they are given as stored, `Camera.orientation` says so. Turning them by 180 degrees, as published policies do,
makes a mirror image of the upright picture.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, Embodiment, RotationForm
from ideomotor.core.types import Success
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.hdf5.dataset import (
    Alignment,
    Column,
    Demo,
    Hdf5Dataset,
    Layout,
    Orientation,
    View,
    feature_of,
    raw_view,
    roles,
    sort_members,
)
from ideomotor.data.hdf5.files import (
    Node,
    OpenFiles,
    array,
    find_files,
    gap_note,
    has_attribute,
    json_attribute,
    looks_like_hdf5,
    member,
    members,
    numbered,
    open_file,
    read_all,
    text_attribute,
)
from ideomotor.data.hdf5.robomimic import (
    DEMO,
    OSC_GRIPPER,
    OSC_ROTATION,
    osc_pose_channels,
    plain_columns,
    read_demos,
    unread_note,
)

RATE = 20.0  # [1/s] LIBERO's control_freq
STATE_PARTS = ("obs/ee_states", "obs/gripper_states")  # the state that OpenVLA's and OpenVLA-OFT's conversions make
RELEASED = ("bddl_file_name", "problem_info")  # attributes that the released files have, regenerated ones have not
JOINTS = slice(1, 8)  # of the Panda's arm in `states`: MuJoCo's time, then its positions
CLEAR = 5.0  # by this factor one alignment has to fit better than the other to be believed over the attributes


class LiberoDataset(Hdf5Dataset):
    """A LIBERO suite: a folder of `<task>_demo.hdf5`, or one such file. Episodes by file name, then by number."""

    def __init__(self, path: Path) -> None:
        """Open the dataset.

        Raises:
            UserError: no such files, damaged, or not of this layout.
        """
        files = OpenFiles()
        demos: list[Demo] = []
        notes: list[str] = []
        original: dict[Path, bool] = {}
        for file in find_files(path):
            data = member(files(file), "data")
            if not isinstance(data, h5py.Group):
                raise UserError(f"{file} has no group `data`; move it out of the folder of a LIBERO suite")
            sentence = task_of(data, file)
            found = [replace(demo, instruction=sentence) for demo in read_demos(data, file)]
            numbers = [int(demo.group.rpartition("_")[2]) for demo in found]
            notes += [f"{file.name}: {note}" for note in gap_note(numbers, "demo")]
            original[file] = has_attribute(data, RELEASED, f"{file}, data")
            demos += found
        kinds = set(original.values())
        if len(kinds) > 1:
            names = ", ".join(file.name for file, released in original.items() if released)
            raise UserError(
                f"{path} mixes files as released ({names}) with regenerated ones, whose observations belong to other actions;"
                " put them into two folders"
            )
        first = member(files(demos[0].file), demos[0].group)
        columns, views, unread = _members(first, member(files(demos[0].file), "data"), str(demos[0]))
        alignment, note = _alignment(first, str(demos[0]), released=kinds == {True})
        super().__init__(
            path,
            Layout(
                format="LIBERO HDF5" if kinds == {True} else "LIBERO HDF5 (regenerated)",
                fps=RATE,
                embodiment=embodiment(tuple(view.camera for view in views.values()), alignment),
                demos=tuple(demos),
                columns=columns,
                views=views,
                splits={},
                notes=(*note, *notes, *unread_note(unread)),
            ),
            files,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def success(self, episode: int) -> Success:
        """The files mark the last step of a solved task with a reward of 1."""
        if "rewards" not in self.features or not self.length(episode):
            return "unknown"
        return "success" if self.column(episode, "rewards")[-1] == 1 else "unknown"


def looks_like(path: Path) -> bool:
    """Whether the first HDF5 file of `path` has LIBERO's attributes or cameras."""
    if not looks_like_hdf5(path):
        return False
    file = find_files(path)[0]
    data = member(open_file(file), "data")
    if not isinstance(data, h5py.Group):
        return False
    names = numbered(members(data, f"{file}, data"), DEMO)
    return bool(names) and (
        has_attribute(data, RELEASED[:1], f"{file}, data")
        or member(data, f"{names[0][1]}/obs/agentview_rgb") is not None
    )


def task_of(data: Node, file: Path) -> str:
    """Return the instruction: from the attribute `problem_info`, else from the file's name."""
    stated = json_attribute(data, "problem_info", f"{file}, data").get("language_instruction")
    if isinstance(stated, list):  # as some releases store it: letters
        stated = "".join(map(str, stated))
    if isinstance(stated, str) and stated.strip(' "'):
        return stated.strip(' "')
    return task_of_name(file.name)


def task_of_name(name: str) -> str:
    """Return the instruction that a file's name spells.

    >>> task_of_name("KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5")
    'close the top drawer'
    >>> task_of_name("pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5")
    'pick up the milk and place it in the basket'
    """
    stem = re.sub(r"_demo$", "", name.rpartition(".")[0])
    return re.sub(r"^[A-Z_]+_SCENE\d+_", "", stem).replace("_", " ")


def embodiment(cameras: tuple[Camera, ...], alignment: Alignment) -> Embodiment:
    """Return LIBERO's specification: a Panda in robosuite under OSC_POSE, 20 Hz."""
    position = [Channel(f"ee_{axis}", "m", "world") for axis in "xyz"]
    rotation = [Channel(f"ee_r{axis}", "rad", "world") for axis in "xyz"]
    fingers = [Channel(f"gripper_{i}", "m", "joint") for i in range(2)]
    return Embodiment(
        name="libero-panda",
        robot="panda",
        rate_hz=RATE,
        action=osc_pose_channels(),
        state=(*position, *rotation, *fingers),
        cameras=cameras,
        action_rotation=OSC_ROTATION,
        state_rotation=RotationForm("rotation_vector", first=3),
        gripper=OSC_GRIPPER,
        alignment=alignment,
    )


def orientation_of(convention: str | None) -> Orientation:
    """Return which way up the images lie, by robosuite's IMAGE_CONVENTION; files without it were made with its default.

    >>> orientation_of("opencv")
    'upright'
    """
    known: dict[str | None, Orientation] = {"opengl": "flipped", None: "flipped", "opencv": "upright"}
    return known.get(convention, "unknown")


def shown_alignment(states: np.ndarray, joints: np.ndarray) -> Alignment:
    """Return which alignment the numbers show: joints are those of their own row of `states`, or of the next one.

    `states` (frames, D) holds MuJoCo's state before each action, `joints` (frames, 7) [rad] what was observed.
    """
    if len(states) != len(joints) or len(states) < 4 or states.ndim != 2 or states.shape[1] < JOINTS.stop:
        return "unknown"
    before = float(np.abs(states[1:-1, JOINTS] - joints[1:-1]).mean())  # the first row may be a copy
    after = float(np.abs(states[2:, JOINTS] - joints[1:-1]).mean())
    if not np.isfinite([before, after]).all() or max(before, after) <= CLEAR * min(before, after):
        return "unknown"
    return "observation_before_action" if before < after else "observation_after_action"


def _alignment(demo: Node, where: str, *, released: bool) -> tuple[Alignment, tuple[str, ...]]:
    """Return the alignment by the kind of file, unless the numbers of its first demo show the other one clearly."""
    stated: Alignment = "observation_after_action" if released else "observation_before_action"
    shown: Alignment = "unknown"
    parts = {key: member(demo, key) for key in ("states", "obs/joint_states")}
    if all(part is not None for part in parts.values()):
        states, joints = (read_all(array(part, f"{where}/{key}"), where) for key, part in parts.items())
        if joints.ndim == 2 and joints.shape[1] == JOINTS.stop - JOINTS.start:
            shown = shown_alignment(states, joints)
    if shown not in ("unknown", stated):
        return shown, (
            f"the attributes speak for {stated}, the joints of {where} clearly for {shown}, which is stated",
        )
    if released:
        return stated, ("observations were recorded after the action of their row",)
    return stated, ("no-ops were taken out: frames are not evenly spaced in time; the first `robot_states` is a copy",)


def _members(demo: Node, data: Node, where: str) -> tuple[dict[str, Column], dict[str, View], list[str]]:
    for key in (*STATE_PARTS, "actions"):
        array(member(demo, key), f"{where}/{key}")
    outer, _, unread = sort_members(demo, where)
    observed, pictures, unread_obs = sort_members(member(demo, "obs"), f"{where}/obs")
    spec = embodiment((), "unknown")
    state = [member(demo, key) for key in STATE_PARTS]
    columns = {
        ACTION: Column(feature_of(ACTION, [member(demo, "actions")], spec.action), ("actions",)),
        STATE: Column(feature_of(STATE, state, spec.state), STATE_PARTS),
    }
    for name, width in ((ACTION, 7), (STATE, 8)):
        if columns[name].feature.shape != (width,):
            found = list(columns[name].feature.shape)
            raise UserError(f"{where}: '{name}' has the shape {found}; LIBERO's has {width} numbers")
    columns |= plain_columns(observed, "observation.", "obs/")
    columns |= plain_columns({name: node for name, node in outer.items() if name != "actions"}, "", "")
    orientation = orientation_of(text_attribute(data, "macros_image_convention", where))
    return (
        columns,
        _views(pictures, orientation),
        [name for name in unread if name != "obs"] + [f"obs/{name}" for name in unread_obs],
    )


def _views(pictures: Mapping[str, Node], orientation: Orientation) -> dict[str, View]:
    names = roles(list(pictures), ("_rgb", "_image"))
    return {
        names[key]: raw_view(names[key], f"obs/{key}", node, orientation, "robosuite") for key, node in pictures.items()
    }
