"""The job of `ideomotor eval`: run a suite, count and film. `report.save_evaluation` writes the result."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ideomotor.core.cores import usable_cores
from ideomotor.core.errors import UsageError
from ideomotor.core.spec import Embodiment, check_same
from ideomotor.core.types import BatchPolicy, Policy
from ideomotor.data.meaning.specification import check_for_robot
from ideomotor.evaluate.config import EvalConfig
from ideomotor.evaluate.controls import Expert, roll_out_expert
from ideomotor.evaluate.page import Clip
from ideomotor.evaluate.result import Result, percentiles, record, versions
from ideomotor.evaluate.rollout import SLOTS, Attempt, Failure, Latency, Rollout, Success, roll_out
from ideomotor.evaluate.suites import Cases, Facts, Suite, count
from ideomotor.evaluate.video import encode_mp4, side_by_side
from ideomotor.sim.env import EnvConfig, ResetOptions, draw_episode
from ideomotor.sim.shielded import DT, ShieldOptions
from ideomotor.sim.workers import Advance, Begun, VectorEnv


@dataclass(frozen=True)
class Evaluation:
    """The numbers, and videos to look at by task."""

    result: Result
    clips: dict[str, tuple[Clip, ...]]


def evaluate(config: EvalConfig, policy: Policy | Expert, env: EnvConfig, suite: Suite) -> Evaluation:
    """Run a suite. The policy is closed by the caller.

    Raises:
        UsageError: no episodes, a negative number of something, or a file where the folder of results should be.
        SpecMismatchError: policy and environment mean different things by their numbers.
    """
    start = time.monotonic()
    _check(config)
    workers = config.workers or min(usable_cores(), SLOTS)
    attempts = plan(config, env, suite)  # 1 what to run
    with VectorEnv(env, workers, -(-SLOTS // workers)) as envs:
        if not isinstance(policy, Expert):
            check_same(
                policy.embodiment, envs.embodiment, f"policy '{config.policy}'", f"arm '{config.arm}'"
            )  # 2 agree
            check_for_robot(policy.embodiment)
        latency = Latency()
        with _Progress(len(attempts), config) as progress:
            if isinstance(policy, Expert):  # 3 run
                rollouts = roll_out_expert(env, attempts, workers, progress.tell)
            else:
                rollouts = roll_out(envs, policy, attempts, latency, progress.tell)
        clips = film(envs, rollouts, suite, config.videos)  # 4 film
        embodiment = envs.embodiment
    facts = [describe(env, rollout) for rollout in rollouts]  # 5 look up what was named and touched
    result = Result(  # 6 count
        suite=config.suite,
        arm=config.arm,
        seed=config.seed,
        policy=config.policy,
        policy_id="expert" if isinstance(policy, Expert) else policy.policy_id,
        tasks={task.name: summarize(task.name, suite, rollouts, facts) for task in env.tasks},
        episodes=[record(rollout, fact) for rollout, fact in zip(rollouts, facts, strict=True)],
        embodiment_hash=embodiment.hash,
        renderer=_renderer(embodiment),
        latency_ms=percentiles(latency.seconds, SLOTS if isinstance(policy, BatchPolicy) else 1),
        seconds=round(time.monotonic() - start, 3),
        versions=versions(),
        shield=None if env.shield is None else described(env.shield),
    )
    return Evaluation(result, clips)


def plan(config: EvalConfig, env: EnvConfig, suite: Suite) -> list[Attempt]:
    """List the episodes: by task, then condition, then seed."""
    seeds = range(config.seed, config.seed + config.episodes)
    return [Attempt(task.name, seed, c) for task in env.tasks for c in suite.conditions for seed in seeds]


def summarize(task: str, suite: Suite, rollouts: Sequence[Rollout], facts: Sequence[Facts]) -> dict[str, Any]:
    """Return the counts of one task under the suite's first condition, and what the suite adds."""
    cases: Cases = {
        c.name: [
            case
            for case in zip(rollouts, facts, strict=True)
            if case[0].attempt.task == task and case[0].attempt.condition.name == c.name
        ]
        for c in suite.conditions
    }
    measured = [rollout for rollout, _ in cases[suite.conditions[0].name]]
    shield = interventions(measured)
    return {**count(measured), **suite.details(cases), **({} if shield is None else {"shield": shield})}


