"""Networks with learned output slots: what learns in each stage, from which arrays, by which loss, and how it is measured."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.data.cache import FrameCache
from ideomotor.model.batch import Batch
from ideomotor.model.language_weights import read_language_into
from ideomotor.model.vla import VLA
from ideomotor.model.weights import load_network, save_network
from ideomotor.pipeline.bodies import BodiesPipeline
from ideomotor.pipeline.slots import Pipeline
from ideomotor.tokenize.text import drop_words, foreign_words
from ideomotor.train import learner, metrics
from ideomotor.train.batches import SlotData
from ideomotor.train.config import Everything, FrozenTower, Lora, SlotStage, TrainConfig, Vision
from ideomotor.train.features import FeatureStore, compute_features, weights_hash
from ideomotor.train.learner import Arrays, Sums
from ideomotor.train.origin import write_origin
from ideomotor.train.parallel import Group
from ideomotor.train.precision import Device, Precision, autocast


def build_network(config: TrainConfig, data: SlotData, start: Path | None) -> VLA:
    """Return the network of the policy in `start`, or a new one; only the weights of the stage learn."""
    if start is None:
        assert data.network is not None, "without a policy to start from, the data decide the network"
        torch.manual_seed(config.seed)
        network = VLA(data.network)
        if config.language:
            read_language_into(network.language_model, Path(config.language))
    else:
        network = load_network(start)
    choose_weights(network, slot_stage(config))
    return network.train()


def slot_stage(config: TrainConfig) -> SlotStage:
    """Return the stage of a run on a network with slots."""
    assert not isinstance(config.stage, Lora), "LoRA is for networks that read tokens"
    return config.stage


def choose_weights(network: VLA, stage: SlotStage) -> None:
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


def losses(network: VLA, batch: Batch, stage: SlotStage) -> dict[str, Tensor]:
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


class SlotLearner:
    """A network with slots and what it learns in one stage."""

    device: Device = "cpu"

    def __init__(
        self,
        network: VLA,
        config: TrainConfig,
        pipeline: Pipeline | BodiesPipeline,
        features: Callable[[Precision, Group], FeatureStore] | None,
    ) -> None:
        """Train `network`; `features` computes what a tower that rests sees, once the precision is known."""
        self.network = network
        self.stage = slot_stage(config)
        self._config = config
        self._pipeline = pipeline
        self._compute_features = features
        self._features: FeatureStore | None = None

    @property
    def summary(self) -> str:
        """Return how many weights there are, and how many of them learn."""
        return learner.summary(type(self.stage).__name__, self.network)

    def prepare(self, precision: Precision, group: Group) -> None:
        """Apply a tower that rests to every frame."""
        if self._compute_features is not None:
            self._features = self._compute_features(precision, group)

    def losses(self, arrays: Arrays, first_number: int) -> dict[str, Tensor]:
        """Return the losses of a training batch by name; its samples have the global numbers from `first_number` on."""
        arrays = self._disturbed(arrays, np.arange(first_number, first_number + len(arrays["text"])))
        return losses(self.network, self.batch(arrays), self.stage)

    def _disturbed(self, arrays: Arrays, numbers: np.ndarray) -> Arrays:
        """Return the arrays with words made foreign and left out, as configured."""
        config, text, mask = self._config, arrays["text"], arrays["text_mask"]
        if config.word_noise:
            text_ids = self._pipeline.text.vocabulary
            text, mask = foreign_words(text, mask, config.word_noise, text_ids, config.seed, numbers)
        if config.word_dropout:
            mask = drop_words(mask, config.word_dropout, config.seed, numbers)
        return {**arrays, "text": text, "text_mask": mask}

    def batch(self, arrays: Arrays) -> Batch:
        """Return the network's input, with stored features in the place of images where there are any."""
        batch = Batch.from_arrays(arrays)
        if self._features is None:
            return batch
        features = torch.from_numpy(self._features.look_up(arrays["sample"]))
        return replace(batch, images=None, features=features)

    def measure(self, arrays: Arrays) -> Sums:
        """Return losses, shares of right tokens and errors in raw units over a batch."""
        batch = self.batch(arrays)
        size = float(len(batch.text))
        sums: Sums = {
            name: (float(loss) * size, size) for name, loss in losses(self.network, batch, self.stage).items()
        }
        match self.stage:
            case Vision():
                return sums | self._vision(batch)
            case FrozenTower() | Everything():
                return sums | self._action(batch, arrays)
            case _:
                assert_never(self.stage)

    def _vision(self, batch: Batch) -> Sums:
        assert batch.images is not None, "the vision stage sees images"
        found = self.network.patch_heads.accuracy(self.network.features(batch.images), batch)
        with_object = {role: (batch.labels[f"{role}.class"] > 0).sum().float().item() for role in found}
        return {f"accuracy.{role}": (float(s) * with_object[role], with_object[role]) for role, s in found.items()}

    def _action(self, batch: Batch, arrays: Arrays) -> Sums:
        network = self.network
        assert batch.actions is not None, "windows have actions"
        assert batch.actions_mask is not None, "windows have an action mask"
        states = network(batch)
        right = network.head.right(states["action"], batch.actions.flatten(1))
        sums: Sums = {"accuracy.action": metrics.share(right, batch.actions_mask.flatten(1))}
        for name, head in network.answer_heads.items():
            if name in batch.answers:
                values, mask = batch.answers[name], batch.answers_mask[name]
                sums[f"accuracy.{name}"] = metrics.share(head.right(states[name], values), mask)
                distance = (head.coordinate(network.answer(states, name)) - head.coordinate(values)).abs()
                sums[f"errors.{name} [bins]"] = (float((distance * mask).sum()), float(mask.sum()))
        chunks, mask = (network.decode(states), batch.actions), batch.actions_mask.numpy()
        for part, rows in self._pipeline.by_body(arrays):
            found, wanted = (part.decode(x.float().numpy()[rows]) for x in chunks)
            for name, pair in metrics.errors(part.embodiment, found, wanted, mask[rows]).items():
                sums[name] = metrics.plus(sums.get(name, (0.0, 0.0)), pair)
        return sums

    def save(self, folder: Path, steps: int) -> None:
        """Write the policy after so many steps."""
        save_network(self.network, folder)
        self._pipeline.save(folder)
        write_origin(folder, self._config, steps)

    def finish(self, folder: Path, steps: int) -> str:
        """Write the trained policy."""
        self.save(folder, steps)
        shutil.rmtree(Path(self._config.out) / "features", ignore_errors=True)
        return ""


