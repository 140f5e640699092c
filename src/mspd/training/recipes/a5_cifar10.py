"""The generator of the A5 baseline, trained against the CIFAR-10 backbone."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="a5-cifar10",
    dataset="CIFAR-10",
    architecture="robustifier",
    size=32,
    task="robustify",
    against="prn18-cifar10",
    eps=8 / 255,
    epochs=2,
    pictures=10_000,
    batch_size=50,
    lr=1e-3,
    warmup=0.1,
    weight_decay=0.0,
    average=0.99,
)
