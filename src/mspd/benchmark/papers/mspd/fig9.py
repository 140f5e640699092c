"""Fig. 9: what the perturbations look like that different backbones make."""

from itertools import combinations
from pathlib import Path

from mspd.benchmark.papers.mspd import table11
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.plots import pictures
from mspd.benchmark.papers.mspd.report import Ordering, Report, numbers_above, plain
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import OURS, Tier
from mspd.metrics import cosine

TITLE = "Fig. 9: perturbations of MCGS by backbone"
PAPER = {"robust and robust": "similar, shaped like the object", "nonrobust": "unstructured noise"}
#: the class that the paper shows
CAR = 1


def runs(tier: Tier) -> list[Run]:
    return table11.runs(tier)


def extras(study: Study) -> None:
    x, _ = study.originals(study.tier.n)
    moves = {}
    for model in table11.backbones(study.tier).values():
        shown = study.defended(runs(study.tier)[0], OURS, backbone=model)
        if shown is not None:
            moves[model] = shown - x
    study.found.extras["cosine"] = {
        f"{a}, {b}": round(float(cosine(moves[a], moves[b]).nanmean()), 4) for a, b in combinations(moves, 2)
    }


def report(found: Found, tier: Tier) -> Report:
    def kind(pair: str) -> int:
        return sum(name in tier.nonrobust.values() for name in pair.split(", "))

    kinds = ("robust and robust", "robust and nonrobust", "nonrobust and nonrobust")
    cosines: dict[str, float] = found.extras.get("cosine", {})
    rows = [[pair, kinds[kind(pair)], plain(value, ".3f")] for pair, value in cosines.items()]
    means = []
    for count in (0, 1):
        values = [value for pair, value in cosines.items() if kind(pair) == count]
        means.append(sum(values) / len(values) if values else None)
    robust, mixed = means
    orderings: list[Ordering] = [
        numbers_above("mean cosine of two robust backbones above that of a robust and a nonrobust one", robust, mixed),
        numbers_above("cosine of a robust and a nonrobust backbone below 0.2", 0.2, mixed),
    ]
    return Report(["backbones", "kind", "cosine of perturbations"], rows, orderings)


def plot(study: Study, path: Path) -> None:
    x, y = study.originals(study.tier.n)
    cars = (y == CAR).nonzero()[:, 0].tolist()
    ids = [*cars[:2], *(i for i in range(len(x)) if i not in cars[:2])][:3]
    columns = {"original": x[ids].cpu()}
    for model in table11.backbones(study.tier).values():
        shown = study.defended(runs(study.tier)[0], OURS, backbone=model)
        if shown is not None:
            kind = "nonrobust" if model in study.tier.nonrobust.values() else "robust"
            columns[f"{model}\n({kind})"] = shown[ids].cpu()
    pictures(columns, columns["original"], path)
