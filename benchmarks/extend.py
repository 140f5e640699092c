"""Measure more pictures for cells of a table in docs/results, which would take days to measure again from the first.

    python benchmarks/extend.py measure table6 UnAdv-100,Bi-Level-100 PGD --data DIR --ids 96 1000 --out RUNS
    python benchmarks/extend.py merge table6 RUNS
    python benchmarks/extend.py merge table7 table6 RUNS
    python benchmarks/extend.py lpips fig8 --data DIR --out RUNS

`measure` takes the functions and targets of the table's own grid and the test pictures FIRST to LAST - 1, in pieces of
32; stopped, it goes on with the same call, and two calls may measure two halves of the pictures at once. It begins best
one piece before the end of what the table has: `merge` adds nothing where a picture that both have was read otherwise.
What is not defended is always measured too; "none" for the defences is a grid of nothing else, as Table VI has behind
DiffPure. `merge` also takes what another table has of the same cells, and cells of the table's grid that it lacks, from
the first picture on. The page, its JSON and its plot are written again.

`lpips` measures LPIPS alone for a table that was made without: the pictures are defended and treated again, without an
attack, and nothing is written where their SSIM or L2 is not the table's.
"""

import argparse
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mspd.benchmark import benchmark
from mspd.benchmark.grid import NONE, Cell
from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.reproduce import write_page
from mspd.benchmark.papers.mspd.study import Run, Study, stopped
from mspd.benchmark.papers.mspd.tier import Tier, get_tier
from mspd.benchmark.run import PIECE
from mspd.benchmark.store import AXES, in_short, read_lines
from mspd.data import ImageSet, load
from mspd.models import card_of

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def item_of(name: str) -> ModuleType:
    """The module of the table; "table4-photo" is Table IV of another tier."""
    return importlib.import_module(f"mspd.benchmark.papers.mspd.{name.removesuffix('-photo')}")


def run_of(name: str, tier: Tier, defenses: list[str], attacks: list[str]) -> Run:
    """The call of the table's grid that has them all; for no defence the one without any."""
    wanted = {*defenses} - {NONE}
    found = [
        run for run in item_of(name).runs(tier)
        if wanted <= {*run.defenses} and {*attacks} <= {*run.attacks} and (wanted or not run.defenses)
    ]  # fmt: skip
    if not found:
        raise SystemExit(f"{name} has no {', '.join(defenses)} under {', '.join(attacks)} in one call")
    return found[0]


def measure(name: str, defenses: list[str], attacks: list[str], data: Path, ids: tuple[int, int], out: Path) -> None:
    first, last = ids
    if first % PIECE:
        raise SystemExit(f"the first picture is {first}: choose a multiple of {PIECE}")
    tier = Committed(name).tier
    run = run_of(name, tier, defenses, attacks)
    test = pictures(tier, data, last)
    study = Study(tier, ImageSet(test.images[first:], test.labels[first:], test.classes), out, "cpu")
    benchmark(
        study.data, out / f"{first:05d}", preset=tier.preset, labels=run.labels,
        defenses={defense: run.defenses[defense] for defense in defenses if defense != NONE} or NONE,
        targets={target: study.target(target) for target in run.targets},
        attacks={attack: run.attacks[attack] for attack in attacks},
    )  # fmt: skip


def pictures(tier: Tier, data: Path, n: int) -> ImageSet:
    """The first n test pictures, as the tier's models see and number them."""
    return load(data, "test", size=tier.preset.size, limit=n, like=card_of(tier.preset.classifier)["classes"])


def lpips(name: str, data: Path, out: Path) -> None:
    """The mean LPIPS of the pictures of each cell, into the table."""
    study = Committed(name)
    preset, attack = study.tier.preset, "unharmed"
    for run in item_of(name).runs(study.tier):
        n = max(len(known) for (_, cell), known in study.found.cells.items() if cell.attack in run.attacks)
        folder = out / run.labels
        benchmark(
            pictures(study.tier, data, n), folder, preset=preset, defenses=dict(run.defenses),
            backbones=list(run.backbones) or None, treatments={NONE: NONE, **run.treatments},
            targets=[study.tier.target], attacks={attack: unharmed}, labels=run.labels,
        )  # fmt: skip
        seen = Found(preset.backbone)
        seen.add(run.labels, read_lines(folder / "rows.jsonl"))
        for (labels, cell), known in study.found.cells.items():
            if labels != run.labels or cell.attack not in run.attacks:
                continue
            again = seen.cells[labels, replace(cell, target=study.tier.target, attack=attack)].first(len(known))
            for what in ("ssim", "l2"):
                if abs(float(getattr(again, what).mean()) - float(getattr(known, what).mean())) > 1e-5:
                    raise SystemExit(f"{cell}: {what} is not that of {name}.json")
            study.found.cells[labels, cell] = replace(known, lpips=again.lpips)
        study.newest = max(study.newest, datetime.now(UTC).date().isoformat())
    study.written["settings"]["benchmark"]["LPIPS"] = f"python benchmarks/extend.py lpips {name}"
    print(write_page(study.written["item"], study))


