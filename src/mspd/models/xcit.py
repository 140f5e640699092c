"""XCiT (El-Nouby et al. 2021, "Cross-covariance image transformers"), for small images: attention between channels, a
depthwise convolution that mixes neighbours, and a pointwise pair."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.models.common import Normalize, conv3x3


class Attention(nn.Module):
    """Cross-covariance attention: each head mixes its channels by their normalised covariance over the places."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, places, C) to the same shape."""
        batch, places, channels = x.shape
        q, k, v = self.qkv(x).view(batch, places, 3, self.heads, -1).permute(2, 0, 3, 4, 1)
        mixing = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3) * self.temperature).softmax(-1)
        out: Tensor = self.out((mixing @ v).permute(0, 3, 1, 2).reshape(batch, places, channels))
        return out


class Block(nn.Module):
    """Attention between channels, two depthwise 3 x 3 convolutions, a pointwise pair; each scaled and added."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attention = Attention(channels, heads)
        self.near1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)
        self.near2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.wide = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((3, channels), 0.5))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.scale[0] * self.attention(self.norm1(x))
        grid = self.norm3(x).transpose(1, 2).unflatten(2, (height, width))
        near = self.near2(self.bn(F.gelu(self.near1(grid))))
        x = x + self.scale[1] * near.flatten(2).transpose(1, 2)
        total: Tensor = x + self.scale[2] * self.narrow(F.gelu(self.wide(self.norm2(x))))
        return total


class XCiT(nn.Module):
    """Input (B, 3, H, W) in [0, 1], sides multiples of 4; output (B, num_classes) logits from the mean over the places
    (the published head is a class token with two layers of its own)."""

    def __init__(self, width: int, depth: int, heads: int, num_classes: int, stats: str) -> None:
        super().__init__()
        self.normalize = Normalize(stats)
        self.stem = nn.Sequential(
            conv3x3(3, width // 2, 2), nn.BatchNorm2d(width // 2), nn.GELU(),
            conv3x3(width // 2, width, 2), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.place = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.stem(self.normalize(x))
        height, width = grid.shape[2:]
        x = (grid + self.place(grid)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, height, width)
        logits: Tensor = self.head(self.norm(x.mean(1)))
        return logits


def xcit(*, num_classes: int, width: int = 128, depth: int = 6, heads: int = 4, stats: str = "cifar10") -> XCiT:
    """A small XCiT on patches of 4 pixels; places are told by a depthwise convolution."""
    return XCiT(width, depth, heads, num_classes, stats)
