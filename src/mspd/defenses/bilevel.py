"""Bi-Level: the backward-only baseline (Moon et al. 2022, "Preemptive image robustification", AAAI)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mspd.ball import image_generators, project, random_offsets
from mspd.guard import check_arguments, check_positive, eval_mode, step_or
from mspd.smoothing import compute_rows, input_gradients, smoothed_epoch

#: how much of (-1, 1) the start may fill, so that its coordinate is finite
_SHARE = 0.9995


def bilevel(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    epochs: int = 100,
    steps: int = 20,
    step_size: float | None = None,
    lr: float | None = None,
) -> Tensor:
    """Minimise, over the eps-ball around x, the loss that PGD reaches in the eps-ball around the point; return x_def.

    Each of the `epochs` attacks the point reached so far (`steps` steps of `step_size`, eps/4, from a random start)
    and descends the gradient found there. Linf: RMSprop of rate `lr` (0.1) on the tanh coordinates of the box, so the
    first step moves each of them by 1. L2: projected gradient descent with the raw gradient and rate `lr` (0.001, as
    published; it moves a picture little). Both start at random in the ball. The published form is 100 x 20; the
    table's 2-epoch row is epochs=2.

    The attack's end counts as moving with the point, but for pixels that [0, 1] stops. Arguments and errors as in
    `mcgs`. The published baseline takes its label from its own backbone: y = mspd.evaluation.predict(model, x).
    """
    check_arguments("defences", x, y, eps, norm, generator, epochs=epochs, steps=steps)
    if lr is not None:
        check_positive(lr=lr)
    step_size = step_or(step_size, eps / 4)
    generators = image_generators(x, generator)
    rows = compute_rows(1, x.shape[2], x.shape[3], x.device)

    def gradient(point: Tensor) -> Tensor:
        x_adv = smoothed_epoch(
            model, point, y, direction=1, eps=eps, norm=norm, n_samples=1, steps=steps, step_size=step_size,
            average="points", noise=True, generators=generators,
        )  # fmt: skip
        found = input_gradients(model, x_adv, y, rows)
        return found * ((x_adv > 0) & (x_adv < 1))

    with eval_mode(model):
        if norm == "Linf":
            start = project(x + random_offsets(x.shape[1:], eps, "Linf", generators).to(x), x, eps, "Linf")
            return _in_the_box(gradient, x, start, eps, epochs, 0.1 if lr is None else lr)
        start = project(x + random_offsets(x.shape[1:], 0.5, "Linf", generators).to(x), x, eps, "L2")
        return _in_the_ball(gradient, x, start, eps, epochs, 0.001 if lr is None else lr)


def _in_the_box(
    gradient: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, eps: float, epochs: int, lr: float
) -> Tensor:
    low, high = box(x, eps)
    w = to_coordinates(start, low, high)
    optimiser = torch.optim.RMSprop([w], lr=lr)
    for _ in range(epochs):
        found = gradient(from_coordinates(w, low, high).to(x))
        w.grad = found.to(w) * (1 - w.tanh().square()) * (high - low) / 2
        optimiser.step()
    return project(from_coordinates(w, low, high).to(x), x, eps, "Linf")


def _in_the_ball(
    gradient: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, eps: float, epochs: int, lr: float
) -> Tensor:
    point = start
    for _ in range(epochs):
        point = project(point - lr * gradient(point), x, eps, "L2")
    return point


def box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each pixel in the Linf ball and [0, 1]; float64 on the CPU, so that the last bits of
    tanh, which depend on where an image stands in the batch, do not reach the picture."""
    centre = x.cpu().double()
    return (centre - eps).clamp_min(0), (centre + eps).clamp_max(1)


def to_coordinates(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The coordinate of each pixel whose tanh is its place between low (-1) and high (1)."""
    place = ((z.to(low) - low) / (high - low)).clamp(0, 1)
    return torch.atanh(_SHARE * (2 * place - 1))


def from_coordinates(w: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The inverse: any real coordinate to a pixel between low and high."""
    return low + (w.tanh() + 1) / 2 * (high - low)
