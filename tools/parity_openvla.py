"""Answers of the parity tool for OpenVLA itself: one action id after the other, teacher forcing, losses and gradients.

B = batch, N = tokens, D = width, L = layers of the language model.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from parity_fixture import Answers, Fixture
from parity_subject import Subject, accuracy_and_l1
from torch import Tensor

from ideomotor.model.batch import TokenBatch
from ideomotor.model.decode import Whole
from ideomotor.model.openvla import OpenVLA


def states(network: OpenVLA, batch: TokenBatch, patches: Tensor, **noisy: Any) -> Tensor:
    """Return what stands before the first layer, after each layer but the last, and after the final norm, [B, L + 1, N, D]."""
    layers = network.language_model.model.layers
    seen: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])) for layer in layers]
    try:
        seen.append(network(batch, patches, **noisy))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(seen, dim=1)


class OneAfterTheOther:
    """`expected*.npz`."""

    def __init__(self, fixture: Fixture, file: str, subject: Subject) -> None:
        self.subject, self.network = subject, subject.network
        self.given = fixture.arrays(file)
        self._made: dict[Any, Any] = {}

    @property
    def answers(self) -> Answers:
        """What there is an answer to."""
        subject = self.subject
        i, key = r"(?P<i>\d+)\.", r"(?:\.(?P<key>.+))?"
        return {
            i + r"input_ids": subject.prompt,
            i + r"input_ids_\d+": subject.question,
            i + r"pixel_values": lambda i: subject.pixels([i])[0, 0],
            i + r"(?P<tower>[a-z]+)_patches": self.tower,
            i + r"projector": lambda i: self.patches(i)[0],
            i + r"hidden_last_prompt": lambda i: self.states(i)[:, -1],
            i + r"hidden_all": lambda i: self.states(i),
            i + r"logits_last_prompt": lambda i: self.logits(self.states(i)[-1:, -1:])[0, 0],
            i + r"generated_ids" + key: self.generated,
            i + r"normalized_action" + key: lambda i, key: subject.bins.decode(self.generated(i, key)),
            i + r"action\.(?P<key>.+)": self.action,
            i + r"train_input_ids": lambda i: self.lesson([i]).ids[0],
            i + r"train_labels": lambda i: self.lesson([i]).labels[0],
            i + r"logits_action_positions": lambda i: self.supervised((i,))[0][1:],
            i + r"teacher_argmax": lambda i: self.supervised((i,))[0].argmax(dim=-1),
            i + r"loss": lambda i: self.loss((i,)),
            r"batch\.input_ids": lambda: self.lesson(self.everybody).ids,
            r"batch\.attention_mask": lambda: self.lesson(self.everybody).mask,
            r"batch\.labels": lambda: self.lesson(self.everybody).labels,
            r"batch\.action_argmax": lambda: self.chosen,
            r"batch\.loss": lambda: self.loss(self.everybody),
            r"batch\.grad\.(?P<name>.+)": lambda name: self.gradients[name],
        }

    @property
    def everybody(self) -> tuple[str, ...]:
        """The samples of the training batch: the first ones, as many as the file's batch has."""
        return tuple(self.subject.samples)[: len(self.given.get("batch.input_ids", self.subject.samples))]

    def _once(self, name: Any, make: Any) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    # ------------------------------------------------------------------------------------------------ acting

    def patches(self, i: str) -> Tensor:
        """Return the image tokens of a sample, [1, P, D]."""
        return self._once(("patches", i), lambda: self.network.patches(self.subject.pixels([i])))

    def tower(self, i: str, tower: str) -> Tensor:
        """Return what one tower sees."""
        number, name = self.subject.tower(tower)
        pixels = self.subject.pixels([i])[0].chunk(len(self.network.config.towers), dim=1)[number]
        return getattr(self.network.vision_backbone, name)(pixels)[0]

    def states(self, i: str) -> Tensor:
        """Return the hidden states of the question, [L + 1, N, D]."""
        return self._once(("states", i), lambda: states(self.network, self.subject.ask([i]), self.patches(i))[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the whole vocabulary."""
        return self.network.language_model.logits(hidden, 0, self.network.config.language.vocabulary)

    def ids(self, i: str, count: int) -> np.ndarray:
        """Return so many greedy ids."""
        return self._once(("ids", i, count), lambda: self.network.ids(self.subject.ask([i]), count, Whole())[0].numpy())

    def generated(self, i: str, key: str | None) -> np.ndarray:
        """Return the greedy ids: as many as the dataset's action has channels, or as the file holds where it names none."""
        if key:
            return self.ids(i, self.subject.action_width(key))
        held = [
            self.given[name] for what in ("generated_ids", "normalized_action") if (name := f"{i}.{what}") in self.given
        ]
        return self.ids(i, len(held[0]))

    def action(self, i: str, key: str) -> np.ndarray:
        """Return the action in the units of a dataset."""
        return self.subject.decoded(key, self.generated(i, key)[None])[0]

    def margins(self, i: str, count: int) -> Tensor:
        """Return by how much the best logit leads, for each of the greedy ids: the same network, fed its own ids."""
        ids = torch.cat([self.subject.ask([i]).ids, torch.from_numpy(self.ids(i, count))[None]], dim=1)
        batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
        best = self.logits(self.network(batch, self.patches(i))[:, -count - 1 : -1]).topk(2, dim=-1).values[0]
        return best[:, 0] - best[:, 1]

    # ------------------------------------------------------------------------------------------------ learning

    def lesson(self, samples: Any) -> TokenBatch:
        """Return a training batch."""
        return self._once(("lesson", *samples), lambda: self.subject.lesson(samples))

    def supervised(self, samples: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Return the logits and the labels of the learned ids."""
        batch = self.lesson(samples)
        return self._once(("supervised", *samples), lambda: self.network.supervised(batch, self.network(batch)))

    def loss(self, samples: tuple[str, ...]) -> Tensor:
        """Return the loss of a training batch."""
        return self._once(("loss", *samples), lambda: self.network.loss(self.lesson(samples)))

    @cached_property
    def chosen(self) -> np.ndarray:
        """The most likely ids where an action id is to be learned, [B, A]."""
        logits, labels = self.supervised(self.everybody)
        action = labels >= self.network.config.vocabulary.actions_first
        return logits.argmax(dim=-1)[action].unflatten(0, (len(self.everybody), -1)).numpy()

    @property
    def accuracy_and_l1(self) -> tuple[float, float]:
        """The share of right action ids of the batch, and how far their values are off."""
        labels = self.lesson(self.everybody).labels
        assert labels is not None
        action = labels[labels >= self.network.config.vocabulary.actions_first].numpy()
        return accuracy_and_l1(self.subject.bins, self.chosen, action.reshape(self.chosen.shape))

    @cached_property
    def gradients(self) -> dict[str, np.ndarray | None]:
        """The gradient of the batch's loss by each parameter; None where there is none."""
        self.network.requires_grad_(requires_grad=True)
        self.network.zero_grad(set_to_none=True)
        with torch.enable_grad():
            self.network.loss(self.lesson(self.everybody)).backward()
        found = {
            name: None if p.grad is None else p.grad.clone().numpy() for name, p in self.network.named_parameters()
        }
        self.network.zero_grad(set_to_none=True)
        return found
