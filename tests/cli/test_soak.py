"""`ideomotor safety soak`: adversaries against the shield, the independent checker as judge."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ideomotor.cli.main import run
from ideomotor.robot import soak as job
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.soak import Soak, Tally

FIELDS = {"proposals", "ticks", "violations", "interventions", "accepted_share", "tool_path_m", "stops", "recoveries"}


def alone(*options: str) -> tuple[int, dict[str, Any]]:
    """Run the command in a process of its own, as a user does: nothing slows it down there."""
    command = [sys.executable, "-m", "ideomotor", "safety", "soak", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)  # JSON alone


@pytest.mark.parametrize(("arm", "seed"), [("panda", 101), ("ur5e", 102), ("fr3", 103)])
def test_a_hundred_thousand_proposals_find_no_way_through(arm: str, seed: int):
    """A third of them for each arm; the large run is in the docs."""
    code, report = alone("--arm", arm, "--proposals", "34000", "--seed", str(seed))
    assert report["violations"] == {}, report["examples"]
    assert code == 0
    assert report.keys() >= FIELDS | {"p50", "p99"}
    assert report["proposals"] >= 34_000
    assert report["benign_altered"] == 0
    assert report["benign_path_rad"] > 3.0  # the FR3 is slow near its limits
    assert report["accepted_share"]["benign"] == 1.0
    assert report["accepted_share"]["uniform"] > 0.3
    assert report["stops"] == report["recoveries"] > 5
    assert report["slowest_recovery_s"] <= 2.0
    assert report["tool_path_m"] > 30.0
    assert {"nonfinite", "shape", "stale", "out_of_order", "collision", "joint_position"} <= report[
        "interventions"
    ].keys()


def test_a_world_of_the_user_is_kept_to(tmp_path: Path):
    world = {
        "bounds": {"low": [-0.7, -0.7, 0.05], "high": [0.7, 0.7, 1.1]},
        "obstacles": [{"name": "post", "shape": {"type": "CapsuleShape", "start": [0.4, 0.4, 0], "end": [0.4, 0.4, 1], "radius": 0.05}}],
        "margins": {"obstacle": 0.06},
    }  # fmt: skip
    (tmp_path / "world.json").write_text(json.dumps(world))
    code, report = alone("--proposals", "2000", "--world", str(tmp_path / "world.json"))
    assert (code, report["violations"]) == (0, {})


def test_a_world_in_which_the_arm_cannot_stand_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ball = {"name": "ball", "shape": {"type": "Sphere", "centre": [0.45, 0.0, 0.4], "radius": 0.3}}
    (tmp_path / "world.json").write_text(json.dumps({"obstacles": [ball]}))
    assert run(["safety", "soak", "--proposals", "100", "--world", str(tmp_path / "world.json")]) == 1
    assert "panda stands inside a margin at home" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--proposals", "0"], ["--seed", "-1"], ["--workers", "0"], ["--arm", "pnada"]])
def test_silly_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(["safety", "soak", *options]) == 2
    assert "allowed" in (said := capsys.readouterr().err) or "Did you mean 'panda'" in said


def tally(**changes: Any) -> Tally:
    found = Tally(proposals=2000, ticks=2000, benign_path=5.0, stops=3, recoveries=3)
    found.asked.update(uniform=1000, benign=1500)
    found.accepted.update(uniform=900, benign=1500)
    for name, value in changes.items():
        mine = getattr(found, name)
        mine.update(value) if isinstance(value, dict) else setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"violations": {"obstacle": 2}}, "2 violations"),
        ({"altered": 1}, "1 benign proposals were altered"),
        ({"accepted": {"uniform": -601}}, "only 30% of uniform targets were accepted"),
        ({"recoveries": 2}, "1 of 3 stops did not recover in 2 s"),
        ({"benign_path": 0.5}, "benign proposals hardly moved"),
    ],
)
def test_each_fault_ends_with_exit_code_1(
    changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(job, "run", lambda *_: tally(**changes))
    assert run(["safety", "soak", "--json"]) == 1
    assert says in capsys.readouterr().err
    monkeypatch.setattr(job, "run", lambda *_: tally())
    assert run(["safety", "soak", "--json"]) == 0


def test_a_run_that_was_cut_off_goes_on_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def block(_: Soak, index: int) -> Tally:
        calls.append(index)
        return Tally(proposals=10 + index, violations=job.Counter({"obstacle": index}))

    monkeypatch.setattr(job, "run_block", block)
    out = tmp_path / "soak.jsonl"
    whole = job.run(Soak(PANDA, 50), out)
    assert calls == [0, 1, 2, 3, 4]  # 10 + 11 + 12 + 13 = 46 are not enough
    assert (whole.proposals, whole.violations["obstacle"]) == (60, 10)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote the third block
    calls.clear()
    again = job.run(Soak(PANDA, 50), out)
    assert calls == [2, 3, 4]
    assert again == whole
    with pytest.raises(job.UserError, match="belongs to a soak of another arm, seed"):
        job.run(Soak(PANDA, 50, seed=1), out)
