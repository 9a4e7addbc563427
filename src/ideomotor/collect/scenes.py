"""Unrelated labelled states, from which a vision tower learns what is where before it learns to act."""

from dataclasses import dataclass

import numpy as np

from ideomotor.core.types import Episode, Step
from ideomotor.sim.env import TabletopEnv

STATES = 32  # states in one recorded episode; nothing connects them


@dataclass(frozen=True)
class Scenes:
    """Random layouts and arm poses with the labels of every patch. The actions are zero and mean nothing."""

    def episode(self, env: TabletopEnv, seed: int, task: str) -> Episode:  # noqa: ARG002 (the interface of the sources)
        """Record `STATES` unrelated states as one episode; what is to be done in them is left open."""
        random = np.random.Generator(np.random.Philox(key=[seed, 0x5C]))
        idle = np.zeros(len(env.embodiment.action), np.float32)
        steps: list[Step] = []
        for _ in range(STATES):
            env.randomize_state(random)
            labels = env.labels()
            labels["label.location_valid"] = np.zeros_like(labels["label.location_valid"])  # nothing is named here
            steps.append(Step(env.observation(), idle, labels))
        return Episode(env.embodiment, "", steps, "unknown")
