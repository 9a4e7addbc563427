"""OpenVLA's statistics: for each dataset that a checkpoint was trained on, the numbers that scale its actions (arXiv 2406.09246).

They stand in `config.json` under `norm_stats`, or in `dataset_statistics.json`:

```
{dataset: {"action": {"mean", "std", "max", "min", "q01", "q99": D numbers each, "mask": D booleans},
           "proprio": {...}, "num_transitions": int, "num_trajectories": int}}
```

The content is kept as it is and written back unchanged; a missing mask means that every number is scaled. Surprise: where a model does
not read the state, "proprio" is zeros of the *action's* width.

D = numbers of an action or a state.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError, UserError, unknown
from ideomotor.core.spec import Embodiment
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.normalize import Bounds
from ideomotor.data.statistics import Statistics, Summary

NUMBERS = ("mean", "std", "max", "min", "q01", "q99")  # in the files' order
FILE, CONFIG, IN_CONFIG = "dataset_statistics.json", "config.json", "norm_stats"
OFT_WIDENING = 1e-8  # what OpenVLA-OFT adds to a range on the way back; OpenVLA adds nothing

Kind = Literal["bounds", "bounds_q99"]  # by smallest and largest value, or by the 1 % and 99 % quantiles
COLUMN = {"action": ACTION, "proprio": STATE}  # their names for our columns


@dataclass(frozen=True)
class Scales:
    """The two directions, each to the reference's letter: constants become 0 on the way there, and nothing is done on the way back."""

    there: Bounds
    back: Bounds


@dataclass(frozen=True)
class Column:
    """The statistics of an action or a state."""

    numbers: Mapping[str, Float[np.ndarray, " D"]]  # those of `NUMBERS` that the file has
    mask: Bool[np.ndarray, " D"]  # False: the number passes unscaled
    where: str  # for messages

    @property
    def width(self) -> int:
        """D."""
        return len(self.mask)

    def __getitem__(self, name: str) -> Float[np.ndarray, " D"]:
        if name not in self.numbers:
            raise UserError(f"{self.where} has no '{name}'; it has {', '.join(self.numbers) or 'nothing'}")
        return self.numbers[name]

    def scales(self, kind: Kind, widening: float = 0.0) -> Scales:
        """Return both directions.

        Raises:
            UserError: a quantile or an extreme that they need is not there.
        """
        low, high = (self["q01"], self["q99"]) if kind == "bounds_q99" else (self["min"], self["max"])
        least, largest = (self.numbers.get(name, bound) for name, bound in (("min", low), ("max", high)))
        varies = np.full(self.width, np.nan)
        constant = np.where(least == largest, least, varies)
        return Scales(
            Bounds(low, high, self.mask, constant),
            Bounds(low, high, self.mask, varies, widening),
        )

    def unmasked(self) -> "Column":
        """Return the same with every number scaled: OpenVLA-OFT does so with states, whatever the file says."""
        return Column(self.numbers, np.ones(self.width, bool), self.where)


