"""RT-X's mapping to RT-1's action, against numbers worked out by hand from the published example."""

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.data.opening import open_dataset
from ideomotor.data.openx.mixtures import RTX_EXAMPLE
from ideomotor.data.openx.rtx import RTX_MAPS, WORLD_BOUNDS, Ranged, rtx_action


def columns(world, rotation, gripper=None, terminate: float | list[float] = 0.0, **more):
    given = {
        "action.world_vector": np.array([world], np.float32),
        "action.rotation_delta": np.array([rotation], np.float32),
        "action.terminate_episode": np.array([terminate], np.float32),
        **{f"action.{name}": np.array([value]) for name, value in more.items()},
    }
    return given if gripper is None else {**given, "action.gripper_closedness_action": np.array([gripper], np.float32)}


@pytest.mark.parametrize(
    ("name", "raw", "world", "rotation", "gripper"),
    [
        ("fractal20220817_data", columns([0.1, 0.2, 0.3], [1, 0, -1], 0.5), [0.1, 0.2, 0.3], [1, 0, -1], 0.5),
        # [-.05, .05] -> +-1.75, clipped at 1.74; [-.25, .25] -> +-1.4, clipped at 1.39
        (
            "bridge",
            columns([0.01, 0.05, -0.2], [0.125, 0.25, -9], open_gripper=True),
            [0.35, 1.74, -1.74],
            [0.7, 1.39, -1.39],
            -1,
        ),
        ("bridge", columns([0, 0, 0], [0, 0, 0], open_gripper=False), [0, 0, 0], [0, 0, 0], 1),
        # its own bounds, not BridgeData's: [0, -.5, 0]..[.8, .7, .6] and [-3.2, -.8, -1.8]..[3.2, .2, 2.5] -> +-.99
        (
            "taco_play",
            columns([9, 9, 9], [9, 9, 9], actions=[0.8, 0.1, 0.15, -3.2, -0.3, 2.5, -1.0]),
            [0.99, 0, -0.495],
            [-0.99, 0, 0.99],
            -1,
        ),
        (
            "jaco_play",
            columns([0.00096585 + 0.12234575, -0.00580069, -0.00395066 - 2 * 0.11155209], [5, 5, 5], 0.25),
            [1, 0, -2],
            [0, 0, 0],
            0.25,
        ),
        ("berkeley_cable_routing", columns([1, 2, 3], [4, 5, 6]), [1, 2, 3], [4, 5, 6], 0),
        ("roboturk", columns([1, 2, 3], [4, 5, 6], -1), [1, 2, 3], [4, 5, 6], -1),
        (
            "nyu_door_opening_surprising_effectiveness",
            columns([0.01, 0.02, 0], [0.1, 0, -0.2], 1),
            [0.2, 0.4, 0],
            [1.5, 0, -3],
            1,
        ),
        ("viola", columns([0.4, 0, -0.8], [0.1, 0, -0.2], 1), [0.7, 0, -1.4], [0.3, 0, -0.6], 1),
        ("berkeley_autolab_ur5", columns([0.01, 0, -0.02], [0.1, 0, 0.02], -1), [1, 0, -2], [1.5, 0, 0.3], -1),
        # an open gripper is -1 here too
        ("toto", columns([0.5, 0, -0.25], [1, 2, 3], open_gripper=True), [1, 0, -0.5], [1, 2, 3], -1),
        ("toto", columns([0, 0, 0], [0, 0, 0], open_gripper=False), [0, 0, 0], [0, 0, 0], 1),
    ],
)
def test_actions_are_mapped_as_published(name, raw, world, rotation, gripper):
    action = rtx_action(name, raw)
    np.testing.assert_allclose(action.world_vector, [world], atol=2e-6)
    np.testing.assert_allclose(action.rotation_delta, [rotation], atol=2e-6)
    assert action.gripper_closedness.tolist() == [[gripper]]
    assert action.terminate.tolist() == [[0, 1, 0]]


def test_a_flag_that_ends_the_episode_becomes_the_first_of_three():
    assert rtx_action("roboturk", columns([0] * 3, [0] * 3, 0, terminate=1.0)).terminate.tolist() == [[1, 0, 0]]
    three = rtx_action("fractal20220817_data", columns([0] * 3, [0] * 3, 0, terminate=[0.0, 0.0, 1.0])).terminate
    assert three.tolist() == [[0, 0, 1]]


def test_what_the_example_maps_has_a_weight_and_labels_have_the_networks_bounds():
    assert set(RTX_MAPS) == set(RTX_EXAMPLE)
    assert WORLD_BOUNDS == (-2.0, 2.0)
    for mapping in RTX_MAPS.values():  # what is scaled to a range stays inside of the bounds
        if isinstance(mapping.world, Ranged):
            assert mapping.world.bound <= WORLD_BOUNDS[1]


def test_scalings_have_inverses():
    rows = np.array([[0.01, 0.3, 0.2], [0.02, -0.04, 0.5]], np.float32)
    for mapping in RTX_MAPS.values():
        if not isinstance(mapping.world, Ranged) or mapping.world.clip == np.inf:
            np.testing.assert_allclose(mapping.world.undo(mapping.world(rows)), rows, atol=1e-6)


def test_what_is_not_mapped_is_refused_by_name():
    with pytest.raises(UserError, match="unknown dataset that RT-X's example maps 'kuka'"):
        rtx_action("kuka", {})
    with pytest.raises(UserError, match="lacks action.gripper_closedness_action"):
        rtx_action("viola", columns([0] * 3, [0] * 3))


@pytest.mark.parametrize("name", sorted(set(RTX_MAPS) - {"bridge", "nyu_door_opening_surprising_effectiveness"}))
def test_files_that_tfds_wrote_have_the_columns_that_are_read(raw_root, name):
    dataset = open_dataset(raw_root / name)
    raw = {column: dataset.column(0, column) for column in RTX_MAPS[name].reads}
    action = rtx_action(name, raw)
    assert action.world_vector.shape == action.rotation_delta.shape == action.terminate.shape == (6, 3)
    assert action.terminate.sum() == 6
