"""Pictures in and out, on the 8-bit grid: read, quantise, save, and check the written file against the budget.

`read` takes 8-bit PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF with one frame, and refuses what it could not keep right:
more than 8 bits, CMYK, HDR, animations. `save` writes PNG, TIFF, BMP (lossless) and JPEG, WebP (lossy), never over a
file.
Kept beside the pixels: alpha, EXIF, ICC, XMP and the resolution; nothing else (comments, IPTC, previews).
Every failure is an `ImageError` of one line.
"""

import errno
import io
import math
import os
import re
import secrets
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from mspd import metrics
from mspd.errors import ImageError, InputError, MspdError, UsageError

Pixels = NDArray[np.uint8]

MAX_PIXELS = 200_000_000
"""Largest picture `read` decodes. Pillow's own limit applies too where it is lower: 2 * PIL.Image.MAX_IMAGE_PIXELS, by
default 179 million."""

_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
SUFFIXES = tuple(_FORMATS)
PICTURES = (
    *SUFFIXES, ".jpe", ".jfif", ".mpo", ".gif", ".avif", ".apng", ".dib", ".heic", ".heif", ".hif", ".jxl", ".jp2",
    ".j2k", ".psd", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf",
    ".orf", ".rw2", ".pef",
)  # fmt: skip
"""What names a picture, whether mspd takes it or not: `read` tells by the content and refuses the others with a line.
Many files are chosen by these, so that no picture is left out, or copied unprotected, without a word."""
_READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
_LOSSY = ("JPEG", "WEBP")
_LOSSY_MARGIN = 1.25
_NO_ALPHA = ("JPEG", "BMP")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_XMP_TAG = 700
_SUB_IFDS = (0x8769, 0x8825)  # Exif and GPS
_PREVIEW = (0x0201, 0x0202)  # where the preview begins, and its length
_SUBFILE = 0x00FE  # of a TIFF: bit 0 says "a smaller copy of another picture in this file"
# What describes a picture in the first directory of a TIFF; the other tags there describe its storage.
_TIFF_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, *_SUB_IFDS)

