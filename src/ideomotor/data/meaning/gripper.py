"""Read a gripper: which channels of an action move it, and which value opens it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ideomotor.core.spec import Gripper, RotationForm, Unit
from ideomotor.data.meaning.evidence import Sample, TwoValued, levels, two_valued
from ideomotor.data.meaning.layouts import WIDEST, Run, unit_of
from ideomotor.data.meaning.parts import Read

APART = 0.2  # of its range, by which a state must differ between two commands
MOST = 0.8  # of the episodes

Following = tuple[int, float, float]  # state channel, its median size after the lower and after the higher command


def with_gripper(read: Read, sample: Sample, names: Sequence[str] | None) -> Read:
    """Return the same with what grips, and the meaning of the first that does."""
    runs = [run for run in read.runs if run.kind == "gripper"]
    if not runs:
        return read.told("no gripper: the last channel of the action does not stand at two values")
    for run in runs:
        two = two_valued([part[:, run.first] for part in sample.actions])
        read = read.with_run(run, "absolute", _unit(sample, run, two), "none").told(_sentence(sample, run, two, names))
    run = runs[0]
    value = two_valued([part[:, run.first] for part in sample.actions]) or _ends(sample, run.first)
    if value.low == value.high:
        return read.told(f"action[{run.first}] never changes: which value opens is unknown")
    following = _following(sample, read, run.first, value)
    name = read.channels[run.first].name
    opens, why = _opens(sample, name, run.first, value, following)
    read = replace(read.told(why), follows_gripper=None if following is None else following[0])
    if opens is None:
        return read
    closed = value.low if opens == value.high else value.high
    return replace(read, gripper=Gripper(name, open=opens, closed=closed, threshold=(value.low + value.high) / 2))


def _unit(sample: Sample, run: Run, two: TwoValued | None) -> Unit:
    """Return the unit of a command: of two values the gripper's specification says all there is to say."""
    unit = unit_of("gripper", sample.action[:, run.channels], RotationForm("none"))[0]
    return "1" if two is not None and unit == "unknown" else unit


def _sentence(sample: Sample, run: Run, value: TwoValued | None, names: Sequence[str] | None) -> str:
    called = f" is called '{names[run.first]}'" if names is not None and len(names) > run.first else ""
    if value is None:
        low, high = float(sample.action[:, run.first].min()), float(sample.action[:, run.first].max())
        return f"action[{run.first}]{called}, within [{low:.3g}, {high:.3g}]: a gripper"
    mostly = "in every frame" if value.exact else "in nine of ten frames or more"
    said = (
        f"is at {value.low:.3g} or {value.high:.3g} {mostly} and changes {value.changes} times in {len(sample.action)}"
    )
    return f"action[{run.first}]{called}{' and' if called else ''} {said}: a gripper"


def _ends(sample: Sample, channel: int) -> TwoValued:
    values = sample.action[:, channel]
    return TwoValued(float(values.min()), float(values.max()), exact=False, changes=0)


def _following(sample: Sample, read: Read, channel: int, value: TwoValued) -> Following | None:
    """Return the state channel that tells best which of its two values a gripper was told; none that answers to motion."""
    moving = {c for run, answer in read.answers for c in range(answer.first, answer.first + run.width)}
    moving |= {c for run, first in read.unit_of_state for c in range(first, first + run.width)}
    best: Following | None = None
    largest = APART
    for state in range(sample.state.shape[1]):
        spread = float(np.ptp(np.abs(sample.state[:, state])))
        if state in moving or spread == 0:
            continue
        low, high = levels(sample, channel, value, state)
        if abs(high - low) / spread > largest:  # NaN, where a value was never told, is not
            best, largest = (state, low, high), abs(high - low) / spread
    return best


def _opens(
    sample: Sample, name: str, channel: int, value: TwoValued, following: Following | None
) -> tuple[float | None, str]:
    """Return the value that opens a gripper, None where nothing tells, and a sentence."""
    lower = name.lower()
    if "clos" in lower:
        return value.low, f"{value.low:.3g} opens the gripper: its channel is called '{name}'"
    if "open" in lower:
        return value.high, f"{value.high:.3g} opens the gripper: its channel is called '{name}'"
    if following is not None:
        state, low, high = following
        levels_text = (
            f"state[{state}] has the size {low:.3g} after {value.low:.3g} and {high:.3g} after {value.high:.3g}"
        )
        if float(np.abs(sample.state[:, state]).max()) <= WIDEST:
            opens = value.high if high > low else value.low
            return opens, f"{opens:.3g} opens the gripper: {levels_text}, metres between the fingers"
    first = [float(part[0, channel]) for part in sample.actions]
    for opens in (value.low, value.high):
        share = float(np.mean([abs(x - opens) < abs(x - value.low - value.high + opens) for x in first]))
        if share >= MOST and len(first) >= 3:
            count = round(share * len(first))
            return (
                opens,
                f"{opens:.3g} opens the gripper, if arms begin open: {count} of {len(first)} episodes begin with it (weak)",
            )
    return None, "which value opens the gripper is unknown: write it into the file, or nothing is scaled by it"
