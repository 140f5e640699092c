"""Table XVII: backbones and targets that are not robust."""

from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, numbers_above, percent
from mspd.benchmark.papers.mspd.study import Run
from mspd.benchmark.papers.mspd.tier import Tier, attacks, baselines, methods, ours

TITLE = "Table XVII: preemptive defences for nonrobust models, PGD"
ATTACK = "PGD"
WIDE, SMALL = "WideResNet-28-10 (nonrobust)", "ResNet-56 (nonrobust)"
TARGETS = ("XCiT-L12", WIDE, SMALL)
#: clean and robust accuracy on each target, by defence and backbone
PAPER = {
    ("No Pre.", ""): ((92.8, 60.2), (94.8, 0.0), (94.3, 2.5)),
    ("UnAdv", "robust"): ((91.8, 61.7), (93.2, 0.0), (91.4, 2.1)),
    ("Bi-Level", "robust"): ((91.5, 72.2), (93.8, 0.0), (92.8, 2.8)),
    ("Ours", "robust"): ((95.3, 78.7), (95.7, 0.4), (95.3, 4.0)),
    ("Ours", WIDE): ((92.6, 61.2), (95.8, 0.6), (95.1, 2.7)),
    ("Ours", SMALL): ((92.8, 61.0), (94.9, 0.0), (95.2, 4.3)),
}


def targets(tier: Tier) -> dict[str, str]:
    """The models by the columns' names."""
    return {"XCiT-L12": tier.second, **tier.nonrobust}


def runs(tier: Tier) -> list[Run]:
    models = tuple(dict.fromkeys(targets(tier).values()))
    known = baselines(tier)
    slow = {name: known[name] for name in (tier.unadv, tier.bilevel)}
    through = tuple(dict.fromkeys((tier.preset.backbone, *tier.nonrobust.values())))
    return [
        Run(models, attacks(tier, ATTACK), tier.n, ours(tier), backbones=through),
        Run(models, attacks(tier, ATTACK), tier.n_strong, slow),
    ]


def report(found: Found, tier: Tier) -> Report:
    models = targets(tier)

    def get(row: tuple[str, str], column: str) -> Field | None:
        defense, backbone = row
        if column not in models or (backbone in (WIDE, SMALL) and backbone not in models):
            return None
        return found.get(models[column], ATTACK, methods(tier)[defense], backbone=tier.nonrobust.get(backbone))

    rows = []
    for row, values in PAPER.items():
        cells = [
            percent(get(row, column), what, value, of=tier.n)
            for column, pair in zip(TARGETS, values, strict=True)
            for what, value in zip(("clean", "robust"), pair, strict=True)
        ]
        rows.append([row[0], tier.nonrobust.get(row[1], row[1]), *cells])
    none, mine = ("No Pre.", ""), ("Ours", "robust")
    orderings: list[Ordering] = [above("robust target, robust backbone: Ours above no defence by 5 points",
                                       get(mine, "XCiT-L12"), get(none, "XCiT-L12"), by=5)]  # fmt: skip
    for backbone in (WIDE, SMALL):
        claim = f"robust target, backbone {backbone}: at most 1.5 points above no defence"
        orderings.append(above(claim, get(none, "XCiT-L12"), get(("Ours", backbone), "XCiT-L12"), by=-1.5))
    for column in (WIDE, SMALL):
        for row in PAPER:
            field = get(row, column)
            held = None if field is None else 100 * float(field.robust.double().mean())
            claim = f"{column} stays below 5 % robust: {row[0]}, {row[1] or 'no backbone'}"
            orderings.append(numbers_above(claim, 5.0, held, ".1f"))
        orderings.append(
            above(f"{column}: Ours raises clean accuracy", get(mine, column), get(none, column), what="clean")
        )
    shown = [f"{column}: {models.get(column, 'no model here')}" for column in TARGETS]
    head = ["defence", "backbone", *(f"{column} {what}" for column in TARGETS for what in ("clean", "robust"))]
    remarks = [f"Targets here: {'; '.join(shown)}. UnAdv and Bi-Level on the first {tier.n_strong} pictures."]
    return Report(head, rows, orderings, remarks)
