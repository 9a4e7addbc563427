"""From a line about a dataset to its record."""

from dataclasses import dataclass

from ideomotor.data.openx.channels import Body, embodiment
from ideomotor.data.openx.parts import Binarized, Clipped, Euler, FromSign, Held, Inverted, Part, Relabelled, source
from ideomotor.data.openx.record import Record, Standardize
from ideomotor.data.openx.standardize import Slices

NATURAL = "observation.natural_language_instruction"
SENTENCE = "language_instruction"

WHERE = {  # the raw values for which an inverse is one
    FromSign: "raw gripper values -1 and 1",
    Clipped: "raw gripper values in [0, 1]",
    Euler: "quaternions of length 1 with w > 0",
}
WHY_NOT = {
    Held: "r2a forgets when a command was repeated",
    Relabelled: "the motion is read off the states",
    Binarized: "undecided gripper values are decided",
}


@dataclass(frozen=True)
class Views:
    """Which raw camera has which role; empty: none."""

    primary: str
    secondary: str = ""
    wrist: str = ""


@dataclass(frozen=True)
class About:
    """What else is to be said of a dataset."""

    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lost: str = ""  # raw numbers of the action that the standard form does not hold, so that there is no inverse
    own: Standardize | None = None  # a function of its own in place of the slices
    own_steps: bool = False  # it decides which steps remain
    drops: str = ""
    instruction: str = ""


NOTHING = About()


def record(name: str, body: Body, views: Views, slices: Slices, about: About = NOTHING) -> Record:
    """Return the record of a dataset; what follows from the slices is worked out from them."""
    reads = _columns((*slices.action, *slices.state))
    action = tuple(c for c in _columns(slices.action) if c.startswith("action.")) or ("action",)
    instruction = about.instruction or (SENTENCE if action == ("action",) else NATURAL)
    reversible, restores = _inverse(slices, about)
    return Record(
        name=name,
        embodiment=embodiment(name, body, slices.state, slices.action),
        action=action,
        state=_columns(slices.state),
        reads=(*reads, instruction) if instruction not in (SENTENCE, NATURAL) else reads,
        cameras={role: camera for role, camera in vars(views).items() if camera},
        instruction=instruction,
        standardize=about.own or slices,
        restore=slices.restore if reversible else None,
        restores=restores,
        trim=None if about.own_steps else slices.trim,
        drops=about.drops,
        questions=about.questions,
        notes=about.notes,
        formulas=(_formula(slices.state), _formula(slices.action)),
    )


def _columns(parts: tuple[Part, ...]) -> tuple[str, ...]:
    takes = [take for part in parts if (take := source(part)) is not None]
    return tuple(dict.fromkeys(take.column for take in takes))


def _formula(parts: tuple[Part, ...]) -> str:
    return ", ".join(map(str, parts)) or "none"


def _inverse(slices: Slices, about: About) -> tuple[bool, str]:
    """Say whether the action has an inverse, and where it holds or why there is none."""
    if about.lost:
        return False, f"no inverse: {about.lost}"
    kinds = {type(part) for part in slices.action}
    kinds |= {type(part.part) for part in slices.action if isinstance(part, Inverted)}
    if why := [why for kind, why in WHY_NOT.items() if kind in kinds]:
        return False, f"no inverse: {' and '.join(why)}"
    return True, ", ".join(where for kind, where in WHERE.items() if kind in kinds)
