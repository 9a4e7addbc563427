"""What a user may choose when a policy is loaded. Standard library only: it is part of command lines and crosses to child processes."""

from dataclasses import dataclass, fields
from typing import Literal

GUESS = "guess"  # as `embodiment`: the printed guess is confirmed


@dataclass(frozen=True)
class PolicyOptions:
    """All but `device` and `precision` are for OpenVLA checkpoints; a policy of our own knows these things."""

    statistics: str = ""
    """Key of the dataset whose statistics scale the actions (OpenVLA: unnorm_key); may be left out where the checkpoint has one, or says which."""
    embodiment: str = ""
    """What the numbers mean, where the checkpoint does not say: a JSON file, or "guess" to confirm the guess that is printed."""
    ids: Literal["faithful", "constrained"] = "faithful"
    """Ids to choose among: the whole vocabulary as the reference does, or the action ids alone."""
    images: Literal["", "direct", "trained", "evaluation"] = ""
    """How pictures arrive: as they are, resized as in training, or as in OpenVLA's evaluation (JPEG, resize, centre crop); empty: what the checkpoint says."""
    horizon: int = 0
    """Actions in a chunk of an OpenVLA-OFT checkpoint, which no file states; 0: as published for the platform of its widths."""
    cameras: int = 0
    """Images of an OpenVLA-OFT checkpoint, likewise."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the weights; auto: bf16 on a GPU, fp32 on a CPU whose memory holds it, else bf16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto: on a GPU where there is one."""

    def changed(self) -> dict[str, object]:
        """Return the fields that are not at their default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
