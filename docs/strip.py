"""Make docs/strip.png: the example photo before and after protection, and their difference times 16.

python docs/strip.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mspd import Protector, images

ROOT = Path(__file__).parents[1]


def main() -> None:
    before = images.read(ROOT / "examples" / "cat.png").pixels
    after, label, confidence = Protector("photo").protect_pixels(before)
    difference = np.clip(128 + 16 * (after.astype(int) - before), 0, 255).astype(np.uint8)
    height, width, _ = before.shape
    strip = Image.new("RGB", (3 * width + 20, height + 24), "white")
    draw = ImageDraw.Draw(strip)
    titles = ("before", f"after (label: {label}, {confidence:.0%} sure)", "difference x 16")
    for index, (pixels, title) in enumerate(zip((before, after, difference), titles, strict=True)):
        strip.paste(Image.fromarray(pixels), (index * (width + 10), 24))
        draw.text((index * (width + 10) + 2, 4), title, fill="black", font_size=15)
    strip.save(ROOT / "docs" / "strip.png", optimize=True)


if __name__ == "__main__":
    main()
