"""What is asked of a policy: each suite is a small type that says which episodes run and what its numbers mean.

The first condition of a suite is the one measured; others run on the same scenes for a paired comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ideomotor.core.types import Observation
from ideomotor.evaluate.rollout import Condition, Crash, Rollout, Success
from ideomotor.evaluate.statistics import Interval, PairedDifference, clopper_pearson, paired_difference

TRAINED = Condition("trained wordings")


@dataclass(frozen=True)
class Facts:
    """What was true in the scene of an episode, in words. The policy is told none of it but the instruction."""

    named: str  # the object that the instruction names
    graspable: tuple[str, ...]  # the objects that fit the gripper, the named one among them
    first_touched: str | None  # the first of them that the fingers touched
    first_lifted: str | None


Case = tuple[Rollout, Facts]
Cases = Mapping[str, Sequence[Case]]  # by condition, in the order of the seeds


@dataclass(frozen=True)
class InDistribution:
    """Scenes and wordings as in training, other seeds."""

    conditions: tuple[Condition, ...] = (TRAINED,)

    def details(self, cases: Cases) -> dict[str, Any]:
        """Add nothing."""
        del cases
        return {}


@dataclass(frozen=True)
class Paraphrase:
    """Wordings that training never used, paired with trained wordings on the same scenes."""

    conditions: tuple[Condition, ...] = (Condition("held-out wordings", wording="held_out"), TRAINED)

    def details(self, cases: Cases) -> dict[str, Any]:
        """Add the trained wordings' count and the paired difference, held-out minus trained."""
        held_out, trained = ([rollout for rollout, _ in cases[condition.name]] for condition in self.conditions)
        return {"trained_wordings": count(trained), "paired": paired_json(pair(held_out, trained))}


@dataclass(frozen=True)
class InstructionSwap:
    """The same scene and seed, but another of its objects is named: does the hand follow the words?"""

    conditions: tuple[Condition, ...] = (Condition("another object named", swap=True),)

    def details(self, cases: Cases) -> dict[str, Any]:
        """Add how many of the first touches, and of the first lifts, were of the named object."""
        facts = [facts for _, facts in cases[self.conditions[0].name]]
        return {
            "named_first": share([f.first_touched == f.named for f in facts if f.first_touched is not None]),
            "named_lifted_first": share([f.first_lifted == f.named for f in facts if f.first_lifted is not None]),
        }


def blacken(observation: Observation) -> Observation:
    """Return the observation with black images."""
    images = {role: np.zeros_like(image) for role, image in observation.images.items()}
    return replace(observation, images=images)


@dataclass(frozen=True)
class Blind:
    """Black images: what is left is what the policy does without looking."""

    conditions: tuple[Condition, ...] = (Condition("black images", see=blacken),)

    def details(self, cases: Cases) -> dict[str, Any]:
        """Add nothing."""
        del cases
        return {}


def say_nothing(instruction: str) -> str:
    """Return the empty instruction."""
    del instruction
    return ""


@dataclass(frozen=True)
class Blank:
    """An empty instruction: the target can be found by chance only."""

    conditions: tuple[Condition, ...] = (Condition("no instruction", say=say_nothing),)

    def details(self, cases: Cases) -> dict[str, Any]:
        """Add how many of the first touches were of the target, and how many chance would give in these scenes."""
        touched = [facts for _, facts in cases[self.conditions[0].name] if facts.first_touched is not None]
        chance = [1.0 / len(facts.graspable) for facts in touched]
        first = share([facts.first_touched == facts.named for facts in touched])
        return {"target_first": {**first, "chance": sum(chance) / len(chance) if chance else None}}


Suite = InDistribution | Paraphrase | InstructionSwap | Blind | Blank


# ---------------------------------------------------------------------------------------------------- counting


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Return count, total, share and exact interval; share and interval are None where there is nothing to count."""
    total, hit = len(hits), sum(hits)
    return {
        "count": hit,
        "of": total,
        "share": hit / total if total else None,
        "interval": list(clopper_pearson(hit, total)) if total else None,
    }


MAX_CRASHES = 0.01  # above this share of crashes a rate means nothing, and none is given


def count(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return successes, episodes, crashes, and the exact interval over the episodes that did not crash.

    The interval is None when more than `MAX_CRASHES` of the episodes crashed.
    """
    successes = sum(isinstance(rollout.outcome, Success) for rollout in rollouts)
    crashes = sum(isinstance(rollout.outcome, Crash) for rollout in rollouts)
    valid = len(rollouts) - crashes
    trusted = valid > 0 and crashes <= MAX_CRASHES * len(rollouts)
    return {
        "successes": successes,
        "episodes": len(rollouts),
        "crashes": crashes,
        "interval": list(clopper_pearson(successes, valid)) if trusted else None,
    }


def pair(first: Sequence[Rollout], second: Sequence[Rollout]) -> PairedDifference:
    """Compare two conditions on the same seeds; pairs with a crash are left out."""
    pairs = [
        (isinstance(a.outcome, Success), isinstance(b.outcome, Success))
        for a, b in zip(first, second, strict=True)
        if not isinstance(a.outcome, Crash) and not isinstance(b.outcome, Crash)
    ]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])


def paired_json(paired: PairedDifference) -> dict[str, Any]:
    """Return a paired difference as JSON values."""
    return {
        "difference": paired.difference,
        "interval": list(paired.interval),
        "first_only": paired.first_only,
        "second_only": paired.second_only,
        "pairs": paired.pairs,
        "p_value": paired.p_value,
    }


def paired_from_json(value: Mapping[str, Any]) -> PairedDifference:
    """Undo `paired_json`."""
    return PairedDifference(
        difference=value["difference"],
        interval=Interval(*value["interval"]),
        first_only=value["first_only"],
        second_only=value["second_only"],
        pairs=value["pairs"],
        p_value=value["p_value"],
    )
