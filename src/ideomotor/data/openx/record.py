"""What is written down about one dataset of Open X-Embodiment, and the shapes that go in and out of its standardization.

L = steps of a raw episode, K = steps that remain, S = state channels, A = action channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from ideomotor.core.spec import Embodiment

SIGN_TO_VERIFY = "sign of the gripper: to verify on real data before trusting it"


@dataclass(frozen=True)
class RawEpisode:
    """One episode as it was recorded."""

    columns: Mapping[str, np.ndarray]  # frames first, named as the reader names them: "action.world_vector"
    instruction: str


@dataclass(frozen=True)
class StandardEpisode:
    """One episode in the standard form."""

    keep: Int64[np.ndarray, " K"]  # the raw steps that remain, ascending
    state: Float32[np.ndarray, "K S"]
    action: Float32[np.ndarray, "K A"]
    instruction: str


Standardize = Callable[[RawEpisode], StandardEpisode]
Restore = Callable[[Float32[np.ndarray, "K A"]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Record:
    """One dataset: where its numbers lie, what they mean once they are standardized, and what nobody knows about them."""

    name: str  # as dataset_info.json has it
    embodiment: Embodiment  # of the standardized numbers, without cameras: their sizes are the data's to say
    action: tuple[str, ...]  # the raw columns whose concatenation is the raw action
    state: tuple[str, ...]  # the raw columns that the state is made of
    reads: tuple[str, ...]  # every raw column that `standardize` needs
    cameras: Mapping[str, str]  # role ("primary", "secondary", "wrist") -> raw camera
    instruction: str  # raw column
    standardize: Standardize
    restore: (
        Restore | None
    )  # standardized action -> raw action columns of the steps that remain; None where there is no inverse
    restores: str = ""  # for which raw values `restore` is the inverse, or why there is none; empty: for all
    trim: tuple[int, int] | None = (0, 0)  # steps dropped at the start and the end; None: only reading tells
    drops: str = ""  # the same in words; empty: every step remains
    questions: tuple[str, ...] = ()  # what is not known or not verified
    notes: tuple[str, ...] = ()  # what a user should know of the choices made
    formulas: tuple[str, str] = ("", "")  # state and action in words: what is taken from where
