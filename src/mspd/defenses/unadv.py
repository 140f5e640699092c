"""UnAdv: the forward-only baseline (paper, Tables IV to VII, after Salman et al. 2021, "Unadversarial examples")."""

import torch
from torch import Tensor, nn

from mspd.defenses.mcgs import mcgs
from mspd.guard import check_counts


def unadv(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    epochs: int = 100,
    alpha: float | None = None,
    steps: int = 20,
    step_size: float | None = None,
) -> Tensor:
    """Descend the loss of `model` from x, without smoothing; return x_def inside the eps-ball around x.

    An epoch walks `steps` projected steps of `step_size` (eps/4; eps for a single step) down the loss, from the point
    reached so far, and moves there by the share `alpha`: 0.1, as published for 100 epochs, or 1 below ten epochs, where
    0.1 could not reach the border of the ball. The table's 2-epoch row is epochs=2. Arguments and errors as in `mcgs`;
    nothing is random. The published baseline takes its label from its own backbone:
    y = mspd.evaluation.predict(model, x).

    The original boosts objects with patches trained for a class; this is the paper's adaptation to one image and an
    Linf ball, whose inner steps follow from the published seconds (about 20 gradients an epoch).
    """
    check_counts(epochs=epochs)
    if alpha is None:
        alpha = 0.1 if epochs >= 10 else 1.0
    return mcgs(
        model, x, y, eps=eps, norm=norm, generator=generator, alpha=alpha, epochs="F" * epochs, steps=steps,
        step_size=step_size, noise=False,
    )  # fmt: skip
