"""Half-precision training where the processor is faster at it: mixed bfloat16 or plain float32."""

import time
from functools import cache

import torch


@cache
def bfloat16_is_faster(device_type: str) -> bool:
    """Whether a 512 x 512 matrix product takes less time in bfloat16 than in float32 (best of three each)."""

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(512, 512, dtype=dtype, device=device_type)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            (a @ a).sum().item()
            times.append(time.perf_counter() - started)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def mixed(device: torch.device) -> torch.autocast:
    """A context in which convolutions and products run in bfloat16 if that pays on `device`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_is_faster(device.type))
