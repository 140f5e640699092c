"""Table XVI: a fixed defence against attacks of other budgets."""

from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, gain, numbers_above, percent
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
    gains = {attack: gain(*pair) for attack, pair in pairs.items()}
    points = {attack: found and 100 * found[0] for attack, found in gains.items()}
    orderings += [
        numbers_above(
            f"gain at 16/255 above that at {BUDGETS[other]}, points", points["PGD 16/255"], points[other], ".1f"
        )
        for other in ("PGD", "PGD 4/255")
    ]
    return Report(["attack", "defence", "without defence", "with defence"], rows, orderings)
