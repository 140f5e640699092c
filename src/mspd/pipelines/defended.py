"""A model behind the defence, as one module: for foolbox and whoever attacks a module."""

from typing import Any

import torch
from torch import Tensor, nn

from mspd.pipelines.pixels import loaded
from mspd.protector import Protector


class _StraightThrough(torch.autograd.Function):
    """The defence forward, the identity backward (BPDA, Athalye et al. 2018)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, protector: Protector, seed: int) -> Tensor:
        return protector(x.detach(), seed=seed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


class Defended(nn.Module):
    """model(protect(x)) for x (B, C, H, W) in [0, 1], with the identity as the defence's backward pass.

        fmodel = foolbox.PyTorchModel(Defended(model, "cifar10").eval(), bounds=(0, 1))

    It protects what the attacker hands in, so it measures mspd as a purifier; to measure it as it is meant, protect
    first and attack the protected images (`mspd benchmark`).
    """

    def __init__(self, model: nn.Module, protector: Protector | str = "cifar10", *, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.protector = loaded(protector)
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(_StraightThrough.apply(x, self.protector, self.seed))  # type: ignore[no-untyped-call]
        return logits
