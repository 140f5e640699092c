"""Training of the DiffPure purifier's network: predict the noise (Ho et al. 2020, Eq. 14), at the few timesteps that
purification uses."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mspd.data import ImageSet
from mspd.purifiers.diffpure import STEPS, add_noise
from mspd.training.recipe import Recipe


class Denoise:
    """Predict the noise of pictures at the first recipe.timesteps of 1,000 timesteps."""

    name, passes, mixes = "denoising", 3, True

    def __init__(self, recipe: Recipe, training: ImageSet, device: torch.device) -> None:
        self.recipe = recipe

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        return x, x.new_zeros(len(x))

    def optimiser(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.recipe.lr)

    def gradient(self, model: nn.Module, x: Tensor, index: Tensor, generator: torch.Generator, done: float) -> float:
        loss = denoising_loss(model, x, timesteps=self.recipe.timesteps, generator=generator)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def score(self, model: nn.Module, testing: ImageSet) -> dict[str, Any]:
        return evaluate_denoiser(model, testing, timesteps=self.recipe.timesteps)


def denoising_loss(model: nn.Module, x: Tensor, *, timesteps: int, generator: torch.Generator) -> Tensor:
    """Mean square error of the predicted noise for x (B, C, H, W) in [0, 1], each at one of the first `timesteps`."""
    index = torch.randint(1, timesteps + 1, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator).to(x)
    z = add_noise(2 * x - 1, noise, index)
    error: Tensor = (model(z, (index - 1).to(x) / STEPS) - noise).square().mean()
    return error


def evaluate_denoiser(model: nn.Module, data: ImageSet, *, timesteps: int, n: int = 1000) -> dict[str, Any]:
    """The loss on the first `n` test pictures; 1 is what predicting no noise at all gives."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    with torch.no_grad():
        for start in range(0, min(n, len(data)), 100):
            x = data.floats(start, min(start + 100, n))
            losses.append(float(denoising_loss(model, x, timesteps=timesteps, generator=generator)) * len(x))
    n = min(n, len(data))
    return {"noise_mse": round(sum(losses) / n, 4), "noise_n": n, "timesteps": timesteps}
