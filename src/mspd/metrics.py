"""How far apart two images are, and how sure a measured accuracy is: pure functions.

Distances and similarities take (B, C, H, W) tensors in [0, 1] of one shape and return one number per image, (B,).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mspd.errors import InputError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1


def _check_pair(x: Tensor, reference: Tensor) -> None:
    if x.shape != reference.shape or x.ndim != 4 or x.numel() == 0:
        shapes = f"{tuple(x.shape)} and {tuple(reference.shape)}"
        raise InputError(f"cannot compare shapes {shapes}: pass two (B, C, H, W) tensors of one shape")


def linf(x: Tensor, reference: Tensor) -> Tensor:
    """Largest absolute difference of each image."""
    _check_pair(x, reference)
    return (x - reference).abs().flatten(1).amax(dim=1)


def l2(x: Tensor, reference: Tensor) -> Tensor:
    """Euclidean length of each image's difference, over all pixels and channels."""
    _check_pair(x, reference)
    return (x - reference).square().flatten(1).sum(dim=1).sqrt()


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB for the data range 1; infinite for equal images."""
    _check_pair(x, reference)
    return -10 * (x - reference).square().flatten(1).mean(dim=1).log10()


def _gaussian(side: int, like: Tensor) -> Tensor:
    """Normalised 1-D window for an axis of `side` pixels: 11 taps, or 2 side - 1, the most that reflection allows."""
    half = min(_WINDOW // 2, side - 1)
    offsets = torch.arange(-half, half + 1, dtype=like.dtype, device=like.device)
    weights = (offsets.square() / (-2 * _SIGMA**2)).exp()
    window: Tensor = weights / weights.sum()
    return window


def _blur(maps: Tensor) -> Tensor:
    """Gaussian mean around each pixel of each channel: one depthwise pass across, one down; borders reflected."""
    channels = maps.shape[1]
    across, down = _gaussian(maps.shape[3], maps), _gaussian(maps.shape[2], maps)
    half_w, half_h = len(across) // 2, len(down) // 2
    padded = F.pad(maps, (half_w, half_w, half_h, half_h), mode="reflect")
    rows = F.conv2d(padded, across.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, down.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian 11x11 of sigma 1.5, K1 0.01, K2 0.03, range 1.

    Each channel on its own, then the mean over all channels and *all* pixels, borders reflected: what torchmetrics
    1.9 does by default. Its older releases and the paper's code leave out the 5 pixels at each border, where the window
    would overlap the edge. On a side below 6 pixels the window shrinks to 2 side - 1, the most that reflection allows.
    """
    _check_pair(x, reference)
    maps = torch.cat((x, reference, x * x, reference * reference, x * reference), dim=1)
    mu_x, mu_r, xx, rr, xr = _blur(maps).chunk(5, dim=1)
    var_x, var_r, cov = xx - mu_x**2, rr - mu_r**2, xr - mu_x * mu_r
    luminance = (2 * mu_x * mu_r + _C1) / (mu_x**2 + mu_r**2 + _C1)
    structure = (2 * cov + _C2) / (var_x + var_r + _C2)
    return (luminance * structure).flatten(1).mean(dim=1)


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a rate, 95 % by default: (low, high) in [0, 1]; (0, 1) when nothing was measured."""
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}: successes must lie between 0 and n")
    if n == 0:
        return 0.0, 1.0
    rate, spread = successes / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Accuracy of `b` minus accuracy of `a` on the same images: (difference, low, high), the interval at 95 %.

    `a` and `b` are boolean (n,), true where an image is read correctly. Normal approximation of the paired difference;
    when no image changes sides the interval has no width, which says little for a small n.
    """
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0 or a.dtype != torch.bool or b.dtype != torch.bool:
        raise InputError("paired_interval needs two boolean tensors of the same shape (n,), n at least 1")
    change = b.double() - a.double()
    difference = change.mean().item()
    half = 1.96 * math.sqrt(change.var(correction=0).item() / len(change))
    return difference, max(-1.0, difference - half), min(1.0, difference + half)
