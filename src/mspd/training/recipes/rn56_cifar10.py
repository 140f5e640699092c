"""An ordinary, non-robust CIFAR-10 target: ResNet-56, trained without attacks."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rn56-cifar10",
    dataset="CIFAR-10",
    architecture="resnet56",
    size=32,
    epochs=6,
    small_epochs=3,
    small_size=24,
)
