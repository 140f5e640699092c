"""Purifiers: each is `purifier(x, *, generator=None, **params) -> x`, images in [0, 1] to images of the same shape."""

from collections.abc import Callable

from torch import Tensor

from mspd.purifiers.diffpure import diffpure
from mspd.purifiers.jpeg import jpeg

PURIFIERS: dict[str, Callable[..., Tensor]] = {"diffpure": diffpure, "jpeg": jpeg}

__all__ = ["PURIFIERS", "diffpure", "jpeg"]
