"""An ordinary, non-robust CIFAR-10 target: WideResNet-16-2, trained without attacks."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="wrn16-2-standard-cifar10",
    dataset="CIFAR-10",
    architecture="wide_resnet",
    arguments={"depth": 16, "width": 2},
    size=32,
    epochs=6,
    small_epochs=3,
    small_size=24,
)
