"""What is collected while a dataset's numbers are read: channels, runs of them, and the sentences about them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ideomotor.core.spec import Channel, Gripper, Mode, RotationForm, Unit
from ideomotor.data.meaning.evidence import Answer
from ideomotor.data.meaning.layouts import Kind, Run, runs_of

Alignment = Literal["observation_before_action", "observation_after_action", "unknown"]


@dataclass(frozen=True)
class Read:
    """What an action or a state was found to be."""

    channels: tuple[Channel, ...]
    runs: tuple[Run, ...]
    rotation: RotationForm
    sentences: tuple[str, ...]
    gripper: Gripper | None = None
    answers: tuple[tuple[Run, Answer], ...] = ()  # of an action: which state channels answer to it
    unit_of_state: tuple[
        tuple[Run, int], ...
    ] = ()  # of an action: runs in the unit of the state channels from this one on
    alignment: Alignment = "unknown"
    follows_gripper: int | None = None  # of an action: the state channel that follows the gripper

    def told(self, sentence: str) -> "Read":
        """Return the same with one more sentence."""
        return replace(self, sentences=(*self.sentences, sentence))

    def with_run(self, run: Run, mode: Mode, unit: Unit, frame: str) -> "Read":
        """Return the same with what the channels of a run were found to be."""
        channels = tuple(
            replace(c, mode=mode, unit=unit, frame=frame) if i in run.channels else c
            for i, c in enumerate(self.channels)
        )
        return replace(self, channels=channels)


def fill(kinds: Sequence[Kind], kind: Kind, channels: range) -> list[Kind]:
    return [kind if i in channels else old for i, old in enumerate(kinds)]


def exact_rotation(found: tuple[Run, RotationForm], column: str) -> str:
    run, form = found
    if form.form == "quaternion":
        return f"{run.text(column)} has length 1 in every frame: a quaternion; whether w stands first or last nothing tells"
    return f"{run.text(column)} holds two orthonormal columns in every frame: rot6d, by {form.layout}"


def marked(runs: Sequence[Run], rotation: Run) -> list[Run]:
    """Return the runs with a rotation in its place."""
    kinds: list[Kind] = [run.kind for run in runs for _ in run.channels]
    before, after = kinds[: rotation.first], kinds[rotation.channels.stop :]
    if rotation.first == 3 and "unknown" in before:
        before = fill(before, "position", range(3))
    later = [Run(r.kind, r.first + rotation.channels.stop, r.width) for r in runs_of(after)]
    return [*runs_of(before), rotation, *later]


def channel_names(column: str, runs: Sequence[Run], names: Sequence[str] | None, prefix: str) -> Sequence[str]:
    """Return the dataset's names where it has them for all channels, each of them once; else names of our own."""
    width = sum(run.width for run in runs)
    if names is not None and len(names) == width and len(set(names)) == width:
        return list(names)
    ours: list[str] = []
    for run in runs:
        match run.kind:
            case "position":
                ours += [f"{prefix}{axis}" for axis in "xyz"[: run.width]]
            case "rotation" if run.width == 3:
                ours += [f"{prefix}rotation_{k}" for k in range(3)]
            case "rotation":
                ours += [f"ee_rotation_{k}" for k in range(run.width)]
            case "joint":
                ours += [f"joint_{k + 1}" for k in range(run.width)]
            case "gripper":
                ours.append("gripper")
            case _:
                ours += [f"{column}_{k}" for k in run.channels]
    return _told_apart(ours)


def _told_apart(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once.

    >>> _told_apart(["ee_x", "gripper", "gripper"])
    ['ee_x', 'gripper_1', 'gripper_2']
    """
    count, seen = Counter(names), Counter[str]()
    result: list[str] = []
    for name in names:
        seen[name] += 1
        result.append(name if count[name] == 1 else f"{name}_{seen[name]}")
    return result
