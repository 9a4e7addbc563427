import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from point_world import PointEnvs, PointPolicy, attempts, facts, outcomes, rollout

import ideomotor.cli.eval
from ideomotor.cli.main import run
from ideomotor.core.errors import UsageError
from ideomotor.evaluate.config import EvalConfig
from ideomotor.evaluate.controls import Expert, RandomPolicy
from ideomotor.evaluate.measure import Evaluation, evaluate, interventions
from ideomotor.evaluate.page import render
from ideomotor.evaluate.report import result_sections, save_evaluation, summary
from ideomotor.evaluate.result import Result, record
from ideomotor.evaluate.rollout import Latency, roll_out
from ideomotor.evaluate.suites import InDistribution, count
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import EnvConfig, tabletop_embodiment
from ideomotor.sim.shielded import ShieldOptions, ShieldRecord
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON
from ideomotor.sim.workers import Advance

CLEAN = ShieldRecord(100, 3, 1, None, {"collision": 2, "acceleration": 1}, {}, {}, ())
HELD = ShieldRecord(300, 200, 150, "tracking_error", {"tracking_error": 150, "collision": 50}, {"object": 4}, {}, ())
BROKEN = ShieldRecord(100, 0, 0, None, {}, {"table": 2}, {"obstacle": 2, "jerk": 1}, ("tick 7: <b>obstacle</b>",))
OPTIONS = {"shares": {"speed": 1.0}, "tool_speed": None, "wait": 0.5, "margins": {"table": 0.025}, "tick": 0.01}


def result(*records: ShieldRecord, text="sf") -> Result:
    runs = [
        replace(rollout(outcome, seed, task="pick"), shield=one)
        for (seed, outcome), one in zip(enumerate(outcomes(text)), records, strict=True)
    ]
    return Result(
        suite="in-distribution",
        arm="panda",
        seed=0,
        policy="shipped",
        policy_id="abc",
        tasks={"pick": {**count(runs), "shield": interventions(runs)}},
        episodes=[record(run, facts()) for run in runs],
        embodiment_hash="00",
        renderer="ray",
        latency_ms={"calls": 0, "batch": 8},
        seconds=1.0,
        versions={},
        shield=OPTIONS,
    )


def test_interventions_add_up_over_episodes():
    counts = result(CLEAN, HELD).tasks["pick"]["shield"]
    assert (counts["episodes"], counts["ticks"], counts["altered"], counts["stopped"]) == (2, 400, 203, 151)
    assert counts["reasons"]["collision"] == {"ticks": 52, "episodes": 2}
    assert counts["reasons"]["acceleration"] == {"ticks": 1, "episodes": 1}
    assert counts["latched"] == {"tracking_error": 1}
    assert counts["touched"] == {"object": 4}
    assert counts["violations"] == {}
    assert counts["seconds_per_step"] == pytest.approx(4.0 / 8)  # 400 ticks of 10 ms in two episodes of 4 steps


def test_without_a_shield_nothing_is_said_of_one(tmp_path):
    plain = [rollout(outcome, seed, task="pick") for seed, outcome in enumerate(outcomes("sf"))]
    assert interventions(plain) is None
    assert "shield" not in record(plain[0], facts())
    bare = replace(result(CLEAN, HELD), shield=None, tasks={"pick": count(plain)})
    bare = replace(bare, episodes=[record(one, facts()) for one in plain])
    save_evaluation(tmp_path, bare, {})
    assert "shield" not in (tmp_path / "result.json").read_text()
    assert "hield" not in (tmp_path / "report.html").read_text()
    assert len(summary(bare)) == 1


def test_summary_tells_interventions_beside_success():
    lines = summary(result(CLEAN, HELD))
    assert lines[0].startswith("pick: 50.0 % (1 of 2")
    assert lines[1] == (
        "pick, shield: 50.7 % of the ticks altered, 37.8 % stopped; ticks an episode by reason: tracking_error 75.00, "
        "collision 26.00, acceleration 0.50; episodes in which the arm was held until the end: 1 (tracking_error)"
    )
    assert lines[2] == "checker: no violation in any command that the arm got"


def test_violations_are_a_warning_of_the_page_and_the_last_line_of_the_summary():
    broken = result(CLEAN, BROKEN)
    assert broken.violations == {"obstacle": 2, "jerk": 1}
    assert summary(broken)[-1].startswith("VIOLATIONS: the arm broke what the shield promises (obstacle 2, jerk 1)")
    page = render("t", result_sections(broken, {}))
    assert '<p class="warning">VIOLATIONS: ' in page
    assert "obstacle 2, jerk 1" in page
    assert "tick 7: &lt;b&gt;obstacle&lt;/b&gt;" in page
    assert '<p class="warning">' not in render("t", result_sections(result(CLEAN, HELD), {}))


