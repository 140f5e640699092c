"""A robust photo target that the defence never sees: WideResNet-16-2 on 64-pixel pictures, no teacher."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="wrn16-2-photo",
    dataset="Tiny-ImageNet-100",
    architecture="wide_resnet",
    arguments={"depth": 16, "width": 2, "stem_stride": 2, "stats": "imagenet"},
    size=64,
    eps=4 / 255,
    test_eps=4 / 255,
    epochs=3,
    small_epochs=1,
    small_size=48,
    crop=6,
)
