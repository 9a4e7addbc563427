"""Statistics of dataset columns: float64, exact moments, true quantiles, refusing what is not finite.

Other writers estimate the deviation as E[x^2] - E[x]^2 in float32 and merge the quantiles of episodes; both can be off by more than the
data's range. Memory does not grow with the number of frames (data/rows.py).

F = frames, D = channels.
"""

import contextlib
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from tqdm import tqdm

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.data.cache import user_cache
from ideomotor.data.dataset import ACTION, STATE, Dataset, training_episodes
from ideomotor.data.rows import IN_MEMORY, NARROW, Rows, Tell, nothing, order_statistics

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
BLOCK = 1 << 22  # numbers that are sorted at once; bounds the memory
CACHE_FORMAT = 2


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
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(open_rows([(dataset, episodes)], name)) for name in columns}
        frames = sum(dataset.length(episode) for episode in episodes)
        tell = stack.enter_context(progress_bar(frames, str(dataset.path.name)))
        for episode in episodes:
            for name, rows in opened.items():
                append_column(rows, dataset, episode, name)
            tell(dataset.length(episode))
        return Statistics({name: summarize_rows(rows) for name, rows in opened.items()})


def open_rows(sources: Sequence[tuple[Dataset, Sequence[int]]], name: str, share: int = 1) -> Rows:
    """Return an empty store for a column of some episodes of these datasets, one of `share` stores that are open together.

    Raises:
        UserError: the column holds text, or the datasets' widths differ.
    """
    read = {str(dataset.path): dataset.column(_first(dataset, e), name) for dataset, e in sources if len(e)}
    widths = {int(np.prod(values.shape[1:])) for values in read.values()}
    if len(widths) != 1 or any(values.dtype.kind not in "fiub" for values in read.values()):
        held = ", ".join(f"{path}: {values.shape[1:]} {values.dtype}" for path, values in read.items())
        raise UserError(f"statistics of '{name}' need numbers, equally many of each dataset; there are {held}")
    dtype = "float32" if all(values.dtype.name in NARROW for values in read.values()) else "float64"
    folder = user_cache() / "statistics"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no cache can be kept
        folder = None
    return Rows(widths.pop(), dtype, folder, IN_MEMORY // share)


def _first(dataset: Dataset, episodes: Sequence[int]) -> int:
    return next((episode for episode in episodes if dataset.length(episode)), episodes[0])


def append_column(rows: Rows, dataset: Dataset, episode: int, name: str) -> None:
    """Add an episode's values.

    Raises:
        UserError: one is not finite, they are more or fewer than the dataset states, or there is no space.
    """
    where = f"{dataset.path}, column '{name}', episode {episode}"
    values = dataset.column(episode, name)
    values_FD = values.reshape(len(values), -1) if len(values) else values.reshape(0, rows.width)
    if values_FD.shape[1] != rows.width:
        raise UserError(
            f"{where} has {values_FD.shape[1]} numbers a frame, and {rows.width} are stated; `ideomotor data check` tells more"
        )
    check_finite(values_FD, where)
    rows.append(values_FD)


def summarize_rows(rows: Rows, tell: Tell = nothing) -> Summary:
    """Return the statistics of rows, of which there is at least one; quantiles are numpy's linear ones.

    Raises:
        UserError: values so large that their squares are none, or no space.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        moments = rows.finished()
        if not np.isfinite(moments.std).all():
            largest = float(np.maximum(-moments.low, moments.high).max())
            raise UserError(
                f"a column holds values up to {largest:g}, of which no deviation can be computed; remove them"
            )
    below, above, fraction = _places(moments.count)
    places = np.unique(np.concatenate([below, above]))
    values_RD = order_statistics(rows, places.tolist(), tell)
    left, right = values_RD[np.searchsorted(places, below)], values_RD[np.searchsorted(places, above)]
    quantiles = np.clip(left + (right - left) * fraction[:, None], moments.low, moments.high)
    return Summary(moments.count, moments.low, moments.high, moments.mean, moments.std, *quantiles)


@contextlib.contextmanager
def progress_bar(frames: int, name: str) -> Generator[Tell]:
    """Yield what counts rows on a bar; it is not seen where the work is short."""
    with tqdm(total=frames, desc=f"statistics of {name}", unit=" frames", disable=None, leave=False, delay=1) as bar:
        yield bar.update


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


def _summarize_block(values_FD: np.ndarray) -> tuple[np.ndarray, ...]:
    sorted_DF = np.sort(np.ascontiguousarray(values_FD.T), axis=1)
    low, high = sorted_DF[:, 0].astype(np.float64), sorted_DF[:, -1].astype(np.float64)
    exact_DF = sorted_DF.astype(np.float64)
    mean = exact_DF.mean(1)
    mean = np.clip(mean + (exact_DF - mean[:, None]).mean(1), low, high)
    std = np.where(low == high, 0.0, np.sqrt(((exact_DF - mean[:, None]) ** 2).mean(1)))
    below, above, fraction = _places(exact_DF.shape[1])
    left, right = exact_DF[:, below], exact_DF[:, above]
    quantiles = np.clip(left + (right - left) * fraction, low[:, None], high[:, None])
    return (low, high, mean, std, *quantiles.T)


def _places(count: int) -> tuple[Int64[np.ndarray, " Q"], Int64[np.ndarray, " Q"], Float64[np.ndarray, " Q"]]:
    """Return between which places of the sorted order the quantiles lie, and how far from the first to the second."""
    place = np.array(QUANTILES) * (count - 1)
    below = np.floor(place).astype(np.int64)
    return below, np.minimum(below + 1, count - 1), place - below


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
