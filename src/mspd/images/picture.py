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
    xmp:    likewise, but for its own orientation, set to 1 when the EXIF's was applied, and what is left out: previews
            and words on bytes behind the picture; None where it cannot be parsed and may hold a preview
    dpi:    (horizontal, vertical)
    lost:   a line on each part of the file that its XMP tells of and that is not written back
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
    lost: tuple[str, ...] = ()
    credentials: bool = False
