"""Training on a handful of tiny pictures: every method runs, resumes to the same bytes, and its result can be used."""

import errno
import json
import math
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mspd.training.loop as loop
from mspd import Protector, UsageError, atomic
from mspd.data import ImageSet, load, records
from mspd.data.classes import check_classes, difference
from mspd.errors import ImageError, MspdError, WeightsError
from mspd.models import build, card_of, load_model, save_model
from mspd.training import Recipe, get_recipe, list_recipes, train
from mspd.training.adversarial import divergence, n_fgsm, pgd_steps, trades_steps
from mspd.training.augment import augment
from mspd.training.classify import METHODS, evaluate_plain
from mspd.training.loop import memory, one_cycle
from mspd.training.recipe import CHOICES

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STANDARD = Recipe(
    name="tiny", dataset="colours", architecture="resnet20", arguments={"width": 4}, size=16, epochs=2, batch_size=16,
    crop=2, cutout=4, label_smoothing=0.1,
)  # fmt: skip
ADVERSARIAL = replace(STANDARD, architecture="preact_resnet18", eps=8 / 255, cutout=0, small_epochs=1, small_size=12)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with a folder a class: a colour each, with noise; 70 and 20 pictures of 16 to 18 pixels."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            colour = np.array([(label * 70) % 256, (label * 130) % 256, (label * 190) % 256])
            for index in range(count):
                noisy = (colour + rng.integers(-30, 31, (16, 16 + index % 3, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(root / split / name / f"{index}.png")
    (root / "train" / ".cache").mkdir()
    return root


def grey(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (level, level, level)).save(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of the machine is of no interest here."""
    monkeypatch.setattr(loop, "matmul_rate", lambda device: 1.0)


# ---------------------------------------------------------------- the loop


@pytest.mark.parametrize("recipe", [STANDARD, ADVERSARIAL], ids=["standard", "adversarial"])
def test_training_writes_weights_and_card(recipe: Recipe, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.safetensors"
    state = torch.random.get_rng_state()
    card = train(recipe, pictures, out, seed=3, command="mspd train tiny")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {path.name for path in out.parent.iterdir()} == {"mine.safetensors", "mine.json"}
    written = card_of(out)
    assert {key: written[key] for key in card} == json.loads(json.dumps(card))
    assert written["classes"] == list(CLASSES)
    assert written["arguments"] == {"width": 4, "num_classes": 10}
    assert (written["epochs"], written["seed"], written["command"]) == (2, 3, "mspd train tiny")
    assert written["training"] == ("adversarial (N-FGSM)" if recipe.eps else "standard")
    assert (written["clean_n"], written["pgd20_n"], written["pgd20_eps"]) == (20, 20, 8 / 255)
    x = load(pictures, "test", size=16).floats()
    assert load_model(out)(x).shape == (20, 10)


def train_until_killed(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, pictures: Path, out: Path, seed: int) -> None:
    """Ends in the second epoch; an epoch has 5 steps."""
    calls: Iterator[int] = iter(range(100))

    def killed(x: torch.Tensor, **options: object) -> torch.Tensor:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return augment(x, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "augment", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, pictures, out, seed=seed)


@pytest.mark.parametrize("recipe", [STANDARD, ADVERSARIAL], ids=["standard", "adversarial"])
def test_killed_and_resumed_gives_the_same_bytes(
    recipe: Recipe, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train(recipe, pictures, unbroken, seed=1)
    train_until_killed(monkeypatch, recipe, pictures, broken, seed=1)
    assert not broken.exists()
    assert (tmp_path / "b.safetensors.ckpt").exists()
    torch.rand(100)  # the state of the process is another one
    capsys.readouterr()
    train(recipe, pictures, broken, seed=1)
    assert "resuming after epoch 1" in capsys.readouterr().err
    assert broken.read_bytes() == unbroken.read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("half", [True, False])
def test_resumed_training_keeps_its_precision(
    half: bool, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another one is faster by then; the card says which."""
    unbroken, broken = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    monkeypatch.setattr(loop, "bfloat16_is_faster", lambda device: half)
    train(STANDARD, pictures, unbroken)
    train_until_killed(monkeypatch, STANDARD, pictures, broken, seed=0)
    monkeypatch.setattr(loop, "bfloat16_is_faster", lambda device: not half)
    card = train(STANDARD, pictures, broken)
    assert card["precision"] == ("mixed bfloat16" if half else "float32")
    assert broken.read_bytes() == unbroken.read_bytes()


def test_another_seed_starts_anew(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(STANDARD, epochs=1)
    out, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train(recipe, pictures, out, seed=0)
    train(recipe, pictures, other, seed=1)
    assert out.read_bytes() != other.read_bytes()
    assert "resuming" not in capsys.readouterr().err


def test_checkpoint_of_another_call_is_refused(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither gone on from nor lost."""
    other, out, start = tmp_path / "other", tmp_path / "a.safetensors", tmp_path / "start.safetensors"
    shutil.copytree(pictures, other)
    Image.new("RGB", (16, 16)).save(other / "train" / "cat" / "0.png")
    model = build("resnet20", {"width": 4, "num_classes": 10})
    card = {"architecture": "resnet20", "arguments": {"width": 4, "num_classes": 10}, "classes": list(CLASSES)}
    save_model(model, start, card)
    recipe = replace(STANDARD, start=str(start))
    train_until_killed(monkeypatch, recipe, pictures, out, seed=0)
    checkpoint = (tmp_path / "a.safetensors.ckpt").read_bytes()

    def refused(recipe: Recipe, data: Path, **options: int) -> None:
        with pytest.raises(UsageError, match=r"a\.safetensors\.ckpt: belongs to another .*; delete it to start anew"):
            train(recipe, data, out, **options)  # type: ignore[arg-type]
        assert (tmp_path / "a.safetensors.ckpt").read_bytes() == checkpoint

    refused(recipe, other)
    refused(recipe, pictures, seed=1)
    refused(recipe, pictures, epochs=3)
    refused(replace(recipe, lr=0.1), pictures)
    model.get_parameter("head.bias").data += 1
    save_model(model, start, card)
    refused(recipe, pictures)


def test_second_training_of_a_file_is_refused(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.safetensors"

    def beside(x: torch.Tensor, **options: Any) -> torch.Tensor:
        with pytest.raises(UsageError, match=r"a\.safetensors: another training is writing it; wait for it or choose"):
            train(STANDARD, pictures, out)
        return augment(x, **options)

    monkeypatch.setattr(loop, "augment", beside)
    train(STANDARD, pictures, out, epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "a.json"}


def test_what_a_killed_write_left_is_swept(pictures: Path, tmp_path: Path) -> None:
    """But not what is of another training."""
    names = ("a.safetensors", "a.json", "a.safetensors.ckpt", "b.safetensors.ckpt")
    *own, other = (atomic.temporary_beside(tmp_path / name) for name in names)
    for path in (*own, other):
        path.write_bytes(b"half")
    train(STANDARD, pictures, tmp_path / "a.safetensors", epochs=1)
    assert set(tmp_path.iterdir()) == {tmp_path / "a.safetensors", tmp_path / "a.json", other}


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"\x80\x02nonsense", b"\x80\x02X\x01\0\0\0\x85."])
def test_damaged_checkpoint(content: bytes, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors\.ckpt: a damaged checkpoint; delete it to start anew"):
        train(STANDARD, pictures, tmp_path / "a.safetensors")


def test_other_classes_in_the_test_part(pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    shutil.copytree(pictures, other)
    (other / "test" / "truck").rename(other / "test" / "lorry")
    with pytest.raises(UsageError, match="the test part has other classes than the train part"):
        train(STANDARD, other, tmp_path / "a.safetensors")


def test_continues_the_weights_of_another_model(pictures: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "C:a.safetensors", tmp_path / "b.safetensors"  # a path with a colon is no loader
    train(STANDARD, pictures, first)
    card = train(replace(STANDARD, epochs=1, lr=1e-9, average=0.0), pictures, second, start=str(first))
    assert card["start"] == f"{first} (2 epochs, sha256 {card_of(first)['sha256'][:12]})"
    earlier, later = (load_model(path).get_parameter("stem.weight") for path in (first, second))
    assert torch.allclose(earlier, later, atol=1e-3)


@pytest.mark.parametrize(
    ("classes", "kept"),
    [(CLASSES, True), ([], True), ([str(label) for label in range(10)], True), ([*CLASSES[1:], "airplane"], False)],
)
def test_head_of_a_start_is_taken_where_its_classes_agree(
    classes: list[str], kept: bool, pictures: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    arguments = {"width": 4, "num_classes": 10}
    card = {"architecture": "resnet20", "arguments": arguments, "classes": list(classes)}
    save_model(build("resnet20", arguments), first, card)
    train(replace(STANDARD, epochs=1, lr=1e-9, average=0.0), pictures, second, start=str(first))
    earlier, later = (load_model(path) for path in (first, second))
    assert torch.allclose(earlier.get_parameter("stem.weight"), later.get_parameter("stem.weight"), atol=1e-3)
    assert torch.allclose(earlier.get_parameter("head.weight"), later.get_parameter("head.weight"), atol=1e-3) is kept


def test_private_backbone(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "private.safetensors"
    train(replace(ADVERSARIAL, epochs=1), pictures, out, seed=5)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)
    own, shipped = (Protector("cifar10", n_samples=1, backbone=backbone) for backbone in (out, None))
    assert own.identity()["weights"][1] == card_of(out)["sha256"]
    assert not torch.equal(own(x), shipped(x))
    with pytest.raises(UsageError, match=r"private\.safetensors: 10 classes, the classifier has 100"):
        Protector("photo", backbone=out)


def test_private_photo_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders called like the photo classifier's classes, which are in no alphabetical order, make a photo backbone."""
    classes = card_of("effnet-lite0-photo")["classes"]
    for split in ("train", "test"):
        for index, name in enumerate(classes):
            grey(tmp_path / split / name.replace(" ", "_").upper() / "a.png", 2 * index)
    out = tmp_path / "private.safetensors"
    recipe = replace(ADVERSARIAL, dataset="Tiny-ImageNet-100", epochs=1)
    card = train(recipe, tmp_path, out)
    assert card["classes"] == classes
    assert Protector("photo", backbone=out).identity()["weights"][1] == card_of(out)["sha256"]
    data = load(tmp_path, "train", like=classes)
    assert (data.images[:, 0, 0, 0] == 2 * data.labels).all()
    assert "note" not in capsys.readouterr().err
    (tmp_path / "train" / "GOLDFISH").rename(tmp_path / "train" / "shark")
    (tmp_path / "test" / "GOLDFISH").rename(tmp_path / "test" / "shark")
    train(recipe, tmp_path, tmp_path / "b.safetensors")
    line = "note: class 0 is 'ACADEMIC_GOWN', effnet-lite0-photo's is 'goldfish', so the model cannot be the backbone"
    assert line in capsys.readouterr().err


# ---------------------------------------------------------------- what is said before a training


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (
            "rn18-cifar10",
            r"start rn18-cifar10: not the recipe's resnet20 \(\S+ differs\); start from a model that recipe",
        ),
        ("wide", r"start wide\.safetensors: not the recipe's resnet20 \(stem\.weight differs\); .* or from none"),
        ("nowhere:loader", r"start 'nowhere:loader': 'nowhere' cannot be imported"),
        ("math:nothing", r"start 'math:nothing': module 'math' has no function 'nothing'"),
        ("math:sqrt", r"start math:sqrt: no weights of a resnet20 \(TypeError: .*\); start from a model that"),
        ("nothing", r"unknown model 'nothing'"),
    ],
)
def test_start_that_does_not_fit(
    start: str, line: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if start == "wide":
        start, wide = "wide.safetensors", {"width": 8, "num_classes": 10}
        save_model(build("resnet20", wide), start, {"architecture": "resnet20", "arguments": wide, "classes": []})
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match=line) as caught:
        train(STANDARD, pictures, "a.safetensors", start=start)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_start_of_a_hub(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id of a hub is a model and no loader; a card of others does not tell its epochs; other classes, a new head."""
    model = build("resnet20", {"width": 4, "num_classes": 3})
    monkeypatch.setattr(loop, "load_model", lambda name: model)
    monkeypatch.setattr(loop, "card_of", lambda name: {"sha256": "0123456789abcdef"} if ":" in name else card_of(name))
    recipe = replace(STANDARD, epochs=1, lr=1e-9, average=0.0)
    card = train(recipe, pictures, tmp_path / "a.safetensors", start="timm:resnet20")
    assert card["start"] == "timm:resnet20 (sha256 0123456789ab)"
    later = load_model(tmp_path / "a.safetensors").get_parameter("stem.weight")
    assert torch.allclose(model.get_parameter("stem.weight"), later, atol=1e-3)
    model = torch.nn.Sequential(model)
    with pytest.raises(UsageError, match=r"start timm:resnet20: not the recipe's resnet20 \(stem\.weight differs\)"):
        train(recipe, pictures, tmp_path / "b.safetensors", start="timm:resnet20")


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"seed": -1}, "seed is -1: it must be an int from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296: it must be an int from 0 to 4294967295"),
        ({"epochs": 0}, "epochs is 0: it must be a whole number, at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5: it must be a whole number, at least 1"),
    ],
)
def test_wrong_numbers(option: dict[str, Any], line: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=line):
        train(STANDARD, pictures, tmp_path / "a.safetensors", **option)


def test_place_that_cannot_be_written(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the pictures are read."""
    monkeypatch.setattr(loop, "load", None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    for place, line in (
        (tmp_path / "file" / "a.safetensors", r"file/a\.safetensors: cannot be written \(.+\); choose another place"),
        (tmp_path / "file" / "b" / "a.safetensors", r"b/a\.safetensors: cannot be written"),
        (tmp_path / "folder.safetensors", r"folder\.safetensors: is a folder; name a file in it"),
    ):
        with pytest.raises(WeightsError, match=line):
            train(STANDARD, pictures, place)
    with pytest.raises(UsageError, match=r"a\.json: the weight file must end in \.safetensors"):
        train(STANDARD, pictures, tmp_path / "a.json")  # its card's name
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.safetensors"}


def test_full_disk_at_a_checkpoint(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"a\.safetensors\.ckpt: cannot be written \(No space left on device\)"):
        train(STANDARD, pictures, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_training_that_diverges_stops(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MspdError, match="epoch 1: the loss is no number any more; choose another seed, or other first weights"
    ):
        train(replace(STANDARD, lr=1e30), pictures, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_pictures_of_other_classes_than_the_model_that_is_learned_against(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    line = "do not fit: 10 classes, model prn18-photo has 100; class 0 is 'airplane', model prn18-photo's is 'goldfish'"
    with pytest.raises(UsageError, match=line):
        train(replace(get_recipe("a5-cifar10"), against="prn18-photo"), pictures, out)
    assert not out.exists()


def test_pictures_of_one_colour_are_learned(pictures: Path, tmp_path: Path) -> None:
    recipe = replace(STANDARD, epochs=12, batch_size=7, cutout=0)
    card = train(recipe, pictures, tmp_path / "a.safetensors")
    assert card["clean_acc"] > 0.25  # chance is 0.1


# ---------------------------------------------------------------- the pieces


@pytest.mark.parametrize(("crop", "cutout"), [(0, 0), (4, 0), (0, 6), (3, 5)])
def test_augment_keeps_shape_and_range(crop: int, cutout: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 3, 16, 16, generator=generator)
    before = x.clone()
    out = augment(x, crop=crop, cutout=cutout, generator=generator)
    assert out.shape == x.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert torch.equal(x, before)
    assert torch.equal(out, x) is (crop == cutout == 0)
    grey = (out == 0.5).all(1).flatten(1).sum(1)
    assert int(grey.max()) <= cutout**2
    assert bool((grey > 0).any()) is (cutout > 0)
    known = set(x[0].flatten().tolist()) | {0.5}
    assert set(out[0].flatten().tolist()) <= known  # moved, not changed


def test_augment_mirrors_half() -> None:
    x = torch.arange(16.0).expand(1000, 1, 16, 16) / 15
    out = augment(x, crop=1, cutout=0, generator=torch.Generator().manual_seed(0))
    assert 0.4 < float((out[:, 0, 8, 12] < out[:, 0, 8, 4]).float().mean()) < 0.6


def test_average_does_not_reach_back_to_the_first_weights() -> None:
    for recipe in map(get_recipe, list_recipes()):
        steps = math.ceil((recipe.pictures or 50_000) / recipe.batch_size)
        assert memory(recipe.average, recipe.epochs * steps) == recipe.average  # as the shipped models were trained
    assert memory(0.998, 60) == pytest.approx(0.95)
    assert memory(0.998, 1) == 0


def test_one_cycle() -> None:
    assert one_cycle(0, 0.2) == 0
    assert one_cycle(0.1, 0.2) == pytest.approx(0.5)
    assert one_cycle(0.2, 0.2) == pytest.approx(1)
    assert one_cycle(0.6, 0.2) == pytest.approx(0.5)
    assert one_cycle(1, 0.2) == 0
    assert one_cycle(0, 0) == 1


@pytest.mark.parametrize("soft", [False, True])
def test_n_fgsm_stays_in_range_and_near(soft: bool) -> None:
    torch.manual_seed(0)
    model = build("wide_resnet", {"num_classes": 4, "depth": 10, "width": 1}).train()
    generator, eps = torch.Generator().manual_seed(0), 8 / 255
    x, y = torch.rand(6, 3, 16, 16, generator=generator), torch.arange(6) % 4
    before = x.clone()
    labels = torch.nn.functional.one_hot(y, 4).float() if soft else y
    out = n_fgsm(model, x, labels, eps=eps, generator=generator)
    assert out.shape == x.shape
    assert not out.requires_grad
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    moved = (out - x).abs()
    assert float(moved.max()) <= 3 * eps + 1e-6
    assert float(moved.max()) > 2.5 * eps
    assert torch.equal(x, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_inner_attacks_stay_in_the_ball_and_raise_the_loss(method: str) -> None:
    torch.manual_seed(0)
    model = build("wide_resnet", {"num_classes": 4, "depth": 10, "width": 1}).eval()
    x, y, eps = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 0, 1]), 0.03
    generator = torch.Generator().manual_seed(0)
    if method == "pgd":
        out = pgd_steps(model, x, y, eps=eps, steps=4, generator=generator)
        losses = [torch.nn.functional.cross_entropy(model(z), y) for z in (x, out)]
    else:
        out = trades_steps(model, x, eps=eps, steps=4, generator=generator)
        losses = [divergence(model(x).softmax(1), model(z)).mean() for z in (x, out)]
    assert float(losses[1].detach()) > float(losses[0].detach()) + 1e-5
    assert float((out - x).abs().max()) <= eps + 1e-6
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not out.requires_grad


@pytest.mark.parametrize(
    ("change", "training"),
    [
        ({"method": "pgd"}, "adversarial (PGD)"),
        ({"method": "trades", "steps": 1}, "adversarial (TRADES)"),
        ({"optimiser": "adamw", "lr": 1e-3, "eps": 0.0}, "standard"),
    ],
)
def test_other_methods(change: dict[str, Any], training: str, pictures: Path, tmp_path: Path) -> None:
    card = train(replace(ADVERSARIAL, **change), pictures, tmp_path / "a.safetensors", epochs=1)
    assert card["training"] == training


def test_evaluate_plain_counts(pictures: Path) -> None:
    class Always(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(x),), 2), 10).float() * 5 - 1 + 0 * x.sum()

    scores = evaluate_plain(Always(), load(pictures, "test", size=16), eps=0.03, n=5)
    assert scores.pop("temperature") == 4.0  # sure of one class, right of a tenth
    assert scores == {"clean_acc": 0.1, "clean_n": 20, "pgd20_acc": 0.2, "pgd20_n": 5, "pgd20_eps": 0.03}


def test_recipes() -> None:
    for name in list_recipes():
        recipe = get_recipe(name)
        assert recipe.name == name
        build(recipe.architecture, {**recipe.arguments, **({"num_classes": 3} if recipe.task == "classify" else {})})
    assert set(CHOICES["task"]) == loop.TASKS.keys()
    assert set(CHOICES["method"]) == METHODS.keys()
    with pytest.raises(UsageError, match="unknown recipe 'x': choose one of "):
        get_recipe("x")
    for key in ("task", "method", "optimiser"):
        with pytest.raises(UsageError, match=f"unknown {key} 'adam': choose one of "):
            replace(STANDARD, **{key: "adam"})


# ---------------------------------------------------------------- pictures in class folders


def test_first_pictures_of_folders_are_of_all_classes(tmp_path: Path) -> None:
    for name, count in (("cat", 1), ("dog", 3), ("eel", 2)):
        for index in range(count):
            path = tmp_path / "test" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    names = [name for name, _, _ in records(tmp_path)]
    assert names == ["cat/0.png", "dog/0.png", "eel/0.png", "dog/1.png", "eel/1.png", "dog/2.png"]
    assert load(tmp_path, limit=3).labels.tolist() == [0, 1, 2]


def test_folders_of_all_that_is_read(tmp_path: Path) -> None:
    """Not what is written alone: no picture is left out without a word."""
    (tmp_path / "test" / "cat").mkdir(parents=True)
    for name, form in (("a.png", "PNG"), ("b.jfif", "JPEG"), ("c.gif", "GIF"), ("d.avif", "AVIF")):
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / "cat" / name, form)
    assert len(load(tmp_path)) == 4
    (tmp_path / "test" / "cat" / "e.heic").write_bytes(b"ftypheic")
    with pytest.raises(ImageError, match=r"cat/e\.heic cannot be read as a picture"):
        load(tmp_path)


def test_one_class_is_said_before_the_training(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / split / "cat" / "a.png")
    with pytest.raises(UsageError, match="one class alone; a classifier needs pictures of at least two"):
        train(get_recipe("rn20-cifar10"), tmp_path, tmp_path / "m.safetensors", epochs=1)
    assert not list(tmp_path.glob("m.*"))


def test_class_folders(pictures: Path) -> None:
    data = load(pictures, "train", size=16)
    assert data.images.shape == (70, 3, 16, 16)
    assert data.images.dtype == torch.uint8
    assert data.classes == CLASSES
    assert data.labels.tolist() == list(range(10)) * 7
    assert len(load(pictures, "train", size=16, limit=3)) == 3
    assert next(records(pictures, "train"))[0] == "airplane/0.png"
    alone = load(pictures / "train", "train", size=16)  # class folders without train/ around them
    assert torch.equal(alone.images, data.images)


def test_bad_image_sets(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a size"):
        load(pictures, "train")
    with pytest.raises(UsageError, match="unknown split 'x'"):
        load(pictures, "x")
    with pytest.raises(UsageError, match="no train set here"):
        load(tmp_path, "train")
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UsageError, match="no pictures of this class"):
        load(tmp_path, "train")
    whole = (pictures / "train" / "cat" / "0.png").read_bytes()
    for broken in (b"", b"hello", whole[:60], whole[: len(whole) // 2], whole[:33] + b"\0" * 200):
        (tmp_path / "train" / "a" / "x.png").write_bytes(broken)
        with pytest.raises(ImageError, match=r"a.x\.png cannot be read as a picture"):
            load(tmp_path, "train", size=16)


TABLE = "label\twnid\tname\n2\tn03\tant, emmet\n0\tn02\tBlack widow\n1\tn01\tcat\n"


def folders(root: Path, names: str, split: str = "train") -> Path:
    """A folder with a grey picture for each of the names, the first black, the second of level 1."""
    for level, name in enumerate(names.split(", ")):
        grey(root / split / name / "a.png", level)
    return root


def levels(data: ImageSet) -> list[int]:
    """The grey level of the picture of each label."""
    found = dict(zip(data.labels.tolist(), data.images[:, 0, 0, 0].tolist(), strict=True))
    return [found[label] for label in sorted(found)]


def test_table_of_classes(tmp_path: Path) -> None:
    """A folder's label is that of its row, by wnid or by name; the test part may lack classes."""
    (tmp_path / "classes.tsv").write_text(TABLE)
    folders(tmp_path, "ANT, black_widow, n01")
    folders(tmp_path, "cat, N03", "test")
    data = load(tmp_path, "train")
    assert data.classes == ("Black widow", "cat", "ant")
    assert levels(data) == [1, 2, 0]
    test = load(tmp_path, "test")
    assert test.classes == data.classes
    assert test.labels.tolist() == [2, 1]  # sorted by path: N03, cat
    assert train(replace(STANDARD, epochs=1), tmp_path, tmp_path / "a.safetensors")["classes"] == list(data.classes)


@pytest.mark.parametrize(
    ("table", "names", "line"),
    [
        (TABLE, "ant, cat, n02, dog", r"train/dog: no class of this name in \S+classes\.tsv; call it by the wnid or"),
        (TABLE, "ant, cat", r"train: no folder of class 'Black widow', which is in \S+classes\.tsv; add it"),
        (TABLE, "ant, cat, n01, n02", r"train/n01: the same class of \S+classes\.tsv as cat; make the two one folder"),
        (TABLE + "3\tn04\tcat\n", "ant, cat, n02, n04", r"train/cat: 2 classes of this name in"),
        (TABLE.replace("\n2", "\n3"), "ant, cat, n02", r"classes\.tsv: the labels must be 0, 1, 2 and so on"),
        (TABLE.replace("\n2", "\n1"), "ant, cat, n02", r"classes\.tsv: the labels must be 0, 1, 2 and so on"),
        ("label\twnid\tname\n", "ant, cat, n02", r"classes\.tsv: the labels must be 0, 1, 2 and so on"),
        (TABLE.replace("\n2", "\nx"), "ant, cat, n02", r"classes\.tsv: not a table of classes; write the columns"),
        (TABLE.replace("\t", ","), "ant, cat, n02", r"classes\.tsv: not a table of classes; write the columns"),
        (TABLE + "3\n", "ant, cat, n02", r"classes\.tsv: not a table of classes"),
        ("\xff", "ant, cat, n02", r"classes\.tsv: not a table of classes"),
    ],
    ids=[
        "stranger",
        "missing",
        "twice",
        "ambiguous",
        "gap",
        "doubled",
        "no row",
        "no number",
        "no tabs",
        "short",
        "no text",
    ],
)
def test_table_that_does_not_fit_the_folders(table: str, names: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "classes.tsv").write_text(table, encoding="latin-1")
    with pytest.raises(UsageError, match=line) as caught:
        load(folders(tmp_path, names), "train")
    assert "\n" not in str(caught.value)


def test_folders_like_the_classes_of_a_model(tmp_path: Path) -> None:
    """All of them in the train part, some in the test part; else in the order of the alphabet, or of numbers."""
    like = ("dog", "black widow", "cat")
    data = load(folders(tmp_path / "a", "CAT, Black_Widow, dog"), "train", like=like)
    assert (data.classes, levels(data)) == (like, [2, 1, 0])
    for names, classes in (("dog, cat", ("cat", "dog")), ("dog, cat, cow", ("cat", "cow", "dog"))):
        data = load(folders(tmp_path / names, names), "train", like=like)
        assert data.classes == classes
        assert data.labels.tolist() == list(range(len(classes)))
    test = load(folders(tmp_path / "a", "dog, cat", "test"), "test", like=like)
    assert (test.classes, test.labels.tolist(), levels(test)) == (like, [2, 0], [0, 1])
    twice = load(folders(tmp_path / "b", "cat, dog", "test"), "test", like=("dog", "cat", "dog"))
    assert twice.classes == ("cat", "dog")
    numbers = ", ".join(map(str, range(12)))
    assert levels(load(folders(tmp_path / "c", numbers), "train")) == list(range(12))


@pytest.mark.parametrize(
    ("theirs", "ours", "differ"),
    [
        (["cat", "crane bird", "Black_widow"], ["Cat", "crane", "black widow, spider"], None),
        (["cat", "dog"], ["dog", "cat"], "class 0 is 'cat', X's is 'dog'"),
        (["cat", "doge"], ["cat", "dog"], "class 1 is 'doge', X's is 'dog'"),
        (["cat"], ["cat", "dog"], "1 classes, X has 2"),
        (["dog"], ["cat", "dog"], "1 classes, X has 2; class 0 is 'dog', X's is 'cat'"),
    ],
)
def test_difference_of_classes(theirs: list[str], ours: list[str], differ: str | None) -> None:
    assert difference(theirs, ours, "X") == differ
    if differ is None:
        check_classes(theirs, ours, "X")
    else:
        with pytest.raises(UsageError, match=f"the pictures do not fit: {differ}; take pictures of its classes"):
            check_classes(theirs, ours, "X")


@pytest.mark.parametrize("unknown", [(), ("0", "1"), ("0", "1", "2")])
def test_classes_that_are_not_known(unknown: tuple[str, ...]) -> None:
    check_classes(unknown, ("cat", "dog"), "X")
    check_classes(("cat", "dog"), unknown, "X")


@pytest.mark.parametrize(("numbers", "gap"), [(("0", "2"), 1), (("1", "2"), 0)])
def test_folders_of_some_numbers_tell_no_labels(numbers: tuple[str, ...], gap: int) -> None:
    line = f"2 folders called by numbers, none of them {gap}, and X has 3 classes; call the folders like its classes"
    with pytest.raises(UsageError, match=line):
        check_classes(numbers, ("cat", "dog", "cow"), "X")
    check_classes(("1", "2", "3"), ("cat", "dog", "cow"), "X")


def test_labels_of_a_file(tmp_path: Path) -> None:
    """The names of a parquet file's classes are those of the table, which must be as many as its labels ask for."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    grey(tmp_path / "a.png", 7)
    rows = [{"image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}, "label": label} for label in (0, 2)]
    for split in ("train", "test"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    with pytest.raises(UsageError, match=r"the names of the classes are not known; put a classes\.tsv"):
        train(STANDARD, tmp_path, tmp_path / "a.safetensors")
    (tmp_path / "classes.tsv").write_text(TABLE)
    assert load(tmp_path, "train").classes == ("Black widow", "cat", "ant")
    (tmp_path / "classes.tsv").write_text("label\tname\n0\tcat\n1\tdog\n")
    with pytest.raises(UsageError, match=r"label 2 is none of the 2 classes; mend classes\.tsv or the labels"):
        load(tmp_path, "train")


def test_pictures_are_turned_as_they_say(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the row at the top belongs to the right
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / part / "a" / "0.png", exif=exif)
    image = load(tmp_path, "test").images[0, 0]
    assert image[:, -1].eq(255).all()
    assert image[:, :-1].eq(0).all()
    odd = b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHI4sI", 0x0112, 3, 1, 6, 0x011A, 2, 4, b"odd\0", 0)
    Image.fromarray(picture).save(tmp_path / "test" / "a" / "0.png", exif=b"Exif\0\0" + odd)
    assert torch.equal(load(tmp_path, "test").images[0, 0], image)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "test" / "a" / "1.png")
    with pytest.raises(ImageError, match=r"a.1\.png has more than 8 bits a channel; convert it"):
        load(tmp_path, "test")


def test_forms_of_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded bytes with and without a path around them, names of classes as the hub's tools write them."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    grey(tmp_path / "a.png", 7)
    data = (tmp_path / "a.png").read_bytes()

    def write(*rows: dict[str, Any], names: list[str] | None = None) -> None:
        table = pyarrow.Table.from_pylist(list(rows))
        if names is not None:
            head = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(head)})
        parquet.write_table(table, tmp_path / "test.parquet")

    write({"image": data, "label": 0}, {"image": data, "label": 1}, names=["cat", "dog"])
    assert load(tmp_path).classes == ("cat", "dog")
    write({"image": {"bytes": data}, "label": 0})
    assert len(load(tmp_path)) == 1
    (tmp_path / "cifar10").mkdir()
    shutil.copy(tmp_path / "test.parquet", tmp_path / "cifar10")
    monkeypatch.chdir(tmp_path / "cifar10")
    assert load(".").classes == load(tmp_path / "cifar10").classes == CLASSES
    good = {"image": data, "label": 0}
    for wrong in ({"image": None, "label": 0}, {"image": data, "label": None}):
        write(good, wrong)
        with pytest.raises(UsageError, match=r"row 1 has (no encoded picture|the label None, which)"):
            load(tmp_path)
    for label in ("cat", 0.5, float("nan")):
        write({"image": data, "label": label})
        with pytest.raises(UsageError, match=f"row 0 has the label {label!r}, which is no whole number; mend"):
            load(tmp_path)
    for label in (3.0, "3"):
        write({"image": data, "label": label}, names=["0", "1", "2", "3"])
        read = load(tmp_path)
        assert read.labels.tolist() == [3]
        assert read.classes == ()
