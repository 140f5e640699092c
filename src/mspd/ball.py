"""Geometry, written once: random points, steps and projections of the Linf and the L2 ball.

All functions take (B, C, H, W) tensors and change nothing in place. `eps` is a length in [0, 1] units; where a Tensor
is taken, it may be one an image, (B, 1, 1, 1).
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mspd.errors import UsageError

NORMS = ("Linf", "L2")


def check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise UsageError(f"unknown norm {norm!r}: use 'Linf' or 'L2'")


def length_of(v: Tensor, norm: str) -> Tensor:
    """Each image's length in the norm: (B,)."""
    flat = v.flatten(1)
    return flat.abs().amax(1) if norm == "Linf" else flat.norm(dim=1)


def _divisor(v: Tensor) -> Tensor:
    """Each image's L2 length, (B, 1, 1, 1), never zero."""
    return length_of(v, "L2").clamp_min(1e-12).view(-1, 1, 1, 1)


def image_generators(x: Tensor, generator: torch.Generator) -> list[torch.Generator]:
    """One generator an image, seeded by `generator`'s seed and the image's own 8-bit content.

    An image so gets the same noise in any batch, chunk or order. The seed is read; the generator is not advanced.
    """
    seed = generator.initial_seed().to_bytes(8, "little", signed=False)
    grid = (x.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
    generators = []
    for image in grid:
        digest = hashlib.sha256(seed + image.numpy().tobytes()).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1))
    return generators


def normals(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal draws: (len(generators), *shape), each image's from its own generator, float32 on the CPU."""
    return torch.stack([torch.randn(*shape, generator=g, dtype=torch.float32) for g in generators])


def random_offsets(
    shape: Sequence[int], eps: float | Tensor, norm: str, generators: Sequence[torch.Generator]
) -> Tensor:
    """Random starts: (len(generators), *shape), each image's from its own generator, float32 on the CPU.

    The last three of `shape` are (C, H, W); what stands before counts draws of an image. Linf: uniform in the box.
    L2: random direction, radius uniform in (0, eps).
    """
    check_norm(norm)
    if norm == "Linf":
        shares = torch.stack([torch.rand(*shape, generator=g, dtype=torch.float32) for g in generators])
        return shares.mul_(2 * eps).sub_(eps)
    directions, radii = [], []
    for g in generators:
        direction = torch.randn(*shape, generator=g, dtype=torch.float32)
        radii.append(torch.rand(*shape[:-3], 1, 1, 1, generator=g, dtype=torch.float32))
        length = direction.flatten(-3).norm(dim=-1).clamp_min(1e-12)[..., None, None, None]
        directions.append(direction / length)
    return torch.stack(directions).mul_(torch.stack(radii) * eps)


def step(gradient: Tensor, size: float | Tensor, norm: str) -> Tensor:
    """Steepest-ascent step of length `size`: the gradient's sign (Linf) or its direction (L2)."""
    check_norm(norm)
    if norm == "Linf":
        return size * gradient.sign()
    gradient = magnified(gradient)
    return size * (gradient / _divisor(gradient))


def magnified(v: Tensor) -> Tensor:
    """Each image times the power of two that brings its largest value to about 1: the gradient of a very sure model is
    so small that its squares vanish. No bit of a direction changes by it."""
    _, exponent = torch.frexp(length_of(v, "Linf"))
    return torch.ldexp(v, -exponent.clamp(-126, 126).view(-1, 1, 1, 1))


def project(z: Tensor, centre: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    """Nearest point of the ball around `centre` (L2: along the ray to the centre), then of [0, 1].

    Clipping to [0, 1] never leaves the ball when the centre is in [0, 1].
    """
    check_norm(norm)
    if norm == "Linf":
        return torch.minimum(torch.maximum(z, centre - eps), centre + eps).clamp(0, 1)
    delta = z - centre
    return (centre + delta * (eps / _divisor(delta)).clamp_max(1)).clamp(0, 1)
