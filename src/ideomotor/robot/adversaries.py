"""Proposals that try to make a shield fail, and benign ones that it must leave alone.

Each adversary is drawn from a random generator for one episode, and then asked once a tick.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import rotation_vector_to_matrix
from ideomotor.robot.body import Body
from ideomotor.robot.clearance import Clearance
from ideomotor.robot.kinematics import joint_frames, pose_and_jacobian
from ideomotor.robot.proposal import PoseProposal, Proposal
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield_settings import MOTION
from ideomotor.robot.surroundings import Bounds, BoxShape, CapsuleShape, HalfSpace, Obstacle, Sphere, Surroundings

TRIES = 400  # random positions that are looked at for one of a kind
FREE = 0.04  # [m] a free position is this far beyond every margin
HUGE = (math.nan, math.inf, -math.inf, 1e300, -1e300, 5e-324, 1e9)


@dataclass(frozen=True)
class Asked:
    """What a shield is given in one tick."""

    proposal: object
    state: object
    now: object


@dataclass
class Episode:
    """Where an episode stands; `q` is the last command, which an ideal robot has reached."""

    q: Float[np.ndarray, " J"]
    dt: float
    dq: Float[np.ndarray, " J"]
    tick: int = 0
    start: float = 0.0  # [s]

    @property
    def now(self) -> float:
        """[s] on the episode's clock."""
        return self.start + self.tick * self.dt

    def ask(self, goal: object) -> Asked:
        """Propose joint positions, with everything else in order."""
        return self.give(Proposal(goal, self.now, self.tick))  # pyright: ignore[reportArgumentType] (garbage is the point)

    def give(self, proposal: object) -> Asked:
        """Give any proposal, with state and clock in order."""
        return Asked(proposal, RobotState(self.now, self.q, self.dq, 1.0), self.now)


Play = Callable[[Episode], Asked]


class Place:
    """An arm in its surroundings, with positions drawn from it."""

    def __init__(
        self, body: Body, around: Surroundings, home: Float[np.ndarray, " J"], tool_speed: float | None = None
    ) -> None:
        """Look at a place; `tool_speed` [m/s] is the cap that benign motion keeps.

        Raises:
            UserError: the arm's home is inside a margin there.
        """
        self.body, self.around, self.home, self.tool_speed = body, around, home, tool_speed
        self.clearance = Clearance(body, around)
        self.low, self.high = np.array(body.limits.q_min), np.array(body.limits.q_max)
        if self.blocked(home, 0.0):
            raise UserError(f"{body.name} stands inside a margin at home in these surroundings; move the obstacles")

    def blocked(self, q: Float[np.ndarray, " J"], reserve: float) -> bool:
        """Tell whether something is nearer than its margin and a reserve [m]."""
        return len(self.clearance.nearest(joint_frames(self.body.chain, q), reserve).distance) > 0

    def anywhere(self, rng: np.random.Generator, share: float = 1.0) -> Float[np.ndarray, " J"]:
        """Draw a position from the joint ranges, or from the part around home."""
        return self.home + share * (rng.uniform(self.low, self.high) - self.home)

    def free(self, rng: np.random.Generator, share: float = 1.0) -> Float[np.ndarray, " J"]:
        """Draw a position away from everything."""
        for _ in range(TRIES):
            q = self.anywhere(rng, share)
            inside = (q > self.low + 0.1).all() and (q < self.high - 0.1).all()
            if inside and not self.blocked(q, FREE):
                return q
        return self.home

    def inside(self, rng: np.random.Generator, depth: float) -> Float[np.ndarray, " J"]:
        """Draw a position where something is too near by at least `depth` [m]."""
        for _ in range(TRIES):
            q = self.anywhere(rng)
            if self.blocked(q, -depth):
                return q
        return self.low


# ---------------------------------------------------------------------------------------------------- adversaries


def uniform(place: Place, rng: np.random.Generator) -> Play:
    """Random targets inside the joint ranges, each held for a while."""
    hold, goal = int(rng.choice([1, 5, 25, 100])), place.anywhere(rng)

    def play(episode: Episode) -> Asked:
        nonlocal goal
        if episode.tick % hold == 0:
            goal = place.anywhere(rng)
        return episode.ask(goal)

    return play


def limit_riding(place: Place, rng: np.random.Generator) -> Play:
    """Targets at, just inside and just outside the position limits."""
    corner = rng.integers(0, 2, len(place.low)).astype(bool)

    def play(episode: Episode) -> Asked:
        if episode.tick % 40 == 0:
            corner[rng.integers(0, len(corner))] ^= True
        return episode.ask(np.where(corner, place.high, place.low) + rng.normal(0.0, 0.01, len(corner)))

    return play


