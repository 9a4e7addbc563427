"""Statistics of a mixture: one for each meaning of an action and of a state, over all datasets that share it.

Datasets share an action's statistics where robot, channels, units, frames, modes, rotation and gripper are the same (`action_key`), and a
state's where the same holds for it (`state_key`). Values are pooled exactly, as if they lay in one dataset: moments are merged, quantiles are
those of all values. The order of the datasets does not matter, and what was computed for equal content is found again.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ideomotor.core import files, jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.core.spec import Embodiment
from ideomotor.data.cache import user_cache
from ideomotor.data.dataset import ACTION, STATE, Dataset
from ideomotor.data.meaning.specification import action_key, state_key
from ideomotor.data.resample import Resampling, resample
from ideomotor.data.rows import Rows
from ideomotor.data.statistics import (
    CACHE_FORMAT,
    Statistics,
    Summary,
    append_column,
    check_finite,
    open_rows,
    progress_bar,
    summarize_rows,
)

FORMAT = 2  # of the JSON of several meanings; that of one has none, and is that of `Statistics`
NO_NUMBERS = Summary(0, *(np.zeros(0) for _ in range(9)))  # of a state that is not there


@dataclass(frozen=True)
class Part:
    """The episodes of one dataset that count: those that are learned from."""

    dataset: Dataset
    episodes: Sequence[int]
    resampling: Resampling | None = (
        None  # of the actions, to the policy's rate: the network is to give what comes out of it
    )

    @property
    def embodiment(self) -> Embodiment:
        """What the dataset's numbers mean.

        Raises:
            UserError: it does not say.
        """
        if self.dataset.embodiment is None:
            raise UserError(
                f"{self.dataset.path} does not say what its numbers mean, so that they cannot be pooled; give --embodiment FILE"
            )
        return self.dataset.embodiment

    @property
    def content(self) -> list[Any]:
        """Names the values."""
        how = [] if self.resampling is None else [repr(self.resampling)]
        return [self.dataset.content_hash, [int(e) for e in self.episodes], *how]


@dataclass(frozen=True)
class Group:
    """A column of one meaning, and the parts that hold it."""

    column: str
    key: str
    parts: tuple[Part, ...]

    @property
    def cache(self) -> Path:
        """Where its statistics are kept."""
        name = jsonable.fingerprint([CACHE_FORMAT, self.column, [part.content for part in self.parts]])
        return user_cache() / "statistics" / f"{name[:32]}.json"


@dataclass(frozen=True)
class Pooled:
    """The statistics of actions by `action_key` and of states by `state_key`."""

    actions: Mapping[str, Summary]
    states: Mapping[str, Summary]
    datasets: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])  # names by action key

    def of(self, embodiment: Embodiment) -> Statistics:
        """Return the statistics that scale the numbers of an embodiment, as the columns `action` and `observation.state`.

        Raises:
            UserError: no dataset of the mixture has its meaning.
        """
        found: dict[str, Summary] = {}
        for name, key, known in (
            (ACTION, action_key(embodiment), self.actions),
            (STATE, state_key(embodiment), self.states),
        ):
            if key not in known:
                raise UserError(
                    f"there are no statistics of '{name}' for the embodiment '{embodiment.name}' (key {key[:12]}): of the data that were"
                    f" learned from, none has its meaning. Known: {self._known()}"
                )
            found[name] = known[key]
        return Statistics({STATE: found[STATE], ACTION: found[ACTION]})

    @property
    def hash(self) -> str:
        """SHA-256 over every number and key."""
        return jsonable.fingerprint([_by_key(self.actions), _by_key(self.states)])

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: of one meaning those of `Statistics`, of several every one under its key."""
        if len(self.actions) == len(self.states) == 1:
            (state,), (action,) = self.states.values(), self.actions.values()
            return Statistics({STATE: state, ACTION: action}).to_json()
        return {
            "format": FORMAT,
            "actions": _by_key(self.actions),
            "states": _by_key(self.states),
            "datasets": {key: list(names) for key, names in self.datasets.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], embodiment: Embodiment, where: str) -> "Pooled":
        """Undo `to_json`.

        Args:
            value: of either form.
            embodiment: whose keys the form of one meaning belongs to, which does not name them.
            where: names the file.

        Raises:
            UserError: something is missing or of another type.
        """
        if "format" not in value:
            one = Statistics.from_json(value, where)
            return cls({action_key(embodiment): one[ACTION]}, {state_key(embodiment): one[STATE]})
        if value["format"] != FORMAT:
            raise unknown(f"format of {where}", str(value["format"]), [str(FORMAT)])
        try:
            actions, states = (Statistics.from_json(value[name], where).columns for name in ("actions", "states"))
            datasets = {key: tuple(map(str, names)) for key, names in value.get("datasets", {}).items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where} holds no statistics ({error!r}); compute them again") from error
        return cls(actions, states, datasets)

    def _known(self) -> str:
        return ", ".join(f"{key[:12]} ({', '.join(self.datasets.get(key, ('?',)))})" for key in self.actions) or "none"


