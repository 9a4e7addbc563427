"""Control arms: what a policy is compared with. The scripted expert bounds it from above, random actions from below."""

import hashlib
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np

from ideomotor.core.spec import ChunkLength, Embodiment
from ideomotor.core.types import Chunk, Observation
from ideomotor.evaluate.rollout import Attempt, Crash, Failure, Rollout, Success
from ideomotor.sim.env import EnvConfig, TabletopEnv

CHUNK = ChunkLength(predicted=4, executed=4)  # of the random arm


@dataclass(frozen=True)
class Expert:
    """The scripted expert: it reads the true state and neither images nor instruction, so it is no `Policy`."""


class RandomPolicy:
    """Actions drawn uniformly from their legal ranges, as a pure function of what it sees: equal episodes are equal."""

    policy_id = "random"

    def __init__(self, embodiment: Embodiment) -> None:
        """Draw actions of this embodiment."""
        self.embodiment = replace(embodiment, chunk=CHUNK)
        self._low = np.array([-1.0 if c.low is None else c.low for c in embodiment.action])
        self._high = np.array([1.0 if c.high is None else c.high for c in embodiment.action])
        self._instruction = ""

    def reset(self, instruction: str) -> None:
        """Begin an episode with this instruction."""
        self._instruction = instruction

    def act(self, observation: Observation) -> Chunk:
        """Return a random chunk."""
        return self.act_batch([self._instruction], [observation])[0]

    def act_batch(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Chunk]:
        """Return one random chunk for each pair."""
        return [self._draw(i, o) for i, o in zip(instructions, observations, strict=True)]

    def _draw(self, instruction: str, observation: Observation) -> Chunk:
        seen = instruction.encode() + np.float64(observation.time).tobytes() + observation.state.tobytes()
        rng = np.random.default_rng(list(hashlib.sha256(seen).digest()[:16]))
        actions = rng.uniform(self._low, self._high, (CHUNK.predicted, len(self._low)))
        dt = 1.0 / self.embodiment.rate_hz
        return Chunk(observation.time, observation.time, dt, actions, self.policy_id, 0)


def roll_out_expert(
    config: EnvConfig, attempts: Sequence[Attempt], workers: int, done: Callable[[Rollout], None]
) -> list[Rollout]:
    """Run all attempts with the scripted expert in processes of its own, without drawing a picture."""
    rollouts: list[Rollout] = []
    share = -(-len(attempts) // (4 * workers)) if attempts else 1
    with ProcessPoolExecutor(workers, get_context("forkserver"), _make_env, (config,)) as pool:
        for rollout in pool.map(_expert_episode, attempts, chunksize=share):
            rollouts.append(rollout)
            done(rollout)
    return rollouts


_env: TabletopEnv | None = None  # of this process of the pool; its models are cached from episode to episode


def _make_env(config: EnvConfig) -> None:
    global _env
    _env = TabletopEnv(config)


def _expert_episode(attempt: Attempt) -> Rollout:
    assert _env is not None
    actions: list[np.ndarray] = []
    instruction, outcome, events, shield = "", Failure(), {}, None
    try:
        request = attempt.request
        _env.reset(seed=request.seed, options={"task": request.task, "wording": request.wording, "swap": request.swap})
        instruction, over = _env.instruction, False
        while not over:
            actions.append(_env.expert_action())
            success, over = _env.advance(actions[-1][None])
            outcome = Success() if success else Failure()
        events, shield = dict(_env.events), _env.shield_record()
    except Exception:  # noqa: BLE001 (process border: reported as a crash)
        outcome = Crash(traceback.format_exc())
    width = len(_env.embodiment.action)
    told = attempt.condition.say(instruction)
    executed = np.concatenate([np.zeros((0, width)), np.array(actions)])
    return Rollout(attempt, instruction, told, outcome, events, executed, shield)
