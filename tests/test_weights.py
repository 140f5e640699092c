"""The shipped weights do what their cards and the README say, on a few pictures (the benchmarks measure on many)."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mspd
from conftest import Call
from mspd import images
from mspd.data import load
from mspd.evaluation import predict
from mspd.models import card_of
from mspd.presets import get_preset
from mspd.training.classify import METHODS
from mspd.verify import LEAST, Verifier

FOLDERS = {"CIFAR-10": "cifar10", "Tiny-ImageNet-100": "tiny-imagenet-100"}
BEE = Path(__file__).parents[1] / "examples" / "bee.jpg"


CLASSIFIERS = [name for name in mspd.list_models() if "clean_acc" in card_of(name)]


@pytest.mark.parametrize("name", mspd.list_models())
def test_card_says_how_it_was_made(name: str) -> None:
    card = card_of(name)
    for field in ("epochs", "seed", "training_hours", "command", "eps"):
        assert field in card, field
    assert card["command"].startswith(f"mspd train {name} ")
    assert ("JPEG-coded" in card.get("data", "")) is (card["dataset"] == "CIFAR-10")


def test_notice_names_the_weights_of_others() -> None:
    notice = (Path(__file__).parents[1] / "NOTICE").read_text()
    derived = [name for name in mspd.list_models() if card_of(name)["architecture"] == "efficientnet_lite0"]
    assert len(derived) == 3
    assert all(name in notice for name in derived)


def test_networks_of_one_kind_have_seeds_of_their_own() -> None:
    """Where nothing else differs before the first step, equal seeds are equal first weights: not another model."""
    first = [
        (card["dataset"], card["architecture"], json.dumps(card["arguments"], sort_keys=True), card["seed"])
        for card in map(card_of, CLASSIFIERS)
        if card.get("start") is None and card["eps"]
    ]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_card_is_complete_and_true(name: str, data: Path) -> None:
    card = card_of(name)
    for field in ("clean_n", "pgd20_n", "pgd20_eps"):
        assert field in card, field
    assert card["training"] in ("standard", *(f"adversarial ({method})" for method in METHODS.values()))
    test = load(data / FOLDERS[card["dataset"]], "test", size=card["size"], limit=1000)
    accuracy = float((predict(mspd.load_model(name), test.floats()) == test.labels).float().mean())
    assert abs(accuracy - card["clean_first_1000"]) <= 0.01
    spread = math.sqrt(card["clean_acc"] * (1 - card["clean_acc"]) / len(test))
    assert abs(accuracy - card["clean_acc"]) < 4 * spread


def test_protection_helps_a_model_that_it_never_saw(data: Path) -> None:
    test = load(data / "cifar10", "test", limit=100)
    x, y = test.floats(), test.labels
    x_def = mspd.Protector("cifar10")(x)
    target = mspd.load_model("wrn16-2-cifar10")
    before = mspd.evaluate(target, x, y, eps=8 / 255, steps=10, fast=True)
    after = mspd.evaluate(target, x_def, y, eps=8 / 255, steps=10, fast=True)
    assert before.robust_acc < before.clean_acc - 0.05
    assert after.robust_acc > before.robust_acc + 0.02
    assert after.clean_acc > before.clean_acc + 0.02


def test_verify_tells_protection_from_noise(data: Path) -> None:
    verifier = mspd.Verifier("cifar10")
    rng = np.random.default_rng(0)
    helpful: dict[str, list[bool]] = {"plain": [], "noise": [], "protected": []}
    for image in load(data / "cifar10", "test", limit=3).images:
        pixels = image.permute(1, 2, 0).numpy()
        noisy = np.clip(pixels + 8 * rng.choice([-1, 1], pixels.shape), 0, 255).astype(np.uint8)
        copies = {"plain": pixels, "noise": noisy, "protected": verifier.protector.protect_pixels(pixels)[0]}
        label = verifier.label(pixels)[0]
        chance = verifier.chance(pixels, noisy, label)  # no protection of this budget differs by more
        limits = {"plain": LEAST, "noise": chance, "protected": chance}
        before, *after = (
            sum(verifier.attacked_margin(target, each, label) for target in verifier.targets) / len(verifier.targets)
            for each in (pixels, *copies.values())
        )
        for name, margin in zip(copies, after, strict=True):
            helpful[name].append(margin - before > limits[name])
    assert not any(helpful["plain"] + helpful["noise"])
    assert all(helpful["protected"])


def test_verify_says_no_effect_of_a_plain_copy(tmp_path: Path) -> None:
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(BEE.read_bytes())
    one_target = replace(get_preset("photo"), targets=("rn18-photo",))
    assert mspd.verify(BEE, copy, preset=one_target).verdict == "no effect"


def test_the_example_holds_where_it_broke(call: Call, tmp_path: Path) -> None:
    """What `make demo` shows: two targets lose the original under 8/255 and hold the protected copy."""
    code, out, _ = call("protect", BEE, "-o", "bee.png")
    assert code == 0
    assert "bee" in out
    verifier = Verifier("photo")
    before, after = images.read(BEE).pixels, images.read(tmp_path / "bee.png").pixels
    label, confidence, _ = verifier.label(before)
    assert verifier.classes["rn18-photo"][label] == "bee"
    assert confidence > 0.8
    for target in ("rn18-photo", "convnext-photo"):
        broken, held = verifier.read(target, [before, after], label)
        assert (broken.survives["4/255"], broken.survives["8/255"]) == (True, False)
        assert held.survives["8/255"]
