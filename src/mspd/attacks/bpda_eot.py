"""BPDA + EOT (Athalye et al. 2018; the form of Hill et al. 2021 used for DiffPure): the adaptive attack on a model
behind a purifier."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mspd.attacks.common import check_call, is_random, logits_of, loss_gradient, wrong
from mspd.ball import project, step
from mspd.errors import InputError
from mspd.guard import check_functions, eval_mode, step_or

Purifier = Callable[..., Tensor]


def bpda_eot(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    purifier: Purifier | None = None,
    steps: int = 50,
    step_size: float | None = None,
    samples: int = 20,
    checks: int = 150,
) -> Tensor:
    """Ascend the loss of model(purifier(x)) with the purifier's backward pass taken as the identity.

    x (B, C, H, W) in [0, 1]; y (B,) true labels; `purifier(x, generator=g)` returns images of x's shape. Each step
    averages the logits of `samples` purifications; an image counts as misread, and leaves, when `checks` fresh
    purifications confirm it. Starts at x; `step_size` eps/4 (2/255 at 8/255). Where neither the purifier nor the model
    draws anything, one sample is exact and only one is taken. Images that are never misread come back at their last
    point; those that are, at the first where the mean is wrong, which a single purification may still read right.
    Errors as in `pgd`, and InputError when the purifier changes the shape.
    """
    check_call(model, x, y, eps, norm, generator, steps=steps, samples=samples, checks=checks)
    if purifier is not None:
        check_functions(purifier=purifier)
    step_size = step_or(step_size, eps / 4)
    seed = generator.initial_seed()
    if (purifier is None or _same(purifier, x[:1], seed)) and not is_random(model, x[:1], y[:1]):
        samples, checks = 1, 1
    x_adv = x.clone()
    live = torch.arange(len(x), device=x.device)
    with eval_mode(model):
        for index in range(steps + 1):
            z = x_adv[live]
            clean = [_purify(purifier, z, seed, index * samples + k) for k in range(samples)]
            logits = torch.stack([logits_of(model, p) for p in clean]).mean(0)
            suspect = wrong(logits, y[live]).nonzero()[:, 0]
            if len(suspect):
                again = [
                    logits_of(model, _purify(purifier, z[suspect], seed, -1 - index * checks - k))
                    for k in range(checks)
                ]
                broken = suspect[wrong(torch.stack(again).mean(0), y[live[suspect]])]
                kept = torch.ones(len(live), dtype=torch.bool, device=x.device)
                kept[broken] = False
                live, z, logits, clean = live[kept], z[kept], logits[kept], [p[kept] for p in clean]
            if index == steps or len(live) == 0:
                break
            gradient = _mean_gradient(model, clean, logits, y[live])
            x_adv[live] = project(z + step(gradient, step_size, norm), x[live], eps, norm)
    return x_adv


def _purify(purifier: Purifier | None, z: Tensor, seed: int, draw: int) -> Tensor:
    if purifier is None:
        return z
    own = torch.Generator().manual_seed((seed * 1_000_003 + draw) % 2**63)
    out = purifier(z, generator=own).detach()
    if out.shape != z.shape:
        raise InputError(f"the purifier returns shape {tuple(out.shape)}: it must keep {tuple(z.shape)}")
    return out


def _same(purifier: Purifier, x: Tensor, seed: int) -> bool:
    return torch.equal(_purify(purifier, x, seed, 0), _purify(purifier, x, seed, 1))


def _mean_gradient(model: nn.Module, clean: list[Tensor], logits: Tensor, y: Tensor) -> Tensor:
    """Gradient of the loss of the averaged logits, averaged over the purified images: each sample's logits enter with
    the slope of the loss at the average."""
    slope = logits.softmax(1) - torch.nn.functional.one_hot(y, logits.shape[1])
    total = torch.zeros_like(clean[0])
    for p in clean:
        total += loss_gradient(model, p, y, lambda each, _: (each * slope).sum(1))[0]
    return total / len(clean)
