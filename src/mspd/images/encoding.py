"""What goes into a file of each format, and what cannot: pixels and all that belongs to the picture, to bytes."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from mspd.images.formats import NO_ALPHA
from mspd.images.grid import Pixels
from mspd.images.metadata import tiff_tags
from mspd.images.picture import Picture
from mspd.images.refusals import refuse


def refuse_unfit(picture: Picture, form: str, out: str | Path) -> None:
    """Refuse alpha or a colour profile that the format cannot hold."""
    if picture.alpha is not None and form in NO_ALPHA:
        refuse(out, f"{form} has no transparency and the picture does; use .png, .webp or .tif")
    if picture.icc is not None and form == "BMP":
        refuse(out, "BMP has no colour profile and the picture does; use .png or .tif")
    if picture.icc is not None and picture.icc[16:20] == b"GRAY" and form == "WEBP":
        refuse(out, "WebP is always colour and the picture has a grey colour profile; use .png, .tif or .jpg")


#: of zlib: a third of the time of the usual 6 for files 5 % larger
PNG_LEVEL = 4


def to_bytes(picture: Picture, pixels: Pixels, form: str, quality: int, out: str | Path) -> bytes:
    """The bytes of a file of that format, with all that belongs to the picture."""
    if form == "WEBP" and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    array = pixels if picture.alpha is None else np.dstack((pixels, picture.alpha))
    im = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    options: dict[str, Any] = {}
    if picture.dpi and form != "WEBP":
        options["dpi"] = picture.dpi
    if picture.icc and form != "BMP":
        options["icc_profile"] = picture.icc
    if picture.exif and form in ("PNG", "JPEG", "WEBP"):
        options["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp and form in ("JPEG", "WEBP"):
        options["xmp"] = picture.xmp
    if form == "PNG":
        options["compress_level"] = PNG_LEVEL
    if form == "PNG" and picture.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp)
    elif form == "TIFF":
        options["tiffinfo"] = tiff_tags(picture)
    elif form == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    elif form == "WEBP":
        options |= {"quality": quality, "exact": True}
    buffer = io.BytesIO()
    try:
        im.save(buffer, form, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        refuse(out, f"the picture or its metadata is too large for {form}; use .png", error)
    return buffer.getvalue()
