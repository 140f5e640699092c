"""Projected gradient descent (Madry et al. 2018), the attack of the paper's ablation tables (XI to XVIII)."""

import torch
from torch import Tensor, nn

from mspd.attacks.common import Loss, check_call, logits_of, loss_gradient, wrong
from mspd.ball import image_generators, project, random_offsets, step
from mspd.guard import check_functions, eval_mode, step_or
from mspd.objectives import cross_entropy


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    steps: int = 20,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    stop_early: bool = False,
) -> Tensor:
    """Ascend `loss` of `model` from a random start inside the eps-ball around x; return x_adv.

    x (B, C, H, W) in [0, 1]; y (B,) true labels; `step_size` eps/4 unless given. The random start follows from the
    generator's seed and the image, not from the batch, and a second call with the same generator gives the same: for
    another start pass another seed. With `stop_early` an image keeps the first point where it is misread and costs
    nothing from there on; without, every image takes all steps. Raises UsageError and InputError as `mcgs` does.
    """
    check_call(model, x, y, eps, norm, generator, steps=steps)
    check_functions(loss=loss)
    return _ascend(model, x, y, eps, norm, generator, steps, step_or(step_size, eps / 4), loss, stop_early)


def smallest_eps(
    model: nn.Module, x: Tensor, y: Tensor, *, largest: float, generator: torch.Generator, rounds: int = 7
) -> Tensor:
    """The smallest Linf budget with which PGD-20 was seen to change each label, by bisection: (B,), in [0, 1] units, to
    `largest` / 2 ** `rounds`; 0 where the label is not read at all, infinity where `largest` does not change it.

    x and y as for `pgd`, with the same errors. The images are searched side by side, each as it would be alone.
    """
    check_call(model, x, y, largest, "Linf", generator, rounds=rounds)
    low = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
    high = torch.full_like(low, largest)

    def breaks(eps: Tensor) -> Tensor:
        x_adv = _ascend(model, x, y, eps, "Linf", generator, 20, eps / 4, cross_entropy, stop_early=False)
        return wrong(logits_of(model, x_adv), y).view_as(eps)

    with eval_mode(model):
        lost = wrong(logits_of(model, x), y).view_as(low)
        if lost.all():
            return low.flatten()
        holds = ~breaks(high)
        for _ in range(rounds):
            middle = (low + high) / 2
            broken = breaks(middle)
            low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    return high.masked_fill(holds, torch.inf).masked_fill(lost, 0).flatten()


def _ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    norm: str,
    generator: torch.Generator,
    steps: int,
    step_size: float | Tensor,
    loss: Loss,
    stop_early: bool,
) -> Tensor:
    """PGD; `eps` and `step_size` may be (B, 1, 1, 1), which does not go with `stop_early`."""
    length = eps.cpu() if isinstance(eps, Tensor) else eps
    start = random_offsets(x.shape[1:], length, norm, image_generators(x, generator))
    x_adv = project(x + start.to(x), x, eps, norm)
    live = torch.arange(len(x), device=x.device)
    with eval_mode(model):
        for _ in range(steps):
            z = x_adv[live]
            gradient, _, logits = loss_gradient(model, z, y[live], loss)
            if stop_early:
                kept = ~wrong(logits, y[live])
                live, z, gradient = live[kept], z[kept], gradient[kept]
                if len(live) == 0:
                    break
            x_adv[live] = project(z + step(gradient, step_size, norm), x[live], eps, norm)
    return x_adv
