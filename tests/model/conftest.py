from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ideomotor.model.batch import Batch
from ideomotor.model.config import NetworkConfig
from ideomotor.model.presets import tiny
from ideomotor.model.vla import VLA


@pytest.fixture
def config() -> NetworkConfig:
    return tiny()


@pytest.fixture
def network(config: NetworkConfig) -> VLA:
    torch.manual_seed(0)
    return VLA(config).eval()


def random_batch(size: int, config: NetworkConfig, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    side = config.vision.image_size
    length = rng.integers(2, config.text_length, size)
    arrays = {
        "images": rng.integers(0, 256, (size, len(config.cameras), side, side, 3), dtype=np.uint8),
        "text": rng.integers(0, 512, (size, config.text_length)),
        "text_mask": np.arange(config.text_length) < length[:, None],
        "state": rng.uniform(-1, 1, (size, config.state_width)).astype(np.float32),
        "state_mask": np.ones((size, config.state_width), bool),
        "actions": rng.uniform(-1, 1, (size, config.horizon, config.action_width)).astype(np.float32),
        "actions_mask": np.ones((size, config.horizon, config.action_width), bool),
        "answers.location": rng.uniform(-1, 1, (size, 6)).astype(np.float32),
        "answers_mask.location": rng.random((size, 6)) < 0.7,
    }
    return Batch.from_arrays(arrays)


@pytest.fixture
def make_batch(config: NetworkConfig) -> Callable[..., Batch]:
    """Random inputs and targets of so many rows."""

    def make(size: int, seed: int = 0) -> Batch:
        return random_batch(size, config, seed)

    return make


@pytest.fixture
def rows() -> Callable[[Batch, slice], Batch]:
    """Some rows of a batch."""

    def choose(batch: Batch, which: slice) -> Batch:
        parts = {
            name: getattr(batch, name)[which]
            for name in ("text", "text_mask", "state", "state_mask", "images", "actions", "actions_mask")
        }
        answers = {name: values[which] for name, values in batch.answers.items()}
        masks = {name: values[which] for name, values in batch.answers_mask.items()}
        return replace(batch, **parts, answers=answers, answers_mask=masks)

    return choose
