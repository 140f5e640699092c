"""Fig. 4: how fast forward, backward and cascade learning converge, and what that gives on another model."""

from functools import partial
from pathlib import Path

from torch import Tensor

from mspd.adapters import Function
from mspd.benchmark.papers.mspd.cost import losses
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.plots import curves
from mspd.benchmark.papers.mspd.report import Ordering, Report, above, numbers_above, percent
from mspd.benchmark.papers.mspd.study import Run, Study
from mspd.benchmark.papers.mspd.tier import Tier, attacks
from mspd.defenses import mcgs
from mspd.models import load_model

TITLE = "Fig. 4: convergence of forward, backward and cascade learning, alpha 0.1, PGD"
ATTACK = "PGD"
#: the axes cannot be read from the paper's text: the claims of its caption
PAPER = {"forward": "fastest, overfits", "backward": "generalises better, slower", "cascade": "balances both"}


def strategies(tier: Tier) -> dict[str, str]:
    """Epochs of F100, B100, F10-B90 and F50-B50, or the same shares of fewer."""
    last = tier.curve[-1]
    tenth, half = max(1, last // 10), last // 2
    plans = ((last, 0), (0, last), (tenth, last - tenth), (half, last - half))
    return {"-".join(f"{letter}{n}" for letter, n in zip("FB", plan, strict=True) if n):
            "F" * plan[0] + "B" * plan[1] for plan in plans}  # fmt: skip


def name_of(epochs: str) -> str:
    """ "cascade alpha 0.1 F10 B5": what prefixes of two strategies share is one defence."""
    return " ".join(["cascade alpha 0.1", *(f"{c}{epochs.count(c)}" for c in "FB" if c in epochs)])


def runs(tier: Tier) -> list[Run]:
    defenses: dict[str, Function] = {
        name_of(epochs[:k]): partial(mcgs, epochs=epochs[:k], alpha=0.1, noise=False)
        for epochs in strategies(tier).values()
        for k in tier.curve
    }
    return [Run((tier.target,), attacks(tier, ATTACK), tier.n_strong, defenses)]


def extras(study: Study) -> None:
    run = runs(study.tier)[0]
    x, _ = study.originals(run.n)
    y = study.protector.labels(study.protector.probabilities(x))
    ends = study.found.extras.setdefault("backbone loss", {})
    for name in run.defenses:
        shown = study.defended(run, name)
        if shown is not None:
            ends[name] = study.remember("loss", partial(loss, study.tier.preset.backbone, shown, y))


def loss(backbone: str, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy of the backbone."""
    return round(float(losses(load_model(backbone, x.device), x, y).mean()), 6)


def report(found: Found, tier: Tier) -> Report:
    known, plans = found.extras.get("backbone loss", {}), strategies(tier)
    rows = []
    for plan, epochs in plans.items():
        for k in tier.curve:
            name = name_of(epochs[:k])
            shown = f"{known[name]:.4f}" if name in known else "-"
            field = found.get(tier.target, ATTACK, name)
            rows.append([plan, str(k), shown, percent(field, "clean", None), percent(field, "robust", None)])
    forward, backward, *mixed = plans
    ends = {plan: known.get(name_of(epochs)) for plan, epochs in plans.items()}
    last = {plan: found.get(tier.target, ATTACK, name_of(epochs)) for plan, epochs in plans.items()}
    orderings: list[Ordering] = [
        *(numbers_above(f"{forward} ends with a lower backbone loss than {plan}", ends[plan], ends[forward], ".4f")
          for plan in (backward, *mixed)),
        *(numbers_above(f"backward is slower: its loss after {k} epochs is above forward's",
                        known.get(name_of("B" * k)), known.get(name_of("F" * k)), ".4f") for k in tier.curve),
        *(above(f"target: {plan} above {forward}", last[plan], last[forward]) for plan in (backward, *mixed)),
    ]  # fmt: skip
    remarks = ["Each epoch is one plain gradient step (no smoothing, Eq. 1 and 2); labels of the classifier."]
    return Report(["strategy", "epochs", "backbone loss", "clean", "robust"], rows, orderings, remarks)


def plot(study: Study, path: Path) -> None:
    tier, known = study.tier, study.found.extras["backbone loss"]
    if not known:
        return  # stopped before all pictures
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"backbone loss": {}, f"robust, {tier.target} (%)": {}}
    for plan, epochs in strategies(tier).items():
        names = {k: name_of(epochs[:k]) for k in tier.curve}
        panels["backbone loss"][plan] = [(k, known[name]) for k, name in names.items()]
        panels[f"robust, {tier.target} (%)"][plan] = [
            (k, 100 * float(field.robust.double().mean()))
            for k, name in names.items()
            if (field := study.found.get(tier.target, ATTACK, name)) is not None
        ]
    curves(panels, "epochs", path)
