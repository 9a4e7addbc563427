"""What a shield says of each tick."""

from dataclasses import dataclass
from typing import Literal

from ideomotor.robot.clearance import Verdict
from ideomotor.robot.reasons import Reason

How = Literal["proposal", "follow", "around", "scaled", "retreat", "stop", "hold", "none"]


@dataclass(frozen=True)
class Report:
    """What became of a proposal."""

    how: How
    reasons: tuple[Reason, ...] = ()  # empty: the command is the proposal
    joints: tuple[int, ...] = ()  # that exceeded a limit, from 0
    latched: bool = False
    verdict: Verdict | None = None  # of what was sent

    @property
    def accepted(self) -> bool:
        """Whether the arm moves towards what was proposed."""
        return self.how in ("proposal", "follow", "around", "scaled", "retreat")

    @property
    def intervened(self) -> bool:
        """Whether something else than the proposal was sent."""
        return bool(self.reasons)
