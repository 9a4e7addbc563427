"""What a run tells: a progress bar, lines in `log.jsonl`, and the picture of its curves."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ideomotor.core.files import write_bytes
from ideomotor.core.log import JsonLines, read_lines
from ideomotor.train.checkpoint import Progress
from ideomotor.train.curves import draw_curves

LOG_EVERY = 10  # steps that one line of the log averages


class Report:
    """The voice of rank 0; on other ranks it is silent."""

    def __init__(self, out: Path, progress: Progress, batch: int, *, silent: bool) -> None:
        self._silent = silent
        self._batch = batch
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()
        self._shown = ""
        self._log_path, self._picture = out / "log.jsonl", out / "curves.png"
        if silent:
            return
        _forget_after(self._log_path, progress.step)
        self._log = JsonLines(self._log_path)
        pause = 0.5 if sys.stderr.isatty() else 20.0  # [s] between two states of the bar; a log file needs few
        self._bar = tqdm(
            total=progress.steps,
            initial=progress.step,
            unit="step",
            mininterval=pause,
            maxinterval=pause,
            smoothing=0.05,
        )

    def say(self, text: str, **facts: Any) -> None:
        """Print a line above the bar, and log it."""
        if not self._silent:
            self._bar.write(text, file=sys.stderr)
            self._log.write(kind="note", text=text, **facts)

    def steps_changed(self, steps: int) -> None:
        """Show another length of the run."""
        if not self._silent:
            self._bar.total = steps
            self._bar.refresh()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Note losses, gradient norm and learning rate of step number `step` (counted from 1)."""
        if self._silent:
            return
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if step % LOG_EVERY == 0 or step == self._bar.total:
            seconds = time.perf_counter() - self._since
            means = {name: float(f"{total / self._count:.6g}") for name, total in self._sums.items()}
            speed = round(self._count * self._batch / seconds, 1)
            self._log.write(kind="train", step=step, **means, samples_per_s=speed)
            self._bar.set_postfix_str(f"{speed:.0f} samples/s, loss {means['loss']:.3f}{self._shown}", refresh=False)
            self._sums, self._count, self._since = {}, 0, time.perf_counter()
        self._bar.update()

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Log and print what an evaluation found, and draw the curves."""
        if self._silent:
            return
        self._log.write(kind="eval", step=step, **values)
        learned = f"; the batch just learned: {_in_words(values['training'])}" if "training" in values else ""
        self._bar.write(f"step {step}, validation: {_in_words(values)}{learned}", file=sys.stderr)
        self._shown = f", validation {values['loss']:.3f}"
        draw_curves(self._log_path, self._picture)
        self._since = time.perf_counter() if self._count == 0 else self._since

    def saved(self, step: int) -> None:
        """Log that a checkpoint is on disk."""
        if not self._silent:
            self._log.write(kind="checkpoint", step=step)

    def close(self) -> None:
        """End bar and log."""
        if not self._silent:
            self._bar.close()
            self._log.close()


def add_note(out: Path, text: str) -> None:
    """Print and log what there is to say after the last step."""
    sys.stderr.write(f"{text}\n")
    log = JsonLines(out / "log.jsonl")
    log.write(kind="note", text=text)
    log.close()


def _in_words(values: Mapping[str, Any]) -> str:
    accuracy = ", ".join(f"{name} {value:.1%}" for name, value in values["accuracy"].items())
    errors = ", ".join(f"{name} {value:.4g}" for name, value in values["errors"].items())
    return f"loss {values['loss']:.3f}; right: {accuracy or '-'}; mean error: {errors or '-'}"


def _forget_after(log: Path, step: int) -> None:
    """Remove the lines of steps that will be done again (all of them at the beginning), and a half-written last line."""
    if log.exists():
        kept = [line for line in read_lines(log) if step and line.get("step", 0) <= step]
        write_bytes(log, "".join(json.dumps(line) + "\n" for line in kept).encode())
