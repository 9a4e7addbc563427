"""Demonstrations by the scripted expert, some of them disturbed so that they contain recoveries."""

from dataclasses import dataclass

import numpy as np

from ideomotor.collect.noise import burst_noise
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Episode, Step
from ideomotor.sim.env import TabletopEnv

CHUNK = 4  # actions in the label `expert.chunk`


def labelled_step(env: TabletopEnv, action: np.ndarray, chunk: np.ndarray) -> Step:
    """Return the step of this instant: what is seen, what is commanded, what the expert would do, and where things are."""
    labels = {"expert.chunk": chunk.astype(np.float32).ravel(), **env.labels()}
    return Step(env.observation(), action.astype(np.float32), labels)


def clip(embodiment: Embodiment, action: np.ndarray) -> np.ndarray:
    """Return the action within the ranges of its channels: what the robot executes is what is recorded."""
    low = [-np.inf if channel.low is None else channel.low for channel in embodiment.action]
    high = [np.inf if channel.high is None else channel.high for channel in embodiment.action]
    return np.clip(action, low, high)


@dataclass(frozen=True)
class Expert:
    """The expert drives. In a share of the episodes its executed actions carry bursts of noise, its labels never do."""

    noisy: float  # share of disturbed episodes

    def episode(self, env: TabletopEnv, seed: int, task: str) -> Episode:
        """Record one episode."""
        random = np.random.Generator(np.random.Philox(key=[seed, 0xE1]))
        env.reset(seed=seed, options={"task": task})
        width = len(env.embodiment.action)
        noise = burst_noise(random, env.horizon, width)
        if random.uniform() >= self.noisy:
            noise[:] = 0.0
        steps: list[Step] = []
        success = done = False
        while not done:
            chunk = env.expert_chunk(CHUNK)
            action = clip(env.embodiment, chunk[0] + noise[len(steps)])
            steps.append(labelled_step(env, action, chunk))
            success, done = env.advance(action[None])
        return Episode(env.embodiment, env.instruction, steps, "success" if success else "failure")
