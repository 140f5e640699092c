"""A robust CIFAR-10 target unlike the others: a small ConvNeXt (depthwise 7 x 7, LayerNorm, GELU)."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="convnext-cifar10",
    dataset="CIFAR-10",
    architecture="convnext",
    size=32,
    eps=6 / 255,
    epochs=6,
    optimiser="adamw",
    lr=2e-3,
    weight_decay=0.05,
    warmup=0.15,
)
