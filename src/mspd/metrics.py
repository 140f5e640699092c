"""How far apart two images are, how alike two models see them, and how sure a measured accuracy is: pure functions.

Distances and similarities take (B, C, H, W) tensors in [0, 1] of one shape and return one number per image, (B,).
"""

import hashlib
import math
import warnings
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from mspd.errors import InputError, WeightsError
from mspd.extras import library, torchvision
from mspd.guard import check_images, check_labels, eval_mode, no_autocast
from mspd.smoothing import compute_rows, input_gradients

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1
#: the convolutions of torchvision's alexnet-owt-7be5be79, under the names that the lpips package has for them
_ALEXNET = Path(__file__).with_name("alexnet.safetensors")
_ALEXNET_SHA256 = "48dd607d4c19a42bcc6fc5e2124a2f57b2f5ad23001e3037d81aad902f5d799f"
_LPIPS_SIDE = 31  # below, AlexNet's second pooling has nothing left to pool
#: images of one call of LPIPS's network
_ROWS = 48


def _check_pair(x: Tensor, reference: Tensor) -> None:
    """Two float tensors alike in shape, type and device."""
    for z in (x, reference):
        if not isinstance(z, Tensor) or not z.is_floating_point():
            kind = z.dtype if isinstance(z, Tensor) else type(z).__name__
            raise InputError(f"cannot compare {kind}: pass two tensors of floats, 8-bit images as x.float() / 255")
    if (x.dtype, x.device) != (reference.dtype, reference.device):
        kinds = f"{x.dtype} on {x.device} and {reference.dtype} on {reference.device}"
        raise InputError(f"cannot compare {kinds}: pass two tensors of one type on one device")
    if x.shape != reference.shape or x.ndim != 4 or x.numel() == 0:
        shapes = f"{tuple(x.shape)} and {tuple(reference.shape)}"
        raise InputError(f"cannot compare shapes {shapes}: pass two (B, C, H, W) tensors of one shape")


def _check_images(x: Tensor, reference: Tensor) -> None:
    """The same, with values in [0, 1] but for rounding."""
    _check_pair(x, reference)
    for z in (x, reference):
        least, most = (float(end) for end in z.detach().aminmax())
        if not -1e-6 <= least <= most <= 1 + 1e-6:
            raise InputError(f"cannot compare values in [{least:.3g}, {most:.3g}]: they must be finite, in [0, 1]")


def _difference(x: Tensor, reference: Tensor) -> Tensor:
    """(B, pixels), in float32 at least: squares of small differences, and their sum, leave the range of float16."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) - reference.to(wide)).flatten(1)


def linf(x: Tensor, reference: Tensor) -> Tensor:
    """Largest absolute difference of each image."""
    _check_images(x, reference)
    return _difference(x, reference).abs().amax(dim=1)


def l2(x: Tensor, reference: Tensor) -> Tensor:
    """Euclidean length of each image's difference, over all pixels and channels."""
    _check_images(x, reference)
    return _difference(x, reference).square().sum(dim=1).sqrt()


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB for the data range 1; infinite for equal images."""
    _check_images(x, reference)
    return -10 * _difference(x, reference).square().mean(dim=1).log10()


def _gaussian(side: int, like: Tensor) -> Tensor:
    """Normalised 1-D window for an axis of `side` pixels: 11 taps, or 2 side - 1, the most that reflection allows."""
    half = min(_WINDOW // 2, side - 1)
    offsets = torch.arange(-half, half + 1, dtype=like.dtype, device=like.device)
    weights = (offsets.square() / (-2 * _SIGMA**2)).exp()
    window: Tensor = weights / weights.sum()
    return window


def _blur(maps: Tensor) -> Tensor:
    """Gaussian mean around each pixel of each channel: one depthwise pass across, one down; borders reflected."""
    channels = maps.shape[1]
    across, down = _gaussian(maps.shape[3], maps), _gaussian(maps.shape[2], maps)
    half_w, half_h = len(across) // 2, len(down) // 2
    padded = F.pad(maps, (half_w, half_w, half_h, half_h), mode="reflect")
    rows = F.conv2d(padded, across.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(rows, down.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)


@no_autocast()
def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian 11x11 of sigma 1.5, K1 0.01, K2 0.03, range 1.

    Each channel on its own, then the mean over all channels and *all* pixels, borders reflected: what torchmetrics
    1.9 does by default. Its older releases and the paper's code leave out the 5 pixels at each border, where the window
    would overlap the edge. On a side below 6 pixels the window shrinks to 2 side - 1, the most that reflection allows.
    """
    _check_images(x, reference)
    x, reference = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (x, reference))
    maps = torch.cat((x, reference, x * x + reference * reference, x * reference), dim=1)
    mu_x, mu_r, squares, product = _blur(maps).chunk(4, dim=1)
    mu_squares, mu_product = mu_x**2 + mu_r**2, mu_x * mu_r
    luminance = (2 * mu_product + _C1) / (mu_squares + _C1)
    structure = (2 * (product - mu_product) + _C2) / (squares - mu_squares + _C2)
    return (luminance * structure).flatten(1).mean(dim=1)


