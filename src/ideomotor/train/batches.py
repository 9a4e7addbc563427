"""The data of a run: datasets, split by episode, as windows in the network's coordinates."""

from collections.abc import Iterator, Sequence
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
from ideomotor.pipeline import Pipeline, PipelineConfig
from ideomotor.tokenize.text import TextTokenizer
from ideomotor.train.config import FrozenTower, TrainConfig, Vision, number_of_processes
from ideomotor.train.design import design_network, design_pipeline, embodiment_of
from ideomotor.train.origin import read_origin

SPLIT_SEED = 0  # the same episodes are held out in all runs on a dataset, so that no stage learns what another tests
EVALUATED_TOGETHER = 64  # windows

Arrays = dict[str, np.ndarray]
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

    pipeline: Pipeline
    network: NetworkConfig | None  # of a start from scratch
    loader: Loader  # of the training windows
    splits: tuple[Split, ...]  # one for each dataset
    held_out: Places  # which of the held-out windows are evaluated

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
        arrays = self.pipeline.encode([source[i % len(source)] for i in range(count)])
        return arrays | {"sample": np.stack([np.zeros(count, np.int64), np.arange(count) % len(source)], axis=1)}

    def evaluated(self, rank: int, world: int) -> Iterator[Arrays]:
        """Yield the held-out windows of one rank in batches; every rank gets at least one window.

        In `sample`, held-out sources are counted after the training sources.
        """
        mine = [self.held_out[i % len(self.held_out)] for i in range(rank, max(len(self.held_out), world), world)]
        for first in range(0, len(mine), EVALUATED_TOGETHER):
            places = mine[first : first + EVALUATED_TOGETHER]
            arrays = self.loader.encode([self.splits[d].held_out[i] for d, i in places])
            yield dict(arrays) | {"sample": np.array([(len(self.splits) + d, i) for d, i in places], np.int64)}


def load_data(config: TrainConfig, start: Path | None) -> Data:
    """Open the datasets of a run, with the pipeline of the policy in the folder `start`, or with a new one.

    Raises:
        UserError: data are missing, damaged, or of another embodiment.
        UsageError: the options do not fit them.
    """
    datasets = _open(config.data)
    embodiment = _common_embodiment(datasets)
    network: NetworkConfig | None = None
    saved: Pipeline | None = None
    if start is None:
        text = TextTokenizer.shipped()
        network = design_network(config.preset, embodiment, datasets, text)
        wanted = design_pipeline(network, embodiment)
    else:
        saved = Pipeline.load(start)
        check_same(saved.embodiment, embodiment, f"the policy in {start}", f"the data in {datasets[0].path}")
        text, wanted = saved.text, saved.config
    wanted = replace(wanted, tasks=_all_tasks(wanted.tasks, config.tasks))
    splits = tuple(_split(dataset, wanted, config) for dataset in datasets)
    kept = saved is not None and start is not None and _knows_actions(start, config)
    pipeline = Pipeline(wanted, embodiment, saved.statistics if saved and kept else _statistics(splits), text)
    loader = Loader(
        [split.train for split in splits],
        _weights(config.weights, splits),
        LoaderConfig(config.batch, config.seed, config.workers, Jitter(config.brightness, config.contrast)),
        Encode(pipeline, with_images=not isinstance(config.stage, FrozenTower)),
    )
    return Data(pipeline, network, loader, splits, _spread(splits, config.validation_windows))


def _open(data: str) -> list[Dataset]:
    folders = [name.strip() for name in data.split(",") if name.strip()]
    if not folders:
        raise UsageError("--data is empty; name one or more folders of datasets, separated by commas")
    return [open_dataset(folder) for folder in folders]


def _common_embodiment(datasets: Sequence[Dataset]) -> Embodiment:
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


def _statistics(splits: Sequence[Split]) -> Statistics:
    """Return the statistics of all training episodes together."""
    each = [training_statistics(s.train.dataset, s.train.episodes.tolist()) for s in splits]  # refuses NaN by its place
    if len(each) == 1:
        return each[0]
    state = np.concatenate([s.train.state for s in splits])
    actions = np.concatenate([s.train.actions for s in splits])
    return Statistics({STATE: summarize(state), ACTION: summarize(actions)})


def _all_tasks(before: tuple[str, ...], added: str) -> tuple[str, ...]:
    names = [name.strip() for name in added.split(",") if name.strip()]
    return tuple(dict.fromkeys([*before, *names]))


def _knows_actions(start: Path, config: TrainConfig) -> bool:
    """Tell whether the policy's statistics stay: after the vision stage they are those of the data to come."""
    return isinstance(config.stage, Vision) or read_origin(start) != Vision.__name__


def _weights(text: str, splits: Sequence[Split]) -> list[float]:
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


def _spread(splits: Sequence[Split], count: int) -> Places:
    """Return at most `count` held-out windows, evenly spread."""
    places = [(d, i) for d, split in enumerate(splits) for i in range(len(split.held_out))]
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [places[k] for k in chosen.tolist()]
