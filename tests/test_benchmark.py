"""The benchmark: the same rows whatever happens to the run, one clear line for every misuse, foreign code fits in."""

import importlib
import inspect
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mspd
import mspd.cli as cli
from mspd import images
from mspd.adapters import find, from_art, from_foolbox, from_torchattacks
from mspd.attacks import pgd
from mspd.ball import project
from mspd.benchmark import Cell, Purified, Summary, markdown
from mspd.benchmark.grid import named
from mspd.benchmark.identity import function_identity, model_identity
from mspd.benchmark.rough import Rough
from mspd.benchmark.run import _rounded
from mspd.benchmark.store import GROWING, Store, defended_place, read_lines
from mspd.benchmark.summary import summarise
from mspd.data import ImageSet
from mspd.defenses import mcgs
from mspd.errors import InputError, MspdError, UsageError
from mspd.metrics import l2
from mspd.models import build, card_of, load_model, save_model
from mspd.objectives import margin
from mspd.presets import PRESETS, Preset
from mspd.purifiers import diffpure
from mspd.smoothing import smoothed_epoch

running = sys.modules["mspd.benchmark.run"]  # mspd.benchmark is the function
CLASSES = ["ant", "bee", "cat", "dog"]
EPS = 8 / 255
quick = partial(pgd, steps=1)
one = partial(mcgs, n_samples=1, epochs="F")


