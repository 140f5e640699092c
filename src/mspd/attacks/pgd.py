"""Projected gradient descent (Madry et al. 2018), the attack of the paper's ablation tables (XI to XVIII)."""

import torch
from torch import Tensor, nn

from mspd.ball import image_generators, project, random_offsets, step
from mspd.errors import UsageError
from mspd.guard import check_eps, check_images, check_labels, eval_mode
from mspd.smoothing import input_gradient


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
) -> Tensor:
    """Ascend the cross-entropy of `model` from a random start inside the eps-ball around x; return x_adv.

    x (B, C, H, W) in [0, 1]; y (B,) true labels; `step_size` eps/4 unless given. The random start follows from the
    generator's seed and the image, not from the batch. Raises UsageError and InputError as `mcgs` does.
    """
    check_images(x)
    check_labels(y, len(x))
    check_eps(eps, norm)
    if steps < 1:
        raise UsageError("steps must be at least 1")
    step_size = step_size or eps / 4
    start = random_offsets(x.shape[1:], eps, norm, image_generators(x, generator))
    x_adv = project(x + start.to(x), x, eps, norm)
    with eval_mode(model):
        for _ in range(steps):
            x_adv = project(x_adv + step(input_gradient(model, x_adv, y), step_size, norm), x, eps, norm)
    return x_adv
