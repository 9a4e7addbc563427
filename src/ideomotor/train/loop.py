"""Training, as a numbered recipe. Stages (vision, frozen tower, everything) are configurations of this one loop."""

import json
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.files import atomic_folder, write_json
from ideomotor.policy.local import policy_folder
from ideomotor.train.batches import Data
from ideomotor.train.checkpoint import Progress, Restored, check_data, new_checkpoint, restore, room_on_disk
from ideomotor.train.config import TrainConfig
from ideomotor.train.family import open_data, open_learner, processes
from ideomotor.train.learner import Learner
from ideomotor.train.metrics import evaluate, measure
from ideomotor.train.optim import FlatAdamW, build_optimizer, learning_rate
from ideomotor.train.parallel import Group, StopRequest, launch
from ideomotor.train.precision import Precision, autocast, choose
from ideomotor.train.report import Report, add_note

CALIBRATION = 20  # steps after which a run with `max_minutes` decides how many it can make
MARGIN = 0.95  # share of the remaining time that is planned
PRECISIONS: tuple[Precision, Precision] = ("fp32", "bf16")
MEASURED_SAMPLES = 32  # samples of the step that decides the precision


def train(config: TrainConfig) -> Path:
    """Train a policy in processes of its own and return its folder.

    Raises:
        UserError: something about data, configuration or disk; what was saved stays and can be resumed.
    """
    out = Path(config.out)
    _check(config)
    restored = restore(config) if config.resume else None
    if config.resume and (out / "final").exists():
        return out / "final"
    open_data(
        config, _start_folder(config, restored)
    )  # here faults in the data show, statistics are computed and frames decoded
    with room_on_disk(out):
        write_json(out / "config.json", jsonable.to_json(config))
    ranks = restored.progress.processes if restored else processes(config)
    launch("ideomotor.train.rank", [str(out / "config.json")], ranks)
    return out / "final"


def train_or_continue(config: TrainConfig) -> Path:
    """Train a policy, or continue the run that its folder already holds."""
    return train(replace(config, resume=(Path(config.out) / "config.json").exists()))


def read_config(path: Path) -> TrainConfig:
    """Return the configuration that `train` wrote."""
    return jsonable.from_json(TrainConfig, json.loads(path.read_text(encoding="utf-8")), str(path))


def run(config: TrainConfig, group: Group, stop: StopRequest) -> bool:
    """Train as one of the processes of `group`; return False if it was asked to stop before the end."""
    began = time.monotonic()
    restored = restore(config) if config.resume else None
    start = _start_folder(config, restored)
    data = open_data(config, start)  # 1 data
    learner = open_learner(config, data, start, group)  # 2 network
    progress = restored.progress if restored else _begin(config, data, learner, group)
    with room_on_disk(Path(config.out)):
        learner.prepare(progress.precision, group)
        optimizer = build_optimizer(learner.network, config)  # 3 optimizer
        if restored is not None:  # 4 exact resume
            check_data(restored, data.fingerprint)
            optimizer.load(restored.optimizer)
        progress = _loop(_Job(config, group, stop, data, learner, optimizer, began), progress)  # 5 loop
        if progress.step < progress.steps:
            return False
        if group.leads:
            with atomic_folder(Path(config.out) / "final") as folder:
                said = learner.finish(folder, progress.step)  # 6 final weights
            if said:
                add_note(Path(config.out), said)
        group.wait()
    return True


@dataclass(frozen=True)
class _Job:
    """What the steps of one run work with."""

    config: TrainConfig
    group: Group
    stop: StopRequest
    data: Data
    learner: Learner
    optimizer: FlatAdamW
    began: float  # [s] monotonic time of the start


def train_step(job: _Job, arrays: dict[str, np.ndarray], progress: Progress) -> dict[str, float]:
    """Move the weights by one batch; return the losses, averaged over the ranks, and the gradient's norm.

    Raises:
        UserError: the gradient is not finite.
    """
    rate = learning_rate(job.config, progress.step, progress.steps)
    torch.manual_seed(_seed(job.config.seed, progress.step, job.group.rank))  # dropout depends on these alone
    job.optimizer.clear()
    share = job.config.batch // job.group.world
    with autocast(progress.precision, job.learner.device):
        found = job.learner.losses(arrays, progress.step * job.config.batch + job.group.rank * share)
    found["loss"].backward()
    values = {name: float(loss.detach()) for name, loss in found.items()} | {"asked": float(job.stop.received)}
    means = job.optimizer.average(values, job.group)
    try:
        norm = job.optimizer.step(rate)
    except FloatingPointError as error:
        raise UserError(
            f"step {progress.step + 1}: {error}; the weights are as they were. Lower --learning-rate ({rate:.2g} here) or"
            " take --precision fp32, with a new --out; `ideomotor data check` finds values that are not finite"
        ) from error
    return {**means, "gradient": norm, "learning_rate": rate}


