"""The queue between a policy and a robot: which action is in force now, by absolute time.

A newer chunk replaces everything that older chunks say from its own start on; before its start the older ones stay in force.

```
time          0 1 2 3 4 5 6 7 8 9
chunk 1       a a a a a a              t0 = 0
chunk 2           b b b b b b          t0 = 2
in force      a a b b b b b b _ _      _ = underrun
```

Rows are keyed by time, never by arrival, and no last action is ever repeated.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.types import Chunk


@dataclass(frozen=True)
class Row:
    """The action in force, and where it comes from."""

    action: Float[np.ndarray, " A"]
    sequence: int
    index: int  # row of the chunk
    age: float  # [s] since the observation that it answers


@dataclass(frozen=True)
class Underrun:
    """No action is in force: the robot has to stop in this tick, under control."""

    time: float  # [s]
    since: float | None  # [s] end of the newest chunk, None where there never was one


class ChunkQueue:
    """Holds the newest chunks of one episode; its only clock is the time that it is asked for."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []  # oldest first, by sequence
        self.dropped = 0  # chunks refused because a newer one, or the same, was there already
        self.underruns = 0  # times that `at` found no action

    def reset(self) -> None:
        """Forget all chunks: a new episode, or a new policy process whose sequence starts again."""
        self._chunks.clear()
        self.dropped = 0
        self.underruns = 0

    def push(self, chunk: Chunk) -> bool:
        """Take a chunk; return False, and drop it, when its sequence is not newer than that of the newest.

        Raises:
            UserError: it has no rows, no positive duration, or holds NaN or Inf.
        """
        _check(chunk)
        if self._chunks and chunk.sequence <= self._chunks[-1].sequence:
            self.dropped += 1
            return False
        self._chunks = [old for old in self._chunks if old.t0 < chunk.t0]  # the rest is replaced whole
        self._chunks.append(chunk)
        return True

    def at(self, time: float) -> Row | Underrun:
        """Return the row in force at `time` [s], or that there is none."""
        for chunk in reversed(self._chunks):
            index = chunk.index(time)
            if index is not None:
                return Row(chunk.actions[index], chunk.sequence, index, time - chunk.obs_time)
            if time >= chunk.t0:
                break  # the newest chunk that has begun is over; older rows were replaced by it
        self.underruns += 1
        newest = self._chunks[-1] if self._chunks else None
        return Underrun(time, None if newest is None else newest.t0 + newest.dt * len(newest.actions))


def _check(chunk: Chunk) -> None:
    if len(chunk.actions) == 0 or not (math.isfinite(chunk.t0) and math.isfinite(chunk.dt) and chunk.dt > 0.0):
        raise UserError(
            f"chunk {chunk.sequence} of {chunk.policy_id} has {len(chunk.actions)} rows of {chunk.dt} s from {chunk.t0} s; "
            "a chunk has at least one row, and each lasts longer than 0 s"
        )
    if not np.isfinite(chunk.actions).all():
        raise UserError(f"chunk {chunk.sequence} of {chunk.policy_id} holds NaN or Inf; it was not taken")
