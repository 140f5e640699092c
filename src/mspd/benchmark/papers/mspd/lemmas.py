"""The four lemmas of the paper as numerical checks, on the first pictures of the strong attacks' set."""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from mspd.adapters import Function
from mspd.benchmark.papers.mspd.cost import losses
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Report, numbers_above, plain
from mspd.benchmark.papers.mspd.study import Run, Study, unavailable
from mspd.benchmark.papers.mspd.table11 import ranks
from mspd.benchmark.papers.mspd.tier import Tier, ours
from mspd.defenses import mcgs
from mspd.metrics import gradient_similarity
from mspd.models import load_model
from mspd.smoothing import input_gradients, prepare

TITLE = "Lemmas 1 to 4, numerically"
PAPER = {
    "1": "the better the gradients of backbone and target agree, the more the defence lowers the target's loss",
    "2": "forward learning lowers the backbone's loss more than backward learning",
    "3": "backward learning puts more of its energy into the subspace that backbone and target share",
    "4": "white reversion finds the perturbation again; the less a surrogate's gradients agree, the less it does",
}
#: directions that span the target's side of the shared subspace, gradients at noisy copies of the picture
DIRECTIONS = 8


def runs(tier: Tier) -> list[Run]:
    return []


def extras(study: Study) -> None:
    tier, (x, y) = study.tier, study.originals(study.tier.n_strong)
    aims = study.protector.labels(study.protector.probabilities(x))
    eps, backbone = tier.preset.eps, tier.preset.backbone
    names = {*tier.targets.values(), *tier.nonrobust.values(), tier.target, tier.second} - {backbone}
    targets = sorted(name for name in names if unavailable(name) is None)
    surrogates = {"white": backbone, "gray": tier.gray, "black": tier.black}
    known = {name: model for name, model in surrogates.items() if unavailable(model) is None}
    study.found.left_out += [f"surrogate {n}: {unavailable(m)}" for n, m in surrogates.items() if n not in known]
    defense = next(iter(ours(tier).values()))
    epoch = partial(mcgs, steps=tier.inner, noise=False)
    checks: dict[str, partial[Any]] = {
        "lemma 1": partial(alignment_and_effect, defense, backbone, targets, x, y, aims, eps),
        "lemma 2": partial(losses_of_epochs, epoch, backbone, x, aims, eps),
        "lemma 3": partial(shared_energy, epoch, backbone, tier.target, x, y, aims, eps),
        "lemma 4": partial(residuals, defense, backbone, known, x, y, aims, eps),
    }
    for name, check in checks.items():
        study.found.extras[name] = study.remember(name, check)


def alignment_and_effect(
    defense: Function, backbone: str, targets: list[str], x: Tensor, y: Tensor, aims: Tensor, eps: float
) -> dict[str, dict[str, float | None]]:
    """For each target: the mean cosine of its gradients and the backbone's, how much the defence lowers its loss, and
    the rank correlation of the two over the pictures."""
    source = load_model(backbone, x.device)
    x_def = _defend(defense, source, x, aims, eps)
    found: dict[str, dict[str, float | None]] = {}
    for name in targets:
        model = load_model(name, x.device)
        alike = gradient_similarity(source, model, x, y)
        effect = losses(model, x, y) - losses(model, x_def, y)
        known = ~alike.isnan()
        pairs = list(zip(alike[known].tolist(), effect[known].tolist(), strict=True))
        found[name] = {
            "cosine": float(alike.nanmean()), "loss lowered by": float(effect.mean()), "rank correlation": ranks(pairs),
        }  # fmt: skip
    return found


def losses_of_epochs(epoch: Function, backbone: str, x: Tensor, aims: Tensor, eps: float) -> dict[str, float]:
    """The backbone's mean loss at the original, after one forward and after one backward epoch of the same steps."""
    model = load_model(backbone, x.device)
    moved = {letter: _defend(partial(epoch, epochs=letter), model, x, aims, eps) for letter in "FB"}
    found = {"original": x, "forward": moved["F"], "backward": moved["B"]}
    return {name: float(losses(model, z, aims).mean()) for name, z in found.items()}


