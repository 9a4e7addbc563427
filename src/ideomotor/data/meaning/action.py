"""Read an action: its channels, and how it moves the state, with a sentence with numbers for each conclusion."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ideomotor.core.spec import Channel, Mode, RotationForm
from ideomotor.data.meaning.evidence import Answer, Sample, best_answer, two_valued
from ideomotor.data.meaning.gripper import with_gripper
from ideomotor.data.meaning.layouts import Kind, Run, find_rotation, kinds_by_name, runs_of, three_angles
from ideomotor.data.meaning.parts import Read, channel_names, exact_rotation, fill, marked

ENOUGH = 0.3  # share of a variance from which on something is concluded
CLEARLY = 0.05  # by which one share must exceed another
ONE = (0.6, 1.4)  # a slope that means one to one: controllers lag behind
APART = 0.2  # of its range, by which an absolute action may differ from the state


def read_action(sample: Sample, names: Sequence[str] | None, rate: float | None) -> Read:
    """Return what an action probably is.

    Args:
        sample: episodes.
        names: of its channels, where the dataset states them.
        rate: frames a second, None where not known.
    """
    kinds, sentences = _action_kinds(sample, names)
    runs = tuple(runs_of(kinds))
    found = find_rotation(sample.action)
    rotation = found[1] if found else RotationForm("none")
    if found:
        sentences.append(exact_rotation(found, "action"))
        runs = tuple(marked(runs, found[0]))
    named = list(channel_names("action", runs, names, "ee_delta_"))
    channels = [Channel(name, "unknown", "unknown", "unknown") for name in named]
    read = Read(tuple(channels), runs, rotation, tuple(sentences))
    for run in runs:
        if run.kind in ("position", "rotation", "joint"):
            read = _with_motion(read, sample, run, rate)
    read = _with_alignment(read)
    read = _with_angles(read, sample)
    return with_gripper(_renamed(read, names), sample, names)


def _action_kinds(sample: Sample, names: Sequence[str] | None) -> tuple[list[Kind], list[str]]:
    """Return the kind of each channel: by names, else by what is two-valued and by what the state answers."""
    width = sample.action.shape[1]
    if kinds := kinds_by_name(names, width):
        return kinds, [f"action: {', '.join(names or ())}, as its channels are called"]
    kinds = ["unknown"] * width
    grips = [i for i in range(width) if two_valued([part[:, i] for part in sample.actions])]
    moves = width
    if grips and grips[-1] == width - 1:
        kinds[-1], moves = "gripper", width - 1
    pose = find_rotation(sample.action)
    if pose and pose[0].first == 3 and pose[0].channels.stop <= moves:
        return fill(kinds, "position", range(3)), ["action[0:3]: places, as a rotation follows"]
    if moves in (2, 3, 6):
        answer = best_answer(sample, range(min(moves, 3)))
        followed = answer is not None and max(answer.delta, answer.absolute) >= ENOUGH
        near = answer is not None and np.abs(sample.state[:, answer.first : answer.first + min(moves, 3)]).max() <= 1.5
        if moves == width and not followed:
            return kinds, [f"action unknown: {width} numbers, to which no state answers"]
        if followed and not near:
            return fill(kinds, "joint", range(moves)), [
                f"action[0:{moves}]: joints, as the state goes beyond 1.5 with them"
            ]
        kinds = fill(fill(kinds, "position", range(min(moves, 3))), "rotation", range(3, moves))
        doubt = " (six joints would fit as well: look at the robot)" if moves == 6 else ""
        turn = " and three of rotation" if moves == 6 else ""
        return kinds, [
            f"action[0:{moves}]: {'two' if moves == 2 else 'three'} numbers of place{turn}, the usual form{doubt}"
        ]
    answer = best_answer(sample, range(moves)) if moves in (5, 7, 14) else None
    if answer is not None and max(answer.delta, answer.absolute) >= ENOUGH:
        return fill(kinds, "joint", range(moves)), [
            f"action[0:{moves}]: joints, as {moves} numbers of the state answer"
        ]
    return kinds, [f"action[0:{moves}] unknown: {moves} numbers are no usual form"]


def _with_motion(read: Read, sample: Sample, run: Run, rate: float | None) -> Read:
    """Add the mode of a run, and its unit where the state tells: by what the state does after the action."""
    where, frame = run.text("action"), "joint" if run.kind == "joint" else "unknown"
    answer = (
        None if run.kind == "rotation" and run.width != 3 else best_answer(sample, run.channels, _free(read, sample))
    )
    if answer is None or max(answer.delta, answer.absolute) < ENOUGH:
        mode = _mode_before(read, run)
        why = "no state to compare it with"
        if answer is not None:
            share = max(answer.delta, answer.absolute)
            why = f"at best {share:.2f} of the variance of any {run.width} state channels is explained"
        sentence = (
            f"{where}: {mode}, as the places before it ({why})"
            if mode != "unknown"
            else f"{where}: mode unknown ({why})"
        )
        return read.with_run(run, mode, "unknown", frame).told(sentence)
    read = replace(read, answers=(*read.answers, (run, answer)))
    return _with_answer(read, sample, run, answer, rate)


def _with_answer(read: Read, sample: Sample, run: Run, answer: Answer, rate: float | None) -> Read:
    where, frame = run.text("action"), "joint" if run.kind == "joint" else "unknown"
    state = Run(run.kind, answer.first, run.width)
    which = "next" if answer.next >= answer.last else "last"
    shares = (
        f"explains {answer.delta:.2f} of the variance of {state.text('state')}'s {which} difference and {answer.absolute:.2f} of"
        f" {state.text('state')} itself"
    )
    same = replace(read, unit_of_state=(*read.unit_of_state, (run, answer.first)))
    if answer.absolute > answer.delta:
        values = sample.state[:, state.channels]
        away = float(np.abs(sample.action[:, run.channels] - values).mean())
        near = away <= APART * float(np.ptp(values, axis=0).max())
        unit = "the state's unit" if near else "unit unknown"
        sentence = f"{where} {shares}: absolute; {away:.3g} from it in the mean: {unit}"
        return (same if near else read).with_run(run, "absolute", "unknown", frame).told(sentence)
    one = f"one unit of it moves the state by {answer.slope:.3g}"
    if ONE[0] <= answer.slope <= ONE[1]:
        return same.with_run(run, "delta", "unknown", frame).told(f"{where} {shares}: delta; {one}: the state's unit")
    if rate is not None and ONE[0] <= answer.slope * rate <= ONE[1]:
        sentence = f"{where} {shares}; {one} a frame, {answer.slope * rate:.3g} a second: a velocity"
        return read.with_run(run, "absolute", "m/s" if run.kind == "position" else "rad/s", frame).told(sentence)
    return read.with_run(run, "delta", "unknown", frame).told(
        f"{where} {shares}: delta; {one}: a scaled number, unit unknown"
    )


def _free(read: Read, sample: Sample) -> list[bool]:
    """Return which state channels can answer: none that answered already, none of a rotation that is no three angles."""
    free = [True] * sample.state.shape[1]
    taken = [range(answer.first, answer.first + run.width) for run, answer in read.answers]
    if found := find_rotation(sample.state):
        taken.append(found[0].channels)
    for channels in taken:
        for channel in channels:
            free[channel] = False
    return free


def _mode_before(read: Read, run: Run) -> Mode:
    """Return the mode of the places before a rotation: both are commanded in one way."""
    modes: list[Mode] = [read.channels[r.first].mode for r in read.runs if r.kind == "position" and r.first < run.first]
    return modes[-1] if modes and run.kind == "rotation" else "unknown"


def _with_alignment(read: Read) -> Read:
    moved = [(run, answer) for run, answer in read.answers if answer.delta >= answer.absolute]
    if not moved:
        return read
    run, answer = moved[0]
    said = f"{run.text('action')} explains {answer.next:.2f} of the state's next difference and {answer.last:.2f} of the one before"
    if answer.next >= answer.last + CLEARLY:
        return replace(read, alignment="observation_before_action").told(f"{said}: an observation precedes its action")
    if answer.last >= answer.next + CLEARLY:
        return replace(read, alignment="observation_after_action").told(f"{said}: an observation follows its action")
    return read.told(f"{said}: whether an observation precedes its action is unknown")


def _with_angles(read: Read, sample: Sample) -> Read:
    run = next((r for r in read.runs if r.kind == "rotation" and r.width == 3), None)
    if run is None or read.rotation.form != "none":
        return read
    form, sentence = three_angles(sample.actions, run, "action")
    return replace(read, rotation=form).told(sentence)


def _renamed(read: Read, names: Sequence[str] | None) -> Read:
    """Give places and rotations that are no differences names without "delta"."""
    if names is not None and len(names) == len(read.channels):
        return read
    channels = tuple(
        replace(c, name=c.name.replace("ee_delta_", "ee_")) if c.mode not in ("delta", "unknown") else c
        for c in read.channels
    )
    return replace(read, channels=channels)
