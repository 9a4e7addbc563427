import json
from dataclasses import replace

import numpy as np
import pytest

from ideomotor.core.errors import UsageError
from ideomotor.core.spec import SpecMismatchError
from ideomotor.evaluate.config import EvalConfig
from ideomotor.evaluate.controls import Expert, RandomPolicy
from ideomotor.evaluate.measure import describe, evaluate
from ideomotor.evaluate.report import save_evaluation
from ideomotor.evaluate.rollout import Attempt, Condition, Failure, Rollout, Success
from ideomotor.evaluate.suites import Blind, InDistribution, InstructionSwap, Paraphrase
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import EnvConfig, tabletop_embodiment
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON

ENV = EnvConfig(PANDA, (PICK, PLACE_ON))
EMBODIMENT = tabletop_embodiment(PANDA, ENV.renderer)


def configure(folder, **changes):
    return replace(EvalConfig(out=folder, policy="expert", episodes=2, workers=2, videos=1), **changes)


def test_expert_succeeds_and_result_and_report_are_written(tmp_path):
    evaluation = evaluate(configure(tmp_path), Expert(), ENV, InDistribution())
    save_evaluation(tmp_path, evaluation.result, evaluation.clips)
    value = json.loads((tmp_path / "result.json").read_text())
    for task in ("pick", "place_on"):
        counts = value["tasks"][task]
        assert (counts["successes"], counts["episodes"], counts["crashes"]) == (2, 2, 0)
        assert counts["interval"] == pytest.approx([0.025**0.5, 1.0])  # exact for n of n: the n-th root of 2.5 %
    assert value["embodiment_hash"] == EMBODIMENT.hash
    assert [episode["first_touched"] == episode["named"] for episode in value["episodes"]] == [True] * 4
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4") == 2  # the replay of the recorded actions succeeded again
    for episode in value["episodes"]:
        assert episode["named"] in episode["instruction"]


def test_swap_names_another_object_of_the_same_scene(tmp_path):
    config = configure(tmp_path, videos=0)
    plain = evaluate(config, Expert(), replace(ENV, tasks=(PICK,)), InDistribution()).result
    swapped = evaluate(config, Expert(), replace(ENV, tasks=(PICK,)), InstructionSwap()).result
    for a, b in zip(plain.episodes, swapped.episodes, strict=True):
        assert a["seed"] == b["seed"]
        assert a["graspable"] == b["graspable"]
        assert a["named"] != b["named"]
    assert swapped.tasks["pick"]["named_first"]["share"] == 1.0


def test_random_arm_fails_equally_on_any_number_of_processes(tmp_path):
    env = replace(ENV, tasks=(PICK,), horizon=8)
    results = [
        evaluate(
            configure(tmp_path, policy="random", workers=n, videos=0), RandomPolicy(EMBODIMENT), env, Blind()
        ).result
        for n in (1, 2)
    ]
    assert results[0].episodes == results[1].episodes
    assert results[0].tasks["pick"]["successes"] == 0
    assert results[0].latency_ms["batch"] == 8
    assert {episode["steps"] for episode in results[0].episodes} == {8}


def test_paraphrase_runs_both_wordings_on_the_same_seeds(tmp_path):
    env = replace(ENV, tasks=(PICK,))
    result = evaluate(configure(tmp_path, videos=0), Expert(), env, Paraphrase()).result
    assert result.tasks["pick"]["episodes"] == 2
    assert result.tasks["pick"]["paired"]["pairs"] == 2
    held_out, trained = result.episodes[:2], result.episodes[2:]
    for a, b in zip(held_out, trained, strict=True):
        assert (a["seed"], a["named"]) == (b["seed"], b["named"])
        assert a["instruction"] != b["instruction"]


def test_policy_of_another_embodiment_is_refused_before_the_first_step(tmp_path):
    policy = RandomPolicy(replace(EMBODIMENT, rate_hz=5.0))
    with pytest.raises(SpecMismatchError, match="rate_hz"):
        evaluate(configure(tmp_path, policy="random", workers=1), policy, ENV, InDistribution())


@pytest.mark.parametrize("changes", [{"episodes": 0}, {"seed": -1}, {"workers": -1}, {"videos": -1}])
def test_impossible_numbers_are_refused(tmp_path, changes):
    with pytest.raises(UsageError, match="allowed are whole numbers"):
        evaluate(configure(tmp_path, **changes), Expert(), ENV, InDistribution())


def test_file_in_the_place_of_the_results_is_refused_at_once(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        evaluate(configure(tmp_path / "out"), Expert(), ENV, InDistribution())
    assert (tmp_path / "out").read_text() == "mine"


def test_facts_name_the_objects_that_the_indices_mean():
    attempt = Attempt("pick", 3, Condition("plain"))
    actions = np.zeros((0, 7))
    untouched = describe(ENV, Rollout(attempt, "", "", Failure(), {"first_touched": -1, "first_lifted": -1}, actions))
    assert (untouched.first_touched, untouched.first_lifted) == (None, None)
    assert untouched.named in untouched.graspable
    seen = {
        describe(ENV, Rollout(attempt, "", "", Success(), {"first_touched": i}, actions)).first_touched
        for i in range(4)
    }
    assert set(untouched.graspable) <= seen
