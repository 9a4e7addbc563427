"""Statistics of a mixture: exact over all that share a meaning, and over nothing else."""

import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

sys.path.insert(0, str(Path(__file__).parent))
from arrays import ArrayDataset, numbered

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Channel, Embodiment, Gripper, RotationForm
from ideomotor.data import pooled, rows
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.meaning.specification import action_key, state_key
from ideomotor.data.pooled import Part, Pooled, pooled_statistics
from ideomotor.data.resample import plan
from ideomotor.data.rows import Moments, Rows, order_statistics
from ideomotor.data.statistics import Statistics, summarize_rows, training_statistics

MINE = Embodiment(
    name="a",
    robot="franka",
    rate_hz=10.0,
    action=(Channel("x", "m", "base", "delta"), Channel("grip", "fraction", "none")),
    state=(Channel("x", "m"),),
    cameras=(),
    gripper=Gripper("grip", open=1.0, closed=0.0, threshold=0.5),
)
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def dataset(seed, embodiment=MINE, lengths=(5, 9, 4), offset=0.0):
    rng = np.random.default_rng(seed)
    actions = [rng.normal(offset, 1 + seed, (n, len(embodiment.action))) for n in lengths]
    states = [rng.normal(size=(n, len(embodiment.state))) for n in lengths]
    return numbered(actions, states, embodiment=embodiment, name=f"set_{seed}")


def reads(part):
    assert isinstance(part.dataset, ArrayDataset)
    return part.dataset.read


def check_against_numpy(summary, values):
    exact = values.astype(np.float64)
    assert summary.count == len(values)
    assert summary.min.tolist() == exact.min(0).tolist()
    assert summary.max.tolist() == exact.max(0).tolist()
    np.testing.assert_allclose(summary.mean, exact.mean(0), rtol=1e-12, atol=1e-13 * np.abs(exact).max())
    np.testing.assert_allclose(summary.std, exact.std(0), rtol=1e-9, atol=1e-13 * np.abs(exact).max())
    for name, q in QUANTILES.items():  # numpy's default method is "linear"
        np.testing.assert_allclose(getattr(summary, name), np.quantile(exact, q, axis=0), rtol=1e-12, atol=1e-13)


# --------------------------------------------------------------------------------------------------------------- keys


def test_the_key_is_that_of_robot_channels_rotation_and_gripper():
    same = replace(
        MINE, name="b", rate_hz=5.0, cameras=(), state=(), action=(replace(MINE.action[0], low=-1.0), MINE.action[1])
    )
    assert action_key(same) == action_key(MINE)
    assert state_key(same) != state_key(MINE)
    others = [
        replace(MINE, robot="ur5"),
        replace(MINE, action=(replace(MINE.action[0], unit="rad"), MINE.action[1])),
        replace(MINE, action=(replace(MINE.action[0], frame="tool"), MINE.action[1])),
        replace(MINE, action=(replace(MINE.action[0], mode="absolute"), MINE.action[1])),
        replace(MINE, action=(replace(MINE.action[0], name="y"), MINE.action[1])),
        replace(MINE, action_rotation=RotationForm("rotation_vector", first=0)),
        replace(MINE, gripper=Gripper("grip", open=0.0, closed=1.0, threshold=0.5)),
        replace(MINE, gripper=None),
    ]
    assert len({action_key(e) for e in [MINE, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"action": (Channel("x", "unknown", "base", "delta"), MINE.action[1])},
        {"action": (Channel("x", "m", "unknown", "delta"), MINE.action[1])},
        {"action_rotation": RotationForm("unknown", first=0)},
        {"action_rotation": RotationForm("euler", first=0)},
        {"robot": "unknown"},
    ],
)
def test_an_unknown_is_not_equal_to_another_unknown(change):
    first, second = replace(MINE, **change), replace(MINE, name="b", **change)
    assert action_key(first) != action_key(second)
    assert action_key(first) == action_key(replace(first))


# -------------------------------------------------------------------------------------------------------------- pools


