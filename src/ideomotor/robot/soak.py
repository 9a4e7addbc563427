"""Let adversaries propose millions of commands, and let an independent checker look at every one that was sent.

The work is cut into blocks: one episode of each adversary. A block depends on seed and number alone, so blocks run in any order and
process, a result file is continued where it ended, and a violation can be run again by its block.
"""

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.robot.adversaries import ADVERSARIES, CELL, Asked, Episode, Place, Play
from ideomotor.robot.arm import Arm
from ideomotor.robot.body import body_of
from ideomotor.robot.checker import Checker, Stream
from ideomotor.robot.kinematics import forward
from ideomotor.robot.proposal import Proposal, Retreat
from ideomotor.robot.robot import RobotState
from ideomotor.robot.shield import GEOMETRIC, Shield
from ideomotor.robot.shield_settings import REDUCED, Settings
from ideomotor.robot.surroundings import Surroundings

TICKS = 150  # of an episode
RECOVERY_S = 2.0  # [s] within which the arm has to come away from where it was stopped
PATIENCE_S = 0.5  # [s] of proposals towards home before a retreat is asked for
AWAY = 0.05  # [rad] that count as coming away
LEAST_ACCEPTED = 0.30  # share of uniform targets
BINS = np.arange(0.0, 50.0, 0.005)  # [ms] of the times


@dataclass(frozen=True)
class Soak:
    """What is run."""

    arm: Arm
    proposals: int
    seed: int = 0
    around: Surroundings = CELL
    dt: float = 0.01  # [s]
    workers: int = 1
    settings: Settings = field(default_factory=Settings)


