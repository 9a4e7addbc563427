"""Each record against literals worked out by hand, from files that TFDS wrote in the dataset's raw layout."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import expected
from expected import EXPECTED

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.opening import open_dataset
from ideomotor.data.openx.record import SIGN_TO_VERIFY, RawEpisode
from ideomotor.data.openx.records import RECORDS, record_of
from ideomotor.data.openx.standardized import StandardizedDataset, standardized

OPENVLA = 27
FILES = Path(__file__).parents[1] / "files" / "openx"
NAMES = sorted(RECORDS)


@pytest.fixture(scope="module")
def opened(raw_root):
    """Open a dataset once."""
    kept = {}

    def opener(name) -> StandardizedDataset:
        if name not in kept:
            kept[name] = standardized(open_dataset(raw_root / name))
        return kept[name]

    return opener


def raw_episode(dataset, episode=0):
    columns = {name: dataset.raw.column(episode, name) for name in dataset.record.reads}
    return RawEpisode(columns, dataset.raw.instruction(episode))


def test_there_is_a_record_and_a_raw_dataset_for_each_of_openvla_and_libero():
    assert len(RECORDS) == OPENVLA + 4
    assert sorted(path.name for path in FILES.iterdir()) == NAMES
    assert sorted([*EXPECTED, "bridge_orig", "droid"]) == NAMES


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_raw_episode_standardizes_to_what_was_worked_out_by_hand(opened, name):
    dataset, want = opened(name), EXPECTED[name]
    time = np.linspace(0, 1, 6)[:, None]
    state = (1 - time) * np.array(want.state[0]) + time * np.array(want.state[1])
    if name == "berkeley_fanuc_manipulation":
        state[:, 7] = [0, 0, 0.25, 1, 1, 0.5]
    action = np.zeros((6, 7))
    action[:, :6] = (1 - time) * np.array(want.action[0]) + time * np.array(want.action[1])
    if want.turns is not None:
        action[:, 3:6] = want.turns
    action[:, 6] = want.gripper
    assert dataset.length(0) == 6
    assert dataset.length(1) == 4
    np.testing.assert_allclose(dataset.column(0, ACTION), action, rtol=0, atol=1e-6)
    if want.state[0]:
        np.testing.assert_allclose(dataset.column(0, STATE), state, rtol=0, atol=1e-4)
    else:
        assert STATE not in dataset.features
    assert dataset.instruction(0) == want.instruction


def test_bridge_drops_its_ends_reads_motion_off_the_states_and_decides_the_gripper(opened):
    dataset = opened("bridge_orig")
    standard = dataset.record.standardize(raw_episode(dataset))
    assert standard.keep.tolist() == expected.BRIDGE_KEEP
    np.testing.assert_allclose(dataset.column(0, STATE), expected.BRIDGE_STATE, atol=1e-7)
    np.testing.assert_allclose(dataset.column(0, ACTION), expected.BRIDGE_ACTION, atol=1e-6)
    assert dataset.instruction(0) == expected.APPLE
    assert [dataset.length(episode) for episode in range(2)] == [4, 2]


def test_droid_leaves_out_steps_that_stand_still(opened):
    dataset = opened("droid")
    standard = dataset.record.standardize(raw_episode(dataset))
    assert standard.keep.tolist() == expected.DROID_KEEP
    np.testing.assert_allclose(dataset.column(0, STATE), expected.DROID_STATE)
    np.testing.assert_allclose(dataset.column(0, ACTION), expected.DROID_ACTION)
    assert [dataset.length(episode) for episode in range(2)] == [3, 0]  # the second episode never moves
    assert dataset.column(1, ACTION).shape == (0, 7)
    assert [dataset.instruction(episode) for episode in range(2)] == [expected.APPLE, expected.DRAWER]


def test_an_episode_of_language_table_without_words_has_an_empty_sentence(opened):
    assert opened("language_table").instruction(1) == ""


@pytest.mark.parametrize("name", NAMES)
def test_each_camera_shows_the_picture_of_the_step_that_remains(opened, name):
    dataset = opened(name)
    first = {"bridge_orig": 1, "droid": 1}.get(name, 0)
    reds = {
        "bridge_orig": {"primary": 40, "secondary": 80},
        "droid": {"primary": 40, "secondary": 80, "wrist": 120},
    }.get(name) or EXPECTED[name].cameras
    assert dict.fromkeys(dataset.cameras) == dict.fromkeys(reds)
    for role, red in reds.items():
        pixel = dataset.image(0, 0, role)[4, 4].astype(int)
        assert np.abs(pixel - [red, 20 * first, 0]).max() <= 2  # JPEG
        assert dataset.cameras[role].role == role


@pytest.mark.parametrize("name", NAMES)
def test_no_frame_is_lost_beyond_the_declared_drops(opened, name):
    dataset = opened(name)
    record = dataset.record
    for episode in range(len(dataset)):
        keep = record.standardize(raw_episode(dataset, episode)).keep
        raw = dataset.raw.length(episode)
        assert (np.diff(keep) > 0).all()
        if record.trim is not None:
            assert keep.tolist() == list(range(record.trim[0], raw - record.trim[1]))
        assert bool(record.drops) == (record.trim != (0, 0))
        assert dataset.length(episode) == len(keep) == len(dataset.column(episode, ACTION))


@pytest.mark.parametrize("name", NAMES)
def test_the_specification_fits_the_numbers(opened, name):
    dataset = opened(name)
    spec = dataset.embodiment
    assert len(spec.action) == dataset.column(0, ACTION).shape[1] == 7
    assert dataset.features[ACTION].shape == (7,)
    assert len(spec.state) == (dataset.column(0, STATE).shape[1] if STATE in dataset.features else 0)
    names = [channel.name for channel in spec.state]
    assert len(set(names)) == len(names)
    assert spec.gripper is not None
    assert (spec.gripper.open, spec.gripper.closed, spec.gripper.threshold) == (1.0, 0.0, 0.5)
    assert Embodiment.from_text(spec.to_text(), name) == spec
    for episode in range(len(dataset)):
        for column, channels in ((ACTION, spec.action), (STATE, spec.state)):
            for i, channel in enumerate(channels):
                values = dataset.column(episode, column)[:, i]
                assert channel.low is None or (values >= channel.low).all()
                assert channel.high is None or (values <= channel.high).all()


@pytest.mark.parametrize("name", NAMES)
def test_grippers_lie_between_closed_and_open(opened, name):
    dataset = opened(name)
    values = np.concatenate([dataset.column(episode, ACTION)[:, 6] for episode in range(len(dataset))])
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("name", [name for name in NAMES if RECORDS[name].restore is not None])
def test_the_inverse_gives_the_raw_action_back_where_it_is_declared_to(opened, name):
    dataset = opened(name)
    record, episode = dataset.record, raw_episode(dataset)
    columns = dict(episode.columns)
    if "in [0, 1]" in record.restores:  # clipping has no inverse outside
        gripper = record.action[-1]
        rows = columns[gripper].reshape(6, -1).copy()
        rows[:, -1] = np.clip(rows[:, -1], 0, 1)
        columns[gripper] = rows.reshape(columns[gripper].shape)
    standard = record.standardize(RawEpisode(columns, ""))
    restored = record.restore(standard.action)
    used = [c for c in record.reads if c.startswith("action")]
    assert sorted(restored) == sorted(used)
    for column in used:
        raw = columns[column][standard.keep].reshape(len(standard.keep), -1).astype(float)
        if "quaternions" in record.restores:  # the same rotation, of length 1; w > 0 but for the half turn at the end
            q = raw[:, 3:7] / np.linalg.norm(raw[:, 3:7], axis=1, keepdims=True)
            assert (restored[column][:5, 6] > 0).all()
            raw[:, 3:7] = q * np.sign(np.sum(q * restored[column][:, 3:7], axis=1, keepdims=True))
        np.testing.assert_allclose(restored[column], raw, rtol=1e-6, atol=2e-7)


def test_records_without_an_inverse_say_why():
    without = {name for name, record in RECORDS.items() if record.restore is None}
    assert without == {
        *("fractal20220817_data", "kuka", "bridge_orig", "jaco_play", "berkeley_autolab_ur5", "bc_z", "cmu_stretch"),
        f"nyu_franka_play_dataset{expected.CONVERTED}",
        f"ucsd_kitchen_dataset{expected.CONVERTED}",
    }
    assert all(RECORDS[name].restores.startswith("no inverse: ") for name in without)


def test_rows_whose_sign_nobody_verified_carry_that_mark():
    marked = {name for name, record in RECORDS.items() if SIGN_TO_VERIFY in record.questions}
    assert marked == {
        *("berkeley_cable_routing", "fmb_dataset", "dobbe", "cmu_stretch", "taco_play"),
        f"iamlab_cmu_pickup_insert{expected.CONVERTED}",
        f"ucsd_kitchen_dataset{expected.CONVERTED}",
        f"nyu_franka_play_dataset{expected.CONVERTED}",
    }


def test_robots_and_rates_are_those_of_the_table():
    robots = {name: (r.embodiment.robot, r.embodiment.rate_hz) for name, r in RECORDS.items()}
    assert robots["fractal20220817_data"] == ("google-robot", 3.0)
    assert robots["bridge_orig"] == ("widowx", 5.0)
    assert robots["dobbe"] == ("stretch", 3.75)
    assert robots["toto"] == ("franka", 30.0)
    assert robots["libero_10_no_noops"] == ("franka", 20.0)
    assert RECORDS["bc_z"].embodiment.action_rotation.form == "rotation_vector"


def test_a_dict_action_has_an_order_and_an_array_is_itself():
    assert RECORDS["kuka"].action == (
        "action.world_vector",
        "action.rotation_delta",
        "action.gripper_closedness_action",
    )
    assert RECORDS["droid"].action == ("action",)
    assert RECORDS["toto"].action == ("action.world_vector", "action.rotation_delta", "action.open_gripper")


def test_a_record_is_found_by_the_datasets_own_name():
    assert record_of("bridge_dataset") is RECORDS["bridge_orig"]
    assert record_of("droid") is RECORDS["droid"]
    assert record_of("nobody_knows_it") is None


@pytest.mark.parametrize("name", NAMES)
def test_records_travel_to_other_processes(name):
    copy = pickle.loads(pickle.dumps(RECORDS[name]))
    assert copy.embodiment == RECORDS[name].embodiment
    assert copy.formulas == RECORDS[name].formulas


def test_another_layout_is_refused_by_what_is_missing(opened):
    dataset = opened("viola")
    with pytest.raises(UserError, match=r"lacks what the record 'droid' reads: action_dict.cartesian_velocity"):
        StandardizedDataset(dataset.raw, RECORDS["droid"])
    with pytest.raises(UserError, match=r"column 'action' has 2 numbers a step; action\[0:6\] was expected"):
        RECORDS["dobbe"].standardize(
            RawEpisode({"action": np.zeros((3, 2)), "observation.state": np.zeros((3, 7))}, "")
        )


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_without_steps_stays_without(opened, name):
    dataset = opened(name)
    empty = {column: values[:0] for column, values in raw_episode(dataset).columns.items()}
    standard = dataset.record.standardize(RawEpisode(empty, "do nothing"))
    assert standard.keep.shape == (0,)
    assert standard.action.shape == (0, 7)
    assert standard.instruction == "do nothing"


@pytest.mark.parametrize("length", [1, 2])
def test_a_bridge_episode_too_short_for_a_motion_is_empty(length):
    raw = {"observation.state": np.ones((length, 7), np.float32), "action": np.ones((length, 7), np.float32)}
    standard = RECORDS["bridge_orig"].standardize(RawEpisode(raw, ""))
    assert standard.action.shape == (0, 7)
