"""A larger robust CIFAR-10 backbone: the PreActResNet-18 of prn18-cifar10 with half as many channels again, begun as a
network that computes the same (Chen et al. 2016, "Net2Net"), then trained on like it."""

import torch
from torch import Tensor, nn

from mspd.models import load_model
from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="prn18-wide-cifar10",
    dataset="CIFAR-10",
    architecture="preact_resnet18",
    arguments={"width": 48},
    size=32,
    eps=8 / 255,
    epochs=13,
    lr=0.1,
    warmup=0.1,
    small_epochs=3,
    small_size=24,
    label_smoothing=0.1,
    start="mspd.training.recipes.prn18_wide_cifar10:widened",
)


def widened(model: nn.Module) -> None:
    """Give `model`, wider than prn18-cifar10 by less than twice, weights with which it answers as that does."""
    narrow, generator = load_model("prn18-cifar10").state_dict(), torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        value.copy_(widen(narrow[key], value.shape, generator))


def widen(weight: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A layer's parameter with more channels. New outputs copy the first ones; what reads a channel that is there twice
    reads a random share of it in one place and the rest in the other, so that the two learn different things."""
    for dim in range(min(weight.ndim, 2)):
        old, new = weight.shape[dim], shape[dim]
        copies = new - old
        weight = weight.index_select(dim, torch.arange(new) % old)
        if dim == 1 and copies:
            share = torch.rand(weight[:, :copies].shape, generator=generator)
            weight[:, old:] *= share
            weight[:, :copies] *= 1 - share
    return weight
