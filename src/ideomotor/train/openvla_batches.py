"""The data of a fine-tuning run on OpenVLA: any dataset's windows as token sequences, its statistics beside those of the checkpoint.

Frames are kept at the towers' size by Lanczos-3, as OpenVLA's training saw them; what is learned is augmented by its sample number, what is
held out is cropped as in evaluation.

Nothing here imports torch at the top: loader workers import this module.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ideomotor.core.errors import UsageError, UserError, unknown
from ideomotor.core.spec import Embodiment
from ideomotor.data.augment import Augment
from ideomotor.data.cache import open_cache
from ideomotor.data.dataset import Dataset, training_episodes
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.norm_stats import NormStatistics
from ideomotor.data.resize import Evaluation, Trained, centre_crop
from ideomotor.data.windows import Window, WindowSource, split_episodes
from ideomotor.pipeline.openvla import CONFIG, OpenVLAPipeline
from ideomotor.pipeline.openvla_config import NetworkShape, OneByOne
from ideomotor.train.batches import (
    SPLIT_SEED,
    Arrays,
    Data,
    Split,
    all_tasks,
    common_embodiment,
    joint_statistics,
    open_datasets,
    shares,
    spread,
)
from ideomotor.train.config import Lora, TrainConfig, number_of_processes

if TYPE_CHECKING:
    from ideomotor.model.openvla_weights import Source

EVALUATED_TOGETHER = 16  # windows: a large network needs much memory for each
# Options of networks with learned slots, which mean nothing here.
OF_SLOTS = ("preset", "language", "word_noise", "word_dropout", "brightness", "contrast")


@dataclass(frozen=True)
class TokenData(Data):
    """All that a fine-tuning run learns from and is evaluated on."""

    pipeline: OpenVLAPipeline
    checkpoint: Path = Path()  # the base model: a folder, or a file of Prismatic's training
    adapter: Path | None = None  # of a run that goes on


@dataclass(frozen=True)
class Encode:
    """What the loader does with windows; beside the network's arrays it leaves the raw actions, to measure errors in their units."""

    pipeline: OpenVLAPipeline

    def __call__(self, windows: list[Window]) -> Arrays:
        """Return the arrays of a batch."""
        return self.pipeline.encode(windows) | {"raw_actions": np.stack([window.actions for window in windows])}


@dataclass(frozen=True)
class EncodeHeldOut:
    """The same for windows that are only looked at: the centre of each picture, as the policy will see it."""

    encode: Encode

    def __call__(self, windows: list[Window]) -> Arrays:
        """Return the arrays of a batch."""
        arrays, arrival = self.encode(windows), self.encode.pipeline.config.arrival
        if isinstance(arrival, Evaluation) and arrival.crop_area is not None:
            pictures = arrays["images"].reshape(-1, *arrays["images"].shape[2:])
            cropped = np.stack([centre_crop(picture, arrival.crop_area) for picture in pictures])
            arrays["images"] = cropped.reshape(arrays["images"].shape)
        return arrays


class WholeChunks:
    """The windows whose chunk ends before the episode does: what OpenVLA-OFT learns from."""

    def __init__(self, source: WindowSource) -> None:
        self._source = source
        self._windows = whole(source)

    @property
    def name(self) -> str:
        """Names the content."""
        return f"{self._source.name} whole"

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Window:
        return self._source[int(self._windows[index])]


def whole(source: WindowSource) -> np.ndarray:
    """Return the numbers of the windows of a source that hold no action beyond the end of an episode."""
    ends = source.starts[source.episode_of + 1]
    return np.flatnonzero((np.arange(len(source)) + source.horizon <= ends) | (source.chunks is not None))


def load_token_data(config: TrainConfig, start: Path | None) -> TokenData:
    """Open the datasets of a run that starts from the checkpoint in the folder `start`, or goes on from one of its own.

    Raises:
        UserError: data are missing, damaged, or of several embodiments; or the checkpoint cannot be fine-tuned.
        UsageError: the options do not fit.
    """
    from ideomotor.policy.checkpoint import network_shape

    stage = _stage(config)
    checkpoint, adapter = _places(config, start)
    datasets = open_datasets(config.data)
    embodiment = common_embodiment(datasets)
    shape = network_shape(open_source(checkpoint).config)
    before = _pipeline_of(checkpoint if adapter is None else adapter, shape)
    cameras = _cameras(stage, before, embodiment)
    size = before.config.image_size
    splits = tuple(_split(dataset, cameras, size, before.config.chunk.predicted, config) for dataset in datasets)
    pipeline = _fitted(before, embodiment, splits, cameras, config)
    _check_widths(shape, embodiment, checkpoint)
    pipeline.check_network(shape, checkpoint)
    encode = Encode(pipeline)
    one_by_one = isinstance(pipeline.config.output, OneByOne)
    loader = Loader(
        [split.train if one_by_one else WholeChunks(split.train) for split in splits],
        shares(config.weights, splits),
        LoaderConfig(config.batch, config.seed, config.workers, Augment() if stage.augment == "openvla" else None),
        encode,
    )
    held_out = [(d, int(i)) for d, split in enumerate(splits) for i in whole(split.held_out)]
    return TokenData(
        pipeline,
        loader,
        splits,
        spread(held_out, config.validation_windows),
        EncodeHeldOut(encode),
        EVALUATED_TOGETHER,
        checkpoint=checkpoint,
        adapter=adapter,
    )