def test_datasets_of_one_meaning_are_pooled_as_if_they_were_one():
    parts = [Part(dataset(0), [0, 2]), Part(dataset(3, replace(MINE, name="b")), [0, 1, 2])]
    found = pooled_statistics(parts).of(MINE)
    for column in (ACTION, STATE):
        values = np.concatenate([p.dataset.column(e, column) for p in parts for e in p.episodes])
        check_against_numpy(found[column], values)
    assert found[ACTION].count == 9 + 18


def test_worked_by_hand():
    """0, 1, 2, 3 and 10: mean 3.2, variance (10.24 + 4.84 + 1.44 + 0.04 + 46.24) / 5 = 12.56; q10 lies 0.4 of the way from 0 to 1."""
    one = replace(MINE, action=(Channel("x", "m", "base", "delta"),), gripper=None)
    parts = [
        Part(numbered([[[3.0], [10.0]]], [[[0.0]] * 2], embodiment=one), [0]),
        Part(numbered([[[0.0], [1.0], [2.0]]], [[[0.0]] * 3], embodiment=one), [0]),
    ]
    found = pooled_statistics(parts).of(one)[ACTION]
    assert found.mean[0] == pytest.approx(3.2, abs=1e-15)
    assert found.std[0] == pytest.approx(12.56**0.5, rel=1e-15)
    assert (found.min[0], found.max[0], found.q50[0]) == (0.0, 10.0, 2.0)
    assert found.q10[0] == pytest.approx(0.4)
    assert found.q90[0] == pytest.approx(7.2)  # 0.6 of the way from 3 to 10
    assert found.q01[0] == pytest.approx(0.04)
    assert found.q99[0] == pytest.approx(9.72)


def test_other_meanings_are_not_pooled():
    far = replace(MINE, name="far", action=(replace(MINE.action[0], unit="rad"), MINE.action[1]))
    joints = replace(MINE, name="joints", state=(Channel("q", "rad", "joint"),))
    parts = [Part(dataset(0), [0]), Part(dataset(1, far, offset=100), [0]), Part(dataset(2, joints), [1])]
    found = pooled_statistics(parts)
    assert (len(found.actions), len(found.states)) == (2, 2)
    check_against_numpy(found.of(far)[ACTION], parts[1].dataset.column(0, ACTION))
    both = np.concatenate([parts[0].dataset.column(0, ACTION), parts[2].dataset.column(1, ACTION)])
    check_against_numpy(found.of(MINE)[ACTION], both)
    check_against_numpy(found.of(joints)[STATE], parts[2].dataset.column(1, STATE))
    mixed = np.concatenate([parts[0].dataset.column(0, STATE), parts[1].dataset.column(0, STATE)])
    check_against_numpy(found.of(MINE)[STATE], mixed)
    assert sorted(found.datasets.values()) == [("set_0", "set_2"), ("set_1",)]
    with pytest.raises(UserError, match=r"no statistics of 'action' for the embodiment 'a' .* Known: .*set_"):
        found.of(replace(MINE, robot="ur5", state=joints.state, name="a"))


def test_the_order_of_datasets_does_not_change_a_bit():
    parts = [Part(dataset(seed), [0, 1]) for seed in range(4)]
    first = pooled_statistics(parts)
    for path in sorted(Path(pooled.user_cache()).rglob("*.json")):
        path.unlink()
    assert pooled_statistics(parts[::-1]).hash == first.hash


def test_one_dataset_has_the_statistics_it_had_alone():
    only = dataset(0)
    assert pooled_statistics([Part(only, [0, 1, 2])]).of(MINE).hash == training_statistics(only).hash


def test_statistics_are_found_again_for_equal_content_only():
    parts = [Part(dataset(0), [0, 1]), Part(dataset(1), [0])]
    first = pooled_statistics(parts)
    again = [Part(dataset(0), [0, 1]), Part(dataset(1), [0])]
    assert pooled_statistics(again).hash == first.hash
    assert [reads(part) for part in again] == [0, 0]
    other = [Part(dataset(0), [0, 1]), Part(dataset(1), [1])]
    assert pooled_statistics(other).hash != first.hash
    for path in sorted(Path(pooled.user_cache()).rglob("*.json")):
        path.write_text("{")  # damaged: made again
    assert pooled_statistics(again).hash == first.hash


