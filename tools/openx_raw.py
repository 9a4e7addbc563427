"""Write tiny datasets in the raw layout of each Open X-Embodiment dataset that has a record, with TFDS: the test data of the records.

    python3 -m venv build/tfds && build/tfds/bin/pip install tensorflow-cpu tensorflow-datasets==4.9.9 importlib_resources
    .venv/bin/python tools/openx_raw.py build/tfds/bin/python tests/data/files/openx

Two episodes of 6 and 4 steps each, images of 8 x 8 pixels. A number is start + i + 100 t + 1000 e (i-th of its column, step t, episode
e), so that it tells where it came from; grippers, rotations and BridgeData's states are written out. Layouts: TFDS's catalogue
(tensorflow.org/datasets/catalog) and, where a dataset is not in it, the features that its converters declare. Sentence embeddings
are cut to 4 numbers, and metadata of whole episodes are left out, except for some.
The second half of this file runs in TFDS's environment, where Ideomotor is not installed; its output is the same every time.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LENGTHS = (6, 4)
SENTENCES = ("pick up the red apple", "open the top drawer")
CONVERTED = "_converted_externally_to_rlds"


@dataclass(frozen=True)
class Number:
    """Numbers that tell where they came from."""

    shape: tuple[int, ...]
    start: float = 0.0
    dtype: str = "float32"
    encoding: str = "none"


@dataclass(frozen=True)
class Rows:
    """Numbers written out, a row for each step of both episodes."""

    rows: tuple[Any, ...]  # of each episode
    shape: tuple[int, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Picture:
    """An image whose colour tells episode and step, in a shade for each camera."""

    shade: int
    form: str = "jpeg"
    depth: bool = False


@dataclass(frozen=True)
class Words:
    """A sentence for each episode."""

    sentences: tuple[str, str] = SENTENCES


Spec = dict[str, Any]  # name -> one of these, or a Spec

# Grippers.
EVENTS = Rows(([0, 0, 1, 0, -1, 0], [0, 0.05, 0, -0.05]))  # relative: > 0.1 closes, < -0.1 opens
SIGNED = Rows(([-1, 0, 0.25, 1, 2, 0.5], [1, 1, 0, 0]))  # to be clipped to [0, 1]
PLAIN = Rows(([0, 0, 0.25, 1, 1, 0.5], [1, 1, 0, 0]))
SIGNS = Rows(([-1, -1, 1, 1, 1, -1], [1, 1, -1, -1]))


def one(rows: Rows) -> Rows:
    """Return the same numbers, of shape (1,)."""
    return Rows(tuple([[value] for value in part] for part in rows.rows), (1,), rows.dtype)


def with_last(width: int, last: Rows, after: int = 0) -> Rows:
    """Return rows of `width` numbers start + i + 100 t + 1000 e from 0.5, with a gripper before the `after` last ones."""
    parts: list[list[list[float]]] = []
    for e, length in enumerate(LENGTHS):
        rows = [[0.5 + i + 100 * t + 1000 * e for i in range(width)] for t in range(length)]
        for t, row in enumerate(rows):
            row[width - 1 - after] = last.rows[e][t]
        parts.append(rows)
    return Rows((parts[0], parts[1]), (width,))


HALF = 0.7071067811865476
QUATERNIONS = (  # x y z w: none; a quarter turn about z, x; a sixth about -y, of length 2; a quarter about z as -q; half about x
    [
        [0, 0, 0, 1],
        [0, 0, HALF, HALF],
        [HALF, 0, 0, HALF],
        [0, -1, 0, 1.7320508075688772],
        [0, 0, -HALF, -HALF],
        [1, 0, 0, 0],
    ],
    [[0, 0, 0, 1]] * 4,
)


def with_quaternion(last: Rows) -> Rows:
    """Return rows of position, quaternion, gripper."""
    parts = [
        [
            [0.5 + i + 100 * t + 1000 * e for i in range(3)] + list(QUATERNIONS[e][t]) + [last.rows[e][t]]
            for t in range(length)
        ]
        for e, length in enumerate(LENGTHS)
    ]
    return Rows((parts[0], parts[1]), (8,))


def google() -> Spec:
    """The action of Google's robots."""
    return {
        "base_displacement_vector": Number((2,), 90),
        "base_displacement_vertical_rotation": Number((1,), 92),
        "gripper_closedness_action": one(EVENTS),
        "rotation_delta": Number((3,), 3.5),
        "terminate_episode": Rows(([[0, 1, 0]] * 5 + [[1, 0, 0]], [[0, 1, 0]] * 4), (3,), "int32"),
        "world_vector": Number((3,), 0.5),
    }