class Broken(nn.Module):
    """A linear network that does one thing wrong."""

    def __init__(self, how: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        change: dict[str, Callable[[], Tensor]] = {
            "probabilities": lambda: logits.softmax(1),
            "random": lambda: logits + torch.randn_like(logits),
            "flat": lambda: logits.detach().round() + 0 * logits,
            "detached": lambda: logits.detach(),
            "nan": lambda: logits * torch.nan,
            "features": lambda: x,
            "one": lambda: logits[:, 0],
            "takes 8": lambda: nn.functional.linear(x, torch.zeros(4, 8)),
        }
        return change.get(self.how, lambda: logits)()


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """Four random networks of 4 classes at 16 pixels, as weight files."""
    folder = tmp_path_factory.mktemp("weights")
    arguments = {"num_classes": 4, "depth": 10, "width": 1}
    paths = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = build("wide_resnet", arguments)
        torch.nn.init.normal_(list(model.parameters())[-2], std=1.0)  # so that it does not read everything as one class
        card = {"architecture": "wide_resnet", "arguments": arguments, "classes": CLASSES}
        paths.append(folder / f"net{seed}.safetensors")
        save_model(model, paths[-1], card)
    classifier, backbone, *targets = map(str, paths)
    return Preset("tiny", classifier, backbone, tuple(targets), 16, EPS, 1, 0)


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """64 pictures on the 8-bit grid, with labels that the linear network reads right in three cases of four."""
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(64, 3, 4, 4, generator=generator)
    x = torch.nn.functional.interpolate(small, size=16, mode="bicubic").clamp(0, 1).mul(255).round() / 255
    with torch.no_grad():
        y = Broken("")(x).argmax(1)
    return x, torch.where(torch.arange(64) % 4 == 0, (y + 1) % 4, y)


@pytest.fixture
def measure(preset: Preset, pictures: tuple[Tensor, Tensor], tmp_path: Path) -> Callable[..., Summary]:
    """mspd.benchmark in a new folder, quick and on linear networks unless something else is said."""

    def call(**options: Any) -> Summary:
        x, y = options.pop("data", pictures)
        out = options.pop("out", tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        settings: dict[str, Any] = {
            "preset": preset, "defenses": {"mcgs": one}, "attacks": {"pgd": quick},
            "targets": {"linear": Broken("").eval()}, "backbones": {"linear": Broken("")}, "n": 8, "device": "cpu",
        }  # fmt: skip
        return mspd.benchmark((x, y), out, **{**settings, **options})

    return call


def rows(summary_or_folder: Summary | Path) -> list[dict[str, Any]]:
    folder = getattr(summary_or_folder, "out", summary_or_folder)
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def same(a: Path, b: Path) -> None:
    """All that is reproducible in two folders is the same, byte for byte."""
    for name in ("settings.json", "rows.jsonl", "summary.json", "summary.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    pngs = sorted(str(path.relative_to(a)) for path in a.rglob("*.png"))
    assert pngs == sorted(str(path.relative_to(b)) for path in b.rglob("*.png"))
    assert all((a / png).read_bytes() == (b / png).read_bytes() for png in pngs)


# ---------------------------------------------------------------- what is measured


def test_rows_and_files(measure: Callable[..., Summary], pictures: tuple[Tensor, Tensor], preset: Preset) -> None:
    summary = measure(targets=None, backbones=None, keep=True, n=5)
    x, y = pictures
    found = rows(summary)
    assert [(row["defense"], row["target"], row["id"]) for row in found] == [
        (defense, target, i) for defense in ("none", "mcgs") for target in preset.targets for i in range(5)
    ]
    assert list(found[0]) == [
        "id", "label", "defense", "backbone", "treatment", "target", "attack", "before", "after", "after_8bit",
        "defense_linf", "defense_l2", "ssim", "psnr", "lpips", "attack_linf", "attack_l2", "attack_ssim",
        "attack_lpips", "queries", "seed", "versions",
    ]  # fmt: skip
    for row in found:
        i, none = row["id"], row["defense"] == "none"
        assert row["label"] == int(y[i])
        assert row["backbone"] == ("none" if none else preset.backbone)
        assert row["queries"] is None
        assert torch.__version__ in row["versions"]
        assert 0 < row["attack_linf"] <= EPS + 1e-6
        if none:
            assert (row["defense_linf"], row["defense_l2"], row["ssim"], row["psnr"]) == (0, 0, 1, None)
        else:
            assert 0 < row["defense_linf"] <= EPS + 1e-6
            assert row["ssim"] < 1
            error = row["defense_l2"] ** 2 / x[0].numel()
            assert row["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    # What was scored is what the file holds.
    files = sorted((summary.out / "defended").rglob("*.png"))
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(5)]
    x_def = torch.cat([images.to_tensor(images.read(file).pixels) for file in files])
    target = load_model(preset.targets[1])
    last = [row for row in found if row["defense"] == "mcgs" and row["target"] == preset.targets[1]]
    with torch.no_grad():
        assert target(x_def).argmax(1).tolist() == [row["before"] for row in last]
    assert [row["defense_linf"] for row in last] == [round(float(d.abs().max()), 6) for d in x_def - x[:5]]
    attacked = sorted((summary.out / "adversarial").rglob("*.png"))
    assert len(attacked) == 20
    x_adv = torch.cat([images.to_tensor(images.read(path).pixels) for path in attacked if "mcgs" in str(path)][-5:])
    with torch.no_grad():
        assert target(x_adv).argmax(1).tolist() == [row["after_8bit"] for row in last]
    assert float((x_adv - x_def).abs().max()) <= EPS + 1e-6
    times = [json.loads(line) for line in (summary.out / "times.jsonl").read_text().splitlines()]
    assert len(times) == 4
    assert all(line["seconds_attack"] >= 0 and line["images"] == 5 for line in times)
    assert not any("seconds" in row for row in found)


def test_pairs_and_budgets(measure: Callable[..., Summary]) -> None:
    summary = measure(eps_def=4 / 255, eps_adv=2 / 255)
    assert [score.cell.defense for score in summary.scores] == ["none", "mcgs"]
    assert summary.scores[0].robust_gain is None
    assert summary.scores[1].robust_gain is not None
    assert (summary.settings["eps_def"], summary.settings["eps_adv"]) == (4 / 255, 2 / 255)
    assert max(row["defense_linf"] for row in rows(summary)) <= 4 / 255 + 1e-6
    assert max(row["attack_linf"] for row in rows(summary)) <= 2 / 255 + 1e-6
    long = measure(norm="L2", eps_adv=0.5)
    assert max(row["attack_l2"] for row in rows(long)) <= 0.5 + 1e-5
    assert max(row["attack_linf"] for row in rows(long)) > EPS
    with pytest.raises(UsageError, match="say how long an L2 attack may be"):
        measure(norm="L2")
    own = measure(attacks={"pgd": quick, "own": partial(pgd, steps=1, eps=0.5, norm="L2")})
    both = {row["attack"]: row for row in rows(own)}
    assert both["pgd"]["attack_linf"] <= EPS + 1e-6 < both["own"]["attack_linf"]
    assert both["own"]["attack_l2"] <= 0.5 + 1e-5
    with pytest.raises(UsageError, match=r"eps is 16, but images are in"):
        measure(attacks={"own": partial(pgd, eps=16)})


def test_summary_of_known_rows() -> None:
    def made(defense: str, reads: str) -> list[dict[str, Any]]:
        """One letter an image: w(rong before the attack), b(roken), f (broken, but not in 8 bits), r(obust)."""
        cell = Cell(defense, "none" if defense == "none" else "b", "none", "t", "square")
        return [
            {**vars(cell), "id": i, "label": 1, "before": 0 if c == "w" else 1, "after": 1 if c in "wr" else 0,
             "after_8bit": 0 if c == "b" else 1, "defense_linf": 0.5, "defense_l2": 1.0, "ssim": 0.5,
             "psnr": None if defense == "none" else 30.0 + i, "lpips": None,
             "attack_linf": 0.25, "attack_l2": float(i), "queries": 10 * i}
            for i, c in enumerate(reads)
        ]  # fmt: skip

    (none, mcgs), _ = summarise(made("none", "wwbbfr") + made("mcgs", "wrrbrr"))
    assert (none.n, none.clean_acc, none.robust_acc, none.robust_acc_8bit) == (6, 4 / 6, 1 / 6, 2 / 6)
    assert (mcgs.clean_acc, mcgs.robust_acc) == (5 / 6, 4 / 6)
    assert none.clean_interval == mspd.metrics.wilson(4, 6)
    assert none.clean_gain is None
    assert mcgs.clean_gain is not None
    assert mcgs.clean_gain[0] == pytest.approx(1 / 6)
    assert mcgs.robust_gain is not None
    assert mcgs.robust_gain[0] == pytest.approx(3 / 6)
    assert (none.queries, none.attack_l2) == (30, 3)  # of the images 2, 3 and 4, which were broken
    assert (mcgs.queries, mcgs.ssim) == (30, 0.5)
    assert (none.psnr, mcgs.psnr, mcgs.lpips) == (None, 32.5, None)


def test_defences_against_each_other(measure: Callable[..., Summary], tmp_path: Path) -> None:
    found = measure(defenses=["mcgs", "uniform", "gaussian"], out=tmp_path / "out")
    assert [(pair.first.defense, pair.second.defense) for pair in found.pairs] == [
        ("mcgs", "uniform"), ("mcgs", "gaussian"), ("uniform", "gaussian")
    ]  # fmt: skip
    robust = {
        name: torch.tensor(
            [row["before"] == row["label"] == row["after"] for row in rows(found) if row["defense"] == name]
        )
        for name in ("mcgs", "uniform")
    }
    pair = found.pairs[0]
    assert pair.n == 8
    assert pair.robust == mspd.metrics.paired_interval(robust["mcgs"], robust["uniform"])
    assert pair.robust_p == mspd.metrics.mcnemar(robust["mcgs"], robust["uniform"])
    assert json.loads((found.out / "summary.json").read_text())["pairs"][0]["second"]["defense"] == "uniform"
    page = (found.out / "summary.md").read_text()
    assert "| mcgs | uniform | none | " in page
    assert measure(out=tmp_path / "one").pairs == ()


def test_treatments(measure: Callable[..., Summary], preset: Preset) -> None:
    def grey(x: Tensor, *, generator: torch.Generator) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x)

    treatments = {"grey": grey, "white": "revert:white", "other": f"revert:{preset.targets[1]}"}
    summary = measure(treatments=treatments)
    cells = [(score.cell.defense, score.cell.treatment) for score in summary.scores]
    assert cells == [("none", "none"), ("none", "grey"),
                     *(("mcgs", t) for t in ("none", "grey", "white", "other"))]  # fmt: skip
    by = {(s.cell.defense, s.cell.treatment): s for s in summary.scores}
    assert by["mcgs", "white"].ssim != by["mcgs", "other"].ssim
    assert by["none", "grey"].ssim < 0.99
    clean = {k: [r["before"] == r["label"] for r in rows(summary) if (r["defense"], r["treatment"]) == k] for k in by}
    gain = np.mean(clean["mcgs", "grey"]) - np.mean(clean["none", "grey"])  # treated against treated
    assert by["mcgs", "grey"].clean_gain is not None
    assert by["mcgs", "grey"].clean_gain[0] == pytest.approx(gain)
    for wrong, line in (
        ("jpg", "unknown treatment 'jpg': choose one of none, .*jpeg, revert:white"),
        ("revert:gray", "for preset 'tiny'"),
    ):
        with pytest.raises(UsageError, match=line):
            measure(treatments=wrong)


def test_shipped_models(data: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = mspd.benchmark(
            data / "cifar10", tmp_path / "out", defenses={"mcgs": one}, attacks={"pgd": quick}, targets="rn18-cifar10",
            n=8, device="cpu",
        )  # fmt: skip
    assert [score.n for score in summary.scores] == [8, 8]
    assert summary.settings["preset"]["name"] == "cifar10"


# ---------------------------------------------------------------- whatever happens to the run

SCRIPT = '''
from functools import partial

import torch

import mspd
from mspd.presets import Preset


def shifted(model, x, y, *, eps, norm, generator):
    """A defence that draws from the global random state."""
    return (x + eps * (2 * torch.rand(1) - 1)).clamp(0, 1)


def drawn(model, x, y, *, eps, norm, generator):
    """An attack that draws from the global random state, the same for the whole piece."""
    return (x + eps * torch.randn(x.shape[1:]).sign()).clamp(0, 1)


def run(preset, pictures, out):
    return mspd.benchmark(
        pictures, out, preset=preset, device="cpu",
        defenses={"mcgs": partial(mspd.defenses.mcgs, n_samples=1), "shifted": shifted},
        attacks={"pgd": partial(mspd.attacks.pgd, steps=1), "drawn": drawn,
                 "square": partial(mspd.attacks.square, n_queries=3)},
    )


def main():
    torch.set_num_threads(1)
    loaded = torch.load("call.pt", weights_only=True)
    run(Preset(*loaded["preset"]), loaded["pictures"], "broken")
'''


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.filterwarnings("ignore:backbone .* hardly more than chance")
def test_kill_at_a_random_moment_then_resume(
    preset: Preset, pictures: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show 3: 3 defences (with none) x 2 targets x 3 attacks on 64 images."""
    (tmp_path / "the_grid.py").write_text(SCRIPT)
    pictures = pictures[0], torch.arange(64) % 4
    torch.save({"preset": tuple(vars(preset).values()), "pictures": pictures}, tmp_path / "call.pt")
    monkeypatch.syspath_prepend(str(tmp_path))
    script = find("script", "the_grid:run", {})
    broken, report = tmp_path / "broken", tmp_path / "broken" / "rows.jsonl"
    moment = random.SystemRandom().uniform(0, 36)  # in blocks of rows
    with subprocess.Popen(
        [sys.executable, "-c", "import the_grid; the_grid.main()"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if report.exists() and report.read_bytes().count(b"\n") >= 32 * int(moment):
                time.sleep(moment % 1 * 0.05)
                break
            time.sleep(0.001)
        process.kill()
        said = process.stderr.read() if process.stderr else b""
    killed_at = report.read_bytes().count(b"\n") if report.exists() else -1
    assert killed_at >= 0, said
    script(preset, pictures, broken)
    script(preset, pictures, tmp_path / "unbroken")
    assert len(rows(broken)) == 18 * 64
    same(broken, tmp_path / "unbroken")


def test_numbers_depend_neither_on_the_piece_nor_on_n(
    measure: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(measure(n=40))
    fewer = rows(measure(n=9))
    assert fewer == [row for row in whole if row["id"] < 9]
    for piece in (8, 64):
        monkeypatch.setattr(running, "PIECE", piece)
        found = rows(measure(n=40))
        assert sorted(found, key=str) == sorted(whole, key=str)


def test_torn_last_line(measure: Callable[..., Summary], tmp_path: Path) -> None:
    whole = measure(out=tmp_path / "whole", keep=True).out
    for cut in (1, 200, 3000):
        torn = shutil.copytree(whole, tmp_path / f"torn{cut}")
        for name in ("rows.jsonl", "times.jsonl"):
            (torn / name).write_bytes((torn / name).read_bytes()[:-cut])
        (torn / "summary.json").unlink()
        next((torn / "defended").rglob("*.png")).unlink()
        measure(out=torn, keep=True)
        same(whole, torn)


def test_nothing_is_computed_twice(measure: Callable[..., Summary], tmp_path: Path) -> None:
    calls: list[str] = []

    def counted_defense(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        calls.append("defense")
        return x

    def counted_attack(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        calls.append("attack")
        return x

    options = {
        "defenses": {"d": counted_defense},
        "attacks": {"a": counted_attack, "b": counted_attack},
        "targets": {"one": Broken("").eval(), "two": Broken("").eval()},
        "n": 40, "out": tmp_path / "out",
    }  # fmt: skip
    measure(**options)
    assert calls.count("defense") == 2  # one a piece, for two targets and two attacks
    assert calls.count("attack") == 2 * 2 * 2 * 2  # pieces, defences with none, targets, attacks
    calls.clear()
    measure(**options)
    assert calls == []


def test_bfloat16_is_for_the_attack_alone(measure: Callable[..., Summary]) -> None:
    models: list[nn.Module] = []

    def seen(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        models.append(model)
        return x

    rough = rows(measure(attacks={"seen": seen}, bfloat16=True))
    exact = rows(measure(attacks={"seen": seen}))
    assert rough == exact  # what reads the pictures is float32
    assert [isinstance(model, Rough) for model in models] == len(models) // 2 * [True] + len(models) // 2 * [False]
    with pytest.raises(UsageError, match="target fixed does not run in bfloat16"):
        measure(targets={"fixed": Fixed("").eval()}, bfloat16=True)


class Fixed(Broken):
    """Knows no type but float32."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        if x.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return logits


def test_rough_of_two_classes_and_of_large_logits() -> None:
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for classes, shift in ((2, 0.0), (4, 100.0)):
        torch.manual_seed(0)
        net = nn.Linear(3 * 16 * 16, classes)
        with torch.no_grad():
            net.bias += shift
        model = nn.Sequential(nn.Flatten(), net)
        assert torch.equal(Rough(model, "target")(x).argmax(1), model(x).argmax(1))


def test_settings_that_are_not_in_the_name() -> None:
    def made(value: float) -> Callable[..., Tensor]:
        return lambda model, x, y, **_: x + value

    assert function_identity(made(0.0)) != function_identity(made(0.1))
    assert function_identity(made(0.1)) == function_identity(made(0.1))
    assert model_identity(nn.Sequential(nn.ReLU())) != model_identity(nn.Sequential(nn.SiLU()))
    first, second = Broken(""), Broken("")
    assert model_identity(first) == model_identity(second)
    second.how = "random"
    assert model_identity(first) != model_identity(second)


class Held:
    """An attack with settings in all places that a class can have them."""

    def __init__(self, value: float, where: str) -> None:
        holder = {"private": {"_steps": value}, "dict": {"cfg": {"steps": [value]}}, "object": {"cfg": Path()}}[where]
        if where == "object":
            holder = {"cfg": Other(value, self)}
        vars(self).update(holder)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        return x


class Other:
    def __init__(self, value: float, user: Held) -> None:
        self.value, self.user = value, user


@pytest.mark.parametrize("where", ["private", "dict", "object"])
def test_settings_that_are_hidden(where: str) -> None:
    """In private names, in lists and dicts, in objects that lead back to their holder; of functions and of modules."""
    one, same, two = (Held(value, where) for value in (1.0, 1.0, 2.0))
    assert function_identity(one) == function_identity(same) != function_identity(two)
    assert function_identity(one.__call__) == function_identity(same.__call__) != function_identity(two.__call__)
    assert function_identity(partial(pgd, loss=one)) != function_identity(partial(pgd, loss=two))
    modules = [Broken("") for _ in range(3)]
    for module, held in zip(modules, (one, same, two), strict=True):
        module._held, module._own = (held,), module.forward  # type: ignore[assignment]
    first, again, other = map(model_identity, modules)
    assert first == again != other


def test_an_attacker_does_not_draw_what_the_defender_drew(measure: Callable[..., Summary]) -> None:
    """A defence that draws from its generator, or from the global state, itself: the same numbers would undo it."""

    def own(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, generator: torch.Generator) -> Tensor:
        return (x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)

    def common(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, generator: torch.Generator) -> Tensor:
        return (x + eps * (2 * torch.rand(x.shape) - 1)).clamp(0, 1)

    summary = measure(defenses={"own": own, "common": common}, treatments="revert:white")
    for row in rows(summary):
        if row["treatment"] != "none":
            assert row["defense_l2"] > 0.05, row["defense"]


def test_an_entry_called_none(measure: Callable[..., Summary]) -> None:
    with pytest.raises(UsageError, match="an entry of the treatment axis is called 'none'"):
        measure(treatments={"none": lambda x, generator: x})


def test_gains_over_the_pictures_that_both_have(measure: Callable[..., Summary], tmp_path: Path) -> None:
    measure(n=40, defenses="none", out=tmp_path / "out")
    part = measure(n=32, out=tmp_path / "out")
    assert [score.n for score in part.scores] == [40, 32]
    assert part.scores[1].robust_gain is not None
    lines = (part.out / "summary.md").read_text().splitlines()
    assert [line.split(" | ")[5] for line in lines if line.startswith(("| none", "| mcgs"))] == ["40", "32"]


def test_rough_tells_small_leads_in_float32() -> None:
    net = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [1.001, 0.0], [-1.0, 4.0]]))  # 1.001 is 1 in bfloat16
    rough = Rough(nn.Sequential(nn.Flatten(), net), "target")
    x = torch.tensor([[1.0, 0.2], [1.0, 0.9]]).view(2, 1, 1, 2).repeat(20, 1, 1, 1)
    logits = rough(x)
    assert torch.equal(rough.quick(x)[0, :2], torch.ones(2))
    assert torch.equal(logits[0], rough.exact(x[:1])[0])
    assert logits[0].argmax() == 1
    assert torch.equal(logits[1], rough.quick(x)[1])  # class 2 leads by far
    assert torch.equal(rough(x[:3]), logits[:3])
    z = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(rough(z)[:, 1].sum(), z)
    assert torch.equal(gradient[:, 0, 0, 0], torch.ones(40))


@pytest.mark.parametrize("n", [3, 32, 37])
def test_the_first_images_now_the_others_later(measure: Callable[..., Summary], tmp_path: Path, n: int) -> None:
    whole = measure(n=40, out=tmp_path / "whole")
    part = measure(n=n, out=tmp_path / "grown")
    assert [row["id"] for row in rows(part) if row["defense"] == "none"] == list(range(n))
    grown = measure(n=40, out=tmp_path / "grown")
    assert sorted(map(str, rows(grown))) == sorted(map(str, rows(whole)))
    for file in ("settings.json", "summary.json", "summary.md"):
        assert (grown.out / file).read_bytes() == (whole.out / file).read_bytes()
    before = (grown.out / "rows.jsonl").read_bytes()
    again = measure(n=n, out=tmp_path / "grown")
    assert ((grown.out / "rows.jsonl").read_bytes(), again) == (before, grown)


def test_other_images_in_the_same_folder(
    measure: Callable[..., Summary], pictures: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    measure(n=8, out=tmp_path / "out")
    before = (tmp_path / "out" / "settings.json").read_bytes()
    x, y = pictures
    other = x.clone()
    other[5, 0, 0, 0] = (other[5, 0, 0, 0] * 255 + 1) % 256 / 255
    refusal = r"belongs to a run with other settings \(images\)"
    for data, n in (((other, y), 6), ((other, y), 9), ((x, (y + 1) % 4), 8), ((x[1:], y[1:]), 8)):
        with pytest.raises(UsageError, match=refusal):
            measure(data=data, n=n, out=tmp_path / "out")
    assert (tmp_path / "out" / "settings.json").read_bytes() == before
    measure(data=(other, y), n=5, out=tmp_path / "out")


def test_stop_keeps_what_is_done(measure: Callable[..., Summary], tmp_path: Path) -> None:
    """Ctrl-C within the second piece."""
    presses = [False, False, True]

    def attack(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        if presses and presses.pop(0):
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        measure(out=tmp_path / "a", n=40, attacks={"a": attack})
    assert len(rows(tmp_path / "a")) == 2 * 32
    assert not (tmp_path / "a" / "summary.json").exists()
    presses.clear()
    same(measure(out=tmp_path / "a", n=40, attacks={"a": attack}).out, measure(n=40, attacks={"a": attack}).out)


def test_other_settings_in_the_same_folder(measure: Callable[..., Summary], tmp_path: Path) -> None:
    out = tmp_path / "out"
    measure(out=out)
    before = (out / "rows.jsonl").read_bytes()
    for change, named_so in (
        ({"seed": 1}, "seed"), ({"eps_adv": 4 / 255}, "eps_adv"), ({"keep": True}, "keep"),
        ({"bfloat16": True}, "bfloat16"),
        ({"attacks": {"pgd": partial(pgd, steps=2)}}, "attacks"), ({"defenses": {"mcgs": mcgs}}, "defenses"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=rf"belongs to a run with other settings \({named_so}\); choose another"):
            measure(out=out, **change)
    assert (out / "rows.jsonl").read_bytes() == before


def test_axes_grow_in_the_same_folder(measure: Callable[..., Summary], tmp_path: Path) -> None:
    calls: list[int] = []

    def other(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        calls.append(len(x))
        return x

    out = tmp_path / "out"
    before = rows(measure(out=out))
    grown = measure(out=out, attacks={"other": other}, treatments={"white": "revert:white"})
    assert rows(grown)[: len(before)] == before
    assert len(calls) == 3  # none, mcgs, mcgs reverted
    assert list(grown.settings["attacks"]) == ["pgd", "other"]
    assert {score.cell.attack for score in grown.scores} == {"pgd", "other"}
    measure(out=out, attacks={"pgd": quick, "other": other}, treatments={"white": "revert:white"})
    assert len(calls) == 3
    assert len(list((out / "treated").rglob("*.png"))) == 8
    with pytest.raises(UsageError, match=r"other settings \(attacks\)"):
        measure(out=out, attacks={"pgd": partial(pgd, steps=2)})


def test_true_labels(measure: Callable[..., Summary], pictures: tuple[Tensor, Tensor]) -> None:
    aims = []

    def watched(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        aims.append(y)
        return x

    for labels in ("truth", "classifier"):
        measure(defenses=watched, labels=labels)
    assert torch.equal(aims[0][:8], pictures[1][:8])
    assert not torch.equal(aims[0], aims[1])
    with pytest.raises(UsageError, match="labels is 'mine': use classifier or truth"):
        measure(labels="mine")
    with pytest.raises(UsageError, match="seed is -1: it must be an int from 0 to"):
        measure(seed=-1)


def test_purified_target_is_attacked_without_its_purifier(measure: Callable[..., Summary]) -> None:
    linear = Broken("").eval()
    seen = []

    def grey(x: Tensor, *, generator: torch.Generator) -> Tensor:
        return x.mean((1, 2, 3), keepdim=True).expand_as(x)

    def attack(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        seen.append(torch.allclose(model(x), linear(x), atol=1e-4))
        return x

    summary = measure(targets={"bare": linear, "behind": Purified(linear, grey)}, attacks=attack)
    assert seen == [True] * 4
    found = rows(summary)
    bare, behind = ([r["before"] for r in found if r["target"] == t] for t in ("bare", "behind"))
    assert bare != behind
    assert summary.settings["targets"]["behind"].startswith(summary.settings["targets"]["bare"] + " behind ")
    assert "grey" in summary.settings["targets"]["behind"]


def test_folder_of_somebody_else(measure: Callable[..., Summary], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and not a benchmark's folder"):
        measure(out=theirs)
    assert [path.name for path in theirs.iterdir()] == ["letter.txt"]
    (theirs / "settings.json").write_text('{"editor.fontSize": 12}')
    with pytest.raises(UsageError, match="not the settings of such a benchmark"):
        measure(out=theirs)
    assert sorted(path.name for path in theirs.iterdir()) == ["letter.txt", "settings.json"]
    damaged = measure(out=tmp_path / "damaged").out
    (damaged / "rows.jsonl").write_bytes(b"no JSON\n")
    with pytest.raises(UsageError, match=r"rows\.jsonl: damaged"):
        measure(out=damaged)
    for text in ("no JSON", "{}", "3"):
        (damaged / "settings.json").write_text(text)
        with pytest.raises(UsageError, match=r"settings\.json: not the settings of such a benchmark"):
            measure(out=damaged)


def test_folder_without_results_is_free(measure: Callable[..., Summary], tmp_path: Path) -> None:
    """An attack that failed at once, and then was repaired: the same folder will do."""
    with pytest.raises(InputError, match="attack <lambda> returns shape"):
        measure(out=tmp_path / "out", attacks=lambda model, x, y, **_: x[:, :2])
    measure(out=tmp_path / "out", attacks=lambda model, x, y, **_: x)


def test_time_left_is_said(measure: Callable[..., Summary], capsys: pytest.CaptureFixture[str]) -> None:
    measure(n=40)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 cells x 40 images, in pieces of 32: 4 of 4 to measure; timing the first"
    assert lines[1].startswith("about ")
    assert [running._duration(s) for s in (8.2, 300, 7200)] == ["8 s", "5 min", "2.0 h"]


# ---------------------------------------------------------------- one line for each misuse


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("probabilities", "target bad returns probabilities: pass it without its softmax"),
        ("nan", "target bad returns NaN or infinite logits"),
        ("features", "target bad returns shape (8, 3, 16, 16): it must return logits (8, classes)"),
        ("one", "target bad returns shape (8,)"),
        ("takes 8", "target bad does not take images (8, 3, 16, 16)"),
    ],
)
def test_models_outside_the_contract(measure: Callable[..., Summary], how: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        measure(targets={"bad": Broken(how).eval()})
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("random", "target odd answers the same images differently when asked twice"),
        ("flat", "target odd has no gradient at 8 of 8 images: gradient attacks see nothing there"),
        ("detached", "target odd has no gradient at 8 of 8 images"),
        ("train mode", "target odd is in train mode: it is measured in evaluation mode"),
    ],
)
def test_doubtful_models(measure: Callable[..., Summary], how: str, line: str) -> None:
    model = Broken(how).train(how == "train mode")

    def still(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        return x

    with pytest.warns(UserWarning, match="target odd") as caught:
        measure(targets={"odd": model}, attacks=still)
    assert [line in str(warning.message) for warning in caught] == [True]
    assert model.training is (how == "train mode")


@pytest.mark.parametrize("given", [{"eps": 2 / 255}, {"norm": "L2"}])
def test_a_defence_with_a_budget_of_its_own_is_refused(measure: Callable[..., Summary], given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="all defences of a call have one Linf budget: leave it out and set eps_def"):
        measure(defenses={"mine": partial(one, **given)})


class Swapped(nn.Module):
    """A model whose classes are in another order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits.roll(1, 1)


def test_a_backbone_with_its_classes_in_another_order(measure: Callable[..., Summary]) -> None:
    with pytest.warns(UserWarning, match=r"backbone linear reads .*are its classes in the order of the classifier's\?"):
        measure(backbones={"linear": Swapped(Broken(""))}, n=64)


class Half(nn.Module):
    """A model that answers in bfloat16, and flattens by a view, which takes no channels-last pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        logits: Tensor = self.last(features.view(len(features), -1)).to(torch.bfloat16)
        return logits


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore:The .grad attribute of a Tensor that is not")
def test_models_that_flatten_by_a_view_and_answer_in_bfloat16(measure: Callable[..., Summary]) -> None:
    model = Half().eval()
    scripted = torch.jit.script(model)
    summary = measure(targets={"plain": model, "scripted": scripted}, backbones={"half": Half()})
    robust = {t: [row["after"] for row in rows(summary) if row["target"] == t] for t in ("plain", "scripted")}
    assert len(robust["plain"]) == 16
    assert robust["plain"] == robust["scripted"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_target_is_known_again(measure: Callable[..., Summary], tmp_path: Path) -> None:
    compiled = torch.compile(Broken("").eval(), backend="eager")
    first = measure(targets={"linear": compiled}, out=tmp_path / "out")
    again = measure(targets={"linear": compiled}, out=tmp_path / "out", n=16)
    assert rows(again)[: len(rows(first))] == rows(first)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated", "ignore:The .grad attribute of a Tensor that is not")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec")
def test_exported_and_frozen_targets_are_measured_as_they_are(measure: Callable[..., Summary]) -> None:
    model = Broken("").net.eval()
    size = {0: torch.export.Dim("size", min=1, max=512)}
    exported = torch.export.export(model, (torch.zeros(8, 3, 16, 16),), dynamic_shapes=(size,)).module()
    targets = {
        "plain": model,
        "exported": exported,
        "inside": nn.Sequential(exported, nn.Dropout()),
        "frozen": torch.jit.freeze(torch.jit.script(model)),
    }
    summary = measure(targets=targets)
    read = {name: [row["after"] for row in rows(summary) if row["target"] == name] for name in targets}
    assert read == dict.fromkeys(targets, read["plain"])


def test_random_model_gives_the_same_rows(measure: Callable[..., Summary]) -> None:
    with pytest.warns(UserWarning, match="asked twice"):
        a, b = (measure(targets={"odd": Broken("random").eval()}) for _ in range(2))
    same(a.out, b.out)


def test_devices_and_types(measure: Callable[..., Summary]) -> None:
    with pytest.raises(InputError, match=r"target far is on meta, the images are on cpu: move one of them"):
        measure(targets={"far": Broken("").eval().to("meta")})
    with pytest.raises(InputError, match=r"target half is torch\.bfloat16: verdicts are float32"):
        measure(targets={"half": Broken("").eval().bfloat16()})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x, y: (x * 255, y), "x ranges over [0, 255], not [0, 1]: divide by 255"),
        (lambda x, y: (x * 4 - 2, y), "not [0, 1]: undo the normalisation"),
        (lambda x, y: (x * torch.nan, y), "x contains NaN or infinite values"),
        (lambda x, y: ((x * 255).byte(), y), "x is torch.uint8: pass floats in [0, 1]"),
        (lambda x, y: (x, y.float()), "y is torch.float32"),
        (lambda x, y: (x, y[:7]), "y is torch.int64 of shape (7,)"),
        (
            lambda x, y: (x, torch.where(torch.arange(len(y)) == 7, 9, y)),
            "label 9 is outside target linear's 4 classes",
        ),
        (lambda x, y: (x, y - 1), "label -1 is outside target linear's 4 classes"),
    ],
)
def test_images_and_labels_outside_the_contract(
    measure: Callable[..., Summary],
    pictures: tuple[Tensor, Tensor],
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    line: str,
) -> None:
    x, y = pictures
    with pytest.raises(InputError) as caught:
        measure(data=change(x[:64], y[:64]), n=64 if "label 9" in line else 8)
    assert line in str(caught.value)


@pytest.mark.filterwarnings("ignore:backbone .* hardly more than chance")
def test_wrong_labels_and_normalised_images(
    measure: Callable[..., Summary], pictures: tuple[Tensor, Tensor], preset: Preset, tmp_path: Path
) -> None:
    """Labels in another order than the model's classes; and a model that reads far less than its card says."""
    x, model = pictures[0], load_model(preset.targets[0])
    with torch.no_grad():
        right = model(x).argmax(1)
    other = (right + 1) % 4
    mostly = torch.where(torch.arange(64) % 4 == 0, other, right)
    with pytest.raises(InputError, match=r"target \S+ reads 0\.0% of the images right, below chance for 4 classes"):
        measure(data=(x, other), n=64, targets=preset.targets[0])
    card = {"architecture": "wide_resnet", "arguments": {"num_classes": 4, "depth": 10, "width": 1}, "classes": CLASSES}
    save_model(model, tmp_path / "sure.safetensors", {**card, "clean_acc": 0.99})
    with pytest.warns(
        UserWarning, match=r"reads 75\.0% of the images right, its card says 99\.0%: are the images norm"
    ):
        measure(data=(x, mostly), targets=tmp_path / "sure.safetensors", n=64)


def test_pictures_of_other_classes(
    call: Callable[..., tuple[int, str, str]], preset: Preset, pictures: tuple[Tensor, Tensor], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The classes of the data are those of the classifier, the targets and the reversions, as far as they are known."""
    x, y = (part[:8] for part in pictures)
    x = (x * 255).round().to(torch.uint8)
    other, nameless = tmp_path / "other.safetensors", tmp_path / "nameless.safetensors"
    card = card_of(preset.targets[0])
    save_model(load_model(preset.targets[0]), other, {**card, "classes": ["ant", "cat", "bee", "dog"]})
    save_model(load_model(preset.targets[0]), nameless, {**card, "classes": ["0", "1", "2", "3"]})

    def measure(classes: tuple[str, ...], **options: Any) -> Summary:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return mspd.benchmark(
            ImageSet(x, y, classes), out, preset=preset, defenses={"mcgs": one}, attacks={"pgd": quick}, device="cpu",
            **options,
        )  # fmt: skip

    line = f"the pictures do not fit: class 0 is 'cow', classifier {preset.classifier}'s is 'ant'; take pictures of its"
    with pytest.raises(UsageError, match=re.escape(line)):
        measure(("cow", "bee", "cat", "dog"))
    with pytest.raises(UsageError, match=f"class 1 is 'bee', target {other}'s is 'cat'"):
        measure(tuple(CLASSES), targets=other)
    with pytest.raises(UsageError, match=f"class 1 is 'bee', treatment revert:{other}'s is 'cat'"):
        measure(tuple(CLASSES), treatments=f"revert:{other}")
    measure((), targets=preset.targets[0])
    measure(tuple(CLASSES), targets=[preset.targets[0], nameless])
    (tmp_path / "pictures" / "test" / "bee").rename(tmp_path / "pictures" / "test" / "cow")
    capsys.readouterr()
    code, _, err = call("--data", "pictures", "-o", "out")
    assert code == 2
    assert re.fullmatch(r"mspd: the pictures do not fit: class 1 is 'cat', classifier \S+'s is 'bee'; take .*\n", err)
    assert not (tmp_path / "out").exists()


def test_a_reversion_needs_the_classifiers_classes_whatever_is_known_of_the_pictures(
    measure: Callable[..., Summary],
) -> None:
    with pytest.raises(UsageError, match="4 classes, treatment revert:prn18-photo has 100"):
        measure(treatments="revert:prn18-photo")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"images": torch.rand(8, 3, 16, 16)},
            r"the images of the ImageSet are torch\.float32 of shape \(8, 3, 16, 16\)",
        ),
        ({"images": torch.zeros(8, 1, 16, 16, dtype=torch.uint8)}, r"it holds uint8 \(N, 3, H, W\)"),
        ({"labels": torch.zeros(7, dtype=torch.int64)}, r"pass integer labels \(8,\) as int64"),
        ({"labels": [0] * 8}, r"y is a list: pass integer labels"),
    ],
)
def test_image_sets_outside_the_contract(
    change: dict[str, Any], line: str, preset: Preset, pictures: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    good = ImageSet((pictures[0][:8] * 255).byte(), pictures[1][:8], ())
    with pytest.raises(InputError, match=line):
        mspd.benchmark(replace(good, **change), tmp_path / "out", preset=preset, device="cpu")


def test_lpips_is_left_out_where_the_pictures_are_too_small_for_it(
    measure: Callable[..., Summary], preset: Preset
) -> None:
    with pytest.warns(
        UserWarning, match="the images are 16 x 16 pixels, the models of preset tiny are made for 32 x 32"
    ):
        summary = measure(preset=replace(preset, size=32), backbones=preset.backbone)
    assert all(score.lpips is None for score in summary.scores)


def test_folders_in_the_order_of_the_classifier(
    call: Callable[..., tuple[int, str, str]], preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's label is the place of its name among the classifier's classes, not in the alphabet."""
    backwards = CLASSES[::-1]
    names = []
    for number, name in enumerate((preset.classifier, preset.backbone, preset.targets[0])):
        names.append(str(tmp_path / f"{number}.safetensors"))
        save_model(load_model(name), names[-1], {**card_of(name), "classes": backwards})
    reversed_ = replace(preset, classifier=names[0], backbone=names[1], targets=(names[2],))
    monkeypatch.setitem(PRESETS, "tiny", reversed_)
    code, _, err = call("--data", "pictures", "-o", "out", "--defense", "uniform", "--attack", "mine:still")
    assert code == 0, err
    counts = [len(list((tmp_path / "pictures" / "test" / name).iterdir())) for name in backwards]
    labels = [row["label"] for row in rows(tmp_path / "out") if row["defense"] == "none"]
    assert [labels.count(label) for label in range(4)] == counts
    assert counts != counts[::-1]


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (lambda x, eps: x[:3], "bad returns shape (3, 3, 16, 16): it must keep x's (32, 3, 16, 16)"),
        (lambda x, eps: x.double(), "bad returns torch.float64: it must keep x's torch.float32"),
        (lambda x, eps: x.numpy(), "bad returns a ndarray"),
        (lambda x, eps: x.to("meta"), "bad returns a tensor on meta"),
        (lambda x, eps: x * torch.nan, "bad returns NaN or infinite values"),
        (lambda x, eps: x + eps, "clamp them to [0, 1]"),
        (
            lambda x, eps: (x + 1.5 * eps).clamp(0, 1),
            "bad leaves the Linf ball: image 1 of the piece moves by 12/255, ",
        ),
    ],
)
@pytest.mark.parametrize("axis", ["attacks", "defenses"])
def test_results_outside_the_contract(
    measure: Callable[..., Summary], axis: str, result: Callable[[Tensor, float], Tensor], line: str
) -> None:
    def bad(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, generator: torch.Generator) -> Tensor:
        return result(x, eps)

    x = (250 - 9 * torch.arange(8.0).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)) / 255
    with pytest.raises(InputError) as caught:
        measure(**{axis: bad}, data=(x, torch.arange(8) % 4))
    assert line in str(caught.value)
    assert str(caught.value).startswith(axis[:-1])


def test_l2_ball(measure: Callable[..., Summary]) -> None:
    def far(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, generator: torch.Generator) -> Tensor:
        return (x + 0.1).clamp(0, 1)

    with pytest.raises(InputError, match=r"attack far leaves the L2 ball: .* eps is 0\.5"):
        measure(attacks=far, norm="L2", eps_adv=0.5)


def test_purifier_outside_the_contract(measure: Callable[..., Summary]) -> None:
    with pytest.raises(InputError, match="treatment smaller returns shape"):
        measure(treatments={"smaller": lambda x, generator: x[:, :, :8]})


@pytest.mark.parametrize("which", ["eps_def", "eps_adv"])
def test_budget_of_8(measure: Callable[..., Summary], which: str) -> None:
    with pytest.raises(UsageError, match=r"eps is 8, but images are in .* did you mean 8/255"):
        measure(**{which: 8})


def test_inputs_are_not_changed(measure: Callable[..., Summary], pictures: tuple[Tensor, Tensor]) -> None:
    """An attack that changes its input in place: the ball is the one around what it was given."""

    def sly(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, generator: torch.Generator) -> Tensor:
        return x.fill_(0.5)

    with pytest.raises(InputError, match="attack sly leaves the Linf ball"):
        measure(attacks=sly)
    state, x = torch.random.get_rng_state(), pictures[0].clone()
    measure()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(pictures[0], x)


# ---------------------------------------------------------------- foreign code


def test_functions_by_place(measure: Callable[..., Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside.py").write_text(
        "number = 3\n"
        "def still(model, x, y, *, eps, norm, generator):\n    return x\n"
        "def narrow(model, x, y):\n    return x\n"
    )
    (tmp_path / "slipped.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    summary = measure(defenses="outside:still", attacks=["outside:still", "pgd"])
    assert summary.scores[-1].cell.defense == "outside:still"
    assert all(row["defense_linf"] == 0 for row in rows(summary))
    for name, line in (
        ("nowhere:f", "'nowhere' cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
        ("slipped:f", "'slipped' cannot be imported (SyntaxError: "),
        ("outside:f", "module 'outside' has no function 'f'"),
        ("outside:number", "module 'outside' does not call its function 'number'"),
        ("outside:narrow", "cannot be called as attack(model, x, y, eps=, norm=, generator=): "),
        ("fast", "unknown attack 'fast': choose one of pgd"),
        (3, "attack 'int' is a int: pass a name or a function"),
    ):
        with pytest.raises(UsageError) as caught:
            measure(attacks=[name])
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


def test_names_of_an_axis() -> None:
    assert list(named("attack", "pgd")) == ["pgd"]
    assert list(named("attack", [pgd, "square"])) == ["pgd", "square"]
    assert list(named("target", Broken(""))) == ["Broken"]
    assert list(named("target", Path("a/b.safetensors"))) == ["a/b.safetensors"]
    with pytest.raises(UsageError, match="two entries of the attack axis are called 'pgd'"):
        named("attack", [pgd, quick])
    with pytest.raises(UsageError, match="no target given"):
        named("target", [])


def test_identity_tells_functions_apart() -> None:
    a, b = (function_identity(partial(pgd, steps=steps)) for steps in (1, 2))
    assert a != b
    assert a == function_identity(quick)
    assert function_identity(partial(pgd, loss=Broken(""))) != function_identity(partial(pgd, loss=Broken("").half()))
    assert " at 0x" not in function_identity(partial(pgd, steps=object()))
    for name in ("unet-cifar10", "wrn16-2-cifar10"):
        assert str(card_of(name)["sha256"])[:12] in function_identity(partial(diffpure, surrogate="wrn16-2-cifar10"))


def test_identity_changes_with_what_a_function_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    before = function_identity(mcgs)
    own, other = inspect.getsource, inspect.getmodule(smoothed_epoch)
    monkeypatch.setattr(inspect, "getsource", lambda item: own(item) + ("# changed" if item is other else ""))
    assert function_identity(mcgs) != before


OWN = """
import torch
import own_helper as helpers
STRENGTH = 0.1

def defense(model, x, y, *, eps, norm, generator, strength=STRENGTH):
    from own_other import stronger
    return stronger(helpers.faded(x), strength)

class Net(torch.nn.Module):
    def forward(self, x):
        return x

if __name__ == "__main__":
    found = print(defense, 100)
"""
FILES = {
    "own.py": OWN,
    "own_helper.py": "from own_pack.part import faded",
    "own_pack/__init__.py": "",
    "own_pack/part.py": "from .inner import HALF\ndef faded(x): return x * HALF",
    "own_pack/inner.py": "HALF = 0.5",
    "own_other.py": "def stronger(x, strength): return x + strength",
}


def identities_of(folder: Path, main: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Of the defence and the model in own.py, as a module or as the script that runs."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(folder)
        if main:
            own = types.ModuleType("__main__")
            own.__file__ = str(folder / "own.py")
            patch.setitem(sys.modules, "__main__", own)
            exec(compile((folder / "own.py").read_text(), own.__file__, "exec"), vars(own))
        else:
            own = importlib.import_module("own")
        try:
            found = function_identity(own.defense), model_identity(own.Net())
            assert "own_other" not in sys.modules, "what a function imports when it is called is not imported for this"
            return found
        finally:
            for name in [name for name in sys.modules if name.startswith("own")]:
                del sys.modules[name]


@pytest.mark.parametrize("main", [False, True])
@pytest.mark.parametrize(
    ("file", "old", "new", "of_module", "of_script"),
    [
        ("own.py", "", "", False, False),
        ("own.py", "STRENGTH = 0.1", "STRENGTH = 0.2", True, True),
        ("own.py", "strength=STRENGTH", "strength=0.3", True, True),
        ("own.py", "return x", "return 1 - x", True, True),
        ("own.py", "defense, 100", "defense, 200", True, False),
        ("own_other.py", "x + strength", "x - strength", True, True),
        ("own_pack/inner.py", "0.5", "0.6", True, True),
        ("own_pack/__init__.py", "", "SIDE = 1", True, True),
    ],
)
def test_identity_changes_with_the_users_own_code(
    file: str, old: str, new: str, of_module: bool, of_script: bool, main: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for folder in ("a", "b"):
        for name, text in FILES.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    changed = tmp_path / "b" / file
    changed.write_text(FILES[file].replace(old, new))
    first, second = (identities_of(tmp_path / folder, main, monkeypatch) for folder in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert (one != other) is (of_script if main else of_module)
    assert first == identities_of(tmp_path / "a", main, monkeypatch)


TYPED = """
def f(model, x, y, **_):
    return torch.sin(x) + 1 if y in {'a', 'b'} else (lambda q: q * 2)(x)
class C:
    def __call__(self, model, x, y, **_):
        return torch.sin(x) + 1 if y in {'a', 'b'} else (lambda q: q * 2)(x)
"""


def test_identity_of_code_that_is_in_no_file() -> None:
    spaces: list[dict[str, Any]] = [{"__name__": "__main__"} for _ in range(3)]
    for old, new in (("+ 1", "- 1"), ("torch.sin", "torch.cos"), ("q * 2", "q * 3"), ("'a', 'b'", "'a', 'c'")):
        for space, text in zip(spaces, (TYPED, TYPED.replace(old, new), TYPED), strict=True):
            exec(text, space)
        for name in ("f", "C"):
            first, second, third = (function_identity(space[name]) for space in spaces)
            assert first == third != second, (name, new)


READING = """
import torch
SHIFT, NOTES, CALLS = torch.tensor([0.1]), {}, 0
class Base:
    strength = torch.tensor([1.0])
    @property
    def lead(self):
        return 1
    @staticmethod
    def faded(x):
        return x * SHIFT
if True:
    class Tinted(Base):
        def __call__(self, model, x, y, **_):
            return x + self.lead
    def tint(x):
        return x + SHIFT if len(NOTES) else tint(x * 2)
    def noted(model, x, y, strength=0.5, **_):
        global CALLS
        CALLS += 1
        NOTES[CALLS] = strength
        return [tint(x) for _ in range(1)][0]
f, g, h = noted, Tinted(), lambda model, x, y, **_: torch.sin(x) + 1
"""


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("tensor([0.1])", "tensor([0.2])", "fg"),
        ("len(NOTES) else tint(x * 2)", "len(NOTES) else tint(x * 3)", "f"),
        ("strength=0.5", "strength=0.6", "f"),
        ("return 1", "return 2", "g"),
        ("tensor([1.0])", "tensor([1.5])", "g"),
        ("return x * SHIFT", "return x / SHIFT", "g"),
        ("torch.sin", "torch.cos", "h"),
        ("NOTES, CALLS = torch.tensor([0.1]), {}, 0", "NOTES, CALLS = torch.tensor([0.1]), {}, 5", ""),
        ("f, g, h", "f, g,  h", ""),
    ],
)
def test_identity_of_what_a_script_reads(
    old: str, new: str, changed: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file only Base is a definition at the top, and nothing is a constant; in a notebook there is no file."""
    found = []
    for folder, text in (("a", READING), ("b", READING.replace(old, new)), ("c", READING)):
        own = types.ModuleType("__main__")
        if named:
            own.__file__ = str(tmp_path / folder / "own.py")
            (tmp_path / folder).mkdir()
            Path(own.__file__).write_text(text)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "__main__", own)
            exec(compile(text, "own.py", "exec"), vars(own))
            found.append({name: function_identity(vars(own)[name]) for name in "fgh"})
            vars(own)["f"](None, torch.zeros(1), None)
            assert function_identity(vars(own)["f"]) == found[-1]["f"]
    first, second, third = found
    assert first == third
    if not (named and old.startswith(("return 1", "return x", "tensor([1"))):  # of Base, the text counts for all three
        assert {name for name in "fgh" if first[name] != second[name]} == set(changed)


def test_identity_of_large_and_odd_settings() -> None:
    grid = np.zeros((64, 64))
    other = grid.copy()
    other[32, 32] = 1
    assert function_identity(partial(pgd, loss=grid)) != function_identity(partial(pgd, loss=other))
    halves = [torch.full((2,), value, dtype=torch.bfloat16) for value in (0.0, 1.0)]
    assert len({function_identity(partial(pgd, loss=each)) for each in (*halves, torch.tensor(1.0))}) == 3
    assert "{1: 2, a: 3}" in function_identity(partial(pgd, loss={"a": 3, 1: 2}))
    assert "{'a', 'b'}" in function_identity(partial(pgd, loss=frozenset("ba")))


def test_one_run_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    settings = {"images": [], **{axis: {} for axis in GROWING}}
    busy = "another run is writing here; wait for it or choose another folder"
    with Store(tmp_path / "out", settings), pytest.raises(UsageError, match=busy):
        Store(tmp_path / "out", settings)
    with Store(tmp_path / "out", settings) as store:
        assert store.rows == []


def test_reading_leaves_what_another_run_is_writing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 0}\n{"id"')
    assert read_lines(path) == [{"id": 0}]
    assert path.read_bytes() == b'{"id": 0}\n{"id"'


def test_run_killed_as_it_began(tmp_path: Path) -> None:
    settings = {"images": [], **{axis: {} for axis in GROWING}}
    (tmp_path / "rows.jsonl").touch()
    with Store(tmp_path, settings) as store:
        assert store.rows == []
    other = tmp_path / "other"
    other.mkdir()
    (other / "rows.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="is not empty and not a benchmark's folder"):
        Store(other, settings)


def test_rounding_stays_in_the_ball() -> None:
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(200).add(25).round() / 255
    x_adv = project(x + 0.1, x, 0.5, "L2")  # 4.6 grey levels everywhere
    rounded = _rounded(x_adv, x, 0.5, "L2")
    assert (l2(rounded, x) <= 0.5).all()
    assert (l2((x_adv * 255).round() / 255, x) > 0.5).any()  # the nearest values would leave it
    assert torch.equal((rounded * 255).round() / 255, rounded)
    assert ((rounded - x_adv).abs() * 255 < 1.001).all()


def test_queries_are_counted(measure: Callable[..., Summary]) -> None:
    def asking(
        model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, generator: torch.Generator,
        queries: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        assert queries is not None
        queries.copy_(torch.arange(len(x)))
        return x

    assert [row["queries"] for row in rows(measure(attacks=asking))] == list(range(8)) * 2


def test_models_of_all_kinds(measure: Callable[..., Summary], preset: Preset, tmp_path: Path) -> None:
    target = Path(preset.targets[0])
    summary = measure(targets=[target, Broken("").eval()], backbones={"mine": Broken(""), "other": preset.targets[1]})
    assert {score.cell.target for score in summary.scores} == {str(target), "Broken"}
    assert {score.cell.backbone for score in summary.scores} == {"none", "mine", "other"}
    with pytest.raises(MspdError, match="unknown model 'wrn'"):
        measure(targets="wrn")


class FakeTorchattack:
    """As torchattacks.PGD: built for a model and eps, called with images and labels; draws from the global state."""

    def __init__(self, model: nn.Module, eps: float = 8 / 255, alpha: float = 2 / 255) -> None:
        self.model, self.eps, self.alpha = model, eps, alpha

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        assert not self.model.training
        assert next(self.model.parameters()).device == images.device
        return (images + self.eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1).requires_grad_(True)


class FakeFoolbox:
    """As foolbox.attacks.LinfPGD: called with its model, images, labels and epsilons; returns raw, clipped, success."""

    def __call__(self, model: Any, inputs: Tensor, criterion: Tensor, *, epsilons: float) -> tuple[Tensor, ...]:
        assert model.bounds == (0, 1)
        noise = epsilons * torch.randn_like(inputs).sign()
        return inputs + 9, (inputs + noise).clamp(0, 1), model(inputs).argmax(1) != criterion


class Nearest:
    """As torchattacks.CW, which has no budget."""

    def __init__(self, model: nn.Module, steps: int = 50) -> None:
        self.model, self.steps = model, steps


class FakeArt:
    """As art.attacks.evasion.ProjectedGradientDescent: built for a classifier, speaks numpy and its random state."""

    def __init__(self, estimator: Any, norm: float = np.inf, eps: float = 0.3, max_iter: int = 100) -> None:
        self.estimator, self.norm, self.eps, self.max_iter = estimator, norm, eps, max_iter

    def generate(self, x: Any, y: Any = None) -> Any:
        assert isinstance(x, np.ndarray)
        assert y.shape == (len(x),)
        assert self.norm == np.inf
        assert self.estimator.options["nb_classes"] == 4
        assert self.estimator.options["input_shape"] == (3, 16, 16)
        return np.clip(x + self.eps * np.random.uniform(-1, 1, x.shape), 0, 1).astype(np.float32)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that look like foolbox and ART."""

    class PyTorchModel:
        def __init__(self, model: nn.Module, bounds: tuple[float, float], device: torch.device) -> None:
            assert not model.training
            self.model, self.bounds = model, bounds

        def __call__(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x)
            return logits

    class PyTorchClassifier:
        def __init__(self, model: nn.Module, loss: nn.Module, **options: Any) -> None:
            self.options = options

    fakes = {"foolbox": {"PyTorchModel": PyTorchModel}, "art": {}, "art.estimators": {},
             "art.estimators.classification": {"PyTorchClassifier": PyTorchClassifier}}  # fmt: skip
    for name, content in fakes.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("libraries")
def test_attacks_of_other_libraries(measure: Callable[..., Summary]) -> None:
    attacks = {
        "torchattacks": from_torchattacks(FakeTorchattack, alpha=1 / 255),
        "foolbox": from_foolbox(FakeFoolbox()),
        "art": from_art(FakeArt, max_iter=5),
    }
    a, b = measure(attacks=attacks), measure(attacks=attacks)
    same(a.out, b.out)
    for name in attacks:
        found = [row["attack_linf"] for row in rows(a) if row["attack"] == name]
        assert len(found) == 16
        assert all(0.9 * EPS < length <= EPS + 1e-6 for length in found)
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    x, y = torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.long)
    for attack in attacks.values():
        found, again = (
            attack(Broken(""), x, y, eps=EPS, norm="Linf", generator=torch.Generator().manual_seed(3)) for _ in range(2)
        )
        assert torch.equal(found, again)
        assert not found.requires_grad
        with pytest.raises(UsageError, match="this attack is made for Linf, not for L2"):
            attack(Broken(""), x, y, eps=EPS, norm="L2", generator=torch.Generator())
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr,index]


def test_real_attacks_of_other_libraries() -> None:
    """foolbox and ART themselves: in the ball, and PGD of three libraries agrees on what it breaks."""
    foolbox = pytest.importorskip("foolbox")
    art = pytest.importorskip("art.attacks.evasion")
    model = mspd.load_model("rn18-cifar10")
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25
    with torch.no_grad():
        y = model(x).argmax(1)
    own = dict(eps=EPS, norm="Linf")
    descents = {
        "mspd": partial(pgd, steps=10),
        "foolbox": from_foolbox(foolbox.attacks.LinfPGD(steps=10, rel_stepsize=0.25)),
        "art": from_art(art.ProjectedGradientDescent, eps_step=EPS / 4, max_iter=10, num_random_init=1, verbose=False),
    }
    leads = {}
    for name, attack in descents.items():
        x_adv = attack(model, x, y, **own, generator=torch.Generator().manual_seed(0))
        assert float((x_adv - x).abs().max()) <= EPS + 1e-6
        assert float(x_adv.min()) >= 0 <= 1 >= float(x_adv.max())
        with torch.no_grad():
            leads[name] = float(margin(model(x_adv), y).mean())
    assert max(leads.values()) - min(leads.values()) < 0.1 * (max(leads.values()) - float(margin(model(x), y).mean()))
    nearest = from_art(art.DeepFool, max_iter=3, nb_grads=3, verbose=False)
    x_adv = nearest(model, x, y, **own, generator=torch.Generator().manual_seed(0))
    assert 0 < float((x_adv - x).abs().max()) <= EPS + 1e-6


def test_adapters_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is bound to one model and eps: pass the class FakeTorchattack instead"):
        from_torchattacks(FakeTorchattack(Broken("")))
    with pytest.raises(UsageError, match=r"cannot be called as attack\(model, eps=\): got an unexpected .* 'eps'"):
        from_torchattacks(Nearest)
    for make, attack in ((from_torchattacks, FakeTorchattack), (from_art, FakeArt)):
        with pytest.raises(UsageError, match=r"attack 'Fake\w+' cannot be called with its settings: .* 'nsteps'"):
            make(attack, nsteps=3)
    with pytest.raises(UsageError, match=r"generator is a int: pass a torch\.Generator"):
        from_torchattacks(FakeTorchattack)(
            Broken(""), torch.rand(1, 3, 16, 16), torch.tensor([0]), eps=EPS, generator=0
        )
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(UsageError, match="this needs foolbox: pip install foolbox"):
        from_foolbox(FakeFoolbox())(
            Broken(""), torch.rand(1, 3, 16, 16), torch.tensor([0]), eps=EPS, generator=torch.Generator()
        )


# ---------------------------------------------------------------- the command


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, preset: Preset,
    pictures: tuple[Tensor, Tensor],
) -> Callable[..., tuple[int, str, str]]:  # fmt: skip
    """mspd benchmark ARGS in this process, in a folder with pictures/ and mine.py: exit code, stdout, stderr."""
    monkeypatch.setitem(PRESETS, "tiny", preset)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    x, y = pictures
    for i in range(12):
        folder = tmp_path / "pictures" / "test" / CLASSES[int(y[i])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.to_pixels(x[i : i + 1])).save(folder / f"{i}.png")
    for name in CLASSES:  # a class without pictures would be refused
        (tmp_path / "pictures" / "test" / name).mkdir(exist_ok=True)
        Image.fromarray(images.to_pixels(x[:1])).save(tmp_path / "pictures" / "test" / name / "z.png")
    (tmp_path / "mine.py").write_text("def still(model, x, y, *, eps, norm, generator):\n    return x\n")

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mspd", "benchmark", "--preset", "tiny", "--device", "cpu", *args])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        shown = capsys.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err

    return run


def test_command(call: Callable[..., tuple[int, str, str]], preset: Preset, tmp_path: Path) -> None:
    arguments = ("--data", "pictures", "-o", "out", "--defense", "uniform", "--attack", "mine:still",
                 "--target", preset.targets[0], "-n", "10", "--eps-adv", "2/255", "--seed", "3", "--keep")  # fmt: skip
    code, out, err = call(*arguments)
    assert code == 0, err
    assert "uniform" in out
    assert "out/summary.md" in out
    assert "2 cells x 10 images" in err
    assert rows(tmp_path / "out")[0]["seed"] == 3
    assert "| uniform |" in (tmp_path / "out" / "summary.md").read_text()
    assert len(list((tmp_path / "out" / "adversarial").rglob("*.png"))) == 20
    code, _, err = call(*arguments[:-1])
    assert (code, err) == (2, "mspd: out: belongs to a run with other settings (keep); choose another folder\n")
    code, _, err = call("--data", "pictures", "-o", "out2", "--attack", "theirs:still")
    assert code == 2
    assert err.startswith("mspd: attack 'theirs:still': 'theirs' cannot be imported")
    code, _, err = call("--data", "pictures", "-o", "out3", "--eps-def", "8")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 8/255?" in err


def test_command_prints_warnings_as_lines(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(*_: object, **__: object) -> Summary:
        warnings.warn("the target is odd", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["mspd.benchmark"], "benchmark", warned)
    code, _, err = call("--data", "pictures", "-o", "out")
    assert code == 130
    assert err.splitlines()[0] == "mspd: warning: the target is odd"


def test_markdown_names_everything(measure: Callable[..., Summary]) -> None:
    text = markdown(measure(defenses={"a|b": one}))
    assert "a\\|b" in text
    assert "eps_def 8/255, eps_adv 8/255 (Linf" in text
    assert text.count("\n") == 6


def test_misspelt_settings_are_found_before_anything_is_measured(measure: Callable[..., Summary]) -> None:
    with pytest.raises(UsageError, match=r"attack 'pgd' cannot be called with its settings: .*'step'"):
        measure(attacks=partial(pgd, step=1))
    with pytest.raises(UsageError, match=r"defense 'mcgs' cannot be called with its settings: .*'nsamples'"):
        measure(defenses=partial(partial(mcgs, nsamples=2), steps=1))


def test_an_attack_in_another_norm_needs_its_own_budget(measure: Callable[..., Summary]) -> None:
    with pytest.raises(UsageError, match="attack 'pgd' is in L2, the others in Linf: give it an eps of its own"):
        measure(attacks=partial(pgd, norm="L2", steps=1))
    measure(attacks=partial(pgd, norm="L2", eps=0.5, steps=1))


def test_pictures_of_another_form(measure: Callable[..., Summary], pictures: tuple[Tensor, Tensor]) -> None:
    x, y = pictures
    for data, error, line in (
        ((x.numpy(), y), InputError, "x is a ndarray"),
        ((x, y.numpy()), InputError, "y is a ndarray"),
        ((x, y, y), UsageError, "data is a tuple"),
    ):
        with pytest.raises(error, match=line):
            mspd.benchmark(data, "out")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"n is 2\.5: it must be a whole number"):
        measure(n=2.5)
    large = torch.nn.functional.interpolate(x, scale_factor=2)
    with pytest.warns(UserWarning, match="the images are 32 x 32 pixels, the models of preset tiny are made for 16 x"):
        measure(data=(large, y), targets=None, backbones=None)


def test_names_of_entries(measure: Callable[..., Summary], preset: Preset) -> None:
    with pytest.raises(UsageError, match="an entry of the attack axis is called 1: its name must be a string"):
        measure(attacks={1: quick})
    with pytest.raises(UsageError, match="treatment 'revert:' lacks what the attacker has"):
        measure(treatments="revert:")
    names = ["", ".", "..", "a", "a/b"]
    places = {defended_place(Path("out"), Cell(name, "..", "none", "", ""), 0) for name in names}
    assert len(places) == len(names)
    assert all(".." not in place.parts and len(place.parts) == 5 for place in places)


class Turned(FakeFoolbox):
    distance = types.SimpleNamespace(p=2)


@pytest.mark.usefixtures("libraries")
def test_foolbox_attacks_of_another_norm_or_form() -> None:
    with pytest.raises(UsageError, match="Turned of foolbox is made for L2: pass norm='L2'"):
        from_foolbox(Turned())
    from_foolbox(Turned(), norm="L2")
    with pytest.raises(UsageError, match="foolbox: pass an attack object"):
        from_foolbox(Turned)
    with pytest.raises(UsageError, match="ART: pass an attack's class, not 'Name'"):
        from_art("Name")  # type: ignore[arg-type]


def test_foreign_attacks_leave_the_models_gradients() -> None:
    class Careless:
        def __init__(self, model: nn.Module, eps: float) -> None:
            self.model = model

        def __call__(self, x: Tensor, y: Tensor) -> Tensor:
            self.model(x).sum().backward()
            return x

    model, x, y = Broken(""), torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.long)
    attack = from_torchattacks(Careless)
    with torch.no_grad():
        attack(model, x, y, eps=EPS, generator=torch.Generator())
    assert all(parameter.grad is None for parameter in model.parameters())
    model(x).sum().backward()
    kept = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    attack(model, x, y, eps=EPS, generator=torch.Generator())
    for parameter, grad in zip(model.parameters(), kept, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, grad)
    assert len(kept) == len(list(model.parameters()))
