"""A policy in this process: pipeline and network together.

T = horizon, A = action width.
"""

import contextlib
import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ideomotor.core import jsonable
from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Chunk, Observation
from ideomotor.model.batch import Batch, TokenBatch
from ideomotor.model.config import DiffusionHead, NetworkConfig, Parallel
from ideomotor.model.decode import Choice, Whole, Within, fuse
from ideomotor.model.lora import base_of, fingerprint, load_adapter
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.openvla_weights import ADAPTER, CHECKPOINTS, Adapter, Layout, Own, Source, load_source, recognise
from ideomotor.model.tensorfile import INDEX
from ideomotor.model.vla import VLA
from ideomotor.model.weights import WEIGHTS, load_network, read_config
from ideomotor.pipeline.bodies import bodies_of
from ideomotor.pipeline.openvla import OpenVLAPipeline
from ideomotor.pipeline.openvla_config import SlotNumbers
from ideomotor.pipeline.protocol import PolicyPipeline
from ideomotor.pipeline.slots import Pipeline
from ideomotor.policy.checkpoint import open_checkpoint
from ideomotor.policy.options import GUESS, PolicyOptions
from ideomotor.tokenize.llama import EOS

MEMORY_SHARE = 0.8  # of the free memory; weights in fp32 that need more are held in bf16
SHIPPED = Path(__file__).parents[1] / "assets" / "shipped"


@dataclass(frozen=True)
class Prediction:
    """What a policy says to one observation."""

    actions: Float[np.ndarray, "T A"]  # raw units
    ids: Int64[np.ndarray, "T A"] | None = None  # where the network answers in ids
    illegal: Bool[np.ndarray, "T A"] | None = None  # True: no action id; it was decoded as an end of the range


class LocalPolicy:
    """A `BatchPolicy` in this process; what kind of network it has is its subclass's business."""

    def __init__(self, weights: nn.Module, pipeline: PolicyPipeline, policy_id: str) -> None:
        self._weights = next(weights.parameters())
        self._pipeline = pipeline
        self._policy_id = policy_id
        self._instruction = ""
        self._sequence = 0
        self.illegal_ids = 0  # given since it was loaded

    @property
    def policy_id(self) -> str:
        """A hash; other weights, statistics or ways of seeing have another one."""
        return self._policy_id

    @property
    def embodiment(self) -> Embodiment:
        """What its numbers mean."""
        return self._pipeline.embodiment

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it was trained on, where known."""
        return self._pipeline.tasks

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._weights.device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision."""
        return self._weights.dtype

    def reset(self, instruction: str) -> None:
        """Begin an episode with this instruction."""
        self._instruction = instruction
        self._sequence = 0

    def act(self, observation: Observation) -> Chunk:
        """Return the chunk for this observation."""
        return self.act_batch([self._instruction], [observation])[0]

    def act_batch(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Chunk]:
        """Return one chunk for each pair of instruction and observation."""
        dt = 1.0 / self.embodiment.rate_hz
        chunks: list[Chunk] = []
        for observation, said in zip(observations, self.predict(instructions, observations), strict=True):
            self._sequence += 1
            time = observation.time
            chunks.append(Chunk(time, time, dt, np.asarray(said.actions), self._policy_id, self._sequence))
        return chunks

    def predict(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Prediction]:
        """Return actions, and the ids they came from, for each pair of instruction and observation."""
        raise NotImplementedError


class SlotPolicy(LocalPolicy):
    """A network with learned output slots, on the CPU."""

    def __init__(self, network: VLA, pipeline: Pipeline, policy_id: str) -> None:
        super().__init__(network, pipeline, policy_id)
        self.network, self.pipeline = network.eval(), pipeline

    @torch.inference_mode()
    def predict(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Prediction]:
        """Return actions for each pair of instruction and observation."""
        arrays = self.pipeline.encode_observations(observations, instructions)
        coordinates = self.network.chunk(Batch.from_arrays(arrays)).float().numpy()
        return [Prediction(actions_TA) for actions_TA in self.pipeline.decode(coordinates)]