def test_page_tells_reasons_an_episode_and_how_it_was_shielded():
    page = render("t", result_sections(result(CLEAN, HELD), {}))
    assert "<td>pick</td><td>collision</td><td>26.00</td><td>2 of 2</td>" in page
    assert "25 mm from the table" in page
    assert "no safety-rated system" in page


def test_result_with_a_shield_comes_back_equal(tmp_path):
    before = result(CLEAN, BROKEN)
    before.save(tmp_path / "result.json")
    after = Result.load(tmp_path / "result.json")
    assert after.violations == before.violations
    assert json.dumps(vars(after)) == json.dumps(vars(before))
    assert after.episodes[1]["shield"]["reasons"] == {}


class ShieldedPoints(PointEnvs):
    """Points whose episodes end with a record."""

    def _advance(self, slot, rows):
        result = super()._advance(slot, rows)
        return replace(result, shield=CLEAN) if isinstance(result, Advance) and result.done else result


def test_record_of_an_episode_reaches_its_rollout():
    rollouts = roll_out(ShieldedPoints(), PointPolicy(), attempts([2, 5, 30]), Latency(), lambda _: None)
    assert [one.shield for one in rollouts] == [CLEAN] * 3
    crashed = roll_out(ShieldedPoints(broken=(2,)), PointPolicy(), attempts([2]), Latency(), lambda _: None)
    assert crashed[0].shield is None


def test_expert_behind_the_shield_is_measured_and_reported(tmp_path):
    env = EnvConfig(PANDA, (PICK, PLACE_ON), shield=ShieldOptions())
    config = EvalConfig(out=tmp_path, policy="expert", episodes=1, workers=1, videos=1, seed=12)
    evaluation = evaluate(config, Expert(), env, InDistribution())
    save_evaluation(tmp_path, evaluation.result, evaluation.clips)
    value = json.loads((tmp_path / "result.json").read_text())
    assert value["shield"]["margins"] == {"table": 0.025}
    for task in ("pick", "place_on"):
        counts = value["tasks"][task]
        assert (counts["successes"], counts["shield"]["altered"], counts["shield"]["violations"]) == (1, 0, {})
        assert counts["shield"]["seconds_per_step"] > 0.1
    for episode in value["episodes"]:
        assert episode["shield"]["ticks"] >= 10 * episode["steps"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4") == 2  # the recorded actions do the same again
    assert "<h2>Shield</h2>" in page


def test_random_actions_behind_the_shield_are_equal_on_any_number_of_processes(tmp_path):
    env = EnvConfig(PANDA, (PICK,), horizon=6, shield=ShieldOptions())
    policy = RandomPolicy(tabletop_embodiment(PANDA, env.renderer))
    results = [
        evaluate(EvalConfig(tmp_path, "random", episodes=2, workers=n, videos=0), policy, env, InDistribution()).result
        for n in (1, 2)
    ]
    assert results[0].episodes == results[1].episodes
    assert results[0].violations == {}
    assert {episode["steps"] for episode in results[0].episodes} == {6}


@pytest.mark.parametrize(("records", "code"), [((CLEAN, HELD), 0), ((CLEAN, BROKEN), 1)])
def test_violations_make_the_exit_code(tmp_path, monkeypatch, capsys, records, code):
    monkeypatch.setattr(ideomotor.cli.eval, "evaluated", lambda _: Evaluation(result(*records), {}))
    assert run(["eval", "--out", str(tmp_path), "--shield"]) == code
    assert ("VIOLATIONS" in capsys.readouterr().out) == bool(code)
    assert (tmp_path / "report.html").is_file()


def test_the_command_line_shields_the_arm(tmp_path, monkeypatch):
    seen = []

    def measured(config, policy, env, suite):
        seen.append(env.shield)
        return Evaluation(result(CLEAN, HELD), {})

    monkeypatch.setattr("ideomotor.evaluate.measure.evaluate", measured)
    base = ["eval", "--policy", "expert", "--out", str(tmp_path)]
    for arguments in ([], ["--shield"], ["--shield", "--shield-speed", "0.25"]):
        assert run([*base, *arguments]) == 0
    assert seen == [None, ShieldOptions(), ShieldOptions(tool_speed=0.25)]


@pytest.mark.parametrize(
    "config", [{"shield_speed": 0.25}, {"shield": True, "shield_speed": 0.0}, {"shield": True, "shield_speed": np.nan}]
)
def test_impossible_shields_are_refused(tmp_path, config):
    with pytest.raises(UsageError, match="--shield-speed"):
        ideomotor.cli.eval.evaluated(EvalConfig(tmp_path, policy="expert", **config))
