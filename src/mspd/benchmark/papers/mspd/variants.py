"""What Tables XIII to XV share: rows that are settings of MCGS, PGD on one target."""

from collections.abc import Mapping

from mspd.adapters import Function
from mspd.benchmark.papers.mspd.found import Field, Found
from mspd.benchmark.papers.mspd.report import COST, cost_cell, percent
from mspd.benchmark.papers.mspd.study import Run
from mspd.benchmark.papers.mspd.tier import Tier, attacks, ours

ATTACK = "PGD"
#: by the row's name, what is set otherwise than in the paper's method
Settings = Mapping[str, Mapping[str, object]]
Numbers = Mapping[str, tuple[float, float, float]]


def defenses(tier: Tier, settings: Settings) -> dict[str, Function]:
    """The rows' defences."""
    made: dict[str, Function] = {}
    for changes in settings.values():
        made |= ours(tier, **changes)
    return made


def run(tier: Tier, settings: Settings, n: int) -> Run:
    return Run((tier.target,), attacks(tier, ATTACK), n, defenses(tier, settings))


def fields(found: Found, tier: Tier, settings: Settings) -> list[Field | None]:
    """The rows' cells."""
    return [found.get(tier.target, ATTACK, name) for name in defenses(tier, settings)]


def rows(found: Found, tier: Tier, settings: Settings, paper: Numbers) -> list[list[str]]:
    """Name, cost, clean and robust accuracy of each row."""
    costs = found.extras.get("cost", {})
    return [
        [row, cost_cell(costs, f"{name} on {found.backbone}", paper[row][0]), percent(field, "clean", paper[row][1]),
         percent(field, "robust", paper[row][2])]
        for row, name, field in zip(settings, defenses(tier, settings), fields(found, tier, settings), strict=True)
    ]  # fmt: skip


HEAD = ("", "cost", "clean", "robust")
REMARKS = (COST,)
