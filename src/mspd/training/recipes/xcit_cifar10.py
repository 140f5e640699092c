"""A robust CIFAR-10 target: a small XCiT, a transformer with attention between channels."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="xcit-cifar10",
    dataset="CIFAR-10",
    architecture="xcit",
    arguments={"width": 96, "depth": 6},
    size=32,
    eps=6 / 255,
    epochs=8,
    optimiser="adamw",
    lr=1e-3,
    weight_decay=0.05,
    warmup=0.15,
)
