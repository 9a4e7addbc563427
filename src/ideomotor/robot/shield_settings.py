"""How a shield works: its tick, the shares of the rated limits that it uses, its caps and patience."""

import math
from dataclasses import dataclass

from ideomotor.core.errors import UserError
from ideomotor.robot.limits import Share

REDUCED = 0.25  # [m/s] tool speed of teleoperation, take-over, recovery and a new policy's first run: ISO 10218's reduced speed
LONGEST_TICK = 0.02  # [s] what is lost between samples was looked at up to here
MOTION, RATED = Share(0.9, 0.5, 0.5), Share()
# For who sends torques whose rate is limited: a jerk asks for a torque rate, inertia times jerk (docs/safety.md, "A torque-limited arm").
SMOOTH_MOTION, SMOOTH_STOP = Share(0.9, 0.5, 0.02), Share(1.0, 0.7, 0.02)


@dataclass(frozen=True)
class Settings:
    """How a shield works. The defaults are careful ones."""

    dt: float = 0.01  # [s] a tick
    follow: Share = MOTION  # of the rated limits, for motion
    stop: Share = RATED  # for stops: the shorter, the more is allowed
    tool_speed: float | None = REDUCED  # [m/s] cap of the tool centre point; None: joint limits alone
    tool_braking: float = 1.0  # [m/s^2] how fast a lowered cap comes down
    max_age: float = 0.1  # [s] of proposal and state
    tracking: float = 0.1  # [rad] of the measured from the commanded position; beyond, the arm is stopped and held
    allowance: tuple[float, ...] | None = None  # [rad] tracking errors that margins and position limits are to hold for
    reach: float | None = None  # [rad] a command may be ahead of the measured position: bounds a stiff drive's force
    reflex: tuple[float, ...] | None = None  # [N m] external torques beyond which the arm is stopped and held
    reflex_ticks: int = 1  # in a row
    gap: float = 0.1  # [s] without a call after which the filter starts anew from the measured position
    budget: float | None = None  # [s] for a call; later candidates are not tried; None: as long as it takes

    def __post_init__(self) -> None:
        shares = [value for share in (self.follow, self.stop) for value in vars(share).values()]
        numbers = {"dt": self.dt, "tool_braking": self.tool_braking, "max_age": self.max_age, "tracking": self.tracking}
        numbers |= {"gap": self.gap} | ({} if self.tool_speed is None else {"tool_speed": self.tool_speed})
        numbers |= {"reflex_ticks": self.reflex_ticks} | ({} if self.reach is None else {"reach": self.reach})
        numbers |= {} if self.budget is None else {"budget": self.budget}
        for name, value in numbers.items():
            if not 0.0 < value < math.inf:
                raise UserError(f"shield: {name} is {value}; a number above 0 is allowed")
        if self.dt > LONGEST_TICK:
            raise UserError(f"shield: a tick of {self.dt} s is too long; at most {LONGEST_TICK} s is allowed")
        if self.gap < 2.0 * self.dt:
            raise UserError(f"shield: a gap of {self.gap} s is no silence; at least two ticks, {2 * self.dt} s, are")
        if not all(0.0 < value <= 1.0 for value in shares):
            raise UserError(f"shield: shares of the rated limits are {shares}; above 0 and at most 1 is allowed")
        if self.stop.acceleration < self.follow.acceleration or self.stop.jerk < self.follow.jerk:
            raise UserError("shield: a stop needs at least the shares of acceleration and jerk that motion has")
