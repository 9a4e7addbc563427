"""The discrete head: each number is one of some bins over [-1, 1], read from a range of the vocabulary.

Letters: B = batch, K = slots, D = width, V = bins, T = horizon, A = action width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ideomotor.model.batch import Batch
from ideomotor.model.config import DiscreteHead

Read = Callable[[Tensor, int, int], Tensor]  # hidden states, first id, number of ids -> logits


class Bins:
    """Numbers in [-1, 1] as bins: bin v stands for -1 + 2 v / (bins - 1).

    Targets are Gaussians around the true value (Farebrother et al., arXiv 2403.03950, use such targets for values); decoding is the
    mean of the bins near the most likely one, which keeps two modes apart and is finer than a bin.
    """

    def __init__(self, config: DiscreteHead, read: Read) -> None:
        self.config = config
        self._read = read

    def logits(self, features: Float[Tensor, "B K D"]) -> Float[Tensor, "B K V"]:
        """Return the logits of the bins, in float32."""
        return self._read(features, self.config.first_id, self.config.bins).float()

    def loss(
        self, features: Float[Tensor, "B K D"], values: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy [nats] to the smoothed targets over the slots in the mask."""
        log_likelihood = self.logits(features).log_softmax(dim=-1)
        each = -(self.targets(values) * log_likelihood).sum(dim=-1)
        return (each * mask).sum() / mask.sum().clamp(min=1)

    def targets(self, values: Float[Tensor, "B K"]) -> Float[Tensor, "B K V"]:
        """Return the smoothed distributions."""
        distance = torch.arange(self.config.bins, device=values.device) - self.coordinate(values)[..., None]
        return (-0.5 * (distance / self.config.smoothing) ** 2).softmax(dim=-1)

    def coordinate(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return where a value lies among the bins, 0 to bins - 1, not rounded."""
        return (values.clamp(-1, 1) + 1) * (0.5 * (self.config.bins - 1))

    def value(self, coordinate: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Undo `coordinate`."""
        return coordinate / (0.5 * (self.config.bins - 1)) - 1

    def decode(self, features: Float[Tensor, "B K D"]) -> Float[Tensor, "B K"]:
        """Return the mean of the bins within the window around the most likely one.

        Near an end of the range the window shrinks on both sides, or the mean would be drawn inwards.
        """
        likelihood = self.logits(features).softmax(dim=-1)
        bins = torch.arange(self.config.bins, device=likelihood.device)
        mode = likelihood.argmax(dim=-1, keepdim=True)
        reach = torch.minimum(mode, self.config.bins - 1 - mode).clamp(max=self.config.window)
        near = (bins - mode).abs() <= reach
        likelihood = likelihood * near
        return self.value((likelihood * bins).sum(dim=-1) / likelihood.sum(dim=-1))

    def right(self, features: Float[Tensor, "B K D"], values: Float[Tensor, "B K"]) -> Bool[Tensor, "B K"]:
        """Tell for each slot whether the most likely bin is that of the true value: token accuracy."""
        return self.logits(features).argmax(dim=-1) == self.coordinate(values).round().long()


class Discrete:
    """The discrete head of the chunk: each action number is one slot of bins, row-major T A.

    `loss(features, batch)` and `chunk(features)` are what each head offers; `features` are the hidden states of the action slots.
    """

    def __init__(self, config: DiscreteHead, read: Read, horizon: int) -> None:
        self.bins = Bins(config, read)
        self._horizon = horizon

    def loss(self, features: Float[Tensor, "B K D"], batch: Batch) -> Float[Tensor, ""]:
        """Return the mean loss [nats] over the actions in the batch's mask."""
        assert batch.actions is not None, "a batch for training has actions"
        assert batch.actions_mask is not None, "a batch for training has an action mask"
        return self.bins.loss(features, batch.actions.flatten(1), batch.actions_mask.flatten(1))

    def chunk(self, features: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        """Return the chunk in network coordinates."""
        return self.bins.decode(features).unflatten(1, (self._horizon, -1))

    def right(self, features: Float[Tensor, "B K D"], values: Float[Tensor, "B K"]) -> Bool[Tensor, "B K"]:
        """Tell for each slot whether the most likely bin is that of the true value: token accuracy."""
        return self.bins.right(features, values)