@dataclass
class Tally:
    """What was counted. Tallies of blocks add up."""

    proposals: int = 0
    ticks: int = 0
    violations: Counter[str] = field(default_factory=Counter[str])  # by kind, found by the checker
    interventions: Counter[str] = field(default_factory=Counter[str])  # by reason
    asked: Counter[str] = field(default_factory=Counter[str])  # proposals by adversary
    accepted: Counter[str] = field(default_factory=Counter[str])
    altered: int = 0  # benign proposals
    benign_path: float = 0.0  # [rad] of all joints
    tool_path_m: float = 0.0
    stops: int = 0  # episodes that ended where something stood in the way
    recoveries: int = 0  # of these
    slowest_recovery_s: float = 0.0
    times: Counter[int] = field(default_factory=Counter[int])  # by bin of 5 us
    examples: list[str] = field(default_factory=list[str])  # of violations and stops without recovery

    def add(self, other: "Tally") -> None:
        """Take over another tally's counts."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            elif name == "slowest_recovery_s":
                self.slowest_recovery_s = max(mine, value)
            else:
                setattr(self, name, mine + value)
        del self.examples[20:]

    def report(self) -> dict[str, Any]:
        """Return what `ideomotor safety soak --json` prints."""
        return {
            "proposals": self.proposals,
            "ticks": self.ticks,
            "violations": {kind: count for kind, count in sorted(self.violations.items()) if count},
            "interventions": dict(sorted(self.interventions.items())),
            "accepted_share": {name: round(self.accepted[name] / n, 4) for name, n in sorted(self.asked.items())},
            "benign_altered": self.altered,
            "benign_path_rad": round(self.benign_path, 3),
            "tool_path_m": round(self.tool_path_m, 3),
            "stops": self.stops,
            "recoveries": self.recoveries,
            "slowest_recovery_s": round(self.slowest_recovery_s, 3),
            "p50": self.percentile(0.50),
            "p99": self.percentile(0.99),
            "examples": self.examples,
        }

    def percentile(self, share: float) -> float:
        """Return a percentile of the time of one call [ms]."""
        total, seen = sum(self.times.values()), 0
        for index in sorted(self.times):
            seen += self.times[index]
            if seen >= share * total:
                return round(float(BINS[index]), 4)
        return 0.0

    @property
    def faults(self) -> list[str]:
        """What makes a run fail, in words."""
        found: list[str] = []
        if count := sum(self.violations.values()):
            found.append(f"{count} violations")
        if self.asked["benign"] > 1000 and self.benign_path < 1.0:
            found.append("benign proposals hardly moved, so nothing is known of them; give the arm more room")
        if self.altered:
            found.append(f"{self.altered} benign proposals were altered")
        share = self.accepted["uniform"] / max(self.asked["uniform"], 1)
        if self.asked["uniform"] and share < LEAST_ACCEPTED:
            found.append(f"only {share:.0%} of uniform targets were accepted; a filter that never moves is broken")
        if self.recoveries < self.stops:
            found.append(f"{self.stops - self.recoveries} of {self.stops} stops did not recover in {RECOVERY_S:g} s")
        return found


def run(soak: Soak, out: Path | None = None, progress: Callable[[int], object] = lambda _: None) -> Tally:
    """Run a soak, and return its counts; with `out`, each block is a line of that file, and its blocks are not run again.

    Raises:
        UserError: `out` belongs to another soak, or the arm does not fit into the surroundings.
    """
    Place(body_of(soak.arm), soak.around, np.array(soak.arm.home))
    total, done = Tally(), _read(soak, out)
    for tally in done.values():
        total.add(tally)
        progress(tally.proposals)
    waiting = (index for index in _endless() if index not in done)
    if soak.workers == 1:
        results = ((index, run_block(soak, index)) for index in waiting)
        _collect(soak, out, total, results, progress)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(soak.workers, context) as pool:
            _collect(soak, out, total, _parallel(pool, soak, waiting, total), progress)
    return total


def _collect(
    soak: Soak, out: Path | None, total: Tally, results: Iterator[tuple[int, Tally]], progress: Callable[[int], object]
) -> None:
    while total.proposals < soak.proposals:
        index, tally = next(results)
        total.add(tally)
        progress(tally.proposals)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"block": index, **_plain(tally)}) + "\n")


def _parallel(
    pool: ProcessPoolExecutor, soak: Soak, waiting: Iterator[int], total: Tally
) -> Iterator[tuple[int, Tally]]:
    """Yield blocks in order while as many as there are workers are under way."""
    running: list[tuple[int, Any]] = []
    size = 0
    while True:
        wanted = soak.proposals - total.proposals
        while len(running) < 2 * soak.workers and (size == 0 or len(running) * size < wanted):
            index = next(waiting)
            running.append((index, pool.submit(run_block, soak, index)))
        index, future = running.pop(0)
        tally: Tally = future.result()
        size = tally.proposals
        yield index, tally


def _endless() -> Iterator[int]:
    index = 0
    while True:
        yield index
        index += 1


# ---------------------------------------------------------------------------------------------------- one block


def run_block(soak: Soak, index: int) -> Tally:
    """Run one episode of each adversary, with the tool's cap in every second block."""
    body = body_of(soak.arm)
    cap = REDUCED if index % 2 else None
    place = Place(body, soak.around, np.array(soak.arm.home), cap)
    settings = replace(soak.settings, dt=soak.dt, tool_speed=cap)
    checker = Checker(soak.arm, body.limits, body.capsules, body.self_pairs, soak.around, soak.dt, tool_speed=cap)
    tally = Tally()
    for number, (name, make) in enumerate(ADVERSARIES.items()):
        rng = np.random.default_rng([soak.seed, index, number])
        shield = Shield(body, soak.around, settings)
        _Run(soak, place, shield, checker.stream(), tally, f"block {index}, {name}").play(name, make(place, rng), rng)
    return tally


