"""Fig. 8: what is left of the defence after somebody tries to take it back."""

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from mspd.benchmark.papers.mspd.found import Field, Found
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
    plain,
    within,
)  # fmt: skip
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours, treatments
from mspd.metrics import cosine
from mspd.reversion import criterion

TITLE = "Fig. 8: reversions and purifications of the defence"
PGD, ATTACK = "PGD", "AutoAttack"
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
    defense, back = ours(tier), treatments(tier)
    return [
        Run(targets(tier), attacks(tier, PGD), tier.n, defense, treatments=back),
        Run((tier.light,), attacks(tier, ATTACK), tier.n, defense, treatments=back),
    ]


def targets(tier: Tier) -> tuple[str, ...]:
    return tuple(dict.fromkeys((tier.light, tier.target, tier.second)))


def extras(study: Study) -> None:
    """Cosine of the defence's perturbation and of what a reversion takes back (the appendix's alpha*), by row."""
    run = runs(study.tier)[0]
    x, _ = study.originals(run.n)
    defended = study.defended(run, OURS)
    found = study.found.extras["cosine"] = {}
    for row, treatment in ROWS.items():
        back = None if treatment in (None, "none") else study.defended(run, OURS, treatment=treatment)
        if defended is not None and back is not None:
            found[row] = round(float(cosine(defended - x, defended - back).nanmean()), 4)


def flags(plain: Field | None, defended: Field | None, reverted: Field | None) -> str:
    """The three parts of a successful reversion, "yes, yes, yes" where it is one, on the pictures that all have."""
    if plain is None or defended is None or reverted is None:
        return NOTHING
    n = min(map(len, (plain, defended, reverted)))
    if n < 2:
        return NOTHING
    plain, defended, reverted = (each.first(n) for each in (plain, defended, reverted))
    pair = (defended.lpips, reverted.lpips)
    known = None if any(bool(v.isnan().any()) for v in pair) else pair
    found = criterion((plain.robust, defended.robust, reverted.robust), (defended.ssim, reverted.ssim), known)
    return ", ".join({True: "yes", False: "no", None: NOTHING}[flag] for flag in asdict(found).values())


def report(found: Found, tier: Tier) -> Report:
    def fields(target: str, attack: str) -> dict[str, Field | None]:
        return {
            row: found.get(target, attack)
            if treatment is None
            else found.get(target, attack, OURS, treatment=treatment)
            for row, treatment in ROWS.items()
        }

    strong, weak = fields(tier.light, ATTACK), {target: fields(target, PGD) for target in targets(tier)}
    light, *others = weak.values()
    cosines = found.extras.get("cosine", {})
    rows = [
        [row, plain(cosines.get(row), ".2f"), number(mean(light[row], "ssim"), ssim),
         number(mean(light[row], "lpips"), lpips, ".4f"), percent(light[row], "clean", clean),
         percent(strong[row], "robust", robust), percent(light[row], "robust", None),
         *(percent(other[row], key, None) for other in others for key in ("clean", "robust")),
         flags(strong["original"], strong["no reversion"], strong[row])
         if row not in ("original", "no reversion") else ""]
        for row, (ssim, lpips, clean, robust) in PAPER.items()
    ]  # fmt: skip
    ranked = ("white", "no reversion", "gray", "black", "JPEG", "DiffPure")
    orderings: list[Ordering] = [
        numbers_above(f"SSIM: {a} above {b}", mean(light[a], "ssim"), mean(light[b], "ssim"), ".4f")
        for a, b in pairwise(ranked)
    ]
    orderings += [
        numbers_above(f"LPIPS: {a} above {b}", mean(light[a], "lpips"), mean(light[b], "lpips"), ".4f")
        for b, a in pairwise(ranked)
    ]
    orderings += [
        numbers_above(f"cosine: {a} above {b}", cosines.get(a), cosines.get(b), ".2f")
        for a, b in pairwise(("white", "gray", "black"))
    ]
    measured = {f"{ATTACK}, {tier.light}": strong, **{f"{PGD}, {target}": known for target, known in weak.items()}}
    for label, known in measured.items():
        held = known["no reversion"]
        orderings += [
            above(f"robust, {label}: white falls below no reversion", held, known["white"]),
            above(f"robust, {label}: gray at least white", known["gray"], known["white"], by=-1e-6),
            above(f"robust, {label}: JPEG above gray", known["JPEG"], known["gray"]),
            above(f"robust, {label}: black above JPEG", known["black"], known["JPEG"]),
            within(f"robust, {label}: black within 3 points of no reversion", known["black"], held, 3.0),
            within(f"robust, {label}: DiffPure within 3 points of no reversion", known["DiffPure"], held, 3.0),
        ]
    remarks = [
        "Cosine: of the defence's perturbation and of what is taken back (alpha* in the paper's appendix).",
        "Reversion succeeds where all three of the last column are yes: robust accuracy (AutoAttack) falls to "
        "that of the original, SSIM to the original rises, LPIPS falls (the paper's criterion; "
        "'mspd.reversion.criterion').",
        LPIPS,
    ]
    first, *rest = weak
    head = ["", "cosine", "SSIM", "LPIPS", f"{first} clean", ATTACK, PGD,
            *(text for target in rest for text in (f"{target} clean", PGD)),
            "accuracy falls, SSIM rises, LPIPS falls"]  # fmt: skip
    return Report(head, rows, orderings, remarks)


def plot(study: Study, path: Path) -> None:
    run = runs(study.tier)[0]
    columns = {"original": study.originals(4)[0]}
    for row, treatment in ROWS.items():
        found = None if treatment is None else study.defended(run, OURS, treatment=treatment)
        if found is not None:
            columns[row] = found[:4]
    pictures(columns, columns["original"], path)
