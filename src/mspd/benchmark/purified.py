"""A target that purifies what it is given: attacked without the purifier, read with it (DiffPure in the paper)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Purified(nn.Module):
    """`target` behind `purifier`, a function as in `mspd.purifiers`, with a fixed seed: the same picture, the same
    logits. Backward, the purifier counts as the identity."""

    def __init__(self, target: nn.Module, purifier: Callable[..., Tensor], seed: int = 0) -> None:
        super().__init__()
        self.target, self.purifier, self.seed = target, purifier, seed

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.purifier(x, generator=torch.Generator().manual_seed(self.seed)) - x
        logits: Tensor = self.target(x + moved)
        return logits
