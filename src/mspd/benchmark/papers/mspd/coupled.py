"""A baseline as it was published: it knows no classifier. Apart from the tiers, so that its results outlive theirs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mspd.evaluation import predict


def coupled(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator,
    defense: Callable[..., Tensor], **params: Any,
) -> Tensor:  # fmt: skip
    """A defence that aims at what its own backbone reads, as the published baselines do, whatever label it is given."""
    return defense(model, x, predict(model, x), eps=eps, norm=norm, generator=generator, **params)
