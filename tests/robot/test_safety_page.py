"""The example of docs/safety.md, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ideomotor.robot.arms.panda import PANDA

PAGE = Path(__file__).parents[2] / "docs" / "safety.md"


def block(language: str) -> str:
    """Return the first block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_runs_and_the_arm_arrives_where_it_says(tmp_path: Path) -> None:
    """300 ticks are enough; a quarter of a second of NaN stops it on the way, and the page says that it says so."""
    (tmp_path / "cell.json").write_text(block("json"), encoding="utf-8")
    script = block("python") + "\nprint('arrived', *q)\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *said, arrived = done.stdout.splitlines()
    assert any("nonfinite" in line for line in said)
    wanted = np.array(PANDA.home) + [-0.9, 0.4, 0.0, 0.4, 0.0, 0.0, 0.0]
    assert np.array(arrived.split()[1:], float) == pytest.approx(wanted, abs=1e-9)
