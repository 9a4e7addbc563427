import os
import re
import statistics
import subprocess
import sys
import time

import pytest

from ideomotor.cli.main import COMMANDS, run

HELP_SECONDS = 0.25  # the best peer's figure


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in COMMANDS)


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(capsys: pytest.CaptureFixture[str]):
    assert run(["evla"]) == 2
    assert "Did you mean 'eval'" in capsys.readouterr().err


def _help(arguments: list[str], *flags: str) -> tuple[float, str]:
    start = time.perf_counter()
    command = [sys.executable, *flags, "-m", "ideomotor", *arguments, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "120"})
    return time.perf_counter() - start, result.stdout + result.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_neither_numpy_nor_torch(command: str):
    _, shown = _help([command] if command else [], "-X", "importtime")
    imported = set(re.findall(r"\| +([\w.]+)$", shown, re.MULTILINE))
    assert "ideomotor" in imported
    assert not imported & {"numpy", "torch", "mujoco", "pyarrow", "scipy"}


def test_help_is_there_in_a_quarter_of_a_second():
    seconds = {command: statistics.median(_help([command])[0] for _ in range(5)) for command in COMMANDS}
    load = os.getloadavg()[0]
    allowed = (
        HELP_SECONDS * max(1.0, load / 2) * 2
    )  # a busy test machine is not slower code; `make bench` states the figure
    assert max(seconds.values()) <= allowed, f"{seconds} at load {load}"
