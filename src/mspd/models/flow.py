"""A small conditional Glow (Lu and Huang 2020, "Structured output learning with conditional generative flows"): the
distribution of adversarial perturbations given the picture, for the MCG attack."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Step(nn.Module):
    """Scale and shift, a mixing of the channels, and an affine coupling, all told by the picture."""

    rotation: Tensor

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = nn.Linear(hidden, 2 * channels)
        self.mix = nn.Linear(hidden, channels * channels)
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(channels, channels))[0])
        self.coupling = nn.Sequential(
            nn.Conv2d(channels // 2 + hidden, hidden, 3, padding=1), nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1), nn.ReLU(),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )  # fmt: skip
        for last in (self.norm, self.mix, self.coupling[4]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def _norm(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.norm(mean)[:, :, None, None].tanh().chunk(2, 1)
        return log_scale, shift

    def _matrices(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Unit lower and upper triangles: their product times a rotation is always invertible, with determinant 1.
        Entries below 1 / channels keep the inverse small, too."""
        free = self.mix(mean).tanh().view(-1, self.channels, self.channels) / self.channels
        one = torch.eye(self.channels, device=free.device, dtype=free.dtype)
        return free.tril(-1) + one, free.triu(1) + one

    def _coupling(self, kept: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self.coupling(torch.cat([kept, features], 1)).chunk(2, 1)
        return shift, scale.tanh().exp()

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to the same shape, and the log-determinant (B,)."""
        mean = features.mean((2, 3))
        log_scale, shift = self._norm(mean)
        z = (z + shift) * log_scale.exp()
        lower, upper = self._matrices(mean)
        z = (self.rotation @ lower @ upper @ z.flatten(2)).view_as(z)
        kept, moved = z.chunk(2, 1)
        offset, scale = self._coupling(kept, features)
        volume = log_scale.sum((1, 2, 3)) * z[0, 0].numel() + scale.log().sum((1, 2, 3))
        return torch.cat([kept, (moved + offset) * scale], 1), volume

    def inverse(self, z: Tensor, features: Tensor) -> Tensor:
        mean = features.mean((2, 3))
        kept, moved = z.chunk(2, 1)
        offset, scale = self._coupling(kept, features)
        flat = torch.cat([kept, moved / scale - offset], 1).flatten(2)
        lower, upper = self._matrices(mean)
        flat = torch.linalg.solve_triangular(lower, self.rotation.T @ flat, upper=False, unitriangular=True)
        flat = torch.linalg.solve_triangular(upper, flat, upper=True, unitriangular=True)
        log_scale, shift = self._norm(mean)
        out: Tensor = flat.view_as(z) * (-log_scale).exp() - shift
        return out


class ConditionalFlow(nn.Module):
    """Between a perturbation (B, 3, H, W), in units of the budget, and one standard normal latent a level, both given
    the picture x (B, 3, H, W) in [0, 1]. H and W must be multiples of 2^levels."""

    def __init__(self, levels: int, steps: int, hidden: int) -> None:
        super().__init__()
        self.see, self.steps, self.priors = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels = 3
        for level in range(levels):
            channels *= 4
            self.see.append(nn.Conv2d(hidden if level else 3, hidden, 3, 2, 1))
            self.steps.append(nn.ModuleList(Step(channels, hidden) for _ in range(steps)))
            if level < levels - 1:
                channels //= 2
                prior = nn.Conv2d(channels, 2 * channels, 3, padding=1)
                nn.init.zeros_(prior.weight)
                assert prior.bias is not None
                nn.init.zeros_(prior.bias)
                self.priors.append(prior)

    def _steps_of(self, level: int) -> list[Step]:
        return [step for step in self.steps[level].children() if isinstance(step, Step)]

    def _features(self, x: Tensor) -> list[Tensor]:
        """What each level sees of the picture."""
        found, h = [], x - 0.5
        for see in self.see:
            h = F.silu(see(h))
            found.append(h)
        return found

    def _prior(self, level: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.priors[level](kept).tanh().chunk(2, 1)
        return mean, log_std

    def forward(self, delta: Tensor, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents of a perturbation and its log-likelihood (B,), in nats."""
        z, latents = delta, []
        total = torch.zeros(len(delta), device=delta.device, dtype=delta.dtype)
        for level, features in enumerate(self._features(x)):
            z = F.pixel_unshuffle(z, 2)
            for step in self._steps_of(level):
                z, volume = step(z, features)
                total = total + volume
            if level < len(self.priors):
                z, split = z.chunk(2, 1)
                mean, log_std = self._prior(level, z)
                latents.append((split - mean) * (-log_std).exp())
                total = total - log_std.sum((1, 2, 3))
        latents.append(z)
        for latent in latents:
            total = total - 0.5 * (latent.square() + math.log(2 * math.pi)).sum((1, 2, 3))
        return latents, total

    def generate(self, latents: Sequence[Tensor], x: Tensor) -> Tensor:
        """The perturbation (B, 3, H, W) that has these latents."""
        features, z = self._features(x), latents[-1]
        for level in reversed(range(len(features))):
            if level < len(self.priors):
                mean, log_std = self._prior(level, z)
                z = torch.cat([z, latents[level] * log_std.exp() + mean], 1)
            for step in reversed(self._steps_of(level)):
                z = step.inverse(z, features[level])
            z = F.pixel_shuffle(z, 2)
        return z

    def latents_of(self, noise: Tensor) -> list[Tensor]:
        """Numbers (B, 3, H, W), cut into the shapes of the latents."""
        z, latents = noise, []
        for _ in self.priors:
            z, split = F.pixel_unshuffle(z, 2).chunk(2, 1)
            latents.append(split)
        return [*latents, F.pixel_unshuffle(z, 2)]


def flow(*, levels: int = 3, steps: int = 2, hidden: int = 32) -> ConditionalFlow:
    """The flow; `steps` a level, `hidden` channels in its couplings."""
    return ConditionalFlow(levels, steps, hidden)
