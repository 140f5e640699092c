"""A5's generator (Frosio and Kautz 2023, "The best defense is a good offense"): three convolutions from a picture to
its perturbation."""

import torch.nn as nn
from torch import Tensor


class Robustifier(nn.Module):
    """x (B, 3, H, W) in [0, 1] to a perturbation of its shape in (-1, 1), in units of the budget."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2), nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2), nn.ReLU(),
            nn.Conv2d(width, 3, 5, padding=2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x - 0.5)
        return 2 * z.sigmoid() - 1


def robustifier(*, width: int = 64) -> Robustifier:
    """The generator; 64 channels are the published width."""
    return Robustifier(width)
