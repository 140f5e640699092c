"""A robust CIFAR-10 target: a shallow, wide WideResNet with SiLU."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="wrn10-4-cifar10",
    dataset="CIFAR-10",
    architecture="wide_resnet",
    arguments={"depth": 10, "width": 4, "activation": "silu"},
    size=32,
    eps=8 / 255,
    epochs=5,
    lr=0.1,
    warmup=0.1,
    small_epochs=2,
    small_size=24,
)