def pooled_statistics(parts: Sequence[Part]) -> Pooled:
    """Return the statistics of the parts, one for each meaning; computed once for equal content.

    Raises:
        UserError: a dataset that does not say what its numbers mean, a value that is not finite, or no frames at all.
    """
    for part in parts:
        if sum(part.dataset.length(int(episode)) for episode in part.episodes) == 0:
            raise UserError(
                f"{part.dataset.path}: the {len(part.episodes)} chosen episodes hold no frames; choose others or record some"
            )
    ordered = sorted(parts, key=lambda part: jsonable.canonical(part.content))  # rounding follows the order
    groups = [*_groups(ordered, ACTION), *_groups(ordered, STATE)]
    found = {(group.column, group.key): summary for group in groups if (summary := _kept(group)) is not None}
    for together in _components([group for group in groups if (group.column, group.key) not in found]):
        found |= _compute(together)
    names = {
        group.key: tuple(sorted(_name(part) for part in group.parts)) for group in groups if group.column == ACTION
    }
    return Pooled(
        actions={key: summary for (column, key), summary in sorted(found.items()) if column == ACTION},
        states={key: summary for (column, key), summary in sorted(found.items()) if column == STATE},
        datasets=names,
    )


def _groups(parts: Sequence[Part], column: str) -> list[Group]:
    by_key: dict[str, list[Part]] = {}
    for part in parts:
        by_key.setdefault((action_key if column == ACTION else state_key)(part.embodiment), []).append(part)
    return [Group(column, key, tuple(members)) for key, members in by_key.items()]


def _components(groups: Sequence[Group]) -> list[list[Group]]:
    """Return groups that share datasets together, so that each dataset is read once."""
    components: list[list[Group]] = []
    for group in groups:
        mine = {id(part) for part in group.parts}
        touching = [c for c in components if any(id(part) in mine for other in c for part in other.parts)]
        components = [c for c in components if c not in touching] + [[*(g for c in touching for g in c), group]]
    return components


def _compute(groups: Sequence[Group]) -> dict[tuple[str, str], Summary]:
    """Read the parts of these groups once, and summarize every group."""
    found = {(group.column, group.key): NO_NUMBERS for group in groups if _width(group) == 0}
    counted = [group for group in groups if (group.column, group.key) not in found]
    parts = {id(part): part for group in counted for part in group.parts}
    frames = sum(part.dataset.length(int(e)) for part in parts.values() for e in part.episodes)
    title = (
        _name(next(iter(parts.values()))) + (f" and {len(parts) - 1} more" if len(parts) > 1 else "") if parts else ""
    )
    with contextlib.ExitStack() as stack:
        opened = [(group, stack.enter_context(_open(group, len(counted)))) for group in counted]
        tell = stack.enter_context(progress_bar(frames, title))
        for identity, part in parts.items():
            mine = [(group, rows) for group, rows in opened if any(id(p) == identity for p in group.parts)]
            for episode in map(int, part.episodes):
                for group, rows in mine:
                    _append(rows, part, episode, group.column)
                tell(part.dataset.length(episode))
        for group, rows in opened:
            found[group.column, group.key] = summary = summarize_rows(rows)
            with contextlib.suppress(OSError):  # a cache only
                files.write_json(group.cache, {group.column: summary.to_json()})
    return found


def _width(group: Group) -> int:
    """Return how many numbers the specification states; a state may have none."""
    embodiment = group.parts[0].embodiment
    return len(embodiment.action if group.column == ACTION else embodiment.state)


def _open(group: Group, share: int) -> Rows:
    rows = open_rows([(part.dataset, part.episodes) for part in group.parts], group.column, share)
    if rows.width != _width(group):
        rows.close()
        names = ", ".join(_name(part) for part in group.parts)
        raise UserError(
            f"{names}: the embodiment states {_width(group)} channels of '{group.column}', the data hold {rows.width}; correct it"
        )
    return rows


def _append(rows: Rows, part: Part, episode: int, column: str) -> None:
    """Add an episode's values, actions at the policy's rate: as its chunks have them, steps that begin after the end left out."""
    if part.resampling is None or column != ACTION:
        append_column(rows, part.dataset, episode, column)
        return
    values = part.dataset.column(episode, column)
    check_finite(values, f"{part.dataset.path}, column '{column}', episode {episode}")
    if len(values):
        new = -(-len(values) * part.resampling.step.denominator // part.resampling.step.numerator)
        resampled, beyond = resample(values, None, part.resampling, new)
        rows.append(resampled[~beyond])


def _kept(group: Group) -> Summary | None:
    with contextlib.suppress(OSError, ValueError):  # a cache only: absent or damaged, it is made again
        return Statistics.from_json(json.loads(group.cache.read_bytes()), str(group.cache))[group.column]
    return None


def _by_key(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return Statistics(dict(sorted(summaries.items()))).to_json()


def _name(part: Part) -> str:
    return part.dataset.path.resolve().name
