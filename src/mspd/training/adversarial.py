"""Pictures for adversarial training.

N-FGSM, a single step that does not collapse (de Jorge et al. 2022, "Make some noise: reliable and efficient single-step
adversarial training"): noise from twice the budget, one sign step of the full budget from there, no projection back.
PGD (Madry et al. 2018) and the inner problem of TRADES (Zhang et al. 2019) with a few steps.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.ball import project
from mspd.objectives import cross_entropy


def n_fgsm(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """Adversarial training images for x (B, C, H, W) in [0, 1] and labels y, hard (B,) or soft (B, K)."""
    noise = (torch.rand(x.shape, generator=generator) * 2 - 1) * (2 * eps)
    start = (x + noise.to(x.device)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(model(start), y).sum(), start)
    return (start.detach() + eps * gradient.sign()).clamp_(0, 1)


def pgd_steps(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, generator: torch.Generator) -> Tensor:
    """`steps` steps of 2 eps / steps up the cross-entropy, from a random start in the ball. Shapes as in n_fgsm."""
    return _ascend(model, x, lambda logits: cross_entropy(logits, y).sum(), eps, steps, generator)


def trades_steps(model: nn.Module, x: Tensor, *, eps: float, steps: int, generator: torch.Generator) -> Tensor:
    """The same up the divergence from the model's own answer on x: TRADES needs no label."""
    with torch.no_grad():
        p = model(x).softmax(1)
    return _ascend(model, x, lambda logits: divergence(p, logits).sum(), eps, steps, generator)


def divergence(p: Tensor, logits: Tensor) -> Tensor:
    """KL divergence of softmax(logits) from the probabilities p, both (B, K): (B,)."""
    return F.kl_div(logits.log_softmax(1), p, reduction="none").sum(1)


def _ascend(
    model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], eps: float, steps: int, generator: torch.Generator
) -> Tensor:
    z = x + ((torch.rand(x.shape, generator=generator) * 2 - 1) * eps).to(x.device)
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(model(z)), z)
        z = project(z.detach() + 2 * eps / steps * gradient.sign(), x, eps, "Linf")
    return z.detach()
