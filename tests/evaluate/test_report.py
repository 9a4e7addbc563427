import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from point_world import facts, outcomes, rollout

from ideomotor.core.errors import UserError
from ideomotor.evaluate.page import Clip, render
from ideomotor.evaluate.report import (
    comparison_section,
    curve_section,
    picture_section,
    rate_text,
    result_sections,
    save_evaluation,
    summary,
)
from ideomotor.evaluate.result import LABEL, Result, percentiles, record, stopped
from ideomotor.evaluate.rollout import Crash, Failure, Success
from ideomotor.evaluate.suites import InDistribution, InstructionSwap, Paraphrase, count

EVIL = "<script>alert(1)</script>"


def result(text, suite="in-distribution", told="pick up the red cube", policy="shipped", crashes=0, details=None):
    runs = [rollout(outcome, seed, task="pick", told=told) for seed, outcome in enumerate(outcomes(text))]
    runs += [rollout(Crash(f"no table {EVIL}"), 1000 + i, task="pick") for i in range(crashes)]
    return Result(
        suite=suite,
        arm="panda",
        seed=0,
        policy=policy,
        policy_id="abc",
        tasks={"pick": {**count(runs), **(details or {})}},
        episodes=[record(run, facts()) for run in runs],
        embodiment_hash="00",
        renderer="ray",
        latency_ms=percentiles([0.02, 0.04], 8),
        seconds=12.0,
        versions={"python": "3"},
    )


def test_result_file_has_the_agreed_fields(tmp_path):
    result("s" * 8 + "f" * 2).save(tmp_path / "result.json")
    value = json.loads((tmp_path / "result.json").read_text())
    assert {"suite", "arm", "seed", "policy", "tasks", "episodes", "versions", "label"} <= value.keys()
    assert value["label"] == "Ideomotor tabletop, not a published benchmark; does not predict real robots"
    counts = value["tasks"]["pick"]
    assert (counts["successes"], counts["episodes"], counts["crashes"]) == (8, 10, 0)
    assert counts["interval"] == pytest.approx([0.4439, 0.9748], abs=5.1e-5)
    assert [episode["seed"] for episode in value["episodes"]] == list(range(10))
    assert {episode["outcome"] for episode in value["episodes"]} == {"success", "failure"}


def test_result_comes_back_equal(tmp_path):
    before = result("ssf")
    before.save(tmp_path / "result.json")
    after = Result.load(tmp_path / "result.json")
    assert json.dumps(vars(after)) == json.dumps(vars(before))


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 99}', "\xff"])
def test_file_that_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"ideomotor eval"):
        Result.load(path)


def test_rate_never_stands_without_its_interval():
    assert rate_text(count([rollout(o) for o in outcomes("s" * 16 + "f" * 4)])) == (
        "80.0 % (16 of 20, 95 % interval 56.3 to 94.3 %)"
    )


def test_too_many_crashes_print_no_rate():
    crashed = result("s" * 50 + "f" * 48, crashes=2)
    page = render("t", result_sections(crashed, {}))
    assert "no rate: 2 of 100 episodes crashed (at most 1% may)" in page
    assert "51.0" not in page
    assert "50.0 %" not in page
    assert summary(crashed) == ["pick: no rate: 2 of 100 episodes crashed (at most 1% may)"]
    assert "no table &lt;script&gt;" in page


def test_every_foreign_text_of_a_report_is_escaped():
    evil = result("ssff", told=EVIL, policy=EVIL, suite=EVIL)
    evil = replace(evil, tasks={EVIL: evil.tasks["pick"]}, renderer=EVIL, versions={EVIL: EVIL}, policy_id=EVIL)
    evil = replace(evil, episodes=[{**e, "task": EVIL} for e in evil.episodes])
    clips = {EVIL: [Clip(b"", EVIL, "success", EVIL)]}
    sections = [*result_sections(evil, clips), comparison_section(evil, evil, (EVIL, EVIL))]
    page = render(EVIL, [*sections, picture_section(EVIL, [({"front": np.zeros((2, 2, 3), np.uint8)}, EVIL)])])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20


def test_saving_writes_both_files_and_leaves_nothing_else(tmp_path):
    save_evaluation(tmp_path / "out", result("ssf"), {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "result.json"]
    assert LABEL in (tmp_path / "out" / "report.html").read_text()


def test_comparison_pairs_by_scene():
    before = result("f" * 12 + "s" * 3 + "s" * 20 + "f" * 15)
    after = result("s" * 12 + "f" * 3 + "s" * 20 + "f" * 15)
    page = render("t", [comparison_section(before, after)])
    assert "+18.0 points (95 % interval +2.5 to +32.1; 50 pairs, 12 to 3 discordant, McNemar p = 0.035)" in page


def test_comparison_of_different_scenes_is_refused():
    with pytest.raises(UserError, match="same --suite, --seed"):
        comparison_section(result("sss"), result("ssss"))


def test_suite_s_own_numbers_are_told():
    plain = [(rollout(o, seed, task="pick"), facts()) for seed, o in enumerate(outcomes("ssf"))]
    paired = Paraphrase().details({c.name: plain for c in Paraphrase().conditions})
    assert "held-out minus trained +0.0 points" in summary(result("ssf", details=paired))[0]
    swapped = InstructionSwap().details({InstructionSwap().conditions[0].name: plain})
    assert "the first object touched was the named one in 100.0 % (3 of 3" in summary(result("ssf", details=swapped))[0]
    assert InDistribution().details({}) == {}


@pytest.mark.parametrize(
    ("touched", "lifted", "words"),
    [
        (None, None, "touched no object"),
        ("blue can", None, "touched another object first"),
        ("red cube", None, "did not lift the named object"),
        ("red cube", "blue can", "lifted another object"),
        ("blue can", "red cube", "lifted it, did not finish"),
    ],
)
def test_failure_is_told_by_how_far_it_came(touched, lifted, words):
    assert stopped(rollout(Failure()), facts(touched, lifted)) == words
    assert stopped(rollout(Success()), facts(touched, lifted)) is None


def test_missing_curves_are_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"curves\.png"):
        curve_section("Training", tmp_path / "curves.png", "loss")
