"""The data of a run: datasets, split by episode, as windows in the network's coordinates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError
from ideomotor.core.spec import Embodiment, check_same
from ideomotor.data.cache import FrameCache, open_cache
from ideomotor.data.dataset import ACTION, STATE, Dataset, open_dataset, training_episodes
from ideomotor.data.images import Jitter
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.statistics import Statistics, summarize, training_statistics
from ideomotor.data.windows import Window, WindowSource, split_episodes
from ideomotor.model.config import NetworkConfig
from ideomotor.pipeline.protocol import PolicyPipeline
from ideomotor.pipeline.slots import Pipeline, PipelineConfig
from ideomotor.train.config import FrozenTower, TrainConfig, Vision, number_of_processes
from ideomotor.train.design import design_network, design_pipeline, embodiment_of, preset_sizes
from ideomotor.train.language import choose_language
from ideomotor.train.origin import read_origin

SPLIT_SEED = 0  # the same episodes are held out in all runs on a dataset, so that no stage learns what another tests
EVALUATED_TOGETHER = 64  # windows

Arrays = dict[str, np.ndarray]
Encoder = Callable[[list[Window]], Arrays]
Places = Sequence[tuple[int, int]]  # number of the source, number of the window in it


@dataclass(frozen=True)
class Encode:
    """What the loader does with windows; without pictures where the tower's features are stored."""

    pipeline: Pipeline
    with_images: bool

    def __call__(self, windows: list[Window]) -> Arrays:
        """Return the arrays of a batch."""
        return self.pipeline.encode(windows if self.with_images else [replace(w, images={}) for w in windows])


@dataclass(frozen=True)
class Split:
    """Windows of one dataset, to learn from and held out, and its decoded frames."""

    train: WindowSource
    held_out: WindowSource
    frames: FrameCache


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

    pipeline: Pipeline
    network: NetworkConfig | None = None  # of a start from scratch


def load_data(config: TrainConfig, start: Path | None) -> SlotData:
    """Open the datasets of a run, with the pipeline of the policy in the folder `start`, or with a new one.

    Raises:
        UserError: data are missing, damaged, or of another embodiment.
        UsageError: the options do not fit them.
    """
    if config.language and config.init:
        raise UsageError("--init brings its own language model; leave out --language, or start from scratch with it")
    datasets = open_datasets(config.data)
    embodiment = common_embodiment(datasets)
    network: NetworkConfig | None = None
    saved: Pipeline | None = None
    if start is None:
        sizes, text = choose_language(preset_sizes(config.preset), config.language)
        network = design_network(sizes, embodiment, datasets, text)
        wanted = design_pipeline(network, embodiment)
    else:
        saved = Pipeline.load(start)
        check_same(saved.embodiment, embodiment, f"the policy in {start}", f"the data in {datasets[0].path}")
        text, wanted = saved.text, saved.config
    wanted = replace(wanted, tasks=all_tasks(wanted.tasks, config.tasks))
    splits = tuple(_split(dataset, wanted, config) for dataset in datasets)
    kept = saved is not None and start is not None and _knows_actions(start, config)
    pipeline = Pipeline(wanted, embodiment, saved.statistics if saved and kept else joint_statistics(splits), text)
    encode = Encode(pipeline, with_images=not isinstance(config.stage, FrozenTower))
    loader = Loader(
        [split.train for split in splits],
        shares(config.weights, splits),
        LoaderConfig(config.batch, config.seed, config.workers, Jitter(config.brightness, config.contrast)),
        encode,
    )
    held_out = [(d, i) for d, split in enumerate(splits) for i in range(len(split.held_out))]
    return SlotData(pipeline, loader, splits, spread(held_out, config.validation_windows), encode, network=network)


def open_datasets(data: str) -> list[Dataset]:
    """Open the folders of a comma-separated list.

    Raises:
        UserError: one of them cannot be read.
    """
    folders = [name.strip() for name in data.split(",") if name.strip()]
    if not folders:
        raise UsageError("--data is empty; name one or more folders of datasets, separated by commas")
    return [open_dataset(folder) for folder in folders]


def common_embodiment(datasets: Sequence[Dataset]) -> Embodiment:
    """Return what the numbers of all datasets mean.

    Raises:
        UserError: they mean different things.
    """
    first = embodiment_of(datasets[0])
    for dataset in datasets[1:]:
        check_same(embodiment_of(dataset), first, str(dataset.path), str(datasets[0].path))
    return first


def _split(dataset: Dataset, wanted: PipelineConfig, config: TrainConfig) -> Split:
    episodes = training_episodes(dataset)
    split = split_episodes(len(episodes), config.validation_share, SPLIT_SEED)
    size = (wanted.image_size, wanted.image_size)
    frames = open_cache(dataset, wanted.cameras, size, workers=number_of_processes(config.processes))
    labels = [name for name in dataset.features if name.startswith("label.")]
    if not isinstance(config.stage, Vision):  # patch labels are many numbers
        answers = {column for answer in wanted.answers for column in (answer.column, f"{answer.column}_valid")}
        labels = [name for name in labels if name in answers]
    train, held_out = (
        WindowSource(dataset, wanted.chunk.predicted, [episodes[e] for e in part], frames, labels)
        for part in (split.train, split.validation)
    )
    return Split(train, held_out, frames)


def joint_statistics(splits: Sequence[Split]) -> Statistics:
    """Return the statistics of all training episodes together."""
    each = [training_statistics(s.train.dataset, s.train.episodes.tolist()) for s in splits]  # refuses NaN by its place
    if len(each) == 1:
        return each[0]
    state = np.concatenate([s.train.state for s in splits])
    actions = np.concatenate([s.train.actions for s in splits])
    return Statistics({STATE: summarize(state), ACTION: summarize(actions)})


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
