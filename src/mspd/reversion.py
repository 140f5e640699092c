"""Preemptive reversion: defend the defended picture again and take that move back (paper, Sec. IV, Eq. 7).

It runs the defence that it is given. How much the attacker knows is which backbone is passed: the defender's own
(white), another training of its architecture (gray), an ordinary network (black); `SURROGATES` names the shipped ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mspd.adapters import check_signature, name_of
from mspd.errors import InputError, UsageError
from mspd.guard import answer, check_functions, check_images, check_logits, check_result, eval_mode
from mspd.smoothing import compute_rows, in_pieces

#: the shipped surrogate of each preset and setting, white being the preset's own backbone; None where none is shipped.
#: The black one of "photo", the only ordinary network for photos, is also that preset's classifier.
SURROGATES: dict[str, dict[str, str | None]] = {
    "cifar10": {"white": "prn18-cifar10", "gray": "prn18-gray-cifar10", "black": "rn20-cifar10"},
    "photo": {"white": "prn18-photo", "gray": None, "black": "effnet-lite0-photo"},
}


def surrogate(preset: str, setting: str) -> str:
    """The shipped model that stands for the backbone in `setting` "white", "gray" or "black".

    UsageError for an unknown preset or setting, and where no such model is shipped.
    """
    if preset not in SURROGATES:
        raise UsageError(f"no surrogates are known for preset {preset!r}, only for {', '.join(SURROGATES)}")
    models = SURROGATES[preset]
    if setting not in models:
        raise UsageError(f"unknown setting {setting!r}: choose one of {', '.join(models)}")
    name = models[setting]
    if name is None:
        wanted = f"{models['white']} trained with another seed" if setting == "gray" else "an ordinary network"
        raise UsageError(f"no {setting} surrogate is shipped for {preset}: pass {wanted} as the backbone")
    return name


def reflect(x_def: Tensor, again: Tensor) -> Tensor:
    """Eq. 7, clipped to [0, 1]: x_def moved as far from `again` as `again` is from it. Both (B, C, H, W)."""
    return (2 * x_def - again).clamp(0, 1)


def hard(logits: Tensor) -> Tensor:
    """The best class (B,) of logits (B, K)."""
    return logits.argmax(1)


def revert(
    x_def: Tensor,
    *,
    defense: Callable[..., Tensor],
    backbone: nn.Module,
    classifier: nn.Module,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    label: Callable[[Tensor], Tensor] = hard,
    **params: object,
) -> Tensor:
    """Try to take `defense` back from x_def (B, C, H, W) in [0, 1]; return x_rev, within eps of x_def.

    The label is read again: `label` turns the logits of `classifier` on x_def into what the defence aims at, the best
    class (B,) unless given, or probabilities (B, K). `params` go to the defence. The randomness of mspd's defences is
    fresh although the seed may be the defender's: noise follows from the seed and the image, and x_def is another one.
    For a defence that draws from `generator` itself pass another seed than the defender's. UsageError and InputError as
    the defence raises them, and for one that cannot be called so or leaves the budget; UsageError where the two models
    differ in their number of classes.
    """
    check_images(x_def, "x_def")
    check_functions(defense=defense, label=label)
    name = name_of(defense)
    check_signature("defence", name, partial(defense, **params), "model, x, y, eps=, norm=, generator=")
    logits = _logits(classifier, x_def, "the classifier")
    own = _logits(backbone, x_def[:1], "the backbone").shape[1]
    if own != logits.shape[1]:
        raise UsageError(f"the backbone has {own} classes, the classifier {logits.shape[1]}: they must be the same")
    y = label(logits)
    again = defense(backbone, x_def, y, eps=eps, norm=norm, generator=generator, **params)
    check_result(again, x_def, f"defence {name!r}", eps=eps, norm=norm)
    return reflect(x_def, again)


def _logits(model: nn.Module, x: Tensor, name: str) -> Tensor:
    rows = compute_rows(1, x.shape[2], x.shape[3], x.device)
    with torch.no_grad(), eval_mode(model):
        logits = in_pieces(lambda piece: answer(model, piece, name), rows, x)
    check_logits(logits, torch.zeros(len(x), dtype=torch.int64, device=x.device), name)
    return logits


@dataclass(frozen=True)
class Criterion:
    """What a successful reversion does, three things at once (paper, Sec. VI-C); one alone may be mere distortion.

    accuracy_falls: the robust accuracy falls, to at most 3 points (or one standard error of the paired difference,
                    where that is more) above that of the undefended images
    ssim_rises:     SSIM to the original is higher after the reversion than before, by the 95 % interval of the mean
                    paired difference
    lpips_falls:    LPIPS to the original is lower, likewise; None where LPIPS was not measured
    """

    accuracy_falls: bool
    ssim_rises: bool
    lpips_falls: bool | None


def criterion(
    robust: tuple[Tensor, Tensor, Tensor], ssim: tuple[Tensor, Tensor], lpips: tuple[Tensor, Tensor] | None = None
) -> Criterion:
    """Judge a reversion from values of the same n images, each (n,).

    `robust`: boolean, undefended, defended, reverted. `ssim` and `lpips`: to the original, of the defended and of the
    reverted images. InputError when the lengths differ, and for one image, which has no interval.
    """
    values = (*robust, *ssim, *(lpips or ()))
    if any(v.ndim != 1 or len(v) != len(values[0]) or len(v) < 2 for v in values):
        raise InputError("criterion needs one value an image, the same images everywhere, two or more: tensors (n,)")
    undefended, defended, reverted = (v.double() for v in robust)
    left, error = _mean_and_error(reverted - undefended)
    return Criterion(
        accuracy_falls=bool(reverted.mean() < defended.mean()) and left <= max(0.03, error) + 1e-9,
        ssim_rises=_rises(ssim[0], ssim[1]),
        lpips_falls=None if lpips is None else _rises(lpips[1], lpips[0]),
    )


def _mean_and_error(change: Tensor) -> tuple[float, float]:
    return change.mean().item(), math.sqrt(change.var().item() / len(change))


def _rises(before: Tensor, after: Tensor) -> bool:
    mean, error = _mean_and_error(after.double() - before.double())
    return mean > 1.96 * error
