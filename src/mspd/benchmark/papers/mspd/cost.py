"""What no grid measures: losses, and what a defence costs."""

import time

import torch
from torch import Tensor, nn

from mspd.adapters import Function
from mspd.models import load_model
from mspd.objectives import cross_entropy
from mspd.smoothing import in_pieces, input_gradient, prepare

#: pictures on which a defence's cost is measured
COUNTED = 8
#: passes from which on a defence is timed once
LONG = 200


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each picture, (B,)."""
    with torch.no_grad():
        return in_pieces(lambda piece, labels: cross_entropy(model(piece), labels), 32, x, y)


class _Counting(nn.Module):
    """Counts the rows that gradients are taken of, rows that only fill a piece up left out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.rows += len(torch.unique(x.detach().flatten(1), dim=0))
        logits: Tensor = self.model(x)
        return logits


def cost(defense: Function, backbone: str, x: Tensor, y: Tensor, *, eps: float) -> dict[str, float]:
    """What a defence costs an image of x: gradient passes of the backbone, seconds, and these over the seconds of one
    gradient, all pictures at once. Each is the least of several calls, for a defence of many passes
    of one, after one on a single picture that only warms up."""
    model = prepare(load_model(backbone, x.device))
    counting = _Counting(model)

    def defend(pictures: Tensor, labels: Tensor) -> float:
        started = time.perf_counter()
        defense(counting, pictures, labels, eps=eps, norm="Linf", generator=torch.Generator().manual_seed(0))
        return (time.perf_counter() - started) / len(pictures)

    def gradient() -> float:
        started = time.perf_counter()
        input_gradient(model, x, y)
        return (time.perf_counter() - started) / len(x)

    defend(x[:1], y[:1])
    passes, counting.rows = counting.rows, 0
    calls = 1 if passes > LONG else 3
    before = min(gradient() for _ in range(3))
    spent = min(defend(x, y) for _ in range(calls))
    unit = min(before, *(gradient() for _ in range(3)))
    return {
        "passes": round(counting.rows / len(x) / calls, 2),
        "seconds": round(spent, 5),
        "gradients": round(spent / unit, 2),
    }
