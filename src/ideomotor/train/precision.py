"""fp32 or bf16: measured on this machine, because the answer differs by a factor of ten between CPUs."""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]

ROUNDS = 3  # each precision is timed so often, in turns; the fastest time counts
CLEARLY_FASTER = 1.15  # bf16 loses digits, so a draw goes to fp32


@dataclass(frozen=True)
class Timing:
    """Fastest seconds of a piece of work in both precisions."""

    fp32: float  # [s]
    bf16: float  # [s]

    @property
    def gain(self) -> float:
        """How many times faster bf16 is."""
        return self.fp32 / self.bf16


@dataclass(frozen=True)
class Choice:
    """Which precision to train in, and why."""

    precision: Precision
    reason: str


def autocast(precision: Precision, device: Device = "cpu") -> AbstractContextManager[object]:
    """Return the context in which the forward pass runs: bf16 matrix products, or everything in fp32."""
    if precision == "bf16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def measure(work: Callable[[], object]) -> Timing:
    """Time `work` under both precisions, in turns."""
    best = {"fp32": float("inf"), "bf16": float("inf")}
    order: tuple[Precision, Precision] = ("fp32", "bf16")
    for round_index in range(ROUNDS + 1):
        for precision in order:
            start = time.perf_counter()
            with autocast(precision):
                work()
            if round_index > 0:  # the first round fills caches
                best[precision] = min(best[precision], time.perf_counter() - start)
    return Timing(best["fp32"], best["bf16"])


def matrix_product(rows: int = 1024, width: int = 512, out: int = 2048) -> Callable[[], object]:
    """Return a product of the size that fills a transformer, forward and backward."""
    linear = torch.nn.Linear(width, out)
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))

    def work() -> None:
        linear(x).sum().backward()
        linear.zero_grad()

    return work


def choose(train_step: Callable[[], object]) -> Choice:
    """Measure a matrix product and one training step of this network, and choose by the step."""
    product, step = measure(matrix_product()), measure(train_step)
    precision: Precision = "bf16" if step.gain > CLEARLY_FASTER else "fp32"
    return Choice(
        precision,
        f"measured bf16 against fp32: matrix product {product.gain:.2f}x, training step {step.gain:.2f}x "
        f"({step.fp32 * 1e3:.0f} -> {step.bf16 * 1e3:.0f} ms); bf16 is taken above {CLEARLY_FASTER}x",
    )
