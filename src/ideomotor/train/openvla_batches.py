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
from ideomotor.data.cache import open_frames
from ideomotor.data.columns import large_columns
from ideomotor.data.dataset import Dataset, training_episodes
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.norm_stats import NormStatistics
from ideomotor.data.resize import Evaluation, Trained, centre_crop
from ideomotor.data.windows import WholeChunks, Window, WindowSource, split_episodes
from ideomotor.pipeline.bodies import encode_by_body
from ideomotor.pipeline.openvla import CONFIG, OpenVLAPipeline
from ideomotor.pipeline.openvla_config import NetworkShape, OneByOne
from ideomotor.train.batches import (
    SPLIT_SEED,
    Arrays,
    Data,
    Split,
    all_tasks,
    shares,
    split_statistics,
    spread,
)
from ideomotor.train.config import Lora, TrainConfig, number_of_processes
from ideomotor.train.sources import Sources, open_sources

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
    parts: tuple[OpenVLAPipeline, ...] = ()  # of each body, the first is `pipeline`


@dataclass(frozen=True)
class Encode:
    """What the loader does with windows; beside the network's arrays it leaves the raw actions, to measure errors in their units."""

    pipelines: tuple[OpenVLAPipeline, ...]  # of each body
    bodies: tuple[str, ...]  # their names

    def __call__(self, windows: list[Window]) -> Arrays:
        """Return the arrays of a batch; `body` [B] numbers the bodies."""
        body = np.array([self.bodies.index(window.body) for window in windows])
        arrays = encode_by_body(windows, [pipeline.encode for pipeline in self.pipelines], body)
        return arrays | {"raw_actions": np.stack([window.actions for window in windows]), "body": body}


@dataclass(frozen=True)
class EncodeHeldOut:
    """The same for windows that are only looked at: the centre of each picture, as the policy will see it."""

    encode: Encode

    def __call__(self, windows: list[Window]) -> Arrays:
        """Return the arrays of a batch."""
        arrays, arrival = self.encode(windows), self.encode.pipelines[0].config.arrival
        if isinstance(arrival, Evaluation) and arrival.crop_area is not None:
            pictures = arrays["images"].reshape(-1, *arrays["images"].shape[2:])
            cropped = np.stack([centre_crop(picture, arrival.crop_area) for picture in pictures])
            arrays["images"] = cropped.reshape(arrays["images"].shape)
        return arrays


def load_token_data(config: TrainConfig, start: Path | None) -> TokenData:
    """Open the datasets of a run that starts from the checkpoint in the folder `start`, or goes on from one of its own.

    Raises:
        UserError: data are missing, damaged, or of several embodiments; or the checkpoint cannot be fine-tuned.
        UsageError: the options do not fit.
    """
    from ideomotor.policy.checkpoint import network_shape

    stage = _stage(config)
    checkpoint, adapter = _places(config, start)
    sources = open_sources(config)
    shape = network_shape(open_source(checkpoint).config)
    before = _pipeline_of(checkpoint if adapter is None else adapter, shape)
    cameras = _cameras(stage, before, sources.embodiments[0])
    splits = tuple(_split(sources, number, cameras, before, config) for number in range(len(sources.datasets)))
    pipelines = _fitted(before, sources, splits, cameras, config)
    pipeline = pipelines[0]
    for embodiment in sources.embodiments:
        _check_widths(shape, embodiment, checkpoint)
    pipeline.check_network(shape, checkpoint)
    encode = Encode(pipelines, tuple(body.name for body in sources.bodies))
    one_by_one = isinstance(pipeline.config.output, OneByOne)
    loader = Loader(
        [split.train if one_by_one else WholeChunks(split.train) for split in splits],
        sources.shares or shares(config.weights, splits),
        LoaderConfig(config.batch, config.seed, config.workers, Augment() if stage.augment == "openvla" else None),
        encode,
    )
    wholes = [WholeChunks(split.held_out) for split in splits]
    held_out = [(d, whole.window(i)) for d, whole in enumerate(wholes) for i in range(len(whole))]
    return TokenData(
        pipeline,
        loader,
        splits,
        spread(held_out, config.validation_windows),
        EncodeHeldOut(encode),
        EVALUATED_TOGETHER,
        checkpoint=checkpoint,
        adapter=adapter,
        parts=pipelines,
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


def _split(
    sources: Sources, number: int, cameras: Sequence[str], before: OpenVLAPipeline, config: TrainConfig
) -> Split:
    dataset, side = sources.datasets[number], before.config.image_size
    episodes = training_episodes(dataset)
    split = split_episodes(len(episodes), config.validation_share, SPLIT_SEED)
    workers = number_of_processes(config.processes)
    frames = open_frames(dataset, cameras, (side, side), workers=workers, method="lanczos3")
    store = large_columns(dataset, [])
    train, held_out = (
        WindowSource(
            dataset,
            before.config.chunk.predicted,
            [episodes[e] for e in part],
            frames,
            labels=[],
            rate=config.rate or None,
            store=store,
            body=sources.body(number).name,
        )
        for part in (split.train, split.validation)
    )
    return Split(train, held_out, frames)


def _fitted(
    before: OpenVLAPipeline,
    sources: Sources,
    splits: Sequence[Split],
    cameras: tuple[str, ...],
    config: TrainConfig,
) -> tuple[OpenVLAPipeline, ...]:
    """Return the pipeline of each body, with the statistics of its training episodes under a key of their own beside the others'."""
    pooled, keys = split_statistics(splits), dict[str, Embodiment]()
    pipeline, tasks = before, all_tasks(before.tasks, config.tasks)
    for number, body in enumerate(sources.bodies):
        mine = [split for split, of in zip(splits, sources.of, strict=True) if of == number]
        transitions, trajectories = sum(len(s.train) for s in mine), sum(len(s.train.episodes) for s in mine)
        entry = before.dataset_entry(body.embodiment, pooled.of(body.embodiment), transitions, trajectories)
        key = "+".join(dict.fromkeys(dataset_key(split.train.dataset) for split in mine))
        keys[key] = body.embodiment
        pipeline = pipeline.for_training(body.embodiment, key, entry, tasks)
    if len(keys) < len(sources.bodies):
        raise UserError(
            "two datasets of different bodies lie in folders of one name; rename one: statistics are kept by it"
        )
    arrival = pipeline.config.arrival if _stage(config).augment == "openvla" else Trained(before.config.image_size)
    settings = replace(pipeline.config, cameras=cameras, arrival=arrival)
    return tuple(
        OpenVLAPipeline(
            replace(settings, statistics=key),
            embodiment,
            pipeline.statistics,
            pipeline.tokenizer,
            pipeline.notices,
            pipeline.others,
        )
        for key, embodiment in keys.items()
    )


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
