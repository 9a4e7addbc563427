import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_fifteen_real_episodes_are_learned_by_heart(fixtures: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "bridge_overfit.py"
    data = fixtures / "bridge-rlds-train" / "bridge_dataset"
    done = subprocess.run([sys.executable, str(tool), "--data", str(data)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("action_") == 7  # a row for each dimension, beside two trivial predictors
