"""What the attacks share: calls of the model in batches of a multiple of 8 rows, and the bookkeeping of images that
are broken already.

On CPUs the last bits of a network's output depend on how many rows it is called with, unless that is a multiple of 8;
so a batch is filled up, and an image's result does not depend on how many others are still being attacked.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mspd.errors import UsageError
from mspd.guard import answer, check_arguments, check_finite, check_logits, eval_mode, gradient_of
from mspd.objectives import cross_entropy

_MULTIPLE = 8

Loss = Callable[[Tensor, Tensor], Tensor]


def check_call(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str, generator: torch.Generator, *, classes: int = 2,
    **counts: int,
) -> int:  # fmt: skip
    """The contract of every attack: `check_inputs`, and labels that the model has, of at least `classes` classes; how
    many it has. Costs one call of the model with one image."""
    check_inputs(x, y, eps, norm, generator, gradients=True, **counts)
    with eval_mode(model):
        logits = logits_of(model, x[:1])
    check_logits(logits.expand(len(y), -1), y)
    if logits.shape[1] < classes:
        hint = ": use pgd" if logits.shape[1] > 1 else ""
        raise UsageError(f"this attack needs at least {classes} classes, the model has {logits.shape[1]}{hint}")
    return logits.shape[1]


def check_inputs(
    x: Tensor, y: Tensor, eps: float, norm: str, generator: torch.Generator, *, gradients: bool = False, **counts: int
) -> None:
    """Images in [0, 1], hard labels, a budget, a generator, at least one of each of `counts`, a place for `gradients`.
    Does not call the model: an attack that counts its calls looks at the first answer with `check_logits`."""
    check_arguments("attacks", x, y, eps, norm, generator, soft=False, gradients=gradients, **counts)


def check_filled(x: Tensor, **tensors: Tensor | None) -> None:
    """What a query attack fills for its caller: one number an image."""
    for name, tensor in tensors.items():
        if tensor is not None and (not isinstance(tensor, Tensor) or tensor.shape != x.shape[:1]):
            found = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else repr(tensor)
            line = f"{name}: {found}; it is filled by the attack, so pass a tensor of shape ({len(x)},)"
            raise UsageError(line + ", or the limit as n_queries" if name == "queries" else line)


def filled(rows: Tensor) -> Tensor:
    """The rows and, up to a multiple of 8, some of them again, so that a result does not depend on how many there
    are."""
    missing = -len(rows) % _MULTIPLE
    return torch.cat([rows, rows[torch.arange(missing, device=rows.device) % len(rows)]]) if missing else rows


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (B, K) without a graph."""
    with torch.no_grad():
        logits = answer(model, filled(x))
    check_finite(logits)
    return logits[: len(x)].float()


def loss_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """(gradient of each image's own loss with respect to the image, losses (B,), logits (B, K)).

    `loss` takes logits and labels and returns one number an image.
    """
    with torch.enable_grad():
        z = x.detach().requires_grad_(True)
        logits = answer(model, filled(z))[: len(x)].float()
        losses = loss(logits, y)
        gradient = gradient_of(losses.sum(), z)
    return gradient, losses.detach(), logits.detach()


def is_random(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether two calls of the model differ, in logits or in gradients, by more than the last bits."""
    with eval_mode(model):
        first, second = (loss_gradient(model, x, y, cross_entropy) for _ in range(2))
    return any(float((a - b).norm()) > 1e-5 * float(a.norm()) for a, b in zip(first, second, strict=True))


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """All classes but the label, likeliest first: (B, K - 1)."""
    order = logits.argsort(stable=True, dim=1, descending=True)
    others: Tensor = order[order != y[:, None]].view(len(y), -1)
    return others


def over_targets(
    model: nn.Module, x: Tensor, y: Tensor, targets: int, run: Callable[[Tensor, Tensor, Tensor, int], Tensor]
) -> Tensor:
    """run(x, y, target classes, rank) towards each of the `targets` likeliest wrong classes of the clean images in
    turn, always on the images that are still read correctly; x_adv, x itself for images that are misread already."""
    x_adv = x.clone()
    logits = logits_of(model, x)
    ranked = wrong_classes(logits, y)
    live = right(logits, y)
    for rank in range(min(targets, ranked.shape[1])):
        if len(live) == 0:
            break
        z = run(x[live], y[live], ranked[live, rank], rank)
        x_adv[live] = z
        live = live[~wrong(logits_of(model, z), y[live])]
    return x_adv


def read_right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The indices of the images that the model reads as their label: the ones there is something to attack in."""
    return right(logits_of(model, x), y)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """The indices of the images whose prediction is the label."""
    return (~wrong(logits, y)).nonzero()[:, 0]


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """True where the prediction is not the label, (B,) bool."""
    return logits.argmax(1) != y
