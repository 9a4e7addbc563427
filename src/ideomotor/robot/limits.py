"""How far, how fast and how strongly each joint of an arm may move, in one table, and what follows from it alone.

A second layer: what is kept here lowers how often the robot's own safety functions are needed. It replaces none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.files import read_json
from ideomotor.robot.arm import Arm, SpeedLaw

SMALLEST, LARGEST = 1e-6, 1e6  # of any magnitude here: products and squares stay finite, and no arm lies outside
TOLERANCE = 1e-6  # by which a user's limits may exceed a file's: numbers are rounded in files
BRAKING_SHARE = (
    0.4  # of the law's gain K: the law itself asks for up to K / 2, and at K / 2 the distance g0 has no bound
)


@dataclass(frozen=True)
class Limits:
    """The rated limits of an arm with J joints. Tuples run over the joints; magnitudes are the same both ways."""

    q_min: tuple[float, ...]  # [rad]
    q_max: tuple[float, ...]  # [rad]
    speed: tuple[float, ...]  # [rad/s]
    acceleration: tuple[float, ...]  # [rad/s^2]
    jerk: tuple[float, ...]  # [rad/s^3]
    torque: tuple[float, ...]  # [N m]
    torque_rate: tuple[float, ...] | None  # [N m/s]; None: the robot takes no torques
    tool_speed: float  # [m/s] of the tool centre point, as rated
    tool_acceleration: float  # [m/s^2]
    payload: float  # [kg] rated
    sources: tuple[str, ...]
    speed_law: SpeedLaw | None = None

    def __post_init__(self) -> None:
        joints = len(self.q_min)
        tables = {"q_max": self.q_max, "speed": self.speed, "acceleration": self.acceleration, "jerk": self.jerk}
        tables |= {"torque": self.torque} | ({} if self.torque_rate is None else {"torque_rate": self.torque_rate})
        for name, table in tables.items():
            _same_length(name, table, joints)
            if name != "q_max":
                _magnitudes(name, table)
        for name in ("tool_speed", "tool_acceleration"):
            _magnitudes(name, (getattr(self, name),))
        if not 0.0 <= self.payload <= LARGEST:
            raise UserError(f"limits: payload is {self.payload}; from 0 to {LARGEST:g} is allowed [kg]")
        if joints == 0 or not _ranges(self.q_min, self.q_max):
            raise UserError(
                f"limits: q_min {self.q_min} should lie below q_max {self.q_max}, joint by joint, all finite"
            )
        if self.speed_law is not None:
            self._check_law(self.speed_law, joints)

    def _check_law(self, law: SpeedLaw, joints: int) -> None:
        for name, table in vars(law).items():
            _same_length(f"speed_law.{name}", table, joints)
        _magnitudes("speed_law.gain", law.gain)
        if not all(0.0 <= offset <= LARGEST for offset in law.offset):
            raise UserError(f"limits: speed_law.offset is {law.offset}; from 0 to {LARGEST:g} is allowed [rad/s]")
        _, g0 = law_braking(self)
        room = np.array(law.high) - np.array(law.low) - 2 * g0
        if not (_ranges(law.low, law.high) and (room > 0).all()):
            raise UserError(
                f"limits: speed_law leaves no position to move at: low {law.low}, high {law.high}, and it takes "
                f"{tuple(round(float(g), 4) for g in g0)} rad at either end; see its gain and offset"
            )

    @property
    def num_joints(self) -> int:
        """J."""
        return len(self.q_min)


def _same_length(name: str, table: tuple[float, ...], joints: int) -> None:
    if len(table) != joints:
        raise UserError(f"limits of {joints} joints, and {name} has {len(table)} numbers; give one for each joint")


def _magnitudes(name: str, table: tuple[float, ...]) -> None:
    if not all(SMALLEST <= value <= LARGEST for value in table):
        shown = table[0] if len(table) == 1 else table
        raise UserError(f"limits: {name} is {shown}; every number should lie from {SMALLEST:g} to {LARGEST:g}")


def _ranges(low: tuple[float, ...], high: tuple[float, ...]) -> bool:
    return all(-LARGEST <= a < b <= LARGEST for a, b in zip(low, high, strict=True))


@dataclass(frozen=True)
class Share:
    """Which share of the rated limits a motion may use."""

    speed: float = 1.0
    acceleration: float = 1.0
    jerk: float = 1.0


def limits_of(arm: Arm) -> Limits:
    """Return the limits of an arm's table.

    Raises:
        UserError: the table says nothing about accelerations and jerks. Nothing is assumed in silence.
    """
    motion = arm.motion
    if motion is None:
        raise UserError(
            f"arm '{arm.name}' has no limits of acceleration and jerk, so it is not armed; add `motion=Motion(...)` with their sources "
            "to its table, or load limits from a file"
        )
    return Limits(
        q_min=arm.q_min,
        q_max=arm.q_max,
        speed=arm.dq_max,
        acceleration=motion.acceleration,
        jerk=motion.jerk,
        torque=arm.tau_max,
        torque_rate=motion.torque_rate,
        tool_speed=motion.tool_speed,
        tool_acceleration=motion.tool_acceleration,
        payload=motion.payload,
        sources=(*arm.sources, *motion.sources),
        speed_law=motion.speed_law,
    )


def load_limits(path: Path, stated: Mapping[str, object] | None = None) -> Limits:
    """Read a user's JSON file; its fields are those of `Limits`. What `stated` holds may be left out of the file.

    Raises:
        UserError: it is missing or no such file; the message names the field.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; give a JSON file with the fields of Limits: {', '.join(FIELDS)}")
    values = {**(stated or {}), **read_json(path)}
    return jsonable.from_json(Limits, values, str(path))


