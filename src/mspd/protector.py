"""The whole method: label, defend, quantise; for tensors and for files."""

import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mspd import images
from mspd.data.classes import difference
from mspd.defenses.mcgs import mcgs
from mspd.errors import UsageError, memory_errors
from mspd.guard import (
    answer,
    check_counts,
    check_eps,
    check_images,
    check_labels,
    check_logits,
    check_seed,
    eval_mode,
)
from mspd.models import card_of, load_model
from mspd.models.calibration import Calibrated, stated
from mspd.models.files import checksum
from mspd.models.registry import HELPERS
from mspd.models.view import add, down, framings, native_size, view
from mspd.presets import Preset, get_preset
from mspd.smoothing import compute_rows, in_pieces, prepare


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" takes CUDA, then Apple's MPS, then the CPU; UsageError when a named device is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}: use auto, cpu, cuda or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}: use auto, cpu, cuda or mps")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"device {name!r} is not available here: use auto or cpu") from error
    return device


@dataclass(frozen=True)
class Protection:
    """What `protect` did to one file. `named_by` says who gave the label that the defence aimed at, the "classifier" or
    the "backbone" (see `Preset`), `confidence` how sure the classifier is of it; `linf` is in grey levels of the
    written file, `seconds` of compute, its share of what was computed together, without decoding and encoding."""

    source: str
    output: str
    label: str
    confidence: float
    named_by: str
    eps: float
    linf: int
    ssim: float
    psnr: float
    lossy: bool
    seed: int
    seconds: float

    def row(self) -> dict[str, Any]:
        """The fields for JSON, which has no infinity: the PSNR of an unchanged picture is None."""
        return {**asdict(self), "psnr": self.psnr if math.isfinite(self.psnr) else None}


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What the defence does to one view: `delta` (1, C, h, w) in [0, 1] units on the CPU, the label that it aims at,
    how sure the classifier is of it and who named it; `seconds` is the picture's share of the compute."""

    delta: Tensor
    label: str
    confidence: float
    named_by: str
    seconds: float


