"""The attack of Carlini and Wagner 2017 inside a hard Linf bound: a subtle attack, weaker than PGD on purpose (Table
V of the paper, where its accuracy lies above PGD's)."""

import torch
from torch import Tensor, nn

from mspd.attacks.common import check_call, loss_gradient, read_right, wrong
from mspd.attacks.pgd import pgd
from mspd.errors import UsageError
from mspd.guard import check_nonnegative, check_positive, eval_mode
from mspd.objectives import margin


def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    steps: int = 50,
    lr: float = 0.01,
    c: float = 1.0,
    confidence: float = 0.0,
) -> Tensor:
    """Adam on |delta|^2 + c max(z_y - max_other z, -confidence), delta in a box by a tanh; return the shortest success.

    The box is the Linf ball around x (B, C, H, W), cut to [0, 1]; the walk starts in its middle (x itself, but for
    values nearer than eps to 0 or 1), so 50 steps of 0.01 reach less than half of the budget. Images that are never
    misread, or are already, come back unchanged. Linf only. Draws nothing from `generator`. Errors as in `pgd`.
    """
    check_call(model, x, y, eps, norm, generator, steps=steps)
    if norm != "Linf":
        raise UsageError("cw keeps to a Linf box: use norm='Linf'")
    check_positive(lr=lr, c=c)
    check_nonnegative(confidence=confidence)
    with eval_mode(model):
        live = read_right(model, x, y)
        x_adv = x.clone()
        if len(live):
            x_adv[live] = _walk(model, x[live], y[live], eps, steps, lr, c, confidence)
    return x_adv


def _walk(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, lr: float, c: float, confidence: float
) -> Tensor:
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    middle, half = (low + high) / 2, (high - low) / 2
    w = torch.zeros_like(x)
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    best = x.clone()
    shortest = torch.full((len(x),), torch.inf, device=x.device, dtype=torch.float32)
    for index in range(1, steps + 1):
        z = middle + half * torch.tanh(w)
        gradient, _, logits = loss_gradient(model, z, y, lambda a, b: c * margin(a, b).neg().clamp_min(-confidence))
        length = (z - x).square().flatten(1).sum(1)
        better = wrong(logits, y) & (margin(logits, y) >= confidence) & (length < shortest)
        best[better], shortest[better] = z[better], length[better]
        slope = (gradient + 2 * (z - x)) * half * (1 - torch.tanh(w).square())
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.square()
        w = w - lr * (first / (1 - 0.9**index)) / ((second / (1 - 0.999**index)).sqrt() + 1e-8)
    return best


def cw_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    steps: int = 20,
) -> Tensor:
    """PGD on the margin loss of Carlini and Wagner ("CW-inf" elsewhere): a strong attack, not the CW of Table V."""
    return pgd(model, x, y, eps=eps, norm=norm, generator=generator, steps=steps, loss=margin)
