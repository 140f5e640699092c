"""The CIFAR-10 classifier: EfficientNet-Lite0, started from ImageNet weights and fine-tuned on pictures enlarged to 112
pixels."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="effnet-lite0-cifar10",
    dataset="CIFAR-10",
    architecture="efficientnet_lite0",
    arguments={"resolution": 112},
    size=32,
    epochs=4,
    batch_size=64,
    lr=0.03,
    warmup=0.15,
    weight_decay=1e-5,
    label_smoothing=0.1,
    average=0.99,
    start="mspd.training.recipes.effnet_lite0_photo:imagenet_weights",
    frozen="depthwise",
)
