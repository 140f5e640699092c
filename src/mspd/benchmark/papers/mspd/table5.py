"""Table V: the defences against eight attacks that they were not made for."""

from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, percent, within
from mspd.benchmark.papers.mspd.study import BEHIND, Run
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, baselines, methods, ours

TITLE = "Table V: defences against unseen attacks"
COLUMNS = ("No Pre.", "DiffPure", "UnAdv", "Bi-Level", "Ours")
#: robust accuracy in the columns' order
PAPER = {
    "CW": (80.8, 85.3, 82.6, 85.6, 90.0),
    "PGD": (77.1, 76.5, 77.8, 84.5, 88.1),
    "AutoAttack": (74.0, 79.4, 74.0, 82.2, 86.3),
    "RayS": (86.7, 83.0, 86.7, 87.9, 93.9),
    "Square": (77.2, 80.5, 77.8, 83.8, 87.8),
    "MCG": (76.9, 80.1, 77.4, 83.3, 87.7),
    "DeCoWA": (87.8, 81.1, 88.7, 89.6, 93.0),
    "BPDA+EOT": (76.7, 74.5, 77.4, 84.1, 87.7),
}
ADAPTIVE = "BPDA+EOT on DiffPure"


def runs(tier: Tier) -> list[Run]:
    known = {**baselines(tier), **ours(tier)}
    defenses = {name: known[name] for name in (tier.unadv, tier.bilevel, OURS)}
    plain = [name for name in PAPER if name != "BPDA+EOT"]
    return [
        Run((tier.target,), attacks(tier, *PAPER), tier.n_strong, defenses),
        Run((tier.target + BEHIND,), attacks(tier, *plain, ADAPTIVE), tier.n_strong),
    ]


def report(found: Found, tier: Tier) -> Report:
    def get(attack: str, column: str) -> Field | None:
        if column == "DiffPure":
            return found.get(tier.target + BEHIND, ADAPTIVE if attack == "BPDA+EOT" else attack)
        return found.get(tier.target, attack, methods(tier)[column])

    rows = []
    for attack, values in PAPER.items():
        fields = [get(attack, column) for column in COLUMNS]
        cells = (percent(field, "robust", v, of=tier.n_strong) for field, v in zip(fields, values, strict=True))
        rows.append([attack, *cells])
    orderings: list[Ordering] = [
        above(f"{attack}: Ours above {column}", get(attack, "Ours"), get(attack, column))
        for attack in PAPER
        for column in COLUMNS[:-1]
    ]
    for column in methods(tier):
        orderings += [
            above(f"{column}: CW at least PGD", get("CW", column), get("PGD", column), by=-1e-6),
            above(f"{column}: PGD at least AutoAttack", get("PGD", column), get("AutoAttack", column), by=-1e-6),
            *(above(f"{column}: {weak} at least {strong}", get(weak, column), get(strong, column), by=-1e-6)
              for weak in ("RayS", "DeCoWA") for strong in ("PGD", "Square")),
            above(f"{column}: MCG at most Square + 1", get("Square", column), get("MCG", column), by=-1),
            within(f"{column}: BPDA+EOT within 2 points of PGD", get("BPDA+EOT", column), get("PGD", column), 2.0),
        ]  # fmt: skip
    orderings += [
        above(f"DiffPure: {attack} at least the adaptive BPDA+EOT", get(attack, "DiffPure"),
              get("BPDA+EOT", "DiffPure"), by=-1e-6)
        for attack in PAPER if attack != "BPDA+EOT"
    ]  # fmt: skip
    remarks = [
        "DiffPure: the target alone is attacked and reads the result purified; only BPDA+EOT attacks both. CW is the "
        f"minimal-norm attack inside the ball. MCG and DeCoWA have the gradients of {tier.surrogate}.",
        "",
        "What stands behind DiffPure is read through one purification. BPDA+EOT leaves a picture as soon as the mean "
        f"of {tier.bpda['checks']} misreads it, which one alone may still read right: its DiffPure cell is too high.",
    ]
    return Report(["attack", *COLUMNS], rows, orderings, remarks)
