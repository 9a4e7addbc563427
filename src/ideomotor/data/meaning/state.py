"""Read a state, given what its numbers answer to."""

from collections.abc import Sequence

import numpy as np

from ideomotor.core.spec import Channel, RotationForm
from ideomotor.data.meaning.evidence import Sample
from ideomotor.data.meaning.layouts import WIDEST, Kind, find_rotation, kinds_by_name, runs_of, three_angles, unit_of
from ideomotor.data.meaning.parts import Read, channel_names, exact_rotation, fill, marked

TOGETHER = 0.95  # correlation of two fingers


def read_state(sample: Sample, names: Sequence[str] | None, action: Read) -> Read:
    """Return what a state probably is, given what answers to the action."""
    width = sample.state.shape[1]
    if width == 0:
        return Read((), (), RotationForm("none"), ("no state: the dataset has none",))
    sentences: list[str] = []
    kinds = kinds_by_name(names, width)
    if kinds:
        sentences.append(f"state: {', '.join(names or ())}, as its channels are called")
    else:
        kinds = _state_kinds(sample, action)
    runs = tuple(runs_of(kinds))
    found = find_rotation(sample.state)
    rotation = found[1] if found else RotationForm("none")
    if found:
        sentences.append(exact_rotation(found, "state"))
        runs = tuple(marked(runs, found[0]))
    angles = next((r for r in runs if r.kind == "rotation" and r.width == 3), None)
    if angles and not found:
        rotation, sentence = three_angles(sample.states, angles, "state")
        sentences.append(sentence)
    channels: list[Channel] = []
    called = channel_names("state", runs, names, "ee_")
    for run in runs:
        unit, why = unit_of(run.kind, sample.state[:, run.channels], rotation)
        frame = {"joint": "joint", "gripper": "none"}.get(run.kind, "unknown")
        channels += [
            Channel(name, unit, frame, "unknown" if run.kind == "unknown" else "absolute")
            for name in called[run.first : run.channels.stop]
        ]
        sentences.append(f"{run.text('state')}: {run.kind if run.kind != 'unknown' else 'meaning unknown'}, {why}")
    return Read(tuple(channels), runs, rotation, tuple(sentences))


def _state_kinds(sample: Sample, action: Read) -> list[Kind]:
    """Return what answers to the places, rotations and joints of an action, and follows its gripper."""
    kinds: list[Kind] = ["unknown"] * sample.state.shape[1]
    for run, answer in action.answers:
        kinds = fill(kinds, run.kind, range(answer.first, answer.first + run.width))
    finger = action.follows_gripper
    if finger is not None:
        moves = sample.state[:, finger]
        for channel, kind in enumerate(kinds):
            other = sample.state[:, channel]
            mirrored = kind == "unknown" and np.abs(other).max() <= WIDEST and np.ptp(other) > 0
            if channel == finger or (mirrored and abs(np.corrcoef(moves, other)[0, 1]) >= TOGETHER):
                kinds[channel] = "gripper"
    return kinds
