"""An ordinary CIFAR-10 network from random weights: a small ResNeXt, augmented, trained for clean accuracy."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="resnext-cifar10",
    dataset="CIFAR-10",
    architecture="resnext",
    arguments={"widths": [64, 256, 512], "depths": [1, 2, 2], "group_width": 64},
    size=32,
    epochs=10,
    small_epochs=4,
    small_size=24,
    label_smoothing=0.1,
    cutout=8,
)
