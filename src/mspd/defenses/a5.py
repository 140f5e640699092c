"""A5: one pass of a generator (Frosio and Kautz 2023, "The best defense is a good offense: adversarial augmentation
against adversarial attacks", CVPR; the paper's Table VIII)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mspd.ball import project
from mspd.errors import UsageError
from mspd.guard import at_rest, check_arguments, check_functions
from mspd.models import load_model
from mspd.smoothing import compute_rows, in_pieces

#: the shipped network
WEIGHTS = "a5-cifar10"


def a5(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    network: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Add the perturbation that `network` makes for x (B, C, H, W) in [0, 1], within eps in Linf; return x_def.

    The network maps pictures (B, 3, H, W) to (-1, 1), in units of the budget: the shipped one for 32 x 32 pictures,
    trained against prn18-cifar10 at 8/255 with true labels and the empirical loss (see `mspd.training.robustify`),
    unless given. At inference A5 looks at neither `model` nor the label, and nothing is random; they are here because
    every defence is called alike. A grey picture takes the mean over the channels. UsageError for norm "L2", else
    errors as in `mcgs`.
    """
    check_arguments("defences", x, y, eps, norm, generator, gradients=False)
    if norm != "Linf":
        raise UsageError("a5 perturbs in Linf only: use norm='Linf'")
    make = load_model(WEIGHTS, x.device) if network is None else network
    check_functions(network=make)
    rows = compute_rows(1, x.shape[2], x.shape[3], x.device)
    with torch.no_grad(), at_rest(make):
        delta = in_pieces(lambda piece: make(piece.expand(-1, 3, -1, -1)), rows, x)
    if x.shape[1] == 1:
        delta = delta.mean(1, keepdim=True)
    return project(x + eps * delta, x, eps, norm)