def hosted(action: Spec, observation: Spec) -> Spec:
    """A dataset that Google hosts from the start: the sentence among the observations."""
    words: Spec = {"natural_language_instruction": Words(), "natural_language_embedding": Number((4,), 7)}
    return {"action": action, "observation": {**observation, **words}, "reward": Number(())}


def twist(gripper: Spec) -> Spec:
    """An action of world vector, rotation and gripper."""
    ends = Rows(([0, 0, 0, 0, 0, 1], [0, 0, 0, 1]))
    return {
        "rotation_delta": Number((3,), 3.5),
        "terminate_episode": ends,
        "world_vector": Number((3,), 0.5),
        **gripper,
    }


def converted(action: Any, observation: Spec) -> Spec:
    """A dataset that was converted: the sentence beside the observations."""
    return {
        "action": action,
        "observation": observation,
        "language_instruction": Words(),
        "language_embedding": Number((4,), 7),
        "reward": Number(()),
        "discount": Number((), 1),
    }


def views(*names: str, form: str = "png") -> Spec:
    """Return a picture for each camera."""
    return {name: Picture(40 * i, form) for i, name in enumerate(names, start=1)}


BRIDGE_STATE = Rows(  # x y z roll pitch yaw gripper
    (
        [[9, 9, 9, 9, 9, 9, 0.1], [1, 2, 3, 0, 0, 3, 0.2], [2, 4, 6, 0.5, 0, -3, 0.3], [4, 8, 2, 0.5, 1, -3, 0.4]]
        + [[4, 8, 2, 0.5, 1, -3, 0.5], [5, 0, 2, 0, 1, 0, 0.6]],
        [[t, 0, 0, 0, 0, 0, 1] for t in range(4)],
    ),
    (7,),
)
BRIDGE_GRIPPER = Rows(([1, 0.5, 0, 0.96, 0.3, 0.4], [1, 1, 0, 0]))
VELOCITY = Rows(
    (
        [
            [0] * 6,
            [0.5, 0, 0, 0, 0, -0.25],
            [7e-6, 0, 0, 0, 0, 0],
            [0, 5.5e-6, 0, 0, 0, 0],
            [0, 6e-6, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 1],
        ],
        [[0] * 6] * 4,
    ),
    (6,),
    "float64",
)


def codes(text: str) -> list[int]:
    """Return code points, a zero, and what stands behind it."""
    return ([ord(letter) for letter in text] + [0, 88, 89, 0] + [0] * 512)[:512]


TABLE_WORDS = Rows(([codes("push the réd star")] * 6, [codes("")] * 4), (512,), "int32")

FANUC = with_last(13, PLAIN, after=6)
FANUC_STATE = Rows(
    tuple([[x - 0.5 if i != 6 else x for i, x in enumerate(row)] for row in part] for part in FANUC.rows), (13,)
)

