"""Named training runs: functions that return configurations."""

from dataclasses import replace

from ideomotor.collect.config import CollectConfig
from ideomotor.recipes.config import Recipe, RecipeConfig
from ideomotor.train.config import FrozenTower, Lora, TrainConfig, Vision

# Seeds of the collections lie apart; `scenes` draws layouts of its own below 900000; seeds from there up are for final measurements.
SCENE_SEEDS, EXPERT_SEEDS, CORRECTION_SEEDS = 0, 100_000, 200_000


def small_tabletop(run: RecipeConfig) -> Recipe:
    """Train the policy that ships: what is where, then how to act, then what to do after its own mistakes."""

    def amount(published: int) -> int:
        return max(8, round(published * run.size))

    def folder(name: str) -> str:
        return f"{run.out}/{name}"

    def collect(name: str, episodes: int, seed: int) -> CollectConfig:
        return CollectConfig(folder(name), episodes=amount(episodes), seed=run.seed + seed, workers=run.processes)

    stage = TrainConfig(
        data="",
        out="",
        tasks="pick,place_on",
        word_dropout=0.1,
        seed=run.seed,
        processes=run.processes,
        precision=run.precision,
    )
    scenes, demonstrations, corrections = (folder(f"data-{name}") for name in ("scenes", "expert", "corrections"))
    return Recipe(
        (
            replace(collect("data-scenes", 700, SCENE_SEEDS), source="scenes"),
            collect("data-expert", 3600, EXPERT_SEEDS),
            replace(
                stage,
                data=f"{scenes},{demonstrations}",
                weights="0.4,0.6",
                out=folder("1-vision"),
                stage=Vision(),
                steps=amount(2600),
                learning_rate=2e-3,
            ),
            replace(
                stage,
                data=demonstrations,
                out=folder("2-act"),
                init=folder("1-vision/final"),
                stage=FrozenTower(),
                steps=amount(3600),
                learning_rate=1.5e-3,
            ),
            replace(
                collect("data-corrections", 1600, CORRECTION_SEEDS), source="corrections", policy=folder("2-act/final")
            ),
            replace(
                stage,
                data=f"{demonstrations},{corrections}",
                weights="0.5,0.5",
                out=folder("3-correct"),
                init=folder("2-act/final"),
                stage=FrozenTower(),
                steps=amount(2600),
                learning_rate=1e-3,
            ),
            replace(
                stage,
                data=f"{demonstrations},{corrections}",
                weights="0.5,0.5",
                out=folder("policy"),
                init=folder("3-correct/final"),
                stage=FrozenTower(),
                steps=amount(1000),
                learning_rate=4e-4,
                word_noise=0.3,
            ),
        )
    )


def openvla_lora(init: str, data: str, out: str) -> TrainConfig:
    """Fine-tune an OpenVLA on a dataset as its own script does (vla-scripts/finetune.py): AdamW at a constant rate, no clipping, batches of 16."""
    return TrainConfig(
        data=data,
        out=out,
        init=init,
        stage=Lora(),
        steps=200_000,  # at most, as there; a few thousand are enough for a few dozen episodes
        batch=16,
        learning_rate=5e-4,
        warm_up=0,
        final_share=1.0,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        clip=0.0,
        checkpoint_every=5000,
        eval_every=1000,
        validation_windows=256,
        brightness=0.0,
        contrast=0.0,
    )
