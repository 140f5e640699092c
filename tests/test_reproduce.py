"""Every table and figure of the paper, from pictures to pages, on the smallest shipped models; the verdicts follow from
the cells."""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import Call, one_line
from mspd.benchmark import Cell
from mspd.benchmark.papers.mspd import ITEMS, TIERS, report, reproduce, study, title_of
from mspd.benchmark.papers.mspd import tier as tiers
from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.leaderboard import standings
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, markdown, numbers_above, within
from mspd.benchmark.papers.mspd.study import BEHIND
from mspd.errors import InputError, UsageError
from mspd.images import to_pixels
from mspd.models import card_of, load_model
from mspd.smoothing import prepare

grid, protector = (importlib.import_module(f"mspd.{name}") for name in ("benchmark.grid", "protector"))
running = sys.modules["mspd.benchmark.run"]  # mspd.benchmark is the function
SMOKE = TIERS["smoke"]

#: the pictures are not those of the models' cards
pytestmark = pytest.mark.filterwarnings("ignore:.*its card says")


def item(name: str) -> ModuleType:
    return importlib.import_module(f"mspd.benchmark.papers.mspd.{name}")


def test_results_of_the_baselines_outlive_the_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model in a preset or a tier is no reason to measure them again; another engine is."""
    own = inspect.getsource

    def identities(changed: str) -> list[str]:
        module = importlib.import_module(changed)
        monkeypatch.setattr(inspect, "getsource", lambda part: own(part) + ("# changed" if part is module else ""))
        return [grid.function_identity(defense) for defense in tiers.baselines(SMOKE).values()]

    before = identities("mspd.cli")
    assert identities("mspd.presets") == identities("mspd.benchmark.papers.mspd.tier") == before
    assert all(a != b for a, b in zip(before, identities("mspd.smoothing"), strict=True))


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """8 pictures; the target reads 6 of them right."""
    small = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    x = torch.nn.functional.interpolate(small, size=32, mode="bicubic").clamp(0, 1).mul(255).round() / 255
    with torch.no_grad():
        y = load_model(SMOKE.target)(x).argmax(1)
    return x, torch.where(torch.arange(8) % 4 == 0, (y + 1) % 10, y)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all tables, as it is meant. Pieces of 8 pictures, since there are no more, and each model loaded
    and prepared once, which is most of the time on so few pictures."""
    load, fold = cache(load_model), cache(prepare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "PIECE", 8)
        for module in (running, grid, protector, study, item("table11"), item("fig4"), item("fig6"), item("lemmas")):
            for name, function in (("load_model", load), ("prepare", fold)):
                if hasattr(module, name):
                    patch.setattr(module, name, function)
        yield tmp_path_factory.mktemp("reproduce")


def numbers(value: Any) -> Iterator[float]:
    """All numbers in nested tables."""
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, int | float):
        yield float(value)
    elif not isinstance(value, str) and value is not None:
        for each in value:
            yield from numbers(each)