def bang_bang(place: Place, rng: np.random.Generator) -> Play:
    """From one end of the ranges to the other, every few ticks."""
    period = int(rng.choice([2, 7, 30]))

    def play(episode: Episode) -> Asked:
        return episode.ask(place.high if episode.tick // period % 2 else place.low)

    return play


def oscillating(place: Place, rng: np.random.Generator) -> Play:
    """Sines that are far too fast, at other phases in every joint."""
    size, pace = rng.uniform(0.05, 2.0), rng.uniform(1.0, 40.0)
    phase = rng.uniform(0.0, 2.0 * math.pi, len(place.low))
    return lambda episode: episode.ask(place.home + size * np.sin(2.0 * math.pi * pace * episode.now + phase))


def not_numbers(place: Place, rng: np.random.Generator) -> Play:
    """NaN, infinite, huge and denormal numbers among good ones, in proposals, states and stamps."""

    def play(episode: Episode) -> Asked:
        goal, asked = place.anywhere(rng), episode.ask(place.home)
        bad = float(rng.choice(HUGE))
        match int(rng.integers(0, 6)):
            case 0:
                goal[rng.integers(0, len(goal))] = bad
            case 1:
                goal[:] = bad
            case 2:
                return replace(asked, now=bad)
            case 3:
                q = episode.q.copy()
                q[rng.integers(0, len(q))] = math.nan if abs(bad) < 1.0 else bad  # a tiny one is a place
                return replace(asked, state=RobotState(episode.now, q, episode.dq, bad))
            case 4:
                return replace(asked, proposal=Proposal(goal, bad, episode.tick, bad))
            case _:
                pass
        return episode.ask(goal)

    return play


def not_arrays(place: Place, rng: np.random.Generator) -> Play:
    """Wrong shapes, wrong kinds, and things that are no proposals at all, among good ones."""
    joints = len(place.home)
    objects = np.array([None] * joints, dtype=object)
    things: tuple[object, ...] = (
        None, "home", 3.0, [0.0] * joints, np.zeros(joints - 1), np.zeros((1, joints)), np.zeros(joints, np.int64),
        np.zeros(joints, complex), objects, np.zeros(joints, np.float16), np.float64(0.0), {}, place.home.astype(np.float32),
    )  # fmt: skip

    def play(episode: Episode) -> Asked:
        thing = things[rng.integers(0, len(things))]
        match int(rng.integers(0, 5)):
            case 0:
                return episode.give(thing)
            case 1:
                return replace(episode.ask(place.home), state=thing)
            case 2:
                return replace(episode.ask(place.home), now=thing)
            case 3:
                return episode.give(PoseProposal(thing, episode.now, episode.tick))  # pyright: ignore[reportArgumentType]
            case _:
                return episode.ask(thing if rng.random() < 0.5 else place.anywhere(rng))

    return play


def late(place: Place, rng: np.random.Generator) -> Play:
    """Old and future stamps, repeated and reordered numbers, a clock that goes back, among good ones."""

    def play(episode: Episode) -> Asked:
        asked, goal = episode.ask(place.anywhere(rng)), place.anywhere(rng)
        match int(rng.integers(0, 5)):
            case 0:
                return replace(asked, proposal=Proposal(goal, episode.now + rng.uniform(-100.0, 1.0), episode.tick))
            case 1:
                return replace(asked, proposal=Proposal(goal, episode.now, int(rng.integers(0, episode.tick + 1))))
            case 2:
                return replace(asked, now=episode.now - rng.uniform(0.0, 50.0))
            case _:
                return asked

    return play


def push(place: Place, rng: np.random.Generator) -> Play:
    """A constant push into the floor, a wall, an obstacle or the arm itself."""
    goal = place.inside(rng, float(rng.choice([0.0, 0.05, 0.15])))
    return lambda episode: episode.ask(goal)


def push_tool(place: Place, rng: np.random.Generator) -> Play:
    """A pose behind an obstacle or out of reach, with rotations that are none among them."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_vector_to_matrix(rng.normal(0.0, 1.5, 3))
    pose[:3, 3] = rng.uniform(-1.0, 1.0, 3) + place.body.chain.base_from_foot[:3, 3]
    if rng.random() < 0.2:
        pose[:3, :3] *= rng.uniform(-2.0, 2.0)
    return lambda episode: episode.give(PoseProposal(pose, episode.now, episode.tick))


def jumps(place: Place, rng: np.random.Generator) -> Play:
    """Goals on opposite sides of what stands between, in turn."""
    ends, period = (place.free(rng), place.free(rng)), int(rng.choice([10, 40, 100]))
    return lambda episode: episode.ask(ends[episode.tick // period % 2])


def far_first(place: Place, rng: np.random.Generator) -> Play:
    """A first command far from where the arm is, then silence and a new start somewhere else."""
    goal = place.home + rng.choice([-2.8, 2.8], len(place.home))

    def play(episode: Episode) -> Asked:
        if episode.tick == 60:  # a reconnection: nothing came for a second, and the arm was moved by hand
            episode.start += 1.0
            episode.q = np.clip(episode.q + rng.normal(0.0, 0.2, len(goal)), place.low - 0.05, place.high + 0.05)
            episode.dq = np.zeros_like(episode.q)
        return episode.ask(goal)

    return play


def benign(place: Place, rng: np.random.Generator) -> Play:
    """Smooth reaches that keep all limits: x(s) = 10 s^3 - 15 s^4 + 6 s^5 between free positions along a free line."""
    begun, ticks, source, target = 0, 0, place.home, place.home

    def draw(q: Float[np.ndarray, " J"], dt: float) -> tuple[Float[np.ndarray, " J"], int]:
        for _ in range(40):
            goal = place.free(rng, 0.4)
            line = q + np.linspace(0.0, 1.0, 9)[1:, None] * (goal - q)
            if not any(place.blocked(point, 0.04) for point in line):
                return goal, max(2, math.ceil(_reach_time(place, line, goal - q) / dt))
        return q, 10

    def play(episode: Episode) -> Asked:
        nonlocal begun, ticks, source, target
        if episode.tick >= begun + ticks:
            begun, source = episode.tick, target if ticks else episode.q.copy()
            target, ticks = draw(source, episode.dt)
        s = (episode.tick + 1 - begun) / ticks
        return episode.ask(source + (s**3 * (10.0 - 15.0 * s + 6.0 * s * s)) * (target - source))

    return play


def _reach_time(place: Place, line: Float[np.ndarray, "N J"], way: Float[np.ndarray, " J"]) -> float:
    """Return how long a smooth reach takes that stays well inside all limits [s]; the factors are peaks of its derivatives."""
    rated, share = place.body.limits, MOTION
    size = np.abs(way)
    times = [
        1.875 * size / (0.7 * share.speed * np.array(rated.speed)),
        np.sqrt(5.774 * size / (0.7 * share.acceleration * np.array(rated.acceleration))),
        np.cbrt(60.0 * size / (0.7 * share.jerk * np.array(rated.jerk))),
    ]
    if rated.speed_law is not None:
        times.append(1.875 * size / 0.3)  # slow enough for the law anywhere near a limit
    if place.tool_speed is not None:
        _, jacobian = pose_and_jacobian(place.body.chain, line)
        per_share = float(np.linalg.norm(jacobian[:, :3] @ way, axis=1).max())  # [m] of the tool for the whole way
        times.append(np.array([1.875 * per_share / (0.6 * place.tool_speed)]))
    return max(float(values.max()) for values in times)


ADVERSARIES: Mapping[str, Callable[[Place, np.random.Generator], Play]] = {
    "uniform": uniform,
    "limit_riding": limit_riding,
    "bang_bang": bang_bang,
    "oscillating": oscillating,
    "not_numbers": not_numbers,
    "not_arrays": not_arrays,
    "late": late,
    "push": push,
    "push_tool": push_tool,
    "jumps": jumps,
    "far_first": far_first,
    "benign": benign,
}

CELL = Surroundings(  # what the soak works in where no file is given: a floor, posts, a box, a ball, and bounds
    bounds=Bounds((-0.85, -0.85, 0.0), (0.85, 0.85, 1.25)),
    obstacles=(
        Obstacle("floor", HalfSpace((0.0, 0.0, 1.0), 0.0)),
        Obstacle("post", CapsuleShape((0.45, 0.35, 0.0), (0.45, 0.35, 0.6), 0.04)),
        Obstacle("bar", CapsuleShape((-0.5, -0.4, 0.5), (-0.5, 0.4, 0.5), 0.03)),
        Obstacle("crate", BoxShape((0.5, -0.4, 0.15), (0.12, 0.06, 0.15), 0.4)),
        Obstacle("ball", Sphere((0.1, 0.6, 0.7), 0.08)),
    ),
)
