"""The whole method on tensors and pixels: budget, grid, range, batches, sizes; and the resize view by closed forms."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import mspd
from mspd import Protector, Verifier, verify
from mspd.batch import plan, run
from mspd.defenses import mcgs
from mspd.errors import InputError, UsageError, WeightsError
from mspd.evaluation import predict
from mspd.images import to_tensor
from mspd.models import load_model
from mspd.models.calibration import Calibrated, temperature
from mspd.models.view import add, down, native_size, view
from mspd.presets import get_preset
from mspd.protector import pick_device

EPS = 8 / 255


@pytest.fixture(scope="module")
def cifar10() -> Protector:
    return Protector("cifar10", n_samples=2)


@pytest.fixture(scope="module")
def small(tiny: str) -> Protector:
    return Protector(tiny)


def images(n: int, size: int = 32, channels: int = 3) -> Tensor:
    """Smooth 8-bit pictures with all of the range."""
    low = torch.rand(n, channels, 5, 5, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    return (F.interpolate(low, size=(size, size), mode="bicubic").clamp(0, 1) * 255).round() / 255


def pixels(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


# ---------------------------------------------------------------- the backbone's temperature


def test_temperature_of_known_networks() -> None:
    """Labels drawn as softmax(z) says ask for 1; logits of k z for k; logits that say nothing for the most."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 5, generator=generator)
    y = z.softmax(1).multinomial(1, generator=generator)[:, 0]
    assert temperature(z, y) == pytest.approx(1, abs=0.05)
    assert temperature(2 * z, y) == pytest.approx(2 * temperature(z, y), rel=1e-6)
    assert temperature(z / 2, y) == pytest.approx(temperature(z, y) / 2, rel=1e-6)
    assert temperature(z, y.roll(1)) == pytest.approx(4)
    assert temperature(z, z.argmax(1)) == pytest.approx(0.25)


def test_the_defence_follows_the_calibrated_backbone(tiny: str, tmp_path: Path) -> None:
    weights = Path(get_preset(tiny).backbone)
    here = tmp_path / weights.name
    here.write_bytes(weights.read_bytes())
    card = json.loads(weights.with_suffix(".json").read_text())

    def protector(**entry: object) -> Protector:
        here.with_suffix(".json").write_text(json.dumps({**card, **entry}))
        return Protector(tiny, backbone=here)

    x, y = images(3, 16), torch.tensor([1, 2, 3])
    plain, sure = protector(), protector(temperature=0.3)
    for each, factor in ((plain, 1), (sure, 0.3)):
        model, generator = Calibrated(each.backbone, factor), torch.Generator().manual_seed(5)
        expected = mcgs(model, x, y, eps=EPS, generator=generator, n_samples=1)
        assert torch.equal(each.defend(x, y, 5), expected)
    assert not torch.equal(plain.defend(x, y, 5), sure.defend(x, y, 5))
    assert torch.equal(plain.aims(x)[0], sure.aims(x)[0])
    assert sure.identity() == {**plain.identity(), "temperature": 0.3}
    for wrong in ("low", 0, float("nan"), True):
        with pytest.raises(WeightsError, match="its card's temperature is"):
            protector(temperature=wrong)


# ---------------------------------------------------------------- tensors


@pytest.mark.parametrize("channels", [3, 1])
def test_on_the_grid_within_the_budget_and_deterministic(cifar10: Protector, channels: int) -> None:
    x = images(5, channels=channels)
    before = x.clone()
    x_def = cifar10(x)
    assert x_def.shape == x.shape
    assert x_def.dtype == x.dtype
    levels = x_def * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert float((x_def - x).abs().max()) <= EPS + 1e-6
    assert 0 <= float(x_def.min()) <= float(x_def.max()) <= 1
    assert bool((x_def != x).flatten(1).any(1).all())
    assert torch.equal(x, before)
    assert torch.equal(x_def, cifar10(x))
    assert not torch.equal(x_def, cifar10(x, seed=1))


