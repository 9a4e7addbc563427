"""robomimic HDF5 files: one file, a group `data/demo_<i>` an episode (robomimic.github.io/docs/datasets/overview.html).

Surprises: demos sort by their number, not by name; `mask/<filter>` lists demos, so that episodes are reordered to make "train"
and "valid" runs of episodes; observations precede their action, a reward belongs to the state after it; nothing in the format
is an instruction (RoboCasa stores one in the attribute `ep_meta`). `next_obs`, a shifted copy of `obs`, is not offered.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Channel, Embodiment, Gripper, RotationForm, Unit
from ideomotor.core.types import Success
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.hdf5.dataset import (
    Column,
    Demo,
    Hdf5Dataset,
    Layout,
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
    check_storage,
    find_files,
    gap_note,
    inside,
    json_attribute,
    looks_like_hdf5,
    member,
    members,
    numbered,
    open_file,
    read_all,
    reading,
)

FORMAT = "robomimic HDF5"
DEMO = r"demo_(\d{1,9})"
ROBOSUITE = 1  # robomimic's EnvType.ROBOSUITE_TYPE, in env_args["type"]
PROPRIOCEPTION = ("eef_pos", "eef_quat", "gripper_qpos")  # of a robot; what robomimic's image policies are given
_FIRST = ("train", "valid")  # masks that order the episodes


class RobomimicDataset(Hdf5Dataset):
    """A robomimic dataset: one file, or a folder with one."""

    def __init__(self, path: Path) -> None:
        """Open the dataset.

        Raises:
            UserError: no such file or several, damaged, or not of this layout.
        """
        file = _only_file(path)
        files = OpenFiles()
        root = files(file)
        data = _data(root, file)
        env = json_attribute(data, "env_args", f"{file}, data")
        demos = read_demos(data, file)
        demos, splits, mask_notes = order_by_masks(demos, _masks(root, file))
        numbers = sorted(int(demo.group.rpartition("_")[2]) for demo in demos)
        columns, views, unread = self._members(member(data, demos[0].group.removeprefix("data/")), str(demos[0]), env)
        self._env = env
        embodiment = _embodiment(env, columns, views)
        super().__init__(
            path,
            Layout(
                format=FORMAT,
                fps=_rate(env),
                embodiment=embodiment,
                demos=tuple(demos),
                columns=columns,
                views=views,
                splits=splits,
                notes=(*gap_note(numbers, "demo"), *mask_notes, *unread_note(unread)),
            ),
            files,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def success(self, episode: int) -> Success:
        """By the rewards, where the environment is robosuite's with its sparse reward: 1 where the task is solved, else 0."""
        kwargs = inside(self._env, "env_kwargs")
        sparse = (
            self._env.get("type") == ROBOSUITE
            and inside(self._env, "env_kwargs", "reward_shaping") is False
            and cast("dict[str, Any]", kwargs).get("reward_scale", 1.0) in (1, None)
        )
        if not sparse or "rewards" not in self.features or not self.length(episode):
            return "unknown"
        return "success" if self.column(episode, "rewards").max() >= 1 else "failure"

    def _members(
        self, demo: Node, where: str, env: Mapping[str, Any]
    ) -> tuple[dict[str, Column], dict[str, View], list[str]]:
        outer, _, unread = sort_members(demo, where)
        parts, _, _ = _group(demo, "action_dict", where)
        observed, pictures, unread_obs = _group(demo, "obs", where)
        if "actions" not in outer:
            raise UserError(f"{where}/actions is {demo['actions'].shape}; a row of numbers a frame is needed")
        columns = {ACTION: Column(feature_of(ACTION, [outer["actions"]], _action_channels(env, outer)), ("actions",))}
        if state := _state_keys(observed):
            nodes = [observed[key] for key in state]
            columns[STATE] = Column(
                feature_of(STATE, nodes, _state_channels(state, nodes)), tuple(f"obs/{k}" for k in state)
            )
        columns |= plain_columns(observed, "observation.", "obs/")
        columns |= plain_columns(parts, "action.", "action_dict/")
        columns |= plain_columns({k: n for k, n in outer.items() if k != "actions"}, "", "")
        upright = "upright" if env.get("type") == ROBOSUITE else "unknown"
        names = roles(list(pictures), ("_image", "_rgb"))
        views = {names[key]: raw_view(names[key], f"obs/{key}", n, upright) for key, n in pictures.items()}
        groups = {"obs", "next_obs", "action_dict"}
        return columns, views, [name for name in unread if name not in groups] + [f"obs/{name}" for name in unread_obs]


