"""OFT's regression head, and the residual MLP that it shares with the diffusion head (arXiv 2502.19645).

Letters: B = batch, K = action slots = T A, D = width of the language model, T = horizon, A = action width.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """x + ReLU(W norm(x)); `ffn` is the key name of the published files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x + self.ffn(x)


class ResidualMlp(nn.Module):
    """From the A states of a time step, side by side, to A numbers; the weights are shared by all time steps."""

    def __init__(self, width: int, action_width: int, blocks: int) -> None:
        super().__init__()
        self.action_width = action_width
        self.layer_norm1 = nn.LayerNorm(width * action_width)
        self.fc1 = nn.Linear(width * action_width, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_width)

    def forward(self, states: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        x = rearrange(states, "b (t a) d -> b t (a d)", a=self.action_width)
        x = functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class L1(nn.Module):
    """The mean absolute error makes it the median action."""

    def __init__(self, width: int, action_width: int, blocks: int) -> None:
        super().__init__()
        self.model = ResidualMlp(width, action_width, blocks)

    def chunk(self, states: Float[Tensor, "B K D"]) -> Float[Tensor, "B T A"]:
        """Return the chunk in network coordinates."""
        return self.model(states)

    def loss(self, states: Float[Tensor, "B K D"], actions: Float[Tensor, "B T A"]) -> Float[Tensor, ""]:
        """Return the mean absolute error over all numbers, the gripper's too."""
        return (self.chunk(states).float() - actions).abs().mean()