LAYOUTS: dict[str, Spec] = {
    "fractal20220817_data": hosted(
        google(),
        {
            "image": Picture(40),
            "base_pose_tool_reached": Number((7,)),
            "gripper_closed": Number((1,), 50),
            "gripper_closedness_commanded": Number((1,), 60),
            "height_to_bottom": Number((1,), 61),
            "orientation_box": Number((2, 3), 62),
            "workspace_bounds": Number((3, 3), 70),
        },
    ),
    "kuka": hosted(
        google(),
        {
            "image": Picture(40),
            "clip_function_input/base_pose_tool_reached": Number((7,), encoding="zlib"),
            "clip_function_input/workspace_bounds": Number((3, 3), 70, encoding="zlib"),
            "gripper_closed": Number((1,), 50, encoding="zlib"),
            "height_to_bottom": Number((1,), 61, encoding="zlib"),
            "task_id": Number((1,), 62, encoding="zlib"),
        },
    ),
    "bridge_orig": converted(
        Rows(
            tuple([[0.25] * 6 + [last] for last in part] for part in BRIDGE_GRIPPER.rows),
            (7,),
        ),
        {"state": BRIDGE_STATE, **views("image_0", "image_1", "image_2", "image_3", form="jpeg")},
    ),
    "taco_play": hosted(
        {
            "actions": Number((7,), 70),
            "rel_actions_gripper": Number((7,), 80),
            "rel_actions_world": with_last(7, SIGNED),
            "terminate_episode": Rows(([0] * 6, [0] * 4)),
        },
        {
            "robot_obs": Number((15,)),
            "depth_gripper": Number((8, 8)),
            "depth_static": Number((8, 8)),
            "structured_language_instruction": Words(("grasp_apple", "open_drawer")),
            **views("rgb_static", "rgb_gripper", form="jpeg"),
        },
    ),
    "jaco_play": hosted(
        {key: google()[key] for key in ("gripper_closedness_action", "terminate_episode", "world_vector")},
        {
            "end_effector_cartesian_pos": Number((7,)),
            "end_effector_cartesian_velocity": Number((6,), 60),
            "joint_pos": Number((8,), 70),
            **views("image", "image_wrist", form="jpeg"),
        },
    ),
    "berkeley_cable_routing": hosted(
        twist({}),
        {"robot_state": Number((7,)), **views("image", "top_image", "wrist225_image", "wrist45_image", form="jpeg")},
    ),
    "roboturk": hosted(twist({"gripper_closedness_action": one(SIGNED)}), views("front_rgb", form="jpeg")),
    "viola": hosted(
        twist({"gripper_closedness_action": SIGNED}),
        {
            "joint_states": Number((7,)),
            "gripper_states": Number((1,), 50),
            "ee_states": Number((16,), 60),
            **views("agentview_rgb", "eye_in_hand_rgb", form="jpeg"),
        },
    ),
    "berkeley_autolab_ur5": hosted(
        twist({"gripper_closedness_action": EVENTS}),
        {
            "robot_state": Number((15,)),
            "image_with_depth": Picture(0, "png", depth=True),
            **views("image", "hand_image", form="jpeg"),
        },
    ),
    "toto": hosted(
        twist({"open_gripper": Rows(([True, True, False, False, True, False], [False] * 4), (), "bool")}),
        {"state": Number((7,)), "image": Picture(40)},
    ),
    "language_table": {
        "action": Number((2,), 0.5),
        "observation": {
            "effector_target_translation": Number((2,), 60),
            "effector_translation": Number((2,)),
            "instruction": TABLE_WORDS,
            "rgb": Picture(40),
        },
        "reward": Number(()),
    },
    f"stanford_hydra_dataset{CONVERTED}": {
        **converted(with_last(7, PLAIN), {"state": Number((27,)), **views("image", "wrist_image")}),
        "is_dense": Rows(([True] * 6, [False] * 4), (), "bool"),
    },
    f"austin_buds_dataset{CONVERTED}": converted(
        with_last(7, SIGNED), {"state": Number((24,)), **views("image", "wrist_image")}
    ),
    f"nyu_franka_play_dataset{CONVERTED}": converted(
        with_last(15, SIGNED, after=1),
        {
            "state": Number((13,)),
            "depth": Number((8, 8, 1), dtype="int32"),
            "depth_additional_view": Number((8, 8, 1), dtype="int32"),
            **views("image", "image_additional_view"),
        },
    ),
    f"furniture_bench_dataset{CONVERTED}": {
        **converted(with_quaternion(SIGNED), {"state": Number((35,)), **views("image", "wrist_image")}),
        "skill_completion": Number((), 3),
    },
    f"ucsd_kitchen_dataset{CONVERTED}": converted(
        with_last(8, PLAIN, after=1), {"state": Number((21,)), "image": Picture(40, "png")}
    ),
    f"austin_sailor_dataset{CONVERTED}": converted(
        with_last(7, SIGNED),
        {
            "state": Number((8,)),
            "state_ee": Number((16,), 60),
            "state_gripper": Number((1,), 80),
            "state_joint": Number((7,), 90),
            **views("image", "wrist_image"),
        },
    ),
    f"austin_sirius_dataset{CONVERTED}": {
        **converted(
            with_last(7, SIGNED),
            {
                "state": Number((8,)),
                "state_ee": Number((16,), 60),
                "state_gripper": Number((1,), 80),
                "state_joint": Number((7,), 90),
                **views("image", "wrist_image"),
            },
        ),
        "action_mode": Number((1,), 5),
        "intv_label": Number((1,), 6),
    },
    f"dlr_edan_shared_control{CONVERTED}": converted(
        with_last(7, PLAIN), {"state": Number((7,)), "image": Picture(40, "png")}
    ),
    f"iamlab_cmu_pickup_insert{CONVERTED}": converted(
        with_quaternion(PLAIN), {"state": Number((20,)), **views("image", "wrist_image")}
    ),
    "utaustin_mutex": converted(with_last(7, SIGNED), {"state": Number((24,)), **views("image", "wrist_image")}),
    "berkeley_fanuc_manipulation": converted(
        Number((6,), 0.5),
        {"end_effector_state": Number((7,), 60), "state": FANUC_STATE, **views("image", "wrist_image")},
    ),
    "cmu_stretch": converted(with_last(8, PLAIN, after=1), {"state": Number((4,)), "image": Picture(40, "png")}),
    "bc_z": hosted(
        {
            "future/axis_angle_residual": Number((30,), 3.5),
            "future/target_close": Rows(
                ([[c] + [1] * 9 for c in (0, 0, 1, 1, 0, 1)], [[1] + [0] * 9] * 4), (10,), "int64"
            ),
            "future/xyz_residual": Number((30,), 0.5),
        },
        {
            "image": Picture(40),
            "episode_success": Number((), 1),
            "present/autonomous": Number((), 0, "int64"),
            "present/axis_angle": Number((3,), 3),
            "present/intervention": Number((), 1, "int64"),
            "present/sensed_close": Number((1,), 50),
            "present/xyz": Number((3,)),
            "sequence_length": Number((), 6, "int64"),
        },
    ),
    "fmb_dataset": converted(
        with_last(7, PLAIN),
        {
            "color_id": Rows(([3] * 6, [4] * 4), (), "uint8"),
            "eef_force": Number((3,), 60),
            "eef_pose": Number((7,)),
            "joint_pos": Number((7,), 70),
            "image_side_1_depth": Number((8, 8)),
            "primitive": Words(("grasp", "insert")),
            "state_gripper_pose": Number((), 50),
            **views("image_side_1", "image_side_2", "image_wrist_1", "image_wrist_2"),
        },
    ),
    "dobbe": converted(
        with_last(7, PLAIN),
        {
            "gripper": Number((1,), 60),
            "quat": Number((4,), 61),
            "rot": Number((3,), 65),
            "state": Number((7,)),
            "wrist_image": Picture(40, "png"),
            "xyz": Number((3,), 70),
        },
    ),
    "droid": {
        "action": Number((7,), 80, "float64"),
        "action_dict": {
            "cartesian_position": Number((6,), 60, "float64"),
            "cartesian_velocity": VELOCITY,
            "gripper_position": Rows(tuple([[v] for v in part] for part in PLAIN.rows), (1,), "float64"),
            "gripper_velocity": Number((1,), 66, "float64"),
            "joint_position": Number((7,), 70, "float64"),
            "joint_velocity": Number((7,), 80, "float64"),
        },
        "observation": {
            "cartesian_position": Number((6,), 0, "float64"),
            "gripper_position": Number((1,), 50, "float64"),
            "joint_position": Number((7,), 90, "float64"),
            **views("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left", form="jpeg"),
        },
        "language_instruction": Words(),
        "language_instruction_2": Words(("another", "other")),
        "language_instruction_3": Words(("", "")),
        "reward": Number(()),
        "discount": Number((), 1),
    },
    **{
        f"libero_{suite}_no_noops": converted(
            with_last(7, SIGNS),
            {
                "state": Number((8,)),
                "joint_state": Number((7,), 60),
                **views("image", "wrist_image", form="jpeg"),
            },
        )
        for suite in ("spatial", "object", "goal", "10")
    },
}


