"""The photo backbone: PreActResNet-18 of half the published width on 64-pixel pictures, adversarially trained at 4/255
towards the classifier's probabilities."""

from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="prn18-photo",
    dataset="Tiny-ImageNet-100",
    architecture="preact_resnet18",
    arguments={"width": 32, "stem_stride": 2, "stats": "imagenet"},
    size=64,
    eps=4 / 255,
    epochs=5,
    small_epochs=2,
    small_size=48,
    crop=6,
    teacher="effnet-lite0-photo",
)
