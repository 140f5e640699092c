"""Table XII: what the choice of the label's and the gradient's model is worth."""

from functools import partial

from mspd.benchmark.papers.mspd.coupled import coupled
from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import COST, Ordering, Report, above, cost_cell, percent
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours
from mspd.defenses import mcgs

TITLE = "Table XII: the decoupled pipeline, and more prior knowledge; PGD"
ATTACK, COUPLED = "PGD", "MCGS coupled"
#: seconds, clean, robust
PAPER = {
    "classifier = backbone, not the target": (0.02, 91.0, 86.0),
    "all three differ (black, Ours)": (0.02, 95.9, 88.1),
    "backbone = target (white)": (0.23, 95.9, 91.0),
    "true label, backbone not the target (GT + black)": (0.02, 98.2, 89.5),
    "true label, backbone = target (GT + white)": (0.23, 99.0, 92.9),
}


def runs(tier: Tier) -> list[Run]:
    both, strong = (tier.preset.backbone, tier.target), attacks(tier, ATTACK)
    own = {COUPLED: partial(coupled, defense=mcgs, n_samples=tier.samples)}
    return [
        Run((tier.target,), strong, tier.n, own),
        Run((tier.target,), strong, tier.n, ours(tier), backbones=both),
        Run((tier.target,), strong, tier.n, ours(tier), backbones=both, labels="truth"),
    ]


def extras(study: Study) -> None:
    coupled_run, run, _ = runs(study.tier)
    study.costs(coupled_run.defenses)
    study.costs(run.defenses, run.backbones)


def report(found: Found, tier: Tier) -> Report:
    black, white = tier.preset.backbone, tier.target
    asked = [(COUPLED, black, "classifier"), (OURS, black, "classifier"), (OURS, white, "classifier"),
             (OURS, black, "truth"), (OURS, white, "truth")]  # fmt: skip
    fields: list[Field | None] = [
        found.get(tier.target, ATTACK, name, backbone=backbone, labels=labels) for name, backbone, labels in asked
    ]
    costs = found.extras.get("cost", {})
    rows = []
    for (row, (seconds, clean, robust)), (name, backbone, _), field in zip(PAPER.items(), asked, fields, strict=True):
        spent = cost_cell(costs, f"{name} on {backbone}", seconds)
        rows.append([row, spent, percent(field, "clean", clean), percent(field, "robust", robust)])
    own, mine, known, truth, truth_known = fields
    orderings: list[Ordering] = [
        above("clean: all differ above classifier = backbone", mine, own, what="clean"),
        above("clean: true label above the classifier's", truth, mine, what="clean"),
        above("robust: all differ above classifier = backbone", mine, own),
        above("robust: backbone = target above black", known, mine),
        above("robust: GT + white above GT + black", truth_known, truth),
    ]
    return Report(["pipeline", "cost", "clean", "robust"], rows, orderings, [COST])
