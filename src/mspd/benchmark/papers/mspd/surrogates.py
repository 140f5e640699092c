"""Attacks that transfer from a surrogate, with the surrogate by its name."""

from typing import Any

import torch
from torch import Tensor, nn

from mspd.attacks import decowa, mcg
from mspd.models import load_model


def mcg_by_name(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator,
    n_queries: int, surrogate: str, queries: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `mcg`."""
    own = load_model(surrogate, x.device)
    return mcg(
        model, x, y, eps=eps, norm=norm, generator=generator, n_queries=n_queries, surrogate=own, queries=queries
    )


def decowa_by_name(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator,
    surrogate: str, **settings: Any,
) -> Tensor:  # fmt: skip
    """As `decowa`."""
    own = load_model(surrogate, x.device)
    return decowa(model, x, y, eps=eps, norm=norm, generator=generator, surrogate=own, **settings)
