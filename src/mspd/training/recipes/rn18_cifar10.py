"""A robust CIFAR-10 target that the defence never sees: ResNet-18 of three eighths of the published width."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rn18-cifar10",
    dataset="CIFAR-10",
    architecture="resnet18",
    arguments={"width": 24},
    size=32,
    eps=8 / 255,
    epochs=4,
    small_epochs=1,
    small_size=24,
)
