"""The shipped weights and their cards, weight files, and the convolution that EfficientNet brings along."""

import hashlib
import json
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mspd import PRESETS, InputError, UsageError, WeightsError
from mspd.extras import timm
from mspd.models import ARCHITECTURES, build, card_of, list_models, load_model, save_model
from mspd.models.efficientnet import Depthwise, EfficientNetLite0, SameConv
from mspd.models.files import WEIGHTS
from mspd.smoothing import prepare

FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "dataset": str, "architecture": str, "arguments": dict, "size": int, "classes": list, "training": str,
    "clean_acc": (int, float), "pgd20_acc": (int, float), "pgd20_eps": float, "epochs": int, "sha256": str,
    "bytes": int,
}  # fmt: skip

SMALL: dict[str, dict[str, Any]] = {
    "convnext": {"widths": [8, 16], "depths": [1, 1]},
    "efficientnet_lite0": {"resolution": 32},
    "preact_resnet18": {"width": 4, "stem_stride": 2, "stats": "imagenet"},
    "ra_wide_resnet": {"widths": [8, 16], "depths": [1, 1]},
    "resnest": {"width": 8, "depths": [1, 1]},
    "resnet18": {"width": 4},
    "resnet20": {"width": 4},
    "resnet50": {"width": 4},
    "resnet56": {"width": 4},
    "resnext": {"widths": [16, 32], "depths": [1, 1], "group_width": 4},
    "wide_resnet": {"depth": 10, "width": 1, "activation": "silu"},
    "xcit": {"width": 16, "depth": 1, "heads": 2},
}


# ---------------------------------------------------------------- shipped models


CLASSIFIERS = [name for name in list_models() if "clean_acc" in card_of(name)]


def test_generators_are_the_ones_that_functions_ask_for() -> None:
    assert set(list_models()) - set(CLASSIFIERS) <= {"a5-cifar10", "mcg-cifar10", "unet-cifar10"}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_card_describes_its_file(name: str) -> None:
    card, data = card_of(name), (WEIGHTS / f"{name}.safetensors").read_bytes()
    for field, kind in FIELDS.items():
        assert isinstance(card[field], kind), field
    assert card["name"] == name
    assert card["architecture"] in ARCHITECTURES
    assert card["arguments"]["num_classes"] == len(card["classes"]) == len(set(card["classes"]))
    assert all(isinstance(label, str) and label for label in card["classes"])
    assert card["bytes"] == len(data)
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert 0 <= card["pgd20_acc"] <= card["clean_acc"] <= 1
    assert 0 < card["pgd20_eps"] < 0.1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shipped_model_loads_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise AssertionError("loading a model opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    card, model = card_of(name), load_model(name)
    x = torch.rand(2, 3, card["size"], card["size"], generator=torch.Generator().manual_seed(0))
    logits = model(torch.cat((x, torch.zeros_like(x), torch.ones_like(x))))
    assert logits.shape == (6, len(card["classes"]))
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(x), load_model(name)(x))


def test_presets_name_models_that_fit() -> None:
    for preset in PRESETS.values():
        names = (preset.classifier, preset.backbone, *preset.targets)
        assert len(set(names)) == len(names)
        cards = [card_of(name) for name in names]
        assert all(card["classes"] == cards[0]["classes"] for card in cards)
        assert all(card["size"] == preset.size for card in cards)


def test_every_file_has_its_card() -> None:
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == set(list_models())


# ---------------------------------------------------------------- weight files


def test_every_architecture_is_tried() -> None:
    assert set(SMALL) == set(ARCHITECTURES) - {"flow", "robustifier", "unet"}  # no classifiers


@pytest.mark.parametrize("architecture", SMALL)
def test_round_trip_in_half_precision(architecture: str, tmp_path: Path) -> None:
    arguments = {**SMALL[architecture], "num_classes": 7}
    torch.manual_seed(0)
    model = build(architecture, arguments).train()
    with torch.no_grad():
        model(torch.rand(8, 3, 32, 32))  # BatchNorm statistics that are not the initial ones
    path = tmp_path / "folder" / "mine.safetensors"
    card = {"architecture": architecture, "arguments": arguments, "classes": [str(i) for i in range(7)]}
    save_model(model, path, card)
    assert {file.name for file in path.parent.iterdir()} == {"mine.safetensors", "mine.json"}
    assert card_of(path) == {**card, "sha256": card_of(path)["sha256"], "bytes": path.stat().st_size}
    again = load_model(str(path))
    model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
        assert torch.allclose(prepare(again)(x), again(x), rtol=1e-3, atol=1e-4)
    first = path.read_bytes()
    save_model(again, path, card)
    assert path.read_bytes() == first


@pytest.mark.parametrize("low", [0x80, 0x50])
def test_weights_whose_first_byte_is_a_pickles(low: int, tmp_path: Path) -> None:
    """A safetensors file begins with the length of its header, which may be any number."""
    path = tmp_path / "mine.safetensors"
    model = build("resnet20", {"num_classes": 3, "width": 4})
    save_model(model, path, {"architecture": "resnet20", "arguments": {"num_classes": 3, "width": 4}, "classes": []})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    longer = length + (low - length) % 256
    padded = longer.to_bytes(8, "little") + data[8 : 8 + length] + b" " * (longer - length) + data[8 + length :]
    path.write_bytes(padded)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": hashlib.sha256(padded).hexdigest()}))
    assert padded[0] == low
    load_model(path)


