"""What learns in each stage, from which arrays, and by which loss."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from ideomotor.model.batch import Batch
from ideomotor.model.vla import VLA
from ideomotor.model.weights import load_network, save_network
from ideomotor.pipeline import Pipeline
from ideomotor.tokenize.text import drop_words, foreign_words
from ideomotor.train.batches import Data
from ideomotor.train.config import Everything, FrozenTower, Stage, TrainConfig, Vision
from ideomotor.train.features import FeatureStore, compute_features, weights_hash
from ideomotor.train.origin import write_origin
from ideomotor.train.parallel import Group
from ideomotor.train.precision import Precision, autocast


def build_network(config: TrainConfig, data: Data, start: Path | None) -> VLA:
    """Return the network of the policy in `start`, or a new one; only the weights of the stage learn."""
    if start is None:
        assert data.network is not None, "without a policy to start from, the data decide the network"
        torch.manual_seed(config.seed)
        network = VLA(data.network)
    else:
        network = load_network(start)
    choose_weights(network, config.stage)
    return network.train()


def choose_weights(network: VLA, stage: Stage) -> None:
    """Let the weights of a stage learn, and no others."""
    tower, readings = network.vision_backbone, network.patch_heads
    match stage:
        case Vision():
            network.requires_grad_(requires_grad=False)
            tower.requires_grad_(requires_grad=True)
            readings.requires_grad_(requires_grad=True)
        case FrozenTower():
            tower.requires_grad_(requires_grad=False)
            readings.requires_grad_(requires_grad=False)
        case Everything():
            readings.requires_grad_(requires_grad=False)
        case _:
            assert_never(stage)


def losses(network: VLA, batch: Batch, stage: Stage) -> dict[str, Tensor]:
    """Return the losses of a batch by name; `loss` is what the stage descends."""
    match stage:
        case Vision():
            assert batch.images is not None, "the vision stage sees images"
            parts = network.patch_heads.losses(network.features(batch.images), batch, stage.none_weight)
            total = (
                parts["class"]
                + stage.offset_weight * parts["offset"]
                + stage.yaw_weight * parts["yaw"]
                + stage.held_weight * parts["held"]
            )
            return {"loss": total, **parts}
        case FrozenTower() | Everything():
            found = network.losses(batch)
            answers = {name: loss for name, loss in found.answers.items()}
            total = found.action + stage.location_weight * sum(answers.values(), torch.zeros(()))
            return {"loss": total, "action": found.action, **answers}
        case _:
            assert_never(stage)


class Learner:
    """A network and what it learns in one stage."""

    def __init__(self, network: VLA, config: TrainConfig, text_ids: int, features: FeatureStore | None) -> None:
        self.network = network
        self._text_ids = text_ids
        self.stage = config.stage
        self._config = config
        self._features = features

    @property
    def summary(self) -> str:
        """Return how many weights there are, and how many of them learn."""
        counts = [(p.numel(), p.requires_grad) for p in self.network.parameters()]
        total, learning = sum(n for n, _ in counts), sum(n for n, learns in counts if learns)
        return f"stage {type(self.stage).__name__}: {learning / 1e6:.2f} of {total / 1e6:.2f} million weights learn"

    def losses(self, arrays: Mapping[str, np.ndarray], first_number: int) -> dict[str, Tensor]:
        """Return the losses of a training batch by name; its samples have the global numbers from `first_number` on."""
        arrays = self._disturbed(arrays, np.arange(first_number, first_number + len(arrays["text"])))
        return losses(self.network, self.batch(arrays), self.stage)

    def _disturbed(self, arrays: Mapping[str, np.ndarray], numbers: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the arrays with words made foreign and left out, as configured."""
        config, text, mask = self._config, arrays["text"], arrays["text_mask"]
        if config.word_noise:
            text, mask = foreign_words(text, mask, config.word_noise, self._text_ids, config.seed, numbers)
        if config.word_dropout:
            mask = drop_words(mask, config.word_dropout, config.seed, numbers)
        return {**arrays, "text": text, "text_mask": mask}

    def batch(self, arrays: Mapping[str, np.ndarray]) -> Batch:
        """Return the network's input, with stored features in the place of images where there are any."""
        batch = Batch.from_arrays(arrays)
        if self._features is None:
            return batch
        features = torch.from_numpy(self._features.look_up(arrays["sample"]))
        return replace(batch, images=None, features=features)

    def save(self, folder: Path, pipeline: Pipeline, steps: int) -> None:
        """Write the policy after so many steps."""
        save_network(self.network, folder)
        pipeline.save(folder)
        write_origin(folder, self._config, steps)


def build_learner(config: TrainConfig, data: Data, network: VLA, group: Group, precision: Precision) -> Learner:
    """Return the network with all that its stage needs: a tower that rests is applied to every frame once."""
    if not isinstance(config.stage, FrozenTower):
        return Learner(network, config, data.pipeline.text.vocabulary, None)
    tower_hash = weights_hash(network.vision_backbone)
    network.eval()

    def tower(images: Tensor) -> Tensor:
        with autocast(precision):
            return network.features(images)

    stored = [
        compute_features(
            tower,
            split.frames.frames,
            {"tower": tower_hash, "frames": split.frames.path.stem, "precision": precision},
            Path(config.out) / "features",
            group,
        )
        for split in data.splits
    ]
    network.train()
    sources = [*(split.train for split in data.splits), *(split.held_out for split in data.splits)]
    return Learner(network, config, data.pipeline.text.vocabulary, FeatureStore([*stored, *stored], sources))
