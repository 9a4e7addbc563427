import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from point_world import facts, outcomes, rollout

from ideomotor.core.types import Observation
from ideomotor.evaluate.rollout import Crash, Failure, Success
from ideomotor.evaluate.suites import (
    Blank,
    Blind,
    Case,
    Cases,
    InDistribution,
    InstructionSwap,
    Paraphrase,
    count,
    pair,
    share,
)


def rollouts(text):
    return [rollout(outcome, seed) for seed, outcome in enumerate(outcomes(text))]


def cases(suite, *groups: Sequence[Case]) -> Cases:
    return {condition.name: group for condition, group in zip(suite.conditions, groups, strict=True)}


def test_crash_is_neither_success_nor_failure():
    counted = count([*rollouts("s" * 90 + "f" * 10), rollout(Crash("gone"))])
    assert (counted["successes"], counted["episodes"], counted["crashes"]) == (90, 101, 1)
    assert counted["interval"] == pytest.approx([0.8238, 0.9510], abs=5.1e-5)  # of 90 of 100, as published


def test_more_than_one_percent_of_crashes_gives_no_interval():
    assert count([*rollouts("s" * 99), rollout(Crash("gone"))])["interval"] is not None
    assert count([*rollouts("s" * 98), rollout(Crash("gone"))])["interval"] is None
    assert count([rollout(Crash("gone"))])["interval"] is None


def test_pairs_with_a_crash_are_left_out():
    first, second = rollouts("ssff"), rollouts("sfsf")
    second[0] = rollout(Crash("gone"))
    paired = pair(first, second)
    assert (paired.first_only, paired.second_only, paired.pairs) == (1, 1, 3)


def test_paraphrase_pairs_held_out_with_trained_wordings():
    suite = Paraphrase()
    assert [condition.wording for condition in suite.conditions] == ["held_out", "train"]
    held_out = [(r, facts()) for r in rollouts("s" * 12 + "f" * 3 + "s" * 20 + "f" * 15)]
    trained = [(r, facts()) for r in rollouts("f" * 12 + "s" * 3 + "s" * 20 + "f" * 15)]
    details = suite.details(cases(suite, held_out, trained))
    assert details["trained_wordings"]["successes"] == 23
    assert details["paired"]["difference"] == pytest.approx(0.18)
    assert details["paired"]["interval"] == pytest.approx([0.025, 0.321], abs=5e-4)  # as published


def test_swap_counts_the_first_touches_of_the_named_object():
    suite = InstructionSwap()
    assert suite.conditions[0].swap
    told = [facts(), facts("blue can"), facts(None), facts(), facts("red cube", lifted="blue can")]
    details = suite.details(cases(suite, [(rollout(Failure()), f) for f in told]))
    named = details["named_first"]
    assert (named["count"], named["of"], named["share"]) == (3, 4, 0.75)  # the one that touched nothing is not counted
    assert details["named_lifted_first"]["count"] == 0
    assert details["named_lifted_first"]["of"] == 1


def test_blank_compares_first_touches_with_chance():
    suite = Blank()
    assert suite.conditions[0].say("pick up the red cube") == ""
    three = ("red cube", "blue can", "red can")
    told = [facts(), facts("blue can", graspable=three), facts(None), facts("red can", graspable=three), facts()]
    target = suite.details(cases(suite, [(rollout(), f) for f in told]))["target_first"]
    assert (target["count"], target["of"]) == (2, 4)
    assert target["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4)


def test_blind_shows_black_images_and_leaves_the_state():
    observation = Observation(1.0, {"front": np.full((2, 2, 3), 9, np.uint8)}, np.ones(3))
    seen = Blind().conditions[0].see(observation)
    assert not seen.images["front"].any()
    assert seen.images["front"].shape == (2, 2, 3)
    np.testing.assert_array_equal(seen.state, observation.state)
    assert observation.images["front"].all()


def test_nothing_to_count_has_no_share():
    assert share([]) == {"count": 0, "of": 0, "share": None, "interval": None}


def test_plain_suite_changes_nothing():
    (condition,) = InDistribution().conditions
    assert (condition.wording, condition.swap, condition.say("go")) == ("train", False, "go")
    assert isinstance(rollout().outcome, Success)
