"""What a network is given: one dataclass of tensors.

Letters: B = batch, C = cameras, L = text tokens, S = state width, T = horizon, A = action width, N = vision tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Inputs, and in training targets. Actions and answers are in network coordinates, [-1, 1]."""

    text: Int64[Tensor, "B L"]
    text_mask: Bool[Tensor, "B L"]  # False: padding
    state: Float[Tensor, "B S"]
    state_mask: Bool[Tensor, "B S"]  # False: a channel that this body does not have
    images: UInt8[Tensor, "B C H W 3"] | None = None  # None where `features` are given
    images_mask: Bool[Tensor, "B C"] | None = None  # False: a camera that this body does not have; None: all are there
    features: Float[Tensor, "B N D"] | None = None  # of the vision tower, computed before
    actions: Float[Tensor, "B T A"] | None = None
    actions_mask: Bool[Tensor, "B T A"] | None = None  # False: padding of width or time, not learned
    answers: Mapping[str, Float[Tensor, "B _"]] = field(default_factory=dict[str, Tensor])  # by slot group
    answers_mask: Mapping[str, Bool[Tensor, "B _"]] = field(default_factory=dict[str, Tensor])
    labels: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])  # patch labels, "front.class" and so on

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Batch":
        """Take the arrays that `Pipeline.encode` makes; their names are this class's fields, and `label.*`."""
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        return cls(
            text=tensors["text"],
            text_mask=tensors["text_mask"],
            state=tensors["state"],
            state_mask=tensors["state_mask"],
            images=tensors.get("images"),
            images_mask=tensors.get("images_mask"),
            features=tensors.get("features"),
            actions=tensors.get("actions"),
            actions_mask=tensors.get("actions_mask"),
            answers=part("answers."),
            answers_mask=part("answers_mask."),
            labels=part("label."),
        )


@dataclass(frozen=True)
class TokenBatch:
    """What OpenVLA is given: token ids and images. In parallel decoding the ids hold the slots too.

    Autoregressive: prompt ids, in training followed by the action ids and EOS. Parallel: prompt ids, T A placeholders (in training the
    true action ids; nothing reads their embeddings), EOS.
    """

    ids: Int64[Tensor, "B L"]  # right-padded
    mask: Bool[Tensor, "B L"]  # False: padding
    images: UInt8[Tensor, "B C H W 3"] | None = None  # of the towers' size; None where the patches are given apart
    state: Float[Tensor, "B S"] | None = None  # in network coordinates
    labels: Int64[Tensor, "B L"] | None = None  # the id that stands there, -100 where nothing is learned
    actions: Float[Tensor, "B T A"] | None = None  # in network coordinates
    whole: bool = False  # True: there is no padding, and no mask is needed

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "TokenBatch":
        """Take the arrays that OpenVLA's pipeline makes; their names are this class's fields, others are left out."""
        names = [name for name in ("ids", "mask", "images", "state", "labels", "actions") if name in arrays]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in names}
        return cls(**tensors, whole=bool(arrays["mask"].all()))

    def to(self, device: torch.device) -> "TokenBatch":
        """Return the batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)
