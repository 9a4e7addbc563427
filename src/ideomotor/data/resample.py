"""Chunks of actions at another rate: what an action means decides what becomes of it.

An action is what a step does, and a step ends where the next begins. With n recorded steps of 1/f seconds, new step j of 1/r seconds lasts
from j f/r to (j + 1) f/r, counted in recorded steps, and its action is, by what the embodiment says of the channel,

* a motion ("delta"): the motions are integrated, read at both ends by linear interpolation, and differenced, so none is lost;
* a velocity (m/s, rad/s): the mean over the step, so the way is kept;
* a place ("absolute"): where the arm is at the *end* of the new step, between the ends of two recorded ones;
* the gripper, a share or a number without unit: the value in force as the step begins. Nothing between open and closed is made up.

Rotations whose form is stated are turned and not added: places by slerp, motions by composing them. Angles of an unstated form take the
short way round. Steps that begin after the end of the episode are padding; a last step that begins before does what is left.

n = recorded actions, T = new actions, A = channels, D = channels of one part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rot6d,
    matrix_to_rotation_vector,
    quaternion_to_matrix,
    rot6d_to_matrix,
    rotation_vector_to_matrix,
)
from ideomotor.core.spec import Channel, Embodiment, RotationForm

WIDTHS = {"rotation_vector": 3, "euler": 3, "quaternion": 4, "rot6d": 6, "matrix": 9}  # numbers of each form
FASTEST = 1000.0  # [1/s] a rate above is a mistake


@dataclass(frozen=True)
class Held:
    """Values that stay in force until the next one: grippers, flags."""

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Motions:
    """Displacements, which add up."""

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Velocities:
    """Displacements a second."""

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """Targets on a line."""

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Angles:
    """Targets on a circle [rad]."""

    channels: tuple[int, ...]


@dataclass(frozen=True)
class Orientations:
    """Rotations to be reached."""

    channels: tuple[int, ...]
    form: RotationForm


@dataclass(frozen=True)
class Turns:
    """Rotations by which the arm moves on."""

    channels: tuple[int, ...]
    form: RotationForm
    tool: bool  # True: about the axes of the tool, which turn along; False: about fixed axes


Part = Held | Motions | Velocities | Places | Angles | Orientations | Turns


@dataclass(frozen=True)
class Resampling:
    """How chunks of one source become chunks of the policy's rate."""

    recorded: Fraction  # [1/s] rate of the source
    wanted: Fraction  # [1/s] rate of the policy
    parts: tuple[Part, ...]

    @property
    def step(self) -> Fraction:
        """How many recorded steps a new one takes."""
        return self.recorded / self.wanted

    def needed(self, horizon: int) -> int:
        """Return how many recorded actions a chunk of `horizon` new ones spans."""
        return -(-horizon * self.step.numerator // self.step.denominator)

    @property
    def sentence(self) -> str:
        """What is done, for people."""
        kinds = {type(part) for part in self.parts}
        motions = "summed" if self.step.denominator == 1 else "divided" if self.step.numerator == 1 else "redistributed"
        said = [
            f"deltas {motions}" if kinds & {Motions, Turns} else "",
            "velocities averaged" if Velocities in kinds else "",
            "targets interpolated" if kinds & {Places, Angles, Orientations} else "",
            "gripper held" if Held in kinds else "",
        ]
        return f"{rate_text(self.recorded)} -> {rate_text(self.wanted)}: {', '.join(word for word in said if word)}"


def rate_of(value: float) -> Fraction:
    """Return a rate [1/s] as the fraction it stands for: 29.97 is 30000/1001.

    Raises:
        UserError: no rate.
    """
    if not 0.0 < value <= FASTEST:
        raise UserError(f"a rate of {value} Hz is not possible; give one above 0 and at most {FASTEST:g}")
    near = Fraction(round(value * 1001 / 1000), 1) * Fraction(1000, 1001)
    if value != round(value) and abs(float(near) - value) < 1e-2 * value / 100:
        return near
    return Fraction(value).limit_denominator(1000)


def rate_text(rate: Fraction) -> str:
    """Return a rate for people, e.g. "15 Hz"."""
    return f"{float(rate):.4g} Hz"


def plan(embodiment: Embodiment, recorded: float, wanted: float) -> Resampling | None:
    """Return how chunks recorded at one rate [1/s] become chunks of another; None where both are the same.

    Raises:
        UserError: the embodiment does not say what a channel means.
    """
    source, target = rate_of(recorded), rate_of(wanted)
    if source == target:
        return None
    rotation = _rotation(embodiment)
    turning = rotation.channels if rotation is not None else ()
    kinds: dict[type[Held | Motions | Velocities | Places | Angles], list[int]] = {}
    for number, channel in enumerate(embodiment.action):
        if number not in turning:
            kinds.setdefault(_kind(channel, embodiment), []).append(number)
    parts: list[Part] = [kind(tuple(channels)) for kind, channels in kinds.items()]
    return Resampling(source, target, tuple(parts if rotation is None else [*parts, rotation]))


def resample(
    actions: Float[np.ndarray, "n A"], previous: Float[np.ndarray, " A"] | None, how: Resampling, horizon: int
) -> tuple[Float32[np.ndarray, "T A"], Bool[np.ndarray, " T"]]:
    """Return a chunk of `horizon` new actions, and which of them begin after the last recorded one.

    Args:
        actions: from the chunk's start on, `how.needed(horizon)` of them, or fewer where the episode ends; at least one.
        previous: the action before them, None at the beginning of an episode. Targets set out from there.
        how: from `plan`.
        horizon: T.
    """
    count = len(actions)
    step = how.step
    low = np.array([j * step.numerator // step.denominator for j in range(horizon + 1)])
    part = np.array([j * step.numerator % step.denominator / step.denominator for j in range(horizon + 1)])
    pad = low[:-1] >= count
    part[low >= count] = 0.0
    times = _Times(np.minimum(low, count), part)
    exact = np.asarray(actions, np.float64)
    before = exact[0] if previous is None else np.asarray(previous, np.float64)
    ends = np.concatenate([before[None], exact])  # row k: the targets at time k
    chunk = np.empty((horizon, actions.shape[1]), np.float64)
    for each in how.parts:
        chunk[:, each.channels] = _part(each, exact, ends, times, how)
    return chunk.astype(np.float32), pad


@dataclass(frozen=True)
class _Times:
    """The limits of the new steps, counted in recorded ones."""

    low: Int64[np.ndarray, " limits"]  # whole steps before
    part: Float64[np.ndarray, " limits"]  # of the step after, in [0, 1)


def _part(part: Part, actions: np.ndarray, ends: np.ndarray, times: _Times, how: Resampling) -> np.ndarray:
    columns = list(part.channels)
    match part:
        case Held():
            return actions[np.minimum(times.low[:-1], len(actions) - 1)][:, columns]
        case Motions():
            return _differences(actions[:, columns], times)
        case Velocities():
            return _differences(actions[:, columns], times) / float(how.step)
        case Places():
            start, stop, weight = _neighbours(ends[:, columns], times)
            return start + weight * (stop - start)
        case Angles():
            return _short_way(*_neighbours(ends[:, columns], times))
        case Orientations(form=form):
            return _slerp(*_neighbours(ends[:, columns], times), form)
        case Turns(form=form, tool=tool):
            return _recomposed(actions[:, columns], times, form, tool=tool)
        case _:
            assert_never(part)


def _neighbours(ends: np.ndarray, times: _Times) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows around the end of each new step, and the weight of the second."""
    low = times.low[1:]
    return ends[low], ends[np.minimum(low + 1, len(ends) - 1)], times.part[1:, None]


def _differences(motions: Float64[np.ndarray, "n D"], times: _Times) -> Float64[np.ndarray, "T D"]:
    way = np.concatenate([np.zeros((1, motions.shape[1])), np.cumsum(motions, axis=0)])
    after = way[np.minimum(times.low + 1, len(motions))]
    return np.diff(way[times.low] + times.part[:, None] * (after - way[times.low]), axis=0)


def _short_way(start: np.ndarray, stop: np.ndarray, weight: np.ndarray) -> np.ndarray:
    between = start + weight * ((stop - start + np.pi) % (2 * np.pi) - np.pi)
    wrapped = (between + np.pi) % (2 * np.pi) - np.pi
    inside = (np.abs(start) <= np.pi) & (np.abs(stop) <= np.pi) & (np.abs(between) > np.pi)
    return np.where(inside, wrapped, between)


def _slerp(start: np.ndarray, stop: np.ndarray, weight: np.ndarray, form: RotationForm) -> np.ndarray:
    first = to_matrix(start, form)
    way = matrix_to_rotation_vector(np.swapaxes(first, -1, -2) @ to_matrix(stop, form))
    between = from_matrix(first @ rotation_vector_to_matrix(weight * way), form)
    if form.form == "quaternion" and form.sign != "canonical":
        between *= np.where(np.sum(between * start, axis=-1, keepdims=True) < 0, -1.0, 1.0)
    return np.where(weight == 0.0, start, between)  # what was recorded stays as it was written


def _recomposed(turns: np.ndarray, times: _Times, form: RotationForm, *, tool: bool) -> np.ndarray:
    each = to_matrix(turns, form)
    whole = [np.eye(3)]  # the turn from the chunk's start to time k
    for turn in each:
        whole.append(whole[-1] @ turn if tool else turn @ whole[-1])
    part = rotation_vector_to_matrix(
        times.part[:, None] * matrix_to_rotation_vector(each)[np.minimum(times.low, len(turns) - 1)]
    )
    reached = np.stack(whole)[times.low]
    reached = reached @ part if tool else part @ reached
    back = np.swapaxes(reached[:-1], -1, -2)
    return from_matrix(back @ reached[1:] if tool else reached[1:] @ back, form)


def to_matrix(numbers: Float[np.ndarray, "*batch D"], form: RotationForm) -> Float[np.ndarray, "*batch 3 3"]:
    """Return the rotations that are written in a form."""
    match form.form:
        case "rotation_vector":
            return rotation_vector_to_matrix(numbers)
        case "euler":
            return euler_to_matrix(numbers, form.layout)
        case "quaternion":
            return quaternion_to_matrix(numbers, "xyzw" if form.layout == "xyzw" else "wxyz")
        case "rot6d":
            return rot6d_to_matrix(numbers, "rows" if form.layout == "rows" else "columns")
        case "matrix":
            return np.asarray(numbers, float).reshape(*numbers.shape[:-1], 3, 3)
        case _:
            raise ValueError(f"rotations of form '{form.form}' cannot be computed with")


def from_matrix(matrix: Float[np.ndarray, "*batch 3 3"], form: RotationForm) -> Float[np.ndarray, "*batch D"]:
    """Undo `to_matrix`."""
    match form.form:
        case "rotation_vector":
            return matrix_to_rotation_vector(matrix)
        case "euler":
            return matrix_to_euler(matrix, form.layout)
        case "quaternion":
            return matrix_to_quaternion(matrix, "xyzw" if form.layout == "xyzw" else "wxyz")
        case "rot6d":
            return matrix_to_rot6d(matrix, "rows" if form.layout == "rows" else "columns")
        case "matrix":
            return matrix.reshape(*matrix.shape[:-2], 9)
        case _:
            raise ValueError(f"rotations of form '{form.form}' cannot be computed with")


def _rotation(embodiment: Embodiment) -> Orientations | Turns | None:
    """Return the action's rotation where its form is stated well enough to compute with it."""
    form = embodiment.action_rotation
    width = WIDTHS.get(form.form, 0)
    needs_layout = form.form in ("euler", "quaternion", "rot6d")
    channels = embodiment.action[form.first : form.first + width]
    if form.first < 0 or not width or len(channels) != width or (needs_layout and not form.layout):
        return None
    numbers = tuple(range(form.first, form.first + width))
    modes = {channel.mode for channel in channels}
    if modes == {"absolute"} and not any(channel.unit == "rad/s" for channel in channels):
        return Orientations(numbers, form)
    if modes == {"delta"}:
        return Turns(numbers, form, tool=channels[0].frame == "tool")
    return None


def _kind(channel: Channel, embodiment: Embodiment) -> type[Held | Motions | Velocities | Places | Angles]:
    gripper = embodiment.gripper is not None and embodiment.gripper.channel == channel.name
    if channel.mode == "delta":
        return Motions
    if gripper or channel.unit in ("1", "fraction"):
        return Held
    if channel.unit in ("m/s", "rad/s"):
        return Velocities
    if channel.mode != "absolute":
        raise UserError(
            f"{embodiment.name}: action channel '{channel.name}' is of mode '{channel.mode}', so it cannot be brought to another rate;"
            " write what it is, absolute or delta, into an embodiment file (--embodiment FILE), or leave the rate as recorded"
        )
    return Angles if channel.unit == "rad" and channel.frame != "joint" else Places


def sentences(names: Sequence[str], plans: Sequence[Resampling | None]) -> list[str]:
    """Return what is done with the actions of each source, a line a source."""
    return [f"{n}: {'as recorded' if how is None else how.sentence}" for n, how in zip(names, plans, strict=True)]
