"""Run episodes in closed loop: many environments in lockstep, one batched inference for all of them.

```
slot 0   episode 0 ──────────┤ episode 3 ─────
slot 1   episode 1 ───┤ episode 2 ────────────     one tick = one chunk of every slot
tick     0  1  2  3  4  5  ...
```

A slot whose episode is over takes the next one in the same tick. The number of slots is fixed and every inference has the same
batch size (free rows repeat the first), so an episode depends neither on the number of processes nor on its neighbours: on a CPU
the rows of a batch come out bit for bit the same at any place in a batch of the same size, and 3e-7 apart in one of another size.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.types import BatchPolicy, Chunk, Observation, Policy
from ideomotor.sim.shielded import ShieldRecord
from ideomotor.sim.task import Wording
from ideomotor.sim.workers import Advance, Begun, Crashed, EpisodeRequest

SLOTS = 8  # episodes at a time, and rows of each inference


@dataclass(frozen=True)
class Success:
    """The task was done."""


@dataclass(frozen=True)
class Failure:
    """The task was not done within the horizon."""


@dataclass(frozen=True)
class Crash:
    """The simulation broke, or the policy gave numbers that are none. Neither success nor failure."""

    message: str


Outcome = Success | Failure | Crash


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Condition:
    """What is special about an episode: the wording, the object that is named, and what the policy sees and is told."""

    name: str
    wording: Wording = "train"
    swap: bool = False  # name another object of the same scene
    see: Callable[[Observation], Observation] = _as_it_is
    say: Callable[[str], str] = _as_it_is


@dataclass(frozen=True)
class Attempt:
    """One episode to be run."""

    task: str
    seed: int
    condition: Condition

    @property
    def request(self) -> EpisodeRequest:
        """What the environment is asked for."""
        return EpisodeRequest(self.seed, self.task, self.condition.wording, self.condition.swap)


@dataclass(frozen=True)
class Rollout:
    """One episode that was run."""

    attempt: Attempt
    instruction: str  # as the environment gave it
    told: str  # as the policy got it
    outcome: Outcome
    events: Mapping[str, int]  # see `TabletopEnv.events`
    actions: Float[np.ndarray, "T A"]  # executed
    shield: ShieldRecord | None = None  # None: there was none, or the episode crashed

    @property
    def steps(self) -> int:
        """Executed actions."""
        return len(self.actions)


@runtime_checkable
class Environments(Protocol):
    """Environments side by side, in numbered slots; `sim.workers.VectorEnv` is one."""

    num_slots: int  # how many episodes run at a time

    def begin(self, slot: int, request: EpisodeRequest) -> Begun | Crashed:
        """Begin an episode in a slot."""
        ...

    def advance(self, actions: Mapping[int, np.ndarray], *, record: bool = False) -> dict[int, Advance | Crashed]:
        """Execute actions in the given slots."""
        ...


@dataclass
class Latency:
    """Seconds of each inference."""

    clock: Callable[[], float] = time.perf_counter
    seconds: list[float] = field(default_factory=list[float])


def roll_out(
    envs: Environments, policy: Policy, attempts: Sequence[Attempt], latency: Latency, done: Callable[[Rollout], None]
) -> list[Rollout]:
    """Run all attempts and return what came of them, in their order; `done` is told of each as it ends.

    A `BatchPolicy` serves `SLOTS` episodes at a time; another policy runs one episode after the other.
    """
    chunk = policy.embodiment.chunk
    if chunk is None:
        raise UserError(f"policy '{policy.policy_id}' does not state its chunk length; its embodiment.json should")
    run = _Run(envs, policy, chunk.executed, latency, done)
    waiting = deque(enumerate(attempts))
    slots = min(envs.num_slots, SLOTS) if isinstance(policy, BatchPolicy) else 1
    while waiting or run.running:
        run.begin({slot: waiting.popleft() for slot in range(slots) if slot not in run.running and waiting})
        if run.running:
            run.advance(run.act())
    return [run.rollouts[index] for index in range(len(attempts))]


@dataclass
class _Episode:
    """An episode under way."""

    index: int  # in the list of attempts
    attempt: Attempt
    instruction: str
    told: str
    observation: Observation
    events: Mapping[str, int] = field(default_factory=dict[str, int])
    actions: list[np.ndarray] = field(default_factory=list[np.ndarray])


class _Run:
    """The state of `roll_out`: which episode runs in which slot, and what has come of the others."""

    def __init__(
        self, envs: Environments, policy: Policy, executed: int, latency: Latency, done: Callable[[Rollout], None]
    ) -> None:
        self.running: dict[int, _Episode] = {}
        self.rollouts: dict[int, Rollout] = {}
        self._envs = envs
        self._policy = policy
        self._executed = executed
        self._latency = latency
        self._done = done

    def begin(self, attempts: Mapping[int, tuple[int, Attempt]]) -> None:
        """Begin episodes in free slots."""
        for slot, (index, attempt) in attempts.items():
            start = self._envs.begin(slot, attempt.request)
            if isinstance(start, Crashed):
                self._finish(_Episode(index, attempt, "", "", _NOTHING), Crash(start.message))
                continue
            told = attempt.condition.say(start.instruction)
            self.running[slot] = _Episode(index, attempt, start.instruction, told, start.observation)
            if not isinstance(self._policy, BatchPolicy):
                self._policy.reset(told)

    def act(self) -> dict[int, np.ndarray]:
        """Ask the policy for the next actions of every slot; an episode with actions that are no numbers ends as a crash."""
        episodes = list(self.running.items())
        seen = [episode.attempt.condition.see(episode.observation) for _, episode in episodes]
        start = self._latency.clock()
        chunks = self._think([episode.told for _, episode in episodes], seen)
        self._latency.seconds.append(self._latency.clock() - start)
        actions: dict[int, np.ndarray] = {}
        for (slot, episode), chunk in zip(episodes, chunks, strict=True):
            actions[slot] = chunk.actions[: self._executed]
            if not np.isfinite(actions[slot]).all():
                del self.running[slot], actions[slot]
                self._finish(episode, Crash("the policy gave an action that holds NaN or Inf"))
        return actions

    def _think(self, told: list[str], seen: list[Observation]) -> list[Chunk]:
        if not isinstance(self._policy, BatchPolicy):
            return [self._policy.act(observation) for observation in seen]
        free = SLOTS - len(seen)
        return self._policy.act_batch(told + told[:1] * free, seen + seen[:1] * free)[: len(seen)]

    def advance(self, actions: Mapping[int, np.ndarray]) -> None:
        """Execute the actions and settle the episodes that ended."""
        if not actions:
            return
        for slot, result in self._envs.advance(actions).items():
            episode = self.running[slot]
            if isinstance(result, Crashed):
                del self.running[slot]
                self._finish(episode, Crash(result.message))
                continue
            episode.observation, episode.events = result.observation, result.events
            episode.actions.append(actions[slot][: result.steps])
            if result.done:
                del self.running[slot]
                self._finish(episode, Success() if result.success else Failure(), result.shield)

    def _finish(self, episode: _Episode, outcome: Outcome, shield: ShieldRecord | None = None) -> None:
        width = len(self._policy.embodiment.action)
        actions = np.concatenate([np.zeros((0, width)), *episode.actions])
        told = (episode.attempt, episode.instruction, episode.told)
        rollout = Rollout(*told, outcome, episode.events, actions, shield)
        self.rollouts[episode.index] = rollout
        self._done(rollout)


_NOTHING = Observation(0.0, {}, np.zeros(0))  # stands where no observation was ever made
