"""A small noise-prediction U-Net (Ho et al. 2020, "Denoising diffusion probabilistic models"), for DiffPure."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """GroupNorm - SiLU - conv, twice, with the time added as a scale and a shift in between."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, 2 * outputs)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        out: Tensor = self.shortcut(x) + self.conv2(F.silu(h))
        return out


class Attention(nn.Module):
    """One head over all places, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.flatten(2).transpose(1, 2) for part in self.project(self.norm(x)).chunk(3, 1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + torch.as_tensor(self.out(mixed))


class UNet(nn.Module):
    """Predicts the noise in x (B, 3, H, W), scaled to [-1, 1] and noised, at time t (B,) in [0, 1]; H and W must be
    multiples of 2^(levels - 1). Output: the noise, of x's shape."""

    def __init__(self, width: int, multiples: tuple[int, ...]) -> None:
        super().__init__()
        self.width, time = width, 4 * width
        self.embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        channels, skips = width, [width]
        for level, multiple in enumerate(multiples):
            self.down.append(ResidualBlock(channels, multiple * width, time))
            channels = multiple * width
            skips.append(channels)
            last = level == len(multiples) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(channels, channels, 3, 2, 1))
        self.middle1 = ResidualBlock(channels, channels, time)
        self.attention = Attention(channels)
        self.middle2 = ResidualBlock(channels, channels, time)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, multiple in reversed(list(enumerate(multiples))):
            self.up.append(ResidualBlock(channels + skips.pop(), multiple * width, time))
            channels = multiple * width
            self.grow.append(nn.Conv2d(channels, channels, 3, padding=1) if level else nn.Identity())
        self.norm = nn.GroupNorm(8, channels)
        self.head = nn.Conv2d(channels, 3, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.embed(_waves(1000 * t, self.width))
        h = self.stem(x)
        kept = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, time)
            kept.append(h)
            h = shrink(h)
        h = self.middle2(self.attention(self.middle1(h, time)), time)
        for index, (block, grow) in enumerate(zip(self.up, self.grow, strict=True)):
            h = block(torch.cat([h, kept.pop()], 1), time)
            if index < len(self.up) - 1:
                h = grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out


def _waves(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t (B,) at `width` / 2 frequencies from 1 to 1/10,000."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device, dtype=torch.float32) / (width // 2))
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def unet(*, width: int = 32, multiples: tuple[int, ...] = (1, 2, 2)) -> UNet:
    """The U-Net; `multiples` of `width` channels at each halving of the size."""
    return UNet(width, tuple(multiples))
