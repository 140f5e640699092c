"""Projected gradient descent (Madry et al. 2018), the attack of the paper's ablation tables (XI to XVIII)."""

import torch
from torch import Tensor, nn

from mspd.attacks.common import Loss, check_call, loss_gradient, wrong
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
    generator's seed and the image, not from the batch. With `stop_early` an image keeps the first point where it is
    misread and costs nothing from there on; without, every image takes all steps. Raises UsageError and InputError as
    `mcgs` does.
    """
    check_call(model, x, y, eps, norm, generator, steps=steps)
    check_functions(loss=loss)
    step_size = step_or(step_size, eps / 4)
    start = random_offsets(x.shape[1:], eps, norm, image_generators(x, generator))
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
