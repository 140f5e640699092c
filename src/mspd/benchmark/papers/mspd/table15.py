"""Table XV: the step size alpha."""

from mspd.benchmark.papers.mspd import variants
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Report, above
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import Tier

TITLE = "Table XV: step size alpha, PGD"
#: seconds, clean, robust
PAPER = {"0.50": (0.02, 95.5, 86.8), "0.75": (0.02, 95.8, 88.0), "1.00 (Ours)": (0.02, 95.9, 88.1)}
SETTINGS: variants.Settings = {"0.50": {"alpha": 0.5}, "0.75": {"alpha": 0.75}, "1.00 (Ours)": {}}


def runs(tier: Tier) -> list[Run]:
    return [variants.run(tier, SETTINGS, tier.n)]


def extras(study: Study) -> None:
    study.costs(variants.defenses(study.tier, SETTINGS))


def report(found: Found, tier: Tier) -> Report:
    half, three_quarters, one = variants.fields(found, tier, SETTINGS)
    orderings = [
        above("alpha 1 above alpha 0.5", one, half),
        above("alpha 0.75 above alpha 0.5", three_quarters, half),
        above("alpha 1 at least alpha 0.75 - 0.3", one, three_quarters, by=-0.3),
    ]
    head = ("alpha", *variants.HEAD[1:])
    return Report(head, variants.rows(found, tier, SETTINGS, PAPER), orderings, variants.REMARKS)
