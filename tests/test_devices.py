"""Training on another device than the CPU, shown on a stand-in for one: what lies on it is computed on the CPU, but as
on CUDA an operation on tensors of both devices is an error."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import mspd.training.loop as loop
from mspd import UsageError
from mspd.data import ImageSet
from mspd.models import build, card_of, load_model
from mspd.training import Recipe, train
from mspd.training.augment import augment
from mspd.training.loop import _layout, matmul_rate
from mspd.training.precision import bfloat16_is_faster

aten = torch.ops.aten
#: a device type that PyTorch knows, differentiates on and has no kernels for
FAR = torch.device("lazy")


class Far(Tensor):
    """A tensor on the other device; its values are those of `near`. Saved, it is read back on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        made: Far = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=FAR
        )
        made.near = near
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.near.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation by the rules of CUDA: tensors of both devices meet only in copies, where indices on the CPU pick
    from a tensor on the device, and where one on the CPU is a single number."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = any(isinstance(t, Far) for t in tensors)
    picks = func in (aten.index.Tensor, aten.index_put_.default) and isinstance(args[0], Far)
    if far and not picks and func not in (aten._to_copy.default, aten.copy_.default):
        assert all(isinstance(t, Far) or t.ndim == 0 for t in tensors), f"{func} on tensors of two devices"
    assert far or func is not aten.convolution.default, "a network computes on the CPU"
    if kwargs.get("device") is not None:
        far, kwargs = torch.device(kwargs["device"]) == FAR, {**kwargs, "device": "cpu"}
        assert not far or kwargs.get("generator") is None, f"{func} draws by a generator of the CPU"
    near_args, kwargs = tree_map(lambda t: t.near if isinstance(t, Far) else t, (args, kwargs))
    result = func(*near_args, **kwargs)
    if func._schema.is_mutable:
        return args[0] if func._schema.returns else None
    return tree_map(lambda t: Far(t) if isinstance(t, Tensor) else t, result) if far else result


class OtherDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


STANDARD = Recipe(
    name="tiny", dataset="noise", architecture="wide_resnet", arguments={"depth": 10, "width": 1}, size=16, epochs=2,
    batch_size=16, crop=2, cutout=4, label_smoothing=0.1, lr=0.05,
)  # fmt: skip
ADVERSARIAL = replace(STANDARD, eps=8 / 255, cutout=0, epochs=1)
RECIPES = {
    "standard": replace(STANDARD, small_epochs=1, small_size=12, frozen="stem"),
    "start": replace(STANDARD, epochs=1, architecture="resnet20", arguments={}, start="rn20-cifar10"),
    "n-fgsm": ADVERSARIAL,
    "pgd": replace(ADVERSARIAL, method="pgd"),
    "trades": replace(ADVERSARIAL, method="trades"),
    "denoise": replace(
        STANDARD, task="denoise", architecture="unet", arguments={"width": 8, "multiples": [1, 2]}, timesteps=9,
        lr=0.001,
    ),
    "robustify": replace(
        ADVERSARIAL, task="robustify", architecture="robustifier", arguments={"width": 8}, against="rn20-cifar10"
    ),
    "flow": replace(
        ADVERSARIAL, task="flow", epochs=2, architecture="flow", arguments={"levels": 2, "steps": 1},
        against="rn20-cifar10",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """24 pictures of noise; the devices that were measured or that autocast was asked for."""
    asked: list[str] = []
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(images, torch.arange(24) % 10, tuple(card_of("rn20-cifar10")["classes"]))
    pick = loop.pick_device
    monkeypatch.setattr(loop, "load", lambda *_, **__: data)
    monkeypatch.setattr(loop, "pick_device", lambda name: FAR if name == "far" else pick(name))
    monkeypatch.setattr(loop, "matmul_rate", lambda device: asked.append(device.type) or 1.0)
    monkeypatch.setattr(loop, "bfloat16_is_faster", lambda device: True)
    monkeypatch.setattr(torch, "autocast", lambda device_type, *_, **__: asked.append(device_type) or nullcontext())
    return asked


def train_on(device: str, recipe: Recipe, out: Path) -> dict[str, Any]:
    with OtherDevice() if device == "far" else nullcontext():
        return train(recipe, "", out, seed=3, device=device)


def same(a: Path, b: Path) -> bool:
    """Some operations are put together of others where a device has no kernel, which changes last bits."""
    weights, others = (load_model(path).state_dict() for path in (a, b))
    return all(torch.allclose(weights[key], others[key], rtol=1e-2, atol=1e-3) for key in weights)


@pytest.mark.parametrize("name", RECIPES)
def test_another_device_trains_the_same_network(name: str, noise: list[str], tmp_path: Path) -> None:
    """No model and no pictures stay on the CPU, and the weights and figures are those that it makes."""
    near, far = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    expected = train_on("cpu", RECIPES[name], near)
    assert set(noise) == {"cpu"}
    noise.clear()
    card = train_on("far", RECIPES[name], far)
    assert set(noise) == {FAR.type}
    figures = {key: value for key, value in expected.items() if key.endswith(("_acc", "_mse"))}
    assert {key: card[key] for key in figures} == pytest.approx(figures, abs=0.05)
    assert same(near, far)


@pytest.mark.parametrize("devices", [("cpu", "far"), ("far", "cpu")])
def test_one_device_goes_on_with_what_another_began(
    devices: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train_on("cpu", STANDARD, unbroken)
    kept = list(range(3))

    def killed(x: Tensor, **options: Any) -> Tensor:
        kept.pop()
        return augment(x, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "augment", killed)
        with pytest.raises(IndexError):
            train_on(devices[0], STANDARD, broken)
    capsys.readouterr()
    train_on(devices[1], STANDARD, broken)
    assert "resuming after epoch 1" in capsys.readouterr().err
    assert same(unbroken, broken)


@pytest.mark.parametrize(
    ("device", "line"),
    [
        ("cuda:99", "device 'cuda:99' is not available here: use auto or cpu"),
        ("gpu", "unknown device 'gpu': use auto, cpu, cuda or mps"),
        ("meta", "unknown device 'meta': use auto, cpu, cuda or mps"),
    ],
)
def test_device_that_is_not_there(device: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the pictures are read."""
    monkeypatch.setattr(loop, "load", None)
    with pytest.raises(UsageError, match=line):
        train(STANDARD, "", tmp_path / "a.safetensors", device=device)


def test_speed_is_measured_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ones = [], torch.ones

    def small(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        made.append(device)
        return ones(2, 2, dtype=dtype)

    monkeypatch.setattr(loop, "bfloat16_is_faster", bfloat16_is_faster)
    monkeypatch.setattr(torch, "randn", small)
    monkeypatch.setattr(torch, "ones", small)
    assert matmul_rate(FAR, seconds=0.001) > 0
    assert made == [FAR] * 3  # the rate, and whether bfloat16 or float32 is faster


def test_no_channels_last_on_mps() -> None:
    model = build("resnet20", {"num_classes": 10, "width": 8})
    assert _layout(model, torch.device("cpu")) is torch.channels_last
    assert _layout(model, torch.device("mps")) is torch.contiguous_format
