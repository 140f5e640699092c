"""Measure what a table needs: calls of the benchmark into folders that all tables share, and what no grid can say."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mspd.adapters import Function
from mspd.benchmark.grid import NONE, REVERT, WHITE, Cell
from mspd.benchmark.identity import function_identity, model_identity, versions
from mspd.benchmark.papers.mspd.cost import COUNTED, cost
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.tier import Tier, purifier
from mspd.benchmark.purified import Purified
from mspd.benchmark.run import benchmark
from mspd.benchmark.store import cell_of, defended_place, in_short, read_lines, read_png, treated_place, write
from mspd.data import ImageSet
from mspd.errors import MspdError
from mspd.guard import seeded
from mspd.models import card_of, list_models, load_model
from mspd.protector import Protector

BEHIND = " behind DiffPure"


@dataclass(frozen=True)
class Run:
    """One call of the benchmark: names and functions of each axis. A target is a model's id, with BEHIND after it when
    it reads through DiffPure what was made for it alone. Without `backbones` the preset's; without `defenses`, none."""

    targets: tuple[str, ...]
    attacks: Mapping[str, Function]
    n: int
    defenses: Mapping[str, Function] = field(default_factory=dict)
    backbones: tuple[str, ...] = ()
    treatments: Mapping[str, Function | str] = field(default_factory=dict)
    labels: str = "classifier"


