"""What Pillow would reduce without a word is refused: more than 8 bits, HDR, wide gamut, further frames."""

import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from mspd.images.refusals import DEEP, HDR, refuse

GAIN_MAPS = (b"ns.adobe.com/hdr-gain-map", b"hdrgm:", b"HDRGainMap", b"urn:iso:std:iso:ts:21496")
_PQ, _HLG = 16, 18  # transfer functions of HDR pictures, as numbered in ITU-T H.273
_SRGB_PRIMARIES = (1, 2)  # BT.709, or unspecified
_SRGB_GAMMA = 45455  # as a PNG says it
#: as a PNG says them: x and y of white, red, green and blue
_SRGB_COLOURS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_WIDE = "wide-gamut colours without an ICC profile, which would be lost; convert it to sRGB"
_SUBFILE = 0x00FE  # of a TIFF: bit 0 says "a smaller copy of another picture in this file"


def png_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """IHDR, cICP, gAMA, cHRM, sRGB, iCCP and tRNS of a PNG; the position in the file stays."""
    found = {}
    position = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IHDR", b"cICP", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tRNS"):
            found[kind] = file.read(length)
            file.seek(4, os.SEEK_CUR)
        else:
            file.seek(length + 4, os.SEEK_CUR)
    file.seek(position)
    return found


def refuse_depth_and_hdr(im: Image.Image, file: BinaryIO, chunks: dict[bytes, bytes], name: str | Path) -> None:
    """Refuse what Pillow would silently reduce to 8 bits or to standard range, and colours of which
    only a cICP, a cHRM or a gAMA chunk tells."""
    colours: list[tuple[int, int]] = []  # (primaries, transfer function)
    if chunks:
        if chunks[b"IHDR"][8] > 8:
            refuse(name, DEEP)
        if b"cICP" in chunks:
            colours.append((chunks[b"cICP"][0], chunks[b"cICP"][1]))
        elif not {b"sRGB", b"iCCP"} & set(chunks):
            colour = chunks.get(b"cHRM", b"")[:32]
            if len(colour) == 32:
                points = zip(struct.unpack(">8I", colour), _SRGB_COLOURS, strict=True)
                if any(abs(own - srgb) > 1000 for own, srgb in points):
                    refuse(name, _WIDE)
            gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
            if gamma and abs(gamma / _SRGB_GAMMA - 1) > 0.05:
                line = f"a gamma of {gamma / 1e5:g} without an ICC profile, which would be lost; convert it to sRGB"
                refuse(name, line)
    elif im.format == "TIFF":
        depth = getattr(im, "tag_v2", {}).get(258, 1)
        if max(depth if isinstance(depth, tuple) else (depth,)) > 8:
            refuse(name, DEEP)
    elif im.format == "AVIF":
        file.seek(0)
        data = file.read()
        # The AV1 configuration: a marker and version byte, a profile byte, then a byte whose bit 6 says "over 8 bits".
        if any(data[m.end()] & 0x40 for m in re.finditer(rb"av1C\x81.(?=.)", data, re.DOTALL)):
            refuse(name, DEEP)
        if b"tmap" in data[: int.from_bytes(data[:4], "big")]:
            refuse(name, HDR)
        colours += [struct.unpack(">HH", m[1]) for m in re.finditer(rb"colrnclx(.{4})", data, re.DOTALL)]
    for segment, content in getattr(im, "applist", []):
        if segment in ("APP1", "APP2") and any(marker in content for marker in GAIN_MAPS):
            refuse(name, HDR)
    for primaries, transfer in colours:
        if transfer in (_PQ, _HLG):
            refuse(name, HDR)
        if primaries not in _SRGB_PRIMARIES and not im.info.get("icc_profile"):
            refuse(name, _WIDE)


def refuse_frames(im: Image.Image, name: str | Path) -> None:
    """Refuse a file of several pictures, but for the preview many cameras add, and the preview inside a raw photo."""
    if getattr(im, "tag_v2", {}).get(_SUBFILE, 0) & 1:
        refuse(name, "a raw photo, of which only the preview can be read; develop it to 8-bit PNG or JPEG")
    if not getattr(im, "is_animated", False):
        return
    if im.format == "MPO":
        entries: list[Any] = getattr(im, "mpinfo", {}).get(0xB002, [])[1:]
        if all(entry["Attribute"]["MPType"].startswith("Large Thumbnail") for entry in entries):
            return  # the preview many cameras add
        refuse(
            name, "several pictures in one file (MPO: HDR gain map or stereo pair); export it as a plain JPEG or PNG"
        )
    refuse(name, "several frames or pages; export the one you want as PNG")
