"""Named training runs: functions that return configurations."""

from dataclasses import replace

from ideomotor.collect.config import CollectConfig
from ideomotor.recipes.config import Recipe, RecipeConfig
from ideomotor.train.config import Everything, FrozenTower, TrainConfig, Vision

# Seeds of the collections lie apart, so that no two of them share a scene; seeds from 900000 up are for final measurements.
SCENE_SEEDS, EXPERT_SEEDS, CORRECTION_SEEDS = 0, 100_000, (200_000, 300_000)


def small_tabletop(run: RecipeConfig) -> Recipe:
    """Train the policy that ships: what is where, then how to act, then what to do after its own mistakes."""

    def amount(published: int) -> int:
        return max(8, round(published * run.size))

    def folder(name: str) -> str:
        return f"{run.out}/{name}"

    def collect(name: str, episodes: int, seed: int) -> CollectConfig:
        return CollectConfig(folder(name), episodes=amount(episodes), seed=run.seed + seed, workers=run.processes)

    def corrections(name: str, episodes: int, seed: int, policy: str) -> CollectConfig:
        return replace(collect(name, episodes, seed), source="corrections", policy=folder(policy))

    stage = TrainConfig(data="", out="", tasks="pick,place_on", seed=run.seed, processes=run.processes)
    demonstrations, first, second = folder("data-expert"), folder("data-corrections-1"), folder("data-corrections-2")
    return Recipe(
        (
            replace(collect("data-scenes", 2000, SCENE_SEEDS), source="scenes"),
            collect("data-expert", 6000, EXPERT_SEEDS),
            replace(
                stage, data=folder("data-scenes"), out=folder("1-vision"), stage=Vision(), steps=amount(4000), learning_rate=2e-3
            ),
            replace(
                stage,
                data=demonstrations,
                out=folder("2-act"),
                init=folder("1-vision/final"),
                stage=FrozenTower(),
                steps=amount(6000),
                learning_rate=1.5e-3,
                word_dropout=0.1,
            ),
            corrections("data-corrections-1", 3000, CORRECTION_SEEDS[0], "2-act/final"),
            replace(
                stage,
                data=f"{demonstrations},{first}",
                out=folder("3-correct"),
                init=folder("2-act/final"),
                stage=FrozenTower(),
                steps=amount(4000),
                learning_rate=1e-3,
                word_dropout=0.1,
            ),
            corrections("data-corrections-2", 3000, CORRECTION_SEEDS[1], "3-correct/final"),
            replace(
                stage,
                data=f"{demonstrations},{first},{second}",
                out=folder("policy"),
                init=folder("3-correct/final"),
                stage=Everything(tower_rate=0.3),
                steps=amount(4000),
                learning_rate=5e-4,
                word_dropout=0.1,
            ),
        )
    )
