"""Libraries that mspd does without until they are asked for."""

from importlib import import_module
from typing import Any

import torch

from mspd.errors import UsageError, first_line

#: declarations that must live as long as the process
_DECLARED: list[Any] = []


def library(module: str, install: str) -> Any:
    """A module of another library; UsageError that says what to `install` where it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(f"this needs {package}: pip install {install} ({error})") from error


def torchvision(extra: str = "hub") -> Any:
    """torchvision, also beside a PyTorch that its compiled part was not built for.

    Its import then asks for two compiled operators; they are declared (and stay without an implementation: `ops.nms` is
    all that is missing). Nothing is done where torchvision imports by itself. UsageError where it fits in no way.
    """
    try:
        return library("torchvision", f"'mspd[{extra}]'")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _DECLARED:
            line = f"torchvision does not fit this PyTorch ({first_line(error)})"
            raise UsageError(f"{line}: install both again, together") from error
        declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(declared)
        return library("torchvision", f"'mspd[{extra}]'")


def timm() -> Any:
    """timm, which imports torchvision."""
    torchvision()
    return library("timm", "'mspd[hub]'")
