"""Corrections: a policy drives, and at each step the expert says what it would have done (DAgger, arXiv 1011.0686)."""

from dataclasses import dataclass

import numpy as np

from ideomotor.collect.expert import CHUNK, clip, labelled_step
from ideomotor.core.spec import check_same
from ideomotor.core.types import Episode, Policy, Step
from ideomotor.sim.env import TabletopEnv

HELPED = 1 / 3  # share of the episodes in which the expert acts now and then


@dataclass(frozen=True)
class Corrections:
    """`policy` drives; in a third of the episodes the expert acts in `expert_share` of the steps."""

    policy: Policy
    expert_share: float
    execute: int  # actions of each chunk that the policy executes

    def episode(self, env: TabletopEnv, seed: int, task: str) -> Episode:
        """Record one episode."""
        check_same(self.policy.embodiment, env.embodiment, "the policy", "the tabletop")
        random = np.random.Generator(np.random.Philox(key=[seed, 0xC0]))
        share = self.expert_share if random.uniform() < HELPED else 0.0
        env.reset(seed=seed, options={"task": task})
        self.policy.reset(env.instruction)
        steps: list[Step] = []
        waiting: list[np.ndarray] = []  # actions of the last chunk that are still to be executed
        success = done = False
        while not done:
            expert_chunk = env.expert_chunk(CHUNK)
            if not waiting:
                waiting = list(self.policy.act(env.observation()).actions[: self.execute])
            planned = waiting.pop(0)
            action = clip(env.embodiment, expert_chunk[0] if random.uniform() < share else planned)
            steps.append(labelled_step(env, action, expert_chunk))
            success, done = env.advance(action[None])
        return Episode(env.embodiment, env.instruction, steps, "success" if success else "failure")