def open_source(checkpoint: Path) -> "Source":
    """Open the weights of a checkpoint of OpenVLA or OpenVLA-OFT; none of them is read.

    Raises:
        UserError: it is none, or damaged.
    """
    from ideomotor.model.oft_weights import has_components, open_oft
    from ideomotor.model.openvla_weights import open_openvla

    return open_oft(checkpoint) if has_components(checkpoint) else open_openvla(checkpoint)


def _stage(config: TrainConfig) -> Lora:
    """Return the stage, once the other options are known to fit it."""
    assert isinstance(config.stage, Lora), "another stage has data of its own"
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    wrong = [name for name in OF_SLOTS if getattr(config, name) not in (defaults[name], 0.0)]
    if wrong:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise UsageError(
            f"{options}: for networks with learned slots, not for --lora; leave out (pictures are augmented as --stage.augment says)"
        )
    return config.stage


def _places(config: TrainConfig, start: Path | None) -> tuple[Path, Path | None]:
    """Return where the base model is, and the adapter that a run goes on with."""
    from ideomotor.model import lora

    if start is None:
        raise UsageError("--lora fine-tunes an OpenVLA: name its folder with --init")
    if not (start / lora.CONFIG).is_file():
        return start, None
    if start.parent != Path(config.out) / "checkpoints":
        raise UsageError(
            f"--init {start} is an adapter beside its base model; give a merged policy (the folder `final` of a run), or go on with the"
            " run itself: --resume"
        )
    return lora.base_of(start).path, start


def _pipeline_of(start: Path, shape: NetworkShape) -> OpenVLAPipeline:
    """Return the pipeline of a policy or checkpoint; of several datasets' statistics any that fits the network will do here."""
    from ideomotor.model.openvla_weights import Native, recognise

    if (start / CONFIG).is_file():
        return OpenVLAPipeline.load(start)
    layout = recognise(start)
    folder = layout.folder if isinstance(layout, Native) else start
    known = NormStatistics.of_checkpoint(folder)
    fitting = [key for key in known.datasets if _fits(known, key, shape)]
    return OpenVLAPipeline.from_checkpoint(folder, shape, statistics=next(iter(fitting), ""))


def _fits(known: NormStatistics, key: str, shape: NetworkShape) -> bool:
    if shape.action_width not in (None, known.column(key, "action").width):
        return False
    return shape.state_width is None or known.column(key, "proprio").width == shape.state_width


def _cameras(stage: Lora, before: OpenVLAPipeline, embodiment: Embodiment) -> tuple[str, ...]:
    """Return the roles of the cameras that the network sees."""
    known, wanted = tuple(embodiment.cameras_by_role), before.config.cameras
    stated = tuple(name.strip() for name in stage.cameras.split(",") if name.strip())
    for role in stated:
        if role not in known:
            raise unknown("camera of the data", role, known)
    if not stated:
        stated = wanted if set(wanted) <= set(known) else known[: len(wanted)]
    if len(stated) != len(wanted):
        raise UsageError(
            f"this network sees {len(wanted)} images at once; the data have {', '.join(known) or 'none'}. Choose with --stage.cameras"
        )
    return stated


def _split(dataset: Dataset, cameras: Sequence[str], size: int, horizon: int, config: TrainConfig) -> Split:
    episodes = training_episodes(dataset)
    split = split_episodes(len(episodes), config.validation_share, SPLIT_SEED)
    workers = number_of_processes(config.processes)
    frames = open_cache(dataset, cameras, (size, size), workers=workers, method="lanczos3")
    train, held_out = (
        WindowSource(dataset, horizon, [episodes[e] for e in part], frames, labels=[])
        for part in (split.train, split.validation)
    )
    return Split(train, held_out, frames)


def _fitted(
    before: OpenVLAPipeline,
    embodiment: Embodiment,
    splits: Sequence[Split],
    cameras: tuple[str, ...],
    config: TrainConfig,
) -> OpenVLAPipeline:
    """Return the pipeline with the statistics of the training episodes under a key of their own."""
    transitions, trajectories = (
        sum(count) for count in zip(*((len(s.train), len(s.train.episodes)) for s in splits), strict=True)
    )
    entry = before.dataset_entry(embodiment, joint_statistics(splits), transitions, trajectories)
    key = "+".join(dict.fromkeys(dataset_key(split.train.dataset) for split in splits))
    pipeline = before.for_training(embodiment, key, entry, all_tasks(before.tasks, config.tasks))
    arrival = pipeline.config.arrival if _stage(config).augment == "openvla" else Trained(before.config.image_size)
    settings = replace(pipeline.config, cameras=cameras, arrival=arrival)
    return OpenVLAPipeline(settings, embodiment, pipeline.statistics, pipeline.tokenizer, pipeline.notices)


def _check_widths(shape: NetworkShape, embodiment: Embodiment, checkpoint: Path) -> None:
    for what, network, body in (
        ("actions", shape.action_width, len(embodiment.action)),
        ("states", shape.state_width, len(embodiment.state)),
    ):
        if network not in (None, body):
            raise UserError(
                f"{checkpoint} has {what} of {network} numbers, the data ({embodiment.name}) of {body}: the heads of this checkpoint are"
                " made for another body. Convert the data, or start from an OpenVLA without heads"
            )


def dataset_key(dataset: Dataset) -> str:
    """Return the name of a dataset for its statistics: its folder's, or the one above where that is a version."""
    path = dataset.path.resolve()
    return path.parent.name if re.fullmatch(r"v?\d+(\.\d+)+", path.name) else path.name
