"""Record many episodes in parallel processes, encoded there and written in order here."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ideomotor.collect.config import CollectConfig
from ideomotor.collect.corrections import Corrections
from ideomotor.collect.expert import Expert
from ideomotor.collect.scenes import Scenes
from ideomotor.core import jsonable
from ideomotor.core.cores import usable_cores
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.files import write_json
from ideomotor.core.spec import Embodiment, check_same
from ideomotor.core.types import Episode
from ideomotor.data.lerobot.writer import DatasetWriter, EncodedEpisode, encode_episode
from ideomotor.policy.process import ProcessPolicy
from ideomotor.sim.env import EnvConfig, TabletopEnv, tabletop_embodiment

Source = Expert | Scenes | Corrections

AHEAD = 4  # episodes that each worker may be ahead of the writer


@dataclass(frozen=True)
class Summary:
    """What was recorded."""

    folder: Path
    outcomes: dict[str, int]  # episodes of this call by their success label
    kept: int  # episodes that were there before

    def __str__(self) -> str:
        """One line for people."""
        outcomes = ", ".join(f"{count} {label}" for label, count in sorted(self.outcomes.items())) or "nothing to do"
        before = f" ({self.kept} were there before)" if self.kept else ""
        return f"{self.folder}: {outcomes}{before}"


class _Recorder:
    """One worker: an environment and a source, made once per process."""

    current: "_Recorder"

    def __init__(self, config: CollectConfig, env: EnvConfig) -> None:
        self.env = TabletopEnv(env)
        self.source = _source(config)
        self.tasks = [task.name for task in env.tasks]

    def record(self, index: int, seed: int) -> Episode:
        return self.source.episode(self.env, seed, self.tasks[index % len(self.tasks)])


def _source(config: CollectConfig) -> Source:
    match config.source:
        case "expert":
            return Expert(config.noisy)
        case "scenes":
            return Scenes()
        case "corrections":
            return Corrections(ProcessPolicy(config.policy), config.expert_share, config.execute)


def _start(config: CollectConfig, env: EnvConfig) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _Recorder.current = _Recorder(config, env)


def _work(index: int, seed: int) -> EncodedEpisode:
    return encode_episode(_Recorder.current.record(index, seed))


def record(config: CollectConfig, env: EnvConfig) -> Summary:
    """Record the dataset; an unfinished one is continued. Equal configurations give equal datasets for any number of workers.

    Raises:
        UsageError: a number outside of its range.
        UserError: the folder holds another dataset, the policy cannot be used, or a worker died.
    """
    _check(config)
    workers = config.workers or usable_cores()
    folder = Path(config.out)
    embodiment = tabletop_embodiment(env.arm, env.renderer)
    if config.source == "corrections":
        _check_policy(config, embodiment)
    outcomes: Counter[str] = Counter()
    with DatasetWriter(folder, embodiment) as writer:
        kept = writer.num_episodes
        _check_continues(config, folder, kept)
        jobs = [(index, config.seed + index) for index in range(kept, config.episodes)]
        progress = tqdm(total=config.episodes, initial=kept, desc=f"collect {config.source}", unit="ep", smoothing=0.05)
        with (
            ProcessPoolExecutor(workers, get_context("forkserver"), _start, (config, env)) as pool,
            progress,
        ):
            for episode in _in_order(pool, jobs, workers * AHEAD):
                writer.add_encoded(episode)
                outcomes[episode.success] += 1
                progress.update()
                if outcomes["success"] + outcomes["failure"]:
                    progress.set_postfix(success=f"{outcomes['success'] / outcomes.total():.1%}")
    return Summary(folder, dict(outcomes), kept)


def _check_continues(config: CollectConfig, folder: Path, kept: int) -> None:
    """Note how the recording is made, or compare with what an earlier call noted.

    Raises:
        UserError: the folder holds a recording that was made in another way.
    """
    path = folder / "meta" / "collect.json"
    free = {"out": "", "workers": 0, "episodes": 1}  # these may differ between the calls
    ours = jsonable.to_json(replace(config, **free))
    if kept and path.is_file():
        before = _noted(path)
        changed = [
            f"--{name} was {before.get(name)!r} and is {ours[name]!r}"
            for name in ours
            if before.get(name) != ours[name]
        ]
        if changed:
            raise UserError(
                f"{folder} holds {kept} episodes that were recorded otherwise ({'; '.join(changed)}); go on as before, or give another --out"
            )
    write_json(path, ours)


def _noted(path: Path) -> dict[str, Any]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); restore it, or remove it to go on without the comparison"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object; restore it, or remove it to go on without the comparison")
    return dict(value)


def _in_order(pool: ProcessPoolExecutor, jobs: list[tuple[int, int]], ahead: int) -> Iterator[EncodedEpisode]:
    remaining = iter(jobs)
    waiting: list[Future[EncodedEpisode]] = [pool.submit(_work, *job) for job in islice(remaining, ahead)]
    try:
        while waiting:
            episode = waiting.pop(0).result()
            waiting += [pool.submit(_work, *job) for job in islice(remaining, 1)]
            yield episode
    except BrokenProcessPool as error:
        raise UserError(
            "a recording process died (killed, or out of memory); all finished episodes are kept. Run the same command again to go on."
        ) from error
    finally:  # after an error or Ctrl-C nobody waits for the rest
        for future in waiting:
            future.cancel()


def _check(config: CollectConfig) -> None:
    least = {"--episodes": (config.episodes, 1), "--seed": (config.seed, 0), "--workers": (config.workers, 0)}
    for name, (value, low) in {**least, "--execute": (config.execute, 1)}.items():
        if value < low:
            raise UsageError(f"{name} is {value}; allowed are whole numbers from {low} up")
    for name, share in {"--noisy": config.noisy, "--expert-share": config.expert_share}.items():
        if not 0 <= share <= 1:
            raise UsageError(f"{name} is {share}; allowed are shares from 0 to 1")


def _check_policy(config: CollectConfig, embodiment: Embodiment) -> None:
    """Try the policy once before anything is written."""
    with ProcessPolicy(config.policy) as policy:
        check_same(policy.embodiment, embodiment, f"policy '{config.policy}'", f"arm '{config.arm}'")
