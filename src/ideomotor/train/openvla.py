"""OpenVLA, fine-tuned with LoRA: what learns, by which loss, how it is measured, and what is saved.

A checkpoint of the run holds the adapter, OFT's heads and the pipeline, and names the base model; the trained policy is whole.

B = windows of a batch, K = ids of an action or a chunk, T = horizon, A = action width, M = labelled ids of a batch.
"""

from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ideomotor.core.errors import UsageError
from ideomotor.core.files import write_json
from ideomotor.data.norm_stats import IN_CONFIG
from ideomotor.model import lora
from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import DiffusionHead, L1Head, Parallel, TokenHead
from ideomotor.model.diffusion import Diffusion
from ideomotor.model.openvla import Noisy, OpenVLA
from ideomotor.model.openvla_weights import load_source, main_dtype, recognise, write_openvla
from ideomotor.model.tensors import Cast, InMemory
from ideomotor.pipeline.companions import stated
from ideomotor.pipeline.foreign import ORIGIN
from ideomotor.train import learner, metrics
from ideomotor.train.config import Lora, TrainConfig
from ideomotor.train.learner import Arrays, Sums
from ideomotor.train.openvla_batches import TokenData, open_source
from ideomotor.train.origin import write_origin
from ideomotor.train.parallel import Group
from ideomotor.train.precision import Device, Precision, autocast

ADAPTER = "lora_adapter"  # folder beside the merged weights, named as OpenVLA's scripts name it
PROBED = 2  # samples whose outputs are compared before and after merging


