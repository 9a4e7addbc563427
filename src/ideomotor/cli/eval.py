"""`ideomotor eval`: measure a policy in closed loop."""

import contextlib
import math
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import tyro

from ideomotor.core.errors import UsageError, unknown
from ideomotor.evaluate.config import EvalConfig

if TYPE_CHECKING:
    from ideomotor.evaluate.controls import Expert, RandomPolicy
    from ideomotor.evaluate.measure import Evaluation
    from ideomotor.evaluate.suites import Suite
    from ideomotor.policy.process import ProcessPolicy
    from ideomotor.robot.arm import Arm
    from ideomotor.sim.shielded import ShieldOptions


def suites() -> "dict[str, Suite]":
    """Return the suites by the names that users give."""
    from ideomotor.evaluate.suites import Blank, Blind, InDistribution, InstructionSwap, Paraphrase

    return {
        "in-distribution": InDistribution(),
        "paraphrase": Paraphrase(),
        "instruction-swap": InstructionSwap(),
        "blind": Blind(),
        "blank": Blank(),
    }


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, and write result and report."""
    config = tyro.cli(EvalConfig, prog="ideomotor eval", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    from ideomotor.evaluate.report import save_evaluation, summary

    evaluation = evaluated(config)
    save_evaluation(config.out, evaluation.result, evaluation.clips)
    print(*summary(evaluation.result), f"report: {config.out / 'report.html'}", sep="\n")
    if evaluation.result.violations:
        sys.exit(1)


def evaluated(config: EvalConfig) -> "Evaluation":
    """Run the evaluation of a configuration.

    Raises:
        UserError: policy, arm, tasks or suite cannot be used.
    """
    from ideomotor.cli.names import arm_named, tasks, tasks_named
    from ideomotor.evaluate.measure import evaluate
    from ideomotor.sim.env import EnvConfig

    known = suites()
    if config.suite not in known:
        raise unknown("suite", config.suite, known)
    arm = arm_named(config.arm)
    wanted = tasks_named(config.tasks) if config.tasks else None
    with _policy(config, arm) as policy:
        trained = getattr(policy, "tasks", ())
        if wanted is None and not trained and config.policy not in ("expert", "random"):
            raise UsageError(
                f"policy '{config.policy}' does not say which tasks it was trained on; name them with --tasks"
            )
        env = EnvConfig(arm, wanted or tasks_named(",".join(trained or tasks())), shield=_shield(config))
        evaluation = evaluate(config, policy, env, known[config.suite])
        if illegal := getattr(policy, "illegal_ids", 0):
            print(
                f"{illegal} ids that the policy gave are no action ids; they were decoded as an end of the range, as OpenVLA does"
                " (--ids constrained chooses among action ids alone)"
            )
        return evaluation


def _shield(config: EvalConfig) -> "ShieldOptions | None":
    from ideomotor.sim.shielded import ShieldOptions

    cap = config.shield_speed
    if cap is not None and not (config.shield and 0.0 < cap < math.inf):
        raise UsageError(f"--shield-speed is {cap}; give a speed above 0 [m/s], and --shield with it")
    return ShieldOptions(tool_speed=cap) if config.shield else None


@contextlib.contextmanager
def _policy(config: EvalConfig, arm: "Arm") -> "Generator[Expert | RandomPolicy | ProcessPolicy]":
    from ideomotor.evaluate.controls import Expert, RandomPolicy
    from ideomotor.policy.process import ProcessPolicy
    from ideomotor.sim.env import tabletop_embodiment
    from ideomotor.sim.render import Ray

    if config.policy in ("expert", "random") and (changed := config.openvla.changed()):
        raise UsageError(
            f"--policy {config.policy} is no checkpoint; leave out {', '.join(f'--{name}' for name in changed)}"
        )
    if config.policy == "expert":
        yield Expert()
    elif config.policy == "random":
        yield RandomPolicy(tabletop_embodiment(arm, Ray()))
    else:
        with ProcessPolicy(config.policy, config.openvla, timeout_s=config.patience) as policy:
            yield policy
