"""`ideomotor collect`: record a dataset in simulation."""

import tyro

from ideomotor.collect.config import CollectConfig


def main(arguments: list[str]) -> None:
    """Parse the command line, and record."""
    collect(tyro.cli(CollectConfig, prog="ideomotor collect", args=arguments))


def collect(config: CollectConfig) -> None:
    """Record the dataset of a configuration."""
    from ideomotor.cli.names import arm_named, tasks_named
    from ideomotor.collect.record import record
    from ideomotor.sim.env import EnvConfig

    summary = record(config, EnvConfig(arm=arm_named(config.arm), tasks=tasks_named(config.tasks)))
    print(summary)