def looks_like(path: Path) -> bool:
    """Whether the first HDF5 file of `path` has the group `data/demo_<i>` with `actions`."""
    if not looks_like_hdf5(path):
        return False
    file = find_files(path)[0]
    data = member(open_file(file), "data")
    if not isinstance(data, h5py.Group):
        return False
    names = numbered(members(data, f"{file}, data"), DEMO)
    return bool(names) and member(data, f"{names[0][1]}/actions") is not None


def read_demos(data: Node, file: Path) -> list[Demo]:
    """Return the demos of a file by their number.

    Raises:
        UserError: there are none, or one without actions.
    """
    demos: list[Demo] = []
    for _, name in numbered(members(data, f"{file}, data"), DEMO):
        where = f"{file}, data/{name}"
        group = member(data, name)
        if not isinstance(group, h5py.Group):
            raise UserError(f"{where} is no group; a demo is a group that holds `actions`")
        actions = array(member(group, "actions"), f"{where}/actions")
        demos.append(Demo(file, f"data/{name}", int(actions.shape[0]), _instruction(group, where)))
    if not demos:
        raise UserError(f"{file}: `data` holds no demo_<number>; give a robomimic or LIBERO file")
    return demos


def order_by_masks(
    demos: Sequence[Demo], masks: Mapping[str, set[str]]
) -> tuple[list[Demo], dict[str, range], tuple[str, ...]]:
    """Return the demos, those of "train" first, then those of "valid", then the rest; and every mask that is now one run.

    Within each part the order is that of the demos' numbers. Where "train" and "valid" overlap the order stays as it is.
    """
    names = {demo.group.removeprefix("data/") for demo in demos}
    held = {name: mask & names for name, mask in masks.items()}
    first = [held.get(name, set[str]()) for name in _FIRST]
    if not first[0] & first[1]:
        rank = {name: part for part, mask in enumerate(first) for name in mask}
        demos = sorted(demos, key=lambda demo: rank.get(demo.group.removeprefix("data/"), 2))  # stable
    place = {demo.group.removeprefix("data/"): number for number, demo in enumerate(demos)}
    splits: dict[str, range] = {}
    notes: list[str] = []
    for name, mask in sorted(held.items()):
        places = sorted(place[demo] for demo in mask)
        if places and places[-1] - places[0] + 1 == len(places):
            splits[name] = range(places[0], places[-1] + 1)
        else:
            notes.append(f"mask '{name}' ({len(places)} demos) is no run of episodes and is not offered as a split")
        if lost := len(masks[name]) - len(mask):
            notes.append(f"mask '{name}' names {lost} demos that are not in the file")
    return list(demos), splits, tuple(notes)


def plain_columns(nodes: Mapping[str, Node], prefix: str, place: str) -> dict[str, Column]:
    """Return each dataset as a column of its own name."""
    return {f"{prefix}{k}": Column(feature_of(f"{prefix}{k}", [n]), (f"{place}{k}",)) for k, n in nodes.items()}


def unread_note(unread: Sequence[str]) -> tuple[str, ...]:
    """Say what is not offered: depth images, text, links."""
    return (f"not read: {', '.join(unread[:20])}",) if unread else ()


def osc_pose_channels() -> tuple[Channel, ...]:
    """The action of robosuite's OSC_POSE controller with one gripper: fractions of its largest step, and the gripper's command."""
    moves = tuple(Channel(f"ee_delta_{axis}", "fraction", "world", "delta", -1.0, 1.0) for axis in "xyz")
    turns = tuple(Channel(f"ee_delta_r{axis}", "fraction", "world", "delta", -1.0, 1.0) for axis in "xyz")
    return (*moves, *turns, Channel("gripper", "1", "none", "absolute", -1.0, 1.0))


OSC_ROTATION = RotationForm("rotation_vector", first=3)
OSC_GRIPPER = Gripper("gripper", open=-1.0, closed=1.0, threshold=0.0)  # robosuite's PandaGripper.format_action


def _only_file(path: Path) -> Path:
    files = find_files(path)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:8])
        raise UserError(f"{path} holds {len(files)} robomimic files ({names}); give one of them")
    return files[0]


def _data(root: Node, file: Path) -> Node:
    data = member(root, "data")
    if not isinstance(data, h5py.Group):
        raise UserError(f"{file} has no group `data`; it should be a robomimic file")
    return data


def _instruction(demo: Node, where: str) -> str:
    lang = json_attribute(demo, "ep_meta", where).get("lang")
    return lang if isinstance(lang, str) else ""


