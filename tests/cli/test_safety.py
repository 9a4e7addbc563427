"""`ideomotor safety limits`: figures are those of the makers' manuals and of the published table of stops."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ideomotor.cli.main import run
from ideomotor.cli.names import arms
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.mjcf import world_xml

Refused = Callable[..., str]
Shown = Callable[..., str]


@pytest.fixture
def shown(capfd: pytest.CaptureFixture[str]) -> Shown:
    """Run a command that works; return what it prints."""

    def show(*arguments: object) -> str:
        capfd.readouterr()
        assert run(["safety", "limits", *map(str, arguments)]) == 0
        said = capfd.readouterr()
        assert said.err == ""
        return said.out

    return show


def row(text: str, label: str) -> list[str]:
    """Return the cells of the row that begins with a label."""
    line = next(line for line in text.splitlines() if line.startswith(label))
    return line[len(label) :].split()


def test_the_table_of_the_panda_has_its_limits_and_its_stops(shown: Shown):
    text = shown("panda")
    assert row(text, "acceleration [rad/s^2]") == ["15.00", "7.50", "10.00", "12.50", "15.00", "20.00", "20.00"]
    assert row(text, "jerk [rad/s^3]") == ["7500", "3750", "5000", "6250", "7500", "10000", "10000"]
    assert row(text, "torque rate [N m/s]") == ["1000"] * 7
    assert row(text, "stop, full [s]")[:2] == ["0.147", "0.292"]
    assert row(text, "from 1 V at 1 a, j [rad]")[:2] == ["0.160", "0.318"]
    assert row(text, "stop, reduced [s]")[:2] == ["0.263", "0.524"]
    assert row(text, "from 0.9 V at 0.5 a, j [rad]")[:2] == ["0.257", "0.513"]
    assert "tool: speed 1.7 m/s, acceleration 13 m/s^2; payload 3 kg" in text
    assert "q*" not in text


def test_the_table_of_the_fr3_has_the_law_of_its_speed(shown: Shown):
    text = shown("fr3")
    assert row(text, "K [rad/s^2]") == ["12.00", "5.17", "7.00", "8.00", "34.00", "11.00", "34.00"]
    assert row(text, "q* above [rad]")[3] == "-0.1458"
    assert row(text, "braking a_b [rad/s^2]")[:2] == ["4.80", "2.07"]
    printed = [0.038, 0.039, 0.029, 0.056, 0.0088, 0.056, 0.0088]
    assert [float(cell) for cell in row(text, "moved in by g0 [rad]")] == pytest.approx(printed, rel=0.02)


def test_what_is_assumed_stands_among_the_sources_line_by_line(shown: Shown):
    lines = shown("ur5e").splitlines()
    sources = lines[lines.index("sources") + 1 :]
    assert any("ours, assumed; Universal Robots publishes none" in line for line in sources)
    assert row("\n".join(lines), "torque rate [N m/s]") == ["none"]
    assert len([line for line in sources if line.startswith("  ")]) == 10


@pytest.mark.parametrize("arm", arms())
def test_every_arm_is_known_and_the_page_says_what_it_is_not(arm: str, shown: Shown):
    text = shown(arm)
    assert text.startswith(f"{arm}\n")
    assert "no safety-rated system" in text.splitlines()[-1]


@pytest.mark.parametrize("arm", arms())
def test_json_stands_alone_and_its_limits_can_be_given_back(arm: str, shown: Shown, tmp_path: Path):
    described = json.loads(shown(arm, "--json"))
    assert described["arm"] == arm
    assert "no safety-rated system" in described["note"]
    assert [stop["name"] for stop in described["stops"]] == ["full", "reduced"]
    assert (described["law_braking"] is None) == (arm != "fr3")
    own = tmp_path / "own.json"
    own.write_text(json.dumps(described["limits"]), encoding="utf-8")
    assert json.loads(shown(arm, "--json", "--limits", own)) == described


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_users_limits_take_the_place_of_some(shown: Shown, refused: Refused, tmp_path: Path):
    own = written(tmp_path / "own.json", {"acceleration": [4.0] * 7, "sources": ["measured here"]})
    text = shown("fr3", "--limits", own)
    assert row(text, "acceleration [rad/s^2]") == ["4.00"] * 7
    assert row(text, "K [rad/s^2]")[0] == "12.00"  # the law stays
    assert "  measured here" in text
    faster = written(tmp_path / "faster.json", {"speed": [2.62] * 6 + [5.3]})
    refused(["safety", "limits", "fr3", "--limits", faster], 1, "speed of J7 is 5.3, beyond 5.26 of arm 'fr3'")


def test_an_arm_of_a_file_needs_limits(shown: Shown, refused: Refused, tmp_path: Path):
    arm = written(tmp_path / "mine.xml", world_xml(PANDA, ()))
    refused(["safety", "limits", arm], 1, "mine.xml says nothing about speed, acceleration, jerk", "--limits FILE")
    own = written(tmp_path / "own.json", json.loads(shown("panda", "--json"))["limits"])
    text = shown(arm, "--limits", own, "--tool", "tcp")
    assert text.splitlines()[0] == "mine"
    assert text.splitlines()[1:] == shown("panda").splitlines()[1:]
    refused(["safety", "limits", arm, "--limits", own, "--tool", "tpc"], 2, "unknown tool 'tpc'", "Did you mean 'tcp'")


def test_unknown_arms_and_files_are_answered_with_what_is_known(refused: Refused, tmp_path: Path):
    refused(["safety", "limits", "pandas"], 2, "unknown arm 'pandas'; known: fr3, panda, ur5e", "Did you mean 'panda'")
    refused(["safety", "limits", tmp_path / "nothing.urdf"], 1, "nothing.urdf is not there")
    refused(["safety", "limits", written(tmp_path / "page.xml", "<html/>")], 1, "begins with <html>")
    refused(["safety", "limits", written(tmp_path / "arm", "no xml")], 1, "is not XML")
    refused(["safety", "limits", "panda", "--limits", tmp_path / "no.json"], 1, "no.json is not there")
    refused(["safety", "limits", "panda", "--tool", "tcp"], 2, "--tool is for files")


def test_neither_help_nor_a_known_arm_needs_mujoco_or_torch():
    for arguments, kept_out in (
        (["limits", "--help"], {"numpy", "mujoco", "torch"}),
        (["limits", "fr3"], {"mujoco", "torch"}),
    ):
        command = [sys.executable, "-X", "importtime", "-m", "ideomotor", "safety", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.MULTILINE))
        assert "tyro" in imported
        assert not imported & kept_out
