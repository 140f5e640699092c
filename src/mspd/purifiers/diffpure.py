"""DiffPure (Nie et al. 2022, "Diffusion models for adversarial purification"): noise the image a little, then let a
diffusion model take the noise away."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from numbers import Real

import torch
from torch import Tensor

from mspd.ball import image_generators, normals
from mspd.errors import InputError, UsageError
from mspd.guard import at_rest, check_counts, check_functions, check_generator, check_images, no_autocast
from mspd.models import card_of, load_model
from mspd.smoothing import compute_rows, in_pieces

#: timesteps of the whole diffusion and its noise rates (VP-SDE with beta from 0.1 to 20, discretised)
STEPS = 1000
Denoiser = Callable[[Tensor, Tensor], Tensor]
#: the shipped network
WEIGHTS = "unet-cifar10"


@cache
def kept_signal() -> Tensor:
    """Share of the signal's variance that is left before timestep i, (1001,) float64: 1 at i = 0."""
    rates = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - rates).cumprod(0)])


def add_noise(x: Tensor, noise: Tensor, index: Tensor) -> Tensor:
    """x (B, C, H, W) in [-1, 1] after `index` (B,) timesteps of the forward process."""
    kept = kept_signal()[index.cpu()][:, None, None, None]
    return kept.sqrt().to(x) * x + (1 - kept).sqrt().to(x) * noise


@no_autocast()
def diffpure(
    x: Tensor,
    *,
    generator: torch.Generator | None = None,
    t: float = 0.1,
    strides: int | None = None,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Purify x (B, C, H, W) in [0, 1]: noise up to time `t`, then back; values in [0, 1].

    Every timestep by ancestral sampling (t = 0.1: 100 calls of the network), or with `strides` that many even,
    deterministic strides (DDIM, Song et al. 2021). `denoiser(z, time)` predicts the noise in z (B, C, H, W), about
    [-1, 1], at times (B,) in [0, 1]; the shipped one, trained on 32 x 32 colour pictures, unless given. Each image has
    its own noise, from the generator's seed (0 without one) and the image. UsageError for a t outside (0, 1], for more
    strides than timesteps, and, without a `denoiser`, for a t above 0.15 and for pictures that are grey or have sides
    that 4 does not divide.
    """
    check_images(x)
    if x.dtype != torch.float32:
        raise InputError(f"x is {x.dtype}: diffpure computes in float32, pass x.float()")
    last = round(t * STEPS) if isinstance(t, Real) and 0 < t <= 1 else 0
    if last == 0:
        raise UsageError(f"t is {t!r}: give a time in (0, 1], the paper's is 0.1")
    if strides is not None:
        check_counts(strides=strides)
        if strides > last:
            raise UsageError(f"strides is {strides}: give 1 to {last}, the number of timesteps of t = {t:g}")
    if denoiser is not None:
        check_functions(denoiser=denoiser)
    elif last > (known := card_of(WEIGHTS)["timesteps"]):
        raise UsageError(
            f"t is {t:g}: the shipped denoiser has learned up to {known / STEPS:g}; pass a denoiser of yours"
        )
    elif x.shape[1] != 3 or x.shape[2] % 4 or x.shape[3] % 4:
        size = " x ".join(map(str, x.shape[1:]))
        raise UsageError(f"x is {size}: the shipped denoiser is made for 3 x 32 x 32; pass a denoiser of yours")
    network = load_model(WEIGHTS, x.device) if denoiser is None else denoiser
    rows = compute_rows(1, x.shape[2], x.shape[3], x.device)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    check_generator(generator)
    generators = image_generators(x, generator)

    def noise() -> Tensor:
        return normals(x.shape[1:], generators).to(x)

    def predict(z: Tensor, time: Tensor) -> Tensor:
        found = network(z, time)
        if not isinstance(found, Tensor) or found.shape != z.shape:
            kind = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(f"the denoiser returns {kind}: it must return the noise alone, of z's {tuple(z.shape)}")
        return found

    def noise_in(z: Tensor, i: int) -> Tensor:
        return in_pieces(predict, rows, z, torch.full((len(z),), (i - 1) / STEPS, device=z.device, dtype=torch.float32))

    kept = kept_signal().to(torch.float32).tolist()
    z = add_noise(2 * x - 1, noise(), torch.full((len(x),), last))
    with torch.no_grad(), at_rest(network):
        if strides is None:
            for i in range(last, 0, -1):
                ratio = kept[i] / kept[i - 1]
                predicted = noise_in(z, i)
                z = (z - (1 - ratio) / (1 - kept[i]) ** 0.5 * predicted) / ratio**0.5
                if i > 1:
                    z = z + (1 - ratio) ** 0.5 * noise()
        else:
            stops = torch.linspace(last, 0, strides + 1, dtype=torch.float32).round().long().tolist()
            for i, j in pairwise(stops):
                predicted = noise_in(z, i)
                clean = (z - (1 - kept[i]) ** 0.5 * predicted) / kept[i] ** 0.5
                z = kept[j] ** 0.5 * clean + (1 - kept[j]) ** 0.5 * predicted
    return ((z + 1) / 2).clamp(0, 1)
