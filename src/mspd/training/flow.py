"""Training of MCG's flow: first the likelihood of a surrogate's adversarial perturbations, then meta-learning.

Both stages are those of the attack's paper. (In its code the second stage's outer step assigns to a copy of the weights
and changes nothing.) Here the outer step of Reptile (Nichol et al. 2018) is handed to the optimiser as a gradient: the
weights before the inner steps less those after them.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mspd.attacks.mcg import perturbed, surrogate_loss
from mspd.ball import project
from mspd.data import ImageSet
from mspd.models import load_model
from mspd.models.flow import ConditionalFlow
from mspd.smoothing import input_gradient, prepare
from mspd.training.recipe import Recipe

#: momentum steps that make a perturbation, and the noise that makes its two values a density, in units of the budget
STEPS, SPREAD = 5, 0.1
#: share of the training that is the first stage; inner steps and rate of the second
FIRST, INNER, RATE = 0.3, 3, 4e-4


class Flow:
    """Learn to make perturbations of budget recipe.eps that mislead the model `recipe.against`."""

    name, passes, mixes = "flow of adversarial perturbations, then meta-learned (MCG)", 3, False

    def __init__(self, recipe: Recipe, training: ImageSet, device: torch.device) -> None:
        self.recipe = recipe
        self.labels = training.labels
        self.source = prepare(load_model(recipe.against, device))

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, x

    def optimiser(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.recipe.lr, betas=(0.9, 0.999))

    def gradient(self, model: nn.Module, x: Tensor, index: Tensor, generator: torch.Generator, done: float) -> float:
        assert isinstance(model, ConditionalFlow)
        y = self.labels[index].to(x.device)
        if done < FIRST:
            signs = (momentum_perturbation(self.source, x, y, self.recipe.eps)).sign()
            delta = signs + SPREAD * torch.randn(x.shape, generator=generator).to(x.device)
            loss = -model(delta, x)[1].mean() / (x[0].numel() * math.log(2))
            loss.backward()
        else:
            tuned = copy.deepcopy(model)
            inner = torch.optim.Adam(tuned.parameters(), lr=RATE)
            for _ in range(INNER):
                latents = model.latents_of(torch.randn(x.shape, generator=generator).to(x.device))
                loss = surrogate_loss(self.source, tuned, latents, x, y, self.recipe.eps)
                inner.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(tuned.parameters(), 10.0)
                inner.step()
            for before, after in zip(model.parameters(), tuned.parameters(), strict=True):
                before.grad = before.detach() - after.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        value: float = loss.item()
        return value

    def score(self, model: nn.Module, testing: ImageSet) -> dict[str, Any]:
        """Share of the first 1,000 test pictures that the surrogate reads rightly, before and at the flow's guess."""
        assert isinstance(model, ConditionalFlow)
        generator = torch.Generator().manual_seed(0)
        right = held = 0
        n = min(1000, len(testing))
        with torch.no_grad():
            for start in range(0, n, 100):
                x, y = testing.floats(start, min(start + 100, n)), testing.labels[start : min(start + 100, n)]
                latents = model.latents_of(torch.randn(x.shape, generator=generator).to(x.device))
                clean = self.source(x).argmax(1) == y
                guess = self.source(perturbed(model, latents, x, self.recipe.eps)).argmax(1) == y
                right, held = right + int(clean.sum()), held + int((clean & guess).sum())
        return {
            "against": self.recipe.against,
            "against_clean_acc": round(right / n, 4),
            "against_first_query_acc": round(held / n, 4),
            "against_n": n,
        }


def momentum_perturbation(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The perturbation of MI-FGSM (Dong et al. 2018): STEPS steps along the signs of the summed, normalised gradients,
    in the Linf ball of eps; no random start."""
    x_adv, momentum = x, torch.zeros_like(x)
    for _ in range(STEPS):
        gradient = input_gradient(model, x_adv, y)
        momentum = momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        x_adv = project(x_adv + 2 * eps / STEPS * momentum.sign(), x, eps, "Linf")
    return x_adv - x
