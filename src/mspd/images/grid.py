"""The 8-bit grid: pixels to a tensor, a tensor to pixels, and the nearest grey levels within a budget."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mspd.errors import InputError

Pixels = NDArray[np.uint8]


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, C) uint8 to (1, C, H, W) float32 in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).unsqueeze(0) / 255


def to_pixels(x: Tensor) -> Pixels:
    """(1, C, H, W) in [0, 1] to (H, W, C) uint8: the nearest grey level, halves up. InputError for NaN."""
    if x.ndim != 4 or len(x) != 1:
        raise InputError(f"to_pixels needs one image (1, C, H, W), not {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise InputError("to_pixels got NaN or infinity: the image is not a picture")
    pixels: Pixels = to_levels(x.detach().cpu().float())[0].permute(1, 2, 0).contiguous().numpy()
    return pixels


def to_levels(x: Tensor) -> Tensor:
    """The nearest grey levels of x in [0, 1], halves up, as uint8 of its shape."""
    return (x * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)


def quantise(x: Tensor, reference: Tensor, eps: float) -> Tensor:
    """Nearest 8-bit grid point of x within eps of `reference` and in [0, 1].

    With `reference` on the grid that is floor(255 eps) grey levels to each side; 1e-4 levels are granted to rounding.
    """
    centre, radius = reference * 255, eps * 255 + 1e-4
    levels = (x * 255 + 0.5).floor()
    return levels.clamp((centre - radius).ceil(), (centre + radius).floor()).clamp(0, 255) / 255
