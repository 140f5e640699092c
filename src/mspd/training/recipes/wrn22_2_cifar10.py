"""A robust CIFAR-10 target: a deeper WideResNet, trained by TRADES."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="wrn22-2-cifar10",
    dataset="CIFAR-10",
    architecture="wide_resnet",
    arguments={"depth": 22, "width": 2},
    size=32,
    eps=4 / 255,
    method="trades",
    steps=1,
    epochs=5,
    lr=0.1,
    warmup=0.1,
    small_epochs=2,
    small_size=24,
)
