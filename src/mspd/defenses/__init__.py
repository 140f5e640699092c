"""Defences: each is `defense(model, x, y, *, eps, norm, generator, **params) -> x_def`.

MCGS is the method; unadv, bilevel, cascade and a5 are what the paper compares it with; gaussian and uniform are
controls.
"""

from collections.abc import Callable

from torch import Tensor

from mspd.defenses.a5 import a5
from mspd.defenses.bilevel import bilevel
from mspd.defenses.cascade import cascade
from mspd.defenses.mcgs import mcgs
from mspd.defenses.noise import gaussian, uniform
from mspd.defenses.unadv import unadv

DEFENSES: dict[str, Callable[..., Tensor]] = {
    "mcgs": mcgs,
    "unadv": unadv,
    "bilevel": bilevel,
    "cascade": cascade,
    "a5": a5,
    "gaussian": gaussian,
    "uniform": uniform,
}

__all__ = ["DEFENSES", "a5", "bilevel", "cascade", "gaussian", "mcgs", "unadv", "uniform"]
