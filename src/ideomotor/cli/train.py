"""`ideomotor train [RECIPE]`: train a policy on demonstrations, or run a whole recipe."""

import time
from collections.abc import Callable

import tyro

from ideomotor.collect.config import CollectConfig
from ideomotor.core.errors import unknown
from ideomotor.recipes.config import Recipe, RecipeConfig
from ideomotor.recipes.train import small_tabletop
from ideomotor.train.config import TrainConfig

RECIPES: dict[str, Callable[[RecipeConfig], Recipe]] = {"small-tabletop": small_tabletop}


def main(arguments: list[str]) -> None:
    """Parse the command line, and train."""
    if arguments and not arguments[0].startswith(("-", "stage:")):
        if arguments[0] not in RECIPES:
            raise unknown("recipe", arguments[0], RECIPES)
        name = arguments[0]
        run = tyro.cli(RecipeConfig, prog=f"ideomotor train {name}", args=arguments[1:])
        run_recipe(RECIPES[name](run))
        return
    recipes = f"A recipe runs as `ideomotor train NAME --out DIR`; there are: {', '.join(RECIPES)}."
    config = tyro.cli(
        TrainConfig, prog="ideomotor train", args=arguments, description=f"{TrainConfig.__doc__} {recipes}"
    )
    from ideomotor.train.loop import train

    print(f"policy: {train(config)}")


def run_recipe(recipe: Recipe) -> None:
    """Run the jobs in order. Finished ones are recognised in their folders and pass at once."""
    from ideomotor.cli.collect import collect
    from ideomotor.train.loop import train_or_continue
    from ideomotor.train.parallel import InterruptedRunError

    start = time.monotonic()
    for number, job in enumerate(recipe.jobs, 1):
        minutes = (time.monotonic() - start) / 60
        print(f"[{number}/{len(recipe.jobs)}, after {minutes:.0f} min] {type(job).__name__} -> {job.out}", flush=True)
        match job:
            case CollectConfig():
                collect(job)
            case TrainConfig():
                try:
                    print(f"policy: {train_or_continue(job)}", flush=True)
                except InterruptedRunError as stop:
                    raise InterruptedRunError(
                        "stopped as asked; everything is saved. Give the same command again to go on"
                    ) from stop
