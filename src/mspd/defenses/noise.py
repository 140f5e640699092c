"""Noise as a defence: two controls that know neither model nor label. What they gain, any change of that size gains."""

import math

import torch
from torch import Tensor, nn

from mspd.ball import image_generators, normals, project, random_offsets
from mspd.guard import check_arguments


def gaussian(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator
) -> Tensor:
    """x plus normal noise, projected onto the eps-ball and [0, 1].

    Linf: standard deviation eps/2, so that 95 % of the pixels stay as drawn. L2: eps over the root of the number of
    pixels, so that the noise is about eps long. Arguments and errors as in `mcgs`; `model` and the values of y are
    not used.
    """
    generators = _checked(x, y, eps, norm, generator)
    deviation = eps / 2 if norm == "Linf" else eps / math.sqrt(x[0].numel())
    drawn = normals(x.shape[1:], generators)
    return project(x + deviation * drawn.to(x), x, eps, norm)


def uniform(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator
) -> Tensor:
    """x plus uniform noise in the eps-ball (L2: random direction, uniform length), clipped to [0, 1].

    Arguments and errors as in `mcgs`; `model` and the values of y are not used.
    """
    generators = _checked(x, y, eps, norm, generator)
    return project(x + random_offsets(x.shape[1:], eps, norm, generators).to(x), x, eps, norm)


def _checked(x: Tensor, y: Tensor, eps: float, norm: str, generator: torch.Generator) -> list[torch.Generator]:
    check_arguments("defences", x, y, eps, norm, generator, gradients=False)
    return image_generators(x, generator)