@dataclass(frozen=True)
class NormStatistics:
    """The statistics of several datasets, by the key that users give as `--statistics`."""

    datasets: Mapping[str, Any]

    def choose(self, key: str = "") -> str:
        """Return a key that is there; "" stands for the only one.

        Raises:
            UsageError: there is no such dataset, or several to choose from.
        """
        if key in self.datasets:
            return key
        if key:
            raise unknown("statistics", key, self.datasets)
        if len(self.datasets) != 1:
            raise UsageError(
                f"this checkpoint holds the statistics of {len(self.datasets)} datasets, and actions need those of one: choose with"
                f" --statistics: {', '.join(sorted(self.datasets))}"
            )
        return next(iter(self.datasets))

    def column(self, key: str, name: Literal["action", "proprio"]) -> Column:
        """Return the statistics of actions or of states.

        Raises:
            UserError: the dataset has none.
        """
        column = self.datasets[self.choose(key)].get(name)
        if column is None:
            raise UserError(
                f"the statistics of '{key}' have no '{name}'; take those of a dataset that was read with it"
            )
        return _column(column, f"'{name}' of the statistics '{key}'")

    def hash(self, key: str) -> str:
        """SHA-256 over every number of one dataset."""
        return jsonable.fingerprint(self.datasets[key])

    def with_dataset(self, key: str, entry: Mapping[str, Any]) -> "NormStatistics":
        """Return the statistics with one more dataset, or another version of it."""
        return NormStatistics({**self.datasets, key: dict(entry)})

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` was given."""
        return dict(self.datasets)

    @classmethod
    def from_json(cls, value: Any, where: str) -> "NormStatistics":
        """Take the JSON of several datasets; `where` names it in messages.

        Raises:
            UserError: it is something else, its numbers are not finite, or their counts differ.
        """
        if not isinstance(value, dict) or not value:
            raise UserError(f"{where} should hold statistics by dataset; it holds {str(value)[:60]}")
        for key, entry in value.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("action"), dict):
                raise UserError(
                    f"{where}: '{key}' holds no statistics of an action; take the file from the checkpoint again"
                )
            for name in COLUMN:
                if name in entry:
                    _column(entry[name], f"{where}: '{name}' of '{key}'")
        return cls(value)

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "NormStatistics":
        """Read a checkpoint's statistics: `dataset_statistics.json` where it is there, else those in `config.json`.

        Raises:
            UserError: neither has any.
        """
        if (folder / FILE).is_file():
            return cls.from_json(_read_json(folder / FILE), str(folder / FILE))
        config: Any = _read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        stated = config.get(IN_CONFIG) if isinstance(config, dict) else None
        if not stated:
            raise UserError(
                f"{folder} has no statistics: neither {FILE} nor {IN_CONFIG} in {CONFIG}; without them its numbers are no actions."
                f" Put the {FILE} of its training beside the weights."
            )
        return cls.from_json(stated, f"{folder / CONFIG}, {IN_CONFIG}")


def scaled_numbers(embodiment: Embodiment, statistics: Statistics) -> Bool[np.ndarray, " A"]:
    """Return which numbers of an action are scaled: all but an absolute gripper that stays within [-1, 1], as in OpenVLA."""
    action = statistics[ACTION]
    mask = np.ones(len(embodiment.action), bool)
    for i, channel in enumerate(embodiment.action):
        is_gripper = embodiment.gripper is not None and channel.name == embodiment.gripper.channel
        if is_gripper and channel.mode == "absolute" and action.min[i] >= -1.0 and action.max[i] <= 1.0:
            mask[i] = False
    return mask


def entry_of(
    statistics: Statistics, mask: Bool[np.ndarray, " D"], transitions: int, trajectories: int, *, state: bool
) -> dict[str, Any]:
    """Return a dataset's statistics in OpenVLA's form.

    Args:
        statistics: of our columns `action` and `observation.state`.
        mask: which numbers of an action are scaled.
        transitions: frames.
        trajectories: episodes.
        state: whether the network reads the state; if not, `proprio` is zeros of the action's width, as in the reference.
    """
    action = statistics[ACTION]
    proprio = _numbers(statistics[STATE]) if state else {name: [0.0] * len(action.min) for name in NUMBERS}
    return {
        "action": {**_numbers(action), "mask": mask.tolist()},
        "proprio": proprio,
        "num_transitions": transitions,
        "num_trajectories": trajectories,
    }


def _numbers(summary: Summary) -> dict[str, list[float]]:
    return {name: getattr(summary, name).tolist() for name in NUMBERS}


def _column(value: Any, where: str) -> Column:
    try:
        numbers = {name: np.array(value[name], np.float64) for name in NUMBERS if name in value}
        mask = value.get("mask")
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(
            f"{where} should hold lists of numbers ({error}); take the file from the checkpoint again"
        ) from error
    shapes = {array.shape for array in numbers.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not all(np.isfinite(a).all() for a in numbers.values()):
        raise UserError(
            f"{where} should hold lists of equally many finite numbers; take the file from the checkpoint again"
        )
    (width,) = next(iter(shapes))
    if mask is not None and (not isinstance(mask, list) or [type(x) for x in mask] != [bool] * width):
        raise UserError(
            f"{where} has {width} numbers, and its mask should be as many of true and false; it is {str(mask)[:60]}"
        )
    return Column(numbers, np.ones(width, bool) if mask is None else np.array(mask, bool), where)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); take the file from the checkpoint again") from error
