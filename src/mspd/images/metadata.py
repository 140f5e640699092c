"""What is kept beside the pixels: EXIF (turned upright, the previews blanked), the tags of a TIFF, the resolution."""

import struct
from contextlib import suppress
from typing import Any

from PIL import Image

from mspd.images.picture import Picture
from mspd.images.refusals import no_warnings

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112
X_RESOLUTION = 0x011A
_XMP_TAG = 700
_EXIF_IFD = 0x8769
_SUB_IFDS = (_EXIF_IFD, 0x8825)  # the other is GPS
_MAKER_NOTE = 0x927C
_JPEG = b"\xff\xd8\xff"  # how one begins
_PREVIEW = ((0x0201, 0x0202), (0x0111, 0x0117))  # where the preview, a JPEG or strips of pixels, begins; its length
# What describes a picture in the first directory of a TIFF; the other tags there describe its storage.
_TIFF_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, *_SUB_IFDS)


def some_bytes(value: object) -> bytes | None:
    """The bytes that Pillow found, None when there are none or they are text that poses as such."""
    return value if isinstance(value, bytes) and value else None


def resolution(value: object) -> tuple[float, float] | None:
    """Resolution as two floats, None when absent or senseless."""
    with suppress(TypeError, ValueError, ArithmeticError):
        x, y = (float(v) for v in value)  # type: ignore[attr-defined]
        if 1 <= x <= 65535 and 1 <= y <= 65535:
            return x, y
    return None


def find_exif(info: dict[Any, Any]) -> bytes | None:
    """EXIF of a non-TIFF from its byte-order mark on, wherever the format holds it."""
    exif = some_bytes(info.get("exif"))
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):  # PNG, the way of ImageMagick
        with suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    if exif is None:
        return None
    start = 0
    while exif.startswith(b"Exif\0\0", start):
        start += 6
    return exif[start:] or None


def upright_exif(exif: bytes | None) -> tuple[int, bytes | None]:
    """The orientation in EXIF's first directory, 1 when there is none to read, and the EXIF with it set to 1 and
    without previews."""
    orientation = 1
    if exif is None:
        return orientation, None
    patched = bytearray(exif)
    with suppress(KeyError, struct.error):
        order, start, count = _first(exif)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", exif, at)
            if tag == ORIENTATION and kind in (3, 4) and length == 1:
                form = order + ("H" if kind == 3 else "I")
                (value,) = struct.unpack_from(form, exif, at + 8)
                if value in TURNS:
                    orientation = value
                    struct.pack_into(form, patched, at + 8, 1)
    return orientation, _without_jpegs(_without_preview(bytes(patched)))


def _first(exif: bytes) -> tuple[str, int, int]:
    """The byte order, where the first directory lies, how many tags are in it; KeyError or struct.error without one."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
    (start,) = struct.unpack_from(order + "I", exif, 4)
    return order, start, *struct.unpack_from(order + "H", exif, start)


def _tags(exif: bytes, order: str, start: int) -> dict[int, int]:
    """The tags of the directory at `start`, and where they lie."""
    (count,) = struct.unpack_from(order + "H", exif, start)
    return {struct.unpack_from(order + "H", exif, at)[0]: at for at in range(start + 2, start + 2 + 12 * count, 12)}


def _without_preview(exif: bytes) -> bytes:
    """The EXIF with the link to its second directory, the preview's, set to 0, and the preview's bytes, too."""
    patched = bytearray(exif)
    with suppress(KeyError, struct.error):
        order, start, count = _first(exif)
        link = start + 2 + 12 * count
        (second,) = struct.unpack_from(order + "I", exif, link)
        if second:
            struct.pack_into(order + "I", patched, link, 0)
            values = {tag: _numbers(exif, order, at) for tag, at in _tags(exif, order, second).items()}
            for begin, length in _PREVIEW:
                for place, size in zip(values.get(begin, ()), values.get(length, ()), strict=False):
                    if place and place + size <= len(exif):
                        patched[place : place + size] = bytes(size)
    return bytes(patched)


def _without_jpegs(exif: bytes) -> bytes:
    """The EXIF with the note of the camera's maker set to 0 where a JPEG, a larger preview, is in it; and with all from
    the first JPEG elsewhere on set to 0: nothing says where that one ends."""
    patched = bytearray(exif)
    with suppress(KeyError, struct.error):
        order, start, _ = _first(exif)
        (directory,) = struct.unpack_from(order + "I", exif, _tags(exif, order, start)[_EXIF_IFD] + 8)
        size, place = struct.unpack_from(order + "II", exif, _tags(exif, order, directory)[_MAKER_NOTE] + 4)
        note = exif[place : place + size]
        if _JPEG in note:
            patched[place : place + size] = bytes(len(note))
    at = patched.find(_JPEG)
    if at >= 0:
        patched[at:] = bytes(len(patched) - at)
    return bytes(patched)


def _numbers(exif: bytes, order: str, at: int) -> tuple[int, ...]:
    """The whole numbers of the tag that lies there; none where it holds something else."""
    kind, count = struct.unpack_from(order + "HI", exif, at + 2)
    if kind not in (3, 4) or count > len(exif):
        return ()
    form = f"{order}{count}{'H' if kind == 3 else 'I'}"
    place = at + 8 if struct.calcsize(form) <= 4 else struct.unpack_from(order + "I", exif, at + 8)[0]
    return struct.unpack_from(form, exif, place)


def _described(source: Image.Exif) -> Image.Exif:
    """The descriptive tags of an EXIF, without those about storage."""
    kept = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in source:
            kept[tag] = source.get_ifd(tag) if tag in _SUB_IFDS else source[tag]
    return kept


def tiff_exif(im: Image.Image) -> bytes | None:
    """The descriptive tags of a TIFF as EXIF; None when there are none or they cannot be read."""
    try:
        kept = _described(im.getexif())
        return _without_jpegs(kept.tobytes().removeprefix(b"Exif\0\0")) if len(kept) else None
    except Exception:  # Pillow raises anything on malformed tags; the picture is fine
        return None


def tiff_tags(picture: Picture) -> Image.Exif:
    """EXIF and XMP as tags of a TIFF; EXIF that cannot be parsed has no place there."""
    tags = Image.Exif()
    if picture.exif is not None:
        try:
            with no_warnings():
                source = Image.Exif()
                source.load(picture.exif)
                tags.load(_described(source).tobytes())  # by way of bytes: Pillow writes no directory it did not load
        except Exception:
            tags = Image.Exif()
    if picture.xmp is not None:
        tags[_XMP_TAG] = picture.xmp
    return tags
