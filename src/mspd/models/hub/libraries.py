"""The libraries of the extra `mspd[hub]`, imported when they are asked for."""

from typing import Any

import torch

from mspd.extras import library

#: declarations that must live as long as the process
_DECLARED: list[Any] = []


def torchvision(extra: str = "hub") -> Any:
    """torchvision, also beside a PyTorch that its compiled part was not built for.

    Its import then asks for two compiled operators; they are declared (and stay without an implementation: `ops.nms` is
    all that is missing). Nothing is done where torchvision imports by itself.
    """
    try:
        return library("torchvision", f"'mspd[{extra}]'")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _DECLARED:
            raise
        declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(declared)
        return library("torchvision", f"'mspd[{extra}]'")


def timm() -> Any:
    """timm, which imports torchvision."""
    torchvision()
    return library("timm", "'mspd[hub]'")
