"""A robust CIFAR-10 target that the defence never sees: WideResNet-16-2, trained at 4/255, a budget that so small a
network fits better than 8/255."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="wrn16-2-cifar10",
    dataset="CIFAR-10",
    architecture="wide_resnet",
    arguments={"depth": 16, "width": 2},
    size=32,
    eps=4 / 255,
    epochs=5,
    lr=0.1,
    warmup=0.1,
)