def test_every_dataset_is_read_once():
    parts = [Part(dataset(seed), [0, 1, 2]) for seed in range(3)]
    pooled_statistics(parts)
    assert [reads(part) for part in parts] == [2 * 3 + 2] * 3  # and once more each column's first episode, for its form


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(UserError, match="does not say what its numbers mean"):
        pooled_statistics([Part(numbered([np.ones((3, 2))]), [0])])
    with pytest.raises(UserError, match="hold no frames"):
        pooled_statistics([Part(dataset(0), [0]), Part(dataset(1), [])])
    bad = dataset(0)
    bad.columns[ACTION][1][3, 1] = np.nan
    with pytest.raises(UserError, match="column 'action', episode 1, frame 3, channel 1 is nan"):
        pooled_statistics([Part(bad, [0, 1])])
    narrow = numbered([np.ones((3, 1))], [np.ones((3, 1))], embodiment=MINE)
    with pytest.raises(UserError, match="states 2 channels of 'action', the data hold 1"):
        pooled_statistics([Part(narrow, [0])])
    huge = ArrayDataset(
        {ACTION: [np.full((3, 2), 1e300) * [[1], [-1], [0]]], STATE: [np.zeros((3, 1))]}, embodiment=MINE
    )
    with pytest.raises(UserError, match=r"values up to 1e\+300"):
        pooled_statistics([Part(huge, [0])])


def test_actions_are_counted_at_the_rate_of_the_policy():
    """5 Hz to 10 Hz: each motion becomes two halves, each gripper command is in force for two steps."""
    actions = [[[1.0, 0.0], [3.0, 1.0]], [[-2.0, 1.0]]]
    slow = numbered(actions, [[[7.0], [8.0]], [[9.0]]], embodiment=replace(MINE, rate_hz=5.0))
    part = Part(slow, [0, 1], plan(replace(MINE, rate_hz=5.0), 5.0, 10.0))
    found = pooled_statistics([part])
    summary = found.of(MINE)[ACTION]
    check_against_numpy(summary, np.array([[0.5, 0], [0.5, 0], [1.5, 1], [1.5, 1], [-1, 1], [-1, 1]]))
    assert found.of(MINE)[STATE].count == 3  # states stay what they are
    assert pooled_statistics([Part(slow, [0, 1])]).of(MINE)[ACTION].count == 3


def test_a_body_without_state_has_no_statistics_of_it():
    blind = replace(MINE, state=())
    found = pooled_statistics([Part(numbered([np.ones((3, 2))], embodiment=blind), [0])]).of(blind)
    assert found[STATE].min.shape == (0,)
    assert found[ACTION].constant == [0, 1]


# ---------------------------------------------------------------------------------------------------------------- JSON


def test_one_meaning_is_written_as_it_always_was():
    found = pooled_statistics([Part(dataset(0), [0])])
    value = json.loads(json.dumps(found.to_json()))
    assert set(value) == {STATE, ACTION}
    assert Statistics.from_json(value, "x").hash == found.of(MINE).hash
    assert Pooled.from_json(value, MINE, "x").hash == found.hash


def test_several_meanings_are_written_by_their_keys():
    parts = [Part(dataset(0), [0]), Part(dataset(1, replace(MINE, robot="ur5")), [0])]
    found = pooled_statistics(parts)
    value = json.loads(json.dumps(found.to_json()))
    again = Pooled.from_json(value, MINE, "x")
    assert again.hash == found.hash
    assert again.datasets == found.datasets
    assert set(value["actions"]) == {action_key(MINE), action_key(replace(MINE, robot="ur5"))}
    for broken in ({**value, "format": 3}, {**value, "actions": 3}, {**value, "states": {"k": {}}}, {"format": 2}):
        with pytest.raises(UserError):
            Pooled.from_json(broken, MINE, "statistics.json")


# ---------------------------------------------------------------------------------------------------------------- rows


