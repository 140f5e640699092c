"""Table XIII: one epoch, two, four; with and without smoothing."""

from mspd.benchmark.papers.mspd import variants
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Report, above, within
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import Tier

TITLE = "Table XIII: epochs of the cascade, with and without smoothing, PGD"
#: seconds, clean, robust
PAPER = {
    "forward, N/A": (0.01, 95.4, 86.1),
    "forward, N 20": (0.01, 95.2, 86.5),
    "backward, N/A": (0.01, 95.2, 85.8),
    "backward, N 20": (0.01, 95.2, 86.5),
    "cascade of 2, N/A": (0.02, 95.7, 87.4),
    "cascade of 2, N 20": (0.02, 95.9, 88.1),
    "cascade of 4, N 20": (0.04, 95.9, 88.2),
}
SETTINGS: variants.Settings = {
    "forward, N/A": {"epochs": "F", "noise": False},
    "forward, N 20": {"epochs": "F"},
    "backward, N/A": {"epochs": "B", "noise": False},
    "backward, N 20": {"epochs": "B"},
    "cascade of 2, N/A": {"noise": False},
    "cascade of 2, N 20": {},
    "cascade of 4, N 20": {"epochs": "FFBB"},
}


def runs(tier: Tier) -> list[Run]:
    return [variants.run(tier, SETTINGS, tier.n)]


def extras(study: Study) -> None:
    study.costs(variants.defenses(study.tier, SETTINGS))


def report(found: Found, tier: Tier) -> Report:
    forward, forward20, backward, backward20, two, two20, four = variants.fields(found, tier, SETTINGS)
    orderings = [
        above("cascade above forward alone", two20, forward20),
        above("cascade above backward alone", two20, backward20),
        above("without smoothing: cascade above forward alone", two, forward),
        above("without smoothing: cascade above backward alone", two, backward),
        above("forward: N 20 at least N/A - 0.3", forward20, forward, by=-0.3),
        above("backward: N 20 at least N/A - 0.3", backward20, backward, by=-0.3),
        above("cascade: N 20 at least N/A - 0.3", two20, two, by=-0.3),
        within("4 epochs within 1 point of 2", four, two20, 1.0),
    ]
    return Report(variants.HEAD, variants.rows(found, tier, SETTINGS, PAPER), orderings, variants.REMARKS)
