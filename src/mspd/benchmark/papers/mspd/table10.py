"""Table X: the reversion of other preemptive defences, each applied to its own output."""

from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import LPIPS, Ordering, Report, above, mean, number, numbers_above, percent
from mspd.benchmark.papers.mspd.study import Run
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, baselines, ours, treatments

TITLE = "Table X: white reversion of the defences of two epochs, AutoAttack"
ATTACK = "AutoAttack"
#: of each defence without and with reversion: SSIM, LPIPS, clean, robust
PAPER = {
    ("none", "none"): (1.0, 0.0, 93.9, 74.0),
    ("UnAdv-2", "none"): (0.9570, 0.0066, 93.1, 77.1),
    ("UnAdv-2", "white"): (0.9632, 0.0028, 93.6, 75.1),
    ("Bi-Level-2", "none"): (0.9659, 0.0046, 92.8, 80.5),
    ("Bi-Level-2", "white"): (0.9563, 0.0041, 93.6, 73.6),
    (OURS, "none"): (0.9618, 0.0061, 95.9, 86.3),
    (OURS, "white"): (0.9750, 0.0019, 94.4, 76.2),
}


def runs(tier: Tier) -> list[Run]:
    known = {**baselines(tier), **ours(tier)}
    defenses = {name: known[name] for name in ("UnAdv-2", "Bi-Level-2", OURS)}
    white = {"white": treatments(tier)["white"]}
    return [Run((tier.target,), attacks(tier, ATTACK), tier.n_strong, defenses, treatments=white)]


def report(found: Found, tier: Tier) -> Report:
    fields = {pair: found.get(tier.target, ATTACK, pair[0], treatment=pair[1]) for pair in PAPER}
    rows = [
        [*pair, number(mean(fields[pair], "ssim"), ssim), number(mean(fields[pair], "lpips"), lpips, ".4f"),
         percent(fields[pair], "clean", clean), percent(fields[pair], "robust", robust)]
        for pair, (ssim, lpips, clean, robust) in PAPER.items()
    ]  # fmt: skip
    orderings: list[Ordering] = []
    for name in ("UnAdv-2", "Bi-Level-2", OURS):
        before, after = fields[name, "none"], fields[name, "white"]
        orderings.append(above(f"{name}: robust accuracy falls", before, after))
        orderings.append(numbers_above(f"{name}: LPIPS falls", mean(before, "lpips"), mean(after, "lpips"), ".4f"))
        if name != "Bi-Level-2":
            orderings.append(numbers_above(f"{name}: SSIM rises", mean(after, "ssim"), mean(before, "ssim"), ".4f"))
    return Report(["defence", "reversion", "SSIM", "LPIPS", "clean", "robust"], rows, orderings, [LPIPS])
