"""MCGS: minimal cascade gradient smoothing, one forward and one backward smoothed epoch (paper, Sec. III)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mspd.ball import image_generators, project
from mspd.errors import UsageError
from mspd.guard import check_arguments, check_positive, eval_mode, step_or
from mspd.smoothing import smoothed_epoch


def mcgs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    n_samples: int = 20,
    alpha: float = 1.0,
    epochs: str = "FB",
    steps: int = 1,
    step_size: float | None = None,
    average: str = "points",
    noise: bool = True,
) -> Tensor:
    """Move x, inside its eps-ball, to where robust models read the label y more surely; return x_def.

    model: the backbone, [0, 1] images to logits. x: (B, C, H, W) in [0, 1], C = 3, or 1 for grey pictures. y: (B,)
    labels or (B, K) probabilities, from a classifier that is not the backbone. `generator` gives the seed (it is not
    advanced); each image's noise follows from the seed and the image, so its result does not depend on the batch.

    epochs: a string of F and B. F (Eq. 1) moves x by alpha times a descent of the loss; B (Eq. 2) reflects an ascent,
    at and about the point reached so far. One epoch averages n_samples noisy copies, each with `steps` inner steps of
    `step_size` (eps for one step, else eps/4). average: "points" averages their end points, as the published results
    were made; "gradients" is Eq. 5 as printed. noise=False: one gradient at the centre ('N/A', Tables XIII and XIV).
    norm "L2" is an extension; the paper defends in Linf only.

    Raises UsageError for a wrong option, InputError for tensors or models outside the contract.
    """
    check_arguments("defences", x, y, eps, norm, generator, n_samples=n_samples, steps=steps)
    if not isinstance(epochs, str) or not epochs or set(epochs) - {"F", "B"}:
        raise UsageError(f"epochs is {epochs!r}: use a string of F (forward) and B (backward), for example 'FB'")
    if average not in ("points", "gradients"):
        raise UsageError(f"average is {average!r}: use 'points' or 'gradients'")
    check_positive(alpha=alpha)
    step_size = step_or(step_size, eps if steps == 1 else eps / 4)
    generators = image_generators(x, generator)

    def reach(centre: Tensor, direction: int) -> Tensor:
        return smoothed_epoch(
            model, centre, y, direction=direction, eps=eps, norm=norm, n_samples=n_samples, steps=steps,
            step_size=step_size, average=average, noise=noise, generators=generators,
        )  # fmt: skip

    with eval_mode(model):
        return cascade_epochs(reach, x, eps=eps, norm=norm, alpha=alpha, epochs=epochs)


def cascade_epochs(
    reach: Callable[[Tensor, int], Tensor], x: Tensor, *, eps: float, norm: str, alpha: float, epochs: str
) -> Tensor:
    """The outer steps of MCGS: reach(centre, direction) is the point that an epoch's noisy copies come to."""
    x_def = x
    for epoch in epochs:
        direction = -1 if epoch == "F" else 1
        x_def = project(x_def - direction * alpha * (reach(x_def, direction) - x_def), x, eps, norm)
    return x_def