def build_slot_learner(config: TrainConfig, data: SlotData, start: Path | None) -> SlotLearner:
    """Return the network with all that its stage needs: a tower that rests is applied to every frame once."""
    network = build_network(config, data, start)
    if not isinstance(config.stage, FrozenTower):
        return SlotLearner(network, config, data.pipeline, None)

    def features(precision: Precision, group: Group) -> FeatureStore:
        return _all_features(network, config, data, precision, group)

    return SlotLearner(network, config, data.pipeline, features)


def _all_features(
    network: VLA, config: TrainConfig, data: SlotData, precision: Precision, group: Group
) -> FeatureStore:
    tower_hash = weights_hash(network.vision_backbone)
    network.eval()

    def tower(images: Tensor) -> Tensor:
        with autocast(precision):
            return network.features(images)

    stored: list[np.ndarray] = []
    for split in data.splits:
        if not isinstance(split.frames, FrameCache):
            raise UserError(
                f"{split.train.dataset.path}: its decoded frames do not fit the disk, and this stage keeps features of every one; free some"
                " space, set XDG_CACHE_HOME to a larger disk, or train with stage:everything"
            )
        names = {"tower": tower_hash, "frames": split.frames.path.stem, "precision": precision}
        stored.append(compute_features(tower, split.frames.frames, names, Path(config.out) / "features", group))
    network.train()
    sources = [*(split.train for split in data.splits), *(split.held_out for split in data.splits)]
    return FeatureStore([*stored, *stored], sources)
