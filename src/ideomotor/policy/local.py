"""A policy in this process: pipeline and network together."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Chunk, Observation
from ideomotor.model.batch import Batch
from ideomotor.model.config import NetworkConfig
from ideomotor.model.vla import VLA
from ideomotor.model.weights import WEIGHTS, load_network
from ideomotor.pipeline import Pipeline

SHIPPED = Path(__file__).parents[1] / "assets" / "shipped"


class LocalPolicy:
    """A `BatchPolicy` on this process's CPU."""

    def __init__(self, network: VLA, pipeline: Pipeline, policy_id: str) -> None:
        self.network = network.eval()
        self.pipeline = pipeline
        self._policy_id = policy_id
        self._instruction = ""
        self._sequence = 0

    @property
    def policy_id(self) -> str:
        """The first digits of the SHA-256 of the weights."""
        return self._policy_id

    @property
    def embodiment(self) -> Embodiment:
        """What its numbers mean."""
        return self.pipeline.embodiment

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it was trained on, where known."""
        return self.pipeline.config.tasks

    def reset(self, instruction: str) -> None:
        """Begin an episode with this instruction."""
        self._instruction = instruction
        self._sequence = 0

    def act(self, observation: Observation) -> Chunk:
        """Return the chunk for this observation."""
        return self.act_batch([self._instruction], [observation])[0]

    @torch.inference_mode()
    def act_batch(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Chunk]:
        """Return one chunk for each pair of instruction and observation."""
        arrays = self.pipeline.encode_observations(observations, instructions)
        coordinates = self.network.chunk(Batch.from_arrays(arrays)).float().numpy()
        actions_BTA = self.pipeline.decode(coordinates)
        dt = 1.0 / self.embodiment.rate_hz
        chunks: list[Chunk] = []
        for observation, actions_TA in zip(observations, actions_BTA, strict=True):
            self._sequence += 1
            chunks.append(
                Chunk(observation.time, observation.time, dt, np.asarray(actions_TA), self._policy_id, self._sequence)
            )
        return chunks


def policy_folder(name: str) -> Path:
    """Return the folder of "shipped", of a policy folder, or of the run folder that holds it under `final`.

    Raises:
        UserError: there is no policy.
    """
    if name == "shipped":
        if not (SHIPPED / WEIGHTS).is_file():
            raise UserError(
                "this installation has no shipped policy; train one: ideomotor train small-tabletop --out DIR"
            )
        return SHIPPED
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; a policy is 'shipped', or the folder of a policy or of a finished training run"
        )
    for candidate in (folder, folder / "final", folder / "policy" / "final"):
        if (candidate / WEIGHTS).is_file():
            return candidate
    raise UserError(
        f"{folder} has no {WEIGHTS}, nor has its folder `final`; give the folder of a policy or of a finished training run"
    )


def load_policy(name: str) -> LocalPolicy:
    """Load a policy: "shipped", a policy folder, or a run folder.

    Raises:
        UserError: it is not there, or not whole.
    """
    folder = policy_folder(name)
    pipeline = Pipeline.load(folder)
    network = load_network(folder)
    _check_fit(network.config, pipeline, folder)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return LocalPolicy(network, pipeline, digest[:16])


def _check_fit(network: NetworkConfig, pipeline: Pipeline, folder: Path) -> None:
    wanted, ids = pipeline.config, network.language.vocabulary
    pairs = {
        "cameras": (tuple(camera.role for camera in network.cameras), wanted.cameras),
        "image size": (network.vision.image_size, wanted.image_size),
        "text length": (network.text_length, wanted.text_length),
        "text ids": (ids, max(ids, pipeline.text.vocabulary)),
        "state width": (network.state_width, wanted.state_width),
        "action width": (network.action_width, wanted.action_width),
        "chunk": (network.horizon, wanted.chunk.predicted),
    }
    wrong = [f"{name}: the network has {a}, the pipeline {b}" for name, (a, b) in pairs.items() if a != b]
    if wrong:
        raise UserError(
            f"{folder}: config.json and pipeline.json are of different policies ({'; '.join(wrong)}); take both from one checkpoint"
        )
