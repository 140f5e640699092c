"""Table XVI: a fixed defence against attacks of other budgets."""

from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, numbers_above, percent
from mspd.benchmark.papers.mspd.study import Run
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours

TITLE = "Table XVI: fixed defence budget, varying attack budgets, PGD"
#: robust accuracy without and with the defence
PAPER = {"PGD 16/255": (38.0, 60.3), "PGD": (77.1, 88.1), "PGD 4/255": (87.9, 92.8)}
BUDGETS = {"PGD 16/255": "16/255", "PGD": "8/255", "PGD 4/255": "4/255"}


def runs(tier: Tier) -> list[Run]:
    return [Run((tier.target,), attacks(tier, *PAPER), tier.n, ours(tier))]


def report(found: Found, tier: Tier) -> Report:
    pairs = {attack: (found.get(tier.target, attack), found.get(tier.target, attack, OURS)) for attack in PAPER}
    rows = [
        [BUDGETS[attack], "8/255", *(percent(field, "robust", value) for field, value in zip(pairs[attack], values,
                                                                                             strict=True))]
        for attack, values in PAPER.items()
    ]  # fmt: skip
    orderings: list[Ordering] = [
        above(f"attack {BUDGETS[attack]}: with above without", after, before)
        for attack, (before, after) in pairs.items()
    ]
    gains = {attack: _gain(before, after) for attack, (before, after) in pairs.items()}
    orderings += [
        numbers_above(
            f"gain at 16/255 above that at {BUDGETS[other]}, points", gains["PGD 16/255"], gains[other], ".1f"
        )
        for other in ("PGD", "PGD 4/255")
    ]
    return Report(["attack", "defence", "without defence", "with defence"], rows, orderings)


def _gain(before: Field | None, after: Field | None) -> float | None:
    if before is None or after is None:
        return None
    return 100 * float(after.robust.double().mean() - before.robust.double().mean())
