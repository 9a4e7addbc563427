"""A new network and its pipeline, fitted to the data: a preset's sizes, the data's cameras and widths."""

from collections.abc import Sequence
from dataclasses import replace

from ideomotor.core.errors import unknown
from ideomotor.core.spec import ChunkLength, Embodiment
from ideomotor.data.align import common_layout
from ideomotor.data.dataset import Dataset
from ideomotor.model.config import CameraTokens, NetworkConfig
from ideomotor.model.presets import base, small, tiny
from ideomotor.pipeline.slots import LOCATION, PipelineConfig
from ideomotor.tokenize.prompt import Bare, prompt_text
from ideomotor.tokenize.text import TextTokenizer

PRESETS = {"small": small, "tiny": tiny, "base": base}  # a new one is a function in model/presets.py and its name here
ANSWERS = {LOCATION.name: LOCATION}  # label columns that slot groups of the same name answer
MANY_TOKENS = 1 << 10  # more than any instruction has


def preset_sizes(preset: str) -> NetworkConfig:
    """Return the sizes of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    return PRESETS[preset]()


def design_network(
    sizes: NetworkConfig, embodiments: Sequence[Embodiment], datasets: Sequence[Dataset], text: TextTokenizer
) -> NetworkConfig:
    """Return the sizes with the cameras of the data, wide enough for their numbers and instructions."""
    cameras, layout = sizes.cameras, common_layout(embodiments)
    roles = {camera.role for camera in cameras}
    if not (roles <= set(layout.cameras) and all(roles & set(each.cameras_by_role) for each in embodiments)):
        cameras = tuple(CameraTokens(role, cameras[-1].merge) for role in layout.cameras)
    return replace(
        sizes,
        cameras=cameras,
        text_length=max(sizes.text_length, _longest(datasets, text)),
        state_width=max(sizes.state_width, layout.state_width),
        action_width=max(sizes.action_width, layout.action_width),
    )


def design_pipeline(network: NetworkConfig, embodiments: Sequence[Embodiment]) -> PipelineConfig:
    """Return what a network wants of its pipeline, for all bodies that it is trained on; all predicted actions are executed.

    Actions whose channels state their range are scaled by their extremes, for nothing in them is an outlier; others as OpenVLA does,
    by their 1 % and 99 % quantiles.
    """
    channels = [channel for embodiment in embodiments for channel in embodiment.action]
    stated = all(channel.low is not None and channel.high is not None for channel in channels)
    roles = tuple(camera.role for camera in network.cameras)
    return PipelineConfig(
        cameras=roles,
        partial_views=any(not set(roles) <= set(embodiment.cameras_by_role) for embodiment in embodiments),
        image_size=network.vision.image_size,
        text_length=network.text_length,
        state_width=network.state_width,
        action_width=network.action_width,
        chunk=ChunkLength(network.horizon, network.horizon),
        normalization="bounds" if stated else "bounds_q99",
        answers=tuple(ANSWERS[group.name] for group in network.answers if group.name in ANSWERS),
    )


def _longest(datasets: Sequence[Dataset], text: TextTokenizer) -> int:
    instructions = {dataset.instruction(e) for dataset in datasets for e in range(len(dataset))}
    texts = [prompt_text(Bare(), instruction) for instruction in sorted(instructions)]
    return int(text.encode(texts, MANY_TOKENS)[1].sum(axis=1).max()) if texts else 0
