"""OFT's diffusion head: noise schedule, time token, noise prediction, and the DDIM step (arXiv 2010.02502).

Letters: B = batch, K = action slots = T A, D = width of the language model, T = horizon, A = action width, S = steps of the schedule.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.config import DiffusionHead
from ideomotor.model.l1 import ResidualMlp

OFFSET = 0.008  # of the squared-cosine schedule (arXiv 2102.09672, eq. 17)
LARGEST_BETA = 0.999  # the same
TIME_BASE = 10000.0  # of the sinusoids of the time token


def alphas(steps: int) -> Float[Tensor, " S"]:
    """Return the share of signal (cumulative product of 1 - beta) at each step of the squared-cosine schedule."""

    def signal(step: int) -> float:
        return math.cos((step / steps + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - signal(step + 1) / signal(step), LARGEST_BETA) for step in range(steps)]
    return (1.0 - torch.tensor(betas, dtype=torch.float32)).cumprod(dim=0)


def time_token(step: Int64[Tensor, " B"], width: int) -> Float[Tensor, "B D"]:
    """Return the sinusoids of a step: sines, then cosines; their frequencies fall from 1 to 1/10000.

    >>> time_token(torch.tensor([0]), 4)
    tensor([[0., 0., 1., 1.]])
    """
    half = width // 2
    exponent = -math.log(TIME_BASE) * torch.arange(half, device=step.device, dtype=torch.float32) / (half - 1)
    angle = step[:, None].float() * exponent.exp()
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class NoisePredictor(nn.Module):
    """`mlp_resnet` is the key name of the published files."""

    def __init__(self, width: int, action_width: int, blocks: int) -> None:
        super().__init__()
        self.mlp_resnet = ResidualMlp(width, action_width, blocks)


class Diffusion(nn.Module):
    """Predicts the noise in a noisy chunk from the states of its slots."""

    def __init__(self, config: DiffusionHead, width: int, action_width: int) -> None:
        super().__init__()
        self.config = config
        self.noise_predictor = NoisePredictor(width, action_width, config.blocks)

    def noise(self, states: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        """Return the noise that the slots' states tell of."""
        return self.noise_predictor.mlp_resnet(states)

    def loss(self, states: Float[Tensor, "B K D"], noise: Float[Tensor, "B T A"]) -> Float[Tensor, ""]:
        """Return the mean squared error of the predicted noise."""
        return functional.mse_loss(self.noise(states).float(), noise)

    def steps(self) -> list[int]:
        """Return the steps that sampling visits, noisiest first.

        >>> Diffusion(DiffusionHead(steps=10), 4, 2).steps()
        [45, 40, 35, 30, 25, 20, 15, 10, 5, 0]
        """
        stride = self.config.train_steps // self.config.steps
        return [stride * k for k in reversed(range(self.config.steps))]

    def add_noise(
        self, actions: Float[Tensor, "B T A"], noise: Float[Tensor, "B T A"], step: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B T A"]:
        """Return the chunk after the forward process: √α a + √(1 - α) noise."""
        share = alphas(self.config.train_steps).to(actions)[step][:, None, None]
        return share.sqrt() * actions + (1 - share).sqrt() * noise

    def denoise(self, x: Float[Tensor, "B T A"], noise: Float[Tensor, "B T A"], step: int) -> Float[Tensor, "B T A"]:
        """Return the chunk one sampling step earlier (DDIM with η = 0): the clean chunk is clipped to [-1, 1] on the way."""
        share = alphas(self.config.train_steps).to(x)
        before = step - self.config.train_steps // self.config.steps
        now, earlier = share[step], share[before] if before >= 0 else torch.ones_like(share[0])
        clean = ((x - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
        return earlier.sqrt() * clean + (1 - earlier).sqrt() * noise
