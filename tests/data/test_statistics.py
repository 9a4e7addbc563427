"""Statistics: exact where other writers estimate."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import foreign
from recordings import EMBODIMENT, action, episode, state

from ideomotor.core.errors import UserError
from ideomotor.data import statistics
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.opening import open_dataset
from ideomotor.data.statistics import Statistics, image_summary, summarize, training_statistics


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "toy", EMBODIMENT) as writer:
        for index in range(4):
            writer.add_episode(episode(index, 3 + index))
    return tmp_path / "toy"


@pytest.mark.parametrize(("mean", "std"), [(2048.0, 0.098), (1e6, 1.007)])
def test_an_offset_does_not_cost_the_deviation(mean: float, std: float) -> None:
    values = np.random.default_rng(0).normal(mean, std, (5000, 1)).astype(np.float32)
    exact = values.astype(np.longdouble)
    found = summarize(values)
    assert found.std[0] == pytest.approx(float(np.sqrt(((exact - exact.mean()) ** 2).mean())), rel=1e-6)
    assert found.mean[0] == pytest.approx(float(exact.mean()), rel=1e-12)


def test_quantiles_of_constant_episodes_are_the_pooled_ones(tmp_path: Path) -> None:
    values = np.repeat(np.arange(10.0), 20)[:, None]  # ten episodes, each of one value
    found = summarize(values)
    assert (found.q01[0], found.q50[0], found.q99[0]) == (0.0, 4.5, 9.0)
    assert (found.q10[0], found.q90[0]) == pytest.approx(
        (0.9, 8.1)
    )  # numpy's linear quantiles at 19.9 and 179.1 of 0..199


def test_quantiles_of_21_numbers_are_exact() -> None:
    found = summarize(np.arange(21.0)[:, None])
    assert (found.q01[0], found.q99[0]) == pytest.approx((0.2, 19.8), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_quantiles_are_numpys_and_stay_inside(values: list[float]) -> None:
    array = np.array(values, np.float32)[:, None]
    found = summarize(array)
    for name, q in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        quantile = getattr(found, name)[0]
        assert quantile == pytest.approx(np.quantile(array[:, 0].astype(float), q), rel=1e-9, abs=1e-9)
        assert found.min[0] <= quantile <= found.max[0]
    assert found.min[0] <= found.mean[0] <= found.max[0]


def test_wide_columns_are_summarized_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 7))
    whole = summarize(values).to_json()
    monkeypatch.setattr(statistics, "BLOCK", 100)
    assert summarize(values).to_json() == whole


def test_pixels_are_counted() -> None:
    images = [np.random.default_rng(i).integers(0, 256, (9, 7, 3), dtype=np.uint8) for i in range(3)]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    found = image_summary(images)
    assert found.count == 3
    assert found.mean == pytest.approx(pixels.mean(0))
    assert found.std == pytest.approx(pixels.std(0))
    assert (found.min == pixels.min(0)).all()
    assert (found.max == pixels.max(0)).all()
    for name, q in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        assert getattr(found, name) == pytest.approx(np.quantile(pixels, q, axis=0))


def test_the_training_split_alone_counts(recorded: Path) -> None:
    info = json.loads((recorded / "meta/info.json").read_text())
    (recorded / "meta/info.json").write_text(json.dumps(info | {"splits": {"train": "0:2", "validation": "2:4"}}))
    found = training_statistics(open_dataset(recorded))
    expected = np.array([action(e, f) for e in range(2) for f in range(3 + e)], np.float64)
    assert set(found.columns) == {"action", "observation.state"}
    assert found["action"].count == 7
    assert found["action"].q99 == pytest.approx(np.quantile(expected, 0.99, axis=0))
    chosen = training_statistics(open_dataset(recorded), [3], ["observation.state"])
    assert chosen["observation.state"].min == pytest.approx(state(3, 0))
    assert chosen["observation.state"].constant == [0]  # the episode's number


def test_statistics_are_computed_once_for_equal_content(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = training_statistics(open_dataset(recorded))

    def refuse(*_: object) -> None:
        pytest.fail("computed again")

    monkeypatch.setattr(statistics, "compute", refuse)
    again = training_statistics(open_dataset(recorded))
    assert again.hash == first.hash
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # a cache that cannot be written stops nothing
    with DatasetWriter(recorded, EMBODIMENT) as writer:
        writer.add_episode(episode(9))
    assert training_statistics(open_dataset(recorded))["action"].count == first["action"].count + 5


def test_statistics_survive_json(recorded: Path) -> None:
    found = training_statistics(open_dataset(recorded))
    text = json.dumps(found.to_json())
    assert Statistics.from_json(json.loads(text), "x").hash == found.hash
    with pytest.raises(UserError, match=r"x\.json holds no statistics"):
        Statistics.from_json({"action": {"count": 3}}, "x.json")
    with pytest.raises(UserError, match="unknown statistics of column 'actoin'; known: action, observation.state"):
        found["actoin"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_place(tmp_path: Path, value: float) -> None:
    folder = foreign.write(tmp_path / "foreign")
    table = foreign.data_table()
    actions = table["action"].to_pylist()
    actions[5][1] = value
    table = table.set_column(table.column_names.index("action"), "action", pa.array(actions, pa.list_(pa.float32())))
    pq.write_table(table, folder / "data/chunk-000/file-000.parquet")
    with pytest.raises(UserError, match=rf"column 'action', episode 1, frame 1, channel 1 is {value}"):
        training_statistics(open_dataset(folder))


def test_no_frames_are_refused(tmp_path: Path) -> None:
    DatasetWriter(tmp_path / "toy", EMBODIMENT).close()
    with pytest.raises(UserError, match="hold no frames"):
        training_statistics(open_dataset(tmp_path / "toy"))
