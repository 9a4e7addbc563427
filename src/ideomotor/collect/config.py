"""What `ideomotor collect` may be told. Standard library only, so that its help is instant."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CollectConfig:
    """Record a dataset in simulation (LeRobotDataset v3.0)."""

    out: str
    """Folder of the dataset. An unfinished one is continued: episodes already there are kept."""
    source: Literal["expert", "scenes", "corrections"] = "expert"
    """expert: demonstrations by the script. scenes: unrelated labelled states (an episode holds 32 of them). corrections: a
    policy drives, the expert says at each step what it would have done."""
    tasks: str = "pick,place_on"
    """Comma-separated tasks, taken in turns."""
    arm: str = "panda"
    """Arm of the tabletop."""
    episodes: int = 40
    """Episodes in the finished dataset."""
    seed: int = 0
    """Episode k uses seed + k. Seeds from 900000 up are used for nothing but final measurements."""
    workers: int = 0
    """Processes; 0 = one per core."""
    policy: str = "shipped"
    """Policy that drives in `corrections`: shipped, or the folder of a policy or of a finished training run."""
    noisy: float = 0.7
    """Share of expert episodes with bursts of noise in the executed actions (the labels stay free of noise)."""
    expert_share: float = 0.3
    """corrections: share of the steps in which the expert acts, in a third of the episodes."""
    execute: int = 2
    """corrections: actions of each chunk that the policy executes."""
