"""A robust CIFAR-10 target: a small ResNeSt (split attention)."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="resnest-cifar10",
    dataset="CIFAR-10",
    architecture="resnest",
    arguments={"width": 16},
    size=32,
    eps=4 / 255,
    epochs=5,
    lr=0.1,
    warmup=0.1,
    label_smoothing=0.1,
)