@pytest.fixture
def counted(monkeypatch):
    """Make few numbers many: blocks of 64, no sorting, files from 1 kB on."""
    monkeypatch.setattr(rows, "BLOCK", 64)
    monkeypatch.setattr(rows, "SORTED", 0)
    monkeypatch.setattr(rows, "TOGETHER", 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_rows_are_counted_exactly(counted, dtype):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(400, 5)), np.zeros((50, 5)), rng.normal(1e6, 1e-3, (60, 5))]).astype(
        dtype
    )
    values[::7, 0] = -0.0
    values[:, 1] = 0.3
    values[:, 2] = np.abs(values[:, 2]) * 1e-40  # denormal numbers
    values[:, 4] = rng.integers(0, 2, len(values))
    with Rows(5, dtype, memory=1024) as store:
        for part in np.array_split(values, 13):
            store.append(part)
        check_against_numpy(summarize_rows(store), values)
        places = [0, 1, 17, 250, len(values) - 1]
        np.testing.assert_array_equal(order_statistics(store, places), np.sort(values.astype(float), axis=0)[places])


@settings(max_examples=80, deadline=None)
@given(
    stn.arrays(
        np.float32,
        st.tuples(st.integers(1, 60), st.integers(1, 3)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_counting_and_sorting_agree(values):
    with pytest.MonkeyPatch.context() as patch, Rows(values.shape[1]) as store:
        store.append(values)
        places = sorted({0, len(values) // 2, len(values) - 1})
        by_sorting = order_statistics(store, places)
        patch.setattr(rows, "SORTED", 0)
        by_counting = order_statistics(store, places)
    np.testing.assert_array_equal(by_counting, by_sorting)
    np.testing.assert_array_equal(by_sorting, np.sort(values, axis=0)[places])


@settings(max_examples=60, deadline=None)
@given(
    stn.arrays(np.float64, st.tuples(st.integers(2, 50), st.just(2)), elements=st.floats(-1e6, 1e6)), st.integers(1, 49)
)
def test_moments_of_parts_are_those_of_the_whole(values, cut):
    cut = min(cut, len(values) - 1)
    merged, whole = Moments.of(values[:cut]).merged(Moments.of(values[cut:])), Moments.of(values)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, values.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(merged.std, values.std(0), rtol=1e-7, atol=1e-8)


def test_an_offset_does_not_cost_the_deviation_when_parts_are_merged(counted):
    values = np.random.default_rng(0).normal(1e6, 1.007, (5000, 1)).astype(np.float32)
    exact = values.astype(np.longdouble)
    with Rows(1) as store:
        store.append(values)
        found = summarize_rows(store)
    assert found.std[0] == pytest.approx(float(np.sqrt(((exact - exact.mean()) ** 2).mean())), rel=1e-9)
    assert found.mean[0] == pytest.approx(float(exact.mean()), rel=1e-14)


def test_whole_numbers_and_flags_are_exact():
    flags = ArrayDataset({ACTION: [np.array([[True], [False], [True]])], "count": [np.array([2**40, 2**40 + 1, 5])]})
    found = training_statistics(flags, columns=[ACTION, "count"])
    assert found[ACTION].mean[0] == pytest.approx(2 / 3)
    assert found["count"].max[0] == 2**40 + 1  # float32 would have lost it
    assert found["count"].q50[0] == 2**40
    words = ArrayDataset({ACTION: [np.zeros((2, 1))], "text": [np.array(["a", "b"], object)]})
    with pytest.raises(UserError, match="need numbers"):
        training_statistics(words, columns=["text"])


def test_memory_does_not_grow_with_the_frames(monkeypatch):
    """Twenty times as many rows, with the limits made small: the same memory."""
    monkeypatch.setattr(rows, "BLOCK", 1 << 12)
    monkeypatch.setattr(rows, "SORTED", 1 << 12)
    peaks = []
    for count in (4, 80):
        with Rows(7, memory=1 << 16) as store:
            tracemalloc.start()
            for seed in range(count):
                store.append(np.random.default_rng(seed).normal(size=(1000, 7)).astype(np.float32))
            summarize_rows(store)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
