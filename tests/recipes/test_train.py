"""A recipe is a list of jobs; what one of them takes, an earlier one has made."""

from pathlib import Path

import numpy as np
import pytest

from ideomotor.cli.train import run_recipe
from ideomotor.collect.config import CollectConfig
from ideomotor.recipes.config import RecipeConfig
from ideomotor.recipes.train import small_tabletop
from ideomotor.train.config import FrozenTower, TrainConfig, Vision

FINAL_SEEDS = 900_000  # from here up: final measurements only
SIZES = (0.01, 1.0)


def jobs(size: float, seed: int = 0) -> tuple[CollectConfig | TrainConfig, ...]:
    return small_tabletop(RecipeConfig("run", seed=seed, size=size)).jobs


def collections(size: float) -> list[CollectConfig]:
    return [job for job in jobs(size) if isinstance(job, CollectConfig)]


def trainings(size: float) -> list[TrainConfig]:
    return [job for job in jobs(size) if isinstance(job, TrainConfig)]


@pytest.mark.parametrize("size", SIZES)
def test_every_job_finds_what_it_needs_where_an_earlier_one_put_it(size: float):
    data: set[str] = set()
    policies: set[str] = set()
    for job in jobs(size):
        match job:
            case CollectConfig():
                assert job.source != "corrections" or job.policy in policies
                data.add(job.out)
            case TrainConfig():
                assert set(job.data.split(",")) <= data
                assert job.init in policies | {""}
                policies.add(f"{job.out}/final")


@pytest.mark.parametrize("size", SIZES)
def test_every_job_has_a_folder_of_its_own_in_that_of_the_run(size: float):
    folders = [job.out for job in jobs(size)]
    assert len(set(folders)) == len(folders)
    assert {str(Path(folder).parent) for folder in folders} == {"run"}
    assert folders[-1] == "run/policy"  # where `--policy run` finds it


def test_collections_share_no_scene_with_each_other_or_with_final_measurements():
    taken: set[int] = set()
    for job in collections(1.0):
        seeds = set(range(job.seed, job.seed + job.episodes))
        assert not seeds & taken
        assert max(seeds) < FINAL_SEEDS
        taken |= seeds


def test_the_stages_are_what_is_where_then_how_to_act():
    first, *others = trainings(1.0)
    assert (type(first.stage), first.init) == (Vision, "")
    assert others
    assert all(isinstance(job.stage, FrozenTower) for job in others)
    for job in trainings(1.0):
        assert not job.weights or len(job.weights.split(",")) == len(job.data.split(","))
        assert job.tasks == "pick,place_on"


def test_a_share_of_the_recipe_is_the_same_recipe_with_less_of_everything():
    for small, full in zip(jobs(0.1), jobs(1.0), strict=True):
        assert (small.out, small.seed, type(small)) == (full.out, full.seed, type(full))
        ours, theirs = (job.episodes if isinstance(job, CollectConfig) else job.steps for job in (small, full))
        assert ours == pytest.approx(0.1 * theirs, abs=0.5)


def test_the_seed_of_the_run_reaches_every_job():
    for plain, moved in zip(jobs(1.0), jobs(1.0, seed=7), strict=True):
        assert moved.seed == plain.seed + 7


@pytest.mark.slow
def test_a_tiny_run_of_the_recipe_gives_a_policy_that_acts_and_running_it_again_changes_nothing(tmp_path: Path):
    from ideomotor.core.types import Observation
    from ideomotor.policy.local import load_policy

    recipe = small_tabletop(RecipeConfig(str(tmp_path / "run"), size=0.002, processes=2))
    run_recipe(recipe)
    policy = load_policy(str(tmp_path / "run"))
    assert policy.tasks == ("pick", "place_on")
    black = {role: np.zeros((96, 96, 3), np.uint8) for role in ("front", "wrist")}
    policy.reset("pick up the red cube")
    chunk = policy.act(Observation(0.0, black, np.zeros(10, np.float32)))
    assert chunk.actions.shape == (4, 7)
    assert (np.abs(chunk.actions[:, :3]) <= 0.05).all()
    weights = tmp_path / "run" / "policy" / "final" / "model.safetensors"
    before, changed = weights.read_bytes(), weights.stat().st_mtime_ns
    run_recipe(recipe)
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == (before, changed)
