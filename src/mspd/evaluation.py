"""How many images does a target read correctly, before and after an attack?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mspd.adapters import check_signature, find, name_of
from mspd.attacks import ATTACKS
from mspd.attacks.common import logits_of, wrong
from mspd.errors import InputError, UsageError
from mspd.guard import (
    answer,
    check_eps,
    check_finite,
    check_functions,
    check_images,
    check_labels,
    check_logits,
    check_model,
    check_placement,
    check_result,
    check_seed,
    eval_mode,
    no_autocast,
    seeded,
)  # fmt: skip
from mspd.metrics import wilson
from mspd.smoothing import in_pieces, prepare

#: images of one call of a model and of an attack; fixed, so that an image's verdict does not depend on how many there
#: are. The model's a multiple of 8: in the rows beyond one, a CPU's last bits are others
ROWS, ATTACKED = 48, 50
#: images that a model is tried on before it is measured
TRIED = 8


@dataclass(frozen=True, eq=False)
class Report:
    """Fractions over all n images; an image that is wrong before the attack counts as not robust.

    `per_image` holds two boolean tensors (n,): "clean" and "robust". The intervals are Wilson's, 95 %.
    """

    attack: str
    eps: float
    norm: str
    seed: int
    n: int
    clean_acc: float
    robust_acc: float
    clean_interval: tuple[float, float]
    robust_interval: tuple[float, float]
    per_image: dict[str, Tensor]


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes (B,) of x (B, C, H, W), in float32 and fixed pieces."""
    with torch.no_grad(), eval_mode(model):
        logits = in_pieces(lambda piece: answer(model, piece), ROWS, x)
    check_finite(logits)
    return logits.argmax(1)


@no_autocast()
def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: str | Callable[..., Tensor] = "pgd",
    eps: float,
    norm: str = "Linf",
    seed: int = 0,
    fast: bool = False,
    **params: Any,
) -> Report:
    """Attack `model` around x (B, C, H, W) in [0, 1] with true labels y (B,), the budget `eps` being around x itself.

    `attack` is a name, `package.module:function`, or any function of the same shape; `params` go to it. Images that are
    wrong before the attack are not attacked. What a model draws from the global random state follows from `seed`, and
    that state is left as it was. fast=True takes the attack's gradients from `smoothing.prepare(model)`;
    the verdict is always the model's own.

    UsageError and InputError for what lies outside the contract; a warning (UserWarning) for a model with random
    outputs, without gradients, or whose answers depend on the other images of a batch.
    """
    check_images(x)
    check_labels(y, len(x), soft=False)
    check_eps(eps, norm)
    check_seed(seed)
    if x.dtype != torch.float32:
        raise InputError(f"x is {x.dtype}: models are measured in float32, pass x.float()")
    run = find("attack", attack, ATTACKS) if isinstance(attack, str) else attack
    check_functions(attack=run)
    settings = {**getattr(run, "keywords", {}), **params}
    if "purifier" in settings:
        raise UsageError("evaluate reads the model alone: measure one behind a purifier with mspd.benchmark's Purified")
    if "generator" in params:
        raise UsageError("evaluate makes the attack's generator: choose its seed")
    for given, value in (("eps", eps), ("norm", norm)):
        if settings.get(given, value) != value:
            raise UsageError(
                f"the attack has {given}={settings[given]!r}, evaluate {given}={value!r}: give it to evaluate alone"
            )
    for given in ("queries", "distances"):
        if isinstance(settings.get(given), Tensor):
            raise UsageError(f"evaluate attacks pieces of x, which cannot fill {given}: call the attack itself")
    name = attack if isinstance(attack, str) else name_of(run)
    check_signature("attack", name, partial(run, **params), "model, x, y, eps=, norm=, generator=")
    check_placement(model, x.device, "the model")
    check_model(model, x[:TRIED], y[:TRIED])
    generator = torch.Generator().manual_seed(seed)
    source = prepare(model) if fast else model

    def attacked(piece: Tensor, labels: Tensor) -> Tensor:
        x_adv = run(source, piece.clone(), labels.clone(), eps=eps, norm=norm, generator=generator, **params)
        check_result(x_adv, piece, "the attack", eps=eps, norm=norm)
        with eval_mode(model):
            return ~wrong(logits_of(model, x_adv), labels)

    with seeded(seed, x.device):
        with torch.no_grad(), eval_mode(model):
            check_logits(answer(model, x[:1]).expand(len(x), -1), y)
        clean = predict(model, x) == y
        robust = clean.clone()
        if bool(clean.any()):
            robust[clean] = in_pieces(attacked, ATTACKED, x[clean], y[clean])
    n, right, held = len(x), int(clean.sum()), int(robust.sum())
    return Report(
        attack=name, eps=eps, norm=norm, seed=seed, n=n, clean_acc=right / n, robust_acc=held / n,
        clean_interval=wilson(right, n), robust_interval=wilson(held, n),
        per_image={"clean": clean.cpu(), "robust": robust.cpu()},
    )  # fmt: skip
