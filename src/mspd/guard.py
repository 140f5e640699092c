"""The contract at the door: images, labels, budgets and models are checked here, each failure one clear line."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mspd.ball import check_norm
from mspd.errors import InputError, UsageError


def check_images(x: Tensor, name: str = "x") -> None:
    """x must be a float tensor (B, C, H, W) with finite values in [0, 1]; InputError otherwise."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is a {type(x).__name__}: pass a float tensor (B, C, H, W) in [0, 1]")
    if x.ndim != 4:
        raise InputError(f"{name} has shape {tuple(x.shape)}: pass images as (B, C, H, W), one image as x[None]")
    if not x.is_floating_point():
        raise InputError(f"{name} is {x.dtype}: pass floats in [0, 1], for 8-bit images x.float() / 255")
    if x.shape[1] not in (1, 3):
        raise InputError(f"{name} has {x.shape[1]} channels: pass 3 (RGB) or 1 (grey), as (B, C, H, W)")
    if x.numel() == 0:
        raise InputError(f"{name} is empty: pass at least one image")
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{name} contains NaN or infinite values")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        hint = "divide by 255" if low >= 0 and high <= 255 else "undo the normalisation, mspd's models do their own"
        raise InputError(f"{name} ranges over [{low:.3g}, {high:.3g}], not [0, 1]: {hint}")


def check_labels(y: Tensor, batch: int, *, soft: bool = True) -> None:
    """y must be int64 labels (B,) or, where `soft` ones fit, float32 labels (B, K): rows of probabilities."""
    wanted = f"integer labels ({batch},) as int64" + (
        f" or probabilities ({batch}, classes) as float32" if soft else ""
    )
    if not isinstance(y, Tensor):
        raise InputError(f"y is a {type(y).__name__}: pass {wanted}")
    if y.dtype == torch.int64 and y.shape == (batch,):
        return
    if soft and y.dtype == torch.float32 and y.ndim == 2 and len(y) == batch:
        return
    raise InputError(f"y is {y.dtype} of shape {tuple(y.shape)}: pass {wanted}")


def check_eps(eps: float, norm: str = "Linf") -> None:
    """eps must be a positive length in [0, 1] units; UsageError with the likely meaning otherwise."""
    check_norm(norm)
    if not 0 < eps < math.inf:
        raise UsageError(f"eps is {eps:g}: the budget must be positive and finite, for example 8/255")
    if norm == "Linf" and eps >= 1:
        raise UsageError(f"eps is {eps:g}, but images are in [0, 1]: did you mean {eps:g}/255?")


def check_logits(logits: Tensor, y: Tensor) -> None:
    """The model's output must be logits (B, K) that fit the labels."""
    if logits.ndim != 2 or len(logits) != len(y):
        raise InputError(f"the model returns shape {tuple(logits.shape)}: it must return logits ({len(y)}, classes)")
    if not bool(torch.isfinite(logits).all()):
        raise InputError("the model returns NaN or infinite logits")
    probabilities = bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
    if logits.shape[1] > 1 and probabilities:
        raise InputError("the model returns probabilities: pass it without its softmax, so that it returns logits")
    classes = logits.shape[1]
    if y.ndim == 2 and y.shape[1] != classes:
        raise InputError(f"the model has {classes} classes, but the soft labels have {y.shape[1]}")
    if y.ndim == 1 and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise InputError(
            f"label {int(y.max()) if int(y.min()) >= 0 else int(y.min())} is outside the model's {classes} classes"
        )


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