@no_autocast()
def lpips(x: Tensor, reference: Tensor) -> Tensor:
    """Learned perceptual distance of each image (Zhang et al. 2018): AlexNet, version 0.1, through the lpips package.

    Images are passed in [0, 1], as everywhere, and scaled to the network's [-1, 1] here; nothing is resized. Sides of
    at least 31 pixels, C 3 or 1; InputError for others. AlexNet's convolutions are torchvision's, in half precision,
    and come with mspd. UsageError without the package: nothing stands in for it.
    """
    _check_images(x, reference)
    if min(x.shape[2:]) < _LPIPS_SIDE:
        raise InputError(f"LPIPS needs sides of at least {_LPIPS_SIDE} pixels, not {tuple(x.shape[2:])}")
    if x.shape[1] not in (1, 3):
        raise InputError(f"LPIPS needs 3 channels (RGB) or 1 (grey), not {x.shape[1]}")
    network = _lpips_network().to(x.device)
    values = []
    with torch.no_grad():
        for a, b in zip(torch.split(x, _ROWS), torch.split(reference, _ROWS), strict=True):
            a, b = (2 * z.float().expand(-1, 3, -1, -1) - 1 for z in (a, b))
            values.append(network(a, b).flatten())
    return torch.cat(values)


@cache
def _lpips_network() -> nn.Module:
    torchvision("bench")  # first, because the package cannot import it beside every PyTorch
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # the package asks torchvision in an older manner
        network = library("lpips", "'mspd[bench]'").LPIPS(net="alex", pnet_rand=True, verbose=False)
    data = _ALEXNET.read_bytes()
    if hashlib.sha256(data).hexdigest() != _ALEXNET_SHA256:
        raise WeightsError(f"{_ALEXNET}: the file is damaged; install mspd again")
    network.net.load_state_dict({name: value.float() for name, value in load_tensors(data).items()})
    ready: nn.Module = network.eval().requires_grad_(False)
    return ready


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between two directions of each image, (B, C, H, W) perturbations or gradients: (B,) in [-1, 1].

    NaN where one of the two is zero and has no direction; `nanmean` leaves these images out.
    """
    _check_pair(a, b)
    u, v = (z.flatten(1) / z.flatten(1).abs().amax(1, keepdim=True) for z in (a, b))  # tiny gradients do not underflow
    cosines: Tensor = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    return cosines.clamp(-1, 1)


def gradient_similarity(model_a: nn.Module, model_b: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cosine between the two models' input gradients of the cross-entropy at each image (Table XI): (B,).

    x (B, C, H, W) clean images in [0, 1], y (B,) true labels. No smoothing. NaN where a gradient is zero: the table's
    number is `.nanmean()`. Raises InputError for tensors or models outside the contract.
    """
    check_images(x)
    check_labels(y, len(x))
    rows = compute_rows(1, x.shape[2], x.shape[3], x.device)
    with eval_mode(model_a), eval_mode(model_b):
        return cosine(input_gradients(model_a, x, y, rows), input_gradients(model_b, x, y, rows))


def loss_split(losses: Tensor, robust: Tensor) -> tuple[float, float, float]:
    """Mean loss over all images, over those that survive the attack, and over those that fall (Table XI).

    `losses` (n,): cross-entropy of the target on the defended images before the attack; `robust` (n,) boolean. NaN for
    a group without images.
    """
    if losses.shape != robust.shape or losses.ndim != 1 or robust.dtype != torch.bool:
        raise InputError("loss_split needs losses (n,) and booleans (n,) of the same images")
    groups = (losses, losses[robust], losses[~robust])
    return tuple(group.double().mean().item() for group in groups)  # type: ignore[return-value]


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a rate, 95 % by default: (low, high) in [0, 1]; (0, 1) when nothing was measured."""
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}: successes must lie between 0 and n")
    if n == 0:
        return 0.0, 1.0
    rate, spread = successes / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Accuracy of `b` minus accuracy of `a` on the same images: (difference, low, high), the interval at 95 %.

    `a` and `b` are boolean (n,), true where an image is read correctly. The interval is the normal one of the counts
    with half an image more of each kind (both read it, only one, only the other, none): Agresti and Min 2005, "Simple
    improved confidence intervals for comparing matched proportions". It has a width when no image changes sides, too.
    """
    _check_verdicts(a, b)
    n, lost, gained = len(a) + 2, int((a & ~b).sum()), int((b & ~a).sum())
    centre = (gained - lost) / n
    half = 1.96 * math.sqrt((gained + lost + 1 - n * centre**2) / n**2)
    return (gained - lost) / len(a), max(-1.0, centre - half), min(1.0, centre + half)


def mcnemar(a: Tensor, b: Tensor) -> float:
    """p-value of McNemar's exact test that `a` and `b` are read equally well: two-sided, binomial, in (0, 1].

    `a` and `b` as in `paired_interval`. Only images that one reads and the other does not count; without any it is 1.
    """
    _check_verdicts(a, b)
    lost, gained = int((a & ~b).sum()), int((b & ~a).sum())
    n = lost + gained
    ways, tail = 1, 0  # of choosing k images out of n
    for k in range(min(lost, gained) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << n))


def gain_cell(before: Tensor, after: Tensor) -> str:
    """Accuracy of `after`, its points over `before` and their paired 95 % interval: "43.0% (+10.1, +8.2 to +12.0)"."""
    difference, low, high = (100 * value for value in paired_interval(before, after))
    return f"{after.double().mean().item():.1%} ({difference:+.1f}, {low:+.1f} to {high:+.1f})"


def _check_verdicts(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0 or a.dtype != torch.bool or b.dtype != torch.bool:
        raise InputError("a paired comparison needs two boolean tensors of the same shape (n,), n at least 1")
