"""What each raw dataset of `tests/data/files/openx` is in the standard form: literals, worked out by hand from the published rules.

The raw numbers (tools/openx_raw.py) are start + i + 100 t + 1000 e: the i-th of its column, step t of 6, episode e. So `state` and `action`
give the first and the last step of episode 0, and every step between lies on the line; grippers are written out, step by step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CONVERTED = "_converted_externally_to_rlds"
QUARTER, THIRD, HALF = 1.5707963267948966, 1.0471975511965976, 3.141592653589793  # pi / 2, pi / 3, pi

APPLE = "pick up the red apple"
DRAWER = "open the top drawer"


@dataclass(frozen=True)
class Expected:
    """Episode 0 in the standard form."""

    state: tuple[Sequence[float], Sequence[float]]  # first and last step
    action: tuple[Sequence[float], Sequence[float]]  # the same, without the gripper
    gripper: Sequence[float]
    cameras: dict[str, int]  # role -> red of its picture
    instruction: str = APPLE
    turns: Sequence[Sequence[float]] | None = None  # roll, pitch, yaw of every step, where they do not lie on a line


# Raw commands of the gripper, and what becomes of them.
EVENTS = [1, 1, 0, 0, 1, 1]  # 0 0 +1 0 -1 0: the first event closes, so it was open before
INVERTED_CLIPPED = [1, 1, 0.75, 0, 0, 0.5]  # -1 0 .25 1 2 .5
CLIPPED = [0, 0, 0.25, 1, 1, 0.5]  # the same
INVERTED = [1, 1, 0.75, 0, 0, 0.5]  # 0 0 .25 1 1 .5
PLAIN = [0, 0, 0.25, 1, 1, 0.5]
SIGNS = [1, 1, 0, 0, 0, 1]  # -1 -1 1 1 1 -1: raw -1 opens

SIX = ([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], [500.5, 501.5, 502.5, 503.5, 504.5, 505.5])
EIGHT = ([0, 1, 2, 3, 4, 5, 6, 7], [500, 501, 502, 503, 504, 505, 506, 507])
SEVEN_PAD = ([0, 1, 2, 3, 4, 5, 6, 0], [500, 501, 502, 503, 504, 505, 506, 0])
POSE_AND_50 = ([0, 1, 2, 3, 4, 5, 6, 50], [500, 501, 502, 503, 504, 505, 506, 550])
TURNS = [  # quaternions xyzw: identity; a quarter about z, x; a sixth of a turn about -y; a quarter about z as -q; half about x
    [0, 0, 0],
    [0, 0, QUARTER],
    [QUARTER, 0, 0],
    [0, -THIRD, 0],
    [0, 0, QUARTER],
    [HALF, 0, 0],
]
LIBERO = Expected(
    ([0, 1, 2, 3, 4, 5, 0, 6, 7], [500, 501, 502, 503, 504, 505, 0, 506, 507]), SIX, SIGNS, {"primary": 40, "wrist": 80}
)

EXPECTED: dict[str, Expected] = {
    "fractal20220817_data": Expected(POSE_AND_50, SIX, EVENTS, {"primary": 40}),
    "kuka": Expected(POSE_AND_50, SIX, EVENTS, {"primary": 40}),
    "taco_play": Expected(
        ([0, 1, 2, 3, 4, 5, 0, 7], [500, 501, 502, 503, 504, 505, 0, 507]), SIX, CLIPPED, {"primary": 40, "wrist": 80}
    ),
    "jaco_play": Expected(
        ([0, 1, 2, 3, 4, 5, 0, 6], [500, 501, 502, 503, 504, 505, 0, 506]),
        ([0.5, 1.5, 2.5, 0, 0, 0], [500.5, 501.5, 502.5, 0, 0, 0]),
        EVENTS,
        {"primary": 40, "wrist": 80},
    ),
    "berkeley_cable_routing": Expected(SEVEN_PAD, SIX, [0] * 6, {"primary": 40, "secondary": 80, "wrist": 160}),
    "roboturk": Expected(([], []), SIX, INVERTED_CLIPPED, {"primary": 40}),
    "viola": Expected(POSE_AND_50, SIX, INVERTED_CLIPPED, {"primary": 40, "wrist": 80}),
    "berkeley_autolab_ur5": Expected(
        ([6, 7, 8, 9, 10, 11, 12, 13], [506, 507, 508, 509, 510, 511, 512, 513]),
        SIX,
        EVENTS,
        {"primary": 40, "wrist": 80},
    ),
    "toto": Expected(SEVEN_PAD, SIX, [1, 1, 0, 0, 1, 0], {"primary": 40}),
    "language_table": Expected(
        ([0, 1, 0, 0, 0, 0, 0, 0], [500, 501, 0, 0, 0, 0, 0, 0]),
        ([0.5, 1.5, 0, 0, 0, 0], [500.5, 501.5, 0, 0, 0, 0]),
        [1] * 6,
        {"primary": 40},
        "push the réd star",
    ),
    f"stanford_hydra_dataset{CONVERTED}": Expected(
        ([0, 1, 2, 7, 8, 9, 0, 24], [500, 501, 502, 507, 508, 509, 0, 524]),
        SIX,
        INVERTED,
        {"primary": 40, "wrist": 80},
    ),
    f"austin_buds_dataset{CONVERTED}": Expected(EIGHT, SIX, INVERTED_CLIPPED, {"primary": 40, "wrist": 80}),
    f"nyu_franka_play_dataset{CONVERTED}": Expected(
        ([7, 8, 9, 10, 11, 12, 0, 0], [507, 508, 509, 510, 511, 512, 0, 0]),
        ([7.5, 8.5, 9.5, 10.5, 11.5, 12.5], [507.5, 508.5, 509.5, 510.5, 511.5, 512.5]),
        CLIPPED,
        {"primary": 40, "secondary": 80},
    ),
    f"furniture_bench_dataset{CONVERTED}": Expected(
        ([0, 1, 2, 3, 4, 5, 6, 34], [500, 501, 502, 503, 504, 505, 506, 534]),
        SIX,
        INVERTED_CLIPPED,
        {"primary": 40, "wrist": 80},
        turns=TURNS,
    ),
    f"ucsd_kitchen_dataset{CONVERTED}": Expected(SEVEN_PAD, SIX, PLAIN, {"primary": 40}),
    f"austin_sailor_dataset{CONVERTED}": Expected(EIGHT, SIX, INVERTED_CLIPPED, {"primary": 40, "wrist": 80}),
    f"austin_sirius_dataset{CONVERTED}": Expected(EIGHT, SIX, INVERTED_CLIPPED, {"primary": 40, "wrist": 80}),
    f"dlr_edan_shared_control{CONVERTED}": Expected(SEVEN_PAD, SIX, INVERTED, {"primary": 40}),
    f"iamlab_cmu_pickup_insert{CONVERTED}": Expected(EIGHT, SIX, PLAIN, {"primary": 40, "wrist": 80}, turns=TURNS),
    "utaustin_mutex": Expected(EIGHT, SIX, INVERTED_CLIPPED, {"primary": 40, "wrist": 80}),
    "berkeley_fanuc_manipulation": Expected(  # the gripper of the state: 0 0 .25 1 1 .5
        ([0, 1, 2, 3, 4, 5, 0, 0], [500, 501, 502, 503, 504, 505, 0, 0.5]),
        SIX,
        INVERTED,
        {"primary": 40, "wrist": 80},
    ),
    "cmu_stretch": Expected(([0, 1, 2, 0, 0, 0, 0, 3], [500, 501, 502, 0, 0, 0, 0, 503]), SIX, PLAIN, {"primary": 40}),
    "bc_z": Expected(  # closes 0 0 1 1 0 1
        ([0, 1, 2, 3, 4, 5, 0, 50], [500, 501, 502, 503, 504, 505, 0, 550]), SIX, [1, 1, 0, 0, 1, 0], {"primary": 40}
    ),
    "fmb_dataset": Expected(POSE_AND_50, SIX, PLAIN, {"primary": 40, "secondary": 80, "wrist": 120}),
    "dobbe": Expected(([0, 1, 2, 3, 4, 5, 6], [500, 501, 502, 503, 504, 505, 506]), SIX, PLAIN, {"primary": 40}),
    **{f"libero_{suite}_no_noops": LIBERO for suite in ("spatial", "object", "goal", "10")},
}

# The two that drop steps: raw numbers of the steps that remain, then every row.

BRIDGE_KEEP = [1, 2, 3, 4]
BRIDGE_STATE = [  # x y z roll pitch yaw, pad, gripper
    [1, 2, 3, 0, 0, 3, 0, 0.2],
    [2, 4, 6, 0.5, 0, -3, 0, 0.3],
    [4, 8, 2, 0.5, 1, -3, 0, 0.4],
    [4, 8, 2, 0.5, 1, -3, 0, 0.5],
]
BRIDGE_ACTION = [  # next state minus this one (3 to -3 is -6: not wrapped); raw grippers 1 .5 0 .96 .3 .4, the first dropped
    [1, 2, 3, 0.5, 0, -6, 0],  # .5 takes the next decided one, 0
    [2, 4, -4, 0, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 1],  # .96
    [1, -8, 0, -0.5, 0, 3, 0.4],  # .3 is never decided: the last raw value
]
DROID_KEEP = [1, 4, 5]  # step 0 stands still; 2 and 3 move by 9.1e-6 and 9.5e-6 of the scaled range, 4 by 1.04e-5
DROID_STATE = [
    [100, 101, 102, 103, 104, 105, 150],
    [400, 401, 402, 403, 404, 405, 450],
    [500, 501, 502, 503, 504, 505, 550],
]
DROID_ACTION = [  # gripper positions 0 1 .5, inverted
    [0.5, 0, 0, 0, 0, -0.25, 1],
    [0, 6e-6, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 1, 0.5],
]
