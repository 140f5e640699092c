"""A robust CIFAR-10 target: ResNet-50 of a quarter of the published width, trained by PGD."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rn50-cifar10",
    dataset="CIFAR-10",
    architecture="resnet50",
    arguments={"width": 16},
    size=32,
    eps=4 / 255,
    method="pgd",
    steps=2,
    epochs=5,
    lr=0.1,
    warmup=0.1,
    small_epochs=2,
    small_size=24,
)
