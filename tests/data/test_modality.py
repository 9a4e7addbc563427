"""GR00T's modality.json: the slices by hand, from its documentation."""

from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper, RotationForm
from ideomotor.data.dataset import Feature
from ideomotor.data.lerobot.info import CameraFeature
from ideomotor.data.lerobot.modality import channel_parts, modality, rotation_type

ARM = Embodiment(
    name="arm",
    robot="panda",
    rate_hz=10.0,
    action=(
        *(Channel(f"ee_{axis}", "m", mode="delta") for axis in "xyz"),
        *(Channel(f"turn_{axis}", "rad", mode="delta") for axis in "xyz"),
        Channel("gripper_command", "fraction", frame="none"),
    ),
    state=(
        *(Channel(f"joint_{i}", "rad", frame="joint") for i in range(7)),
        *(Channel(f"finger_{i}", "m", frame="joint") for i in range(2)),
    ),
    cameras=(Camera("front", 64, 64),),
    action_rotation=RotationForm("rotation_vector", first=3),
    gripper=Gripper("gripper_command", 1.0, 0.0, 0.5),
)
FRONT = CameraFeature("observation.images.front", "front", 64, 64, 3, video=True)


def test_parts_follow_the_channels_of_the_embodiment() -> None:
    features = {
        "action": Feature("action", "float32", (7,)),
        "observation.state": Feature("observation.state", "float64", (9,)),
    }
    assert modality(features, [FRONT], ARM) == {
        "state": {
            "joint": {"start": 0, "end": 7, "dtype": "float64", "absolute": True},
            "finger": {"start": 7, "end": 9, "dtype": "float64", "absolute": True},
        },
        "action": {
            "ee": {"start": 0, "end": 3, "dtype": "float32", "absolute": False},
            "rotation": {"start": 3, "end": 6, "dtype": "float32", "absolute": False, "rotation_type": "axis_angle"},
            "gripper": {"start": 6, "end": 7, "dtype": "float32", "absolute": True},
        },
        "video": {"front": {"original_key": "observation.images.front"}},
        "annotation": {"human.action.task_description": {"original_key": "task_index"}},
    }


def test_what_is_not_known_is_one_part() -> None:
    found = modality({"action": Feature("action", "float32", (7,))}, [], None)
    assert found["action"] == {"action": {"start": 0, "end": 7, "dtype": "float32"}}
    assert found["state"] == {}
    assert found["video"] == {}
    other_width = modality({"action": Feature("action", "float32", (5,))}, [], ARM)
    assert other_width["action"] == {"action": {"start": 0, "end": 5, "dtype": "float32"}}


def test_slices_cover_every_channel_once_under_names_of_their_own() -> None:
    names = ("left_0", "left_1", "grip", "left_2", "x", "y", "z")
    channels = [Channel(name, "unknown", mode="unknown") for name in names]
    parts = channel_parts(channels, RotationForm("none"), "grip")
    spans = [(part["start"], part["end"]) for part in parts.values()]
    assert spans == [(0, 2), (2, 3), (3, 4), (4, 7)]
    assert list(parts) == ["left", "gripper", "left_2", "part"]
    assert not any("absolute" in part for part in parts.values())


def test_only_rotations_that_mean_the_same_are_named() -> None:
    assert rotation_type(RotationForm("quaternion", "wxyz", first=0)) == "quaternion"
    assert rotation_type(RotationForm("quaternion", "xyzw", first=0)) is None
    assert rotation_type(RotationForm("euler", "XYZ", first=0)) == "euler_angles_rpy"
    assert rotation_type(RotationForm("euler", "ZYX", first=0)) == "euler_angles_ypr"
    assert rotation_type(RotationForm("euler", "xyz", first=0)) is None  # extrinsic
    assert rotation_type(RotationForm("rot6d", "rows", first=0)) == "rotation_6d"
    assert rotation_type(RotationForm("rot6d", "columns", first=0)) is None
    assert rotation_type(RotationForm("matrix", first=0)) == "matrix"
    assert rotation_type(RotationForm("unknown")) is None
