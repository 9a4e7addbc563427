"""Pieces that a standardized state or action is put together from: each is plain data, so that it can be hashed, printed and undone.

L = steps of a raw episode, n = numbers of a part.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from ideomotor.core import rotation
from ideomotor.core.errors import UserError
from ideomotor.data.openx import gripper

Columns = Mapping[str, np.ndarray]
Rows = Float32[np.ndarray, "L n"]
Pieces = list[tuple["Take", np.ndarray]]  # raw numbers, with where they belong


@dataclass(frozen=True)
class Take:
    """Numbers of a raw column as they are; a negative `first` counts from the end."""

    column: str
    first: int
    width: int

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return these numbers of every step.

        Raises:
            UserError: the column is missing, or narrower than this.
        """
        if self.column not in columns:
            raise UserError(
                f"column '{self.column}' is missing; the dataset has {', '.join(sorted(columns)) or 'none'}."
                " Is it another version or conversion of it?"
            )
        values = np.asarray(columns[self.column])
        rows = values.reshape(length, int(np.prod(values.shape[1:])))
        start = self.first % rows.shape[1] if -rows.shape[1] <= self.first < rows.shape[1] else -1
        if start < 0 or start + self.width > rows.shape[1]:
            raise UserError(
                f"column '{self.column}' has {rows.shape[1]} numbers a step; {self} was expected."
                " Is it another version or conversion of the dataset?"
            )
        return rows[:, start : start + self.width].astype(np.float32)

    def undo(self, values: Rows) -> Pieces:
        """Return the raw numbers."""
        return [(self, values)]

    def __str__(self) -> str:
        end = self.first + self.width
        return f"{self.column}[{self.first}:{'' if end == 0 else end}]"


@dataclass(frozen=True)
class Fill:
    """Numbers that the dataset does not have."""

    value: float
    width: int

    def __call__(self, columns: Columns, length: int) -> Rows:  # noqa: ARG002 (as every part)
        """Return the constant."""
        return np.full((length, self.width), self.value, np.float32)

    def undo(self, values: Rows) -> Pieces:  # noqa: ARG002
        """Return nothing: nothing was read."""
        return []

    def __str__(self) -> str:
        return " ".join([f"{self.value:g}"] * self.width)


@dataclass(frozen=True)
class Clipped:
    """clip01; undone on [0, 1] alone."""

    part: Take
    width = 1

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return the numbers within [0, 1]."""
        return gripper.clip01(self.part(columns, length))

    def undo(self, values: Rows) -> Pieces:
        """Return the values as they are."""
        return self.part.undo(values)

    def __str__(self) -> str:
        return f"clip01({self.part})"


@dataclass(frozen=True)
class Inverted:
    """1 - g."""

    part: Take | Clipped
    width = 1

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return 1 - g."""
        return gripper.inverted(self.part(columns, length))

    def undo(self, values: Rows) -> Pieces:
        """Return 1 - g."""
        return self.part.undo(gripper.inverted(values))

    def __str__(self) -> str:
        return f"inv({self.part})"


@dataclass(frozen=True)
class FromSign:
    """Open for a raw -1, closed for a raw +1: inv(clip01(g)), undone for these two values."""

    part: Take
    width = 1

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return 1 - clip01(g)."""
        return gripper.inverted(gripper.clip01(self.part(columns, length)))

    def undo(self, values: Rows) -> Pieces:
        """Return 1 - 2 g."""
        return self.part.undo(np.float32(1) - np.float32(2) * values)

    def __str__(self) -> str:
        return f"inv(clip01({self.part}))"


@dataclass(frozen=True)
class Held:
    """A relative gripper command as the state that it leads to; there is no inverse."""

    part: Take
    width = 1

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return 1 where the gripper is to be open, 0 where closed."""
        return gripper.held(self.part(columns, length)[:, 0])[:, None]

    def __str__(self) -> str:
        return f"r2a({self.part})"


@dataclass(frozen=True)
class Binarized:
    """An opening as open or closed; there is no inverse."""

    part: Take
    width = 1

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return the decided values."""
        return gripper.binarized(self.part(columns, length)[:, 0])[:, None]

    def __str__(self) -> str:
        return f"bin({self.part})"


@dataclass(frozen=True)
class Relabelled:
    """The motion from each state to the next; the last step has none and must be trimmed. There is no inverse."""

    part: Take
    width = 6

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return the differences, and zeros for the last step."""
        return np.concatenate(
            [gripper.relabelled(self.part(columns, length)), np.zeros((min(length, 1), 6), np.float32)]
        )

    def __str__(self) -> str:
        return f"relabel({self.part})"


@dataclass(frozen=True)
class Euler:
    """A quaternion xyzw as three angles about fixed axes x, y, z [rad]: R = Rz Ry Rx, as tensorflow_graphics has it."""

    part: Take
    width = 3

    def __call__(self, columns: Columns, length: int) -> Rows:
        """Return roll, pitch, yaw, the outer two in (-pi, pi].

        Raises:
            UserError: a quaternion is zero or not finite.
        """
        matrix = rotation.quaternion_to_matrix(self.part(columns, length).astype(np.float64), "xyzw")
        angles = (
            rotation.matrix_to_euler(matrix, "xyz") + 0.0
        )  # a half turn is pi, not -pi, whatever the sign of a zero
        return np.where(angles <= -np.pi, np.pi, angles).astype(np.float32)

    def undo(self, values: Rows) -> Pieces:
        """Return the quaternion of length 1 with w >= 0."""
        matrix = rotation.euler_to_matrix(values.astype(np.float64), "xyz")
        return self.part.undo(rotation.matrix_to_quaternion(matrix, "xyzw").astype(np.float32))

    def __str__(self) -> str:
        return f"euler({self.part})"


Lossy = Held | Binarized | Relabelled
Part = Take | Fill | Clipped | Inverted | FromSign | Euler | Lossy


def source(part: Part) -> Take | None:
    """Return what a part reads, None for a constant."""
    while not isinstance(part, Take | Fill):
        part = part.part
    return part if isinstance(part, Take) else None


def joined(parts: tuple[Part, ...], columns: Columns, length: int) -> Rows:
    """Return the parts side by side."""
    rows = [np.zeros((length, 0), np.float32), *(part(columns, length) for part in parts)]
    return np.concatenate(rows, axis=1)


def restored(parts: tuple[Part, ...], values: Rows) -> dict[str, np.ndarray]:
    """Undo `joined` where the parts read their columns whole: return these columns."""
    pieces: Pieces = []
    first = 0
    for part in parts:
        assert not isinstance(part, Lossy), f"{part} has no inverse"
        pieces += part.undo(values[:, first : first + part.width])
        first += part.width
    names = dict.fromkeys(take.column for take, _ in pieces)
    return {name: _column([piece for piece in pieces if piece[0].column == name]) for name in names}


def _column(pieces: Pieces) -> np.ndarray:
    """Put the pieces of one column in order: those that count from the end stand behind the others."""
    ordered = sorted(pieces, key=lambda piece: (piece[0].first < 0, piece[0].first))
    return np.concatenate([values for _, values in ordered], axis=1)