@pytest.mark.parametrize("name", ITEMS)
def test_from_pictures_to_page(name: str, pictures: tuple[Tensor, Tensor], out: Path) -> None:
    page = reproduce(name, pictures, out, tier="smoke", device="cpu")
    assert page == out / f"{name}.md"
    text, result = page.read_text(), json.loads((out / f"{name}.json").read_text())
    assert result["title"] == title_of(name)
    assert text.startswith(f"# {title_of(name)}\n")
    assert f"mspd reproduce {name} --tier smoke" in text
    assert result["orderings"]
    missing = [ordering for ordering in result["orderings"] if ordering["holds"] is None]
    assert all((f"- {o['claim']}: " in text) is (o not in missing) for o in result["orderings"])
    assert (f"; {len(missing)} more are not measured" in text) is bool(missing)
    assert sorted(numbers(result["paper"])) == sorted(numbers(item(name).PAPER))
    for cell in result["cells"]:
        assert (cell["n"], len(cell["clean_bits"]), len(cell["robust_bits"])) == (8, 8, 8)
        assert cell["robust"] == cell["robust_bits"].count("1") / 8 <= cell["clean"]
    assert result["left_out"] == []
    if hasattr(item(name), "plot"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (f"![{title_of(name)}]({name}.png)" in text) is hasattr(item(name), "plot")


@pytest.mark.parametrize("name", ["table4", "fig6"])
def test_imagenet_has_pages_and_numbers_of_its_own(name: str, pictures: tuple[Tensor, Tensor], out: Path) -> None:
    page = reproduce(name, pictures, out, tier=replace(SMOKE, imagenet=True), device="cpu")
    assert page == out / f"{name}-photo.md"
    result = json.loads(page.with_suffix(".json").read_text())
    assert sorted(numbers(result["paper"])) == sorted(numbers(item(name).IMAGENET))
    shown = [f"/ {value:.{1 if name == 'table4' else 4}f}" for value in numbers(list(item(name).IMAGENET.values()))]
    assert sum(value in page.read_text() for value in shown) >= len(shown) - 3  # seconds are written otherwise
    assert (
        (f"({name}-photo.png)" in page.read_text()) is page.with_suffix(".png").exists() is hasattr(item(name), "plot")
    )


@pytest.mark.parametrize("name", ["table11", "fig6", "lemmas"])
def test_second_call_reads_everything_back(
    name: str, pictures: tuple[Tensor, Tensor], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("measured anew")

    page = reproduce(name, pictures, out, tier="smoke", device="cpu")
    before = {path: path.read_bytes() for path in (out / f"{name}.json", page, out / "extras.json")}
    monkeypatch.setattr(running, "_measure", refuse)
    reproduce(name, pictures, out, tier="smoke", device="cpu")
    assert {path: path.read_bytes() for path in before} == before


def test_stopped_call_leaves_a_page(
    pictures: tuple[Tensor, Tensor], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = running._measure, list[int]()

    def stopped(*args: Any) -> Any:
        calls.append(1)
        for number, result in enumerate(measure(*args)):
            if len(calls) == 2 and number == 1:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(running, "PIECE", 4)
    with monkeypatch.context() as patch:
        patch.setattr(running, "_measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            reproduce("table16", pictures, tmp_path, tier="smoke", device="cpu")
    text = (tmp_path / "table16.md").read_text()
    result = json.loads((tmp_path / "table16.json").read_text())
    assert [cell["n"] for cell in result["cells"]] == [8, 4, 4, 4, 4, 4]
    assert len(result["left_out"]) == 5
    (line,) = [line for line in text.splitlines() if line.startswith("- stopped after 4 of 8 pictures: ")]
    assert line.count(";") == 4
    reproduce("table16", pictures, tmp_path, tier="smoke", device="cpu")
    assert "stopped" not in (tmp_path / "table16.md").read_text()


def test_takes_the_pictures_that_benchmark_takes(pictures: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Sub-folders called like the classes are put in the models' order; tensors are checked."""
    x, y = pictures
    names = card_of(SMOKE.preset.classifier)["classes"]
    for name in names:
        path = tmp_path / "pictures" / "test" / name.title() / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(to_pixels(x[:1])).save(path)
    page = reproduce("table16", tmp_path / "pictures", tmp_path / "out", tier="smoke", first=2, device="cpu")
    assert {cell["n"] for cell in json.loads(page.with_suffix(".json").read_text())["cells"]} == {2}
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        reproduce("table16", (255 * x, y), tmp_path / "other", tier="smoke", device="cpu")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["table4", "table11", "table16", "fig4", "fig6", "fig7", "fig8", "fig9"])
def test_only_the_first_pictures(
    name: str, pictures: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PIECE", 4)
    page = reproduce(name, pictures, tmp_path, tier="smoke", first=4, device="cpu")
    text, result = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    assert {cell["n"] for cell in result["cells"]} == {4}
    assert f"`mspd reproduce {name} --tier smoke --first 4 --data DIR -o DIR`" in text
    assert result["command"] == f"mspd reproduce {name} --tier smoke --first 4"
    assert (f"({name}.png)" in text) is (tmp_path / f"{name}.png").exists()


@pytest.mark.parametrize(("name", "first"), [("fig6", 1), ("fig8", 1), ("fig9", None), ("lemmas", None)])
def test_fewer_pictures_than_a_plot_shows(
    name: str, first: int | None, pictures: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PIECE", 2)
    x, y = pictures
    page = reproduce(name, (x[:2], y[:2]), tmp_path, tier="smoke", first=first, device="cpu")
    assert re.search(r"the first (2 test pictures|test pictures: [12] \()", page.read_text())
    if hasattr(item(name), "plot"):
        assert page.with_suffix(".png").exists()


@pytest.mark.parametrize("name", ["table11", "fig7", "fig8", "fig9"])
def test_stopped_call_leaves_a_page_without_extras(
    name: str, pictures: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = running._measure

    def stopped(*args: Any) -> Any:
        yield next(measure(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "PIECE", 4)
    monkeypatch.setattr(running, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduce(name, pictures, tmp_path, tier="smoke", device="cpu")
    text = (tmp_path / f"{name}.md").read_text()
    assert text.startswith(f"# {title_of(name)}\n")
    assert "stopped after 4 of 8 pictures" in text


def test_call_stopped_after_the_cells_leaves_a_page(
    pictures: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(found: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "PIECE", 4)
    monkeypatch.setattr(item("table15"), "extras", stopped)
    with pytest.raises(KeyboardInterrupt):
        reproduce("table15", pictures, tmp_path, tier="smoke", first=4, device="cpu")
    result = json.loads((tmp_path / "table15.json").read_text())
    assert len(result["cells"]) == len(result["left_out"]) == len(set(result["left_out"])) == 4


def test_tables_share_what_is_measured(pictures: tuple[Tensor, Tensor], out: Path, tmp_path: Path) -> None:
    """The cells of Fig. 7 are among Table XVI's."""
    reproduce("table16", pictures, tmp_path, tier="smoke", device="cpu")
    rows = (tmp_path / "cells-smoke" / "rows.jsonl").read_bytes()
    assert rows.count(b"\n") == 6 * 8
    reproduce("fig7", pictures, tmp_path, tier="smoke", device="cpu")
    assert (tmp_path / "cells-smoke" / "rows.jsonl").read_bytes() == rows


def test_purifier_after_the_attack(
    pictures: tuple[Tensor, Tensor], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table XVIII reads through the purifier what was attacked without it."""

    def faded(x: Tensor, *, generator: torch.Generator, t: float, strides: int) -> Tensor:
        return x * 0.5 + 0.25

    monkeypatch.setattr(tiers, "diffpure", faded)
    reproduce("table18", pictures, tmp_path, tier="smoke", device="cpu")
    result = json.loads((tmp_path / "table18.json").read_text())
    assert result["left_out"] == []
    bits = {(c["target"], c["defense"]): c["clean_bits"] for c in result["cells"]}
    x, y = pictures
    with torch.no_grad():
        right = load_model(SMOKE.target)(x * 0.5 + 0.25).argmax(1) == y
    assert bits[SMOKE.target + BEHIND, "none"] == "".join("01"[int(b)] for b in right)
    assert bits[SMOKE.target, "none"] == "01110111"


# ---------------------------------------------------------------- verdicts follow from the cells


def made(clean: float, robust: float, n: int = 1000) -> Field:
    """A cell of given accuracies in percent."""
    order = torch.arange(n)
    blank = torch.full((n,), 0.5)
    return Field(
        order < clean * n / 100, order < robust * n / 100, blank, blank * torch.nan, blank, blank, blank, blank
    )


def as_published(robust_of_ours: float = 86.3) -> tuple[Found, Any]:
    """Table VII's cells with the paper's own numbers."""
    table, tier = item("table7"), replace(TIERS["embedded"], target="t")
    found = Found("b")
    for name, (_, clean, robust) in zip(table.names(tier), table.PAPER.values(), strict=True):
        shown = robust_of_ours if name == "MCGS" else robust
        found.cells["classifier", Cell(name, "b", "none", "t", "AutoAttack")] = made(clean, shown)
    return found, tier


def test_published_numbers_hold() -> None:
    report = item("table7").report(*as_published())
    assert [ordering.holds for ordering in report.orderings] == [True] * 10
    page = markdown("title", "setting", report, ())
    assert "| Ours (2 epochs) | - / 0.02 s | 95.9 [94.5, 97.0] / 95.9 | 86.3 [84.0, 88.3] / 86.3 |" in page
    assert "- Ours (2 epochs) above Bi-Level (2 epochs): holds (86.3 % against 80.5 %, +5.8 [+4.3, +7.2]" in page


def test_violated_orderings_are_reported() -> None:
    report = item("table7").report(*as_published(robust_of_ours=81.0))
    broken = [ordering.claim for ordering in report.orderings if not ordering.holds]
    assert broken == ["Ours (2 epochs) above Bi-Level (100 epochs)", "Ours of 4 epochs within 1 point of 2"]
    page = markdown(
        "title", "setting", report, ["target x: is not there", "target y: is no model", "target z: is not there"]
    )
    assert "Ours (2 epochs) above Bi-Level (100 epochs): **does not hold** (81.0 % against 82.2 %, -1.2 [" in page
    assert "## Left out\n\n- is not there: target x; target z\n- is no model: target y\n" in page


def test_nonrobust_target_that_holds_out_is_a_violation() -> None:
    tier = TIERS["embedded"]
    found = Found(tier.preset.backbone)
    small = tier.nonrobust["ResNet-56 (nonrobust)"]
    for robust, verdict in ((4.9, True), (5.1, False)):
        found.cells["classifier", Cell("MCGS", found.backbone, "none", small, "PGD")] = made(90, robust)
        known = {o.claim: o.holds for o in item("table17").report(found, tier).orderings}
        assert known["ResNet-56 (nonrobust) stays below 5 % robust: Ours, robust"] is verdict
        assert known["ResNet-56 (nonrobust) stays below 5 % robust: UnAdv, robust"] is None


def test_verdicts() -> None:
    a, b = made(90, 50), made(80, 45.5, n=100)
    assert above("c", a, b).holds  # on the images that both have: 100 of 100 against 100
    assert not above("c", a, a).holds
    assert above("c", made(90, 49.8), a, by=-0.3).holds
    assert not above("c", made(90, 49.6), a, by=-0.3).holds
    assert within("c", made(90, 51), a, 1.0).holds
    assert not within("c", made(90, 51.1), a, 1.0).holds
    assert numbers_above("c", 0.2, 0.1).holds
    assert not numbers_above("c", 0.1, 0.1).holds
    assert above("c", None, a).holds is None
    assert numbers_above("c", float("nan"), 1.0).holds is None
    claims = [Ordering("c", None, ""), Ordering("d", True, "1"), Ordering("e", False, "2")]
    page = markdown("t", "s", Report(["a"], [["b"]], claims), ())
    assert "| a |\n| --- |\n| b |" in page
    assert (
        "1 of the 2 measured hold; 1 more are not measured, the JSON file names them.\n\n- d: holds (1)\n- e: **"
        in page
    )
    assert "1 of the 1 measured hold.\n\n- d" in markdown("t", "s", Report(["a"], [["b"]], claims[1:2]), ())


def test_reversion_flags() -> None:
    fig8 = item("fig8")
    plain, defended = made(90, 50), made(95, 70)
    back = replace(made(90, 51), ssim=torch.full((1000,), 0.9))
    assert fig8.flags(plain, defended, back) == "yes, yes, -"
    assert fig8.flags(plain, defended, made(90, 69)) == "no, no, -"
    seen = replace(back, lpips=torch.full((1000,), 0.1)), replace(defended, lpips=torch.full((1000,), 0.2))
    assert fig8.flags(plain, seen[1], seen[0]) == "yes, yes, yes"
    assert fig8.flags(plain, defended, None) == "-"
    assert fig8.flags(plain, defended, back.first(900)) == "yes, yes, -"  # stopped before it had all pictures


def test_rank_correlation() -> None:
    ranks = item("table11").ranks
    assert ranks([(0.1, 5.0), (0.2, 7.0), (0.9, 8.0)]) == pytest.approx(1)
    assert ranks([(0.1, 8.0), (0.2, 7.0), (0.9, 5.0)]) == pytest.approx(-1)
    assert ranks([(0.1, 8.0)]) is None


def test_passes_are_counted() -> None:
    """The pass counts that the paper's speed rests on: 40 against about 2,000 (here 1 epoch of each)."""
    from mspd.benchmark.papers.mspd.cost import cost

    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8)
    known = {**tiers.baselines(replace(SMOKE, epochs=1)), **tiers.ours(SMOKE), **tiers.ours(SMOKE, noise=False)}
    passes = {name: cost(known[name], SMOKE.preset.backbone, x, y, eps=8 / 255)["passes"]
              for name in ("MCGS", "MCGS noise False", "UnAdv-1", "Bi-Level-1")}  # fmt: skip
    assert passes == {"MCGS": 2 * 2, "MCGS noise False": 2, "UnAdv-1": 2, "Bi-Level-1": 2 + 1}


# ---------------------------------------------------------------- the leaderboard


def board_cell(defense: str, target: str, robust: str, **changed: str) -> dict[str, str]:
    backbone = "none" if defense == "none" else "b"
    cell = {"labels": "classifier", "defense": defense, "backbone": backbone, "treatment": "none", "target": target,
            "attack": "PGD", "clean_bits": "1" * len(robust), "robust_bits": robust}  # fmt: skip
    return {**cell, **changed}


def test_gains_are_of_the_pictures_that_both_have() -> None:
    """Of 20 without defence the first 10 fall; on these the 10 with one gain nothing."""
    before, after = (field_of_robust(bits) for bits in ([0] * 10 + [1] * 10, [0] * 10))
    gain = report.gain(before, after)
    assert gain is not None
    assert gain[0] == 0
    assert report.gain(before, None) is None


def field_of_robust(bits: list[int]) -> Field:
    robust, unknown = torch.tensor(bits).bool(), torch.full((len(bits),), float("nan"))
    return Field(torch.ones_like(robust), robust, *[unknown] * 6)


def test_standings_average_over_targets_and_share_pictures() -> None:
    cells = [
        board_cell("none", "t", "1000"),
        board_cell("none", "u", "0000"),
        board_cell("ours", "t", "11111"),  # on one picture more: the shared four count
        board_cell("ours", "u", "1000"),
        board_cell("better on one target", "t", "1111"),
        board_cell("ours", "b", "1111"),  # the backbone itself
        board_cell("none", "b", "0000"),
        board_cell("ours", "v", "1111"),  # never measured without a defence
        board_cell("ours", "t", "0000", treatment="white"),
        board_cell("ours", "t", "000000", labels="truth"),
    ]
    first, second = standings(cells, "b")
    assert (first.defense, first.targets, first.n) == ("ours", 2, 4)
    assert first.robust == pytest.approx(100 * (3 + 1) / 8)
    assert first.least == ("u", pytest.approx(25.0))
    # gains of the pictures, averaged over both targets: 50, 50, 50, 50
    assert first.interval == pytest.approx((50.0, 50.0))
    assert (second.defense, second.targets, second.robust) == ("better on one target", 1, pytest.approx(75.0))
    half = 1.96 * (0.75 * 0.25 / 4) ** 0.5 * 100
    assert second.interval == pytest.approx((75 - half, 75 + half))


def test_standings_beside_mcgs_on_the_same_pictures() -> None:
    """A defence that was measured on the kinder first pictures alone is not ahead for that."""
    cells = [
        board_cell("none", "t", "00000000"),
        board_cell("MCGS", "t", "11100000"),
        board_cell("short", "t", "1100"),
        board_cell("better", "t", "1111"),
        board_cell("elsewhere", "u", "1000"),
        board_cell("none", "u", "0000"),
    ]
    places = [(s.defense, s.n, s.robust, s.ours) for s in standings(cells, "b")]
    assert places == [
        ("better", 4, 100.0, 75.0), ("MCGS", 8, 37.5, 37.5), ("short", 4, 50.0, 75.0), ("elsewhere", 4, 25.0, None),
    ]  # fmt: skip


def test_leaderboard_from_files(call: Call, pictures: tuple[Tensor, Tensor], out: Path, tmp_path: Path) -> None:
    reproduce("table7", pictures, out, tier="smoke", device="cpu")
    code, said, _ = call("reproduce", "leaderboard", "--tier", "smoke", "-o", out)
    page = out / "leaderboard.md"
    assert code == 0
    assert str(page) in said
    text = page.read_text()
    assert "## AutoAttack" in text
    assert "| MCGS | wrn16-2-cifar10 | 1 | 8 |" in text
    one_line(call("reproduce", "leaderboard", "-o", tmp_path), 2, "no tables of the tier embedded here")


# ---------------------------------------------------------------- tiers and the command line


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ITEMS)
def test_every_tier_says_what_it_needs(name: str, tier: str) -> None:
    """Without loading a model: the published ones are not here."""
    if TIERS[tier].imagenet and not hasattr(item(name), "IMAGENET"):
        with pytest.raises(UsageError, match=f"{name}: tier {tier} is of ImageNet's pictures"):
            reproduce(name, Path("nowhere"), Path("nowhere"), tier=tier)
        return
    for run in item(name).runs(TIERS[tier]):
        assert run.targets
        assert run.attacks
        assert all(isinstance(target, str) for target in run.targets)


def test_published_ids() -> None:
    paper = TIERS["paper"]
    assert len(paper.targets) == 10
    assert paper.target == "robustbench:Bartoldson2024Adversarial_WRN-94-16"
    assert paper.preset.backbone == "robustbench:Gowal2021Improving_R18_ddpm_100m"
    assert (paper.samples, paper.epochs, paper.queries, paper.n) == (20, 100, 10_000, 1000)


def test_no_model_at_all_is_one_line(pictures: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    tier = replace(SMOKE, targets={"ResNet-18": "nowhere"})
    with pytest.raises(UsageError, match="table6: nothing can be measured: target nowhere: not shipped"):
        reproduce("table6", pictures, tmp_path / "out", tier=tier)
    assert not (tmp_path / "out").exists()


def test_command_line(call: Call, tmp_path: Path, out: Path) -> None:
    code, listed, _ = call("reproduce", "list")
    assert code == 0
    assert all(name in listed and title_of(name) in listed for name in ITEMS)
    for words, line in (
        (("table6",), "say which pictures"),
        (("table9", "--data", "d", "-o", "o"), "unknown table or figure 'table9': choose one of table4"),
        (("nope",), "unknown table or figure 'nope': choose one of table4"),
        (("table7", "--tier", "huge", "--data", "d", "-o", "o"), "unknown tier 'huge': choose one of smoke"),
        (("table7", "--tier", "smoke", "--data", str(tmp_path), "-o", "o"), "no test set here"),
    ):
        one_line(call("reproduce", *words), 2, line)


def test_missing_library_is_one_line(
    pictures: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"this needs matplotlib: pip install 'mspd\[bench\]'"):
        reproduce("fig8", pictures, tmp_path / "out", tier="smoke")
    assert not (tmp_path / "out").exists()