def _masks(root: Node, file: Path) -> dict[str, set[str]]:
    group = member(root, "mask")
    if group is None:
        return {}
    masks: dict[str, set[str]] = {}
    for name in members(group, f"{file}, mask"):
        where = f"{file}, mask/{name}"
        node: Node = member(group, name)
        with reading(where):
            text = isinstance(node, h5py.Dataset) and (node.dtype.kind == "S" or h5py.check_string_dtype(node.dtype))
            if not text or len(node.shape) != 1:
                raise UserError(f"{where} should be an array of demo names")
            check_storage(node, where)
            if node.shape[0] > 1 << 20:
                raise UserError(f"{where} names {node.shape[0]} demos; at most {1 << 20} are read")
            values: list[Any] = read_all(node, where).tolist()
        masks[name] = {v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values}
    return masks


def _group(demo: Node, name: str, where: str) -> tuple[dict[str, Node], dict[str, Node], list[str]]:
    group = member(demo, name)
    return ({}, {}, []) if group is None else sort_members(group, f"{where}/{name}")


def _rate(env: Mapping[str, Any]) -> float | None:
    rate = inside(env, "env_kwargs", "control_freq")
    return float(rate) if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate <= 10_000 else None


def _state_keys(observed: Mapping[str, Node]) -> list[str]:
    """Return the proprioception of each robot, in order; empty where the first has not all of it."""
    keys: list[str] = []
    for robot in range(8):
        part = [f"robot{robot}_{name}" for name in PROPRIOCEPTION]
        if not all(key in observed and len(observed[key].shape) == 2 for key in part):
            break
        keys += part
    return keys


def _state_channels(keys: Sequence[str], nodes: Sequence[Node]) -> tuple[Channel, ...]:
    robots = len(keys) // len(PROPRIOCEPTION)
    widths = [int(node.shape[1]) for node in nodes[2 :: len(PROPRIOCEPTION)]]
    prefixes = [f"robot{robot}_" for robot in range(robots)] if robots > 1 else [""]
    return tuple(c for p, n in zip(prefixes, widths, strict=True) for c in _robot_channels(p, n, "unknown"))


def _robot_channels(prefix: str, fingers: int, unit: Unit) -> tuple[Channel, ...]:
    position = [Channel(f"{prefix}ee_{axis}", "m", "world") for axis in "xyz"]
    rotation = [Channel(f"{prefix}ee_q{axis}", "1", "world") for axis in "xyzw"]
    return (*position, *rotation, *(Channel(f"{prefix}gripper_{i}", unit, "joint") for i in range(fingers)))


def _action_channels(env: Mapping[str, Any], outer: Mapping[str, Node]) -> tuple[Channel, ...]:
    width = int(np.prod([float(n) for n in outer["actions"].shape[1:]]))
    return osc_pose_channels() if width == 7 and _osc_pose(env) else ()


def _osc_pose(env: Mapping[str, Any]) -> bool:
    """Whether env_args states one Panda under robosuite's OSC_POSE controller with relative targets."""
    robots = inside(env, "env_kwargs", "robots")
    controller: Any = inside(env, "env_kwargs", "controller_configs")
    if isinstance(controller, list) and len(cast("list[Any]", controller)) == 1:
        controller = controller[0]
    return (
        env.get("type") == ROBOSUITE
        and robots in ("Panda", ["Panda"])
        and isinstance(controller, dict)
        and cast("dict[str, Any]", controller).get("type") == "OSC_POSE"
        and cast("dict[str, Any]", controller).get("control_delta") is True
    )


def _embodiment(env: Mapping[str, Any], columns: Mapping[str, Column], views: Mapping[str, View]) -> Embodiment | None:
    """Return what env_args says, None where it does not name a robot, controller and rate that are known."""
    rate, action = _rate(env), columns[ACTION].feature
    if rate is None or action.names is None or not _osc_pose(env):
        return None
    state: tuple[Channel, ...] = ()
    if STATE in columns:
        state = _robot_channels("", columns[STATE].feature.shape[0] - 7, "m")
    return Embodiment(
        name="robosuite-panda-osc-pose",
        robot="panda",
        rate_hz=rate,
        action=osc_pose_channels(),
        state=state,
        cameras=tuple(view.camera for view in views.values()),
        action_rotation=OSC_ROTATION,
        state_rotation=RotationForm("quaternion", "xyzw", first=3) if state else RotationForm("none"),
        gripper=OSC_GRIPPER,
        state_source="measured" if state else "unknown",
        alignment="observation_before_action",
    )