class Study:
    """The pictures, the folder and the tier that all tables of a folder share; with `first`, of each run only so many
    pictures for now."""

    def __init__(self, tier: Tier, data: ImageSet, out: Path, device: str, first: int | None = None) -> None:
        self.tier, self.data, self.out, self.device, self.first = tier, data, out, device, first
        self.found = Found(tier.preset.backbone)
        self.folders: list[Path] = []

    def measure(self, run: Run) -> None:
        """Call the benchmark for what can be measured, and note what cannot, with the reason."""
        kept = self._kept(run)
        if not kept.targets or not kept.attacks:
            return
        n = run.n if self.first is None else min(run.n, self.first)
        benchmark(
            self.data, self.folder(run), preset=self.tier.preset, n=n, labels=run.labels, device=self.device,
            defenses=kept.defenses or NONE, backbones=list(kept.backbones) or None,
            targets={name: self.target(name) for name in kept.targets}, attacks=kept.attacks,
            treatments={NONE: NONE, **kept.treatments},
        )  # fmt: skip
        self.read(run)

    def read(self, run: Run) -> None:
        """Take up what the run's folder holds of it; where a stop came in between, say how much that is."""
        kept, folder = self._kept(run), self.folder(run)
        if not (folder / "rows.jsonl").exists():
            return
        self.folders = sorted({*self.folders, folder})
        asked = {(d, t) for d in (NONE, *kept.defenses) for t in (NONE, *kept.treatments)}
        through = {NONE, *(kept.backbones or (self.tier.preset.backbone,))}
        rows = read_lines(folder / "rows.jsonl")
        own = [
            row for row in rows
            if row["id"] < run.n and (row["defense"], row["treatment"]) in asked and row["backbone"] in through
            and row["target"] in kept.targets and row["attack"] in kept.attacks
        ]  # fmt: skip
        self.found.add(run.labels, own)
        wanted = min(run.n, len(self.data))
        lines = [stopped(cell, count, wanted) for cell, count in Counter(map(cell_of, own)).items() if count < wanted]
        self.found.left_out += [line for line in lines if line not in self.found.left_out]

    def folder(self, run: Run) -> Path:
        """Where the cells of all runs with the same labels are."""
        labels = "" if run.labels == "classifier" else f"-{run.labels}"
        return self.out / f"cells-{self.tier.name}{labels}"

    def _kept(self, run: Run) -> Run:
        def can(kind: str, name: str, model: str) -> bool:
            reason = unavailable(model)
            line = f"{kind} {name.removesuffix(BEHIND)}: {reason}"
            if reason is not None and line not in self.found.left_out:
                self.found.left_out.append(line)
            return reason is None

        def needed(function: Function | str) -> str:
            named = isinstance(function, str) and function != WHITE
            return str(function).removeprefix(REVERT) if named else self.tier.preset.backbone

        return replace(
            run,
            targets=tuple(t for t in run.targets if can("target", t, t.removesuffix(BEHIND))),
            backbones=tuple(b for b in run.backbones if can("backbone", b, b)),
            treatments={name: f for name, f in run.treatments.items() if can("treatment", name, needed(f))},
        )  # fmt: skip

    def target(self, name: str) -> str | nn.Module:
        """What the benchmark takes for a target's name: the name, or the model behind DiffPure."""
        model = name.removesuffix(BEHIND)
        return model if model == name else Purified(self.model(model), purifier(self.tier))

    # ------------------------------------------------------------ what no grid can say

    @property
    def protector(self) -> Protector:
        return _protector(self.tier.preset, self.device)

    def model(self, name: str) -> nn.Module:
        return load_model(name, self.protector.device)

    def originals(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n pictures and their labels, on the device."""
        device = self.protector.device
        return self.data.floats(0, n).to(device), self.data.labels[:n].to(device)

    def defended(
        self, run: Run, defense: str, *, backbone: str | None = None, treatment: str = NONE, n: int | None = None
    ) -> Tensor | None:
        """The first n pictures, or all, that `measure(run)` wrote; None where they were left out."""
        cell = Cell(defense, backbone or self.tier.preset.backbone, treatment, "", "")
        place = defended_place if treatment == NONE else treated_place
        paths = [place(self.folder(run), cell, i) for i in range(min(n or run.n, len(self.data)))]
        return read_png(paths).to(self.protector.device) if all(path.exists() for path in paths) else None

    def remember(self, name: str, function: "partial[Any]") -> Any:
        """What the function returns, JSON, from the folder's extras.json if it was called alike before."""
        weights = _checksums([*function.args, *function.keywords.values()])
        device = self.protector.device.type
        identity = f"{function_identity(function)}, {weights}, {versions()}, {device}"
        key = f"{name} {hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        path = self.out / "extras.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if key not in known:
            with seeded(0, self.protector.device):
                known[key] = function()
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps(known, indent=1) + "\n")
        return known[key]

    def costs(self, defenses: Mapping[str, Function], backbones: tuple[str, ...] = ()) -> None:
        """Passes and seconds of each defence on each backbone, into `found.extras["cost"]`."""
        x, _ = self.originals(COUNTED)
        aims = self.protector.labels(self.protector.probabilities(x))
        table = self.found.extras.setdefault("cost", {})
        for backbone in backbones or (self.tier.preset.backbone,):
            if unavailable(backbone) is not None:
                continue
            for name, defense in defenses.items():
                call = partial(cost, defense, backbone, x, aims, eps=self.tier.preset.eps)
                table[f"{name} on {backbone}"] = self.remember(f"cost of {name}", call)

    def command(self, table: str) -> str:
        return f"mspd reproduce {table} --tier {self.tier.name}" + (f" --first {self.first}" if self.first else "")

    def day(self) -> str:
        """Of the newest measurement."""
        files = [*self.out.glob(f"cells-{self.tier.name}*/rows.jsonl"), *self.out.glob("extras.json")]
        newest = max((path.stat().st_mtime for path in files), default=0.0)
        return datetime.fromtimestamp(newest, UTC).date().isoformat()

    def settings(self) -> dict[str, Any]:
        """The tier, and the benchmark's settings of each folder that was measured into."""
        texts = {path.name: (path / "settings.json").read_text(encoding="utf-8") for path in self.folders}
        return {
            "tier": asdict(self.tier),
            "benchmark": {name: in_short(json.loads(text)) for name, text in texts.items()},
        }


def stopped(cell: Cell, count: int, wanted: int) -> str:
    """The line on a cell that has fewer pictures than it should."""
    return f"{cell.defense}{cell.then}, {cell.target}, {cell.attack}: stopped after {count} of {wanted} pictures"


@cache
def _protector(preset: Any, device: str) -> Protector:
    return Protector(preset, device=device)


def unavailable(model: str) -> str | None:
    """Why a model cannot be used; None where it can."""
    if ":" not in model and not model.endswith(".safetensors") and model not in list_models():
        return "not shipped"
    try:
        card_of(model)
    except MspdError as error:
        return str(error)
    return None


def _checksums(value: Any) -> list[str]:
    """Of all models that are named somewhere in a function's arguments."""
    if isinstance(value, Mapping):
        return _checksums(list(value.values()))
    if isinstance(value, list):
        return [checksum for each in value for checksum in _checksums(each)]
    return [model_identity(value)] if isinstance(value, str) and unavailable(value) is None else []
