"""The DiffPure purifier's network for 32-pixel pictures: a small U-Net, trained only at the first 150 of 1,000
timesteps (purification at t* = 0.1 uses 100)."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="unet-cifar10",
    dataset="CIFAR-10",
    architecture="unet",
    arguments={"width": 32, "multiples": [1, 2, 2]},
    size=32,
    epochs=3,
    pictures=20_000,
    task="denoise",
    timesteps=150,
    lr=1e-3,
    warmup=0.1,
    weight_decay=0.0,
    crop=0,
    average=0.99,
)
