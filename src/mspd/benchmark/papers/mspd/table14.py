"""Table XIV: one smoothed step against twenty plain ones."""

from mspd.benchmark.papers.mspd import variants
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, within
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier

TITLE = "Table XIV: gradient smoothing against PGD within an epoch, PGD"
#: seconds, clean, robust
PAPER = {
    "PGD20, N/A": (0.49, 95.9, 87.7),
    "PGD20, N 20": (0.48, 95.7, 88.1),
    "single step, N/A": (0.02, 95.7, 87.4),
    "single step, N 10": (0.02, 95.9, 88.0),
    "single step, N 20 (Ours)": (0.02, 95.9, 88.1),
}


def settings(tier: Tier) -> variants.Settings:
    return {
        "PGD20, N/A": {"steps": tier.inner, "noise": False},
        "PGD20, N 20": {"steps": tier.inner},
        "single step, N/A": {"noise": False},
        "single step, N 10": {"n_samples": tier.samples // 2},
        "single step, N 20 (Ours)": {},
    }


def runs(tier: Tier) -> list[Run]:
    return [variants.run(tier, settings(tier), tier.n_strong)]


def extras(study: Study) -> None:
    study.costs(variants.defenses(study.tier, settings(study.tier)))


def report(found: Found, tier: Tier) -> Report:
    chosen = settings(tier)
    plain, _, _, ten, twenty = variants.fields(found, tier, chosen)
    costs, names = found.extras.get("cost", {}), list(variants.defenses(tier, chosen))
    slow, quick = (costs.get(f"{name} on {found.backbone}") for name in (names[1], OURS))
    claim = "PGD20 takes 10 to 25 times the passes of a single step, N 20"
    if slow is None or quick is None:
        longer = Ordering(claim, None, "")
    else:
        ratio = slow["passes"] / quick["passes"]
        longer = Ordering(claim, 10 <= ratio <= 25, f"{ratio:.1f} times")
    orderings = [
        above("single step with N 20 at least PGD20 without smoothing - 0.5", twenty, plain, by=-0.5),
        within("N 10 within 1 point of N 20", ten, twenty, 1.0),
        longer,
    ]
    return Report(variants.HEAD, variants.rows(found, tier, chosen, PAPER), orderings, variants.REMARKS)
