"""Augmentation of standard (and adversarial) training: shifted crops, mirrors, cut-out squares."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(x: Tensor, *, crop: int, cutout: int, generator: torch.Generator) -> Tensor:
    """Shift each image of x (B, C, S, S) by up to `crop` pixels (mirrored border), mirror half of them, and grey out a
    square of `cutout` pixels in each (0: none)."""
    batch, _, size, _ = x.shape
    if crop:
        padded = F.pad(x, (crop,) * 4, mode="reflect")
        offsets = torch.randint(0, 2 * crop + 1, (2, batch), generator=generator)
        span = torch.arange(size)
        rows = (offsets[0][:, None] + span)[:, None, :, None]
        columns = offsets[1][:, None] + span
        mirror = torch.rand(batch, generator=generator) < 0.5
        columns = torch.where(mirror[:, None], columns.flip(1), columns)[:, None, None, :]
        index = torch.arange(batch)[:, None, None, None]
        channel = torch.arange(x.shape[1])[None, :, None, None]
        x = padded[index, channel, rows, columns]
    if cutout:
        corners = torch.randint(-cutout // 2, size - cutout // 2, (2, batch, 1), generator=generator)
        span = torch.arange(size)
        inside = [(span >= corner) & (span < corner + cutout) for corner in corners]
        mask = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        x = x.masked_fill(mask, 0.5)
    return x
