"""`ideomotor train [RECIPE]`: train a policy on demonstrations, fine-tune an OpenVLA with `--lora`, or run a whole recipe."""

import time
from collections.abc import Callable

import tyro

from ideomotor.collect.config import CollectConfig
from ideomotor.core.errors import UsageError, unknown
from ideomotor.recipes.config import Recipe, RecipeConfig
from ideomotor.recipes.train import openvla_lora, small_tabletop
from ideomotor.train.config import Lora, TrainConfig

LORA = "--lora"
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
    config = lora_config(arguments) if {LORA, "stage:lora"} & set(arguments) else slots_config(arguments)
    from ideomotor.train.loop import train

    print(f"policy: {train(config)}")


def slots_config(arguments: list[str]) -> TrainConfig:
    """Parse the options of a run on a network with learned slots."""
    more = (
        f"A recipe runs as `ideomotor train NAME --out DIR`; there are: {', '.join(RECIPES)}. `ideomotor train --init DIR {LORA}`"
        f" fine-tunes an OpenVLA; `ideomotor train {LORA} --help` shows its options."
    )
    return tyro.cli(TrainConfig, prog="ideomotor train", args=arguments, description=f"{TrainConfig.__doc__} {more}")


def lora_config(arguments: list[str]) -> TrainConfig:
    """Parse the options of a fine-tuning run on an OpenVLA; what is not given is as in OpenVLA's own script.

    Raises:
        UsageError: another stage is asked for too, or something is left open.
    """
    others = [argument for argument in arguments if argument.startswith("stage:") and argument != "stage:lora"]
    if others:
        raise UsageError(f"{LORA} is a stage of its own; leave out {others[0]}")
    config = tyro.cli(
        tyro.conf.AvoidSubcommands[TrainConfig],
        prog=f"ideomotor train {LORA}",
        args=[argument for argument in arguments if argument not in (LORA, "stage:lora")],
        default=openvla_lora("", "", ""),
        description=f"{Lora.__doc__} Name the checkpoint with --init, the datasets with --data, the folder of the run with --out.",
    )
    missing = [f"--{name}" for name in ("init", "data", "out") if not getattr(config, name)]
    if missing:
        raise UsageError(f"{LORA} needs {', '.join(missing)} (checkpoint, datasets, and folder of the run)")
    return config


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
