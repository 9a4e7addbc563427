"""Opening OpenVLA checkpoints of any layout: the weights, of which none is read yet, and the pipeline that belongs to them."""

from dataclasses import replace
from pathlib import Path
from typing import assert_never

from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import Embodiment
from ideomotor.data.norm_stats import NormStatistics
from ideomotor.data.resize import Arrival, Direct, Evaluation, Trained
from ideomotor.model.config import Autoregressive, OpenVLAConfig, Parallel, TokenHead
from ideomotor.model.lora import base_of
from ideomotor.model.oft_weights import OftFacts, has_components, open_oft
from ideomotor.model.openvla_weights import Adapter, HuggingFace, Layout, Native, Own, Source, open_openvla
from ideomotor.pipeline.openvla import CONFIG, OpenVLAPipeline
from ideomotor.pipeline.openvla_config import NetworkShape, Output, SlotIds, SlotNumbers
from ideomotor.policy.options import GUESS, PolicyOptions


def open_checkpoint(layout: Layout, options: PolicyOptions) -> tuple[Source, OpenVLAPipeline]:
    """Open an OpenVLA checkpoint of any layout: its weights, of which none is read yet, and its pipeline.

    Raises:
        UserError: files are missing or damaged, or do not fit together.
    """
    match layout:
        case Own(folder) | HuggingFace(folder):
            source = _source(folder, options)
        case Native(file, folder):
            source = open_openvla(file)
        case Adapter(folder):
            source = _source(base_of(folder).path, options)
        case _:
            assert_never(layout)
    return source, _pipeline(layout, folder, source.config, options)


def _source(folder: Path, options: PolicyOptions) -> Source:
    """Open the weights of a folder, with the components of OFT where there are some."""
    facts = OftFacts(options.horizon or None, options.cameras or None)
    if has_components(folder):
        return open_oft(folder, facts=facts)
    if not options.horizon:
        if options.cameras:
            raise UsageError(
                f"{folder} is an OpenVLA, which sees one camera; leave out --cameras, or give --horizon too"
            )
        return open_openvla(folder)
    statistics = NormStatistics.of_checkpoint(folder)  # OFT without a head: nothing but the user tells it from OpenVLA
    width = statistics.column(statistics.choose(options.statistics), "action").width
    return open_oft(folder, facts=replace(facts, action_width=width))


def _pipeline(layout: Layout, folder: Path, config: OpenVLAConfig, options: PolicyOptions) -> OpenVLAPipeline:
    shape = network_shape(config)
    stated = options.embodiment if options.embodiment != GUESS else ""
    embodiment = read_embodiment(Path(stated)) if stated else None
    if (folder / CONFIG).is_file():
        pipeline = OpenVLAPipeline.load(folder).using(options.statistics, embodiment)
        pipeline.check_network(shape, folder)
    elif isinstance(layout, Adapter):
        raise UserError(
            f"{folder} is an adapter without {CONFIG}: it does not say how actions are scaled; merge it into its base with"
            " `ideomotor weights convert`, and put the dataset_statistics.json of its training beside the result"
        )
    else:
        pipeline = OpenVLAPipeline.from_checkpoint(folder, shape, options.statistics, embodiment)
    arrival = _arrival(options, shape.image_size)
    return pipeline if arrival is None else pipeline.using(arrival=arrival)


def network_shape(config: OpenVLAConfig) -> NetworkShape:
    """Return what a network's configuration says to its pipeline."""
    sizes = {tower.vision.image_size for tower in config.towers}
    if len(sizes) != 1:
        raise UserError(
            f"the towers of this network see pictures of different sizes ({sorted(sizes)} px); one size is supported"
        )
    shape = NetworkShape(
        image_size=sizes.pop(),
        cameras=config.cameras,
        actions_end=config.vocabulary.actions_end,
        bins=config.vocabulary.bins,
    )
    match config.decoding:
        case Autoregressive():
            return shape
        case Parallel(horizon, action_width, head, state_width):
            output: Output = SlotIds() if isinstance(head, TokenHead) else SlotNumbers()
            return NetworkShape(
                shape.image_size,
                shape.cameras,
                output,
                horizon,
                action_width,
                state_width,
                shape.actions_end,
                shape.bins,
            )
        case _:
            assert_never(config.decoding)


def read_embodiment(path: Path) -> Embodiment:
    """Return the embodiment in a file of the user's.

    Raises:
        UserError: it is not there, or no specification.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as an embodiment ({error}); give a JSON file, or '{GUESS}' to confirm the guess that is printed without"
        ) from error
    return Embodiment.from_text(text, str(path))


def _arrival(options: PolicyOptions, size: int) -> Arrival | None:
    match options.images:
        case "":
            return None
        case "direct":
            return Direct()
        case "trained":
            return Trained(size)
        case "evaluation":
            return Evaluation(size)
        case _:
            assert_never(options.images)
