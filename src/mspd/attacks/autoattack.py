"""AutoAttack (Croce and Hein 2020): the ensemble against which robust accuracy is usually reported."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mspd.attacks.apgd import apgd, apgd_t
from mspd.attacks.common import check_call, is_random, logits_of, read_right, wrong
from mspd.attacks.fab import fab_t
from mspd.attacks.square import square
from mspd.errors import UsageError
from mspd.guard import eval_mode

VERSIONS = ("standard", "rand")


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    version: str = "standard",
    steps: int = 100,
    n_queries: int = 5000,
    eot: int = 20,
) -> Tensor:
    """The worst of several attacks, each only on the images that the ones before left right; return x_adv.

    "standard": APGD-CE, targeted APGD and FAB towards nine classes, Square with `n_queries`. "rand": APGD-CE and
    APGD-DLR with `eot` gradients a step; on a model that answers alike twice, one gradient, which is the same and
    `eot` times cheaper. x (B, C, H, W) in [0, 1]; y (B,) true labels; images that are never misread come back
    unchanged. At least four classes ("rand": three). Errors as in `pgd`.
    """
    if version not in VERSIONS:
        raise UsageError(f"unknown version {version!r}: use {' or '.join(VERSIONS)}")
    least = 4 if version == "standard" else 3
    check_call(model, x, y, eps, norm, generator, classes=least, steps=steps, n_queries=n_queries, eot=eot)
    attacks: list[Callable[..., Tensor]]
    if version == "standard":
        attacks = [
            partial(apgd, steps=steps),
            partial(apgd_t, steps=steps),
            partial(fab_t, steps=steps),
            partial(square, n_queries=n_queries),
        ]
    else:
        copies = eot if is_random(model, x[:1], y[:1]) else 1
        attacks = [partial(apgd, steps=steps, loss=loss, eot=copies) for loss in ("ce", "dlr")]
    x_adv = x.clone()
    with eval_mode(model):
        live = read_right(model, x, y)
        for attack in attacks:
            if len(live) == 0:
                break
            z = attack(model, x[live], y[live], eps=eps, norm=norm, generator=generator)
            broken = wrong(logits_of(model, z), y[live])
            x_adv[live[broken]] = z[broken]
            live = live[~broken]
    return x_adv
