"""The gray surrogate: the backbone's architecture, trained by another recipe and with another seed (its card has it).
It is what an attacker has who knows the backbone's architecture but not its weights, and a robust target of its own."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="prn18-gray-cifar10",
    dataset="CIFAR-10",
    architecture="preact_resnet18",
    arguments={"width": 32},
    size=32,
    eps=6 / 255,
    epochs=4,
    small_epochs=2,
    small_size=24,
    lr=0.1,
    warmup=0.15,
    average=0.995,
)