def test_bytes_of_an_image_do_not_depend_on_the_batch(cifar10: Protector) -> None:
    x = images(64)
    whole = cifar10(x)
    assert torch.equal(whole, torch.cat([cifar10(part) for part in x.split(7)]))
    for index in (0, 33, 63):
        assert torch.equal(whole[[index]], cifar10(x[[index]]))


def test_bytes_do_not_depend_on_the_batch_with_the_papers_copies() -> None:
    protector, x = Protector("cifar10", n_samples=20), images(3)
    assert torch.equal(protector(x), torch.cat([protector(image[None]) for image in x]))


def test_images_off_the_grid_and_other_dtypes(small: Protector) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x_def = small(x)
    assert float((x_def * 255 - (x_def * 255).round()).abs().max()) < 1e-4
    assert float((x_def - x).abs().max()) <= EPS + 1e-6
    assert small(x.double()).dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16):  # too coarse for the grid
        x_def = small(x.to(dtype))
        assert x_def.dtype == torch.float32
        assert float((x_def - x.to(dtype)).abs().max()) <= EPS + 1e-6


@pytest.mark.parametrize(
    ("x", "line"),
    [
        (torch.zeros(3, 8, 8), "one image as x[None]"),
        (torch.full((1, 3, 8, 8), 9.0), "divide by 255"),
        (torch.full((1, 3, 8, 8), -1.0), "undo the normalisation"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "x.float() / 255"),
        (torch.zeros(1, 8, 8, 3), "8 channels"),
        (torch.zeros(0, 3, 8, 8), "empty"),
        ([[0.5]], "is a list"),
    ],
)
def test_wrong_images(small: Protector, x: Tensor, line: str) -> None:
    with pytest.raises(InputError) as caught:
        small(x)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "line"),
    [
        (torch.tensor([1, 2, 3]), "pass integer labels (2,)"),
        (torch.tensor([1.0, 2.0]), "pass integer labels (2,)"),
        (torch.tensor([1, 2], dtype=torch.int32), "as int64"),
        (torch.full((2, 10), 0.1, dtype=torch.float64), "as float32"),
        (torch.tensor([1, 10]), "label 10 is outside the model's 10 classes"),
        (torch.full((2, 3), 1 / 3), "has 10 classes, but the soft labels have 3"),
        ([1, 2], "is a list"),
    ],
)
def test_wrong_labels(small: Protector, y: Tensor, line: str) -> None:
    with pytest.raises(InputError) as caught:
        small(images(2, 16), y)
    assert line in str(caught.value)


def test_labels_are_the_classifiers_unless_given(small: Protector) -> None:
    x = images(4, 16)
    predicted = small.probabilities(x).argmax(1)
    assert torch.equal(small(x), small(x, predicted))
    assert not torch.equal(small(x), small(x, (predicted + 1) % 10))
    soft = F.one_hot(predicted, 10).float()
    assert float((small(x, soft) - small(x)).abs().max()) <= 1.01 / 255


