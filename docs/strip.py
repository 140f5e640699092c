"""Make docs/strip.png: the example photo before and after protection, what an attack makes a target that the defence
never saw read in it, and the difference times 16.

python docs/strip.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from mspd import images
from mspd.attacks.pgd import pgd
from mspd.verify import Verifier

ROOT = Path(__file__).parents[1]
TARGET, EPS, WIDTH = "rn18-photo", 8, 480


def read_under_attack(verifier: Verifier, pixels: np.ndarray, y: torch.Tensor) -> str:
    x, model = verifier.protector.view(pixels), verifier.targets[TARGET]
    x_adv = pgd(model, x, y, eps=EPS / 255, generator=torch.Generator().manual_seed(0))
    return verifier.classes[TARGET][int(model(x_adv).argmax())]


def main() -> None:
    verifier = Verifier("photo")
    before = images.read(ROOT / "examples" / "bee.jpg").pixels
    after, label, confidence = verifier.protector.protect_pixels(before)
    difference = np.clip(128 + 16 * (after.astype(int) - before), 0, 255).astype(np.uint8)

    y = torch.tensor([verifier.label(before)[0]])
    height = before.shape[0] * WIDTH // before.shape[1]
    strip = Image.new("RGB", (3 * WIDTH + 20, height + 52), "white")
    draw = ImageDraw.Draw(strip)
    titles = ("before", f"after (label: {label}, {confidence:.0%} sure)", "difference x 16")
    for index, (pixels, title) in enumerate(zip((before, after, difference), titles, strict=True)):
        left = index * (WIDTH + 10)
        strip.paste(Image.fromarray(pixels).resize((WIDTH, height), Image.Resampling.LANCZOS), (left, 24))
        draw.text((left + 2, 4), title, fill="black", font_size=15)
        if pixels is not difference:
            reads = f"attacked at {EPS}/255, {TARGET} reads: {read_under_attack(verifier, pixels, y)}"
            draw.text((left + 2, height + 28), reads, fill="black", font_size=15)
    strip.save(ROOT / "docs" / "strip.png", optimize=True)


if __name__ == "__main__":
    main()
