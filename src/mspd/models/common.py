"""Pieces that every architecture shares: input normalisation and initialisation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.models.view import down

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]

#: channel means and standard deviations of CIFAR-10 and ImageNet, in [0, 1]
CIFAR10_STATS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_STATS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STATS = {"cifar10": CIFAR10_STATS, "imagenet": IMAGENET_STATS, "half": HALF_STATS}


class Normalize(nn.Module):
    """Map [0, 1] images to zero mean, unit variance; part of every model, so models eat [0, 1]. `stats`: a name of
    `STATS`, or means and standard deviations."""

    mean: Tensor
    std: Tensor

    def __init__(self, stats: str | Stats) -> None:
        super().__init__()
        mean, std = STATS[stats] if isinstance(stats, str) else stats
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Enlarge(nn.Module):
    """Images of another size become square ones of `resolution` pixels."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.size = (resolution, resolution)

    def forward(self, x: Tensor) -> Tensor:
        return down(x, self.size)


def initialise(model: nn.Module) -> None:
    """He initialisation of convolutions (fan out), in place; the rest keeps PyTorch's defaults."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu}


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
