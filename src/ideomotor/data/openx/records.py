"""The records: OpenVLA's mixture and LIBERO's four suites. Adding a dataset is one entry here.

The standardization of each is that of OpenVLA (Kim et al. 2024, arXiv 2406.09246); robots and rates are what several overviews agree
on; quoted descriptions are those of TFDS's catalogue (tensorflow.org/datasets/catalog).
"""

from collections.abc import Mapping

from ideomotor.core.spec import RotationForm
from ideomotor.data.openx import standardize
from ideomotor.data.openx.build import NOTHING, About, Views, record
from ideomotor.data.openx.channels import ANGLES, EULER, JOINT, JOINTS, NONE, POSITION, QUAT, Body, Encoding
from ideomotor.data.openx.parts import Clipped, Euler, Fill, FromSign, Held, Inverted, Part, Take
from ideomotor.data.openx.record import SIGN_TO_VERIFY, Record
from ideomotor.data.openx.standardize import Slices

CONVERTED = "_converted_externally_to_rlds"

WORLD, ROTATION = Take("action.world_vector", 0, 3), Take("action.rotation_delta", 0, 3)
CLOSEDNESS = Take("action.gripper_closedness_action", 0, 1)
SIX, LAST = Take("action", 0, 6), Take("action", -1, 1)
PAD = Fill(0.0, 1)
OTHER_WAY = "TFDS's catalogue says {}, which would make 1 = closed here"
ABSOLUTE = "TFDS's catalogue calls the action {}: poses, where OpenVLA reads steps"


def _google(name: str, body: Body, pose: str, about: About = NOTHING) -> Record:
    """The two datasets of Google's robots with one form of action."""
    state = (Take(pose, 0, 7), Take("observation.gripper_closed", 0, 1))
    return record(name, body, Views("image"), Slices(state, (WORLD, ROTATION, Held(CLOSEDNESS))), about)


def _state(*spans: tuple[int, int] | None, column: str = "observation.state") -> tuple[Part, ...]:
    """Return pieces (first, width) of one column; None is a pad."""
    return tuple(PAD if span is None else Take(column, *span) for span in spans)


def _libero(suite: str) -> Record:
    names = (*POSITION, "ee_rx", "ee_ry", "ee_rz", "pad", "gripper_left", "gripper_right")
    turns = RotationForm("rotation_vector", "", "continuous", 3)  # robosuite's quat2axisangle
    return record(
        f"libero_{suite}_no_noops",
        Body("franka", 20.0, Encoding(names, turns)),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 6), None, (-2, 2)), (SIX, FromSign(LAST))),
        About(notes=("OpenVLA's state has 9 numbers, one of them a pad; OpenVLA-OFT's has 8, without the pad",)),
    )