class _Run:
    """One episode."""

    def __init__(self, soak: Soak, place: Place, shield: Shield, stream: Stream, tally: Tally, where: str) -> None:
        self.soak, self.place, self.shield, self.stream, self.tally, self.where = (
            soak,
            place,
            shield,
            stream,
            tally,
            where,
        )
        self.sent: list[np.ndarray] = []
        self.halted = False

    def play(self, name: str, play: Play, rng: np.random.Generator) -> None:
        """Run the adversary, then see whether the arm comes away from where it ended."""
        q = self._start(name, rng)
        episode = Episode(q, self.soak.dt, np.zeros_like(q))
        measured = q
        for _ in range(TICKS):
            before = episode.start
            asked = play(episode)
            if episode.start != before:  # a new start
                self._check(measured)
                measured = episode.q
            self._tick(name, episode, asked)
        if self.halted and name in ("push", "push_tool", "jumps", "uniform", "bang_bang"):
            self._recover(episode)
        self._check(measured)

    def _start(self, name: str, rng: np.random.Generator) -> Float[np.ndarray, " J"]:
        """Return where the arm is measured at first: anywhere, also outside limits and margins; benign ones begin at home."""
        if name == "benign":
            return self.place.home
        if name == "far_first":
            q = self.place.anywhere(rng)
            q[rng.integers(0, len(q))] += rng.choice([-0.1, 0.1])
            return q
        return self.place.free(rng, 0.7)

    def _tick(self, name: str, episode: Episode, asked: Asked) -> None:
        tally = self.tally
        begin = time.perf_counter()
        command, report = self.shield.filter(asked.state, asked.proposal, asked.now)
        elapsed = 1e3 * (time.perf_counter() - begin)
        tally.times[min(int(elapsed / BINS[1]), len(BINS) - 1)] += 1
        tally.proposals += 1
        tally.asked[name] += 1
        tally.accepted[name] += report.accepted
        tally.interventions.update(str(reason) for reason in report.reasons)
        episode.tick += 1
        if command is None:
            return
        tally.ticks += 1
        if name == "benign":
            proposed = getattr(asked.proposal, "q", command.q)
            tally.benign_path += float(np.abs(command.q - episode.q).sum())
            tally.altered += bool(report.reasons) or bool(np.abs(command.q - proposed).max() > 1e-9)
        self.halted |= report.how in ("stop", "hold") and not GEOMETRIC.isdisjoint(report.reasons)
        self.sent.append(command.q)
        episode.q, episode.dq = command.q, (command.q - episode.q) / episode.dt

    def _recover(self, episode: Episode) -> None:
        """Propose to go home, then to retreat, and see whether the arm moves away from where it stands."""
        tally, dt = self.tally, self.soak.dt
        for _ in range(round(PATIENCE_S / dt)):  # until it stands
            self._tick("standing", episode, episode.give(None))
        tally.stops += 1
        stood = episode.q.copy()
        for tick in range(round(RECOVERY_S / dt)):
            now = episode.now
            proposal = Proposal(self.place.home, now, episode.tick)
            retreat = tick * dt > PATIENCE_S
            asked = Asked(
                Retreat(now, episode.tick) if retreat else proposal, RobotState(now, episode.q, episode.dq, 1.0), now
            )
            self._tick("recovery", episode, asked)
            if np.abs(episode.q - stood).max() > AWAY:
                tally.recoveries += 1
                tally.slowest_recovery_s = max(tally.slowest_recovery_s, (tick + 1) * dt)
                return
        if len(tally.examples) < 5:
            tally.examples.append(f"{self.where}: no recovery from {np.round(stood, 4).tolist()}")

    def _check(self, measured: Float[np.ndarray, " J"]) -> None:
        """Let the checker look at what was sent since the arm was measured."""
        if not self.sent:
            return
        q_KJ = np.stack(self.sent)
        self.sent = []
        self.stream.restart(measured)
        for violation in self.stream.extend(q_KJ):
            self.tally.violations[str(violation.kind)] += 1
            if len(self.tally.examples) < 5:
                self.tally.examples.append(f"{self.where}: {violation}")
        tool = forward(self.soak.arm, np.concatenate([measured[None], q_KJ]))[:, :3, 3]
        self.tally.tool_path_m += float(np.linalg.norm(np.diff(tool, axis=0), axis=1).sum())


# ---------------------------------------------------------------------------------------------------- the file


def _plain(tally: Tally) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(tally).items()}


def _tally(value: dict[str, Any]) -> Tally:
    tally = Tally()
    for name, mine in vars(tally).items():
        given = value[name]
        setattr(tally, name, Counter(given) if isinstance(mine, Counter) else given)
    tally.times = Counter({int(index): count for index, count in value["times"].items()})
    return tally


def _read(soak: Soak, out: Path | None) -> dict[int, Tally]:
    """Return the blocks of a result file; a line that a crash cut off is dropped. A new file begins with what is run."""
    if out is None:
        return {}
    key = {"soak": jsonable.fingerprint([soak.arm, soak.seed, soak.around, soak.dt, soak.settings])}
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(key) + "\n", encoding="utf-8")
        return {}
    whole = [line for line in out.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    try:
        first, *lines = [json.loads(line) for line in whole]
    except ValueError as error:
        raise UserError(f"{out} is no result of a soak ({error}); give another --out") from error
    if first != key:
        raise UserError(f"{out} belongs to a soak of another arm, seed, world or settings; give another --out")
    out.write_text("".join(whole), encoding="utf-8")
    return {line.pop("block"): _tally(line) for line in lines}
