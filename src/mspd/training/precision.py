"""Half-precision training where the device is faster at it: mixed bfloat16 or plain float32."""

import time
from functools import cache

import torch
from torch import Tensor, nn


@cache
def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether a matrix product of 512 rows and columns (CPU) or 4096 (others: a small one leaves them idle) takes less
    time in bfloat16 than in float32 (best of three each)."""
    side = 512 if device.type == "cpu" else 4096

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(side, side, dtype=dtype, device=device)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            (a @ a).sum().item()
            times.append(time.perf_counter() - started)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


class Mixed(nn.Module):
    """A model whose convolutions and products run in bfloat16; what comes out is float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            out: Tensor = self.model(*inputs)
        return out.float()
