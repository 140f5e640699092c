"""Fig. 8: what is left of the defence after somebody tries to take it back."""

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from mspd.benchmark.papers.mspd.plots import pictures
from mspd.benchmark.papers.mspd.report import (
    LPIPS,
    NOTHING,
    Ordering,
    Report,
    above,
    mean,
    number,
    numbers_above,
    percent,
    within,
)  # fmt: skip
from mspd.benchmark.papers.mspd.study import Field, Found, Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours, treatments
from mspd.reversion import criterion

TITLE = "Fig. 8: reversions and purifications of the defence, AutoAttack"
ATTACK = "AutoAttack"
ROWS = {"original": None, "no reversion": "none", "JPEG": "JPEG", "DiffPure": "DiffPure", "black": "black",
        "gray": "gray", "white": "white"}  # fmt: skip
#: SSIM, LPIPS, clean, robust
PAPER = {
    "original": (1.0, 0.0, 93.9, 74.0),
    "no reversion": (0.9618, 0.0061, 95.9, 86.3),
    "JPEG": (0.8912, 0.0120, 94.1, 78.5),
    "DiffPure": (0.8619, 0.0148, 95.1, 85.6),
    "black": (0.9421, 0.0067, 95.6, 85.2),
    "gray": (0.9447, 0.0066, 94.4, 76.5),
    "white": (0.9750, 0.0019, 94.4, 76.2),
}


def runs(tier: Tier) -> list[Run]:
    return [
        Run((tier.target,), attacks(tier, ATTACK), tier.n_strong, ours(tier), treatments=treatments(tier)),
    ]


def flags(plain: Field | None, defended: Field | None, reverted: Field | None) -> str:
    """The three parts of a successful reversion, "falls, rises, falls" where it is one."""
    if plain is None or defended is None or reverted is None:
        return NOTHING
    pair = (defended.lpips, reverted.lpips)
    known = None if any(bool(v.isnan().any()) for v in pair) else pair
    found = criterion((plain.robust, defended.robust, reverted.robust), (defended.ssim, reverted.ssim), known)
    return ", ".join({True: "yes", False: "no", None: NOTHING}[flag] for flag in asdict(found).values())


def report(found: Found, tier: Tier) -> Report:
    plain = found.get(tier.target, ATTACK)
    fields = {
        row: plain if treatment is None else found.get(tier.target, ATTACK, OURS, treatment=treatment)
        for row, treatment in ROWS.items()
    }
    defended = fields["no reversion"]
    rows = [
        [row, number(mean(each, "ssim"), ssim), number(mean(each, "lpips"), lpips), percent(each, "clean", clean),
         percent(each, "robust", robust),
         flags(plain, defended, each) if row not in ("original", "no reversion") else ""]
        for (row, (ssim, lpips, clean, robust)), each in zip(PAPER.items(), fields.values(), strict=True)
    ]  # fmt: skip
    ranked = ("white", "no reversion", "gray", "black", "JPEG", "DiffPure")
    orderings: list[Ordering] = [
        numbers_above(f"SSIM: {a} above {b}", mean(fields[a], "ssim"), mean(fields[b], "ssim"), ".4f")
        for a, b in pairwise(ranked)
    ]
    orderings += [
        above("robust: gray at least white", fields["gray"], fields["white"], by=-1e-6),
        above("robust: JPEG above gray", fields["JPEG"], fields["gray"]),
        above("robust: black above JPEG", fields["black"], fields["JPEG"]),
        within("robust: black within 3 points of no reversion", fields["black"], defended, 3.0),
        within("robust: DiffPure within 3 points of no reversion", fields["DiffPure"], defended, 3.0),
        above("robust: white falls below no reversion", defended, fields["white"]),
    ]
    remarks = [
        "Reversion succeeds where all three of the last column are yes: robust accuracy falls to that of the original, "
        "SSIM to the original rises, LPIPS falls (the paper's criterion; 'mspd.reversion.criterion').",
        LPIPS,
    ]
    head = ["", "SSIM", "LPIPS", "clean", "robust", "accuracy falls, SSIM rises, LPIPS falls"]
    return Report(head, rows, orderings, remarks)


def plot(study: Study, out: Path) -> None:
    run = runs(study.tier)[0]
    columns = {"original": study.originals(4)[0]}
    for row, treatment in ROWS.items():
        found = None if treatment is None else study.defended(run, OURS, treatment=treatment)
        if found is not None:
            columns[row] = found[:4]
    pictures(columns, columns["original"], out / "fig8.png")
