"""The configuration of `ideomotor eval`. Standard library only, so that `--help` stays fast."""

from dataclasses import dataclass, field
from pathlib import Path

from ideomotor.policy.options import PolicyOptions


@dataclass(frozen=True)
class EvalConfig:
    """Measure a policy in closed loop: success rate with interval, result.json and report.html.

    Seeds from 900000 up are used for nothing but final measurements.
    """

    out: Path
    """Folder for result.json and report.html."""
    policy: str = "shipped"
    """'shipped', the folder of a policy, of a finished run or of an OpenVLA checkpoint, or a control arm: 'expert' (scripted, sees the state) or 'random'."""
    suite: str = "in-distribution"
    """in-distribution, paraphrase, instruction-swap, blind (black images) or blank (empty instruction)."""
    arm: str = "panda"
    """Robot arm."""
    tasks: str = ""
    """Task names, separated by commas; empty: those that the policy was trained on."""
    episodes: int = 50
    """Episodes per task."""
    seed: int = 500_000
    """First scene; episode i has the scene seed + i, as in `ideomotor collect`: choose seeds that were not trained on.
    From 900000 up they are for final measurements only."""
    workers: int = 0
    """Processes that simulate; 0: one per core, at most 8. The result does not depend on it."""
    videos: int = 3
    """Videos of successes and of failures in the report, per task."""
    patience: float = 60.0
    """[s] The policy is ended when one answer, for up to 8 episodes at once, takes longer."""
    shield: bool = False
    """Shield the arm: rated joint limits, 25 mm from the table, all commands checked; a step lasts until the arm is nearly there."""
    shield_speed: float | None = None
    """[m/s] With --shield: cap of the tool's speed, such as 0.25."""
    openvla: PolicyOptions = field(default_factory=PolicyOptions)
    """For OpenVLA checkpoints; a policy of our own knows these things."""