def test_verify_names_as_the_defence_does(tiny: str) -> None:
    """Also with soft labels and a backbone that is not the preset's."""
    settings = replace(get_preset(tiny), soft_labels=3, own_below=1.1)
    other = load_model(settings.targets[0])
    pixels = (images(1, 16)[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    label, confidence, named_by = Verifier(settings, backbone=other).label(pixels)
    assert label == int(predict(other, to_tensor(pixels)))
    assert named_by == "backbone"
    assert confidence == pytest.approx(float(Protector(settings).probabilities(to_tensor(pixels))[0, label]), abs=1e-6)


def test_verify_needs_targets(tiny: str) -> None:
    with pytest.raises(UsageError, match="has no targets to verify on"):
        Verifier(replace(get_preset(tiny), targets=()))


@pytest.mark.parametrize("soft_labels", [0, 3])
def test_unsure_of_a_picture_the_backbones_own_reading_is_the_label(tiny: str, soft_labels: int) -> None:
    preset = replace(get_preset(tiny), soft_labels=soft_labels)
    x = images(24, 16)
    classifier = Protector(preset)
    probabilities = classifier.probabilities(x)
    own = predict(classifier.backbone, x)
    border = float(probabilities.amax(1).median())
    unsure = probabilities.amax(1) < border
    assert 0 < int(unsure.sum()) < len(x)
    assert not torch.equal(own[unsure], probabilities.argmax(1)[unsure])
    mixed = Protector(replace(preset, own_below=border))
    wanted = classifier.labels(probabilities)
    wanted[unsure] = F.one_hot(own[unsure], 10).float() if soft_labels else own[unsure]
    assert torch.equal(mixed.aims(x)[0], wanted)
    assert torch.equal(mixed(x), classifier(x, wanted))
    assert not torch.equal(mixed(x), classifier(x))
    assert torch.equal(mixed(x[3:4]), mixed(x)[3:4])
    for index, found in enumerate(mixed.perturb(x)):
        aim = int(wanted[index].argmax()) if soft_labels else int(wanted[index])
        assert found.label == mixed.classes[aim]
        assert found.named_by == ("backbone" if unsure[index] else "classifier")
        assert found.confidence == pytest.approx(float(probabilities[index, aim]), abs=1e-6)


def test_probabilities(small: Protector) -> None:
    x = images(13, 16)
    p = small.probabilities(x)
    assert p.shape == (13, 10)
    assert torch.allclose(p.sum(1), torch.ones(13), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(p, load_model(small.settings.classifier)(x).softmax(1), atol=1e-5)
    grey = images(2, 40, channels=1)
    assert torch.allclose(small.probabilities(grey), small.probabilities(grey.expand(-1, 3, -1, -1)), atol=1e-6)


def test_a_picture_that_is_not_square_is_read_in_two_ways(tiny: str) -> None:
    """Whole, and its middle, as targets may get it; a larger one as its view."""
    protector = Protector(replace(get_preset(tiny), own_below=1.1))
    x = torch.rand(5, 3, 16, 41, generator=torch.Generator().manual_seed(0))
    parts = (x, x[:, :, :, 12:28])
    means = []
    for name in (protector.settings.classifier, protector.settings.backbone):
        with torch.no_grad():
            means.append(sum(load_model(name)(part).softmax(1) for part in parts) / 2)
    aims, probabilities = protector.aims(x)
    assert torch.allclose(probabilities, means[0], atol=1e-5)
    assert torch.equal(aims, means[1].argmax(1))
    assert torch.equal(protector.probabilities(x[3:4]), probabilities[3:4])
    large = F.interpolate(x, (32, 82), mode="nearest")
    seen = F.interpolate(large, (16, 41), mode="bilinear", antialias=True)
    assert torch.allclose(protector.probabilities(large), protector.probabilities(seen), atol=1e-6)
    tall = protector.probabilities(x.transpose(2, 3))
    assert tall.shape == (5, 10)
    assert not torch.allclose(tall, probabilities, atol=1e-5)


def test_soft_labels_keep_the_best_and_sum_to_one(tiny: str) -> None:
    p = torch.tensor([[0.05, 0.4, 0.1, 0.3, 0.15], [0.2, 0.2, 0.2, 0.2, 0.2]])
    assert Protector(tiny).labels(p).tolist() == [1, 0]
    soft = Protector(tiny, soft_labels=3).labels(p)
    assert torch.allclose(soft[0], torch.tensor([0, 0.4, 0, 0.3, 0.15]) / 0.85)
    assert torch.allclose(soft.sum(1), torch.ones(2))
    assert (soft > 0).sum(1).tolist() == [3, 3]
    assert torch.allclose(Protector(tiny, soft_labels=99).labels(p), p)


def test_settings(tiny: str) -> None:
    protector = Protector(tiny, eps=2 / 255, n_samples=3, soft_labels=2)
    assert (protector.settings.eps, protector.settings.n_samples, protector.settings.soft_labels) == (2 / 255, 3, 2)
    assert float((protector(images(2, 16)) - images(2, 16)).abs().max()) <= 2 / 255 + 1e-6
    assert len(protector.identity()["weights"]) == 2
    own = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    protector = Protector(tiny, backbone=own)
    assert len(protector.identity()["weights"]) == 2
    other = Protector(tiny, backbone=nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10)))
    with pytest.raises(UsageError, match=r"backbone: it has 1000 classes, the classifier .* has 10"):
        Protector(tiny, backbone=nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1000)))
    assert protector.identity() == Protector(tiny, backbone=own).identity() != other.identity()
    assert not torch.equal(protector(images(2, 16)), images(2, 16))
    assert all(parameter.requires_grad for parameter in own.parameters())
    for eps in (0, -1, 8, float("nan"), 0.9 / 255):
        with pytest.raises(UsageError, match="eps is"):
            Protector(tiny, eps=eps)
    for options, line in (
        ({"eps": "8/255"}, "eps is '8/255': pass a number"),
        ({"n_samples": 0}, "n_samples is 0: it must be a whole number, at least 1"),
        ({"n_samples": 2.5}, "n_samples is 2.5: it must be a whole number, at least 1"),
        ({"soft_labels": -1}, "soft_labels is -1: it must be a whole number, at least 0"),
    ):
        with pytest.raises(UsageError, match=line):
            Protector(tiny, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="10 classes, the classifier has 100"):
        Protector("photo", backbone="prn18-cifar10")


