"""What the vision tower learns first: for each patch which object's centre lies in it, where, how turned, and whether it is held.

Letters: B = batch, C = cameras, P = patches of a camera, D = width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.batch import Batch


class PatchHeads(nn.Module):
    """Linear readings of the tower's features; the yaw is read apart for each camera, for it is relative to another frame."""

    def __init__(self, width: int, classes: int, roles: Sequence[str]) -> None:
        super().__init__()
        self.roles = tuple(roles)
        self.kind = nn.Linear(width, classes)
        self.offset = nn.Linear(width, 2)
        self.yaw = nn.ModuleDict({role: nn.Linear(width, 2) for role in roles})
        self.held = nn.Linear(width, 1)

    def losses(
        self, features: Float[Tensor, "B N D"], batch: Batch, none_weight: float = 0.2
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the losses `class` (cross-entropy, patches without an object weigh `none_weight`), `offset` and `yaw` (L1), `held`.

        Offset, yaw and held count only where an object's centre lies; yaw only where the object is not round.
        """
        cameras = features.chunk(len(self.roles), dim=1)
        parts = [self._camera(role, x, batch, none_weight) for role, x in zip(self.roles, cameras, strict=True)]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def _camera(self, role: str, x: Float[Tensor, "B P D"], batch: Batch, none_weight: float) -> dict[str, Tensor]:
        kind = batch.labels[f"{role}.class"].long()
        offset = batch.labels[f"{role}.offset"].unflatten(1, (-1, 2)).float()
        yaw = batch.labels[f"{role}.yaw"].unflatten(1, (-1, 2)).float()
        held = batch.labels[f"{role}.held"].float()
        there = (kind > 0).float()
        turned = there * (yaw.abs().sum(-1) > 0)
        weight = torch.where(kind > 0, 1.0, none_weight)
        cross = functional.cross_entropy(self.kind(x).float().flatten(0, 1), kind.flatten(), reduction="none").view_as(
            weight
        )
        l1_offset = (self.offset(x).float() - offset).abs().mean(-1)
        l1_yaw = (self.yaw[role](x).float() - yaw).abs().mean(-1)
        binary = functional.binary_cross_entropy_with_logits(self.held(x).float().squeeze(-1), held, reduction="none")
        return {
            "class": (cross * weight).sum() / weight.sum(),
            "offset": _mean(l1_offset, there),
            "yaw": _mean(l1_yaw, turned),
            "held": _mean(binary, there),
        }

    def accuracy(self, features: Float[Tensor, "B N D"], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return, for each camera, the share of patches with an object whose class is right."""
        result: dict[str, Tensor] = {}
        for role, x in zip(self.roles, features.chunk(len(self.roles), dim=1), strict=True):
            kind = batch.labels[f"{role}.class"].long()
            result[role] = _mean((self.kind(x).argmax(-1) == kind).float(), (kind > 0).float())
        return result


def _mean(x: Float[Tensor, "..."], weight: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    return (x * weight).sum() / weight.sum().clamp(min=1)
