"""Which weights learn, how fast, and the step itself, on one flat vector of weights and one of gradients."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ideomotor.train.config import Everything, TrainConfig
from ideomotor.train.parallel import Group

TOWER = "vision_backbone."  # weights of this prefix may have a learning rate of their own
NOTES = 16  # values that travel with the gradient
ALIGN = 16  # [float32] each weight starts at a multiple of 64 bytes, as torch itself allocates


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: up in a line, down along a cosine.

    >>> config = TrainConfig(data="d", out="o", learning_rate=1.0, warm_up=2, final_share=0.0)
    >>> [round(learning_rate(config, step, 10), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04]
    """
    warm_up = min(config.warm_up, steps // 5)
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    share = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    cosine = 0.5 * (1.0 + math.cos(math.pi * share))
    return config.learning_rate * (config.final_share + (1.0 - config.final_share) * cosine)


@dataclass(frozen=True)
class _Segment:
    """A run of weights inside the flat vector that share weight decay and a learning rate."""

    names: tuple[str, ...]
    start: int
    stop: int
    decay: float
    rate: float  # as a share of the schedule's learning rate


class FlatAdamW:
    """AdamW (arXiv 1711.05101) over one flat vector, of which the network's weights and gradients are views.

    One vector makes the all-reduce one call, clipping one norm, and the update a few passes over memory.
    """

    def __init__(
        self, groups: Iterable[tuple[list[tuple[str, nn.Parameter]], float, float]], config: TrainConfig
    ) -> None:
        """Move the parameters of `groups` (named parameters, weight decay, share of the learning rate) into one vector."""
        self._betas, self._clip, self._eps = config.betas, config.clip, 1e-8
        self._segments: list[_Segment] = []
        self._places: dict[str, tuple[int, torch.Size]] = {}
        placed: list[tuple[nn.Parameter, int]] = []
        size = 0
        for named, decay, rate in groups:
            start = size
            for name, parameter in named:
                self._places[name] = (size, parameter.shape)
                placed.append((parameter, size))
                size += -(-parameter.numel() // ALIGN) * ALIGN
            self._segments.append(_Segment(tuple(name for name, _ in named), start, size, decay, rate))
        device = placed[0][0].device
        self.weights_P: Float[Tensor, " P"] = torch.zeros(size, device=device)
        self._exchanged = torch.zeros(
            size + NOTES, device=device
        )  # gradient and a few numbers, summed over the ranks in one call
        self.gradient_P: Float[Tensor, " P"] = self._exchanged[:size]
        for parameter, start in placed:
            for flat, attribute in ((self.weights_P, "data"), (self.gradient_P, "grad")):
                view = flat[start : start + parameter.numel()].view(parameter.shape)
                if attribute == "data":
                    view.copy_(parameter.data)
                setattr(parameter, attribute, view)
        self._mean_P = torch.zeros_like(self.weights_P)  # running means of the gradient and of its square
        self._square_P = torch.zeros_like(self.weights_P)
        self._steps = 0

    def clear(self) -> None:
        """Set the gradient to zero."""
        self.gradient_P.zero_()

    def average(self, values: Mapping[str, float], group: Group) -> dict[str, float]:
        """Average the gradient over the ranks, and with it a few values, which are returned."""
        assert len(values) <= NOTES, "there is room for a few values only"
        self._exchanged[-NOTES:] = 0.0
        self._exchanged[-NOTES : len(values) - NOTES or None] = torch.tensor(list(values.values()))
        if group.world > 1:
            group.add(self._exchanged)
            self._exchanged /= group.world
        return dict(zip(values, self._exchanged[-NOTES:].tolist(), strict=False))

    @torch.no_grad()
    def step(self, rate: float) -> float:
        """Clip the gradient, move the weights, and return the norm that the gradient had before."""
        norm = float(torch.linalg.vector_norm(self.gradient_P))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite (norm {norm})")
        if self._clip and norm > self._clip:
            self.gradient_P.mul_(self._clip / norm)
        self._steps += 1
        beta1, beta2 = self._betas
        self._mean_P.lerp_(self.gradient_P, 1.0 - beta1)
        self._square_P.mul_(beta2).addcmul_(self.gradient_P, self.gradient_P, value=1.0 - beta2)
        step_size = rate / (1.0 - beta1**self._steps)
        root = math.sqrt(1.0 - beta2**self._steps)
        for segment in self._segments:
            part = slice(segment.start, segment.stop)
            weights = self.weights_P[part]
            if segment.decay:
                weights.mul_(1.0 - rate * segment.rate * segment.decay)
            denominator = self._square_P[part].sqrt().div_(root).add_(self._eps)
            weights.addcdiv_(self._mean_P[part], denominator, value=-step_size * segment.rate)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the running means under the names of their weights, and the number of steps."""
        state: dict[str, Tensor] = {"steps": torch.tensor([self._steps])}
        for kind, flat in (("mean", self._mean_P), ("square", self._square_P)):
            state |= {f"{kind}.{name}": view.clone().cpu() for name, view in self._views(flat)}
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state`; its names must be those of this optimizer."""
        expected = {"steps"} | {f"{kind}.{name}" for kind in ("mean", "square") for name in self._places}
        if set(state) != expected:
            raise KeyError(min(set(state) ^ expected))
        self._steps = int(state["steps"][0])
        for kind, flat in (("mean", self._mean_P), ("square", self._square_P)):
            for name, view in self._views(flat):
                view.copy_(state[f"{kind}.{name}"])

    def _views(self, flat_P: Float[Tensor, " P"]) -> Iterator[tuple[str, Tensor]]:
        for name, (start, shape) in self._places.items():
            yield name, flat_P[start : start + shape.numel()].view(shape)


def build_optimizer(network: nn.Module, config: TrainConfig) -> FlatAdamW:
    """Return the optimizer of the weights that require a gradient; matrices decay, vectors do not."""
    tower_rate = config.stage.tower_rate if isinstance(config.stage, Everything) else 1.0
    learning = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    groups: list[tuple[list[tuple[str, nn.Parameter]], float, float]] = []
    for in_tower, rate in ((False, 1.0), (True, tower_rate)):
        named = [(name, p) for name, p in learning if name.startswith(TOWER) == in_tower]
        groups.append(([(n, p) for n, p in named if p.ndim > 1], config.weight_decay, rate))
        groups.append(([(n, p) for n, p in named if p.ndim <= 1], 0.0, rate))
    return FlatAdamW([group for group in groups if group[0]], config)
