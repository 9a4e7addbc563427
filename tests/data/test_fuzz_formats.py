"""Damaged datasets of every format: only a `UserError` comes out, within time and memory. Longer runs: tools/fuzz_formats.py."""

import importlib
import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tools")]
fuzz_formats: Any = importlib.import_module("fuzz_formats")
FORMATS = fuzz_formats.FORMATS

ANY = st.integers(0, (1 << 32) - 1)
OPS = st.lists(st.tuples(st.integers(0, 7), ANY, ANY), min_size=1, max_size=4)
EXAMPLES = {
    "v2": 334,
    "parquet": 334,
    "hdf5": 250,
}  # by the beginning of the name, where a format has several files; else 1000
V2 = importlib.util.find_spec("ideomotor.data.lerobot.v2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", FORMATS)
def test_only_a_user_error_comes_out(name, folder, monkeypatch):
    if V2 is None and "v2" in FORMATS[name].read.__name__:
        pytest.skip("LeRobotDataset v2.1 is not read")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    subject = fuzz_formats.Subject(name, folder, seconds=60.0)
    assert subject.run([]) == "read"  # undamaged
    if subject.child is not None:
        subject.child.seconds = 2.0  # a call that hangs in HDF5 is refused, and costs this
    outcomes = set()
    before = fuzz_formats.memory()

    @settings(
        max_examples=EXAMPLES.get(name.partition("-")[0], 1000),
        derandomize=True,
        database=None,
        deadline=None if FORMATS[name].walled else timedelta(seconds=20),  # the child has its own
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture),
        report_multiple_bugs=False,
    )
    @given(OPS)
    def damaged(ops):
        outcomes.add(subject.run(ops).partition(":")[0])

    try:
        damaged()
    finally:
        subject.close()
    assert outcomes <= {"read", "refused"}
    assert "refused" in outcomes or name in ("v2-tasks.jsonl", "parquet-tasks")  # read when asked for, and named then
    assert fuzz_formats.memory() - before < 512 << 20


def test_an_example_is_the_same_on_every_machine():
    assert fuzz_formats.drawn("tfrecord", 7) == fuzz_formats.drawn("tfrecord", 7)
    assert fuzz_formats.drawn("tfrecord", 7) != fuzz_formats.drawn("tfrecord", 8)
    assert fuzz_formats.mutate(b"abcdef", [(2, 3, 0)]) == b"abc"
    assert fuzz_formats.mutate(b"abcdef", [(0, 1, 0)]) == b"accdef"
    assert fuzz_formats.mutate(b"abcdef", [(3, 1, 1)]) == b"adef"
    assert fuzz_formats.mutate(b"abcdef", [(5, 0, 5)]) == b"\x01\0cdef"  # the number 1 in two bytes
    assert fuzz_formats.mutate(b'{"a": 12, "b": [true]}', [(7, 3, 0)]) == b'{"a": 12, "b": [null]}'
