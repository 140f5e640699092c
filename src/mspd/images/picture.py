"""A decoded picture and all that is written back beside it."""

from dataclasses import dataclass
from pathlib import Path

from mspd.images.grid import Pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file: upright 8-bit pixels and all that is written back beside them.

    path:   the file it came from
    pixels: (H, W, C) uint8, C 3 (RGB) or 1 (grey), EXIF orientation applied
    alpha:  (H, W) uint8, or None
    format: Pillow's name of the file format
    exif:   EXIF from its byte-order mark on, as in the file but for the orientation, set to 1, and the previews
            (unprotected copies; one in the maker's note with that note), blanked; from a TIFF, its descriptive tags.
            EXIF that cannot be parsed turns nothing and is kept, but for what follows the start of a JPEG in it
    icc:    bytes as in the file
    xmp:    likewise, but for the preview in it and, when the EXIF orientation was applied, its own one, set to 1
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
