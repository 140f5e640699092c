"""Table XVIII: defences in layers: in training, at test time, and before publication."""

from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, percent
from mspd.benchmark.papers.mspd.study import BEHIND, Run
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours

TITLE = "Table XVIII: combinations of defences, PGD"
ATTACK = "PGD"
#: clean, robust
PAPER = {
    "training-time": (93.9, 77.1),
    "preemptive + training-time": (95.9, 88.1),
    "test-time": (89.2, 87.5),
    "preemptive + test-time": (94.4, 93.3),
    "test-time + training-time": (91.9, 76.5),
    "preemptive + test-time + training-time": (95.5, 89.2),
}


def stacks(tier: Tier) -> tuple[str, str, str]:
    """The targets: trained robustly, purified, both."""
    return tier.target, next(iter(tier.nonrobust.values())) + BEHIND, tier.target + BEHIND


def runs(tier: Tier) -> list[Run]:
    bare, *purified = stacks(tier)
    return [
        Run((bare,), attacks(tier, ATTACK), tier.n, ours(tier)),
        Run(tuple(purified), attacks(tier, ATTACK), tier.n_strong, ours(tier)),
    ]


def report(found: Found, tier: Tier) -> Report:
    pairs = [(target, defense) for target in stacks(tier) for defense in ("none", OURS)]
    fields = [found.get(target, ATTACK, defense) for target, defense in pairs]
    rows = [
        [row, target, percent(field, "clean", clean, of=tier.n), percent(field, "robust", robust, of=tier.n)]
        for (row, (clean, robust)), (target, _), field in zip(PAPER.items(), pairs, fields, strict=True)
    ]
    orderings: list[Ordering] = []
    for (row, _), before, after in zip(list(PAPER.items())[::2], fields[::2], fields[1::2], strict=True):
        for what in ("clean", "robust"):
            orderings.append(above(f"{row}: preemptive raises {what}", after, before, what=what))
    orderings.append(above("test-time lowers clean on the robust target", fields[0], fields[4], what="clean"))
    remarks = [
        "Test-time is DiffPure: the target alone is attacked and reads the result purified. Purified targets on the "
        f"first {tier.n_strong} pictures."
    ]
    return Report(["combination", "target", "clean", "robust"], rows, orderings, remarks)