@pytest.mark.parametrize("seed", ["a", None, -1, 1.5, True, 2**63])
def test_seeds_that_are_none(seed: Any, small: Protector, tiny: str, tmp_path: Path) -> None:
    source, report = tmp_path / "a.png", tmp_path / "r.jsonl"
    Image.fromarray(pixels(16, 16)).save(source)
    for call in (
        lambda: small(images(1, 16), seed=seed),
        lambda: small.protect_pixels(pixels(16, 16), seed=seed),
        lambda: small.protect_file(source, tmp_path / "b.png", seed=seed),
        lambda: list(run(small, plan([str(source)], None), report=report, seed=seed)),
        lambda: verify(source, source, preset=tiny, seed=seed),
    ):
        with pytest.raises(UsageError, match=f"seed is {seed!r}: it must be an int from 0 to 9223372036854775807"):
            call()
    assert list(tmp_path.iterdir()) == [source]


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda", "mps")
    for name in ("gpu", "meta", ""):
        with pytest.raises(UsageError, match=f"^unknown device '{name}': use auto, cpu, cuda or mps$"):
            pick_device(name)
    with pytest.raises(UsageError, match=r"^device 'cuda:99' is not available here: use auto or cpu$"):
        pick_device("cuda:99")


# ---------------------------------------------------------------- pixels


SIZES = [(1, 1), (1, 2), (3, 500), (31, 33), (64, 64), (65, 64), (640, 427), (5000, 40), (16, 16), (15, 400)]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_of_any_size_stay_within_the_budget(small: Protector, size: tuple[int, int], channels: int) -> None:
    source = pixels(*size, channels)
    before = source.copy()
    copy, label, confidence = small.protect_pixels(source)
    assert copy.shape == source.shape
    assert copy.dtype == np.uint8
    assert np.array_equal(source, before)
    assert np.abs(copy.astype(int) - source).max() <= 8
    assert (copy != source).any() or source.size < 10
    assert label in small.classes
    assert 0.1 <= confidence <= 1
    assert np.array_equal(copy, small.protect_pixels(source)[0])


def test_photo_preset_on_a_photo() -> None:
    protector = Protector("photo", n_samples=1)
    source = pixels(96, 64)
    copy, label, _ = protector.protect_pixels(source)
    assert 0 < np.abs(copy.astype(int) - source).max() <= 4
    assert label in protector.classes


def test_pixels_at_the_view_size_are_the_tensor(small: Protector) -> None:
    source = pixels(16, 16)
    copy, _, _ = small.protect_pixels(source)
    difference = (to_tensor(copy) - small(to_tensor(source))).abs()
    assert float(difference.max()) * 255 <= 1.001  # a level where a half is rounded the other way
    assert float((difference > 0.5 / 255).float().mean()) < 0.01


