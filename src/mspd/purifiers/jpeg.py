"""JPEG as a purifier: encode and decode (paper, Table III: quality 50)."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mspd.errors import InputError, UsageError
from mspd.guard import check_images
from mspd.images import to_pixels, to_tensor

#: pixels of a side, the format's own limit
LONGEST_SIDE = 65_500


def jpeg(x: Tensor, *, generator: torch.Generator | None = None, quality: int = 50) -> Tensor:
    """x (B, C, H, W) in [0, 1] after a JPEG round trip through Pillow, on the 8-bit grid.

    Pixels are rounded to the nearest grey level; colour is stored at half the resolution (4:2:0), Pillow's default.
    C 3 is colour, 1 grey. Nothing is random; `generator` is not used. UsageError for a quality outside 1 to 100,
    InputError for tensors outside the contract.
    """
    check_images(x)
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}: give a whole number from 1 to 100")
    if max(x.shape[2:]) > LONGEST_SIDE:
        raise InputError(f"x is {max(x.shape[2:])} pixels long: JPEG takes {LONGEST_SIDE} at most")
    return torch.cat([to_tensor(recoded(to_pixels(image[None]), quality)) for image in x]).to(x)


def recoded(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Pixels (H, W, C), C 3 or 1, after a JPEG round trip with Pillow's default chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(pixels.shape)
