"""Pictures in and out, on the 8-bit grid: read, quantise, save, and check the written file against the budget.

`read` takes 8-bit PNG, JPEG, WebP, TIFF, BMP, GIF and AVIF with one frame, and refuses what it could not keep right:
more than 8 bits, CMYK, HDR, animations. `save` writes PNG, TIFF, BMP (lossless) and JPEG, WebP (lossy), never over a
file.
Kept beside the pixels: alpha, EXIF, ICC, XMP and the resolution; nothing else (comments, IPTC, previews).
Every failure is an `ImageError` of one line.

grid.py        pixels, tensors, the nearest grey levels
formats.py     suffixes and formats
refusals.py    how a refusal is worded
picture.py     a decoded picture
screening.py   what would be lost without a word
xmp.py         what is changed in XMP
metadata.py    EXIF, orientation, preview, resolution
reading.py     from a file to a picture
encoding.py    from a picture to the bytes of a file
checking.py    the written file against the original
saving.py      encoded, written, checked, published

A file imports only from those above it.
"""

from mspd.images.checking import LOSSY_MARGIN, Check
from mspd.images.formats import FORMATS, LOSSY, PICTURES, SUFFIXES, is_picture
from mspd.images.grid import Pixels, quantise, to_levels, to_pixels, to_tensor
from mspd.images.picture import Picture
from mspd.images.reading import MAX_PIXELS, decode, read
from mspd.images.saving import encode, save

__all__ = [
    "FORMATS",
    "LOSSY",
    "LOSSY_MARGIN",
    "MAX_PIXELS",
    "PICTURES",
    "SUFFIXES",
    "Check",
    "Picture",
    "Pixels",
    "decode",
    "encode",
    "is_picture",
    "quantise",
    "read",
    "save",
    "to_levels",
    "to_pixels",
    "to_tensor",
]
