"""What names a picture, which formats are read and written, and what sets them apart."""

from pathlib import Path

# What is written, by suffix. The names of the formats are those of Pillow.
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
SUFFIXES = tuple(FORMATS)
PICTURES = (
    *SUFFIXES, ".jpe", ".jfif", ".mpo", ".gif", ".avif", ".apng", ".dib", ".heic", ".heif", ".hif", ".jxl", ".jp2",
    ".j2k", ".psd", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf",
    ".orf", ".rw2", ".pef",
)  # fmt: skip
"""What names a picture, whether mspd takes it or not: `read` tells by the content and refuses the others with a line.
Many files are chosen by these, so that no picture is left out, or copied unprotected, without a word."""

READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
LOSSY = ("JPEG", "WEBP")
NO_ALPHA = ("JPEG", "BMP")


def is_picture(path: str | Path) -> bool:
    """Whether the suffix is one of `PICTURES`."""
    return Path(path).suffix.lower() in PICTURES
