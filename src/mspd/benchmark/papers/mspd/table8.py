"""Table VIII: A5, the defence by a generator, under our small budget."""

from functools import partial

from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import COST, Ordering, Report, above, cost_cell, percent, within
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.table4 import ATTACKS
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, baselines, ours

TITLE = "Table VIII: A5 against AutoAttack"
#: seconds, clean, standard Linf, standard L2, rand Linf
PAPER = {
    "No Pre.": (None, 93.9, 74.0, 70.4, 74.6),
    "A5": (0.01, 93.3, 73.7, 70.2, 74.4),
    "Ours": (0.02, 95.9, 86.3, 83.1, 86.4),
}
NAMES = {"No Pre.": "none", "A5": "A5", "Ours": OURS}


def runs(tier: Tier) -> list[Run]:
    defenses = {"A5": baselines(tier)["A5"], **ours(tier)}
    return [Run((tier.target,), attacks(tier, *ATTACKS), tier.n_strong, defenses)]


def extras(study: Study) -> None:
    study.costs(runs(study.tier)[0].defenses)


def report(found: Found, tier: Tier) -> Report:
    def get(row: str, attack: str = ATTACKS[0]) -> Field | None:
        return found.get(tier.target, attack, NAMES[row])

    costs = found.extras.get("cost", {})
    shown = partial(percent, of=tier.n_strong)
    rows = [
        [row, cost_cell(costs, f"{NAMES[row]} on {found.backbone}", seconds), shown(get(row), "clean", clean),
         *(shown(get(row, attack), "robust", value) for attack, value in zip(ATTACKS, robust, strict=True))]
        for row, (seconds, clean, *robust) in PAPER.items()
    ]  # fmt: skip
    orderings: list[Ordering] = []
    for attack in ATTACKS:
        orderings += [
            within(f"{attack}: A5 within 2 points of no defence", get("A5", attack), get("No Pre.", attack), 2.0),
            above(f"{attack}: Ours above A5", get("Ours", attack), get("A5", attack)),
        ]
    head = ["defence", "cost", "clean", "standard Linf", f"standard L2 ({tier.eps_l2:g})", "rand Linf"]
    return Report(head, rows, orderings, [COST, "A5 looks at no backbone: it is one pass of its own generator."])
