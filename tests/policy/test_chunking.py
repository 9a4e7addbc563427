import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.core.types import Chunk
from ideomotor.policy.chunking import ChunkQueue, Row, Underrun


def make_chunk(sequence, t0, rows, dt=1.0):
    return Chunk(t0, t0, dt, np.full((rows, 1), float(sequence)), "p", sequence)


def in_force(queue, times):
    rows = [queue.at(float(time)) for time in times]
    return "".join("_" if isinstance(row, Underrun) else str(row.sequence) for row in rows)


def test_newer_chunk_takes_over_from_its_own_start():
    queue = ChunkQueue()
    queue.push(make_chunk(1, 0.0, 6))
    queue.push(make_chunk(2, 2.0, 6))
    assert in_force(queue, range(10)) == "11222222__"
    assert queue.underruns == 2


def test_chunk_for_the_future_leaves_the_present_alone():
    queue = ChunkQueue()
    queue.push(make_chunk(1, 0.0, 3))
    queue.push(make_chunk(2, 5.0, 2))
    assert in_force(queue, range(8)) == "111__22_"


def test_shorter_new_chunk_does_not_bring_back_the_old_tail():
    queue = ChunkQueue()
    queue.push(make_chunk(1, 0.0, 8))
    queue.push(make_chunk(2, 2.0, 2))
    assert in_force(queue, range(8)) == "1122____"


@pytest.mark.parametrize("sequence", [1, 3])
def test_older_or_equal_sequence_is_dropped(sequence):
    queue = ChunkQueue()
    queue.push(make_chunk(3, 0.0, 2))
    assert not queue.push(make_chunk(sequence, 0.0, 9))
    assert queue.dropped == 1
    assert in_force(queue, range(4)) == "33__"


def test_underrun_tells_since_when():
    queue = ChunkQueue()
    assert queue.at(0.0) == Underrun(0.0, None)
    queue.push(make_chunk(1, 0.0, 2))
    assert queue.at(7.0) == Underrun(7.0, 2.0)


def test_age_counts_from_the_observation():
    queue = ChunkQueue()
    queue.push(Chunk(10.0, 10.2, 0.1, np.array([[1.0], [2.0]]), "p", 1))
    row = queue.at(10.35)
    assert isinstance(row, Row)
    assert (row.index, row.age, row.action[0]) == (1, pytest.approx(0.35), 2.0)


def test_reset_lets_a_sequence_start_again():
    queue = ChunkQueue()
    queue.push(make_chunk(9, 0.0, 2))
    queue.reset()
    assert queue.push(make_chunk(1, 0.0, 2))


@pytest.mark.parametrize(
    "chunk",
    [
        make_chunk(1, 0.0, 0),
        make_chunk(1, 0.0, 2, dt=0.0),
        make_chunk(1, float("nan"), 2),
        Chunk(0.0, 0.0, 0.1, np.array([[np.nan]]), "p", 1),
        Chunk(0.0, 0.0, 0.1, np.array([[np.inf]]), "p", 1),
    ],
)
def test_chunk_that_makes_no_sense_is_refused(chunk):
    queue = ChunkQueue()
    with pytest.raises(UserError, match="chunk 1 of p"):
        queue.push(chunk)
    assert queue.at(0.0) == Underrun(0.0, None)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=6))
def test_in_force_is_the_newest_chunk_that_has_begun(plan):
    queue = ChunkQueue()
    for sequence, (t0, rows) in enumerate(plan):
        queue.push(make_chunk(sequence, float(t0), rows))
    for time in range(20):
        begun = [i for i, (t0, _) in enumerate(plan) if t0 <= time]
        newest = max(begun, default=None)
        covered = newest is not None and time < plan[newest][0] + plan[newest][1]
        row = queue.at(float(time))
        assert isinstance(row, Row) == covered
        if isinstance(row, Row):
            assert row.sequence == newest
