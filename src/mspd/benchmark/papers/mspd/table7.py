"""Table VII: forward alone, backward alone, the naive cascade, and ours."""

from functools import partial

from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import COST, Ordering, Report, above, cost_cell, percent, within
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, baselines, ours

TITLE = "Table VII: forward and backward alone, the naive cascade, and ours; AutoAttack"
ATTACK, FOUR = "AutoAttack", "MCGS epochs FFBB"
#: seconds, clean, robust
PAPER = {
    "UnAdv (100 epochs)": (38.36, 93.1, 74.0),
    "UnAdv (2 epochs)": (0.55, 93.1, 77.1),
    "Bi-Level (100 epochs)": (33.92, 92.4, 82.2),
    "Bi-Level (2 epochs)": (0.56, 92.8, 80.5),
    "UnAdv + Bi-Level (2 epochs)": (0.49, 92.8, 80.9),
    "Ours (2 epochs)": (0.02, 95.9, 86.3),
    "Ours (4 epochs)": (0.04, 95.9, 86.2),
}


def names(tier: Tier) -> list[str]:
    """The defences in the rows' order."""
    return [tier.unadv, "UnAdv-2", tier.bilevel, "Bi-Level-2", "UnAdv + Bi-Level-2", OURS, FOUR]


def runs(tier: Tier) -> list[Run]:
    known = {**baselines(tier), **ours(tier), **ours(tier, epochs="FFBB")}
    return [Run((tier.target,), attacks(tier, ATTACK), tier.n_strong, {name: known[name] for name in names(tier)})]


def extras(study: Study) -> None:
    study.costs(runs(study.tier)[0].defenses)


def report(found: Found, tier: Tier) -> Report:
    fields = {row: found.get(tier.target, ATTACK, name) for row, name in zip(PAPER, names(tier), strict=True)}
    costs = found.extras.get("cost", {})
    shown = partial(percent, of=tier.n_strong)
    rows = [
        [row, cost_cell(costs, f"{name} on {found.backbone}", seconds), shown(fields[row], "clean", clean),
         shown(fields[row], "robust", robust)]
        for (row, (seconds, clean, robust)), name in zip(PAPER.items(), names(tier), strict=True)
    ]  # fmt: skip
    unadv, unadv2, bilevel, bilevel2, naive, mine, four = fields.values()
    orderings: list[Ordering] = [
        above("UnAdv of 2 epochs at least that of 100", unadv2, unadv, by=-1e-6),
        above("Bi-Level of 100 epochs at least that of 2", bilevel, bilevel2, by=-1e-6),
        above("naive cascade at least UnAdv of 2 epochs - 0.5", naive, unadv2, by=-0.5),
        above("naive cascade at least Bi-Level of 2 epochs - 0.5", naive, bilevel2, by=-0.5),
        *(above(f"Ours (2 epochs) above {row}", mine, fields[row]) for row in list(PAPER)[:5]),
        within("Ours of 4 epochs within 1 point of 2", four, mine, 1.0),
    ]
    return Report(["defence", "cost", "clean", "robust"], rows, orderings, [COST])
