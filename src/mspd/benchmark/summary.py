"""From rows to accuracies, intervals and gains: pure functions of the rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mspd.benchmark.grid import NONE, Cell
from mspd.benchmark.store import cell_of
from mspd.metrics import mcnemar, paired_interval, wilson

Interval = tuple[float, float]
Gain = tuple[float, float, float]


@dataclass(frozen=True)
class Score:
    """One cell over all its n images. An image that is wrong before the attack counts as not robust.

    `robust_acc` is the verdict on what the attack returned, `robust_acc_8bit` on the same rounded to 8 bits. Intervals
    are Wilson's, 95 %. Gains are (difference, low, high) over no defence on the same images, None without one to
    compare with; a treated picture is compared with the original treated the same way where that was measured.
    The defence's norms, SSIM and LPIPS (None where it was not measured) are means over all images, of the picture as it
    is attacked, against the original; PSNR (dB) over those that differ, None where none does. The attack's norms,
    against the picture that it was given, and `queries` are means over the images that it broke; None where it broke
    none or does not count.
    """

    cell: Cell
    n: int
    clean_acc: float
    clean_interval: Interval
    robust_acc: float
    robust_interval: Interval
    robust_acc_8bit: float
    clean_gain: Gain | None
    robust_gain: Gain | None
    defense_linf: float
    defense_l2: float
    ssim: float
    psnr: float | None
    lpips: float | None
    attack_linf: float | None
    attack_l2: float | None
    queries: float | None


@dataclass(frozen=True)
class Pair:
    """Two cells that differ in the defence alone, or in its backbone alone, on the n images that both have.

    `clean` and `robust` are (difference, low, high): what the second has over the first. `clean_p` and `robust_p` are
    the p-values of McNemar's exact test.
    """

    first: Cell
    second: Cell
    n: int
    clean: Gain
    clean_p: float
    robust: Gain
    robust_p: float


@dataclass(frozen=True)
class Summary:
    """What `benchmark` returns: the folder, the settings, a score for each cell, and the defences against each
    other."""

    out: Path
    settings: dict[str, Any]
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...] = ()

    def json(self) -> str:
        scores = [{**asdict(score.cell), **{k: v for k, v in asdict(score).items() if k != "cell"}}
                  for score in self.scores]  # fmt: skip
        pairs = [asdict(pair) for pair in self.pairs]
        return json.dumps({"settings": self.settings, "scores": scores, "pairs": pairs}, indent=1) + "\n"


def summarise(rows: Sequence[dict[str, Any]]) -> tuple[tuple[Score, ...], tuple[Pair, ...]]:
    """One score for each cell, and the defences against each other, in the order in which the cells first appear."""
    cells: dict[Cell, list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault(cell_of(row), []).append(row)
    verdicts = {cell: _verdicts(found) for cell, found in cells.items()}
    scores = tuple(_score(cell, found, verdicts) for cell, found in cells.items())
    return scores, tuple(_pair(a, b, verdicts) for a, b in combinations(cells, 2) if _comparable(a, b))


def _comparable(a: Cell, b: Cell) -> bool:
    if NONE in (a.defense, b.defense):
        return False
    alike = (a.treatment, a.target, a.attack) == (b.treatment, b.target, b.attack)
    return alike and (a.defense == b.defense) != (a.backbone == b.backbone)


def _pair(first: Cell, second: Cell, verdicts: dict[Cell, tuple[Tensor, Tensor, Tensor]]) -> Pair:
    a, b = verdicts[first], verdicts[second]
    n = min(len(a[0]), len(b[0]))
    clean, robust = ((x[:n], y[:n]) for x, y in zip(a[:2], b[:2], strict=True))
    return Pair(
        first, second, n, clean=paired_interval(*clean), clean_p=mcnemar(*clean), robust=paired_interval(*robust),
        robust_p=mcnemar(*robust),
    )  # fmt: skip


def _verdicts(rows: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """(clean, robust, robust after rounding), boolean (n,), in the order of the ids."""
    ordered = sorted(rows, key=lambda row: row["id"])
    clean = [row["before"] == row["label"] for row in ordered]
    held = [[right and row[key] == row["label"] for right, row in zip(clean, ordered, strict=True)]
            for key in ("after", "after_8bit")]  # fmt: skip
    return torch.tensor(clean), torch.tensor(held[0]), torch.tensor(held[1])


def _score(cell: Cell, rows: Sequence[dict[str, Any]], verdicts: dict[Cell, tuple[Tensor, Tensor, Tensor]]) -> Score:
    clean, robust, rounded = verdicts[cell]
    n = len(rows)
    plain = [Cell(NONE, NONE, treatment, cell.target, cell.attack) for treatment in (cell.treatment, NONE)]
    base = next((verdicts[c] for c in plain if c in verdicts and c != cell), None)
    both = 0 if base is None else min(n, len(base[0]))  # cells grow from the front: the images that both have
    broken = [row for row in rows if row["before"] == row["label"] != row["after"]]

    def mean(key: str) -> float:
        return round(float(sum(row[key] for row in rows)) / n, 6)

    def mean_of(some: Sequence[dict[str, Any]], key: str) -> float | None:
        values = [row[key] for row in some if row.get(key) is not None]
        return round(float(sum(values)) / len(values), 6) if values else None

    return Score(
        cell=cell, n=n, clean_acc=int(clean.sum()) / n, clean_interval=wilson(int(clean.sum()), n),
        robust_acc=int(robust.sum()) / n, robust_interval=wilson(int(robust.sum()), n),
        robust_acc_8bit=int(rounded.sum()) / n,
        clean_gain=None if base is None else paired_interval(base[0][:both], clean[:both]),
        robust_gain=None if base is None else paired_interval(base[1][:both], robust[:both]),
        defense_linf=mean("defense_linf"), defense_l2=mean("defense_l2"), ssim=mean("ssim"),
        psnr=mean_of(rows, "psnr"), lpips=mean_of(rows, "lpips"),
        attack_linf=mean_of(broken, "attack_linf"), attack_l2=mean_of(broken, "attack_l2"),
        queries=mean_of(broken, "queries"),
    )  # fmt: skip


def points(acc: float, interval: Interval, gain: Gain | None) -> str:
    """ "58.5 % [55.4, 61.5] (+9.4, +7.5 to +11.3)": accuracy, its interval and the gain in points."""
    text = f"{acc:.1%} [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]"
    return text if gain is None else f"{text} ({_gain(gain)})"


def _gain(gain: Gain) -> str:
    return f"{gain[0] * 100:+.1f}, {gain[1] * 100:+.1f} to {gain[2] * 100:+.1f}"


def markdown(summary: Summary) -> str:
    """The scores as a table, with what they belong to."""
    s = summary.settings
    adv = f"{s['eps_adv'] * 255:g}/255" if s["norm"] == "Linf" else f"{s['eps_adv']:g}"
    lines = [
        f"Preset {s['preset']['name']}, eps_def {s['eps_def'] * 255:g}/255, eps_adv {adv} "
        f"({s['norm']}, around the picture as it is attacked; some attacks may have an eps of their own), "
        f"seed {s['seed']}, {s['versions']}, on {s['device']}. "
        "Scored are 8-bit pictures decoded from files. In square brackets the 95 % interval, in round ones the gain "
        "over no defence on the same images, in points, with its interval.",
        "",
        "| defence | backbone | treatment | target | attack | n | clean | robust | SSIM | PSNR, dB | LPIPS | queries |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for score in summary.scores:
        c = score.cell
        clean = points(score.clean_acc, score.clean_interval, score.clean_gain)
        robust = points(score.robust_acc, score.robust_interval, score.robust_gain)
        psnr, queries = ("" if v is None else f"{v:.{d}f}" for v, d in ((score.psnr, 1), (score.queries, 0)))
        lpips = "" if score.lpips is None else f"{score.lpips:.4f}"
        axes = (c.defense, c.backbone, c.treatment, c.target, c.attack)
        names = " | ".join(name.replace("|", "\\|") for name in axes)
        lines.append(f"| {names} | {score.n} | {clean} | {robust} | {score.ssim:.4f} | {psnr} | {lpips} | {queries} |")
    if summary.pairs:
        lines += [
            "",
            "The defences against each other: what the second has over the first on the images that both have, in "
            "points, with its interval and the p-value of McNemar's exact test.",
            "",
            "| first | second | treatment | target | attack | n | clean | p | robust | p |",
            "|---|---|---|---|---|---:|---:|---:|---:|---:|",
        ]
    for pair in summary.pairs:
        a, b = pair.first, pair.second
        sides = [c.defense if a.backbone == b.backbone else f"{c.defense} on {c.backbone}" for c in (a, b)]
        names = " | ".join(name.replace("|", "\\|") for name in (*sides, a.treatment, a.target, a.attack))
        lines.append(f"| {names} | {pair.n} | {_gain(pair.clean)} | {pair.clean_p:.2g} | {_gain(pair.robust)} "
                     f"| {pair.robust_p:.2g} |")  # fmt: skip
    return "\n".join(lines) + "\n"
