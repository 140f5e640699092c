"""Pictures added to a table that was written before, from files to files."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mspd.benchmark import Cell
from mspd.benchmark.papers.mspd import reproduce
from mspd.benchmark.papers.mspd.study import BEHIND, stopped
from mspd.benchmark.papers.mspd.tier import get_tier
from mspd.benchmark.store import cell_of
from mspd.data import ImageSet
from mspd.models import card_of

SPEC = importlib.util.spec_from_file_location("extend", Path(__file__).parents[1] / "benchmarks" / "extend.py")
assert SPEC is not None
assert SPEC.loader is not None
extend = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(extend)

pytestmark = pytest.mark.filterwarnings("ignore:.*its card says")
CLASSES = tuple(card_of("rn20-cifar10")["classes"])
MCGS = Cell("MCGS", "wrn16-2-cifar10", "none", "rn20-cifar10", "PGD")


PIXELS = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Table XIV and the rows that it comes from."""
    out = tmp_path_factory.mktemp("results")
    reproduce("table14", (PIXELS.float() / 255, torch.arange(8)), out, tier="smoke", device="cpu")
    return out


@pytest.fixture
def results(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(written, tmp_path / "results")
    monkeypatch.setattr(extend, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def cells(results: Path) -> dict[Cell, dict[str, Any]]:
    read = json.loads((results / "table14.json").read_text())["cells"]
    return {Cell(*(cell[axis] for axis in extend.AXES)): cell for cell in read}


def runs(results: Path, first: int, last: int, change: dict[str, Any]) -> Path:
    """Rows as if the pictures first to last - 1 had been measured apart; those from 8 on are picture 0 with `change`,
    right before the attack, and all others as they were."""
    source, folder = results / "cells-smoke", results.parent / "runs" / f"{first:05d}"
    rows = [json.loads(line) for line in (source / "rows.jsonl").read_text().splitlines()]
    known = [row for row in rows if cell_of(row) == MCGS]
    new = [{**known[0], "before": known[0]["label"], **change}] * max(0, last - 8)
    folder.mkdir(parents=True)
    listed = [{**row, "id": i} for i, row in enumerate([*known[first:8], *new])]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    shutil.copy(source / "settings.json", folder)
    return folder.parent


def test_new_pictures_are_added(results: Path) -> None:
    before = cells(results)
    extend.merge("table14", [runs(results, 4, 10, {"after": -1, "ssim": 1.0})])
    after = cells(results)
    assert after.keys() == before.keys()
    assert {cell for cell in after if after[cell] != before[cell]} == {MCGS}
    old, new = before[MCGS], after[MCGS]
    assert new["n"] == 10
    assert new["clean_bits"] == old["clean_bits"] + "11"
    assert new["robust_bits"] == old["robust_bits"] + "00"
    assert new["ssim"] == pytest.approx((8 * old["ssim"] + 2) / 10, abs=1e-5)
    page = (results / "table14.md").read_text()
    assert "8 to 10 (PGD)" in page
    assert "mspd reproduce table14 --tier smoke" in page


def test_pictures_known_before_change_nothing(results: Path) -> None:
    kept = {name: (results / name).read_bytes() for name in ("table14.json", "table14.md")}
    extend.merge("table14", [runs(results, 4, 8, {})])
    assert {name: (results / name).read_bytes() for name in kept} == kept


def shorten(results: Path, table: str, n: int) -> None:
    """The table as if it had been stopped after n pictures."""
    path = results / f"{table}.json"
    read = json.loads(path.read_text())
    for cell in read["cells"]:
        cell.update(n=n, clean_bits=cell["clean_bits"][:n], robust_bits=cell["robust_bits"][:n])
    read["left_out"] = [stopped(cell_of(cell), n, 8) for cell in read["cells"]]
    path.write_text(json.dumps(read))


def test_what_another_table_has_is_borrowed(results: Path) -> None:
    whole = cells(results)
    shutil.copy(results / "table14.json", results / "other.json")
    shorten(results, "table14", 4)
    extend.merge("table14", ["other"])
    assert cells(results) == whole
    assert json.loads((results / "table14.json").read_text())["left_out"] == []
    shorten(results, "other", 4)
    extend.merge("table14", ["other"])
    assert cells(results) == whole


def test_a_cell_that_the_table_lacks_is_added_from_the_first_picture(results: Path) -> None:
    whole = cells(results)
    read = json.loads((results / "table14.json").read_text())
    read["cells"] = [cell for cell in read["cells"] if cell_of(cell) != MCGS]
    (results / "table14.json").write_text(json.dumps(read))
    with pytest.raises(SystemExit, match="ends, at 0"):
        extend.merge("table14", [runs(results, 4, 8, {})])
    shutil.rmtree(results.parent / "runs")
    extend.merge("table14", [runs(results, 0, 8, {})])
    assert cells(results) == whole


@pytest.mark.parametrize(("first", "line"), [(4, "is read otherwise on pictures 4 to 7"), (9, "ends, at 8")])
def test_rows_that_do_not_belong_are_refused(results: Path, first: int, line: str) -> None:
    kept, out = (results / "table14.json").read_bytes(), runs(results, first, 10, {})
    path = out / f"{first:05d}" / "rows.jsonl"
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    rows[0]["before"] = -1 if rows[0]["before"] == rows[0]["label"] else rows[0]["label"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match=line):
        extend.merge("table14", [out])
    assert (results / "table14.json").read_bytes() == kept


def test_only_whole_pieces_and_known_cells() -> None:
    with pytest.raises(SystemExit, match="choose a multiple of 32"):
        extend.measure("table6", ["Bi-Level-100"], ["PGD"], Path("none"), (100, 128), Path("none"))
    with pytest.raises(SystemExit, match="table6 has no MCGS, A5 under PGD"):
        extend.measure("table6", ["MCGS", "A5"], ["PGD"], Path("none"), (96, 128), Path("none"))


def test_lpips_is_added_to_a_table_made_without(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extend, "load", lambda *_, **__: ImageSet(PIXELS, torch.arange(8), CLASSES))
    whole, path = cells(results), results / "table14.json"
    assert all(cell["lpips"] > 1e-4 for names, cell in whole.items() if names.defense != "none")
    for cell in (read := json.loads(path.read_text()))["cells"]:
        cell["lpips"] = None
    path.write_text(json.dumps(read))
    extend.lpips("table14", Path("data"), results.parent / "runs")
    assert cells(results) == whole
    for cell in (read := json.loads(path.read_text()))["cells"]:
        cell["ssim"] -= 0.001
    path.write_text(json.dumps(read))
    with pytest.raises(SystemExit, match=r"ssim is not that of table14\.json"):
        extend.lpips("table14", Path("data"), results.parent / "runs")


def test_no_defence_is_the_grid_without_any() -> None:
    behind = extend.run_of("table6", get_tier("embedded"), ["none"], ["AutoAttack"])
    assert not behind.defenses
    assert all(target.endswith(BEHIND) for target in behind.targets)
