"""What a training is for: one small class a kind (classify, denoise, robustify, flow), all of this shape, made of a
recipe, the training set (on the CPU) and the device, on which the model and the pictures x will be."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mspd.data import ImageSet


class Task(Protocol):
    """The part of a training that the loop does not know.

    name:    what the card calls the training
    passes:  forward passes (a backward pass counts as two) of one training picture
    mixes:   whether `gradient` may get the model as one that computes in bfloat16 (see `precision.Mixed`)
    """

    name: str
    passes: int
    mixes: bool

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the model is called with for pictures x (B, C, S, S)."""

    def optimiser(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of these parameter groups."""

    def gradient(self, model: nn.Module, x: Tensor, index: Tensor, generator: torch.Generator, done: float) -> float:
        """Fill in the parameters' gradients for pictures x in [0, 1], those of the training set at `index` (B,), and
        return the loss; `done` is the share of the training that is over."""

    def score(self, model: nn.Module, testing: ImageSet) -> dict[str, Any]:
        """The finished model's figures for its card."""
