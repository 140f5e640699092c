"""APGD, the parameter-free attack of Croce and Hein 2020 ("Reliable evaluation of adversarial robustness"): momentum
steps whose size is halved at checkpoints when the loss stops growing."""

import torch
from torch import Tensor, nn

from mspd.attacks.common import Loss, check_call, loss_gradient, over_targets, read_right, wrong
from mspd.ball import image_generators, project, step
from mspd.errors import UsageError
from mspd.guard import eval_mode
from mspd.objectives import cross_entropy, dlr, targeted_dlr

LOSSES = {"ce": cross_entropy, "dlr": dlr}


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    steps: int = 100,
    loss: str = "ce",
    eot: int = 1,
) -> Tensor:
    """APGD-CE or APGD-DLR from one random start; return x_adv, x itself where no misread point was found.

    x (B, C, H, W) in [0, 1]; y (B,) true labels; `loss` "ce" or "dlr" (at least 3 classes). `eot` gradients are
    averaged at each point: for models with random outputs only. An image leaves as soon as it is misread. Errors as in
    `pgd`.
    """
    if loss not in LOSSES:
        raise UsageError(f"unknown loss {loss!r}: use {' or '.join(LOSSES)}")
    check_call(model, x, y, eps, norm, generator, classes=3 if loss == "dlr" else 2, steps=steps, eot=eot)
    x_adv = x.clone()
    with eval_mode(model):
        live = read_right(model, x, y)
        if len(live):
            x_adv[live] = ascend(
                model,
                x[live],
                y[live],
                eps=eps,
                norm=norm,
                generator=generator,
                steps=steps,
                loss=LOSSES[loss],
                eot=eot,
            )
    return x_adv


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    steps: int = 100,
    targets: int = 9,
) -> Tensor:
    """APGD on the targeted DLR loss, towards each of the `targets` likeliest wrong classes of the clean image in turn.

    At least four classes; with fewer than `targets` wrong classes, all of them. Else as `apgd`.
    """
    check_call(model, x, y, eps, norm, generator, classes=4, steps=steps, targets=targets)

    def run(x: Tensor, y: Tensor, aim: Tensor, rank: int) -> Tensor:
        return ascend(model, x, y, eps=eps, norm=norm, generator=generator, steps=steps, aim=aim, salt=rank)

    with eval_mode(model):
        return over_targets(model, x, y, targets, run)


def checkpoints(steps: int) -> list[int]:
    """Number of iterations in each window: 22 % of the steps, then 3 % less each time, at least 6 %."""
    window, least, less = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    windows: list[int] = []
    while sum(windows) + window <= steps:
        windows.append(window)
        window = max(window - less, least)
    return windows


def ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str,
    generator: torch.Generator,
    steps: int,
    loss: Loss = cross_entropy,
    aim: Tensor | None = None,
    eot: int = 1,
    salt: int = 0,
) -> Tensor:
    """One run without the checks: untargeted on `loss`, or towards the classes `aim` (B,) on the targeted DLR.

    `salt` separates the random starts of several runs.
    """
    found = x.clone()
    live = torch.arange(len(x), device=x.device)  # rows of everything below, as indices into x
    z = project(x + _start(x, eps, norm, generator, salt), x, eps, norm)
    previous = z
    gradient, value, logits = _slope(model, z, y, loss, aim, eot)
    best, best_value, best_gradient = z, value, gradient
    size = torch.full((len(x), 1, 1, 1), 2 * eps, device=x.device, dtype=torch.float32)
    halved, best_before = torch.ones(len(x), dtype=torch.bool, device=x.device), value
    grew = torch.zeros(len(x), device=x.device, dtype=torch.float32)
    last = torch.zeros_like(value)  # the official implementation compares the first loss with zero
    windows = iter(checkpoints(steps))
    window, counted = next(windows), 0
    for index in range(steps + 1):
        broken = wrong(logits, y[live])
        if bool(broken.any()):
            found[live[broken]] = z[broken]
            kept = ~broken
            live, z, previous, gradient = live[kept], z[kept], previous[kept], gradient[kept]
            value, best, best_value, best_gradient = value[kept], best[kept], best_value[kept], best_gradient[kept]
            size, halved, best_before, grew, last = size[kept], halved[kept], best_before[kept], grew[kept], last[kept]
        if index == steps or len(live) == 0:
            break
        centre = x[live]
        ahead = project(z + size * step(gradient, 1.0, norm), centre, eps, norm)
        share = 1.0 if index == 0 else 0.75
        previous, z = z, project(z + share * (ahead - z) + (1 - share) * (z - previous), centre, eps, norm)
        gradient, value, logits = _slope(model, z, y[live], loss, None if aim is None else aim[live], eot)
        grew = grew + (value > last)
        last = value
        better = value > best_value
        best, best_gradient = _pick(better, z, best), _pick(better, gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        counted += 1
        if counted == window:
            stuck = (~halved) & (best_before >= best_value)
            halved = (grew <= 0.75 * window) | stuck
            best_before = best_value
            size = torch.where(halved[:, None, None, None], size / 2, size)
            z, gradient = _pick(halved, best, z), _pick(halved, best_gradient, gradient)
            grew = torch.zeros_like(grew)
            window, counted = next(windows, steps + 1), 0
    return found


def _slope(
    model: nn.Module, z: Tensor, y: Tensor, loss: Loss, aim: Tensor | None, eot: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient, losses and logits, the mean of `eot` calls."""
    full = loss if aim is None else (lambda logits, labels: targeted_dlr(logits, labels, aim))
    gradient, value, logits = loss_gradient(model, z, y, full)
    for _ in range(eot - 1):
        again = loss_gradient(model, z, y, full)
        gradient, value, logits = gradient + again[0], value + again[1], logits + again[2]
    return gradient / eot, value / eot, logits / eot


def _pick(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(mask[:, None, None, None], a, b)


def _start(x: Tensor, eps: float, norm: str, generator: torch.Generator, salt: int) -> Tensor:
    """A random point on the ball's surface for each image, from the image's own generator."""
    seeded = torch.Generator().manual_seed((generator.initial_seed() + 7919 * salt) % 2**63)
    draws = []
    for own in image_generators(x, seeded):
        if norm == "Linf":
            t = torch.rand(x.shape[1:], generator=own, dtype=torch.float32) * 2 - 1
            draws.append(eps * t / t.abs().max())
        else:
            t = torch.randn(x.shape[1:], generator=own, dtype=torch.float32)
            draws.append(eps * t / t.norm())
    return torch.stack(draws).to(x)
