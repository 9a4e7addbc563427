"""What a window holds, and how episodes are split."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import rlds_writer
from memory_dataset import MemoryDataset

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, Embodiment
from ideomotor.data.windows import WholeChunks, WindowSource, split_episodes, stack

CHECKS = 200e-6  # [s] what the run-time checks of shapes add to a window


def test_recorded_actions_are_padded_beyond_the_end_of_the_episode():
    source = WindowSource(MemoryDataset([3, 2]), horizon=4)
    assert len(source) == 5
    window = source[1]  # episode 0, frame 1; actions are (episode, frame)
    assert window.actions.tolist() == [[0, 1], [0, 2], [0, 2], [0, 2]]
    assert window.actions_pad.tolist() == [False, False, True, True]
    assert window.state.tolist() == [100.0]
    assert window.instruction == "do 0"
    assert source[3].actions.tolist() == [[1, 0], [1, 1], [1, 1], [1, 1]]  # never from the next episode
    assert source[2].actions_pad.tolist() == [False, True, True, True]


def test_expert_chunks_replace_recorded_actions_and_are_never_padded():
    source = WindowSource(MemoryDataset([3], expert_steps=4), horizon=2)
    # the column holds 4 steps row-major: (frame * 100 + step, -step)
    assert source[2].actions.tolist() == [[200, 0], [201, -1]]
    assert not source[2].actions_pad.any()
    with pytest.raises(UserError, match="expert chunks of 8 numbers for actions of 2: 4 steps; a chunk of 5"):
        WindowSource(MemoryDataset([3], expert_steps=4), horizon=5)


def test_a_source_of_some_episodes_holds_those_alone():
    dataset = MemoryDataset([3, 2, 4])
    source = WindowSource(dataset, horizon=1, episodes=[2, 0])
    assert [source.place(i) for i in range(len(source))] == [(2, 0), (2, 1), (2, 2), (2, 3), (0, 0), (0, 1), (0, 2)]
    assert [int(source[i].actions[0, 0]) for i in range(7)] == [2, 2, 2, 2, 0, 0, 0]
    assert source[4].instruction == "do 0"
    assert (source[3].images["front"] == dataset.image(2, 3, "front")).all()


def test_labels_travel_along_and_can_be_chosen():
    dataset = MemoryDataset([3], labels={"label.held": 2, "label.class": 5})
    assert {name: row.shape for name, row in WindowSource(dataset, 1)[1].labels.items()} == {
        "label.held": (2,),
        "label.class": (5,),
    }
    chosen = WindowSource(dataset, 1, labels=["label.held"])
    assert chosen[2].labels["label.held"].tolist() == [2.0, 2.0]
    assert list(chosen[2].labels) == ["label.held"]
    with pytest.raises(UserError, match="'label.hold'.*Did you mean 'label.held'"):
        WindowSource(dataset, 1, labels=["label.hold"])


def test_a_dataset_without_a_state_has_a_state_of_no_numbers():
    dataset = MemoryDataset([3, 2])
    del dataset.features["observation.state"]
    source = WindowSource(dataset, horizon=2)
    assert source[3].state.shape == (0,)
    assert source.state.shape == (5, 0)
    assert source[3].actions.tolist() == [[1, 0], [1, 1]]


def test_an_index_outside_of_the_source_is_an_error():
    source = WindowSource(MemoryDataset([2]), horizon=1)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            source[index]
    assert sum(1 for _ in source) == 2


def test_the_name_of_a_source_changes_with_all_that_decides_its_windows():
    dataset = MemoryDataset([3, 2])
    names = {
        WindowSource(dataset, 2).name,
        WindowSource(dataset, 3).name,
        WindowSource(dataset, 2, episodes=[0]).name,
        WindowSource(MemoryDataset([3, 3]), 2).name,
    }
    assert len(names) == 4
    assert WindowSource(MemoryDataset([3, 2]), 2).name == WindowSource(dataset, 2).name


def test_stack_joins_windows_in_raw_units():
    source = WindowSource(MemoryDataset([3, 2], labels={"label.held": 2}), horizon=4)
    batch = stack([source[0], source[4]])
    assert {name: array.shape for name, array in batch.items()} == {
        "state": (2, 1),
        "actions": (2, 4, 2),
        "actions_pad": (2, 4),
        "images": (2, 1, 6, 8, 3),
        "label.held": (2, 2),
    }
    assert batch["actions"][1].tolist() == [[1, 1]] * 4


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.floats(0, 0.5), st.integers(0, 2**40))
def test_a_split_is_a_partition_with_the_stated_share(num_episodes, share, seed):
    if round(share * num_episodes) >= num_episodes:
        return
    split = split_episodes(num_episodes, share, seed)
    assert sorted(split.train + split.validation) == list(range(num_episodes))
    assert len(split.validation) == round(share * num_episodes)
    assert split_episodes(num_episodes, share, seed) == split


def test_a_split_depends_on_its_seed_and_takes_no_side():
    drawn = np.array([[e in split_episodes(50, 0.2, seed).validation for e in range(50)] for seed in range(200)])
    assert len({tuple(row) for row in drawn.tolist()}) == 200
    assert (np.abs(drawn.mean(axis=0) - 0.2) < 0.13).all()  # 4.6 standard deviations


@pytest.mark.parametrize(("episodes", "share"), [(10, 1.0), (10, -0.1), (1, 0.6)])
def test_a_share_that_leaves_nothing_is_refused(episodes, share):
    with pytest.raises(UserError, match="leaves none to learn from"):
        split_episodes(episodes, share, seed=0)


def test_a_large_source_is_made_in_seconds_and_a_window_takes_microseconds():
    dataset = MemoryDataset([20] * 7000, expert_steps=4, labels={"label.class": 36, "label.offset": 72})
    begin = time.process_time()
    source = WindowSource(dataset, horizon=4)
    assert len(source) == 140_000
    assert time.process_time() - begin < 8  # 1 s measured, most of it the test's own columns
    source.cameras, numbers = (), np.random.default_rng(0).integers(0, len(source), 2000).tolist()
    begin = time.process_time()
    for number in numbers:
        source[number]
    assert (time.process_time() - begin) / len(numbers) < 60e-6 + CHECKS


def test_the_windows_of_an_rlds_dataset_are_its_frames(tmp_path):
    rlds_writer.write(tmp_path / "toy", [rlds_writer.episode_record(e, n) for e, n in enumerate((4, 1, 3))])
    from ideomotor.data.rlds.dataset import RldsDataset

    window = WindowSource(RldsDataset(tmp_path / "toy"), horizon=2)[6]
    assert window.actions.tolist() == [[2.0, 1.0, 0.5], [2.0, 2.0, 0.5]]
    assert (window.images["front"] == rlds_writer.picture(2, 1)).all()


# --------------------------------------------------------------------------- at the policy's rate

MOTION = Embodiment(
    "toy",
    "toy",
    10.0,
    (Channel("dx", "m", mode="delta"), Channel("x", "m")),
    (Channel("x", "m"),),
    (Camera("front", 6, 8),),
)


class Moving(MemoryDataset):
    """Says what its actions are: the episode as a motion, the frame as a place."""

    embodiment = MOTION


def test_windows_at_half_the_rate_hold_summed_motions_and_later_places():
    source = WindowSource(Moving([2, 5]), horizon=2, rate=5.0)
    assert len(source) == 7  # every recorded frame is seen
    window = source[3]  # episode 1, frame 1: motions 1 1 1 1, places 1 2 3 4
    assert window.actions.tolist() == [[2, 2], [2, 4]]
    assert not window.actions_pad.any()
    assert source[4].actions.tolist() == [[2, 3], [1, 4]]  # the episode ends after half a step
    assert not source[4].actions_pad.any()
    assert source[6].actions.tolist() == [[1, 4], [0, 4]]
    assert source[6].actions_pad.tolist() == [False, True]
    assert source[1].actions.tolist() == [[0, 1], [0, 1]]  # never from the next episode
    assert window.state.tolist() == [100.0]


def test_windows_at_twice_the_rate_set_out_from_the_action_before_in_the_same_episode():
    source = WindowSource(Moving([2, 5]), horizon=4, rate=20.0)
    assert source[3].actions.tolist() == [[0.5, 0.5], [0.5, 1], [0.5, 1.5], [0.5, 2]]
    assert source[2].actions.tolist() == [[0.5, 0], [0.5, 0], [0.5, 0.5], [0.5, 1]]
    assert source[6].actions_pad.tolist() == [False, False, True, True]


def test_the_recorded_rate_changes_no_bit_and_no_name():
    plain, same = WindowSource(Moving([4, 3]), horizon=3), WindowSource(Moving([4, 3]), horizon=3, rate=10.0)
    assert same.resampling is None
    assert same.name == plain.name
    assert [same[i].actions.tolist() for i in range(7)] == [plain[i].actions.tolist() for i in range(7)]
    assert WindowSource(Moving([4, 3]), horizon=3, rate=5.0).name != plain.name


def test_expert_chunks_are_resampled_too_and_must_be_long_enough():
    class Expert(Moving):
        pass

    source = WindowSource(Expert([3], expert_steps=4), horizon=2, rate=5.0)
    # recorded steps of frame 2: motions 200 201 202 203, places 0 -1 -2 -3
    assert source[2].actions.tolist() == [[401, -1], [405, -3]]
    with pytest.raises(UserError, match="4 steps; a chunk of 6 was asked for"):
        WindowSource(Expert([3], expert_steps=4), horizon=3, rate=5.0)


def test_whole_chunks_at_another_rate_span_recorded_steps_only():
    whole = WholeChunks(WindowSource(Moving([2, 5]), horizon=2, rate=5.0))
    assert [whole.window(i) for i in range(len(whole))] == [2, 3]  # four recorded steps each


def test_a_dataset_that_does_not_say_what_it_means_has_no_other_rate():
    with pytest.raises(UserError, match="cannot be brought to 5 Hz; give an embodiment"):
        WindowSource(MemoryDataset([3]), horizon=1, rate=5.0)

    class Contradictory(Moving):
        fps = 15.0

    with pytest.raises(UserError, match="15 frames a second, its embodiment states 10 Hz"):
        WindowSource(Contradictory([3]), horizon=1, rate=5.0)
