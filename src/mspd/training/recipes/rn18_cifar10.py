"""A robust CIFAR-10 target that the defence never sees: ResNet-18 of three eighths of the published width, trained at
4/255, a budget that so small a network fits better than 8/255."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rn18-cifar10",
    dataset="CIFAR-10",
    architecture="resnet18",
    arguments={"width": 24},
    size=32,
    eps=4 / 255,
    epochs=7,
    lr=0.1,
    warmup=0.1,
    small_epochs=2,
    small_size=24,
)
