"""Table VI: the defences on robust models that none of them has seen."""

from pathlib import Path

from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.plots import Interval, gains
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, gain, percent
from mspd.benchmark.papers.mspd.study import BEHIND, Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, baselines, methods, ours

TITLE = "Table VI: preemptive defences for ten unseen models"
ATTACKS = ("AutoAttack", "PGD")
COLUMNS = ("No Pre.", "DiffPure", "UnAdv", "Bi-Level", "Ours")
#: the baselines at the cost of ours, which the paper has for one target only (Table VII)
QUICK = ("UnAdv-2", "Bi-Level-2")
#: clean and AutoAttack accuracy in the columns' order
PAPER: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
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
    "ConvNeXt (not the paper's)": None,
}
#: mean lead of Ours in robust accuracy over no defence and over Bi-Level
PAPER_GAINS = {"No Pre.": 17.3, "Bi-Level": 5.2}


def runs(tier: Tier) -> list[Run]:
    known = {**baselines(tier), **ours(tier)}
    published = {name: known[name] for name in (tier.unadv, tier.bilevel, OURS)}
    strong, weak, targets = attacks(tier, "AutoAttack"), attacks(tier, "PGD"), tuple(tier.targets.values())
    return [
        Run(targets, weak, tier.n_wide, {**published, **{name: known[name] for name in QUICK}}),
        Run(targets, strong, tier.n_strong, published),
        Run(tuple(target + BEHIND for target in targets), strong, tier.n_strong),
    ]


def _column(found: Found, tier: Tier, target: str, column: str, attack: str) -> Field | None:
    if column == "DiffPure":
        return found.get(target + BEHIND, attack)
    return found.get(target, attack, methods(tier).get(column, column))


def report(found: Found, tier: Tier) -> Report:
    columns = (*COLUMNS[:-1], *QUICK, COLUMNS[-1])
    rows, orderings = [], []
    leads: dict[tuple[str, str], list[float]] = {(a, c): [] for a in ATTACKS for c in ("No Pre.", "Bi-Level")}
    for model, published in PAPER.items():
        target = tier.targets.get(model)
        if target is None:
            continue
        fields = {(a, c): _column(found, tier, target, c, a) for a in ATTACKS for c in columns}
        clean = {c: _larger(fields["PGD", c], fields["AutoAttack", c]) for c in columns}
        paper = dict.fromkeys(("clean", *ATTACKS), dict.fromkeys(columns))
        if published is not None:
            paper |= {what: {**paper[what], **dict(zip(COLUMNS, values, strict=True))}
                      for what, values in zip(("clean", "AutoAttack"), published, strict=True)}  # fmt: skip
        rows.append(
            [model, target, "clean", *(percent(clean[c], "clean", paper["clean"][c], of=tier.n_wide) for c in columns)]
        )
        for attack in ATTACKS:
            of = tier.n_strong if attack == "AutoAttack" else tier.n_wide
            cells = (percent(fields[attack, c], "robust", paper[attack][c], of=of) for c in columns)
            rows.append(["", "", attack, *cells])
        for column in columns:
            if column not in ("DiffPure", "Ours"):
                claim = f"{target}: Ours above {column}"
                orderings.append(above(f"{claim}, clean", clean["Ours"], clean[column], what="clean"))
                orderings += [above(f"{claim}, {a}", fields[a, "Ours"], fields[a, column]) for a in ATTACKS]
        for (attack, column), values_of in leads.items():
            lead_here = gain(fields[attack, column], fields[attack, "Ours"])
            if lead_here is not None:
                values_of.append(100 * lead_here[0])
    for (attack, column), values_of in leads.items():
        claim = f"{attack}: mean robust gain over {column}" + (" at least 5 points" if column == "No Pre." else "")
        if values_of:
            lead = sum(values_of) / len(values_of)
            holds = lead >= 5 if column == "No Pre." else lead > 0
            paper_lead = PAPER_GAINS[column]
            numbers = f"{lead:+.1f} over {len(values_of)} targets; paper, AutoAttack, {paper_lead:+.1f}"
            orderings.append(Ordering(claim, holds, numbers))
        else:
            orderings.append(Ordering(claim, None, ""))
    missing = [model for model in PAPER if model not in tier.targets]
    remarks = [f"No model of this tier stands for {', '.join(missing)}."] if missing else []
    remarks.append(
        f"PGD, and clean beside it: the first {tier.n_wide} pictures, AutoAttack: the first {tier.n_strong}, or as "
        "many as the cell says. An ordering compares the pictures that both have."
    )
    return Report(["paper's model", "here", "", *columns], rows, orderings, remarks)


def _larger(a: Field | None, b: Field | None) -> Field | None:
    """The one of more pictures; clean accuracy is the same in both."""
    return max((f for f in (a, b) if f is not None), key=len, default=None)


def plot(study: Study, path: Path) -> None:
    """The gains on each target, of the defences that were measured on as many pictures as ours."""
    found, tier = study.found, study.tier
    shown = [(attack, column) for attack in ("PGD", "AutoAttack") for column in ("UnAdv", "Bi-Level", "Ours")]
    series: dict[str, dict[str, Interval | None]] = {f"{column}, {attack}": {} for attack, column in shown}
    for target in tier.targets.values():
        for attack, column in shown:
            plain, ours, own = (_column(found, tier, target, c, attack) for c in ("No Pre.", "Ours", column))
            fewer = own is not None and ours is not None and len(own) < len(ours)
            series[f"{column}, {attack}"][target] = None if fewer else gain(plain, own)
    gains(series, "gain in robust accuracy over no defence, points", path)