def _loop(job: _Job, progress: Progress) -> Progress:
    """Train until the last step or until asked to stop; both ends save a checkpoint."""
    config, group = job.config, job.group
    with closing(Report(Path(config.out), progress, config.batch, silent=not group.leads)) as report:
        report.say(f"{job.learner.summary}; {job.data.summary}")
        for remark in job.data.remarks(group.rank, group.world):
            report.say(remark)
        report.say(f"{progress.processes} processes, {progress.precision} ({progress.precision_reason})")
        clock = _Clock(job.began, _evaluate(job, progress, report, []) if progress.step == 0 else 0.0)
        batches = job.data.loader.batches(progress.step, group.rank, group.world)
        while progress.step < progress.steps:
            arrays = next(batches)
            values = train_step(job, arrays, progress)
            asked = values.pop("asked") > 0
            progress = replace(progress, step=progress.step + 1)
            report.step(progress.step, values)
            if config.max_minutes and progress.step in (CALIBRATION // 2, CALIBRATION):
                progress = clock.fit(job, progress, report)
            last = progress.step == progress.steps
            if asked or last or progress.step % config.checkpoint_every == 0:
                _save(job, progress, report)
            if last or progress.step % config.eval_every == 0:
                _evaluate(job, progress, report, [arrays])
                if realized := job.data.realized(progress.step):
                    report.say(realized)
            if asked:
                break
    return progress


class _Clock:
    """Fits the number of steps to `max_minutes`, from the speed of the first ones."""

    def __init__(self, began: float, evaluation: float) -> None:
        self._began = began  # [s] monotonic time of the start
        self._evaluation = evaluation  # [s] one evaluation took so long
        self._half_way = 0.0

    def fit(self, job: _Job, progress: Progress, report: Report) -> Progress:
        """Note the time at half of the calibration; at its end decide the number of steps, the same on all ranks."""
        now = time.monotonic()
        if progress.step < CALIBRATION:
            self._half_way = now
            return progress
        seconds_a_step = (now - self._half_way) / (CALIBRATION - CALIBRATION // 2)
        left = MARGIN * (60.0 * job.config.max_minutes - (now - self._began) - self._evaluation)
        fitting = CALIBRATION + int(left / (seconds_a_step + self._evaluation / job.config.eval_every))
        steps = int(job.group.agree(float(max(CALIBRATION + 1, min(job.config.steps, fitting)))))
        report.say(f"{1e3 * seconds_a_step:.0f} ms a step: {steps} steps fit into {job.config.max_minutes:g} minutes")
        report.steps_changed(steps)
        return replace(progress, steps=steps)


def _check(config: TrainConfig) -> None:
    out = Path(config.out)
    if config.steps < 1 or config.batch < 1 or config.checkpoint_every < 1 or config.eval_every < 1:
        raise UsageError("--steps, --batch, --checkpoint-every and --eval-every are numbers from 1 up")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a new folder")
    if not config.resume and (out / "config.json").exists():
        raise UsageError(f"{out} already holds a run; continue it with --resume, or choose another --out")
    if not config.resume and out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and holds no run; choose another --out")


def _seed(seed: int, step: int, rank: int) -> int:
    """Return a seed of 63 bits that differs for each step and rank."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _start_folder(config: TrainConfig, restored: Restored | None) -> Path | None:
    """Return the folder of the policy that training starts from; None: from scratch."""
    if restored is not None:
        return restored.folder
    return policy_folder(config.init) if config.init else None


def _begin(config: TrainConfig, data: Data, learner: Learner, group: Group) -> Progress:
    """Decide what a new run needs to be exactly continued."""
    if config.precision != "auto":
        return Progress(0, config.steps, config.precision, "as asked for", group.world, data.fingerprint)
    if learner.device == "cuda":
        return Progress(0, config.steps, "bf16", "the GPU's own", group.world, data.fingerprint)
    few = data.some(min(MEASURED_SAMPLES, data.together, config.batch // group.world))
    choice = choose(lambda: torch.autograd.backward(learner.losses(few, 0)["loss"]))
    precision = PRECISIONS[int(group.agree(float(PRECISIONS.index(choice.precision))))]
    return Progress(0, config.steps, precision, choice.reason, group.world, data.fingerprint)


def _save(job: _Job, progress: Progress, report: Report) -> None:
    if job.group.leads:
        with new_checkpoint(job.config, progress, job.optimizer.state()) as folder:
            job.learner.save(folder, progress.step)
    report.saved(progress.step)


def _evaluate(job: _Job, progress: Progress, report: Report, learned: list[dict[str, np.ndarray]]) -> float:
    """Evaluate on held-out episodes, and on batches that were learned; return how long it took [s]."""
    start = time.monotonic()
    if job.data.held_out:
        values = evaluate(job.learner, job.data, job.group, progress.precision)
        if learned:
            values["training"] = measure(job.learner, learned, job.group, progress.precision)
        report.evaluation(progress.step, values)
    return job.group.agree(time.monotonic() - start)
