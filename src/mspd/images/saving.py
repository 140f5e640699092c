"""A new file, or its bytes, that is kept only when it was decoded again and checked."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from mspd.atomic import publish, temporary_beside, write_new
from mspd.errors import InputError, UsageError, printable
from mspd.images.checking import Check, check_written
from mspd.images.encoding import refuse_unfit, to_bytes
from mspd.images.formats import FORMATS, SUFFIXES
from mspd.images.grid import Pixels
from mspd.images.picture import Picture
from mspd.images.reading import decode, read_as
from mspd.images.refusals import BAD_NAME, NO_MEMORY, REASONS, reason, refuse


def save(picture: Picture, pixels: Pixels, out: str | Path, *, eps: float, quality: int = 95) -> Check:
    """Write `pixels` in place of the picture's own to the new file `out`, in the format of its suffix, and check it.

    Lossless (.png .tif .tiff .bmp): no pixel of the decoded file may differ from the original's by more than
    floor(255 eps) grey levels. Lossy (.jpg .jpeg in 4:4:4, .webp, at `quality`): the original is encoded the same way,
    and the root-mean-square difference of the two decoded pictures must stay within 1.25 eps: a picture protected to
    the full budget already differs by nearly eps, and the encoder rounds both on its own.

    EXIF, ICC, XMP, resolution and alpha are written where the format has them (BMP: resolution only; WebP: all but
    resolution; TIFF: EXIF as tags, without the maker's own structure). Alpha or a colour profile that do not fit are
    refused. The file appears under its name only when written, decoded and checked; otherwise nothing is left behind.
    """
    out = Path(out)
    form = _form(picture, pixels, out, eps, quality)
    _refuse_existing(picture, out)
    temporary = temporary_beside(out)
    try:
        write_new(temporary, to_bytes(picture, pixels, form, quality, out))
        check = check_written(picture, pixels, read_as(temporary, out), form, eps, quality, out)
        publish(temporary, out)
    except OSError as error:
        refuse(out, reason(error), error)
    except MemoryError as error:
        refuse(out, NO_MEMORY, error)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return check


def encode(picture: Picture, pixels: Pixels, out: str | Path, *, eps: float, quality: int = 95) -> tuple[bytes, Check]:
    """The bytes that `save` would write to `out`, decoded again and checked in the same way, for a place that is no
    file of this machine."""
    form = _form(picture, pixels, out, eps, quality)
    try:
        data = to_bytes(picture, pixels, form, quality, out)
        return data, check_written(picture, pixels, decode(data, out), form, eps, quality, out)
    except MemoryError as error:
        refuse(out, NO_MEMORY, error)


def _form(picture: Picture, pixels: Pixels, out: str | Path, eps: float, quality: int) -> str:
    """The format that the suffix of `out` names; UsageError, InputError or ImageError for what cannot go into it."""
    suffix = Path(out).suffix
    form = FORMATS.get(suffix.lower())
    if form is None:
        raise UsageError(f"{printable(out)}: unknown picture format {suffix!r}; use one of {', '.join(SUFFIXES)}")
    if not 0 <= eps <= 1:
        raise UsageError(f"eps is {eps}: give a budget in [0, 1], as 8/255")
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}: give a whole number from 1 to 100")
    if pixels.dtype != np.uint8 or pixels.shape != picture.pixels.shape:
        wanted = f"uint8 {picture.pixels.shape} as in the picture"
        raise InputError(f"pixels are {pixels.dtype} {pixels.shape}: pass {wanted}")
    refuse_unfit(picture, form, out)
    return form


def _refuse_existing(picture: Picture, out: Path) -> None:
    try:
        os.lstat(out)
    except FileNotFoundError:
        return
    except ValueError as error:
        refuse(out, BAD_NAME, error)
    except OSError as error:
        refuse(out, reason(error), error)
    with suppress(OSError):
        if out.samefile(picture.path):
            refuse(out, "is the original itself; choose another name")
    refuse(out, REASONS[errno.EEXIST])