_GAIN_MAPS = (b"ns.adobe.com/hdr-gain-map", b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496")
_PQ, _HLG = 16, 18  # transfer functions of HDR pictures, as numbered in ITU-T H.273
_SRGB_PRIMARIES = (1, 2)  # BT.709, or unspecified


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file: upright 8-bit pixels and all that is written back beside them.

    path:   the file it came from
    pixels: (H, W, C) uint8, C 3 (RGB) or 1 (grey), EXIF orientation applied
    alpha:  (H, W) uint8, or None
    format: Pillow's name of the file format
    exif:   EXIF from its byte-order mark on, as in the file but for the orientation, set to 1, and the preview (a
            small unprotected copy), blanked; from a TIFF, its descriptive tags. EXIF that cannot be parsed is kept as
            it is and turns nothing
    icc, xmp: bytes as in the file, but for an orientation inside the XMP, set to 1 when the EXIF one was applied
    dpi:    (horizontal, vertical)
    credentials: whether the file carries content credentials (C2PA), which are not written back
    """

    path: Path
    pixels: Pixels
    alpha: Pixels | None
    format: str
    exif: bytes | None
    icc: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    credentials: bool = False


@dataclass(frozen=True)
class Check:
    """What the written file, decoded again, differs by: largest grey-level difference, SSIM, PSNR in dB.

    For lossy formats both the original and the protected picture went through the same encoder first. SSIM is exact up
    to a megapixel, above it the mean over an even grid of 128-pixel tiles, about a megapixel together.
    """

    linf: int
    ssim: float
    psnr: float
    lossy: bool


# ---------------------------------------------------------------- the grid


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, C) uint8 to (1, C, H, W) float32 in [0, 1]."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).unsqueeze(0) / 255


def to_pixels(x: Tensor) -> Pixels:
    """(1, C, H, W) in [0, 1] to (H, W, C) uint8: the nearest grey level, halves up. InputError for NaN."""
    if x.ndim != 4 or len(x) != 1:
        raise InputError(f"to_pixels needs one image (1, C, H, W), not {tuple(x.shape)}")
    levels = x.detach().cpu().float() * 255
    if not bool(torch.isfinite(levels).all()):
        raise InputError("to_pixels got NaN or infinity: the image is not a picture")
    pixels: Pixels = (levels + 0.5).floor().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()
    return pixels


def quantise(x: Tensor, reference: Tensor, eps: float) -> Tensor:
    """Nearest 8-bit grid point of x within eps of `reference` and in [0, 1].

    With `reference` on the grid that is floor(255 eps) grey levels to each side; 1e-4 levels are granted to rounding.
    """
    centre, radius = reference * 255, eps * 255 + 1e-4
    levels = (x * 255 + 0.5).floor()
    return levels.clamp((centre - radius).ceil(), (centre + radius).floor()).clamp(0, 255) / 255


# ---------------------------------------------------------------- refusing


def _printable(path: str | Path) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def _refuse(path: str | Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    raise ImageError(f"{_printable(path)}: {reason}") from cause


_REASONS = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.ENOTDIR: "its folder is not a folder; check the path",
    errno.EISDIR: "is a folder; name a picture in it",
    errno.EACCES: "no permission; change the access rights or choose another place",
    errno.EPERM: "no permission; change the access rights or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "too large for this file system; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EEXIST: "already exists; choose another name or remove it first",
}
_EMPTY = "empty file; get a fresh copy of it"
_BAD_NAME = "not a valid file name; check the path"
_NO_MEMORY = "too large for the memory; scale it down"
_DAMAGED = "damaged or cut short; get a fresh copy of it"
_UNKNOWN = "not a readable 8-bit PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture; convert it to PNG or JPEG"
_DEEP = "more than 8 bits per channel; convert it to 8 bits"
_HDR = "an HDR picture (gain map or HDR transfer function), which would be lost; export it as plain 8-bit SDR"


def _reason(error: OSError) -> str:
    unknown = f"{error.strerror or 'input/output error'}; try again or choose another place"
    return _REASONS.get(error.errno or 0, unknown)


@contextmanager
def _one_line(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow and the file system raise into one ImageError about `path`; let no warning out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MspdError:
        raise
    except UnidentifiedImageError as error:
        _refuse(path, _UNKNOWN, error)
    except Image.DecompressionBombError as error:
        _refuse(path, _too_many(2 * (Image.MAX_IMAGE_PIXELS or 0)), error)
    except MemoryError as error:
        _refuse(path, _NO_MEMORY, error)
    except OSError as error:
        if error.errno is not None:
            _refuse(path, _reason(error), error)
        _refuse(path, _DAMAGED, error)
    except Exception as error:
        _refuse(path, _DAMAGED, error)


def _too_many(limit: int) -> str:
    return f"more pixels than the limit of {limit / 1e6:.0f} million; scale it down"


# ---------------------------------------------------------------- reading


def is_picture(path: str | Path) -> bool:
    """Whether the suffix is one of `PICTURES`."""
    return Path(path).suffix.lower() in PICTURES


def read(path: str | Path) -> Picture:
    """Decode a file, turn it upright and keep what belongs to it; ImageError when that is not possible."""
    return _read(Path(path), Path(path))


def _read(path: Path, name: Path) -> Picture:
    """`read`, calling the file `name` in messages."""
    with _one_line(name):
        try:
            status = path.stat()
        except ValueError as error:  # a zero byte, for one
            _refuse(name, _BAD_NAME, error)
        if stat.S_ISDIR(status.st_mode):
            _refuse(name, _REASONS[errno.EISDIR])
        if not stat.S_ISREG(status.st_mode):
            _refuse(name, "not a regular file; copy it to one")
        if status.st_size == 0:
            _refuse(name, _EMPTY)
        with path.open("rb") as file:
            return _decode(file, name, MAX_PIXELS)


def decode(data: bytes, name: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """`read` for the bytes of a file that lies elsewhere; `name` is what messages call it. A picture of more than
    `max_pixels` is refused."""
    if not data:
        _refuse(name, _EMPTY)
    with _one_line(name):
        return _decode(io.BytesIO(data), name, max_pixels)


def _decode(file: BinaryIO, name: str | Path, max_pixels: int) -> Picture:
    with Image.open(file, formats=_READ) as im:
        if im.width < 1 or im.height < 1:
            _refuse(name, "has no pixels; get a fresh copy of it")
        if im.width * im.height > max_pixels:
            _refuse(name, _too_many(max_pixels))
        form = im.format or ""
        chunks = _png_chunks(file) if form == "PNG" else {}
        _refuse_depth_and_hdr(im, file, chunks, name)
        _refuse_frames(im, name)

        # Pillow turns a TIFF itself while loading, by an orientation in the XMP if there is none in the tags; only the
        # tags count here, as for the other formats.
        tiff = getattr(im, "tag_v2", None)
        early_xmp = im.info.pop("xmp", None) if tiff is not None else None
        turn = 1 if tiff is None else tiff.get(_ORIENTATION, 1)
        im.load()
        xmp = _bytes(early_xmp) if tiff is not None else _bytes(im.info.get("xmp"))
        if tiff is None:
            turn, exif = _upright(_exif(im.info))
        else:
            exif = _tiff_exif(im)
        if any(marker in (xmp or b"") for marker in _GAIN_MAPS):
            _refuse(name, _HDR)
        dpi = _dpi(im.info.get("dpi"))
        if turn in _TURNS:
            xmp = xmp and re.sub(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[2-8]", rb"\g<1>1", xmp)
        if turn in (5, 6, 7, 8) and dpi is not None:
            dpi = dpi[::-1]

        plain = _plain(im, chunks, name)
        if tiff is None and turn in _TURNS:
            plain = plain.transpose(_TURNS[turn])
        array: Pixels = np.array(plain)
        icc = _bytes(im.info.get("icc_profile"))
        file.seek(0)
        data = file.read()
    array = array.reshape(*array.shape[:2], -1)
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
        _refuse(name, f"{im.mode} colours; convert it to RGB")
    else:
        _refuse(name, _DEEP)
    return im if im.mode == target else im.convert(target)


def _png_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """IHDR, cICP and tRNS of a PNG; the position in the file stays."""
    found = {}
    position = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IHDR", b"cICP", b"tRNS"):
            found[kind] = file.read(length)
            file.seek(4, os.SEEK_CUR)
        else:
            file.seek(length + 4, os.SEEK_CUR)
    file.seek(position)
    return found


def _refuse_depth_and_hdr(im: Image.Image, file: BinaryIO, chunks: dict[bytes, bytes], name: str | Path) -> None:
    """Refuse what Pillow would silently reduce to 8 bits or to standard range, and colours only a cICP describes."""
    colours: list[tuple[int, int]] = []  # (primaries, transfer function)
    if chunks:
        if chunks[b"IHDR"][8] > 8:
            _refuse(name, _DEEP)
        if b"cICP" in chunks:
            colours.append((chunks[b"cICP"][0], chunks[b"cICP"][1]))
    elif im.format == "TIFF":
        depth = getattr(im, "tag_v2", {}).get(258, 1)
        if max(depth if isinstance(depth, tuple) else (depth,)) > 8:
            _refuse(name, _DEEP)
    elif im.format == "AVIF":
        file.seek(0)
        data = file.read()
        # The AV1 configuration: a marker and version byte, a profile byte, then a byte whose bit 6 says "over 8 bits".
        if any(data[m.end()] & 0x40 for m in re.finditer(rb"av1C\x81.(?=.)", data, re.DOTALL)):
            _refuse(name, _DEEP)
        if b"tmap" in data[: int.from_bytes(data[:4], "big")]:
            _refuse(name, _HDR)
        colours += [struct.unpack(">HH", m[1]) for m in re.finditer(rb"colrnclx(.{4})", data, re.DOTALL)]
    for segment, content in getattr(im, "applist", []):
        if segment in ("APP1", "APP2") and any(marker in content for marker in _GAIN_MAPS):
            _refuse(name, _HDR)
    for primaries, transfer in colours:
        if transfer in (_PQ, _HLG):
            _refuse(name, _HDR)
        if primaries not in _SRGB_PRIMARIES and not im.info.get("icc_profile"):
            _refuse(name, "wide-gamut colours without an ICC profile, which would be lost; convert it to sRGB")


def _refuse_frames(im: Image.Image, name: str | Path) -> None:
    if getattr(im, "tag_v2", {}).get(_SUBFILE, 0) & 1:
        _refuse(name, "a raw photo, of which only the preview can be read; develop it to 8-bit PNG or JPEG")
    if not getattr(im, "is_animated", False):
        return
    if im.format == "MPO":
        entries: list[Any] = getattr(im, "mpinfo", {}).get(0xB002, [])[1:]
        if all(entry["Attribute"]["MPType"].startswith("Large Thumbnail") for entry in entries):
            return  # the preview many cameras add
        _refuse(
            name, "several pictures in one file (MPO: HDR gain map or stereo pair); export it as a plain JPEG or PNG"
        )
    _refuse(name, "several frames or pages; export the one you want as PNG")


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _dpi(value: object) -> tuple[float, float] | None:
    """Resolution as two floats, None when absent or senseless."""
    with suppress(TypeError, ValueError, ArithmeticError):
        x, y = (float(v) for v in value)  # type: ignore[attr-defined]
        if 1 <= x <= 65535 and 1 <= y <= 65535:
            return x, y
    return None


def _exif(info: dict[Any, Any]) -> bytes | None:
    """EXIF of a non-TIFF from its byte-order mark on, wherever the format holds it."""
    exif = _bytes(info.get("exif"))
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):  # PNG, the way of ImageMagick
        with suppress(ValueError):
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
    while exif and exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return exif or None


def _upright(exif: bytes | None) -> tuple[int, bytes | None]:
    """The orientation in EXIF's first directory, 1 when there is none to read, and the EXIF with it set to 1."""
    orientation = 1
    if exif is None:
        return orientation, None
    patched = bytearray(exif)
    with suppress(KeyError, struct.error):
        order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(order + "HHI", exif, at)
            if tag == _ORIENTATION and kind in (3, 4) and length == 1:
                form = order + ("H" if kind == 3 else "I")
                (value,) = struct.unpack_from(form, exif, at + 8)
                if value in _TURNS:
                    orientation = value
                    struct.pack_into(form, patched, at + 8, 1)
    return orientation, _without_preview(bytes(patched))


def _without_preview(exif: bytes) -> bytes:
    """The EXIF with the link to its second directory, the preview's, set to 0, and the preview's bytes, too."""
    patched = bytearray(exif)
    with suppress(KeyError, struct.error):
        order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        link = start + 2 + 12 * count
        (second,) = struct.unpack_from(order + "I", exif, link)
        if second:
            struct.pack_into(order + "I", patched, link, 0)
            (count,) = struct.unpack_from(order + "H", exif, second)
            entries = (struct.unpack_from(order + "HHII", exif, second + 2 + 12 * k) for k in range(count))
            values = {tag: value for tag, _, _, value in entries}
            place, size = values.get(_PREVIEW[0], 0), values.get(_PREVIEW[1], 0)
            if place and place + size <= len(exif):
                patched[place : place + size] = bytes(size)
    return bytes(patched)


def _described(source: Image.Exif) -> Image.Exif:
    """The descriptive tags of an EXIF, without those about storage."""
    kept = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in source:
            kept[tag] = source.get_ifd(tag) if tag in _SUB_IFDS else source[tag]
    return kept


def _tiff_exif(im: Image.Image) -> bytes | None:
    """The descriptive tags of a TIFF as EXIF; None when there are none or they cannot be read."""
    try:
        kept = _described(im.getexif())
        return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else None
    except Exception:  # Pillow raises anything on malformed tags; the picture is fine
        return None


# ---------------------------------------------------------------- writing


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
    temporary = out.parent / f".mspd-{secrets.token_hex(8)}.tmp"
    try:
        _write(temporary, _encode(picture, pixels, form, quality, out))
        check = _check(picture, pixels, _read(temporary, out), form, eps, quality, out)
        publish(temporary, out)
    except OSError as error:
        _refuse(out, _reason(error), error)
    except MemoryError as error:
        _refuse(out, _NO_MEMORY, error)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return check


def encode(picture: Picture, pixels: Pixels, out: str | Path, *, eps: float, quality: int = 95) -> tuple[bytes, Check]:
    """The bytes that `save` would write to `out`, decoded again and checked in the same way, for a place that is no
    file of this machine."""
    form = _form(picture, pixels, out, eps, quality)
    try:
        data = _encode(picture, pixels, form, quality, out)
        return data, _check(picture, pixels, decode(data, out), form, eps, quality, out)
    except MemoryError as error:
        _refuse(out, _NO_MEMORY, error)


def _form(picture: Picture, pixels: Pixels, out: str | Path, eps: float, quality: int) -> str:
    """The format that the suffix of `out` names; UsageError, InputError or ImageError for what cannot go into it."""
    suffix = Path(out).suffix
    form = _FORMATS.get(suffix.lower())
    if form is None:
        raise UsageError(f"{_printable(out)}: unknown picture format {suffix!r}; use one of {', '.join(SUFFIXES)}")
    if not 0 <= eps <= 1:
        raise UsageError(f"eps is {eps}: give a budget in [0, 1], as 8/255")
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise UsageError(f"quality is {quality}: give a whole number from 1 to 100")
    if pixels.dtype != np.uint8 or pixels.shape != picture.pixels.shape:
        wanted = f"uint8 {picture.pixels.shape} as in the picture"
        raise InputError(f"pixels are {pixels.dtype} {pixels.shape}: pass {wanted}")
    _refuse_unfit(picture, form, out)
    return form


def _refuse_existing(picture: Picture, out: Path) -> None:
    try:
        os.lstat(out)
    except FileNotFoundError:
        return
    except ValueError as error:
        _refuse(out, _BAD_NAME, error)
    except OSError as error:
        _refuse(out, _reason(error), error)
    with suppress(OSError):
        if out.samefile(picture.path):
            _refuse(out, "is the original itself; choose another name")
    _refuse(out, _REASONS[errno.EEXIST])


def _refuse_unfit(picture: Picture, form: str, out: str | Path) -> None:
    if picture.alpha is not None and form in _NO_ALPHA:
        _refuse(out, f"{form} has no transparency and the picture does; use .png, .webp or .tif")
    if picture.icc is not None and form == "BMP":
        _refuse(out, "BMP has no colour profile and the picture does; use .png or .tif")
    if picture.icc is not None and picture.icc[16:20] == b"GRAY" and form == "WEBP":
        _refuse(out, "WebP is always colour and the picture has a grey colour profile; use .png, .tif or .jpg")


def _encode(picture: Picture, pixels: Pixels, form: str, quality: int, out: str | Path) -> bytes:
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
    if form == "PNG" and picture.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp)
    elif form == "TIFF":
        options["tiffinfo"] = _tiff_tags(picture)
    elif form == "JPEG":
        options |= {"quality": quality, "subsampling": 0}
    elif form == "WEBP":
        options |= {"quality": quality, "exact": True}
    buffer = io.BytesIO()
    try:
        im.save(buffer, form, **options)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        _refuse(out, f"the picture or its metadata is too large for {form}; use .png", error)
    return buffer.getvalue()


