"""A folder of reference numbers: which arrays it has, what each is for, and how far an answer may be off.

Layout: `checkpoint/` (a Hugging Face OpenVLA), `inputs/inputs.json`, `.npz` files anywhere, `tolerances.json` with the rules, and with OFT
parts `oft/`. Nothing here knows a size, a name of a dataset or a number of samples: all of that is read.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ideomotor.core.errors import UserError


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may be off."""

    kind: (
        str  # "exact", "atol" (largest difference) or "norm_rtol" (L2 norm of the difference by that of the reference)
    )
    limit: float = 0.0

    def __str__(self) -> str:
        return "exact" if self.kind == "exact" else f"{self.kind}={self.limit:g}"

    def error(self, ours: np.ndarray, theirs: np.ndarray) -> float:
        """Return how far two arrays of one shape are apart, in the tolerance's own measure; NaN where one of them is NaN."""
        if not theirs.size:
            return 0.0
        a, b = ours.astype(np.float64), theirs.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.where(a == b, 0.0, np.abs(a - b))  # equal infinities are no error
        if self.kind == "exact":
            return 0.0 if np.array_equal(ours, theirs) else float(apart.max()) or math.inf
        if self.kind == "norm_rtol":
            norm = float(np.linalg.norm(b))
            return float(np.linalg.norm(apart)) / norm if norm else float(np.linalg.norm(apart))
        return float(apart.max())


@dataclass(frozen=True)
class Rule:
    """What the arrays are for whose file and key match."""

    file: str  # regular expressions, matched in full
    key: str
    role: str  # "input", "output" or "fact"
    tolerance: Tolerance | None  # of an output

    def fits(self, file: str, key: str) -> bool:
        """Return whether this rule speaks of an array."""
        return bool(re.fullmatch(self.file, file) and re.fullmatch(self.key, key))


@dataclass(frozen=True)
class Row:
    """What came of one output."""

    file: str
    key: str
    tolerance: Tolerance | None
    error: float | None = None  # None: the output could not be compared
    note: str = ""  # why

    @property
    def verdict(self) -> str:
        """Return ok, FAIL, or unvisited where nothing was compared."""
        if self.error is None:
            return "unvisited"
        assert self.tolerance is not None
        return "ok" if self.error <= self.tolerance.limit else "FAIL"  # NaN fails

    def __str__(self) -> str:
        error = "-" if self.error is None else f"{self.error:.2e}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.file} {self.key} {error} {self.tolerance or '-'} {self.verdict}{note}"

    def to_json(self) -> dict[str, Any]:
        """Return the row for a JSON object; an error that is no number is null, and the note says why."""
        finite = self.error if self.error is not None and math.isfinite(self.error) else None
        limit = None if self.tolerance is None else {self.tolerance.kind: self.tolerance.limit or True}
        shown = {"file": self.file, "key": self.key, "error": finite, "tolerance": limit, "verdict": self.verdict}
        return shown | ({"note": self.note or str(self.error)} if self.note or finite is None else {})


class NothingComputesItError(Exception):
    """No code of ours claims to give an output."""


Answer = Callable[..., Any]  # named groups of a key -> an array, a tensor or a number
Answers = Mapping[str, Answer]  # by regular expressions, matched in full with keys


def answer(answers: Answers, key: str) -> np.ndarray:
    """Return our array for a key.

    Raises:
        NothingComputesItError: no pattern matches.
    """
    for pattern, compute in answers.items():
        if match := re.fullmatch(pattern, key):
            with torch.no_grad():
                return np.asarray(compute(**match.groupdict()))
    raise NothingComputesItError("nothing here computes it")


def compare(file: str, key: str, tolerance: Tolerance, ours: Callable[[], Any], theirs: Any) -> Row:
    """Return the row of one output; what goes wrong while it is computed is the row's note, and hides no other row."""
    try:
        with torch.no_grad():
            mine, golden = np.asarray(ours()), np.asarray(theirs)
    except Exception as error:  # noqa: BLE001 (one part must not hide the others)
        return Row(file, key, tolerance, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if mine.shape != golden.shape:
        return Row(file, key, tolerance, math.inf, f"shape {list(mine.shape)}, not {list(golden.shape)}")
    return Row(file, key, tolerance, tolerance.error(mine, golden))


class Fixture:
    """The folder; arrays are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("tolerances.json", "checkpoint/config.json", "inputs/inputs.json"):
            if not (folder / name).is_file():
                raise UserError(f"{folder} is no parity fixture: it has no {name}")
        self.files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npz"))
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint."""
        return self.folder / "checkpoint"

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        """Return the arrays of a file by key; none where there is no such file."""
        if file not in self._arrays:
            path = self.folder / file
            if path.is_file():
                with np.load(path) as arrays:
                    self._arrays[file] = {key: arrays[key] for key in arrays.files}
            else:
                self._arrays[file] = {}
        return self._arrays[file]

    def json(self, name: str) -> Any:
        """Return a JSON file's content; an empty object where there is no such file."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """What `tolerances.json` says."""
        return tuple(
            Rule(rule["file"], rule["key"], rule["role"], _tolerance(rule) if rule["role"] == "output" else None)
            for rule in self.json("tolerances.json")["rules"]
        )

    def rule(self, file: str, key: str) -> Rule | None:
        """Return the first rule that fits."""
        return next((rule for rule in self.rules if rule.fits(file, key)), None)

    def tolerance(self, file: str, key: str) -> Tolerance | None:
        """Return how far an output may be off; None where no rule calls it an output."""
        rule = self.rule(file, key)
        return None if rule is None else rule.tolerance

    @cached_property
    def samples(self) -> dict[str, Any]:
        """The samples of `inputs/inputs.json` by their number."""
        return _numbered(self.json("inputs/inputs.json"))

    @cached_property
    def constants(self) -> dict[str, Any]:
        """What `oft/expected.json` says of all OFT cases: chunk, widths, normalization."""
        return self.json("oft/expected.json").get("constants", {})

    @cached_property
    def oft_samples(self) -> dict[str, Any]:
        """The samples of `oft/expected.json` by their number."""
        return _numbered(self.json("oft/expected.json").get("samples", []))


def _numbered(samples: list[Any]) -> dict[str, Any]:
    return {str(sample.get("index", number)): sample for number, sample in enumerate(samples)}


def _tolerance(rule: Mapping[str, Any]) -> Tolerance:
    if rule.get("exact"):
        return Tolerance("exact")
    for kind in ("atol", "norm_rtol"):
        if kind in rule:
            return Tolerance(kind, float(rule[kind]))
    raise UserError(f"tolerances.json: the rule for {rule['file']} {rule['key']} has neither exact, atol nor norm_rtol")
