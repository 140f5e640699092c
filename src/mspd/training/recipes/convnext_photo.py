"""A robust photo target unlike the others: a small ConvNeXt on 64-pixel pictures, from random weights, trained at
3/255, a budget that so small a network fits better than 4/255."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="convnext-photo",
    dataset="Tiny-ImageNet-100",
    architecture="convnext",
    arguments={"patch": 4, "stats": "imagenet"},
    size=64,
    eps=3 / 255,
    test_eps=4 / 255,
    epochs=12,
    optimiser="adamw",
    lr=2e-3,
    weight_decay=0.05,
    warmup=0.15,
    small_epochs=5,
    small_size=48,
    crop=6,
)
