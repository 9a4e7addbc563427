"""One picture of a run, drawn from its log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ideomotor.core.files import atomic_path
from ideomotor.core.log import read_lines


def draw_curves(log: Path, picture: Path) -> None:
    """Draw loss, accuracy, errors and speed over the steps of `log` and replace `picture` by it."""
    lines = list(read_lines(log))
    train = [line for line in lines if line["kind"] == "train"]
    evals = [line for line in lines if line["kind"] == "eval"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, accuracy, error, speed = figure.subplots(2, 2).ravel()
    _line(loss, train, "loss", "training")
    _line(loss, evals, "loss", "validation", marker="o")
    loss.set(ylabel="loss [nats]", title="loss")
    _line(accuracy, train, "accuracy", "training")
    for name in sorted({key for line in evals for key in line["accuracy"]}):
        _line(accuracy, evals, f"accuracy.{name}", name, marker="o")
    accuracy.set(ylim=(0, 1), ylabel="share", title="most likely token is the target")
    for name in sorted({key for line in evals for key in line["errors"]}):
        _line(error, evals, f"errors.{name}", name, marker="o")
    error.set(yscale="log", title="validation: mean absolute error (unit in the name)")
    _line(speed, train, "samples_per_s", "samples/s")
    rate = speed.twinx()
    _line(rate, train, "learning_rate", "learning rate", color="C1")
    speed.set(ylabel="samples/s", title="speed and learning rate")
    for axes in (loss, accuracy, error, speed):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _line(axes: Axes, lines: Sequence[dict[str, Any]], path: str, label: str, **style: Any) -> None:
    points = [(line["step"], _at(line, path)) for line in lines if _at(line, path) is not None]
    if points:
        steps, values = np.array(points, dtype=np.float64).T
        axes.plot(steps, values, label=label, markersize=3, linewidth=1, **style)


def _at(line: dict[str, Any], path: str) -> Any:
    group, _, name = path.partition(".")
    return line.get(group) if not name else line.get(group, {}).get(name)