class OpenVLAPolicy(LocalPolicy):
    """OpenVLA or OpenVLA-OFT, wherever its weights are."""

    def __init__(self, network: OpenVLA, pipeline: OpenVLAPipeline, policy_id: str, choice: Choice) -> None:
        super().__init__(network, pipeline, policy_id)
        self.network, self.pipeline, self.choice = network.eval(), pipeline, choice

    @torch.inference_mode()
    def predict(self, instructions: Sequence[str], observations: Sequence[Observation]) -> list[Prediction]:
        """Return actions, and the ids they came from, for each pair of instruction and observation."""
        arrays = self.pipeline.encode_observations(observations, instructions)
        batch = TokenBatch.from_arrays(arrays).to(self.device)
        if isinstance(self.pipeline.config.output, SlotNumbers):
            coordinates = self.network.chunk(batch, self._noise(observations)).float().cpu().numpy()
            return [Prediction(actions_TA) for actions_TA in self.pipeline.decode(coordinates)]
        ids = self.network.ids(batch, self.pipeline.num_ids, self.choice).cpu().numpy()
        actions_BTA = self.pipeline.decode(ids)
        ids_BTA = ids.reshape(actions_BTA.shape)
        illegal_BTA = self.pipeline.illegal(ids_BTA)
        self.illegal_ids += int(illegal_BTA.sum())
        return [Prediction(*one) for one in zip(actions_BTA, ids_BTA, illegal_BTA, strict=True)]

    @torch.inference_mode()
    def answer(self, images: Mapping[str, np.ndarray], question: str, words: int) -> str:
        """Return the text that follows a question about pictures, of at most so many tokens.

        Raises:
            UsageError: the network decodes in parallel, or the number of tokens is none.
        """
        if isinstance(self.network.config.decoding, Parallel):
            raise UsageError(
                "this network answers with actions in parallel slots; questions need one that decodes word by word"
            )
        if words < 1:
            raise UsageError(f"an answer of {words} tokens is none; allowed are whole numbers from 1 up")
        batch = TokenBatch.from_arrays(self.pipeline.encode_question(images, question)).to(self.device)
        embeddings, _ = self.network.sequence(batch, self.network.see(batch))
        ids = self.network.decoder.generate(embeddings, None, words, Whole(), stop=EOS)[0].tolist()
        return self.pipeline.tokenizer.decode(ids[: ids.index(EOS)] if EOS in ids else ids).strip()

    def _noise(self, observations: Sequence[Observation]) -> Float[Tensor, "B T A"] | None:
        """Return what a diffusion head starts from: a function of the observation's time, so that a question has one answer."""
        how = self.network.config.decoding
        if not isinstance(how, Parallel) or not isinstance(how.head, DiffusionHead):
            return None
        rows = [_normal(observation.time, (how.horizon, how.action_width)) for observation in observations]
        return torch.from_numpy(np.stack(rows))


def _normal(time: float, shape: tuple[int, int]) -> np.ndarray:
    (key,) = struct.unpack("<Q", struct.pack("<d", time))
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32)


# ------------------------------------------------------------------------------------------------------------ which folder


