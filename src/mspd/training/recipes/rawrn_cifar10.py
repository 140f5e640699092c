"""A robust CIFAR-10 target: a small RaWideResNet (squeeze-and-excitation, SiLU), trained by TRADES."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rawrn-cifar10",
    dataset="CIFAR-10",
    architecture="ra_wide_resnet",
    size=32,
    eps=6 / 255,
    method="trades",
    steps=1,
    epochs=5,
    lr=0.1,
    warmup=0.1,
    small_epochs=2,
    small_size=24,
)
