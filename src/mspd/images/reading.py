"""From a file, or its bytes, to a picture: screened, decoded, turned upright."""

import errno
import io
import stat
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mspd.images.formats import READ
from mspd.images.grid import Pixels
from mspd.images.metadata import (
    ORIENTATION,
    TURNS,
    X_RESOLUTION,
    find_exif,
    resolution,
    some_bytes,
    tiff_exif,
    upright_exif,
)
from mspd.images.picture import Picture
from mspd.images.refusals import BAD_NAME, DEEP, EMPTY, HDR, REASONS, one_line, refuse, too_many
from mspd.images.screening import GAIN_MAPS, png_chunks, refuse_depth_and_hdr, refuse_frames
from mspd.images.xmp import upright

MAX_PIXELS = 200_000_000
"""Largest picture `read` decodes. Pillow's own limit applies too where it is lower: 2 * PIL.Image.MAX_IMAGE_PIXELS, by
default 179 million."""

_STRIP = 1 << 18  # pixels copied at once: memory of many more is fetched anew from the system each time


def read(path: str | Path) -> Picture:
    """Decode a file, turn it upright and keep what belongs to it; ImageError when that is not possible."""
    return read_as(Path(path), Path(path))


def read_as(path: Path, name: Path) -> Picture:
    """`read`, calling the file `name` in messages."""
    with one_line(name):
        try:
            status = path.stat()
        except ValueError as error:  # a zero byte, for one
            refuse(name, BAD_NAME, error)
        if stat.S_ISDIR(status.st_mode):
            refuse(name, REASONS[errno.EISDIR])
        if not stat.S_ISREG(status.st_mode):
            refuse(name, "not a regular file; copy it to one")
        if status.st_size == 0:
            refuse(name, EMPTY)
        with path.open("rb") as file:
            return _decode(file, name, MAX_PIXELS)


def decode(data: bytes, name: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """`read` for the bytes of a file that lies elsewhere; `name` is what messages call it. A picture of more than
    `max_pixels` is refused."""
    if not data:
        refuse(name, EMPTY)
    with one_line(name):
        return _decode(io.BytesIO(data), name, max_pixels)


def _decode(file: BinaryIO, name: str | Path, max_pixels: int) -> Picture:
    with Image.open(file, formats=READ) as im:
        if im.width < 1 or im.height < 1:
            refuse(name, "has no pixels; get a fresh copy of it")
        if im.width * im.height > max_pixels:
            refuse(name, too_many(max_pixels))
        form = im.format or ""
        chunks = png_chunks(file) if form == "PNG" else {}
        refuse_depth_and_hdr(im, file, chunks, name)
        refuse_frames(im, name)

        # Pillow turns a TIFF itself while loading, by an orientation in the XMP if there is none in the tags; only the
        # tags count here, as for the other formats.
        tiff = getattr(im, "tag_v2", None)
        early_xmp = im.info.pop("xmp", None) if tiff is not None else None
        turn = 1 if tiff is None else tiff.get(ORIENTATION, 1)
        im.load()
        xmp = some_bytes(early_xmp) if tiff is not None else some_bytes(im.info.get("xmp"))
        if tiff is None:
            turn, exif = upright_exif(find_exif(im.info))
        else:
            exif = tiff_exif(im)
        if any(marker in (xmp or b"") for marker in GAIN_MAPS):
            refuse(name, HDR)
        stated = tiff is None or X_RESOLUTION in tiff  # Pillow makes up 1 for a TIFF without
        dpi = resolution(im.info.get("dpi")) if stated else None
        xmp, lost = (None, ()) if xmp is None else upright(xmp, turn in TURNS)
        if turn in (5, 6, 7, 8) and dpi is not None:
            dpi = dpi[::-1]

        plain = _plain(im, chunks, name)
        if tiff is None and turn in TURNS:
            plain = plain.transpose(TURNS[turn])
        array = _array(plain)
        icc = some_bytes(im.info.get("icc_profile"))
        file.seek(0)
        data = file.read()
    has_alpha = array.shape[2] in (2, 4)
    return Picture(
        path=Path(name),
        pixels=np.ascontiguousarray(array[:, :, :-1]) if has_alpha else array,
        alpha=np.ascontiguousarray(array[:, :, -1]) if has_alpha else None,
        format="JPEG" if form == "MPO" else form,
        exif=exif,
        icc=icc,
        xmp=xmp,
        dpi=dpi,
        lost=lost,
        credentials=b"jumb" in data and b"c2pa\0" in data,  # the labels of its boxes; nothing is validated
    )


def _plain(im: Image.Image, chunks: dict[bytes, bytes], name: str | Path) -> Image.Image:
    """The picture in mode L, LA, RGB or RGBA, palette and transparent colour resolved."""
    depth = chunks[b"IHDR"][8] if chunks else 8
    if depth < 8 and im.mode in ("1", "L") and b"tRNS" in chunks:
        # The chunk counts in the file's few bits; Pillow has spread the pixels over 8.
        (key,) = struct.unpack(">H", chunks[b"tRNS"])
        shades: Pixels = np.array(im.convert("L"))
        opaque = np.where(shades == key * 255 // (2**depth - 1), 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack((shades, opaque)))
    clear = im.has_transparency_data
    if im.mode in ("1", "L", "LA", "La"):
        target = "LA" if clear else "L"
    elif im.mode in ("RGB", "RGBX", "YCbCr", "P", "PA", "RGBA", "RGBa"):
        target = "RGBA" if clear else "RGB"
    elif im.mode in ("CMYK", "LAB", "HSV"):
        refuse(name, f"{im.mode} colours; convert it to RGB")
    else:
        refuse(name, DEEP)
    return im if im.mode == target else im.convert(target)


def _array(im: Image.Image) -> Pixels:
    """The bands of a picture, (H, W, C), strip by strip: of a whole picture Pillow makes two more copies."""
    array = np.empty((im.height, im.width, len(im.getbands())), np.uint8)
    rows = max(1, _STRIP // im.width)
    for top in range(0, im.height, rows):
        strip = array[top : top + rows]
        strip[:] = np.asarray(im.crop((0, top, im.width, top + len(strip)))).reshape(strip.shape)
    return array
