"""The numbers of an evaluation as a file: `result.json`."""

import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ideomotor.core.errors import UserError
from ideomotor.core.files import write_json
from ideomotor.evaluate.rollout import Crash, Rollout, Success
from ideomotor.evaluate.suites import Facts

FORMAT = 1  # version of the file
LABEL = "Ideomotor tabletop, not a published benchmark; does not predict real robots"


@dataclass(frozen=True)
class Result:
    """What `ideomotor eval` measured. `tasks` and `episodes` hold JSON values, as the file does."""

    suite: str
    arm: str
    seed: int
    policy: str
    policy_id: str
    tasks: Mapping[str, Mapping[str, Any]]  # successes, episodes, crashes, interval, and what the suite adds
    episodes: Sequence[Mapping[str, Any]]  # one record each, see `record`
    embodiment_hash: str
    renderer: str
    latency_ms: Mapping[str, Any]  # percentiles of one inference, and its batch size
    seconds: float
    versions: Mapping[str, str]
    label: str = LABEL
    shield: Mapping[str, Any] | None = None  # how the arm was shielded; what came of it is in `tasks` and `episodes`

    def save(self, path: Path) -> None:
        """Replace `path` by this result, in one step."""
        value = {"format": FORMAT, **vars(self)}
        if self.shield is None:
            del value["shield"]
        write_json(path, value)

    @property
    def violations(self) -> dict[str, int]:
        """What the independent checker found in the commands of all episodes, by kind; empty is good."""
        return dict(
            sum((Counter(e["shield"]["violations"]) for e in self.episodes if "shield" in e), start=Counter[str]())
        )

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Undo `save`.

        Raises:
            UserError: there is no such file, or it is no result of this version.
        """
        try:
            value: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read as an evaluation ({error}); give a result.json of `ideomotor eval`"
            ) from error
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise UserError(f"{path} is no result of format {FORMAT}; run `ideomotor eval` again with this version")
        fields: dict[str, Any] = dict(value)
        del fields["format"]
        return cls(**fields)


def record(rollout: Rollout, facts: Facts) -> dict[str, Any]:
    """Return the record of one episode."""
    outcome = rollout.outcome
    return {
        "task": rollout.attempt.task,
        "seed": rollout.attempt.seed,
        "condition": rollout.attempt.condition.name,
        "outcome": type(outcome).__name__.lower(),
        "steps": rollout.steps,
        "instruction": rollout.told,
        "named": facts.named,
        "graspable": list(facts.graspable),
        "first_touched": facts.first_touched,
        "first_lifted": facts.first_lifted,
        "stopped": stopped(rollout, facts),
        **({"message": outcome.message} if isinstance(outcome, Crash) else {}),
        **({} if rollout.shield is None else {"shield": asdict(rollout.shield)}),
    }


STOPS = (
    "touched no object",
    "touched another object first",
    "did not lift the named object",
    "lifted another object",
    "lifted it, did not finish",
)


def stopped(rollout: Rollout, facts: Facts) -> str | None:
    """Return how far a failed episode came, one of `STOPS`; None for other outcomes."""
    if isinstance(rollout.outcome, Success | Crash):
        return None
    if facts.first_touched is None:
        return STOPS[0]
    if facts.first_lifted is not None:
        return STOPS[4] if facts.first_lifted == facts.named else STOPS[3]
    return STOPS[2] if facts.first_touched == facts.named else STOPS[1]


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("ideomotor", "numpy", "mujoco", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def percentiles(seconds: Sequence[float], batch: int) -> dict[str, Any]:
    """Return p50, p95 and p99 of the time of one inference [ms], the calls, and the rows of each.

    >>> percentiles([0.010, 0.030], 8)
    {'p50': 20.0, 'p95': 29.0, 'p99': 29.8, 'calls': 2, 'batch': 8}
    """
    ordered = sorted(seconds)
    values = {f"p{q}": round(1e3 * _quantile(ordered, q / 100), 6) for q in (50, 95, 99)} if ordered else {}
    return {**values, "calls": len(ordered), "batch": batch}


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
