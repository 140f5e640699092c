"""Table VI: the defences on robust models that none of them has seen."""

from pathlib import Path

from mspd.benchmark.papers.mspd.plots import gains
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, percent
from mspd.benchmark.papers.mspd.study import BEHIND, Field, Found, Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, baselines, ours

TITLE = "Table VI: preemptive defences for ten unseen models, AutoAttack"
ATTACK = "AutoAttack"
COLUMNS = ("No Pre.", "DiffPure", "UnAdv", "Bi-Level", "Ours")
#: clean and robust accuracy in the columns' order
PAPER = {
    "WideResNet-94-16": ((93.9, 91.9, 93.1, 92.4, 95.9), (74.0, 79.4, 74.0, 82.2, 86.3)),
    "RaWideResNet-70-16": ((93.5, 91.2, 92.8, 92.0, 95.3), (71.5, 77.9, 72.0, 81.0, 86.0)),
    "WideResNet-70-16": ((93.3, 91.2, 92.3, 91.8, 95.3), (71.2, 76.2, 71.6, 81.0, 85.8)),
    "WideResNet-34-10": ((91.5, 89.3, 90.9, 90.4, 95.0), (62.1, 73.7, 64.1, 76.0, 80.9)),
    "WideResNet-28-10": ((93.4, 91.4, 92.5, 91.9, 95.7), (64.8, 74.7, 65.9, 77.4, 82.9)),
    "PreActResNet-18": ((84.1, 84.0, 86.1, 87.3, 91.6), (42.4, 62.6, 43.5, 55.1, 61.5)),
    "ResNeSt-152": ((86.9, 86.8, 87.8, 87.8, 92.5), (62.7, 69.9, 63.9, 73.1, 78.5)),
    "ResNet-50": ((86.6, 85.5, 88.3, 88.6, 93.2), (52.0, 65.3, 54.7, 67.7, 72.0)),
    "ResNet-18": ((86.6, 84.6, 87.7, 88.4, 92.6), (51.4, 67.2, 54.1, 67.1, 72.9)),
    "XCiT-L12": ((92.8, 91.2, 91.8, 91.5, 95.3), (57.9, 70.3, 59.3, 70.4, 76.2)),
}
#: mean lead of Ours in robust accuracy over no defence and over Bi-Level
PAPER_GAINS = (17.3, 5.2)


def runs(tier: Tier) -> list[Run]:
    known = {**baselines(tier), **ours(tier)}
    defenses = {name: known[name] for name in (tier.unadv, tier.bilevel, OURS)}
    strong, targets = attacks(tier, ATTACK), tuple(tier.targets.values())
    return [
        Run(targets, strong, tier.n_strong, defenses),
        Run(tuple(target + BEHIND for target in targets), strong, tier.n_strong),
    ]


def _column(found: Found, tier: Tier, target: str, column: str) -> Field | None:
    if column == "DiffPure":
        return found.get(target + BEHIND, ATTACK)
    names = {"No Pre.": "none", "UnAdv": tier.unadv, "Bi-Level": tier.bilevel, "Ours": OURS}
    return found.get(target, ATTACK, names[column])


def report(found: Found, tier: Tier) -> Report:
    rows, orderings = [], []
    leads: dict[str, list[float]] = {"No Pre.": [], "Bi-Level": []}
    for model, published in PAPER.items():
        target = tier.targets.get(model)
        if target is None:
            continue
        fields = {column: _column(found, tier, target, column) for column in COLUMNS}
        for what, values in zip(("clean", "robust"), published, strict=True):
            cells = [percent(fields[c], what, value) for c, value in zip(COLUMNS, values, strict=True)]
            rows.append([model if what == "clean" else "", target if what == "clean" else "", what, *cells])
            for column in ("No Pre.", "UnAdv", "Bi-Level"):
                claim = f"{target}: Ours above {column}, {what}"
                orderings.append(above(claim, fields["Ours"], fields[column], what=what))
        mine = fields["Ours"]
        for column, values_of in leads.items():
            other = fields[column]
            if mine is not None and other is not None:
                values_of.append(100 * float(mine.robust.double().mean() - other.robust.double().mean()))
    for (column, values_of), paper in zip(leads.items(), PAPER_GAINS, strict=True):
        claim = f"mean robust gain over {column}" + (" at least 5 points" if column == "No Pre." else " above 0")
        if values_of:
            lead = sum(values_of) / len(values_of)
            holds = lead >= 5 if column == "No Pre." else lead > 0
            orderings.append(Ordering(claim, holds, f"{lead:+.1f} over {len(values_of)} targets; paper {paper:+.1f}"))
        else:
            orderings.append(Ordering(claim, None, ""))
    missing = [model for model in PAPER if model not in tier.targets]
    remarks = [f"No model of this tier stands for {', '.join(missing)}."] if missing else []
    return Report(["paper's model", "here", "", *COLUMNS], rows, orderings, remarks)


def plot(study: Study, out: Path) -> None:
    found, tier = study.found, study.tier
    series = {
        column: {
            target: (_column(found, tier, target, "No Pre."), _column(found, tier, target, column))
            for target in tier.targets.values()
        }
        for column in COLUMNS[1:]
    }
    gains(series, "gain in robust accuracy over no defence, points", out / "table6.png")
