"""A robust photo target that the defence never sees: ResNet-18 of half the published width on 64-pixel pictures, from
random weights, trained at 3/255, a budget that so small a network fits better than 4/255."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="rn18-photo",
    dataset="Tiny-ImageNet-100",
    architecture="resnet18",
    arguments={"width": 32, "stem_stride": 2, "stats": "imagenet"},
    size=64,
    eps=3 / 255,
    test_eps=4 / 255,
    epochs=10,
    lr=0.1,
    warmup=0.1,
    small_epochs=4,
    small_size=48,
    crop=6,
    average=0.999,
)
