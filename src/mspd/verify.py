"""Does this protected file help? Measured on robust models that the defence never saw."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mspd import images
from mspd.attacks.common import logits_of
from mspd.attacks.pgd import pgd, smallest_eps
from mspd.errors import ImageError, UsageError, memory_errors
from mspd.guard import check_seed
from mspd.models import card_of, load_model
from mspd.objectives import margin
from mspd.presets import Preset, get_preset
from mspd.protector import Protector, likeliest
from mspd.purifiers.jpeg import LONGEST_SIDE, recoded
from mspd.smoothing import prepare

#: copies with random noise as strong as the difference at hand: a growth of the attacked margin that is more than
#: chance lies so many of their standard deviations above their mean, and is no less than so many logits
CONTROLS, DEVIATIONS, LEAST = 16, 4, 0.03
LARGEST_EPS = 32 / 255
JPEG = 75
#: grey levels: no protection moves a pixel so far; its JPEG may, but not by so many of the preset's budgets on average
FAR, FOREIGN = 64, 3


@dataclass(frozen=True)
class Reading:
    """How one target reads one version of the picture. `breaks_at` is the smallest PGD-20 budget (in 1/255) found to
    change the label, 0 when the label is not read even without attack, None when no budget up to 32/255 changes it;
    `survives` tells it for several budgets; `margin` is the label's lead in logits under attack at the preset's eps."""

    prediction: str
    breaks_at: float | None
    survives: dict[str, bool]
    margin: float


@dataclass(frozen=True)
class TargetResult:
    """One target, the original and the protected picture: as they are, after JPEG 75, at half the size."""

    target: str
    original: Reading
    protected: Reading
    original_jpeg: Reading
    protected_jpeg: Reading
    original_half: Reading
    protected_half: Reading


@dataclass(frozen=True)
class Verification:
    """`label` is what the defence aimed at and `confidence` how sure the classifier is of it; `named_by` as in
    `Protection`. `gain` is the mean growth of the attacked margin; the verdict is "helps" where it is above `chance`,
    which random noise as strong hardly reaches, else "no effect". `gain_jpeg` and `gain_half` are the gain after
    recompression. `remark` is what has to be said beside it: that the files hardly are a picture and its copy; beside
    "helps", that no target reads the label, or none under attack."""

    original: str
    protected: str
    label: str
    confidence: float
    named_by: str
    linf: int
    verdict: str
    gain: float
    gain_jpeg: float
    gain_half: float
    chance: float
    remark: str
    targets: list[TargetResult]

    def row(self) -> dict[str, Any]:
        return asdict(self)


def half(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) pixels at half the size, as a site would make them (Lanczos)."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    size = (max(1, image.width // 2), max(1, image.height // 2))
    resized = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return resized.reshape(*resized.shape[:2], pixels.shape[2])


def remark(label: str, targets: list[TargetResult]) -> str:
    """What a verdict of "helps" hides: a lead can grow and still be no lead. Empty when some target holds the label."""
    if all(t.original.breaks_at == t.protected.breaks_at == 0 for t in targets):
        return (
            f"Even so, no target reads the picture as {label}, before or after, attacked or not: "
            "the name only comes closer."
        )
    if all(t.protected.margin <= 0 for t in targets):
        return "Even so, another name stays ahead under attack."
    return ""


class Verifier:
    """What names the label, and the preset's unseen robust targets, loaded once. `backbone` as in `Protector`: that of
    the protection, which names what the classifier is not sure of."""

    def __init__(
        self,
        preset: str | Preset = "photo",
        *,
        backbone: str | Path | nn.Module | None = None,
        device: str = "auto",
    ) -> None:
        self.preset = get_preset(preset)
        if not self.preset.targets:
            raise UsageError(f"preset {self.preset.name} has no targets to verify on: name some in its targets")
        self.protector = Protector(self.preset, backbone=backbone, device=device)
        names = self.preset.targets
        self.classes = {name: card_of(name)["classes"] for name in names}
        self.targets = {name: prepare(load_model(name, self.protector.device)) for name in names}

    def label(self, pixels: NDArray[np.uint8]) -> tuple[int, float, str]:
        """The class that a defence of pixels (H, W, C) aims at, how sure the classifier is of it, and who named it."""
        y, probabilities = self.protector.aims(self.view(pixels))
        label = int(likeliest(y))
        return label, float(probabilities[0, label]), self.protector.namers(probabilities)[0]

    def attacked_margin(self, target: str, pixels: NDArray[np.uint8], label: int, seed: int = 0) -> float:
        """The label's lead over the next class, in logits of `target`, under PGD-20 at the preset's eps."""
        return float(self._attacked_margins(target, self.view(pixels), label, seed))

    def _attacked_margins(self, target: str, x: Tensor, label: int, seed: int) -> Tensor:
        model, y = self.targets[target], torch.full((len(x),), label, device=x.device)
        x_adv = pgd(model, x, y, eps=self.preset.eps, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return -margin(model(x_adv), y)

    def chance(self, before: NDArray[np.uint8], after: NDArray[np.uint8], label: int, seed: int = 0) -> float:
        """The growth of the attacked margin, averaged over the targets, that random noise hardly reaches; the noise is
        as strong (root mean square) as the difference of the two pictures, pixels (H, W, C), in the targets' view."""
        x = self.view(before)
        strength = (self.view(after) - x).square().mean().sqrt()
        draws = torch.randint(2, (CONTROLS, *x.shape[1:]), generator=torch.Generator().manual_seed(seed)).to(x)
        controls = torch.cat((x, (x + strength * (2 * draws - 1)).clamp(0, 1)))
        margins = torch.stack([self._attacked_margins(name, controls, label, seed) for name in self.targets]).mean(0)
        growth = margins[1:] - margins[0]
        return max(LEAST, float(growth.mean() + DEVIATIONS * growth.std()))

    def read(self, target: str, versions: Sequence[NDArray[np.uint8]], label: int, seed: int = 0) -> list[Reading]:
        """One target's reading of each version of a picture, pixels (H, W, C); see `Reading`. Versions of one shape are
        attacked side by side."""
        model, views = self.targets[target], [self.view(pixels) for pixels in versions]
        readings: dict[int, Reading] = {}
        for shape in dict.fromkeys(x.shape for x in views):
            places = [index for index, x in enumerate(views) if x.shape == shape]
            x = torch.cat([views[index] for index in places])
            y = torch.full((len(x),), label, device=x.device)
            predictions = logits_of(model, x).argmax(1).tolist()
            generator = torch.Generator().manual_seed(seed)
            breaks = smallest_eps(model, x, y, largest=LARGEST_EPS, generator=generator).mul(255).tolist()
            margins = self._attacked_margins(target, x, label, seed).tolist()
            for index, best, broken, lead in zip(places, predictions, breaks, margins, strict=True):
                grey = round(broken, 2)
                readings[index] = Reading(
                    prediction=self.classes[target][best],
                    breaks_at=grey if math.isfinite(grey) else None,
                    survives={f"{m}/255": grey > m for m in (1, 2, 4, 8, 16)},
                    margin=round(lead, 3),
                )
        return [readings[index] for index in range(len(views))]

    def view(self, pixels: NDArray[np.uint8]) -> Tensor:
        """8-bit pixels (H, W, C) of any size as the targets see them: (1, 3, h, w), shorter side the preset's size."""
        return self.protector.view(pixels).to(self.protector.device).expand(-1, 3, -1, -1)

    def __call__(
        self,
        original: str | Path,
        protected: str | Path,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verification:
        """Compare two files of the same picture. ImageError when they cannot be read or differ in size."""
        return self.compare(images.read(original), images.read(protected), seed=seed, progress=progress)

    @memory_errors()
    def compare(
        self,
        original: images.Picture,
        protected: images.Picture,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verification:
        """The same for decoded files. `progress` is called after each target, and after the noise, with how many of
        these are done, of how many."""
        check_seed(seed)
        tell = progress or (lambda done, of: None)
        before, after = original.pixels, protected.pixels
        if before.shape[:2] != after.shape[:2]:
            sizes = f"{before.shape[1]} x {before.shape[0]} and {after.shape[1]} x {after.shape[0]} pixels"
            names = f"{original.path} and {protected.path}"
            raise ImageError(f"{names} differ in size ({sizes}): give a picture and its own copy")
        if max(before.shape) > LONGEST_SIDE:
            line = f"longer than {LONGEST_SIDE} pixels, too long for JPEG; verify a smaller copy"
            raise ImageError(f"{original.path}: {line}")
        if before.shape[2] != after.shape[2]:
            before, after = (np.repeat(p, 3, 2) if p.shape[2] == 1 else p for p in (before, after))
        label, confidence, named_by = self.label(before)
        pairs = ((before, after), (recoded(before, JPEG), recoded(after, JPEG)), (half(before), half(after)))
        versions = [pixels for pair in pairs for pixels in pair]
        results: list[TargetResult] = []
        for name in self.targets:
            results.append(TargetResult(name, *self.read(name, versions, label, seed)))
            tell(len(results), len(self.targets) + 1)
        gains = [
            sum(getattr(r, a).margin - getattr(r, b).margin for r in results) / len(results)
            for a, b in (
                ("protected", "original"),
                ("protected_jpeg", "original_jpeg"),
                ("protected_half", "original_half"),
            )
        ]
        chance, name = self.chance(before, after, label, seed), self.protector.classes[label]
        tell(len(self.targets) + 1, len(self.targets) + 1)
        found = "helps" if gains[0] > chance else "no effect"
        difference = np.abs(before.astype(np.int16) - after)
        said = remark(name, results) if found == "helps" else ""
        if difference.max() > FAR and difference.mean() > FOREIGN * self.preset.eps * 255:
            said = (
                f"But the two differ by {difference.mean():.0f} grey levels on average, far more than a protection "
                "makes: is the second a copy of the first?"
            )
        return Verification(
            original=str(original.path), protected=str(protected.path), label=name, confidence=round(confidence, 4),
            named_by=named_by, linf=int(difference.max()), verdict=found, gain=round(gains[0], 3),
            gain_jpeg=round(gains[1], 3), gain_half=round(gains[2], 3),
            chance=round(chance, 3), remark=said, targets=results,
        )  # fmt: skip


def verify(
    original: str | Path,
    protected: str | Path,
    *,
    preset: str | Preset = "photo",
    backbone: str | Path | nn.Module | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Verification:
    """Attack both files on the preset's unseen targets; see `Verification`. For many files make one `Verifier`.

    ImageError for a file that cannot be read, for two of different size, and for one too long for JPEG; two that hardly
    show the same picture get a remark. UsageError for an unknown preset or device.
    """
    return Verifier(preset, backbone=backbone, device=device)(original, protected, seed=seed)