# --------------------------------------------------------------------------- in Ideomotor's environment


def main(peer: str, out: str) -> None:
    """Let the peer write all datasets."""
    command = [peer, str(Path(__file__).resolve()), "--inside", str(Path(out).resolve())]
    subprocess.run(command, check=True)
    size = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
    print(f"{len(LAYOUTS)} datasets, {size / 1e6:.2f} MB in {out}")


# --------------------------------------------------------------------------- in TFDS's environment


def inside(out: Path) -> None:
    """Write each dataset as `name/version`."""
    import shutil
    import tempfile

    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as temporary:
        for name, spec in LAYOUTS.items():
            version = "1.0.0" if name.startswith(("bridge", "libero", "droid", "fmb")) else "0.1.0"
            metadata = {"file_path": tfds.features.Text()}
            steps = {**spec, **{flag: Rows((), (), "bool") for flag in ("is_first", "is_last", "is_terminal")}}
            features = tfds.features.FeaturesDict(
                {"steps": tfds.features.Dataset(declare(steps)), "episode_metadata": metadata}
            )
            tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version=version,
                features=features,
                split_datasets={"train": [(e, episode(spec, e)) for e in range(len(LENGTHS))]},
                data_dir=temporary,
                disable_shuffling=True,
            )
            for shard in (Path(temporary) / name / version).glob("*.tfrecord*"):
                sort_keys(shard)
            target = out / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path(temporary) / name, target)


