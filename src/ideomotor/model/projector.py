"""From vision features to the language model's width, neighbouring tokens of a camera joined on the way."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.config import CameraTokens


class Projector(nn.Module):
    """One camera's way into the sequence: space to depth, then two layers with GELU between."""

    def __init__(self, camera: CameraTokens, grid: int, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        if grid % camera.merge:
            raise ValueError(f"{camera.role}: {grid} x {grid} tokens cannot be joined {camera.merge} x {camera.merge}")
        self.merge, self.grid = camera.merge, grid
        self.fc1 = nn.Linear(width_in * camera.merge**2, hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    @property
    def tokens(self) -> int:
        """How many tokens come out."""
        return (self.grid // self.merge) ** 2

    def forward(self, features: Float[Tensor, "B N D"]) -> Float[Tensor, "B M W"]:
        x = rearrange(
            features, "b (h i w j) d -> b (h w) (i j d)", h=self.grid // self.merge, i=self.merge, j=self.merge
        )
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
