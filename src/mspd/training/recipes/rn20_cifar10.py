"""An ordinary, non-robust CIFAR-10 target: ResNet-20, trained without attacks."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rn20-cifar10",
    dataset="CIFAR-10",
    architecture="resnet20",
    size=32,
    epochs=4,
    small_epochs=1,
    small_size=24,
)