# ---------------------------------------------------------------- the view


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (64, 64)), ((640, 427), (96, 64)), ((427, 640), (64, 96)), ((1, 1), (64, 64)), ((3, 500), (64, 192)),
        ((5000, 40), (192, 64)), ((100, 300), (64, 192)),
    ],
    ids=str,
)  # fmt: skip
def test_native_size_keeps_the_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert native_size(*size, 64) == expected


def test_view_of_a_constant_and_of_its_own_size() -> None:
    assert torch.equal(view(np.full((77, 31, 3), 100, np.uint8), (20, 20)), torch.full((1, 3, 20, 20), 100 / 255))
    source = pixels(20, 30)
    assert torch.equal(view(source, (20, 30)), to_tensor(source))
    assert view(pixels(20, 30, 1), (10, 15)).shape == (1, 1, 10, 15)
    assert torch.equal(down(to_tensor(source), (20, 30)), to_tensor(source))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("levels", [3, -5])
def test_constant_perturbation_is_added_everywhere(size: tuple[int, int], levels: int) -> None:
    source = pixels(*size) // 2 + 50
    delta = torch.full((1, 3, 16, 24), levels / 255)
    assert np.array_equal(add(source, delta, 8), source.astype(int) + levels)


def test_sum_is_clipped_at_black_and_white() -> None:
    source = np.array([0, 1, 254, 255], np.uint8).reshape(2, 2, 1).repeat(16, 0).repeat(16, 1)
    assert np.array_equal(add(source, torch.full((1, 1, 8, 8), 4 / 255), 4), np.minimum(source.astype(int) + 4, 255))
    assert np.array_equal(add(source, torch.full((1, 1, 8, 8), -4 / 255), 4), np.maximum(source.astype(int) - 4, 0))


@pytest.mark.parametrize("size", [(64, 96), (200, 301), (97, 65), (1000, 64), (2500, 1200)], ids=str)
@pytest.mark.parametrize("channels", [3, 1])
def test_enlargement_is_bilinear(size: tuple[int, int], channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = (torch.rand(1, channels, 64, 64, generator=generator) - 0.5) * 2 * EPS
    source = np.full((*size, channels), 100, np.uint8)
    expected = F.interpolate(delta, size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy() * 255
    moved = add(source, delta, 8).astype(int) - 100
    assert np.abs(moved - expected).max() <= 0.5 + 1e-3
    assert np.abs(moved).max() <= 8


def test_no_pixel_moves_further_than_the_levels() -> None:
    source = np.full((50, 40, 3), 128, np.uint8)
    moved = add(source, torch.full((1, 3, 16, 16), 0.5), 4).astype(int) - 128
    assert (moved == 4).all()


@pytest.mark.parametrize("name", ["unet-cifar10", "mcg-cifar10", "a5-cifar10"])
def test_backbone_that_is_no_classifier(name: str) -> None:
    with pytest.raises(UsageError, match=f"backbone {name}: not a classifier"):
        Protector("cifar10", backbone=name)


def test_one_call_takes_what_a_protector_takes(tiny: str, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    Image.fromarray(pixels(40, 50)).save(source)
    done = mspd.protect(source, preset=tiny, eps=4 / 255, device="cpu", seed=3)
    assert done.output == str(tmp_path / "a.protected.png")
    assert 0 < done.linf <= 4
    again = mspd.Protector(tiny, eps=4 / 255).protect_file(source, tmp_path / "b.png", seed=3)
    assert (tmp_path / "a.protected.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert again.eps == done.eps
    lossy = mspd.protect(source, tmp_path / "c.jpg", preset=tiny, quality=90)
    assert lossy.lossy
    with pytest.raises(UsageError, match="less than a grey level"):
        mspd.protect(source, tmp_path / "d.png", preset=tiny, eps=1e-4)
    assert not (tmp_path / "d.png").exists()
