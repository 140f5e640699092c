"""Table IV: every preemptive defence against AutoAttack, in both norms and both versions."""

from functools import partial

from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import COST, Report, above, cost_cell, percent
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import Tier, attacks, baselines, methods, ours

TITLE = "Table IV: preemptive defences against AutoAttack"
ATTACKS = ("AutoAttack", "AutoAttack L2", "AutoAttack rand")
#: seconds, clean, standard Linf, standard L2, rand Linf; on CIFAR-10
PAPER = {
    "No Pre.": (None, 93.9, 74.0, 70.4, 74.6),
    "UnAdv": (38.36, 93.1, 74.0, 71.2, 74.3),
    "Bi-Level": (33.92, 92.4, 82.2, 78.4, 82.2),
    "Ours": (0.02, 95.9, 86.3, 83.1, 86.4),
}
IMAGENET = {
    "No Pre.": (None, 93.0, 67.0, 59.3, 67.5),
    "UnAdv": (55.13, 93.4, 70.1, 61.9, 70.9),
    "Bi-Level": (37.84, 93.6, 71.6, 62.9, 72.4),
    "Ours": (0.26, 94.9, 78.2, 68.2, 79.1),
}


def runs(tier: Tier) -> list[Run]:
    known = {**baselines(tier), **ours(tier)}
    defenses = {name: known[name] for name in methods(tier).values() if name != "none"}
    return [Run((tier.target,), attacks(tier, *ATTACKS), tier.n_strong, defenses)]


def extras(study: Study) -> None:
    for run in runs(study.tier):
        study.costs(run.defenses)


def report(found: Found, tier: Tier) -> Report:
    def get(row: str, attack: str = ATTACKS[0]) -> Field | None:
        return found.get(tier.target, attack, methods(tier)[row])

    costs = found.extras.get("cost", {})
    shown = partial(percent, of=tier.n_strong)
    rows = [
        [row, cost_cell(costs, f"{methods(tier)[row]} on {found.backbone}", seconds), shown(get(row), "clean", clean),
         *(shown(get(row, attack), "robust", value) for attack, value in zip(ATTACKS, robust, strict=True))]
        for row, (seconds, clean, *robust) in (IMAGENET if tier.imagenet else PAPER).items()
    ]  # fmt: skip
    orderings = [above("Ours at least 3 points above no defence, Linf", get("Ours"), get("No Pre."), by=3)]
    for attack in ATTACKS:
        orderings += [
            above(f"{attack}: Ours above Bi-Level", get("Ours", attack), get("Bi-Level", attack)),
            above(f"{attack}: Bi-Level above UnAdv", get("Bi-Level", attack), get("UnAdv", attack)),
            above(f"{attack}: Ours above no defence", get("Ours", attack), get("No Pre.", attack)),
        ]
    orderings += [
        above("clean: Ours above no defence", get("Ours"), get("No Pre."), what="clean"),
        *(above(f"{row}: rand at least standard - 1", get(row, ATTACKS[2]), get(row), by=-1) for row in PAPER),
    ]
    head = ["defence", "cost", "clean", "standard Linf", f"standard L2 ({tier.eps_l2:.2g})", "rand Linf"]
    return Report(head, rows, orderings, [COST])
