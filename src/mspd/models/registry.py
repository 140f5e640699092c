"""The architectures by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from mspd.errors import WeightsError, first_line
from mspd.models.convnext import convnext
from mspd.models.efficientnet import efficientnet_lite0
from mspd.models.flow import flow
from mspd.models.preact import preact_resnet18, ra_wide_resnet, wide_resnet
from mspd.models.resnest import resnest
from mspd.models.resnet import resnet18, resnet20, resnet50, resnet56, resnext
from mspd.models.robustifier import robustifier
from mspd.models.unet import unet
from mspd.models.xcit import xcit

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "convnext": convnext,
    "efficientnet_lite0": efficientnet_lite0,
    "flow": flow,
    "preact_resnet18": preact_resnet18,
    "ra_wide_resnet": ra_wide_resnet,
    "resnest": resnest,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "resnet56": resnet56,
    "resnext": resnext,
    "robustifier": robustifier,
    "unet": unet,
    "wide_resnet": wide_resnet,
    "xcit": xcit,
}

#: those that are no classifiers: MCG's proposals, A5's generator, DiffPure's denoiser
HELPERS = ("flow", "robustifier", "unet")


def build(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """A fresh network; WeightsError when the name or its arguments are not ours."""
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"unknown architecture {architecture!r}: known are {', '.join(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[architecture](**arguments)
    except TypeError as error:
        raise WeightsError(
            f"architecture {architecture!r} does not take these arguments ({first_line(error)})"
        ) from error
