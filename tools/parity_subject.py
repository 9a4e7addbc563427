"""What the parity tool puts to the test: network and pipeline, loaded as a policy loads them.

B = batch, C = cameras, F = image channels of all towers, S = side of the picture [px], T = horizon, A = action width.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_fixture import Fixture
from parity_inputs import open_image
from torch import Tensor

from ideomotor.core.types import Observation
from ideomotor.data.norm_stats import Kind, NormStatistics
from ideomotor.data.normalize import normalize
from ideomotor.data.resize import Direct
from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import DiffusionHead, Parallel, TokenHead
from ideomotor.model.diffusion import Diffusion
from ideomotor.model.openvla import OpenVLA
from ideomotor.pipeline.openvla import OpenVLAPipeline
from ideomotor.pipeline.openvla_config import NetworkShape, SlotIds, SlotNumbers
from ideomotor.tokenize.bins import UniformBins
from ideomotor.tokenize.prompt import prompt_text

TOWERS = ("featurizer", "fused_featurizer")  # names of the network's modules, in the order of the towers


class Subject:
    """An OpenVLA checkpoint and the samples that it is asked about."""

    def __init__(self, fixture: Fixture, network: OpenVLA) -> None:
        self.fixture, self.network = fixture, network.eval()
        self.samples: dict[str, Any] = fixture.samples
        self.statistics = NormStatistics.of_checkpoint(fixture.checkpoint)
        self.bins = UniformBins(network.config.vocabulary.actions_end)
        self.settings: dict[str, Any] = {"arrival": Direct()}  # images went to the reference's processor as they are
        self._pipelines: dict[str, OpenVLAPipeline] = {}

    @property
    def shape(self) -> NetworkShape:
        """What the network's configuration says to its pipeline."""
        config = self.network.config
        vocabulary, size = config.vocabulary, config.towers[0].vision.image_size
        return NetworkShape(size, config.cameras, actions_end=vocabulary.actions_end, bins=vocabulary.bins)

    @property
    def key(self) -> str:
        """A dataset whose statistics fit the network."""
        return next(iter(self.statistics.datasets))

    def pipeline(self, key: str = "") -> OpenVLAPipeline:
        """Return the pipeline with the statistics of a dataset."""
        key = key or self.key
        if key not in self._pipelines:
            whole = OpenVLAPipeline.from_checkpoint(self.fixture.checkpoint, self.shape, self.key).using(key)
            config = replace(whole.config, **self.settings)
            self._pipelines[key] = OpenVLAPipeline(config, None, whole.statistics, whole.tokenizer)
        return self._pipelines[key]

    def tower(self, name: str) -> tuple[int, str]:
        """Return number and module name of the tower that is called so."""
        described = self.fixture.json("checkpoint/vision_towers.json")
        roles: list[str] = [tower.get("role", tower["timm_model_id"]) for tower in described]
        number = next(i for i, role in enumerate(roles) if name in role)
        return number, TOWERS[number]

    # ------------------------------------------------------------------------------------------------ inputs

    def instructions(self, samples: Sequence[str]) -> list[str]:
        """Return the instructions of samples."""
        return [self.samples[i]["instruction"] for i in samples]

    def text(self, i: str) -> str:
        """Return the prompt."""
        return prompt_text(self.pipeline().config.prompt, self.samples[i]["instruction"])

    def prompt(self, i: str) -> list[int]:
        """Return the ids of the prompt's text alone."""
        return self.pipeline().tokenizer.encode(self.text(i))

    def question(self, i: str) -> list[int]:
        """Return what the network reads before the first action id."""
        return self.pipeline().prompt_ids(self.samples[i]["instruction"])

    def pictures(self, i: str) -> list[Path]:
        """Return the sample's image files, one for each camera."""
        return [self.fixture.folder / "inputs" / self.samples[i]["image"]]

    def raw_state(self, i: str) -> np.ndarray:  # noqa: ARG002 (the cases of OFT read it)
        """Return the state of a sample; OpenVLA itself has none."""
        return np.zeros(0)

    def arrays(self, samples: Sequence[str]) -> dict[str, np.ndarray]:
        """Return what the pipeline makes of observations."""
        roles = self.pipeline().config.cameras
        seen = [
            Observation(0.0, dict(zip(roles, map(open_image, self.pictures(i)), strict=True)), self.raw_state(i))
            for i in samples
        ]
        return self.pipeline().encode_observations(seen, self.instructions(samples))

    def ask(self, samples: Sequence[str]) -> TokenBatch:
        """Return a batch without targets."""
        return TokenBatch.from_arrays(self.arrays(samples))

    def pixels(self, samples: Sequence[str]) -> Tensor:
        """Return the images as the towers take them, [B, C, F, S, S]."""
        return self.network.pixels(torch.from_numpy(self.arrays(samples)["images"]))

    def lesson(self, samples: Sequence[str]) -> TokenBatch:
        """Return the training batch of the samples' own actions."""
        actions = np.array([[self.samples[i]["action_label"]] for i in samples], np.float32)
        return self._lesson(samples, actions)

    def _lesson(self, samples: Sequence[str], actions: np.ndarray, **others: Any) -> TokenBatch:
        made = self.pipeline().lesson(self.instructions(samples), actions)
        return TokenBatch.from_arrays({**made, "images": self.arrays(samples)["images"], **others})

    # ------------------------------------------------------------------------------------------------ outputs

    def action_width(self, key: str) -> int:
        """Return how many numbers an action of a dataset has."""
        return self.statistics.column(key, "action").width

    def decoded(self, key: str, output: np.ndarray) -> np.ndarray:
        """Return one answer of the network in the units of a dataset, [T, A]."""
        return self.pipeline(key).decode(output[None])[0]


