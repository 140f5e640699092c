"""DiffPure by closed forms, its U-Net and the training of it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mspd.training.loop as loop
from mspd.errors import InputError, UsageError
from mspd.models import build, card_of, load_model
from mspd.purifiers import diffpure
from mspd.purifiers.diffpure import add_noise, kept_signal
from mspd.training import Recipe, train


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_signal_left_at_the_papers_time() -> None:
    """abar after 100 steps is 0.897: signal 0.947, noise 0.321."""
    kept = kept_signal()
    assert len(kept) == 1001
    assert float(kept[0]) == 1
    assert float(kept[100]) == pytest.approx(0.897, abs=1e-3)
    assert math.sqrt(float(kept[100])) == pytest.approx(0.947, abs=1e-3)
    assert math.sqrt(1 - float(kept[100])) == pytest.approx(0.321, abs=2e-3)
    assert float(kept[1000]) < 1e-4
    x, noise = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    z = add_noise(x, noise, torch.tensor([0, 100]))
    assert torch.allclose(z[0], x[0])
    assert torch.allclose(z[1], torch.tensor(0.9471), atol=1e-3)


def only(clean: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The perfect denoiser of a world of one image."""

    def denoiser(z: Tensor, t: Tensor) -> Tensor:
        kept = kept_signal()[(t * 1000).round().long() + 1].to(z)[:, None, None, None]
        return (z - kept.sqrt() * clean) / (1 - kept).sqrt()

    return denoiser


@pytest.mark.parametrize("strides", [None, 1, 5, 50])
def test_a_perfect_denoiser_gives_the_one_image(strides: int | None) -> None:
    clean = torch.rand(1, 3, 8, 8, generator=g(1))
    attacked = (clean + 0.1 * torch.randn(3, 3, 8, 8, generator=g(2))).clamp(0, 1)
    x = diffpure(attacked, generator=g(), strides=strides, denoiser=only(2 * clean - 1))
    assert x.shape == attacked.shape
    assert torch.allclose(x, clean.expand(3, -1, -1, -1), atol=2e-3)


def test_noise_is_each_images_own() -> None:
    x = torch.randint(0, 256, (4, 3, 8, 8), generator=g(1)).float() / 255

    def nothing(z: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(z)

    out = diffpure(x, generator=g(5), t=0.01, denoiser=nothing)
    assert torch.equal(out, diffpure(x, generator=g(5), t=0.01, denoiser=nothing))
    assert not torch.equal(out, diffpure(x, generator=g(6), t=0.01, denoiser=nothing))
    assert torch.equal(out[2:], diffpure(x[2:], generator=g(5), t=0.01, denoiser=nothing))
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_noise_of_the_reverse_steps() -> None:
    """A denoiser that finds no noise leaves all of it: the forward pass's, and that of each reverse step, scaled up."""
    last, kept = 30, kept_signal().tolist()
    variance = 1 - kept[last]
    for i in range(last, 0, -1):
        ratio = kept[i] / kept[i - 1]
        variance = variance / ratio + ((1 - ratio) if i > 1 else 0)
    x = torch.full((1, 3, 64, 64), 0.5)
    out = diffpure(x, generator=g(), t=last / 1000, denoiser=lambda z, t: torch.zeros_like(z))
    assert float((2 * out - 1).var()) == pytest.approx(variance, rel=0.05)


def test_calls_of_the_network() -> None:
    times: list[float] = []

    def seen(z: Tensor, t: Tensor) -> Tensor:
        times.append(float(t[0]))
        return torch.zeros_like(z)

    x = torch.rand(1, 3, 8, 8, generator=g())
    diffpure(x, generator=g(), denoiser=seen)
    assert times == pytest.approx([i / 1000 for i in range(99, -1, -1)])
    times.clear()
    diffpure(x, generator=g(), strides=4, denoiser=seen)
    assert times == pytest.approx([0.099, 0.074, 0.049, 0.024])


def test_a_network_is_called_in_evaluation_mode_and_left_as_found() -> None:
    class Denoiser(nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            assert not self.training
            return torch.zeros_like(z)

    network = Denoiser().train()
    diffpure(torch.rand(1, 3, 8, 8, generator=g()), generator=g(), strides=2, denoiser=network)
    assert network.training


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"t": 0.2, "denoiser": None}, UsageError, "t is 0.2: the shipped denoiser has learned up to 0.15"),
        ({"t": 0}, UsageError, "give a time in (0, 1]"),
        ({"t": 2}, UsageError, "give a time in (0, 1]"),
        ({"t": float("nan")}, UsageError, "give a time in (0, 1]"),
        ({"t": "0.1"}, UsageError, "give a time in (0, 1]"),
        ({"strides": 101}, UsageError, "give 1 to 100"),
        ({"strides": "10"}, UsageError, "strides is '10': it must be a whole number"),
        ({"denoiser": "shipped"}, UsageError, "denoiser is 'shipped': pass a function"),
        ({"generator": 0}, UsageError, "generator is a int: pass a torch.Generator"),
        ({"x": torch.full((1, 3, 8, 8), 9.0)}, InputError, "divide by 255"),
        ({"x": torch.full((1, 3, 8, 8), 0.5).double()}, InputError, "x is torch.float64: diffpure computes in float32"),
    ],
)
def test_wrong_calls(options: dict[str, object], error: type[Exception], line: str) -> None:
    call: dict[str, object] = {"x": torch.rand(1, 3, 8, 8), "denoiser": only(torch.zeros(1)), **options}
    with pytest.raises(error) as caught:
        diffpure(call.pop("x"), **call)  # type: ignore[arg-type]
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (lambda z, time: z[:, :1], r"the denoiser returns shape \(\d+, 1, 8, 8\): it must return the noise alone"),
        (lambda z, time: torch.cat([z, z], 1), r"the denoiser returns shape \(\d+, 6, 8, 8\)"),
        (lambda z, time: None, "the denoiser returns a NoneType"),
    ],
)
def test_denoisers_that_return_something_else(answer: Callable[..., Tensor], line: str) -> None:
    with pytest.raises(InputError, match=line):
        diffpure(torch.rand(1, 3, 8, 8), t=0.01, denoiser=answer)


