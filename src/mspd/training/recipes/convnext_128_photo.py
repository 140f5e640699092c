"""A robust photo target that sees pictures finer than the photo backbone does: the ConvNeXt target trained on, at twice
its size, on the 64-pixel pictures enlarged."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="convnext-128-photo",
    dataset="Tiny-ImageNet-100",
    architecture="convnext",
    arguments={"patch": 4, "stats": "imagenet"},
    size=128,
    eps=3 / 255,
    test_eps=4 / 255,
    epochs=2,
    pictures=25000,
    optimiser="adamw",
    lr=5e-4,
    weight_decay=0.05,
    warmup=0.15,
    crop=12,
    average=0.992,
    start="convnext-photo",
)
