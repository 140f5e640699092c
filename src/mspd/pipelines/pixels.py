"""Images in the forms that pipelines hand over, protected one by one at any size; the result is on the 8-bit grid."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mspd.errors import InputError
from mspd.guard import check_images
from mspd.images import to_pixels
from mspd.protector import Protector


def protect_tensor(protector: Protector, image: Tensor, seed: int) -> Tensor:
    """A uint8 tensor, or a float one in [0, 1], of shape (..., C, H, W) with 3 or 1 channels; the same in return."""
    if image.ndim < 3 or image.numel() == 0:
        raise InputError(f"an image of shape {tuple(image.shape)}: pass (C, H, W), or several as (B, C, H, W)")
    eight_bit = image.dtype == torch.uint8
    flat = image.reshape(-1, *image.shape[-3:])
    flat = flat.float() / 255 if eight_bit else flat
    check_images(flat, "the image")
    out = []
    for x in flat:
        pixels, _, _ = protector.protect_pixels(to_pixels(x[None]), seed=seed)
        out.append(torch.from_numpy(pixels).permute(2, 0, 1))
    levels = torch.stack(out).reshape(image.shape).to(image.device)
    return levels if eight_bit else (levels.float() / 255).to(image.dtype)


def protect_image(protector: Protector, image: Image.Image, seed: int) -> Image.Image:
    """A picture of Pillow with 8 bits a channel, grey or RGB. Transparency is kept, and `info`, what Pillow knows of
    the picture: EXIF with the orientation, for one."""
    if not isinstance(image, Image.Image):
        raise InputError(f"a {type(image).__name__} in place of a picture: pass one of Pillow")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise InputError(f"a picture of mode {image.mode}: convert it to RGB or L first")
    info = dict(image.info)
    if info.pop("transparency", None) is not None and image.mode in ("L", "RGB"):
        image = image.convert(image.mode + "A")  # a colour stands for transparent, and pixels change their colour
    array = np.asarray(image).reshape(image.height, image.width, -1)
    colours = array.shape[2] - (array.shape[2] in (2, 4))
    pixels, _, _ = protector.protect_pixels(np.ascontiguousarray(array[:, :, :colours]), seed=seed)
    whole = np.concatenate((pixels, array[:, :, colours:]), axis=2)
    protected = Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)
    protected.info = info
    return protected


def loaded(protector: Protector | str) -> Protector:
    """A protector as it is, or one of the preset of this name."""
    return Protector(protector) if isinstance(protector, str) else protector
