"""The naive cascade "UnAdv + Bi-Level (2 epochs)" of Table VII: what MCGS is without its smoothing."""

import torch
from torch import Tensor, nn

from mspd.defenses.mcgs import mcgs


def cascade(
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
    """One forward epoch of UnAdv, then one backward epoch from where it ends; return x_def.

    Forward: `steps` projected steps of `step_size` (eps/4; eps for one) down the loss of `model`, to x_F. Backward: as
    many up the loss from x_F, inside the eps-ball around x_F, and the reflection 2 x_F - x_adv, projected onto the ball
    around x. Arguments and errors as in `mcgs`; nothing is random. The published row takes the label from its own
    backbone: y = mspd.evaluation.predict(model, x).

    The paper does not define the row. One reading is a single Bi-Level iteration from x_F; but x_F lies on the ball's
    border, where its tanh coordinate hardly moves the picture. The other, used here, is the paper's own forward and
    backward epoch (Eq. 1 and 2) with PGD-20 for the smoothed step, whose seconds agree with the row's.
    """
    return mcgs(
        model, x, y, eps=eps, norm=norm, generator=generator, epochs="FB", steps=steps, step_size=step_size, noise=False
    )
