"""The CIFAR-10 backbone: PreActResNet-18 of half the published width, adversarially trained at 8/255."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="prn18-cifar10",
    dataset="CIFAR-10",
    architecture="preact_resnet18",
    arguments={"width": 32},
    size=32,
    eps=8 / 255,
    epochs=14,
    small_epochs=5,
    small_size=24,
    label_smoothing=0.1,
)
