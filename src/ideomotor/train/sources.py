"""Which datasets a run learns from, as training reads them: a list of folders, or a mixture of many bodies.

Nothing here imports torch: loader workers import what imports this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import Embodiment, check_same
from ideomotor.data.dataset import Dataset, Reading
from ideomotor.data.examine import check_once
from ideomotor.data.meaning.described import for_training
from ideomotor.data.meaning.specification import action_key, state_key
from ideomotor.data.opening import open_dataset
from ideomotor.data.openx.mixtures import MIXTURES, load_mixture, mixture_table
from ideomotor.train.config import TrainConfig


@dataclass(frozen=True)
class Body:
    """What the numbers of some datasets mean, and the name that their windows carry."""

    name: str
    embodiment: Embodiment  # at the rate of the policy


@dataclass(frozen=True)
class Sources:
    """The datasets of a run, each with the body it is of."""

    datasets: tuple[Dataset, ...]
    bodies: tuple[Body, ...]
    of: tuple[int, ...]  # number of each dataset's body
    shares: tuple[float, ...] = ()  # of a mixture; empty: as the other options say

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """What the bodies' numbers mean."""
        return tuple(body.embodiment for body in self.bodies)

    def body(self, dataset: int) -> Body:
        """Return the body of a dataset, by its number."""
        return self.bodies[self.of[dataset]]


def open_sources(config: TrainConfig) -> Sources:
    """Open the datasets of a run.

    Raises:
        UserError: one of them is missing, cannot be read, or does not say what its numbers mean; or folders that are no mixture are of
            different bodies.
        UsageError: the options do not say which.
    """
    mixture = config.data in MIXTURES or config.data.endswith(".json")
    datasets, shares = _of_mixture(config) if mixture else (_of_folders(config), ())
    embodiments = [_embodiment(dataset, config.rate) for dataset in datasets]
    if not mixture:
        for dataset, embodiment in zip(datasets[1:], embodiments[1:], strict=True):
            check_same(embodiment, embodiments[0], str(dataset.path), str(datasets[0].path))
    bodies, of = _bodies(embodiments)
    return Sources(datasets, bodies, of, shares)


def _of_folders(config: TrainConfig) -> tuple[Dataset, ...]:
    folders = [name.strip() for name in config.data.split(",") if name.strip()]
    if not folders:
        raise UsageError("--data is empty; name one or more folders of datasets, separated by commas, or a mixture")
    return tuple(_opened(Path(folder), config) for folder in folders)


def _of_mixture(config: TrainConfig) -> tuple[tuple[Dataset, ...], tuple[float, ...]]:
    if config.weights:
        raise UsageError(f"the mixture {config.data} states its weights itself; leave out --weights")
    if not config.data_root and config.data in MIXTURES:
        raise UsageError(f"--data {config.data} is a mixture; name the folder that holds its datasets with --data-root")
    root = Path(config.data_root or Path(config.data).parent)
    rows = mixture_table(load_mixture(config.data), root, _reading(config))
    if missing := [f"  {row.name}: {row.missing}" for row in rows if row.missing]:
        raise UserError(
            f"{len(missing)} of the {len(rows)} datasets of the mixture {config.data} are missing below {root}:\n"
            + "\n".join(missing)
            + f"\nCopy them there, or leave them out of a mixture file of your own (`ideomotor data mixture {config.data} --data-root {root}`)"
        )
    datasets = tuple(_opened(row.path, config) for row in rows if row.path is not None)
    return datasets, tuple(row.share for row in rows)


def _reading(config: TrainConfig) -> Reading:
    return Reading(salvage=config.salvage, colour=config.colour)


def _opened(folder: Path, config: TrainConfig) -> Dataset:
    reading = _reading(config)
    if (folder / "meta").is_dir():  # a damaged parquet file can end the process that reads it
        check_once(folder, reading)
    dataset = open_dataset(folder, reading)
    return for_training(dataset, Path(config.embodiment) if config.embodiment else None)


def _embodiment(dataset: Dataset, rate: float) -> Embodiment:
    assert dataset.embodiment is not None, "for_training has asked for one"
    return replace(dataset.embodiment, rate_hz=rate) if rate else dataset.embodiment


def _bodies(embodiments: Sequence[Embodiment]) -> tuple[tuple[Body, ...], tuple[int, ...]]:
    """Return the different bodies, and the number of each embodiment's."""
    keys = [
        jsonable.fingerprint([action_key(e), state_key(e), e.rate_hz, sorted(e.cameras_by_role)]) for e in embodiments
    ]
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    order = sorted(first, key=lambda key: first[key])
    bodies: list[Body] = []
    for key in order:
        embodiment = embodiments[first[key]]
        taken = sum(body.embodiment.name == embodiment.name for body in bodies)
        bodies.append(Body(f"{embodiment.name}-{taken + 1}" if taken else embodiment.name, embodiment))
    return tuple(bodies), tuple(order.index(key) for key in keys)