def test_pictures_that_the_shipped_denoiser_is_not_for() -> None:
    for shape in ((1, 1, 32, 32), (1, 3, 33, 33)):
        with pytest.raises(UsageError, match=f"x is {shape[1]} x {shape[2]} x .* pass a denoiser"):
            diffpure(torch.rand(shape))


def test_without_a_generator_the_seed_is_0() -> None:
    x, nothing = torch.rand(2, 3, 8, 8), only(torch.zeros(1))
    assert torch.equal(diffpure(x, t=0.01, denoiser=nothing), diffpure(x, t=0.01, denoiser=nothing, generator=g()))


def test_unet_starts_at_zero_and_knows_the_time() -> None:
    torch.manual_seed(0)
    model = build("unet", {"width": 8, "multiples": [1, 2]})
    z, t = torch.randn(2, 3, 16, 16, generator=g()), torch.tensor([0.01, 0.1])
    model.requires_grad_(False)
    assert float(model(z, t).abs().max()) == pytest.approx(0, abs=0.2)
    torch.nn.init.normal_(model.head.weight, generator=g())  # type: ignore[union-attr, arg-type]
    for block in [*model.down, *model.up]:  # type: ignore[union-attr, list-item]
        torch.nn.init.normal_(block.conv2.weight, std=0.1, generator=g())
    out = model(z, t)
    assert out.shape == z.shape
    assert not torch.allclose(out, model(z, t.flip(0)), atol=1e-4)
    assert torch.allclose(out[:1], model(z[:1], t[:1]), rtol=1e-3, atol=1e-3)


def test_a_denoiser_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of one colour each: after a few steps the noise is told better than by saying zero."""
    monkeypatch.setattr(loop, "matmul_rate", lambda device: 1.0)
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                colour = rng.integers(0, 256, 3).astype(np.uint8)
                Image.fromarray(np.broadcast_to(colour, (16, 16, 3)).copy()).save(folder / f"{index}.png")
    recipe = Recipe(
        name="tiny", dataset="colours", architecture="unet", arguments={"width": 8, "multiples": [1, 2]}, size=16,
        epochs=25, batch_size=16, lr=3e-3, crop=0, task="denoise", timesteps=150, average=0.9, weight_decay=0.0,
    )  # fmt: skip
    out = tmp_path / "tiny.safetensors"
    card = train(recipe, tmp_path / "data", out)
    assert card["training"] == "denoising"
    assert card["noise_mse"] < 0.7
    assert (card["noise_n"], card["timesteps"]) == (12, 150)
    assert json.loads(out.with_suffix(".json").read_text())["arguments"] == {"width": 8, "multiples": [1, 2]}
    assert card_of(out)["classes"] == ["a", "b"]
    x = torch.full((1, 3, 16, 16), 0.5)
    noisy = (x + 0.15 * torch.randn(1, 3, 16, 16, generator=g())).clamp(0, 1)
    purified = diffpure(noisy, generator=g(), denoiser=load_model(out))
    assert float((purified - x).square().mean()) < float((noisy - x).square().mean())
