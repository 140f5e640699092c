"""The defence as an ONNX file: the same pictures as PyTorch, for every shape of picture; nothing written otherwise."""

import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mspd.export as export
from conftest import Call
from mspd import PRESETS, MspdError, Protector, UsageError, images
from mspd.ball import image_generators
from mspd.models import build
from mspd.presets import get_preset

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'mspd[onnx]'")


SHAPES = [(16, 16), (16, 17), (23, 16), (16, 48), (48, 16)]


def blurred(shape: tuple[int, int]) -> Tensor:
    drawn = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(sum(shape)))
    return F.interpolate(drawn, shape, mode="bilinear").mul(255).round() / 255


@pytest.fixture(scope="module")
def protector(tiny: str) -> Protector:
    sure = [float(Protector(tiny, device="cpu").probabilities(blurred(shape)).max()) for shape in SHAPES]
    between = sum(sorted(sure)[1:3]) / 2
    return Protector(replace(get_preset(tiny), own_below=between), n_samples=2, device="cpu")


@pytest.fixture(scope="module")
def folder(protector: Protector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset's defence, exported once."""
    folder = tmp_path_factory.mktemp("export") / "new"
    export.export_onnx(protector, folder)
    return folder


def test_convnext_is_exported_with_the_same_pictures(tiny: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build("convnext", {"num_classes": 10, "widths": (4, 4, 4), "depths": (1, 1, 1)}).eval()
    assert export.export_onnx(Protector(tiny, backbone=backbone, device="cpu"), tmp_path / "new").differing <= 0.002


def test_both_name_pictures(protector: Protector) -> None:
    assert len({bool(protector.unsure(protector.probabilities(blurred(shape)))) for shape in SHAPES}) == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_same_as_pytorch(protector: Protector, folder: Path, shape: tuple[int, int]) -> None:
    x = blurred(shape)
    (drawn,) = image_generators(x, torch.Generator().manual_seed(7))
    noise = torch.stack([torch.rand(2, 3, *shape, generator=drawn) for _ in range(2)])
    session = onnxruntime.InferenceSession(folder / "defense.onnx", providers=["CPUExecutionProvider"])
    feed = {"image": x.numpy(), "noise": noise.numpy(), "eps": np.array(8 / 255, np.float32)}
    protected, label, probabilities = map(torch.from_numpy, session.run(None, feed))
    aim, expected = protector.aims(x)
    assert torch.allclose(probabilities, expected, atol=1e-5)
    assert torch.equal(label, aim)
    ours = images.quantise(protector.defend(x, aim, 7), x, 8 / 255)
    theirs = images.quantise(protected, x, 8 / 255)
    assert ((ours != theirs).any(1).float().mean()) <= 0.002
    assert (ours - x).abs().max() > 4 / 255  # not the picture itself


def test_budget_is_an_input(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "defense.onnx", providers=["CPUExecutionProvider"])
    x, noise = np.full((1, 3, 16, 20), 0.5, np.float32), np.full((2, 2, 3, 16, 20), 0.75, np.float32)
    for eps in (2 / 255, 16 / 255):
        feed = {"image": x, "noise": noise, "eps": np.array(eps, np.float32)}
        (protected,) = session.run(["protected"], feed)
        assert np.abs(protected - x).max() == pytest.approx(eps, abs=1e-6)


def test_description(protector: Protector, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["defense.json", "defense.onnx"]
    card = json.loads((folder / "defense.json").read_text(encoding="utf-8"))
    assert card["sha256"] == hashlib.sha256((folder / "defense.onnx").read_bytes()).hexdigest()
    assert (card["size"], card["n_samples"], card["eps"]) == (16, 2, 8 / 255)
    assert card["classes"] == protector.classes
    assert card["checked"]["differing"] <= 0.002


def test_difference_is_an_error(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    data = (folder / "defense.onnx").read_bytes()
    monkeypatch.setattr(export, "to_onnx", lambda protector: data)
    monkeypatch.setattr(Protector, "defend", lambda self, x, y, seed: x)
    with pytest.raises(MspdError, match=r"of the pixels, at most 0.2% may differ: nothing is written"):
        export.export_onnx(protector, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_network_that_cannot_be_traced(protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untraceable(protector: Protector) -> bytes:
        raise AssertionError("Expected op to be '=='\nat some place")

    monkeypatch.setattr(export, "to_onnx", untraceable)
    with pytest.raises(
        MspdError, match=r"cannot be written as ONNX \(AssertionError: Expected op to be '=='\); choose"
    ):
        export.export_onnx(protector, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(
    call: Call, protector: Protector, folder: Path, tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (folder / "defense.onnx").read_bytes()
    monkeypatch.setattr(export, "to_onnx", lambda protector: data)
    monkeypatch.setitem(PRESETS, tiny, protector.settings)
    code, out, err = call("export", "onnx", "--preset", tiny, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert re.search(r"defense.onnx: [\d.]+ MB; of \d+ pixels in 4 checked pictures 0\.\d+% have another", out)
    assert (tmp_path / "out" / "defense.onnx").read_bytes() == data
    code, _, err = call("export", "tflite", "--preset", tiny, "-o", tmp_path / "other")
    assert (code, err) == (2, "mspd: unknown format 'tflite': the defence can be exported as onnx\n")
    code, _, err = call("export", "onnx", "--preset", tiny, "-o", folder)
    assert code == 2
    assert "already exists" in err


def test_missing_extra(protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"pip install 'mspd\[onnx\]'"):
        export.export_onnx(protector, tmp_path)