def unharmed(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
    """No attack."""
    return x


class Committed(Study):
    """A table as docs/results has it, with the pictures that RUNS add to its cells."""

    def __init__(self, table: str) -> None:
        self.written: dict[str, Any] = json.loads((RESULTS / f"{table}.json").read_text(encoding="utf-8"))
        tier = get_tier(self.written["settings"]["tier"]["name"])
        none = ImageSet(torch.empty(0, 3, tier.preset.size, tier.preset.size, dtype=torch.uint8), torch.empty(0), ())
        super().__init__(tier, none, RESULTS, "cpu")
        self.newest = self.written["date"]
        self.found.extras, self.found.left_out = self.written["extras"], self.written["left_out"]
        for cell in self.written["cells"]:
            names = Cell(*(cell[axis] for axis in AXES))
            self.found.cells[cell["labels"], names] = field_of_bits(cell)

    def add(self, folder: Path) -> None:
        """The rows of the pictures from the number that the folder is called on; those of a cell must go on where it
        ends, or before."""
        first, path = int(folder.name), folder / "rows.jsonl"
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        added = Found(self.tier.preset.backbone)
        added.add(settings["labels"], read_lines(path))
        if not self.join(added.cells, first, folder):
            return
        names = ", ".join(settings["defenses"]) or NONE
        self.written["settings"]["benchmark"][f"{names} from {first} on"] = in_short(settings)
        self.newest = max(self.newest, datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat())

    def borrow(self, table: str) -> None:
        """What another table has of the same cells."""
        other = Committed(table)
        same = {key: more for key, more in other.found.cells.items() if key in self.found.cells}
        if self.join(same, 0, table):
            self.written["settings"]["benchmark"][f"from {table}"] = f"{table}.json of {other.newest}"
            self.newest = max(self.newest, other.newest)

    def join(self, cells: Mapping[tuple[str, Cell], Field], first: int, source: object) -> bool:
        """Add cells that begin with picture `first`; whether something is new."""
        grown = False
        for (labels, cell), more in cells.items():
            known = self.found.cells.get((labels, cell))
            both = 0 if known is None else min(len(known) - first, len(more))
            if both < 0 or (known is None and first):
                raise SystemExit(f"{source}: begins after {cell} ends, at {0 if known is None else len(known)}")
            if known is not None:
                for what in ("clean", "robust"):
                    if not torch.equal(getattr(known, what)[first : first + both], getattr(more, what)[:both]):
                        last = first + both - 1
                        raise SystemExit(f"{source}: {cell} is read otherwise on pictures {first} to {last}")
            if len(more) > both:
                if known is not None and first:
                    more = Field(**{name: torch.cat((value, getattr(more, name)[both:]))
                                    for name, value in vars(known).items()})  # fmt: skip
                self.found.cells[labels, cell] = more
                self.complete(cell, 0 if known is None else len(known), len(more))
                grown = True
            print(f"{', '.join(astuple(cell))}: {both} pictures alike, {len(more) - both} new from {first + both} on")
        return grown

    def complete(self, cell: Cell, before: int, now: int) -> None:
        """Say no more that the cell has `before` pictures only, but `now` where that is fewer than it should have."""
        for wanted in {self.tier.n, self.tier.n_wide, self.tier.n_strong}:
            if (line := stopped(cell, before, wanted)) in self.found.left_out:
                self.found.left_out.remove(line)
                if now < wanted:
                    self.found.left_out.append(stopped(cell, now, wanted))

    def command(self, table: str) -> str:
        """Of all pictures once no cell lacks any."""
        command = str(self.written["command"])
        return command if any("stopped after" in line for line in self.found.left_out) else command.split(" --first")[0]

    def day(self) -> str:
        return str(self.newest)

    def settings(self) -> dict[str, Any]:
        return dict(self.written["settings"])


def field_of_bits(cell: dict[str, Any]) -> Field:
    """A cell of the JSON file; every picture has the mean distances, and none to the attacked one."""
    clean, robust = (torch.tensor([bit == "1" for bit in cell[f"{what}_bits"]]) for what in ("clean", "robust"))
    means = [cell[what] for what in ("ssim", "lpips", "l2")] + [None] * 3
    distances = (torch.full((cell["n"],), float("nan") if mean is None else mean).double() for mean in means)
    return Field(clean, robust, *distances)


def merge(table: str, sources: Sequence[str | Path]) -> None:
    study = Committed(table)
    for source in sources:
        if (RESULTS / f"{source}.json").exists():
            study.borrow(str(source))
            continue
        for folder in sorted(path.parent for path in Path(source).glob("*/rows.jsonl")):
            study.add(folder)
    if hasattr(item_of(table), "plot"):
        item_of(table).plot(study, RESULTS / f"{table}.png")
    print(write_page(study.written["item"], study))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    more = commands.add_parser("measure")
    more.add_argument("table")
    for argument in ("defenses", "attacks"):
        more.add_argument(argument, type=lambda names: names.split(","), help="one, or several with a comma between")
    more.add_argument("--data", type=Path, required=True)
    more.add_argument("--ids", type=int, nargs=2, required=True, metavar=("FIRST", "LAST"))
    more.add_argument("--out", type=Path, required=True)
    alone = commands.add_parser("lpips")
    alone.add_argument("table")
    alone.add_argument("--data", type=Path, required=True)
    alone.add_argument("--out", type=Path, required=True)
    add = commands.add_parser("merge")
    add.add_argument("table")
    add.add_argument("sources", nargs="+", metavar="RUNS or another table")
    options = parser.parse_args()
    if options.command == "merge":
        merge(options.table, options.sources)
    elif options.command == "lpips":
        lpips(options.table, options.data, options.out)
    else:
        measure(options.table, options.defenses, options.attacks, options.data, tuple(options.ids), options.out)


if __name__ == "__main__":
    main()
