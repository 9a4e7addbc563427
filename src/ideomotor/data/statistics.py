"""Statistics of dataset columns: float64, two passes, true quantiles, refusing what is not finite.

Other writers estimate the deviation as E[x^2] - E[x]^2 in float32 and merge the quantiles of episodes
(formats-and-protocols.md, D5 to D8); both can be off by more than the data's range.

F = frames, D = channels.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.data.cache import user_cache
from ideomotor.data.dataset import ACTION, STATE, Dataset, training_episodes

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
BLOCK = 1 << 22  # numbers that are sorted at once; bounds the memory
CACHE_FORMAT = 1


@dataclass(frozen=True)
class Summary:
    """The statistics of one column, per channel."""

    count: int  # frames
    min: Float[np.ndarray, " D"]
    max: Float[np.ndarray, " D"]
    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]  # of the population (division by F)
    q01: Float[np.ndarray, " D"]
    q10: Float[np.ndarray, " D"]
    q50: Float[np.ndarray, " D"]
    q90: Float[np.ndarray, " D"]
    q99: Float[np.ndarray, " D"]

    @property
    def constant(self) -> list[int]:
        """The channels that never change; normalization maps them to 0 and back to their constant."""
        return np.flatnonzero(self.min == self.max).tolist()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {f.name: self.count if f.name == "count" else getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Summary":
        """Undo `to_json`."""
        return cls(
            count=value["count"], **{f.name: np.array(value[f.name], float) for f in fields(cls) if f.name != "count"}
        )


@dataclass(frozen=True)
class Statistics:
    """The statistics of several columns of one dataset."""

    columns: Mapping[str, Summary]

    def __getitem__(self, name: str) -> Summary:
        if name not in self.columns:
            raise unknown("statistics of column", name, self.columns)
        return self.columns[name]

    @property
    def hash(self) -> str:
        """SHA-256 over every number."""
        return jsonable.fingerprint(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: summary.to_json() for name, summary in self.columns.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> "Statistics":
        """Undo `to_json`.

        Raises:
            UserError: something is missing or of another type; `where` names the file.
        """
        try:
            return cls({name: Summary.from_json(summary) for name, summary in value.items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where} holds no statistics ({error!r}); compute them again") from error


def training_statistics(
    dataset: Dataset, episodes: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> Statistics:
    """Return the statistics of the training split (or of `episodes`), by default of state and action.

    They are kept in the user's cache, by the hash of the dataset's content.

    Raises:
        UserError: a value that is not finite, or no frames at all.
    """
    chosen = list(training_episodes(dataset) if episodes is None else episodes)
    names = [name for name in (STATE, ACTION) if name in dataset.features] if columns is None else list(columns)
    key = hashlib.sha256(jsonable.canonical([CACHE_FORMAT, dataset.content_hash, chosen, names]).encode()).hexdigest()
    path = user_cache() / "statistics" / f"{key[:32]}.json"
    with contextlib.suppress(OSError, ValueError):  # a cache only: absent or damaged, it is made again
        return Statistics.from_json(json.loads(path.read_bytes()), str(path))
    statistics = compute(dataset, chosen, names)
    with contextlib.suppress(OSError):  # a cache only
        files.write_json(path, statistics.to_json())
    return statistics


def compute(dataset: Dataset, episodes: Sequence[int], columns: Sequence[str]) -> Statistics:
    """Return the statistics of the named columns over these episodes.

    Raises:
        UserError: a value that is not finite (column, episode and frame are named), or no frames at all.
    """
    if sum(dataset.length(episode) for episode in episodes) == 0:
        raise UserError(
            f"{dataset.path}: the {len(episodes)} chosen episodes hold no frames; choose others or record some"
        )
    summaries: dict[str, Summary] = {}
    for name in columns:
        values = [_rows(dataset.column(episode, name)) for episode in episodes]
        for episode, value_FD in zip(episodes, values, strict=True):
            check_finite(value_FD, f"{dataset.path}, column '{name}', episode {episode}")
        summaries[name] = summarize(np.concatenate(values))
    return Statistics(summaries)


def summarize(values_FD: np.ndarray) -> Summary:
    """Return the statistics of finite values; quantiles are numpy's linear ones, and never leave [min, max]."""
    count, width = values_FD.shape
    block = max(1, BLOCK // count)
    parts = [_summarize_block(values_FD[:, d : d + block]) for d in range(0, width, block)]
    return Summary(count, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def check_finite(values_FD: np.ndarray, where: str) -> None:
    """Refuse NaN and infinities.

    Raises:
        UserError: names the first frame and channel.
    """
    if np.issubdtype(values_FD.dtype, np.floating) and not np.isfinite(values_FD).all():
        frame, channel = np.argwhere(~np.isfinite(values_FD.reshape(len(values_FD), -1)))[0].tolist()
        value = values_FD.reshape(len(values_FD), -1)[frame, channel]
        raise UserError(
            f"{where}, frame {frame}, channel {channel} is {value}; only finite values are allowed. Remove the episode or record"
            " it again (`ideomotor data check` lists all such values)"
        )


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _summarize_block(values_FD: np.ndarray) -> tuple[np.ndarray, ...]:
    sorted_DF = np.sort(np.ascontiguousarray(values_FD.T), axis=1)
    low, high = sorted_DF[:, 0].astype(np.float64), sorted_DF[:, -1].astype(np.float64)
    exact_DF = sorted_DF.astype(np.float64)
    mean = exact_DF.mean(1)
    mean = np.clip(mean + (exact_DF - mean[:, None]).mean(1), low, high)
    std = np.where(low == high, 0.0, np.sqrt(((exact_DF - mean[:, None]) ** 2).mean(1)))
    place = np.array(QUANTILES) * (exact_DF.shape[1] - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, exact_DF.shape[1] - 1)
    left, right = exact_DF[:, below], exact_DF[:, above]
    quantiles = np.clip(left + (right - left) * (place - below), low[:, None], high[:, None])
    return (low, high, mean, std, *quantiles.T)


def image_summary(images: Sequence[np.ndarray]) -> Summary:
    """Return the statistics of uint8 images per colour, in [0, 1]: the pixels are counted, so nothing is estimated."""
    pixels_PC = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    counts = [np.bincount(pixels_PC[:, c], minlength=256) for c in range(pixels_PC.shape[1])]
    return histogram_summary(np.stack(counts), len(images))


def histogram_summary(counts_CV: np.ndarray, count: int) -> Summary:
    """Return the statistics of colours counted by their value 0 to 255, in [0, 1]."""
    values, total = np.arange(256) / 255.0, int(counts_CV[0].sum())
    cumulative = np.cumsum(counts_CV, axis=1)
    mean = counts_CV @ values / total
    std = np.sqrt((counts_CV * (values - mean[:, None]) ** 2).sum(1) / total)
    order = [values[[int(np.searchsorted(row, rank + 1)) for row in cumulative]] for rank in (0, total - 1)]
    quantiles: list[np.ndarray] = []
    for q in QUANTILES:
        place = q * (total - 1)
        rank = int(place)
        left, right = (
            values[[int(np.searchsorted(row, min(r, total - 1) + 1)) for row in cumulative]] for r in (rank, rank + 1)
        )
        quantiles.append(left + (right - left) * (place - rank))
    return Summary(count, order[0], order[1], mean, std, *quantiles)


def lerobot_json(summary: Summary, *, image: bool) -> dict[str, Any]:
    """Return the form of `meta/stats.json`: the count as a list, image statistics of shape (3, 1, 1)."""
    value = summary.to_json()
    shaped = {name: [[[x]] for x in v] if image else v for name, v in value.items() if name != "count"}
    return {**shaped, "count": [summary.count]}