def _tiff_tags(picture: Picture) -> Image.Exif:
    """EXIF and XMP as tags of a TIFF; EXIF that cannot be parsed has no place there."""
    tags = Image.Exif()
    if picture.exif is not None:
        try:
            source = Image.Exif()
            source.load(picture.exif)
            tags.load(_described(source).tobytes())  # by way of bytes: Pillow writes no directory it did not load
        except Exception:
            tags = Image.Exif()
    if picture.xmp is not None:
        tags[_XMP_TAG] = picture.xmp
    return tags


def _write(path: Path, data: bytes) -> None:
    """Write a new file through to the disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def publish(temporary: Path, out: Path) -> None:
    """Give the finished file its name; FileExistsError if another file took the name meanwhile."""
    try:
        os.link(temporary, out)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: claim the name first, then replace the claim
        os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise


# ---------------------------------------------------------------- checking


def _check(
    picture: Picture, pixels: Pixels, written: Picture, form: str, eps: float, quality: int, out: str | Path
) -> Check:
    """Compare the decoded file with the original; ImageError when it breaks the budget or lost something."""
    lossy = form in _LOSSY
    original = picture.pixels
    if lossy:
        original = decode(_encode(picture, original, form, quality, out), out).pixels
    linf, mse, ssim = _differences(written.pixels, original)
    psnr = -10 * math.log10(mse) if mse else math.inf
    levels = math.floor(eps * 255 + 1e-4)
    if not lossy and not np.array_equal(written.pixels, pixels):
        _refuse(out, "the written file does not decode to the pixels given; use .png")
    if not lossy and linf > levels:
        _refuse(out, f"differs from the original by {linf} grey levels, the budget is {levels}; protect it again")
    if lossy and math.sqrt(mse) > _LOSSY_MARGIN * eps:
        rms = math.sqrt(mse) * 255
        _refuse(out, f"after {form} at quality {quality} the difference is {rms:.1f} grey levels (RMS), the limit is "
                f"{_LOSSY_MARGIN * eps * 255:.1f}; raise the quality or use .png")  # fmt: skip
    if not np.array_equal(_alpha(written), _alpha(picture)):
        _refuse(out, f"{form} did not keep the transparency; use .png")
    kept = {"PNG": ("exif", "icc", "xmp"), "JPEG": ("exif", "icc", "xmp"), "WEBP": ("exif", "icc", "xmp"),
            "TIFF": ("icc", "xmp")}.get(form, ())  # fmt: skip
    for what in kept:
        if getattr(written, what) != getattr(picture, what):
            _refuse(out, f"{form} did not keep the {what.upper()} metadata; use another format")
    return Check(linf=linf, ssim=ssim, psnr=psnr, lossy=lossy)


def _alpha(picture: Picture) -> Pixels:
    """Alpha, opaque when there is none: an encoder may leave out an alpha that says nothing."""
    return picture.alpha if picture.alpha is not None else np.full(picture.pixels.shape[:2], 255, np.uint8)


_STRIP = 1 << 20  # values compared at once
_TILE, _EXACT = 128, 1 << 20


def _differences(a: Pixels, b: Pixels) -> tuple[int, float, float]:
    """Largest difference in grey levels, mean square difference in [0, 1] units, SSIM of two pictures."""
    height, width, channels = a.shape
    rows = max(1, _STRIP // (width * channels))
    largest, total = 0, 0.0
    for top in range(0, height, rows):
        strip = a[top : top + rows].astype(np.float32).ravel() - b[top : top + rows].astype(np.float32).ravel()
        largest = max(largest, int(strip.max()), -int(strip.min()))
        total += float(np.square(strip).sum(dtype=np.float64))
    return largest, total / a.size / 255**2, _ssim(a, b)


def _ssim(a: Pixels, b: Pixels) -> float:
    """SSIM of two pictures, above a megapixel over an even grid of tiles."""
    height, width, _ = a.shape
    if height * width <= _EXACT:
        return metrics.ssim(to_tensor(a), to_tensor(b)).item()
    tall, wide = min(_TILE, height), min(_TILE, width)
    tiles = _EXACT // (tall * wide)
    down = min(max(1, round(math.sqrt(tiles * height / width))), height // tall)
    across = min(max(1, tiles // down), width // wide)
    values = []
    for y in np.linspace(0, height - tall, down).astype(int):
        for x in np.linspace(0, width - wide, across).astype(int):
            tile = slice(y, y + tall), slice(x, x + wide)
            values.append(metrics.ssim(to_tensor(a[tile]), to_tensor(b[tile])).item())
    return sum(values) / len(values)
