"""The written file, decoded again, against the original and the budget."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mspd import metrics
from mspd.errors import memory_errors
from mspd.images.encoding import to_bytes
from mspd.images.formats import LOSSY
from mspd.images.grid import Pixels, to_tensor
from mspd.images.picture import Picture
from mspd.images.reading import decode
from mspd.images.refusals import refuse

#: budgets by which the root mean square may differ in lossy formats
LOSSY_MARGIN = 1.25
_STRIP = 1 << 18  # values compared at once
_TILE, _EXACT, _SAMPLED = 128, 1 << 20, 1 << 19


@dataclass(frozen=True)
class Check:
    """What the written file, decoded again, differs by: largest grey-level difference, SSIM, PSNR in dB.

    For lossy formats both the original and the protected picture went through the same encoder first. SSIM is exact up
    to a megapixel, above it the mean over an even grid of 128-pixel tiles, about half a megapixel together.
    """

    linf: int
    ssim: float
    psnr: float
    lossy: bool


@memory_errors()
def check_written(
    picture: Picture, pixels: Pixels, written: Picture, form: str, eps: float, quality: int, out: str | Path
) -> Check:
    """Compare the decoded file with the original; ImageError when it breaks the budget or lost something."""
    lossy = form in LOSSY
    original = picture.pixels
    if lossy:
        original = decode(to_bytes(picture, original, form, quality, out), out).pixels
    linf, mse, ssim = _differences(written.pixels, original)
    psnr = -10 * math.log10(mse) if mse else math.inf
    levels = math.floor(eps * 255 + 1e-4)
    if not lossy and not _same(written.pixels, pixels):
        refuse(out, "the written file does not decode to the pixels given; use .png")
    if not lossy and linf > levels:
        refuse(out, f"differs from the original by {linf} grey levels, the budget is {levels}; protect it again")
    if lossy and math.sqrt(mse) > LOSSY_MARGIN * eps:
        rms = math.sqrt(mse) * 255
        refuse(out, f"after {form} at quality {quality} the difference is {rms:.1f} grey levels (RMS), the limit is "
                f"{LOSSY_MARGIN * eps * 255:.1f}; raise the quality or use .png")  # fmt: skip
    if not _same(_alpha(written), _alpha(picture)):
        refuse(out, f"{form} did not keep the transparency; use .png")
    kept = {"PNG": ("exif", "icc", "xmp"), "JPEG": ("exif", "icc", "xmp"), "WEBP": ("exif", "icc", "xmp"),
            "TIFF": ("icc", "xmp")}.get(form, ())  # fmt: skip
    for what in kept:
        if getattr(written, what) != getattr(picture, what):
            refuse(out, f"{form} did not keep the {what.upper()} metadata; use another format")
    return Check(linf=linf, ssim=ssim, psnr=psnr, lossy=lossy)


def _alpha(picture: Picture) -> Pixels:
    """Alpha, opaque when there is none: an encoder may leave out an alpha that says nothing."""
    return picture.alpha if picture.alpha is not None else np.broadcast_to(np.uint8(255), picture.pixels.shape[:2])


def _strips(a: Pixels) -> Iterator[slice]:
    """Rows that stay in the processor's cache while they are compared."""
    rows = max(1, _STRIP // a[0].size)
    return (slice(top, top + rows) for top in range(0, len(a), rows))


def _same(a: Pixels, b: Pixels) -> bool:
    return a.shape == b.shape and all(np.array_equal(a[rows], b[rows]) for rows in _strips(a))


def _differences(a: Pixels, b: Pixels) -> tuple[int, float, float]:
    """Largest difference in grey levels, mean square difference in [0, 1] units, SSIM of two pictures."""
    largest, total = 0, 0.0
    for rows in _strips(a):
        gaps = (np.maximum(a[rows], b[rows]) - np.minimum(a[rows], b[rows])).ravel()
        largest = max(largest, int(gaps.max()))
        wide = gaps.astype(np.float64)
        total += float(wide @ wide)
    return largest, total / a.size / 255**2, _ssim(a, b)


def _ssim(a: Pixels, b: Pixels) -> float:
    """SSIM of two pictures, above a megapixel over an even grid of tiles."""
    height, width, _ = a.shape
    if height * width <= _EXACT:
        return metrics.ssim(to_tensor(a), to_tensor(b)).item()
    tall, wide = min(_TILE, height), min(_TILE, width)
    tiles = max(1, _SAMPLED // (tall * wide))
    down = min(max(1, round(math.sqrt(tiles * height / width))), tiles, height // tall)
    across = min(max(1, tiles // down), width // wide)
    values = []
    for y in np.linspace(0, height - tall, down).astype(int):
        for x in np.linspace(0, width - wide, across).astype(int):
            tile = slice(y, y + tall), slice(x, x + wide)
            values.append(metrics.ssim(to_tensor(a[tile]), to_tensor(b[tile])).item())
    return sum(values) / len(values)