class Slots(Subject):
    """One case of OpenVLA-OFT: parts of `oft/` on the same checkpoint."""

    def __init__(self, fixture: Fixture, file: str, network: OpenVLA) -> None:
        super().__init__(fixture, network)
        self.given = fixture.arrays(file)
        self.samples = {i: {**fixture.samples.get(i, {}), **sample} for i, sample in fixture.oft_samples.items()}
        assert isinstance(network.config.decoding, Parallel)
        self.how = network.config.decoding
        self.chunk = (self.how.horizon, self.how.action_width)
        self.slots = self.how.horizon * self.how.action_width
        self.kind: Kind = "bounds" if fixture.constants.get("normalization") == "BOUNDS" else "bounds_q99"
        self.settings["normalization"] = self.kind
        self.settings["state"] = None if self.how.state_width is None else self.kind

    @property
    def tokens(self) -> bool:
        """Whether actions are ids."""
        return isinstance(self.how.head, TokenHead)

    @property
    def diffusion(self) -> bool:
        """Whether actions come out of noise."""
        return isinstance(self.how.head, DiffusionHead)

    @property
    def shape(self) -> NetworkShape:
        """What the network's configuration says to its pipeline."""
        return replace(
            super().shape,
            output=SlotIds() if self.tokens else SlotNumbers(),
            horizon=self.how.horizon,
            action_width=self.how.action_width,
            state_width=self.how.state_width,
        )

    @cached_property
    def key(self) -> str:
        """The dataset that the states belong to, which no file names: of those as wide as the network, the one that fits the given."""
        fits = [key for key in self.statistics.datasets if self._is_as_wide(key)]
        assert fits, f"no dataset has actions and states of widths {self.how.action_width} and {self.how.state_width}"
        known = [i for i in self.samples if f"{i}.proprio_normalized" in self.given]
        if self.how.state_width is None or not known:
            return fits[0]
        golden = self.given[f"{known[0]}.proprio_normalized"]
        return min(fits, key=lambda key: float(np.abs(self._scaled_state(known[0], key) - golden).max()))

    def _is_as_wide(self, key: str) -> bool:
        if self.action_width(key) != self.how.action_width:
            return False
        if self.how.state_width is None:
            return True
        return "proprio" in self.statistics.datasets[key] and (
            self.statistics.column(key, "proprio").width == self.how.state_width
        )

    def first(self, count: int) -> list[str]:
        """Return the first samples."""
        return list(self.samples)[:count]

    def pictures(self, i: str) -> list[Path]:
        """Return the sample's image files, the primary camera's first."""
        files = [value for name, value in self.samples[i].items() if name == "image" or name.endswith("_image")]
        return [self.fixture.folder / "oft" / file for file in files[: self.network.config.cameras]]

    def raw_state(self, i: str) -> np.ndarray:
        """Return the state of a sample."""
        return self.given[f"{i}.state"] if f"{i}.state" in self.given else np.array(self.samples[i]["state"])

    def state(self, i: str) -> np.ndarray:
        """Return the state in network coordinates, float64."""
        return self._scaled_state(i, self.key)

    def _scaled_state(self, i: str, key: str) -> np.ndarray:
        column = self.statistics.column(key, "proprio").unmasked()
        return normalize(self.raw_state(i), column.scales(self.kind).there)

    def lesson_of(self, actions: np.ndarray, state: np.ndarray | None) -> TokenBatch:
        """Return the training batch of the first samples with these chunks [B, T, A] and states, both in network coordinates."""
        others = {} if state is None else {"state": state.astype(np.float32)}
        return self._lesson(self.first(len(actions)), actions, **others)

    def condition(self, batch: TokenBatch, *, padding: bool = False) -> Tensor | None:
        """Return what FiLM knows of the instruction; None without FiLM. The reference's training takes the padding in."""
        if self.network.config.towers[0].vision.film is None:
            return None
        slots = self.network.slots(batch)
        assert slots is not None
        return self.network.condition(batch.ids, ~slots if padding else batch.mask & ~slots)

    def head(self, steps: str | None) -> Diffusion:
        """Return the diffusion head, its weights shared, that samples in so many steps; None: as many as it was made for."""
        head = copy(self.network.action_head)
        assert isinstance(head, Diffusion)
        head.config = replace(head.config, steps=int(steps) if steps else head.config.steps)
        return head

    def sampled(self, batch: TokenBatch, start: Tensor | None, steps: str | None) -> Tensor:
        """Return the chunks of a head of numbers, [B, T, A]; a diffusion head starts from noise."""
        head = self.network.action_head
        if self.diffusion:
            self.network.action_head = self.head(steps)
        try:
            return self.network.chunk(batch, start)
        finally:
            self.network.action_head = head


def accuracy_and_l1(bins: UniformBins, chosen: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the share of equal action ids, and how far their values are apart on average."""
    return float((chosen == labels).mean()), float(np.abs(bins.decode(chosen) - bins.decode(labels)).mean())
