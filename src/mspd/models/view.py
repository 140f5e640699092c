"""The resize view: a picture of any size as a model sees it, and a perturbation brought back to full resolution.

Only the perturbation is resampled. Bilinear enlargement makes convex mixtures, so no pixel ever moves more than the
perturbation's own budget. The perturbations of robust backbones are smooth, so most of their length is left when the
picture is downsized again (benchmarks/photos.py measures it, and the gain).
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

#: pictures longer than this many times their width are squeezed in the view
LONGEST = 3.0


def native_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of the view: shorter side `size`, the aspect ratio kept (up to `LONGEST`)."""
    ratio = min(max(height, width) / min(height, width), LONGEST)
    longer = round(size * ratio)
    return (longer, size) if height > width else (size, longer)


def view(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """(H, W, C) 8-bit pixels as a (1, C, h, w) float32 image in [0, 1], antialiased (Pillow's bilinear filter)."""
    channels = [
        np.asarray(Image.fromarray(pixels[:, :, c]).resize((size[1], size[0]), Image.Resampling.BILINEAR))
        for c in range(pixels.shape[2])
    ]
    return torch.from_numpy(np.stack(channels)[None].copy()).float().div_(255)


def down(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased, differentiable resize of (B, C, H, W) to (B, C, h, w)."""
    if x.shape[2:] == size:
        return x
    there = x.cpu() if x.device.type == "mps" else x  # MPS has no gradient of it
    return F.interpolate(there, size=size, mode="bilinear", antialias=True).to(x.device)


def framings(x: Tensor, size: int) -> list[Tensor]:
    """What a classifier may get to see of views x (B, C, h, w) of shorter side `size`: all of it, and its middle
    square; of a square view nothing else."""
    if x.shape[2:] == (size, size):
        return [x]
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    return [x, x[:, :, top : top + size, left : left + size]]


def add(pixels: NDArray[np.uint8], delta: Tensor, levels: int) -> NDArray[np.uint8]:
    """pixels (H, W, C) plus `delta` (1, C, h, w, in [0, 1] units) enlarged bilinearly; no pixel moves by more than
    `levels` grey levels. Works in strips of rows, so a large picture needs no float copy."""
    height, width, channels = pixels.shape
    small = (delta[0] * 255).permute(1, 2, 0).contiguous()  # (h, w, C)
    if small.shape[0] > height or small.shape[1] > width:  # a picture below the view's size
        small = down(small.permute(2, 0, 1)[None], (height, width))[0].permute(1, 2, 0)
    low, high, share = _taps(width, small.shape[1])
    left, right = (small.index_select(1, taps) for taps in (low, high))
    wide = torch.lerp(left, right, share[:, None]).flatten(1)  # (h, W * C)
    top, bottom, weight = _taps(height, small.shape[0])
    out = np.empty_like(pixels)
    strip = max(1, 250_000 // (width * channels))
    for start in range(0, height, strip):
        rows = slice(start, min(start + strip, height))
        above, below = (wide.index_select(0, taps[rows]) for taps in (top, bottom))
        moved = torch.lerp(above, below, weight[rows, None]).round_().clamp_(-levels, levels)
        shifted = moved.short().numpy().reshape(-1, width, channels)
        shifted += pixels[rows]
        out[rows] = np.clip(shifted, 0, 255, out=shifted)
    return out


def _taps(length: int, source: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bilinear enlargement of `source` samples to `length`: the two neighbours of each output and the second's share
    (pixel centres, as `interpolate(align_corners=False)`)."""
    position = ((torch.arange(length, dtype=torch.float32) + 0.5) * (source / length) - 0.5).clamp_(0, source - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(source - 1)
    return low, high, position - low
