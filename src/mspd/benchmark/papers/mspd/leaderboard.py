"""The leaderboard: what every defence gains on targets it never saw, from the JSON files of the tables and figures."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mspd.benchmark.grid import NONE
from mspd.benchmark.papers.mspd.tier import OURS
from mspd.benchmark.store import write
from mspd.errors import UsageError

TITLE = "Leaderboard of preemptive defences"
#: figures whose cells are points of a curve, not defences to choose from
CURVES = ("fig4",)
#: by target, which pictures it reads right before and after the attack
Bits = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Standing:
    """A defence on a backbone under one attack: mean gains in points over `targets`, on the first `n` pictures, which
    all of them share; the interval is over pictures. `least` is the target that gains least, and what it gains; `ours`
    what MCGS on the tier's backbone gains on the same targets and pictures, None where it was not measured on them."""

    defense: str
    backbone: str
    targets: int
    n: int
    clean: float
    robust: float
    interval: tuple[float, float]
    least: tuple[str, float]
    ours: float | None


def leaderboard(out: str | Path, *, tier: str = "embedded") -> Path:
    """Write `out`/leaderboard.md from the files that `reproduce` wrote there; returns it. UsageError without any."""
    out = Path(out)
    found = [_result(path) for path in sorted(out.glob("*.json"))]
    results = [r for r in found if r and r["settings"]["tier"]["name"] == tier and r["item"] not in CURVES]
    if not results:
        others = sorted({r["settings"]["tier"]["name"] for r in found if r})
        remedy = (
            f"choose --tier {' or '.join(others)}" if others else f"measure some with 'mspd reproduce TABLE -o {out}'"
        )
        raise UsageError(f"{out}: no tables of the tier {tier} here; {remedy}")
    backbone = results[0]["settings"]["tier"]["preset"]["backbone"]
    lines = [
        f"# {TITLE}", "",
        "Gains over no defence on the same pictures, in points, averaged over the robust targets of Table VI (but "
        "the backbone itself); in square brackets the 95 % interval over pictures. Defences that were measured on "
        f"more targets come first, then those that gain more beside what MCGS on {backbone} gains on the same targets "
        "and pictures (last column), since not all pictures are alike. "
        f"From {', '.join(sorted(r['item'] for r in results))}, tier {tier}. "
        f"Made by `mspd reproduce leaderboard --tier {tier} -o DIR`.",
    ]  # fmt: skip
    robust = {target for result in results for target in result["settings"]["tier"]["targets"].values()}
    cells = [cell for result in results for cell in result["cells"] if cell["target"] in robust]
    for attack in sorted({cell["attack"] for cell in cells}):
        ranked = standings([cell for cell in cells if cell["attack"] == attack], backbone)
        if ranked:
            lines += [
                "",
                f"## {attack}",
                "",
                "| | defence | backbone | targets | pictures | clean | robust | least | MCGS there |",
            ]
            lines += ["| ---: | --- | --- | ---: | ---: | ---: | ---: | --- | ---: |"]
            lines += [f"| {place} | {_row(standing)} |" for place, standing in enumerate(ranked, 1)]
    page = out / "leaderboard.md"
    write(page, "\n".join(lines) + "\n")
    return page


def _result(path: Path) -> dict[str, Any] | None:
    """What `reproduce` wrote there; None for any other file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mine = path.stem == content["item"] and isinstance(content["settings"]["tier"]["name"], str)
        return content if mine and isinstance(content["cells"], list) else None
    except (ValueError, LookupError, TypeError):
        return None


def standings(cells: Iterable[dict[str, Any]], backbone: str) -> list[Standing]:
    """Of cells under one attack, as in the JSON files, the best first, beside MCGS on `backbone`. Left out: cells whose
    labels are not the classifier's, treated pictures, and targets that are the backbone or were not measured without a
    defence."""
    bits: dict[tuple[str, str], Bits] = {}
    for cell in cells:
        if cell["labels"] == "classifier" and cell["treatment"] == NONE and cell["target"] != cell["backbone"]:
            clean, robust = (_bits(cell[f"{what}_bits"]) for what in ("clean", "robust"))
            known = bits.setdefault((cell["defense"], cell["backbone"]), {})
            if cell["target"] not in known or len(known[cell["target"]][0]) < len(clean):
                known[cell["target"]] = clean, robust
    plain = bits.pop((NONE, NONE), {})
    ranked = [
        _standing(*names, own, plain, bits.get((OURS, backbone), {}))
        for names, own in bits.items()
        if own.keys() & plain.keys()
    ]
    beside = {s: -s.robust if s.ours is None else s.ours - s.robust for s in ranked}
    return sorted(ranked, key=lambda s: (-s.targets, s.ours is None, beside[s], -s.robust, s.defense, s.backbone))


def _standing(defense: str, backbone: str, own: Bits, plain: Bits, ours: Bits) -> Standing:
    targets = sorted(own.keys() & plain.keys())
    n = min(len(bits) for target in targets for bits in (own[target][0], plain[target][0]))
    clean, robust = (
        100 * torch.stack([own[target][part][:n] - plain[target][part][:n] for target in targets]) for part in (0, 1)
    )
    each = robust.mean(0)
    half = 1.96 * math.sqrt(float(each.var(correction=0)) / n)
    middle, lowest = float(each.mean()), int(robust.mean(1).argmin())
    shared = [target for target in targets if target in ours and len(ours[target][1]) >= n]
    there = [ours[target][1][:n] - plain[target][1][:n] for target in shared]
    return Standing(
        defense, backbone, len(targets), n, float(clean.mean()), middle, (middle - half, middle + half),
        (targets[lowest], float(robust.mean(1)[lowest])),
        100 * float(torch.stack(there).mean()) if len(there) == len(targets) else None,
    )  # fmt: skip


def _bits(text: str) -> Tensor:
    return torch.tensor([int(c) for c in text], dtype=torch.float64)


def _row(s: Standing) -> str:
    low, high = s.interval
    target, gain = s.least
    there = "" if s.ours is None else f"{s.ours:+.1f}"
    return (
        f"{s.defense} | {s.backbone} | {s.targets} | {s.n} | {s.clean:+.1f} | "
        f"{s.robust:+.1f} [{low:+.1f}, {high:+.1f}] | {gain:+.1f} on {target} | {there}"
    )