def policy_folder(name: str) -> Path:
    """Return the folder of "shipped", of a policy or checkpoint, or of the run folder that holds it under `final`.

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
    if folder.suffix == ".pt" and folder.is_file():  # of Prismatic's training
        return folder
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder; a policy is 'shipped', or the folder of a policy or of a finished training run"
        )
    for candidate in (folder, folder / "final", folder / "policy" / "final"):
        if _has_weights(candidate):
            return candidate
    raise UserError(
        f"{folder} has no {WEIGHTS}, nor has its folder `final`; give the folder of a policy or of a finished training run"
    )


def _has_weights(folder: Path) -> bool:
    whole = any((folder / name).is_file() for name in (WEIGHTS, INDEX, ADAPTER))
    return whole or any((folder / CHECKPOINTS).glob("*.pt"))


# ------------------------------------------------------------------------------------------------------------ loading

OnGuess = Callable[
    [str, OpenVLAPipeline], None
]  # told the policy's name and its pipeline with a guess, before weights are read


def refuse_guess(name: str, pipeline: OpenVLAPipeline) -> None:
    """Refuse a policy of which nobody has said what its numbers mean.

    Raises:
        UserError: with the guess, its evidence, and how to go on.
    """
    raise UserError(
        f"{name} does not say what its numbers mean. Its files make this likely:\n{pipeline.guess}\n"
        f"If that is right, add --embodiment {GUESS} (in Python: PolicyOptions(embodiment='{GUESS}')). If not, write it to a file,\n"
        f"  ideomotor predict --policy {name} --statistics {pipeline.config.statistics} --write-embodiment embodiment.json\n"
        "correct the file, and add --embodiment embodiment.json."
    )


def load_policy(
    name: str,
    options: PolicyOptions = PolicyOptions(),  # noqa: B008 (frozen)
    on_guess: OnGuess = refuse_guess,
) -> LocalPolicy:
    """Load a policy: "shipped", a policy folder, a run folder, or an OpenVLA checkpoint of any layout.

    Args:
        name: of the policy.
        options: what the user chooses.
        on_guess: what is done where nothing says what the numbers mean, and nobody has confirmed the guess.

    Raises:
        UserError: it is not there, not whole, or does not say what its numbers mean.
    """
    folder = policy_folder(name)
    layout = recognise(folder)
    if isinstance(layout, Own) and isinstance(read_config(folder), NetworkConfig):
        return _load_slots(name, folder, options)
    source, pipeline = open_checkpoint(layout, options)
    if pipeline.guess is not None and options.embodiment != GUESS:
        on_guess(name, pipeline)
    device = _device(options)
    network = load_source(source, _dtype(options, device, source), device)
    if isinstance(layout, Adapter):
        load_adapter(network, layout.folder)
    fuse(network.language_model)
    weights = sum(p.numel() * p.element_size() for p in network.language_model.parameters())
    if device.type == "cpu" and weights < MEMORY_SHARE * _free_memory():
        network.decoder.pack()  # a second copy, in bfloat16 alone
    vocabulary = network.config.vocabulary
    legal = Within(vocabulary.actions_first, vocabulary.bins)
    return OpenVLAPolicy(
        network, pipeline, _identity(folder, layout, pipeline, options), Whole() if options.ids == "faithful" else legal
    )


def open_pipeline(name: str, options: PolicyOptions = PolicyOptions()) -> Pipeline | OpenVLAPipeline:  # noqa: B008 (frozen)
    """Return the pipeline of a policy without its weights, guessed meaning included.

    Raises:
        UserError: it is not there, or not whole.
    """
    folder = policy_folder(name)
    layout = recognise(folder)
    if isinstance(layout, Own) and isinstance(read_config(folder), NetworkConfig):
        return _body(folder, options)
    return open_checkpoint(layout, options)[1]


def _device(options: PolicyOptions) -> torch.device:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here; leave it out, or install a PyTorch for this GPU")
    return torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")


def _dtype(options: PolicyOptions, device: torch.device, source: Source) -> torch.dtype:
    if options.precision == "auto":
        needed = 4 * sum(entry.numbers for entry in source.tensors.entries.values())
        half = device.type == "cuda" or needed > MEMORY_SHARE * _free_memory()
    else:
        half = options.precision == "bf16"
    return torch.bfloat16 if half else torch.float32


def _free_memory() -> float:
    """Return how much memory can be had [bytes]; infinity where the system does not say."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return float("inf")


def _identity(folder: Path, layout: Layout, pipeline: OpenVLAPipeline, options: PolicyOptions) -> str:
    """Return the first digits of a hash over samples of the weights, the pipeline, its statistics, and the ids to choose among.

    Weights of 15 GB are not read whole: see `lora.fingerprint`.
    """
    parts = [fingerprint(folder if folder.is_dir() else folder.parent)]
    if isinstance(layout, Adapter):
        parts.append(base_of(layout.folder).fingerprint)
    parts += [jsonable.canonical(pipeline.config), pipeline.statistics.hash(pipeline.config.statistics), options.ids]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ our own


def _load_slots(name: str, folder: Path, options: PolicyOptions) -> SlotPolicy:
    given = {key: value for key, value in options.changed().items() if value not in ("cpu", "fp32")}
    if bodies_of(folder):
        given.pop("statistics", None)
    if given:
        names = ", ".join(f"--{key}" for key in given)
        raise UsageError(f"policy '{name}' is no OpenVLA checkpoint and knows these things itself: leave out {names}")
    pipeline = _body(folder, options)
    network = load_network(folder)
    _check_fit(network.config, pipeline, folder)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return SlotPolicy(network, pipeline, digest[:16])


def _body(folder: Path, options: PolicyOptions) -> Pipeline:
    """Return the pipeline, of several bodies that of the one that is asked for."""
    bodies = bodies_of(folder)
    if bodies and not options.statistics:
        raise UsageError(
            f"the policy in {folder} knows several bodies; choose one with --statistics: {', '.join(bodies)}"
        )
    return Pipeline.load(folder, options.statistics if bodies else "")


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