def test_card_is_found_and_replaces_no_weights(tmp_path: Path) -> None:
    arguments = {"num_classes": 2, "depth": 10}
    card = {"architecture": "wide_resnet", "arguments": arguments, "classes": []}
    model = build("wide_resnet", arguments)
    save_model(model, tmp_path / "model.safetensors", card)  # called like the file in a folder of the hub
    assert load_model(tmp_path / "model.safetensors").training is False
    assert card_of(tmp_path)["arguments"] == arguments
    with pytest.raises(UsageError, match=r"a\.json: the weight file must end in \.safetensors"):
        save_model(model, tmp_path / "a.json", card)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


def test_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"a\.safetensors: cannot be written \(No space left on device\)"):
        save_model(build("wide_resnet", {"num_classes": 2, "depth": 10}), tmp_path / "a.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_weights_beyond_half_precision_are_not_kept_as_infinite(tmp_path: Path) -> None:
    model = build("wide_resnet", {"num_classes": 2, "depth": 10})
    name = next(key for key, value in model.state_dict().items() if key.endswith("running_var"))
    model.get_buffer(name)[0] = 7e4
    with pytest.raises(WeightsError, match=f"{name} reaches 7e\\+04, and half precision 65504"):
        save_model(model, tmp_path / "a.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model 'resnet50': a shipped one .*prn18-photo.* or a \.safetensors"):
        load_model("resnet50")
    with pytest.raises(WeightsError, match="no such weight file"):
        load_model(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no such weight file"):
        load_model(tmp_path)
    with pytest.raises(WeightsError, match="unknown architecture 'vit': known are "):
        build("vit", {})
    with pytest.raises(WeightsError, match="does not take these arguments"):
        build("resnet20", {"classes": 3})


def test_unreadable_file_or_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_model(build("wide_resnet", {"num_classes": 2, "depth": 10}), path, {"architecture": "wide_resnet"})
    with pytest.raises(WeightsError, match=r"a\.json: 'arguments' is missing or malformed"):
        card_of(path)
    card = {**json.loads(path.with_suffix(".json").read_text()), "arguments": {"num_classes": 10**30}, "classes": [1]}
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=r"a\.json: 'classes' is missing or malformed"):
        card_of(path)
    card["classes"] = []
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="'wide_resnet' does not take these arguments") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(WeightsError, match=r"a\.safetensors: cannot be read \(Permission denied\)"):
        load_model(path)


# ---------------------------------------------------------------- EfficientNet


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("even", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("size", [(9, 11), (8, 7), (12, 12), (5, 6)], ids=str)
def test_depthwise_gradients_are_torchs(kernel: int, stride: int, even: bool, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    pad = kernel // 2 if even else 0
    results = []
    for own in (True, False):
        generator.manual_seed(0)
        x = torch.randn(2, 4, *size, dtype=torch.float64, generator=generator).requires_grad_(True)
        weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, generator=generator).requires_grad_(True)
        out = Depthwise.apply(x, weight, stride, pad) if own else F.conv2d(x, weight, None, stride, pad, 1, 4)
        out.backward(torch.randn(out.shape, dtype=torch.float64, generator=generator))
        results.append((out.detach(), x.grad, weight.grad))
    for mine, torchs in zip(*results, strict=True):
        assert mine.shape == torchs.shape
        assert torch.allclose(mine, torchs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    """TensorFlow's rule, in its closed form: ceil(size / stride) outputs, of padding the smaller half first."""
    torch.manual_seed(0)
    conv = SameConv(4, 4, kernel, stride, groups=4, bias=False)
    x = torch.randn(1, 4, size, size)
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    assert torch.allclose(conv(x), F.conv2d(padded, conv.weight, None, stride, groups=4), atol=1e-6)
    assert conv(x).shape[2:] == (outputs, outputs)


@pytest.mark.parametrize("size", [64, 75])
def test_efficientnet_is_timms(size: int) -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install 'mspd[hub]'")
    torch.manual_seed(0)
    theirs = timm().create_model("tf_efficientnet_lite0", pretrained=False, num_classes=9).double()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    mine = EfficientNetLite0(num_classes=9, resolution=size).double().eval()
    target, source = mine.state_dict(), theirs.eval().state_dict()
    assert len(target) == len(source)
    for own, value in zip(target.values(), source.values(), strict=True):
        own.copy_(value)
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(mine(x), theirs((x - 0.5) / 0.5), rtol=1e-9, atol=1e-9)


def test_loading_draws_nothing_from_the_global_random_state() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_model("rn20-cifar10")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_prepared() -> None:
    class Fixed(torch.nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> None:
            raise RuntimeError("not me")

    with pytest.raises(InputError, match=r"the model cannot be copied \(not me\)"):
        prepare(Fixed())
    with pytest.raises(InputError, match="the model is a str"):
        prepare("rn20-cifar10")  # type: ignore[arg-type]