def sort_keys(shard: Path) -> None:
    """Write the same records with their features in order: TFDS writes them in an order that changes from run to run."""
    import tensorflow as tf

    records = [tf.train.Example.FromString(raw) for raw in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record.SerializeToString(deterministic=True))


def declare(spec: Any) -> Any:
    """Return the features of a spec."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(spec, dict):
        return {name: declare(child) for name, child in spec.items()}
    if isinstance(spec, Words):
        return tfds.features.Text()
    if isinstance(spec, Picture):
        if spec.depth:
            return tfds.features.Image(shape=(8, 8, 1), dtype=np.float32, encoding_format="png")
        return tfds.features.Image(shape=(8, 8, 3), encoding_format=spec.form)
    encoding = getattr(spec, "encoding", "none")
    if spec.shape == ():
        return tfds.features.Scalar(dtype=np.dtype(spec.dtype))
    return tfds.features.Tensor(shape=spec.shape, dtype=np.dtype(spec.dtype), encoding=encoding)


def episode(spec: Spec, e: int) -> dict[str, Any]:
    """Return one episode."""
    length = LENGTHS[e]
    flags = [{"is_first": t == 0, "is_last": t == length - 1, "is_terminal": t == length - 1} for t in range(length)]
    steps = [{**value(spec, e, t), **flags[t]} for t in range(length)]
    return {"steps": steps, "episode_metadata": {"file_path": f"/made/up/{e}"}}


def value(spec: Any, e: int, t: int) -> Any:
    """Return what stands at step t of episode e."""
    import numpy as np

    if isinstance(spec, dict):
        return {name: value(child, e, t) for name, child in spec.items()}
    if isinstance(spec, Words):
        return spec.sentences[e]
    if isinstance(spec, Picture):
        if spec.depth:
            return np.full((8, 8, 1), 0.5 + t, np.float32)
        return np.full((8, 8, 3), (spec.shade, 20 * t, 200 * e), np.uint8)
    if isinstance(spec, Rows):
        return np.array(spec.rows[e][t], spec.dtype)
    count = int(np.prod(spec.shape))
    return (spec.start + np.arange(count).reshape(spec.shape) + 100 * t + 1000 * e).astype(spec.dtype)


if __name__ == "__main__":
    inside(Path(sys.argv[2])) if sys.argv[1] == "--inside" else main(sys.argv[1], sys.argv[2])
