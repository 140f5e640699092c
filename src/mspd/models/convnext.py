"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s"), for small images: depthwise 7 x 7, LayerNorm, a wide pointwise
pair, GELU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.models.common import Normalize


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1))
        return normed.movedim(-1, 1)


class Block(nn.Module):
    """Depthwise 7 x 7, norm, 1 x 1 to four times the width and back, scaled and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.wide = nn.Conv2d(channels, 4 * channels, 1)
        self.narrow = nn.Conv2d(4 * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.narrow(F.gelu(self.wide(self.norm(self.depthwise(x)))))
        total: Tensor = x + self.scale * out
        return total


class ConvNeXt(nn.Module):
    """Input (B, 3, H, W) in [0, 1], sides multiples of patch * 2^(stages - 1); output (B, num_classes) logits."""

    def __init__(
        self, widths: tuple[int, ...], depths: tuple[int, ...], num_classes: int, patch: int, stats: str
    ) -> None:
        super().__init__()
        self.normalize = Normalize(stats)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 2 * patch - 1, patch, patch - 1), ChannelNorm(widths[0])]
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers += [ChannelNorm(channels), nn.Conv2d(channels, width, 2, 2)]
                channels = width
            layers += [Block(channels) for _ in range(depth)]
        self.body = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.normalize(x))
        logits: Tensor = self.head(self.norm(x.mean((2, 3))))
        return logits


def convnext(
    *,
    num_classes: int,
    widths: tuple[int, ...] = (48, 96, 192),
    depths: tuple[int, ...] = (2, 2, 2),
    patch: int = 2,
    stats: str = "cifar10",
) -> ConvNeXt:
    """A small ConvNeXt; its stem is a convolution of stride `patch` with overlapping windows (3 x 3 for stride 2, 7 x 7
    for 4), which suits robust training better than patches."""
    return ConvNeXt(tuple(widths), tuple(depths), num_classes, patch, stats)
