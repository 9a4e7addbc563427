"""What the tests of the commands are given: small datasets and policies, and a way to see how a command ends."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ideomotor.cli.main import run
from ideomotor.collect import record
from ideomotor.collect.expert import Expert
from ideomotor.core.spec import ChunkLength, Embodiment
from ideomotor.core.types import Episode
from ideomotor.data.lerobot.writer import DatasetWriter
from ideomotor.data.statistics import Statistics, summarize
from ideomotor.model.presets import tiny
from ideomotor.model.vla import VLA
from ideomotor.model.weights import save_network
from ideomotor.pipeline.slots import LOCATION, Pipeline, PipelineConfig
from ideomotor.policy import process
from ideomotor.policy.local import LocalPolicy, load_policy
from ideomotor.policy.options import PolicyOptions
from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.panda import PANDA
from ideomotor.robot.arms.ur5e import UR5E
from ideomotor.sim.env import EnvConfig, TabletopEnv, tabletop_embodiment
from ideomotor.sim.render import Ray
from ideomotor.sim.tasks.pick import PICK
from ideomotor.tokenize.text import TextTokenizer

NETWORK = tiny()
Refused = Callable[..., str]


class PolicyInThisProcess:
    """Stands for `ProcessPolicy` where the border between processes is not in question: a child takes seconds to start."""

    def __init__(self, name: str, options: PolicyOptions = PolicyOptions(), timeout_s: float = 0.0) -> None:  # noqa: B008
        self.policy = load_policy(name, options)

    def __enter__(self) -> LocalPolicy:
        return self.policy

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load policies in this process."""
    for module in (process, record):
        monkeypatch.setattr(module, "ProcessPolicy", PolicyInThisProcess)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded frames and statistics of these tests go into a folder of theirs, and commands write into an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that should be refused; return what it said on standard error."""

    def refuse(arguments: Sequence[object], code: int, *words: str) -> str:
        capfd.readouterr()
        assert run([str(argument) for argument in arguments]) == code
        said = capfd.readouterr().err  # that of child processes too
        assert "Traceback" not in said
        assert "Error:" not in said  # no class of Python's names reaches the user
        for word in words:
            assert word in said
        return said

    return refuse


def episode(arm: Arm, seed: int = 0, frames: int = 3) -> Episode:
    return Expert(noisy=0.0).episode(TabletopEnv(EnvConfig(arm, (PICK,), horizon=frames)), seed, "pick")


def write_dataset(folder: Path, *episodes: Episode) -> Path:
    with DatasetWriter(folder, episodes[0].embodiment) as writer:
        for each in episodes:
            writer.add_episode(each)
    return folder


@pytest.fixture(scope="session")
def short_episode() -> Episode:
    """Three steps of the Panda."""
    return episode(PANDA)


@pytest.fixture(scope="session")
def panda_data(short_episode: Episode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of the Panda. Only to be read."""
    return write_dataset(tmp_path_factory.mktemp("data") / "panda", short_episode, short_episode)


@pytest.fixture(scope="session")
def ur5e_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One episode of the UR5e. Only to be read."""
    return write_dataset(tmp_path_factory.mktemp("data") / "ur5e", episode(UR5E))


def write_policy(folder: Path, embodiment: Embodiment) -> Path:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    save_network(VLA(NETWORK), folder)
    statistics = Statistics(
        {
            "action": summarize(rng.uniform(-0.05, 0.05, (50, 7))),
            "observation.state": summarize(rng.normal(size=(50, 10))),
        }
    )
    config = PipelineConfig(
        tuple(camera.role for camera in embodiment.cameras),
        96,
        NETWORK.text_length,
        10,
        7,
        ChunkLength(4, 4),
        answers=(LOCATION,),
        tasks=("pick",),
    )
    Pipeline(config, embodiment, statistics, TextTokenizer.shipped()).save(folder)
    return folder


@pytest.fixture
def panda_policy(tmp_path: Path) -> Path:
    """An untrained policy of the Panda, to be damaged at will."""
    return write_policy(tmp_path / "policy", tabletop_embodiment(PANDA, Ray()))


@pytest.fixture(scope="session")
def side_camera_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the Panda whose first camera stands at the side. Only to be read."""
    embodiment = tabletop_embodiment(PANDA, Ray())
    front, wrist = embodiment.cameras
    cameras = (replace(front, role="side"), wrist)
    return write_policy(tmp_path_factory.mktemp("policy") / "side", replace(embodiment, cameras=cameras))
