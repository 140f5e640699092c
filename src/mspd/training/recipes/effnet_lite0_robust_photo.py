"""A robust photo target that the defence never sees: EfficientNet-Lite0 at 64 pixels, started from the photo classifier
and adversarially trained at 4/255."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="effnet-lite0-robust-photo",
    dataset="Tiny-ImageNet-100",
    architecture="efficientnet_lite0",
    arguments={"resolution": 64},
    size=64,
    eps=4 / 255,
    test_eps=4 / 255,
    epochs=3,
    batch_size=64,
    lr=0.05,
    weight_decay=1e-5,
    label_smoothing=0.1,
    crop=6,
    start="effnet-lite0-photo",
    frozen="depthwise",
)
