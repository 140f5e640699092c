"""Training of classifiers, standard or adversarial."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.attacks.pgd import pgd
from mspd.data import ImageSet
from mspd.models.calibration import temperature
from mspd.objectives import cross_entropy
from mspd.training.adversarial import divergence, n_fgsm, pgd_steps, trades_steps
from mspd.training.recipe import Recipe

#: how the card calls them
METHODS = {"n-fgsm": "N-FGSM", "pgd": "PGD", "trades": "TRADES"}
#: weight of the divergence in TRADES, as published for CIFAR-10
TRADES_WEIGHT = 6.0


class Classify:
    """Cross-entropy on pictures, or with recipe.eps on adversarial ones."""

    mixes = True

    def __init__(self, recipe: Recipe, training: ImageSet, device: torch.device) -> None:
        self.recipe = recipe
        self.name = f"adversarial ({METHODS[recipe.method]})" if recipe.eps else "standard"
        attack = {"n-fgsm": 2, "pgd": 2 * recipe.steps, "trades": 2 * recipe.steps + 4}[recipe.method]
        self.passes = 3 + (attack if recipe.eps else 0)
        self.targets = _targets(recipe, training)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def optimiser(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.recipe.optimiser == "adamw":
            return torch.optim.AdamW(groups, lr=self.recipe.lr)
        return torch.optim.SGD(groups, lr=self.recipe.lr, momentum=0.9, nesterov=True)

    def gradient(self, model: nn.Module, x: Tensor, index: Tensor, generator: torch.Generator, done: float) -> float:
        y, eps, steps = self.targets[index].to(x.device), self.recipe.eps, self.recipe.steps
        extra = x.new_zeros(())
        if eps and self.recipe.method == "trades":
            x_adv = trades_steps(model, x, eps=eps, steps=steps, generator=generator)
            logits, moved = model(torch.cat([x, x_adv])).chunk(2)
            extra = TRADES_WEIGHT * divergence(logits.softmax(1), moved).mean()
        else:
            if eps and self.recipe.method == "pgd":
                x = pgd_steps(model, x, y, eps=eps, steps=steps, generator=generator)
            elif eps:
                x = n_fgsm(model, x, y, eps=eps, generator=generator)
            logits = model(x)
        loss = cross_entropy(logits, y).mean() + extra
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def score(self, model: nn.Module, testing: ImageSet) -> dict[str, Any]:
        return evaluate_plain(model, testing, eps=self.recipe.test_eps, n=1000 if self.recipe.eps else 200)


def evaluate_plain(model: nn.Module, data: ImageSet, *, eps: float, n: int = 1000) -> dict[str, Any]:
    """Clean accuracy on all test pictures and the temperature that they ask for, PGD-20 accuracy on the first `n` (step
    eps/4, one random start)."""
    logits, robust = [], 0
    for start in range(0, len(data), 250):
        x, y = data.floats(start, start + 250), data.labels[start : start + 250]
        with torch.no_grad():
            logits.append(model(x))
        if start < n:
            generator = torch.Generator().manual_seed(start)
            x_adv = pgd(model, x[: n - start], y[: n - start], eps=eps, steps=20, generator=generator)
            with torch.no_grad():
                robust += int((model(x_adv).argmax(1) == y[: n - start]).sum())
    n = min(n, len(data))
    read = torch.cat(logits)
    return {
        "clean_acc": round(int((read.argmax(1) == data.labels).sum()) / len(data), 4),
        "clean_n": len(data),
        "pgd20_acc": round(robust / n, 4),
        "pgd20_n": n,
        "pgd20_eps": eps,
        "temperature": round(temperature(read, data.labels), 3),
    }


def _targets(recipe: Recipe, training: ImageSet) -> Tensor:
    """Soft labels (N, K) on the CPU: smoothed one-hot rows."""
    num_classes = len(training.classes)
    targets = F.one_hot(training.labels, num_classes).float()
    return targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / num_classes