def shared_energy(
    epoch: Function, backbone: str, target: str, x: Tensor, y: Tensor, aims: Tensor, eps: float
) -> dict[str, float]:
    """The mean share of each epoch's squared length that lies in the span of the target's gradients around x."""
    source, model = load_model(backbone, x.device), prepare(load_model(target, x.device))
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(DIRECTIONS):
        noise = (2 * torch.rand(x.shape, generator=generator) - 1).to(x) * eps
        gradients.append(input_gradients(model, (x + noise).clamp(0, 1), y, 32).flatten(1).double())
    stacked = torch.stack([g / g.norm(dim=1, keepdim=True).clamp_min(1e-30) for g in gradients], 2)
    basis, _ = torch.linalg.qr(stacked)
    found = {}
    for name, letter in (("forward", "F"), ("backward", "B")):
        move = (_defend(partial(epoch, epochs=letter), source, x, aims, eps) - x).flatten(1).double()
        inside = torch.einsum("bdk,bd->bk", basis, move).square().sum(1)
        found[name] = float((inside / move.square().sum(1).clamp_min(1e-30)).mean())
    return found


def residuals(
    defense: Function, backbone: str, surrogates: Mapping[str, str], x: Tensor, y: Tensor, aims: Tensor, eps: float
) -> dict[str, dict[str, float]]:
    """For each surrogate: the mean cosine of its gradients and the backbone's at the original, and how far its move of
    the defended picture is from the defence's own, over the length of that."""
    source = load_model(backbone, x.device)
    x_def = _defend(defense, source, x, aims, eps)
    first = (x_def - x).flatten(1)
    found = {}
    for name, model in surrogates.items():
        surrogate = load_model(model, x.device)
        second = (_defend(defense, surrogate, x_def, aims, eps) - x_def).flatten(1)
        alike = 1.0 if model == backbone else float(gradient_similarity(source, surrogate, x, y).nanmean())
        found[name] = {"cosine": alike, "residual": float(((second - first).norm(dim=1) / first.norm(dim=1)).mean())}
    return found


def _defend(defense: Function, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return defense(prepare(model), x, y, eps=eps, norm="Linf", generator=torch.Generator().manual_seed(0))


def report(found: Found, tier: Tier) -> Report:
    one, two, three, four = (found.extras[f"lemma {k}"] for k in (1, 2, 3, 4))
    rows, orderings = [], []
    for name, values in one.items():
        rows += [[f"1: {key}", name, plain(value)] for key, value in values.items()]
        if name not in tier.nonrobust.values():
            claim = f"1: on {name} the effect rises with the alignment, over pictures: rank correlation above 0"
            orderings.append(numbers_above(claim, values["rank correlation"], 0.0))
    pairs = [(values["cosine"], values["loss lowered by"]) for values in one.values()]
    claim = "1: over targets the effect rises with the alignment: rank correlation above 0"
    orderings.append(numbers_above(claim, ranks(pairs), 0.0))
    rows += [["2: backbone loss", name, plain(value)] for name, value in two.items()]
    orderings += [
        numbers_above("2: forward lowers the loss", two["original"], two["forward"], ".4f"),
        numbers_above("2: forward lowers the loss more than backward", two["backward"], two["forward"], ".4f"),
    ]
    rows += [["3: share of energy in the shared subspace", name, plain(v)] for name, v in three.items()]
    orderings.append(numbers_above("3: backward above forward", three["backward"], three["forward"], ".4f"))
    for name, values in four.items():
        rows += [[f"4: {key}", name, plain(value)] for key, value in values.items()]
    ranked = sorted(four.values(), key=lambda values: -values["cosine"])
    for better, worse in pairwise(ranked):
        claim = f"4: residual at cosine {better['cosine']:.2f} below that at {worse['cosine']:.2f}"
        orderings.append(numbers_above(claim, worse["residual"], better["residual"]))
    remarks = [f"{key}: {text}." for key, text in PAPER.items()] + [
        f"Lemma 3: the shared subspace is taken as the span of {DIRECTIONS} gradients of {tier.target} at noisy copies "
        f"of the picture; both epochs take {tier.inner} steps. The paper defines it only in words."
    ]
    return Report(["check", "", "measured"], rows, orderings, ["\n\n".join(remarks)])
