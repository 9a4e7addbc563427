"""What passes between the parts: observation, chunk, step, episode, policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from ideomotor.core.spec import Embodiment

Success = Literal["success", "failure", "unknown"]  # the tri-state label of an episode


@dataclass(frozen=True)
class Observation:
    """All that the robot knows at one instant."""

    time: float  # [s] monotonic clock of the robot or the simulation
    images: Mapping[str, UInt8[np.ndarray, "height width 3"]]  # by camera role, RGB, upright
    state: Float[np.ndarray, " S"]  # proprioception, channels of `Embodiment.state`


@dataclass(frozen=True)
class Chunk:
    """Actions for the near future, keyed by absolute time: row j holds from `t0 + j dt` to `t0 + (j + 1) dt`."""

    obs_time: float  # [s] time of the observation that it answers
    t0: float  # [s] start of row 0
    dt: float  # [s] duration of a row
    actions: Float[np.ndarray, "T A"]  # raw units, channels of `Embodiment.action`
    policy_id: str
    sequence: int  # counts up by one a chunk; an older or equal number is dropped by the receiver

    def index(self, time: float) -> int | None:
        """Return the row that is in force at `time` [s], or None outside of the chunk."""
        row = int(np.floor((time - self.t0) / self.dt + 1e-9))
        return row if 0 <= row < len(self.actions) else None


@dataclass(frozen=True)
class Step:
    """One instant of an episode: what was seen, and what was then commanded."""

    observation: Observation
    action: Float[np.ndarray, " A"]
    labels: Mapping[str, np.ndarray]  # extra columns, named "label.*" or "expert.*"


@dataclass(frozen=True)
class Episode:
    """A recording of one attempt."""

    embodiment: Embodiment
    instruction: str
    steps: Sequence[Step]
    success: Success


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into chunks of actions."""

    @property
    def policy_id(self) -> str:
        """A name for logs; weights that differ have different ids."""
        ...

    @property
    def embodiment(self) -> Embodiment:
        """What its numbers mean, `chunk` and `normalization` included."""
        ...

    def reset(self, instruction: str) -> None:
        """Begin an episode with this instruction."""
        ...

    def act(self, observation: Observation) -> Chunk:
        """Return the chunk for this observation."""
        ...


@runtime_checkable
class BatchPolicy(Policy, Protocol):
    """A policy without memory between calls, which can serve many robots with one call."""

    def act_batch(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Chunk]:
        """Return one chunk for each pair of instruction and observation."""
        ...