class Protector:
    """Loaded models and settings of one preset; call it with tensors, `protect_file` with paths, or
    `protect_picture` with a decoded file.

    preset: "photo", "cifar10" or a `Preset`. `eps`, `n_samples`, `soft_labels` replace the preset's; `backbone` is
    another backbone, by name, by path of a weight file, or as a module ([0, 1] images to logits). The defence divides
    its logits by the temperature on its card (`mspd.models.calibration`; 1 without one and for a module).
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        preset: str | Preset = "photo",
        *,
        eps: float | None = None,
        n_samples: int | None = None,
        soft_labels: int | None = None,
        backbone: str | Path | nn.Module | None = None,
        device: str = "auto",
    ) -> None:
        settings = get_preset(preset)
        changes: dict[str, Any] = {"eps": eps, "n_samples": n_samples, "soft_labels": soft_labels}
        self.settings = replace(settings, **{key: value for key, value in changes.items() if value is not None})
        _check_budget(self.settings.eps)
        check_counts(n_samples=self.settings.n_samples)
        check_counts(0, soft_labels=self.settings.soft_labels)
        self.device = pick_device(device)
        card = card_of(self.settings.classifier)
        self.classes: list[str] = card["classes"]
        self.checksums = [card["sha256"]]
        self.classifier = load_model(self.settings.classifier, self.device)
        chosen = self.settings.backbone if backbone is None else backbone
        if isinstance(chosen, nn.Module):
            network, temperature = copy.deepcopy(chosen).to(self.device), 1.0
            self._check_outputs(network)
        else:
            self._check_classes(chosen)
            network, temperature = load_model(chosen, self.device), stated(card_of(chosen), str(chosen))
            self.checksums.append(card_of(chosen)["sha256"])
        self.backbone = prepare(network)
        #: the backbone as sure as it is right, by its card; what the defence follows
        self.calibrated = Calibrated(self.backbone, temperature)
        #: what a module looks like that is the backbone; its weights have no card that knows their checksum
        self.module = repr(chosen) if isinstance(chosen, nn.Module) else None

    def _check_classes(self, backbone: str | Path) -> None:
        card = card_of(backbone)
        if card.get("architecture") in HELPERS:
            raise UsageError(f"backbone {backbone}: not a classifier; 'mspd models' gives the accuracy of those")
        differ = difference(card["classes"], self.classes, "the classifier")
        if differ is None:
            return
        name = self.settings.classifier
        raise UsageError(f"backbone {backbone}: {differ}; choose one with the classes of {name}, or another preset")

    def _check_outputs(self, backbone: nn.Module) -> None:
        x = torch.full((1, 3, self.settings.size, self.settings.size), 0.5, device=self.device)
        with torch.no_grad(), eval_mode(backbone):
            logits = answer(backbone, x, "the backbone")
        check_logits(logits, torch.zeros(1, dtype=torch.int64, device=self.device), "the backbone")
        count = logits.shape[1]
        if count != len(self.classes):
            name = self.settings.classifier
            raise UsageError(f"backbone: it has {count} classes, the classifier {name} has {len(self.classes)}")

    def with_eps(self, eps: float) -> "Protector":
        """The same loaded models with another budget."""
        _check_budget(eps)
        other = copy.copy(self)
        other.settings = replace(self.settings, eps=eps)
        return other

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result of a picture, with the checksums of the weights."""
        own = [] if self.module is None else [checksum(self.backbone, self.module)]
        settings = asdict(self.settings)
        if self.settings.own_below == 0:
            del settings["own_below"]  # as in reports of before there was such a setting
        if self.calibrated.temperature != 1:
            settings["temperature"] = self.calibrated.temperature
        return {**settings, "weights": [*self.checksums, *own]}

    def probabilities(self, x: Tensor) -> Tensor:
        """The classifier's probabilities (B, K) of x (B, C, H, W) in [0, 1], as `classify` has them of its views."""
        x = self._viewed(x)
        with torch.no_grad(), eval_mode(self.classifier):
            return in_pieces(self.classify, compute_rows(1, x.shape[2], x.shape[3], self.device), x)

    def classify(self, x: Tensor) -> Tensor:
        """The classifier's mean probabilities (B, K) over the `framings` of views x (B, C, h, w), in one piece."""
        return self._read(self.classifier, x.expand(-1, 3, -1, -1), "the classifier")

    def _viewed(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) at the size of its views; as it is where it has that."""
        return down(x, native_size(x.shape[2], x.shape[3], self.settings.size))

    def _read(self, model: nn.Module, x: Tensor, name: str) -> Tensor:
        """The model's mean probabilities (B, K) over the `framings` of views x."""
        found = [answer(model, seen, name).softmax(1) for seen in framings(x, self.settings.size)]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def labels(self, probabilities: Tensor) -> Tensor:
        """The classifier's label: its best class (B,), or with soft labels its best k renormalised, (B, K)."""
        k = self.settings.soft_labels
        if k == 0:
            return probabilities.argmax(1)
        top = probabilities.topk(min(k, probabilities.shape[1]), dim=1)
        kept = torch.zeros_like(probabilities).scatter(1, top.indices, top.values)
        return kept / kept.sum(1, keepdim=True)

    def aims(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the defence aims at for x (B, C, H, W): `labels`, or what the backbone reads where the classifier is
        less sure than the preset's `own_below`; and the classifier's probabilities (B, K)."""
        x = self._viewed(x)
        probabilities = self.probabilities(x)
        y = self.labels(probabilities)
        if self.settings.own_below == 0:
            return y, probabilities
        rows = compute_rows(1, x.shape[2], x.shape[3], self.device)
        with torch.no_grad():
            own = in_pieces(self.own, rows, x)
        return self.chosen(probabilities, y, own), probabilities

    def own(self, x: Tensor) -> Tensor:
        """The backbone's best class (B,) over the `framings` of views x (B, C, h, w), in one piece."""
        return self._read(self.backbone, x, "the backbone").argmax(1)

    def unsure(self, probabilities: Tensor) -> Tensor:
        """Whether the backbone names the picture, (B,), by the classifier's probabilities (B, K)."""
        return probabilities.amax(1) < self.settings.own_below

    def namers(self, probabilities: Tensor) -> list[str]:
        """Who names each picture: "classifier" or "backbone"."""
        return ["backbone" if unsure else "classifier" for unsure in self.unsure(probabilities).tolist()]

    def chosen(self, probabilities: Tensor, y: Tensor, own: Tensor) -> Tensor:
        """`own` (B,) where the classifier is `unsure`, y (B,) or (B, K) elsewhere."""
        unsure = self.unsure(probabilities)
        if y.ndim == 1:
            return torch.where(unsure, own, y)
        return torch.where(unsure[:, None], (torch.arange(y.shape[1], device=y.device) == own[:, None]).to(y), y)

    def defend(self, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """MCGS with this protector's backbone and settings; float result, not on the 8-bit grid. It takes gradients
        also where the caller has switched them off."""
        check_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        s = self.settings
        with torch.inference_mode(False), torch.enable_grad():
            x, y = ((part.clone() if part.is_inference() else part.detach()) for part in (x, y))
            return mcgs(self.calibrated, x, y, eps=s.eps, generator=generator, n_samples=s.n_samples)

    def __call__(self, x: Tensor, y: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """Protect a batch: x (B, C, H, W) in [0, 1] at the preset's size gives x_def on the 8-bit grid, on x's device,
        in float32 (float64 for a float64 x).

        y: labels (B,) or probabilities (B, K) if known; what `aims` says otherwise. The result of an image depends on
        the image and the seed alone. Raises InputError for tensors outside the contract, UsageError for a seed that is
        no int from 0 to 2^63 - 1.
        """
        check_images(x)
        if y is not None:
            check_labels(y, len(x))
        moved = x.to(self.device, torch.float32)
        y = self.aims(moved)[0] if y is None else y.to(self.device)
        x_def = self.defend(moved, y, seed)
        return images.quantise(x_def, moved, self.settings.eps).to(
            x.device, torch.promote_types(x.dtype, torch.float32)
        )

    @memory_errors()
    def view(self, pixels: NDArray[np.uint8]) -> Tensor:
        """8-bit pixels (H, W, C) of any size as the models see them: (1, C, h, w), shorter side the preset's size."""
        return view(pixels, native_size(pixels.shape[0], pixels.shape[1], self.settings.size))

    def at_once(self, x: Tensor) -> int:
        """How many views of x's size (B, C, h, w) fill the rows of both networks."""
        s = self.settings
        classified = compute_rows(1, x.shape[2], x.shape[3], self.device)
        defended = max(1, compute_rows(s.n_samples, x.shape[2], x.shape[3], self.device) // s.n_samples)
        return math.lcm(classified, defended) if self.device.type == "cpu" else max(classified, defended)

    @memory_errors()
    def perturb(self, x: Tensor, *, seed: int = 0) -> list[Perturbation]:
        """The perturbation of each of the views x (B, C, h, w); it depends on the view and the seed alone.
        MemoryError, from `view` and `apply` too, where PyTorch finds too little memory."""
        started = time.perf_counter()
        x = x.to(self.device)
        y, probabilities = self.aims(x)
        deltas = (self.defend(x, y, seed) - x).cpu()
        labels = likeliest(y)
        confidences = probabilities.gather(1, labels[:, None])[:, 0]
        seconds = (time.perf_counter() - started) / len(x)
        return [
            Perturbation(delta[None], self.classes[label], confidence, namer, seconds)
            for delta, label, confidence, namer in zip(
                deltas, labels.tolist(), confidences.tolist(), self.namers(probabilities), strict=True
            )
        ]

    @memory_errors()
    def apply(self, pixels: NDArray[np.uint8], perturbation: Perturbation) -> NDArray[np.uint8]:
        """The pixels (H, W, C) with the perturbation of their view enlarged and added."""
        return add(pixels, perturbation.delta, int(self.settings.eps * 255 + 1e-4))

    def protect_pixels(self, pixels: NDArray[np.uint8], *, seed: int = 0) -> tuple[NDArray[np.uint8], str, float]:
        """Protect 8-bit pixels (H, W, C) of any size; returns the pixels, the label's name and its confidence.

        The perturbation is computed on the view (shorter side = the preset's size) and only it is enlarged and added.
        """
        protected, perturbation = self._protected(pixels, seed)
        return protected, perturbation.label, perturbation.confidence

    def _protected(self, pixels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], Perturbation]:
        (perturbation,) = self.perturb(self.view(pixels), seed=seed)
        return self.apply(pixels, perturbation), perturbation

    def protect_file(self, source: str | Path, out: str | Path, *, seed: int = 0, quality: int = 95) -> Protection:
        """Protect the picture `source` and write it to `out`, whose suffix gives the format; neither is overwritten.

        The written file is decoded again and checked against the budget; ImageError, and no file, when it fails.
        """
        picture = images.read(Path(source))
        pixels, perturbation = self._protected(picture.pixels, seed)
        check = images.save(picture, pixels, Path(out), eps=self.settings.eps, quality=quality)
        return self.protection(source, out, perturbation, check, seed)

    def protection(
        self, source: object, output: object, perturbation: Perturbation, check: images.Check, seed: int
    ) -> Protection:
        """What is told of a written picture."""
        return Protection(
            source=str(source), output=str(output), label=perturbation.label,
            confidence=round(perturbation.confidence, 4), named_by=perturbation.named_by, eps=self.settings.eps,
            linf=check.linf, ssim=round(check.ssim, 5), psnr=round(check.psnr, 2), lossy=check.lossy, seed=seed,
            seconds=round(perturbation.seconds, 3),
        )  # fmt: skip

    def protect_picture(
        self, picture: images.Picture, name: str | Path, *, seed: int = 0, quality: int = 95
    ) -> tuple[bytes, Protection]:
        """`protect_file` in memory: the bytes of the file that would be called `name`."""
        pixels, perturbation = self._protected(picture.pixels, seed)
        data, check = images.encode(picture, pixels, name, eps=self.settings.eps, quality=quality)
        return data, self.protection(picture.path, name, perturbation, check, seed)


def likeliest(y: Tensor) -> Tensor:
    """The classes (B,) of labels (B,) or probabilities (B, K)."""
    return y if y.ndim == 1 else y.argmax(1)


def _check_budget(eps: float) -> None:
    check_eps(eps)
    if eps * 255 < 1 - 1e-4:
        raise UsageError(f"eps is {eps:g}, less than a grey level of 8-bit pictures: at least 1/255")


def protect(
    source: str | Path,
    out: str | Path | None = None,
    *,
    preset: str | Preset = "photo",
    seed: int = 0,
    quality: int = 95,
    **options: Any,
) -> Protection:
    """Protect one picture file with a preset; `out` is `NAME.protected.png` beside it unless given.

    `quality` is that of JPEG and WebP; `options` are those of `Protector` (eps, n_samples, soft_labels, backbone,
    device). For many files make one `Protector` and call its `protect_file`. ImageError, and no file, for a picture
    that cannot be read or a result that cannot be written; UsageError for wrong options.
    """
    source = Path(source)
    target = Path(out) if out is not None else source.with_name(source.stem + ".protected.png")
    return Protector(preset, **options).protect_file(source, target, seed=seed, quality=quality)
