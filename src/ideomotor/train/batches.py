"""The data of a run: datasets, split by episode, as windows in the network's coordinates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import check_same
from ideomotor.data.align import common_layout, describe
from ideomotor.data.cache import AtAccess, FrameCache, open_frames
from ideomotor.data.columns import large_columns
from ideomotor.data.dataset import training_episodes
from ideomotor.data.images import Jitter
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.memory import stated
from ideomotor.data.pooled import Part, Pooled, pooled_statistics
from ideomotor.data.resample import sentences
from ideomotor.data.windows import Window, WindowSource, split_episodes
from ideomotor.model.config import NetworkConfig
from ideomotor.pipeline.bodies import BodiesPipeline, bodies_of
from ideomotor.pipeline.protocol import PolicyPipeline
from ideomotor.pipeline.slots import Pipeline, PipelineConfig
from ideomotor.tokenize.text import TextTokenizer
from ideomotor.train.config import FrozenTower, TrainConfig, Vision, number_of_processes
from ideomotor.train.design import design_network, design_pipeline, preset_sizes
from ideomotor.train.language import choose_language
from ideomotor.train.origin import read_origin
from ideomotor.train.sources import Sources, open_sources

SPLIT_SEED = 0  # the same episodes are held out in all runs on a dataset, so that no stage learns what another tests
EVALUATED_TOGETHER = 64  # windows

Arrays = dict[str, np.ndarray]
Encoder = Callable[[list[Window]], Arrays]
Places = Sequence[tuple[int, int]]  # number of the source, number of the window in it


@dataclass(frozen=True)
class Encode:
    """What the loader does with windows; without pictures where the tower's features are stored."""

    pipeline: Pipeline | BodiesPipeline
    with_images: bool

    def __call__(self, windows: list[Window]) -> Arrays:
        """Return the arrays of a batch."""
        return self.pipeline.encode(windows if self.with_images else [replace(w, images={}) for w in windows])


@dataclass(frozen=True)
class Split:
    """Windows of one dataset, to learn from and held out, and its decoded frames."""

    train: WindowSource
    held_out: WindowSource
    frames: FrameCache | AtAccess