_ALL = (
    _google(
        "fractal20220817_data",
        Body("google-robot", 3.0, QUAT, frame="base"),
        "observation.base_pose_tool_reached",
        About(("TFDS's catalogue calls the gripper's action a 'continuous gripper position'; OpenVLA reads events",)),
    ),
    _google("kuka", Body("kuka-iiwa", 10.0, QUAT), "observation.clip_function_input.base_pose_tool_reached"),
    record(
        "bridge_orig",
        Body("widowx", 5.0, EULER),
        Views("image_0", "image_1"),
        standardize.BRIDGE,
        About(
            drops="the first step (its action is all zero) and the last (it has no next state)",
            notes=("differences of angles are not wrapped at +-pi",),
        ),
    ),
    record(
        "taco_play",
        Body("franka", 15.0, EULER, frame="base"),
        Views("rgb_static", wrist="rgb_gripper"),
        Slices(
            _state((0, 6), None, (7, 1), column="observation.robot_obs"),
            (Take("action.rel_actions_world", 0, 6), Clipped(Take("action.rel_actions_world", -1, 1))),
        ),
        About(
            (
                SIGN_TO_VERIFY,
                OTHER_WAY.format("-1 is open, 1 is closed"),
                "TFDS's catalogue orders the angles of the action yaw, pitch, roll",
                "TFDS's catalogue has the gripper's width at robot_obs[6]; OpenVLA's state takes robot_obs[7], the first joint",
            )
        ),
    ),
    record(
        "jaco_play",
        Body("jaco-2", 10.0, EULER),
        Views("image", wrist="image_wrist"),
        Slices(
            _state((0, 6), None, (-1, 1), column="observation.end_effector_cartesian_pos"),
            (WORLD, Fill(0.0, 3), Held(CLOSEDNESS)),
        ),
        About(
            (
                "what the 7 numbers of end_effector_cartesian_pos are: OpenVLA reads a position, three angles and a gripper",
            )
        ),
    ),
    record(
        "berkeley_cable_routing",
        Body("franka", 10.0, JOINT, motion="velocity"),
        Views("image", "top_image", "wrist45_image"),
        Slices(_state((0, 7), None, column="observation.robot_state"), (WORLD, ROTATION, Fill(0.0, 1))),
        About((SIGN_TO_VERIFY, "the dataset has no gripper command: the constant 0 says closed")),
    ),
    record(
        "roboturk",
        Body("sawyer", 10.0, NONE),
        Views("front_rgb"),
        Slices((), (WORLD, ROTATION, Inverted(Clipped(CLOSEDNESS)))),
    ),
    record(
        "viola",
        Body("franka", 20.0, JOINT),
        Views("agentview_rgb", wrist="eye_in_hand_rgb"),
        Slices(
            (Take("observation.joint_states", 0, 7), Take("observation.gripper_states", 0, 1)),
            (WORLD, ROTATION, Inverted(Clipped(CLOSEDNESS))),
        ),
    ),
    record(
        "berkeley_autolab_ur5",
        Body("ur5", 5.0, QUAT),
        Views("image", wrist="hand_image"),
        Slices(_state((6, 8), column="observation.robot_state"), (WORLD, ROTATION, Held(CLOSEDNESS))),
    ),
    record(
        "toto",
        Body("franka", 30.0, JOINT),
        Views("image"),
        Slices(_state((0, 7), None), (WORLD, ROTATION, Take("action.open_gripper", 0, 1))),
    ),
    record(
        "language_table",
        Body("xarm", 10.0, Encoding(("ee_x", "ee_y", *["pad"] * 6))),
        Views("rgb"),
        standardize.LANGUAGE_TABLE,
        About(own=standardize.language_table, instruction="observation.instruction"),
    ),
    record(
        f"stanford_hydra_dataset{CONVERTED}",
        Body("franka", 10.0, EULER),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 3), (7, 3), None, (-3, 1)), (SIX, Inverted(LAST))),
    ),
    record(
        f"austin_buds_dataset{CONVERTED}",
        Body("franka", 20.0, JOINT),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 8)), (SIX, Inverted(Clipped(LAST)))),
    ),
    record(
        f"nyu_franka_play_dataset{CONVERTED}",
        Body("franka", 3.0, EULER),
        Views("image", "image_additional_view"),
        Slices(_state((-6, 6), None, None), (Take("action", -8, 6), Clipped(Take("action", -2, 1)))),
        About(
            (SIGN_TO_VERIFY,), lost="action[0:7] (joint velocities) and action[14] (end of the episode) are not used"
        ),
    ),
    record(
        f"furniture_bench_dataset{CONVERTED}",
        Body("franka", 10.0, QUAT, rotation=RotationForm("euler", "xyz", first=3)),
        Views("image", wrist="wrist_image"),
        Slices(
            _state((0, 7), (-1, 1)),
            (Take("action", 0, 3), Euler(Take("action", 3, 4)), Inverted(Clipped(LAST))),
        ),
        About(("order of the quaternion in the action: taken as xyzw, as OpenVLA does",)),
    ),
    record(
        f"ucsd_kitchen_dataset{CONVERTED}",
        Body("xarm", 2.0, JOINT, motion="unknown"),
        Views("image"),
        Slices(_state((0, 7), None), (Take("action", 0, 6), Take("action", -2, 1))),
        About(
            (SIGN_TO_VERIFY, ABSOLUTE.format("'end-effector position and orientation'")),
            lost="action[7] (end of the episode) is not used",
        ),
    ),
    record(
        f"austin_sailor_dataset{CONVERTED}",
        Body("franka", 20.0, QUAT),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 8)), (SIX, Inverted(Clipped(LAST)))),
    ),
    record(
        f"austin_sirius_dataset{CONVERTED}",
        Body("franka", 20.0, QUAT),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 8)), (SIX, Inverted(Clipped(LAST)))),
        About(
            (
                "TFDS's catalogue calls the state seven joint angles and a gripper; OpenVLA reads a position and a quaternion",
            )
        ),
    ),
    record(
        f"dlr_edan_shared_control{CONVERTED}",
        Body("edan", 5.0, Encoding((*POSITION, *ANGLES, "state_6", "gripper"), EULER.rotation), motion="unknown"),
        Views("image"),
        Slices(_state((0, 7), None), (SIX, Inverted(LAST))),
        About(
            (
                ABSOLUTE.format("'EEF position' and Euler angles of scipy's 'zxy'"),
                "what state[6] is: no source says; OpenVLA puts it where others have a pad",
            )
        ),
    ),
    record(
        f"iamlab_cmu_pickup_insert{CONVERTED}",
        Body("franka", 20.0, JOINT, motion="unknown", rotation=RotationForm("euler", "xyz", first=3)),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 8)), (Take("action", 0, 3), Euler(Take("action", 3, 4)), Take("action", 7, 1))),
        About(
            (
                SIGN_TO_VERIFY,
                ABSOLUTE.format("'end-effector position' and 'quaternion'"),
                "order of the quaternion in the action: taken as xyzw, as OpenVLA does",
            )
        ),
    ),
    record(
        "utaustin_mutex",
        Body("franka", 20.0, JOINT),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 8)), (SIX, Inverted(Clipped(LAST)))),
    ),
    record(
        "berkeley_fanuc_manipulation",
        Body("fanuc", 10.0, Encoding((*JOINTS[:6], "pad", "gripper"), frame="joint")),
        Views("image", wrist="wrist_image"),
        Slices(_state((0, 6), None, (6, 1)), (Take("action", 0, 6), Inverted(Take("observation.state", 6, 1)))),
        About(
            (OTHER_WAY.format("state[6] is the 'gripper open status'"),),
            notes=("the dataset has no gripper command: the gripper's state at the same step stands in",),
        ),
    ),
    record(
        "cmu_stretch",
        Body("stretch", 10.0, EULER, motion="unknown"),
        Views("image"),
        Slices((*_state((0, 3)), Fill(0.0, 3), *_state(None, (-1, 1))), (Take("action", 0, 6), Take("action", -2, 1))),
        About(
            (SIGN_TO_VERIFY, ABSOLUTE.format("'ee pos' and 'ee rot'")),
            lost="action[7] (end of the episode) is not used",
        ),
    ),
    record(
        "bc_z",
        Body(
            "google-robot",
            10.0,
            Encoding(
                (*POSITION, "ee_rx", "ee_ry", "ee_rz", "pad", "gripper"),
                RotationForm("rotation_vector", first=3),
                "base",
            ),
            frame="base",
            rotation=RotationForm("rotation_vector", first=3),
        ),
        Views("image"),
        Slices(
            (
                Take("observation.present.xyz", 0, 3),
                Take("observation.present.axis_angle", 0, 3),
                PAD,
                Take("observation.present.sensed_close", 0, 1),
            ),
            (
                Take("action.future.xyz_residual", 0, 3),
                Take("action.future.axis_angle_residual", 0, 3),
                Inverted(Take("action.future.target_close", 0, 1)),
            ),
        ),
        About(
            lost="nine of the ten future steps of every action are not used",
            notes=(
                "version 0.1.0 alone has this layout",
                "the rotation is the difference of two rotation vectors, not the vector of a rotation",
                "the gripper's state is closedness (1 = closed), its action opening (1 = open)",
            ),
        ),
    ),
    record(
        "fmb_dataset",
        Body("franka", 10.0, QUAT),
        Views("image_side_1", "image_side_2", "image_wrist_1"),
        Slices(
            (Take("observation.eef_pose", 0, 7), Take("observation.state_gripper_pose", 0, 1)),
            (SIX, LAST),
        ),
        About((SIGN_TO_VERIFY, "eef_pose has 7 numbers: read as a position and a quaternion")),
    ),
    record(
        "dobbe",
        Body("stretch", 3.75, Encoding((*POSITION, *ANGLES, "gripper"), RotationForm("unknown", first=3))),
        Views("wrist_image"),
        Slices(_state((0, 7)), (SIX, LAST)),
        About((SIGN_TO_VERIFY,), notes=("the primary camera is the wrist's",)),
    ),
    record(
        "droid",
        Body(
            "franka",
            15.0,
            Encoding((*POSITION, *ANGLES, "gripper"), RotationForm("euler", first=3), "base"),
            motion="velocity",
            frame="base",
        ),
        Views("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left"),
        standardize.DROID,
        About(
            own=standardize.droid,
            own_steps=True,
            drops="steps in which the end effector is told to stand still, so that a chunk steps over them",
            notes=(
                "exterior_image_1_left is primary and exterior_image_2_left secondary throughout: not swapped at random as OpenVLA does",
                "the raw action (joint velocities) is not what is learned: action_dict/cartesian_velocity is",
            ),
        ),
    ),
    *map(_libero, ("spatial", "object", "goal", "10")),
)

RECORDS: Mapping[str, Record] = {record.name: record for record in _ALL}
ALIASES: Mapping[str, str] = {"bridge_dataset": "bridge_orig"}  # as its builder calls it


def record_of(name: str) -> Record | None:
    """Return the record of a dataset by the name in its dataset_info.json, None where there is none."""
    return RECORDS.get(ALIASES.get(name, name))
