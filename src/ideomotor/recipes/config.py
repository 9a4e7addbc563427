"""What a recipe is: jobs in order, each with a folder of its own, so that a stopped recipe goes on where it was."""

from dataclasses import dataclass
from typing import Literal

from ideomotor.collect.config import CollectConfig
from ideomotor.train.config import TrainConfig


@dataclass(frozen=True)
class RecipeConfig:
    """Run a whole recipe: collect its data, train all its stages. A stopped run goes on when called again."""

    out: str
    """Folder of the whole run; the policy ends up in its folder `policy`."""
    seed: int = 0
    """Decides scenes, first weights and the order of the samples."""
    size: float = 1.0
    """Episodes and steps as a share of the published run; 0.01 tries the whole chain in a few minutes."""
    processes: int = 0
    """Processes for collection and training; 0: one per core, at most 2 for training."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: the faster one, measured at the start of each training."""


@dataclass(frozen=True)
class Recipe:
    """Jobs in order. The last one is a training run; its weights are the result."""

    jobs: tuple[CollectConfig | TrainConfig, ...]
