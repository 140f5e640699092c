"""DeCoWA (Lin et al. 2024, "Boosting adversarial transferability by deformation-constrained warping"): momentum steps
on a surrogate, each along the mean gradient of randomly warped copies."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mspd.attacks.common import check_call, filled, loss_gradient
from mspd.attacks.surrogates import surrogate_for
from mspd.ball import image_generators, magnified, project, step
from mspd.guard import answer, check_nonnegative, eval_mode, gradient_of
from mspd.objectives import cross_entropy

#: control points a side; the inner ones move
MESH = 3
#: spread of the random displacements, in units of half the image
SPREAD = 2.0
#: step that makes a warp less harmful by itself before it is used
CONSTRAINT = 0.01


def decowa(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    generator: torch.Generator,
    surrogate: nn.Module | str | None = None,
    steps: int = 10,
    warps: int = 20,
    decay: float = 1.0,
) -> Tensor:
    """Transfer an attack from `surrogate`, a model that the attacker has or a name as `load_model` takes it: its
    gradients are all that is used. Without one they are those of `model` itself, which makes it a white-box attack.

    x (B, C, H, W) in [0, 1]; y (B,) true labels. `steps` momentum steps of eps / steps; each gradient is the mean over
    `warps` thin-plate warps, every image with its own, each made less harmful by one step against its own loss. The
    warp of a displacement of zero is the image itself. Errors as in `pgd`, and InputError for a surrogate of other
    classes.
    """
    classes = check_call(model, x, y, eps, norm, generator, steps=steps, warps=warps)
    check_nonnegative(decay=decay)
    source = model if surrogate is None else surrogate_for(surrogate, x, y, classes)
    generators = image_generators(x, generator)
    splines = Splines(x.shape[2], x.shape[3], x.device)
    inner = (MESH - 2) ** 2
    momentum = torch.zeros_like(x)
    x_adv = x.clone()
    with eval_mode(source):
        for _ in range(steps):
            total = torch.zeros_like(x)
            for _ in range(warps):
                shift = torch.stack(
                    [(torch.rand(inner, 2, generator=g, dtype=torch.float32) - 0.5) * SPREAD for g in generators]
                ).to(x)
                shift = shift - CONSTRAINT * _shift_gradient(source, x_adv, y, shift, splines)
                total += loss_gradient(_Warped(source, shift, splines), x_adv, y, cross_entropy)[0]
            mean = magnified(total / warps)
            momentum = decay * momentum + mean / mean.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
            x_adv = project(x_adv + step(momentum, eps / steps, norm), x, eps, norm)
    return x_adv


class Splines:
    """Thin-plate splines that move a regular MESH x MESH grid: kernel r^2 log r^2 with an affine part."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        axis = torch.linspace(-1, 1, MESH, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
        rows = torch.linspace(-1, 1, height, dtype=torch.float64)
        columns = torch.linspace(-1, 1, width, dtype=torch.float64)
        pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).view(-1, 2)
        count = len(grid)
        system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
        system[:count, :count] = _kernel(grid, grid)
        system[:count, count:] = _affine(grid)
        system[count:, :count] = _affine(grid).T
        basis = torch.cat([_kernel(pixels, grid), _affine(pixels)], 1)
        #: (H W, MESH^2): places of all pixels from the displaced control points
        self.weights = (basis @ torch.linalg.inv(system))[:, :count].float().to(device)
        self.moving = (grid.abs() < 1).all(1).nonzero()[:, 0].to(device)
        self.grid = grid.float().to(device)
        self.shape = (height, width)

    def places(self, shift: Tensor) -> Tensor:
        """Sampling grid (B, H, W, 2) of displacements (B, inner points, 2) of the inner control points."""
        points = self.grid.expand(len(shift), -1, -1).index_add(1, self.moving, shift)
        places: Tensor = (self.weights @ points).view(len(shift), *self.shape, 2)
        return places


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = (a[:, None] - b[None]).square().sum(2)
    return squared * (squared + 1e-9).log()


def _affine(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], 1)


def warp(x: Tensor, places: Tensor) -> Tensor:
    """x (B, C, H, W) sampled bilinearly at `places`, borders repeated."""
    # no padding_mode="border", which MPS has not in all releases
    return F.grid_sample(x, places.clamp(-1, 1), mode="bilinear", padding_mode="zeros", align_corners=True)


class _Warped(nn.Module):
    """The model after a fixed warp of each row; rows beyond the images (padding) repeat the first ones' warps."""

    def __init__(self, model: nn.Module, shift: Tensor, splines: Splines) -> None:
        super().__init__()
        self.model, self.shift, self.splines = model, shift, splines

    def forward(self, z: Tensor) -> Tensor:
        index = torch.arange(len(z), device=z.device) % len(self.shift)
        logits: Tensor = self.model(warp(z, self.splines.places(self.shift)[index]))
        return logits


def _shift_gradient(model: nn.Module, x: Tensor, y: Tensor, shift: Tensor, splines: Splines) -> Tensor:
    """Gradient of each image's loss with respect to its displacements."""
    with torch.enable_grad():
        moved = shift.detach().requires_grad_(True)
        logits = answer(model, filled(warp(x, splines.places(moved))))[: len(x)]
        # a gradient that is not finite is refused here: grid_sample ends the process where it is sent to NaN
        return gradient_of(cross_entropy(logits.float(), y).sum(), moved)