class TokenLearner:
    """An OpenVLA with adapters."""

    def __init__(
        self, network: OpenVLA, config: TrainConfig, data: TokenData, base: lora.Base, stored: torch.dtype
    ) -> None:
        """Train the adapters of `network`, whose base has weights of the dtype `stored`."""
        self.network = network
        self.device: Device = "cuda" if next(network.parameters()).is_cuda else "cpu"
        self._config, self._data, self._base, self._stored = config, data, base, stored
        decoding = network.config.decoding
        self._head = decoding.head if isinstance(decoding, Parallel) else TokenHead()
        self._ids = network.config.vocabulary
        self._precision: Precision = "fp32"

    @property
    def summary(self) -> str:
        """Return how many weights there are, and how many of them learn."""
        return learner.summary(f"LoRA on {self._base.path.name}", self.network)

    def prepare(self, precision: Precision, group: Group) -> None:  # noqa: ARG002 (the interface)
        """Hold the resting weights as they are stored where the products are rounded so anyway, else in float32."""
        self._precision = precision
        held = self._stored if precision == "bf16" and self._stored == torch.bfloat16 else torch.float32
        for parameter in self.network.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(held)

    # ------------------------------------------------------------------------------------------------ learning

    def losses(self, arrays: Arrays, first_number: int) -> dict[str, Tensor]:  # noqa: ARG002 (the loader has augmented)
        """Return the loss of a training batch and, where ids are learned, the share of action ids that are right."""
        batch = self.batch(arrays)
        match self._head:
            case TokenHead():
                loss, right, _ = self._read(batch)
                return {"loss": loss, "accuracy": right.float().mean()}
            case L1Head():
                return {"loss": self.network.loss(batch)}
            case DiffusionHead():
                return {"loss": self._noise_loss(batch, None)}
            case _:
                assert_never(self._head)

    def batch(self, arrays: Arrays) -> TokenBatch:
        """Return the network's input."""
        return TokenBatch.from_arrays(arrays).to(torch.device(self.device))

    def _read(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss [nats] over action ids and EOS, which of the action ids are right, and the likeliest ids in their places."""
        logits, labels = self.network.supervised(batch, self.network(batch))
        actions = (labels >= self._ids.actions_first) & (labels < self._ids.actions_end)
        chosen = logits.detach().argmax(dim=-1)[actions]
        return functional.cross_entropy(logits.float(), labels), chosen == labels[actions], chosen

    def _noise_loss(self, batch: TokenBatch, generator: torch.Generator | None) -> Tensor:
        assert batch.actions is not None, "a batch for training has actions"
        head, shape = self.network.action_head, batch.actions.shape
        assert isinstance(head, Diffusion), "another head predicts no noise"
        noise = torch.randn(shape, generator=generator).to(batch.actions)
        step = torch.randint(head.config.train_steps, shape[:1], generator=generator).to(batch.ids.device)
        return self.network.loss(batch, Noisy(head.add_noise(batch.actions, noise, step), step), noise)

    # ------------------------------------------------------------------------------------------------ measuring

    def measure(self, arrays: Arrays) -> Sums:
        """Return the loss, the share of right action ids of the whole vocabulary, and errors in raw units over a batch."""
        batch, wanted = self.batch(arrays), arrays["raw_actions"]
        size = float(len(wanted))
        sums: Sums = {}
        match self._head:
            case TokenHead():
                loss, right, chosen = self._read(batch)
                sums["accuracy.action"] = float(right.sum()), float(len(right))
                output = self._all_ids(batch, chosen).cpu().numpy()
            case L1Head():
                loss, output = self.network.loss(batch), self.network.chunk(batch).float().cpu().numpy()
            case DiffusionHead():
                generator = torch.Generator().manual_seed(self._config.seed)
                loss = self._noise_loss(batch, generator)
                noise = torch.randn(wanted.shape, generator=generator)
                output = self.network.chunk(batch, noise).float().cpu().numpy()
            case _:
                assert_never(self._head)
        for number, part in enumerate(self._data.parts):
            rows = np.flatnonzero(arrays["body"] == number)
            found = part.decode(output[rows]) if len(rows) else wanted[:0]
            errors = metrics.errors(part.embodiment, found, wanted[rows], np.ones(wanted[rows].shape, bool))
            sums = {**sums, **{name: metrics.plus(sums.get(name, (0.0, 0.0)), pair) for name, pair in errors.items()}}
        return sums | {"loss": (float(loss) * size, size)}

    def _all_ids(self, batch: TokenBatch, chosen: Tensor) -> Tensor:
        """Return the likeliest ids [B, K]; windows that are measured have all their actions."""
        return chosen.view(len(batch.ids), -1)

    # ------------------------------------------------------------------------------------------------ saving

    def save(self, folder: Path, steps: int) -> None:
        """Write adapter, heads and pipeline; the base is named."""
        lora.save_adapter(self.network, folder, self._base)
        self._data.pipeline.save(folder)
        write_origin(folder, self._config, steps)

    def finish(self, folder: Path, steps: int) -> str:
        """Write the merged policy, and its adapter beside it; return how exact the merging was.

        Raises:
            UserError: merging changed what the network does.
        """
        lora.save_adapter(self.network, folder / ADAPTER, self._base)
        self._data.pipeline.save(folder / ADAPTER)  # the adapter alone is a policy too, and keeps its statistics
        dtype = self._merged_dtype()
        found = lora.merge(self.network, self._probe, dtype)
        write_openvla(self.network.config, Cast(InMemory(self.network.state_dict()), dtype), folder, "ideomotor")
        self._data.pipeline.save(folder)
        config, preprocessor = stated(recognise(self._data.checkpoint).folder)
        said = {name: value for name, value in config.items() if name != IN_CONFIG}  # the statistics are the pipeline's
        write_json(folder / ORIGIN, {"config": said, "preprocessor": preprocessor})
        write_origin(folder, self._config, steps)
        return str(found)

    def _merged_dtype(self) -> torch.dtype:
        """Return the dtype of the trained policy: rounding what was trained in float32 would change some of its actions."""
        assert isinstance(self._config.stage, Lora), "other stages have networks with slots"
        match self._config.stage.merged:
            case "auto":
                return torch.float32 if self._precision == "fp32" else self._stored
            case "stored":
                return self._stored
            case "fp32":
                return torch.float32

    def _probe(self) -> Tensor:
        """Return the outputs for the first windows."""
        batch = self.batch(self._data.some(PROBED))
        held: Precision = "bf16" if self.network.projector.fc1.weight.dtype == torch.bfloat16 else "fp32"
        with autocast(held, self.device):
            match self._head:
                case TokenHead():
                    return self.network.supervised(batch, self.network(batch))[0]
                case L1Head():
                    return self.network.chunk(batch)
                case DiffusionHead():
                    assert batch.actions is not None, "windows have actions"
                    return self.network.noise(batch, self.network.see(batch), batch.actions, 0)
                case _:
                    assert_never(self._head)


def build_token_learner(config: TrainConfig, data: TokenData, group: Group) -> TokenLearner:
    """Return the network of a checkpoint with new adapters, or with those of the run that goes on."""
    stage = config.stage
    assert isinstance(stage, Lora), "other stages have networks with slots"
    device = chosen_device(stage)
    if device == "cuda":
        torch.cuda.set_device(group.rank % torch.cuda.device_count())
    source = open_source(data.checkpoint)
    as_stored = device == "cuda" or config.precision == "bf16"
    network = load_source(source, None if as_stored else torch.float32, device)
    if data.adapter is None:
        targets = tuple(name.strip() for name in stage.targets.split(",") if name.strip()) or None
        lora.add_lora(network, lora.LoraSettings(stage.rank, stage.alpha, stage.dropout, targets), config.seed)
        base = lora.Base.of(data.checkpoint)
    else:
        lora.load_adapter(network, data.adapter)
        base = lora.base_of(data.adapter)
    return TokenLearner(network.train(), config, data, base, main_dtype(source.tensors.entries))


def chosen_device(stage: Lora) -> Device:
    """Return where a stage computes.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if stage.device == "cuda" and not there:
        raise UsageError("--stage.device cuda: PyTorch finds no GPU here; leave it out, or take --stage.device cpu")
    return "cuda" if there and stage.device != "cpu" else "cpu"


def gpus(stage: Lora) -> int:
    """Return how many GPUs a stage uses, a process on each; 0: it computes on the CPU."""
    return torch.cuda.device_count() if chosen_device(stage) == "cuda" else 0
