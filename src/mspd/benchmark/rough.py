"""A target as an attacker may compute it: in bfloat16, which is fast where the processor has it, and in float32 where
bfloat16 cannot tell which class leads."""

import copy

import torch
from torch import Tensor, nn

from mspd.errors import UsageError, first_line
from mspd.smoothing import Prepared, in_pieces

#: a lead of no more than this share of a row's range, from the least logit to the largest, or of its largest absolute
#: value, may be a rounding error: bfloat16 has 8 bits, and errors add up. Two classes' lead is their range: there
#: everything is float32
NEAR = 1 / 64
#: rows of a call in float32; a multiple of 8, so that a row's result does not depend on the others
ROWS = 8


class Rough(nn.Module):
    """`model` in bfloat16: [0, 1] images (B, C, H, W) to float32 logits (B, K). Rows whose lead is small have float32's
    logits and bfloat16's gradients, so an attack does not take a rounding error for success. UsageError for a model
    that does not run in bfloat16."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.exact = model
        net = copy.deepcopy(model.net if isinstance(model, Prepared) else model)
        self.quick = Prepared(net, torch.bfloat16)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        try:
            logits: Tensor = self.quick(x)
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"{self.name} does not run in bfloat16 ({first_line(error)})") from error
        with torch.no_grad():
            first, second = logits.topk(2, dim=1).values.unbind(1)
            scale = torch.maximum(first - logits.amin(1), logits.abs().amax(1))
            near = ((first - second <= NEAR * scale) | (logits.shape[1] == 2)).nonzero()[:, 0]
            if len(near) == 0:
                return logits
            exact = in_pieces(self.exact, ROWS, x.detach()[near])
            correction = torch.zeros_like(logits).index_copy(0, near, exact - logits[near])
        return logits + correction
