"""Single-step adversarial training that does not collapse: N-FGSM.

de Jorge et al. 2022, "Make some noise: reliable and efficient single-step adversarial training": noise from twice the
budget, one sign step of the full budget from there, no projection back.
"""

import torch
from torch import Tensor, nn

from mspd.objectives import cross_entropy
from mspd.training.precision import mixed


def n_fgsm(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """Adversarial training images for x (B, C, H, W) in [0, 1] and labels y, hard (B,) or soft (B, K)."""
    noise = (torch.rand(x.shape, generator=generator) * 2 - 1) * (2 * eps)
    start = (x + noise.to(x.device)).requires_grad_(True)
    with mixed(x.device):
        logits = model(start)
    (gradient,) = torch.autograd.grad(cross_entropy(logits.float(), y).sum(), start)
    return (start.detach() + eps * gradient.sign()).clamp_(0, 1)
