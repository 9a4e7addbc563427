"""`training.json` in a policy's folder: how its weights came about."""

import json
from pathlib import Path
from typing import Any

from ideomotor.core.files import write_json
from ideomotor.train.config import TrainConfig

FILE, FORMAT = "training.json", 1


def write_origin(folder: Path, config: TrainConfig, steps: int) -> None:
    """Note stage, amount and seed of the training; equal runs write equal bytes."""
    stage = type(config.stage).__name__
    facts = {"stage": stage, "steps": steps, "batch": config.batch, "seed": config.seed}
    write_json(folder / FILE, {"format": FORMAT, **facts, "learning_rate": config.learning_rate})


def read_origin(folder: Path) -> str:
    """Return the name of the last stage that the policy went through, or "" where it does not say."""
    path = folder / FILE
    if not path.is_file():
        return ""
    value: Any = json.loads(path.read_text(encoding="utf-8"))
    return str(value.get("stage", ""))
