"""Fig. 7: where a protection shows: pictures without texture."""

from pathlib import Path

import torch

from mspd.benchmark.papers.mspd.fig6 import adversarials
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.plots import pictures
from mspd.benchmark.papers.mspd.report import Report, numbers_above, plain
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours

TITLE = "Fig. 7: the failure case, pictures with the simplest textures"
ATTACK = "PGD"
PAPER = {"low variance": "quality degrades visibly; MCGS less than PGD"}
#: the share of pictures that counts as simple
SHARE = 5


def runs(tier: Tier) -> list[Run]:
    return [Run((tier.target,), attacks(tier, ATTACK), tier.n, ours(tier))]


def extras(study: Study) -> None:
    x, _ = study.originals(study.tier.n)
    variances = x.flatten(2).var(2).mean(1)
    study.found.extras["variance order"] = variances.argsort(stable=True).tolist()


def report(found: Found, tier: Tier) -> Report:
    order = torch.tensor(found.extras.get("variance order", []), dtype=torch.long)
    groups = {"lowest fifth of variance": order[: max(1, len(order) // SHARE)],
              "all others": order[max(1, len(order) // SHARE) :]}  # fmt: skip
    fields = found.get(tier.target, ATTACK, OURS), found.get(tier.target, ATTACK)
    mine, attack = (field if field is not None and len(field) == len(order) else None for field in fields)
    values: dict[str, list[float | None]] = {}
    for name, ids in groups.items():
        own = None if mine is None else float(mine.ssim[ids].mean())
        theirs = None if attack is None else float(attack.attack_ssim[ids].mean())
        values[name] = [own, theirs]
    rows = [[name, *(plain(value) for value in pair)] for name, pair in values.items()]
    (own_low, pgd_low), (own_high, pgd_high) = values.values()
    orderings = [
        numbers_above("SSIM of MCGS is lower on simple pictures", own_high, own_low, ".4f"),
        numbers_above("SSIM of PGD is lower on simple pictures", pgd_high, pgd_low, ".4f"),
        numbers_above("on simple pictures MCGS keeps more SSIM than PGD", own_low, pgd_low, ".4f"),
    ]
    remarks = ["Variance: of each channel over the pixels, mean of the channels. PGD on the undefended pictures."]
    return Report(["pictures", "SSIM of MCGS", "SSIM of PGD"], rows, orderings, remarks)


def plot(study: Study, path: Path) -> None:
    ids = study.found.extras["variance order"][:4]
    shown = study.defended(runs(study.tier)[0], OURS)
    if shown is None:
        return  # stopped before the pictures of least and most variance
    x = study.originals(study.tier.n)[0][ids].cpu()
    columns = {"original": x, "PGD": adversarials(study, ATTACK, ids), "MCGS": shown[ids].cpu()}
    pictures(columns, x, path)
