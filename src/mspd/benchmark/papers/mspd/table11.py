"""Table XI: which backbone, by how well its gradients agree with the target's."""

from functools import partial

import torch
from torch import Tensor

from mspd.benchmark.papers.mspd.cost import losses
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import (  # fmt: skip
    COST,
    NOTHING,
    Ordering,
    Report,
    above,
    cost_cell,
    number,
    numbers_above,
    percent,
    plain,
)
from mspd.benchmark.papers.mspd.study import Run, Study, unavailable
from mspd.benchmark.papers.mspd.tier import OURS, Tier, attacks, ours
from mspd.metrics import gradient_similarity, loss_split
from mspd.models import load_model

TITLE = "Table XI: backbone and target, gradient alignment, PGD"
ATTACK = "PGD"
#: gradient similarity, seconds, clean, robust, the target's loss over all, surviving and fallen images
PAPER = {
    "No Pre.": (None, None, 92.8, 60.2, (0.39, 0.30, 0.52)),
    "ResNet-56 (nonrobust)": (0.0052, 0.02, 92.8, 61.0, (0.28, 0.22, 0.47)),
    "WideResNet-28-10 (nonrobust)": (0.0124, 0.04, 92.6, 61.2, (0.38, 0.31, 0.49)),
    "WideResNet-28-10": (0.2093, 0.04, 95.0, 65.6, (0.36, 0.28, 0.48)),
    "WideResNet-94-16": (0.4838, 0.23, 95.2, 77.3, (0.28, 0.23, 0.45)),
    "PreActResNet-18": (0.4904, 0.02, 95.3, 78.7, (0.27, 0.22, 0.47)),
    "PreActResNet-18, wider (not the paper's)": (None, None, None, None, ()),
}


def backbones(tier: Tier) -> dict[str, str]:
    """The models by the rows' names."""
    known = {**tier.nonrobust, **tier.backbones}
    return {row: known[row] for row in PAPER if row in known}


def runs(tier: Tier) -> list[Run]:
    through = tuple(dict.fromkeys(backbones(tier).values()))
    return [Run((tier.second,), attacks(tier, ATTACK), tier.n, ours(tier), backbones=through)]


def extras(study: Study) -> None:
    tier, run = study.tier, runs(study.tier)[0]
    study.costs(run.defenses, run.backbones)
    x, y = study.originals(tier.n)
    similarity = study.found.extras.setdefault("similarity", {})
    split_losses = study.found.extras.setdefault("losses", {})
    for name in ("none", *run.backbones):
        field = study.found.get(tier.second, ATTACK, "none" if name == "none" else OURS, backbone=name)
        shown = x if name == "none" else study.defended(run, OURS, backbone=name)
        if field is None or shown is None or len(field) < len(y):
            continue
        split_losses[name] = study.remember("losses", partial(split, tier.second, shown, y, field.robust))
        if name != "none" and unavailable(name) is None:
            similarity[name] = study.remember("similarity", partial(alignment, name, tier.second, x, y))


def alignment(backbone: str, target: str, x: Tensor, y: Tensor) -> float:
    """Mean cosine of the two models' gradients at the originals, true labels."""
    similarity = gradient_similarity(load_model(backbone, x.device), load_model(target, x.device), x, y)
    return round(float(similarity.nanmean()), 4)


def split(target: str, x: Tensor, y: Tensor, robust: Tensor) -> list[float | None]:
    """The target's loss before the attack: over all images, those that survive it, those that fall; None over none."""
    each = losses(load_model(target, x.device), x, y).cpu()
    return [None if value != value else round(value, 4) for value in loss_split(each, robust)]


def report(found: Found, tier: Tier) -> Report:
    models = {"No Pre.": "none", **backbones(tier)}
    similarity, split_losses = found.extras.get("similarity", {}), found.extras.get("losses", {})
    costs, rows = found.extras.get("cost", {}), []
    fields = {
        row: found.get(tier.second, ATTACK, "none" if name == "none" else OURS, backbone=name)
        for row, name in models.items()
    }
    for row, (alike, seconds, clean, robust, loss) in PAPER.items():
        if row not in models:
            continue
        name, each = models[row], fields[row]
        own = "/".join(plain(value, ".2f") for value in split_losses.get(name, ())) or NOTHING
        rows.append([
            row, name, number(similarity.get(name), alike, ".4f"), cost_cell(costs, f"{OURS} on {name}", seconds),
            percent(each, "clean", clean), percent(each, "robust", robust),
            f"{own} / {'/'.join(f'{value:.2f}' for value in loss) or NOTHING}",
        ])  # fmt: skip
    orderings: list[Ordering] = []
    for row, name in models.items():
        alike = similarity.get(name)
        if row in tier.nonrobust:
            orderings.append(numbers_above(f"{row}: gradient similarity below 0.05", 0.05, alike, ".4f"))
            gain = above(f"{row}: at most 1.5 points above no defence", fields["No Pre."], fields[row], by=-1.5)
            orderings.append(gain)
        elif row in tier.backbones:
            orderings.append(numbers_above(f"{row}: gradient similarity above 0.05", alike, 0.05, ".4f"))
            loss, before = split_losses.get(name, [None])[0], split_losses.get("none", [None])[0]
            orderings.append(numbers_above(f"{row}: loss below that of no defence", before, loss))
        if name in split_losses:
            _, survive, fall = split_losses[name]
            orderings.append(numbers_above(f"{row}: loss of fallen above surviving", fall, survive))
    pairs = [(similarity[name], float(field.robust.double().mean())) for row, name in models.items()
             if (field := fields[row]) is not None and name in similarity]  # fmt: skip
    orderings.append(
        numbers_above("robust accuracy rises with similarity: rank correlation above 0", ranks(pairs), 0.0)
    )
    head = ["backbone", "here", "gradient similarity", "cost", "clean", "robust", "loss all/survive/fall"]
    return Report(head, rows, orderings, [f"Target {tier.second}. {COST}"])


def ranks(pairs: list[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation, ties in the order given; None below two pairs."""
    if len(pairs) < 2:
        return None
    columns = [torch.tensor(column).argsort(stable=True).argsort().double() for column in zip(*pairs, strict=True)]
    return float(torch.corrcoef(torch.stack(columns))[0, 1])