@dataclass(frozen=True)
class Data:
    """All that a run learns from and is evaluated on."""

    pipeline: PolicyPipeline
    loader: Loader  # of the training windows
    splits: tuple[Split, ...]  # one for each dataset
    held_out: Places  # which of the held-out windows are evaluated
    encode: Encoder  # makes arrays of held-out windows; the loader's own augments its batches
    together: int = EVALUATED_TOGETHER  # windows that are evaluated at once

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that decides which sample comes when."""
        return jsonable.fingerprint(self.loader.state(0))

    @property
    def summary(self) -> str:
        """Return the amount of data in a few words."""
        counts = [f"{len(s.train)} windows of {s.train.name.partition('#')[0]}" for s in self.splits]
        return f"{', '.join(counts)}; {len(self.held_out)} validation windows"

    def remarks(self, rank: int, world: int) -> list[str]:
        """Return what else a user should know before the first step: shares, rates, bodies, memory."""
        names = [split.train.name.partition("#")[0] for split in self.splits]
        said = [
            f"shares: {', '.join(f'{n} {100 * s.asked:.2f} %' for n, s in zip(names, self.loader.shares(0), strict=True))}"
        ]
        said += sentences(names, [split.train.resampling for split in self.splits])
        said += [
            f"{name}: decoded frames do not fit the disk; they are decoded at every access, which is slower"
            for name, split in zip(names, self.splits, strict=True)
            if isinstance(split.frames, AtAccess)
        ]
        return [
            *(said if len(names) > 1 else said[1:]),
            stated(self.loader, self.loader.batch(0, rank, world)).sentence,
        ]

    def realized(self, step: int) -> str:
        """Return what share of the samples before a step each dataset gave; empty where there is one."""
        shares = self.loader.shares(step)
        words = [f"{s.name.partition('#')[0]} {100 * s.realized:.2f} % (asked {100 * s.asked:.2f})" for s in shares]
        return f"realized shares: {', '.join(words)}" if len(words) > 1 else ""

    def some(self, count: int) -> Arrays:
        """Return a batch of the first windows, with images."""
        source = self.splits[0].train
        arrays = dict(self.pipeline.encode([source[i % len(source)] for i in range(count)]))
        return arrays | {"sample": np.stack([np.zeros(count, np.int64), np.arange(count) % len(source)], axis=1)}

    def evaluated(self, rank: int, world: int) -> Iterator[Arrays]:
        """Yield the held-out windows of one rank in batches; every rank gets at least one window.

        In `sample`, held-out sources are counted after the training sources.
        """
        mine = [self.held_out[i % len(self.held_out)] for i in range(rank, max(len(self.held_out), world), world)]
        for first in range(0, len(mine), self.together):
            places = mine[first : first + self.together]
            arrays = self.encode([self.splits[d].held_out[i] for d, i in places])
            yield dict(arrays) | {"sample": np.array([(len(self.splits) + d, i) for d, i in places], np.int64)}


@dataclass(frozen=True)
class SlotData(Data):
    """The same for a network with learned output slots."""

    pipeline: Pipeline | BodiesPipeline
    network: NetworkConfig | None = None  # of a start from scratch
    bodies: tuple[str, ...] = ()  # how each of several bodies lies in the network's layout, in words

    def remarks(self, rank: int, world: int) -> list[str]:
        """Return what else a user should know before the first step."""
        return [*self.bodies, *super().remarks(rank, world)]


def load_data(config: TrainConfig, start: Path | None) -> SlotData:
    """Open the datasets of a run, with the pipeline of the policy in the folder `start`, or with a new one.

    Raises:
        UserError: data are missing, damaged, or of another embodiment.
        UsageError: the options do not fit them.
    """
    if config.language and config.init:
        raise UsageError("--init brings its own language model; leave out --language, or start from scratch with it")
    sources = open_sources(config)
    network: NetworkConfig | None = None
    saved: Pipeline | BodiesPipeline | None = None
    if start is None:
        sizes, text = choose_language(preset_sizes(config.preset), config.language)
        network = design_network(sizes, sources.embodiments, sources.datasets, text)
        wanted = design_pipeline(network, sources.embodiments)
    else:
        saved = _saved(start, sources)
        text, wanted = saved.text, saved.config
    wanted = replace(wanted, tasks=all_tasks(wanted.tasks, config.tasks))
    splits = tuple(_split(sources, number, wanted, config) for number in range(len(sources.datasets)))
    kept = saved if saved is not None and start is not None and _knows_actions(start, config) else None
    pipeline = _pipeline(wanted, sources, kept or split_statistics(splits), text)
    encode = Encode(pipeline, with_images=not isinstance(config.stage, FrozenTower))
    loader = Loader(
        [split.train for split in splits],
        sources.shares or shares(config.weights, splits),
        LoaderConfig(config.batch, config.seed, config.workers, Jitter(config.brightness, config.contrast)),
        encode,
    )
    held_out = [(d, i) for d, split in enumerate(splits) for i in range(len(split.held_out))]
    layout = common_layout(sources.embodiments, wanted.cameras)
    bodies = tuple(describe(e, layout) for e in sources.embodiments) if len(sources.bodies) > 1 else ()
    chosen = spread(held_out, config.validation_windows)
    return SlotData(pipeline, loader, splits, chosen, encode, network=network, bodies=bodies)


def _saved(start: Path, sources: Sources) -> Pipeline | BodiesPipeline:
    """Return the pipeline of the policy that a run starts from, which has to know the bodies of the data."""
    saved = BodiesPipeline.load(start) if bodies_of(start) else Pipeline.load(start)
    for number, body in enumerate(sources.bodies):
        part = None if isinstance(saved, Pipeline) and len(sources.bodies) > 1 else saved.part(body.name)
        if part is None:
            raise UserError(
                f"the policy in {start} knows the bodies {', '.join(bodies_of(start)) or saved.embodiment.name}, and not all of the data:"
                f" {', '.join(body.name for body in sources.bodies)}; start from scratch, or from a policy that was trained on it"
            )
        where = sources.datasets[sources.of.index(number)].path
        check_same(part.embodiment, body.embodiment, f"the policy in {start}", f"the data in {where}")
    return saved


def _pipeline(
    wanted: PipelineConfig, sources: Sources, known: Pipeline | BodiesPipeline | Pooled, text: TextTokenizer
) -> Pipeline | BodiesPipeline:
    """Return the pipeline of the bodies of a run, with statistics that are known, or those of the data."""
    parts: dict[str, Pipeline] = {}
    for body in sources.bodies:
        before = None if isinstance(known, Pooled) else known.part(body.name)
        statistics = known.of(body.embodiment) if isinstance(known, Pooled) else (before or known.first).statistics
        parts[body.name] = Pipeline(wanted, body.embodiment, statistics, text)
    return next(iter(parts.values())) if len(parts) == 1 else BodiesPipeline(parts)


def _split(sources: Sources, number: int, wanted: PipelineConfig, config: TrainConfig) -> Split:
    dataset = sources.datasets[number]
    episodes = training_episodes(dataset)
    split = split_episodes(len(episodes), config.validation_share, SPLIT_SEED)
    size = (wanted.image_size, wanted.image_size)
    cameras = [role for role in wanted.cameras if role in dataset.cameras]
    frames = open_frames(dataset, cameras, size, workers=number_of_processes(config.processes))
    labels = [name for name in dataset.features if name.startswith("label.")]
    if not isinstance(config.stage, Vision):  # patch labels are many numbers
        answers = {column for answer in wanted.answers for column in (answer.column, f"{answer.column}_valid")}
        labels = [name for name in labels if name in answers]
    store = large_columns(dataset, labels)
    train, held_out = (
        WindowSource(
            dataset,
            wanted.chunk.predicted,
            [episodes[e] for e in part],
            frames,
            labels,
            rate=config.rate or None,
            store=store,
            body=sources.body(number).name,
        )
        for part in (split.train, split.validation)
    )
    return Split(train, held_out, frames)


def split_statistics(splits: Sequence[Split]) -> Pooled:
    """Return the statistics of the training episodes of each body, actions at the policy's rate."""
    return pooled_statistics([Part(s.train.dataset, s.train.episodes.tolist(), s.train.resampling) for s in splits])


def all_tasks(before: tuple[str, ...], added: str) -> tuple[str, ...]:
    """Return the tasks of a policy with those of a comma-separated list."""
    names = [name.strip() for name in added.split(",") if name.strip()]
    return tuple(dict.fromkeys([*before, *names]))


def _knows_actions(start: Path, config: TrainConfig) -> bool:
    """Tell whether the policy's statistics stay: after the vision stage they are those of the data to come."""
    return isinstance(config.stage, Vision) or read_origin(start) != Vision.__name__


def shares(text: str, splits: Sequence[Split]) -> list[float]:
    """Return the shares of the datasets: as stated, or in proportion to their windows."""
    if not text:
        return [float(len(split.train)) for split in splits]
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(splits):
        raise UsageError(
            f"--weights {text!r} should be {len(splits)} numbers separated by commas, one for each of --data"
        )
    return weights


def spread(places: Places, count: int) -> Places:
    """Return at most `count` of these windows, evenly spread."""
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [places[k] for k in chosen.tolist()]
