"""The MCG attack's flow, trained on perturbations that mislead the CIFAR-10 backbone."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="mcg-cifar10",
    dataset="CIFAR-10",
    architecture="flow",
    size=32,
    task="flow",
    against="prn18-cifar10",
    eps=8 / 255,
    epochs=5,
    pictures=4000,
    batch_size=32,
    lr=2e-3,
    warmup=0.05,
    weight_decay=0.0,
    crop=0,
    average=0.99,
)
