"""Training of A5's generator, with the empirical loss.

The published loss is the cross-entropy of certified bounds (CROWN-IBP). Through a BatchNorm network at 8/255 such
bounds say nothing, so the bound is replaced by an attack: the cross-entropy at a PGD adversarial of the robustified
picture. The rest is as published: the classifier stays fixed, labels are the true ones, the attack's budget grows
during the training, and the weight of the clean loss falls with it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mspd.attacks.pgd import pgd
from mspd.data import ImageSet
from mspd.images import to_levels
from mspd.models import load_model
from mspd.objectives import cross_entropy
from mspd.smoothing import prepare
from mspd.training.classify import evaluate_plain
from mspd.training.recipe import Recipe

#: steps of the inner attack, and the share of the training after which its budget is the full one
STEPS, GROWTH = 3, 0.3


class Robustify:
    """Make pictures that the model `recipe.against` reads rightly under attack, with budget recipe.eps for both."""

    name, passes, mixes = "adversarial augmentation (A5, empirical loss)", 3, False

    def __init__(self, recipe: Recipe, training: ImageSet, device: torch.device) -> None:
        self.recipe = recipe
        self.labels = training.labels
        self.model = load_model(recipe.against, device)
        self.source = prepare(self.model)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def optimiser(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(groups, lr=self.recipe.lr)

    def gradient(self, model: nn.Module, x: Tensor, index: Tensor, generator: torch.Generator, done: float) -> float:
        y = self.labels[index].to(x.device)
        share = min(1.0, 0.1 + done / GROWTH)
        budget = share * self.recipe.eps
        x_def = (x + self.recipe.eps * model(x)).clamp(0, 1)
        x_adv = pgd(self.source, x_def.detach(), y, eps=budget, steps=STEPS, step_size=budget / 2, generator=generator)
        moved = (x_def + (x_adv - x_def.detach())).clamp(0, 1)  # the attack counts as moving with the picture
        loss = share * cross_entropy(self.source(moved), y).mean()
        if share < 1:
            loss = loss + (1 - share) * cross_entropy(self.source(x_def), y).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def score(self, model: nn.Module, testing: ImageSet) -> dict[str, Any]:
        """Accuracy of the model that it was trained against, on the first 1,000 test pictures, robustified."""
        x, y = testing.floats(0, 1000), testing.labels[:1000]
        with torch.no_grad():
            x_def = torch.cat([(z + self.recipe.eps * model(z)).clamp(0, 1) for z in torch.split(x, 100)])
        robustified = ImageSet(to_levels(x_def), y, testing.classes)
        scores = evaluate_plain(self.model, robustified, eps=self.recipe.test_eps)
        return {
            "against": self.recipe.against,
            **{f"against_{key}": value for key, value in scores.items() if key != "temperature"},
        }