def interventions(rollouts: Sequence[Rollout]) -> dict[str, Any] | None:
    """Return what a shield did in these episodes, as JSON values; None where there was none."""
    shielded = [(rollout.steps, rollout.shield) for rollout in rollouts if rollout.shield is not None]
    if not shielded:
        return None
    records = [record for _, record in shielded]
    ticks = sum(record.ticks for record in records)
    reasons = sorted({reason for record in records for reason in record.reasons})
    return {
        "episodes": len(records),
        "ticks": ticks,
        "seconds_per_step": ticks * DT / max(sum(steps for steps, _ in shielded), 1),
        "altered": sum(record.altered for record in records),
        "stopped": sum(record.stopped for record in records),
        "latched": dict(Counter(record.latched for record in records if record.latched is not None)),
        "reasons": {
            reason: {
                "ticks": sum(record.reasons.get(reason, 0) for record in records),
                "episodes": sum(reason in record.reasons for record in records),
            }
            for reason in reasons
        },
        "touched": dict(sum((Counter(record.touched) for record in records), start=Counter[str]())),
        "violations": dict(sum((Counter(record.violations) for record in records), start=Counter[str]())),
    }


def described(options: ShieldOptions) -> dict[str, Any]:
    """Return how an arm was shielded, as JSON values."""
    return {
        "shares": vars(options.share),
        "tool_speed": options.tool_speed,
        "wait": options.wait,
        "margins": {obstacle.name: obstacle.margin for obstacle in options.around.obstacles},
        "tick": DT,
    }


def describe(env: EnvConfig, rollout: Rollout) -> Facts:
    """Look up the scene of an episode: which object is named, which can be grasped, which were touched and lifted first."""
    request = rollout.attempt.request
    options = ResetOptions(task=request.task, wording=request.wording, swap=request.swap)
    episode = draw_episode(env.tasks, request.seed, options)
    names = [placed.kind.name for placed in episode.scene.objects]
    touched, lifted = (rollout.events.get(event, -1) for event in ("first_touched", "first_lifted"))
    return Facts(
        named=names[episode.goal.target],
        graspable=tuple(names[i] for i in episode.scene.graspable),
        first_touched=names[touched] if touched >= 0 else None,
        first_lifted=names[lifted] if lifted >= 0 else None,
    )


def film(envs: VectorEnv, rollouts: Sequence[Rollout], suite: Suite, count: int) -> dict[str, tuple[Clip, ...]]:
    """Film the first successes and failures of each task under the measured condition.

    Nothing was drawn between chunks while measuring, so each of these episodes is run again with its recorded actions.
    """
    measured = [r for r in rollouts if r.attempt.condition.name == suite.conditions[0].name]
    clips: dict[str, tuple[Clip, ...]] = {}
    for task in dict.fromkeys(rollout.attempt.task for rollout in measured):
        of_task = [rollout for rollout in measured if rollout.attempt.task == task]
        chosen = [r for kind in (Success, Failure) for r in [r for r in of_task if isinstance(r.outcome, kind)][:count]]
        found = [_film_one(envs, rollout) for rollout in chosen]
        clips[task] = tuple(clip for clip in found if clip is not None)
    return clips


def _film_one(envs: VectorEnv, rollout: Rollout) -> Clip | None:
    """Film one episode; None when it does not come out as it did, which a dying process can cause."""
    begun = envs.begin(0, rollout.attempt.request)
    if not isinstance(begun, Begun):
        return None
    after = envs.advance({0: rollout.actions}, record=True)[0]
    if not isinstance(after, Advance) or after.success != isinstance(rollout.outcome, Success):
        return None
    frames = [side_by_side(images) for images in (begun.observation.images, *after.frames)]
    caption = f"“{rollout.told}”" if rollout.told == rollout.instruction else f"not told: “{rollout.instruction}”"
    detail = f"scene {rollout.attempt.seed}, {rollout.steps} steps"
    tag = "success" if after.success else "failure"
    return Clip(encode_mp4(frames, envs.embodiment.rate_hz), caption, tag, detail)


class _Progress:
    """A bar with the successes so far."""

    def __init__(self, total: int, config: EvalConfig) -> None:
        self._bar = tqdm(total=total, desc=f"{config.policy}: {config.suite}", unit="episode", file=sys.stderr)
        self._successes = 0

    def __enter__(self) -> "_Progress":  # noqa: PYI034 (the shape checker of the tests knows no Self)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tell(self, rollout: Rollout) -> None:
        """Count one more episode."""
        self._successes += isinstance(rollout.outcome, Success)
        self._bar.set_postfix(successes=self._successes, refresh=False)
        self._bar.update()


def _check(config: EvalConfig) -> None:
    if config.out.exists() and not config.out.is_dir():
        raise UsageError(f"--out {config.out} is a file; give a folder, or a name that is free")
    least = {"--episodes": (config.episodes, 1), "--seed": (config.seed, 0), "--workers": (config.workers, 0)}
    for name, (value, low) in {**least, "--videos": (config.videos, 0)}.items():
        if value < low:
            raise UsageError(f"{name} is {value}; allowed are whole numbers from {low} up")


def _renderer(embodiment: Embodiment) -> str:
    return "; ".join(dict.fromkeys(camera.source for camera in embodiment.cameras))
