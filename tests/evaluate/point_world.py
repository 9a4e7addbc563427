"""Environments of one point on a line, and policies for it: the point has to reach the named place."""

from dataclasses import dataclass, field

import numpy as np

from ideomotor.core.spec import Channel, ChunkLength, Embodiment
from ideomotor.core.types import Chunk, Observation
from ideomotor.evaluate.rollout import Attempt, Condition, Failure, Rollout, Success
from ideomotor.evaluate.suites import Facts
from ideomotor.sim.workers import Advance, Begun, Crashed

EMBODIMENT = Embodiment(
    name="point",
    robot="point",
    rate_hz=10.0,
    action=(Channel("x", "m", mode="delta"),),
    state=(Channel("x", "m"), Channel("place", "m")),
    cameras=(),
    chunk=ChunkLength(3, 2),
)
HORIZON = 9


@dataclass
class PointEnvs:
    """Scene `seed` has its place at `seed` metres; seeds in `broken` crash: on begin if even, on the way if odd."""

    num_slots: int = 8
    broken: tuple[int, ...] = ()
    points: dict[int, list[float]] = field(default_factory=dict)  # by slot: x, place, steps, whether broken
    batches: list[list[int]] = field(default_factory=list)  # the slots of each call

    def begin(self, slot, request):
        if request.seed in self.broken and request.seed % 2 == 0:
            return Crashed("no table")
        self.points[slot] = [0.0, float(request.seed), 0, request.seed in self.broken]
        polite = " please" if request.wording == "held_out" else ""
        return Begun(self.observe(slot), f"go to {request.seed}{polite}")

    def observe(self, slot):
        x, place, steps, _ = self.points[slot]
        image = np.full((2, 2, 3), 9, np.uint8)
        return Observation(0.1 * steps, {"front": image}, np.array([x, place]))

    def advance(self, actions, *, record=False):
        self.batches.append(sorted(actions))
        return {slot: self._advance(slot, rows) for slot, rows in actions.items()}

    def _advance(self, slot, rows):
        point = self.points[slot]
        if point[3]:
            return Crashed("the table fell over")
        used = 0
        for row in rows:
            point[0] += float(row[0])
            point[2] += 1
            used += 1
            if self._done(point):
                break
        success = abs(point[0] - point[1]) < 1e-9
        return Advance(self.observe(slot), self._done(point), success, used, {"first_touched": 0 if success else -1})

    @staticmethod
    def _done(point):
        return abs(point[0] - point[1]) < 1e-9 or point[2] >= HORIZON


class PointPolicy:
    """Goes one metre a step towards the place, at most 3 in a chunk; with `nan_at`, gives NaN for that place."""

    policy_id = "point"
    embodiment = EMBODIMENT

    def __init__(self, nan_at=None):
        self.nan_at = nan_at
        self.sizes = []
        self.told = []
        self.seen = []

    def reset(self, instruction):
        self.told.append(instruction)

    def act(self, observation):
        return self.act_batch([""], [observation])[0]

    def act_batch(self, instructions, observations):
        self.sizes.append(len(observations))
        self.told += instructions
        self.seen += observations
        return [self._chunk(observation) for observation in observations]

    def _chunk(self, observation):
        x, place = observation.state
        ahead = x + np.cumsum(np.ones(3))
        actions = np.where(ahead <= place, 1.0, 0.0)[:, None]
        if place == self.nan_at:
            actions[1] = np.nan
        return Chunk(observation.time, observation.time, 0.1, actions, "point", 0)


class SinglePolicy:
    """The same as a `Policy` without batches."""

    policy_id = "point"
    embodiment = EMBODIMENT

    def __init__(self):
        self.inner = PointPolicy()
        self.resets = []

    def reset(self, instruction):
        self.resets.append(instruction)

    def act(self, observation):
        return self.inner.act(observation)


def attempts(seeds, condition=None):
    return [Attempt("reach", seed, condition or Condition("plain")) for seed in seeds]


def rollout(outcome=None, seed=0, condition="plain", task="reach", told="go", steps=4):
    attempt = Attempt(task, seed, Condition(condition))
    return Rollout(attempt, told, told, outcome or Success(), {}, np.zeros((steps, 1)))


def facts(
    touched: str | None = "red cube", lifted: str | None = None, named="red cube", graspable=("red cube", "blue can")
):
    return Facts(named, graspable, touched, lifted)


def outcomes(text):
    """Read "ssf": success, success, failure."""
    return [Success() if letter == "s" else Failure() for letter in text]