def check_within(limits: Limits, rated: Mapping[str, Sequence[float | None]], names: Sequence[str], where: str) -> None:
    """Raise where a user's limits allow more than `rated` (q_min, q_max, speed, torque; None: nobody says), joint by joint.

    Raises:
        UserError: they do, or are of another number of joints; the message names the joint.
    """
    if limits.num_joints != len(names):
        raise UserError(f"{where} has {len(names)} joints ({', '.join(names)}); the limits are of {limits.num_joints}")
    for field, table in rated.items():
        for name, value, bound in zip(names, getattr(limits, field), table, strict=True):
            over = 0.0 if bound is None else bound - value if field == "q_min" else value - bound
            if over > TOLERANCE * max(1.0, abs(bound or 0.0)):
                raise UserError(
                    f"limits: {field} of {name} is {value:g}, beyond {bound:g} of {where}; stay within, and keep the order of the joints"
                )


FIELDS = tuple(Limits.__dataclass_fields__)


# --------------------------------------------------------------------------------------------- what follows from them


def speed_bounds(
    limits: Limits, q: Float[np.ndarray, "*batch J"]
) -> tuple[Float[np.ndarray, "*batch J"], Float[np.ndarray, "*batch J"]]:
    """Return the lowest and the highest speed [rad/s] allowed at `q`; with a speed law, 0 where `q` is no number."""
    cap = np.array(limits.speed)
    if limits.speed_law is None:
        return np.broadcast_to(-cap, q.shape), np.broadcast_to(cap, q.shape)
    law = limits.speed_law
    gain, offset = np.array(law.gain), np.array(law.offset)

    def towards(gap: Float[np.ndarray, "*batch J"]) -> Float[np.ndarray, "*batch J"]:  # fmax turns NaN into 0
        return np.minimum(cap, np.fmax(0.0, np.sqrt(np.fmax(0.0, gain * gap)) - offset))

    return -towards(q - np.array(law.low)), towards(np.array(law.high) - q)


def law_braking(limits: Limits, dt: float = 0.0) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
    """Return a deceleration a_b [rad/s^2] and a distance g0 [rad] that make the speed law stoppable.

    Along the law v = sqrt(K g) - c a joint decelerates by K v / (2 (v + c)), up to K / 2, which may be more than it can: law and
    acceleration limit then have no command in common. A joint that can always stop at a_b, g0 before the law's end, keeps to the law:
    v^2 / (2 a_b) <= g - g0 implies g >= (v + c)^2 / K, because g0 is the largest difference (v + c)^2 / K - v^2 / (2 a_b) over the
    speeds from 0 to V. It lies at v* = 2 a_b c / (K - 2 a_b), where it is c^2 / (K - 2 a_b), or at V if that comes first.

    `dt` [s] adds V dt / 2: for a robot that tests the speed after a move of that length, made at constant speed.
    Without a speed law: the limits of acceleration, and 0.
    """
    acceleration, speed = np.array(limits.acceleration), np.array(limits.speed)
    if limits.speed_law is None:
        return acceleration, np.zeros_like(acceleration)
    gain, offset = np.array(limits.speed_law.gain), np.array(limits.speed_law.offset)
    braking = np.minimum(acceleration, BRAKING_SHARE * gain)
    worst = np.minimum(speed, 2 * braking * offset / (gain - 2 * braking))
    return braking, (worst + offset) ** 2 / gain - worst**2 / (2 * braking) + speed * dt / 2


def stop_time_travel(
    speed: Float[np.ndarray, "*n"], acceleration: Float[np.ndarray, "*n"], jerk: Float[np.ndarray, "*n"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Return time [s] and travel [rad] of the quickest stop from `speed` [rad/s] at no acceleration, under limits of both.

    The speed falls point-symmetrically to half of its start, so that the travel is the mean speed times the time.
    """
    reached = speed >= acceleration**2 / jerk  # the deceleration gets as far as its limit
    time = np.where(reached, speed / acceleration + acceleration / jerk, 2 * np.sqrt(speed / jerk))
    return time, speed * time / 2
