import math

import pytest
import torch
from torch import Tensor

from mspd.errors import InputError
from mspd.metrics import l2, linf, paired_interval, psnr, ssim, wilson


def pair(*shape: int, seed: int = 0, noise: float = 0.05, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g, dtype=dtype)
    return (x + noise * torch.randn(shape, generator=g, dtype=dtype)).clamp(0, 1), x


@pytest.mark.parametrize("metric", [linf, l2, psnr, ssim])
def test_one_number_per_image_whatever_the_batch(metric):
    x, ref = pair(4, 3, 16, 12)
    whole = metric(x, ref)
    assert whole.shape == (4,)
    torch.testing.assert_close(whole, torch.cat([metric(x[i : i + 1], ref[i : i + 1]) for i in range(4)]))


@pytest.mark.parametrize("metric", [linf, l2, psnr, ssim])
@pytest.mark.parametrize(
    ("a", "b"), [((2, 3, 8, 8), (1, 3, 8, 8)), ((3, 8, 8), (3, 8, 8)), ((0, 3, 8, 8), (0, 3, 8, 8))]
)
def test_shapes_that_do_not_pair_are_refused(metric, a, b):
    with pytest.raises(InputError, match="pass two"):
        metric(torch.zeros(a), torch.zeros(b))


def test_distances_of_a_known_difference():
    ref = torch.full((1, 1, 2, 2), 0.5)
    x = ref + torch.tensor([[0.3, -0.4], [0.0, 0.0]]).view(1, 1, 2, 2)
    assert linf(x, ref).item() == pytest.approx(0.4)
    assert l2(x, ref).item() == pytest.approx(0.5)
    assert psnr(x, ref).item() == pytest.approx(-10 * math.log10(0.25 / 4), abs=1e-4)


def test_equal_images():
    _, x = pair(2, 3, 20, 20)
    assert linf(x, x).tolist() == l2(x, x).tolist() == [0, 0]
    assert psnr(x, x).tolist() == [math.inf, math.inf]
    assert ssim(x, x).tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(32, 32), (7, 40), (6, 6), (5, 5), (4, 3), (1, 9), (1, 1)])
def test_ssim_of_constant_images_is_the_luminance_term(shape):
    x, ref = torch.full((1, 3, *shape), 0.6, dtype=torch.float64), torch.full((1, 3, *shape), 0.4, dtype=torch.float64)
    expected = (2 * 0.6 * 0.4 + 1e-4) / (0.6**2 + 0.4**2 + 1e-4)
    assert ssim(x, ref).item() == pytest.approx(expected, abs=1e-9)


def test_ssim_is_symmetric_and_falls_with_noise():
    _, ref = pair(1, 3, 40, 40)
    values = [ssim(pair(1, 3, 40, 40, noise=n)[0], ref).item() for n in (0.01, 0.05, 0.2)]
    assert values == sorted(values, reverse=True)
    x, ref = pair(1, 3, 40, 40)
    torch.testing.assert_close(ssim(x, ref), ssim(ref, x))


def direct_ssim(x: Tensor, ref: Tensor) -> float:
    """One channel, window by window, from the definition; borders reflected."""
    _, _, height, width = x.shape
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    w = (-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2)).exp()
    w = w / w.sum()
    a, b = (torch.nn.functional.pad(t, (5, 5, 5, 5), mode="reflect")[0, 0] for t in (x, ref))
    total = 0.0
    for i in range(height):
        for j in range(width):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            total += float((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return total / (height * width)


def test_ssim_against_its_definition():
    x, ref = pair(1, 1, 12, 9, noise=0.2, dtype=torch.float64)
    assert ssim(x, ref).item() == pytest.approx(direct_ssim(x, ref), abs=1e-9)


@pytest.mark.parametrize("shape", [(2, 3, 40, 31), (3, 1, 11, 6), (1, 3, 7, 64)])
def test_ssim_against_torchmetrics(shape):
    pytest.importorskip("torchmetrics", minversion="1.9")  # older releases leave out the borders
    from torchmetrics.functional.image import structural_similarity_index_measure as oracle

    x, ref = pair(*shape)
    torch.testing.assert_close(ssim(x, ref), oracle(x, ref, data_range=1.0, reduction="none"), atol=1e-4, rtol=0)


def test_wilson_known_values_and_edges():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson(20, 20)[1] <= 1
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 10, z=0) == pytest.approx((0.5, 0.5))
    for bad in ((-1, 5), (6, 5)):
        with pytest.raises(InputError):
            wilson(*bad)


def test_wilson_solves_its_equation():
    for successes, n in ((1, 3), (40, 50), (500, 1000)):
        for bound in wilson(successes, n):
            assert abs(successes / n - bound) == pytest.approx(1.96 * math.sqrt(bound * (1 - bound) / n))


def test_paired_interval():
    a = torch.tensor([True] * 50 + [False] * 50)
    b = a.clone()
    b[50:70] = True  # 20 gained
    b[:5] = False  # 5 lost
    difference, low, high = paired_interval(a, b)
    assert difference == pytest.approx(0.15)
    half = 1.96 * math.sqrt((25 / 100 - 0.15**2) / 100)
    assert (low, high) == pytest.approx((0.15 - half, 0.15 + half))
    assert paired_interval(b, a)[0] == pytest.approx(-0.15)
    assert paired_interval(a, a) == (0, 0, 0)


def test_paired_interval_refuses_what_is_not_paired():
    yes = torch.ones(3, dtype=torch.bool)
    for a, b in ((yes, yes[:2]), (yes.float(), yes), (yes[:0], yes[:0]), (yes.view(1, 3), yes.view(1, 3))):
        with pytest.raises(InputError):
            paired_interval(a, b)
