"""Fig. 6: how visible the defence is, beside an attack of the same budget."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mspd.adapters import Function
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.plots import pictures
from mspd.benchmark.papers.mspd.report import LPIPS, Ordering, Report, mean, number, numbers_above
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours
from mspd.images import to_levels
from mspd.models import load_model
from mspd.smoothing import prepare

TITLE = "Fig. 6: visual quality of protected and of attacked pictures"
ATTACK = "AutoAttack"
#: L2, SSIM, LPIPS to the original; on CIFAR-10
PAPER = {"AutoAttack": (1.7283, 0.9467, 0.0101), "Our defence": (1.6779, 0.9618, 0.0061)}
IMAGENET = {"AutoAttack": (6.0629, 0.9672, 0.0364), "Our defence": (5.8619, 0.9729, 0.0224)}


def runs(tier: Tier) -> list[Run]:
    return [Run((tier.target,), attacks(tier, ATTACK), tier.n_strong, ours(tier))]


def measured(found: Found, tier: Tier) -> dict[str, tuple[float | None, float | None, float | None]]:
    """L2, SSIM and LPIPS of the attack, over the pictures that it breaks, and of the defence, over all."""
    attack, defence = found.get(tier.target, ATTACK), found.get(tier.target, ATTACK, OURS)
    if attack is None or not bool((attack.clean & ~attack.robust).any()):
        first: tuple[float | None, ...] = (None, None, None)
    else:
        broken = attack.clean & ~attack.robust
        values = (getattr(attack, f"attack_{name}")[broken].mean() for name in ("l2", "ssim", "lpips"))
        first = tuple(None if bool(v.isnan()) else float(v) for v in values)
    second = tuple(mean(defence, name) for name in ("l2", "ssim", "lpips"))
    return dict(zip(PAPER, (first, second), strict=True))  # type: ignore[arg-type]


def report(found: Found, tier: Tier) -> Report:
    values = measured(found, tier)
    longest = tier.preset.eps * (3 * tier.preset.size**2) ** 0.5
    rows = [
        [row, f"{tier.preset.eps * 255:g}/255", *(number(own, paper, ".4f") for own, paper in zip(values[row], numbers,
                                                                                                  strict=True))]
        for row, numbers in (IMAGENET if tier.imagenet else PAPER).items()
    ]  # fmt: skip
    (l2, ssim, lpips), (own_l2, own_ssim, own_lpips) = values.values()
    share = None if own_l2 is None else own_l2 / longest
    orderings: list[Ordering] = [
        numbers_above("L2 of the defence below that of the attack", l2, own_l2),
        numbers_above("SSIM of the defence above that of the attack", own_ssim, ssim, ".4f"),
        numbers_above("LPIPS of the defence below that of the attack", lpips, own_lpips, ".4f"),
        Ordering(
            "L2 of the defence is 90 to 100 % of the longest possible",
            None if share is None else 0.9 <= share <= 1 + 1e-6,
            "" if share is None else f"{share:.1%} of {longest:.3f}",
        ),
    ]
    remarks = [
        "The attack on undefended pictures, mean over those that it breaks, at the first point that is misread; the "
        "defence over all.",
        LPIPS,
    ]
    return Report(["", "Linf budget", "L2", "SSIM", "LPIPS"], rows, orderings, remarks)


def adversarials(study: Study, attack: str, ids: list[int]) -> Tensor:
    """What the attack makes of these undefended pictures, on the 8-bit grid."""
    x, y = study.originals(max(ids) + 1)
    function, eps = attacks(study.tier, attack)[attack], study.tier.preset.eps
    pixels = study.remember(attack, partial(attacked, function, study.tier.target, x[ids], y[ids], eps))
    return torch.tensor(pixels).float().div(255)


def attacked(attack: Function, target: str, x: Tensor, y: Tensor, eps: float) -> list[Any]:
    """8-bit values (B, 3, H, W) of the attacked pictures."""
    model = prepare(load_model(target, x.device))
    z = attack(model, x, y, eps=eps, norm="Linf", generator=torch.Generator().manual_seed(0))
    return list(to_levels(z).tolist())


def plot(study: Study, path: Path) -> None:
    """The first pictures that the attack breaks; where it breaks none, the very first."""
    attack = study.found.get(study.tier.target, ATTACK)
    assert attack is not None
    broken = (attack.clean & ~attack.robust).nonzero()[:, 0].tolist()
    ids = broken[:4] or list(range(min(4, len(attack))))
    shown = study.defended(runs(study.tier)[0], OURS, n=max(ids) + 1)
    assert shown is not None
    x = study.originals(max(ids) + 1)[0][ids].cpu()
    columns = {"original": x, ATTACK: adversarials(study, ATTACK, ids), "our defence": shown[ids].cpu()}
    pictures(columns, x, path)
