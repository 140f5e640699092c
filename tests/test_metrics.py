import importlib
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mspd import extras, metrics
from mspd.errors import InputError, UsageError, WeightsError
from mspd.extras import torchvision
from mspd.metrics import (
    cosine,
    gain_cell,
    gradient_similarity,
    l2,
    linf,
    loss_split,
    lpips,
    mcnemar,
    paired_interval,
    psnr,
    ssim,
    wilson,
)
from mspd.models.files import load_state


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


def test_distances_of_half_precision_are_those_of_float32():
    x, ref = torch.ones(1, 3, 200, 200).half(), torch.zeros(1, 3, 200, 200).half()
    assert l2(x, ref).item() == pytest.approx(math.sqrt(3 * 200 * 200))
    assert psnr(x / 4096, ref).item() == pytest.approx(20 * math.log10(4096), abs=1e-4)


def test_lpips_refuses_other_channels():
    with pytest.raises(InputError, match=r"LPIPS needs 3 channels \(RGB\) or 1 \(grey\), not 4"):
        lpips(torch.zeros(1, 4, 40, 40), torch.zeros(1, 4, 40, 40))


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
    torchvision("dev")  # which torchmetrics imports
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
    c = torch.cat([a, torch.tensor([True, False])]).double()  # half an image of each kind is two images ...
    d = torch.cat([b, torch.tensor([True, False])]).double()
    variance = (d - c).var(correction=0).item() + 1 / 102  # ... of which one in all changes sides
    half = 1.96 * math.sqrt(variance / 102)
    assert (low, high) == pytest.approx((15 / 102 - half, 15 / 102 + half))
    assert paired_interval(b, a) == pytest.approx((-0.15, -high, -low))
    assert paired_interval(a, a) == pytest.approx((0, -1.96 / 102, 1.96 / 102))


def test_paired_interval_holds_the_truth_as_often_as_it_says():
    """Two models that read 60 % and 65 % of the images, most of them alike, on 32 images."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(2000):
        kind = torch.multinomial(torch.tensor([0.58, 0.02, 0.07, 0.33]), 32, True, generator=generator)
        _, low, high = paired_interval((kind == 0) | (kind == 1), (kind == 0) | (kind == 2))
        held += low <= 0.05 <= high
    assert 0.94 <= held / 2000 <= 0.99


def test_paired_interval_refuses_what_is_not_paired():
    yes = torch.ones(3, dtype=torch.bool)
    for a, b in ((yes, yes[:2]), (yes.float(), yes), (yes[:0], yes[:0]), (yes.view(1, 3), yes.view(1, 3))):
        with pytest.raises(InputError):
            paired_interval(a, b)


def verdicts(both: int, lost: int, gained: int, neither: int) -> tuple[Tensor, Tensor]:
    """Two readings of the same images, with so many that both, only the first, only the second, or none reads."""
    pairs = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * gained + [(False, False)] * neither
    a, b = torch.tensor(pairs).T
    return a, b


def test_mcnemar_by_hand():
    assert mcnemar(*verdicts(3, 0, 0, 4)) == 1
    assert mcnemar(*verdicts(3, 0, 1, 4)) == 1
    assert mcnemar(*verdicts(0, 0, 5, 0)) == 2 / 32
    assert mcnemar(*verdicts(9, 1, 5, 0)) == 2 * (1 + 6) / 64
    assert mcnemar(*verdicts(9, 5, 1, 7)) == mcnemar(*verdicts(0, 1, 5, 0))
    assert mcnemar(*verdicts(0, 4, 4, 0)) == 1


def test_mcnemar_is_the_binomial_tail():
    for lost, gained in ((2, 9), (11, 3), (40, 70), (700, 900)):
        n = lost + gained
        tail = Fraction(2 * sum(math.comb(n, k) for k in range(min(lost, gained) + 1)), 2**n)
        assert mcnemar(*verdicts(5, lost, gained, 5)) == pytest.approx(float(tail), rel=1e-12)
    assert 0 < mcnemar(*verdicts(0, 0, 1000, 0)) < 1e-300
    assert mcnemar(*verdicts(0, 0, 5000, 0)) == 0  # below what a float can hold


def test_gain_cell():
    a, b = verdicts(50, 5, 20, 25)
    assert gain_cell(a, b) == "70.0% (+15.0, +5.3 to +24.1)"
    assert gain_cell(b, a) == "55.0% (-15.0, -24.1 to -5.3)"
    assert gain_cell(a, a) == "55.0% (+0.0, -1.9 to +1.9)"


@pytest.mark.parametrize("compare", [mcnemar, gain_cell])
def test_paired_comparisons_refuse_what_is_not_paired(compare):
    yes = torch.ones(3, dtype=torch.bool)
    for a, b in ((yes, yes[:2]), (yes.float(), yes), (yes[:0], yes[:0]), (yes.view(1, 3), yes.view(1, 3))):
        with pytest.raises(InputError, match="two boolean tensors of the same shape"):
            compare(a, b)


def test_loss_split():
    losses = torch.tensor([1.0, 2.0, 3.0, 6.0])
    robust = torch.tensor([True, False, True, False])
    everything, success, failure = loss_split(losses, robust)
    assert (everything, success, failure) == (3, 2, 4)
    # the mixing weight that the three means imply is the robust accuracy
    assert (failure - everything) / (failure - success) == pytest.approx(0.5)
    everything, success, failure = loss_split(losses, torch.ones(4, dtype=torch.bool))
    assert everything == success == 3
    assert math.isnan(failure)
    for bad in (robust[:3], robust.float()):
        with pytest.raises(InputError, match="of the same images"):
            loss_split(losses, bad)


def test_cosine_of_known_directions():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [1e-30, 0.0], [2.0, 2.0]]).view(5, 1, 1, 2)
    b = torch.tensor([[4.0, 3.0], [0.0, 2.0], [1.0, 1.0], [1e-30, 1e-30], [-1.0, -1.0]]).view(5, 1, 1, 2)
    expected = torch.tensor([0.96, 0.0, math.nan, math.sqrt(0.5), -1.0])
    torch.testing.assert_close(cosine(a, b), expected, equal_nan=True)
    torch.testing.assert_close(cosine(b, a), expected, equal_nan=True)
    with pytest.raises(InputError, match="pass two"):
        cosine(a, b[:1])


class Plane(nn.Module):
    """Two classes, logits w . x and its negative; the image's gradient lies along w, and is zero where x is black."""

    def __init__(self, w: list[float], *, dead: bool = False) -> None:
        super().__init__()
        self.w, self.dead = nn.Parameter(torch.tensor(w).view(1, 3, 1, 1)), dead

    def forward(self, x: Tensor) -> Tensor:
        score = (self.w * (x.relu() if not self.dead else x.square())).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


def test_gradient_similarity_by_hand():
    x = torch.full((60, 3, 2, 2), 0.5)
    x[7] = 0
    y = torch.arange(60) % 2
    a, b = Plane([1.0, 2.0, 2.0]), Plane([2.0, 1.0, -2.0])
    assert gradient_similarity(a, a, x[:7], y[:7]).tolist() == pytest.approx([1.0] * 7)
    found = gradient_similarity(a.train(), b, x[:7], y[:7])
    assert found.shape == (7,)
    assert found.tolist() == pytest.approx([0.0] * 7, abs=1e-6)
    assert a.training
    assert a.w.grad is None
    square = Plane([1.0, 2.0, 0.0], dead=True)
    found = gradient_similarity(a, square, x, y)
    assert found.isnan().tolist() == [i == 7 for i in range(60)]
    assert found.nanmean().item() == pytest.approx(5 / (3 * math.sqrt(5)))
    soft = gradient_similarity(a, square, x[:2], torch.eye(2)[y[:2]])
    torch.testing.assert_close(soft, found[:2])
    with torch.no_grad():
        torch.testing.assert_close(gradient_similarity(a, square, x, y), found, equal_nan=True)


def test_gradient_similarity_refuses():
    x, y = torch.full((1, 3, 2, 2), 0.5), torch.tensor([0])
    model = Plane([1.0, 2.0, 2.0])
    with pytest.raises(InputError, match="divide by 255"):
        gradient_similarity(model, model, x * 255, y)
    with pytest.raises(InputError, match="outside the model's 2 classes"):
        gradient_similarity(model, model, x, y + 2)
    with pytest.raises(InputError, match="without its softmax"):
        gradient_similarity(model, nn.Sequential(model, nn.Softmax(1)), x, y)
    model.forward = lambda x: Plane.forward(model, x.detach())
    with pytest.raises(InputError, match="gradient"):
        gradient_similarity(model, model, x, y)


# ---------------------------------------------------------------- LPIPS


@pytest.fixture
def fresh():
    """No network kept from before or for after."""
    metrics._lpips_network.cache_clear()
    yield
    metrics._lpips_network.cache_clear()


def alexnet() -> dict[str, Tensor]:
    return load_file(metrics._ALEXNET)


def test_lpips_has_the_published_convolutions():
    """The first values of torchvision's file, as they are printed all over the web."""
    first = alexnet()["slice1.0.weight"].float()
    assert first.shape == (64, 3, 11, 11)
    assert first[0, 0, 0, :3].tolist() == pytest.approx([1.1864e-01, 9.4069e-02, 9.5435e-02], rel=1e-3)
    assert first[0, 0, 0, -3:].tolist() == pytest.approx([5.5822e-02, 2.1575e-02, 4.9963e-02], rel=1e-3)
    assert sum(value.numel() for value in alexnet().values()) == 2469696


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 31), (3, 64)])
def test_lpips_equals_torchmetrics(channels: int, side: int):
    """Its own network, linear weights and scaling, with the same convolutions."""
    torchvision()
    library = importlib.import_module("torchmetrics.functional.image.lpips")
    network = library._LPIPS(net="alex", pnet_rand=True).eval()
    load_state(network.net, alexnet())
    x, ref = pair(50, channels, side, side)
    state = torch.random.get_rng_state()
    values = lpips(x, ref)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        expected = network(2 * x.expand(-1, 3, -1, -1) - 1, 2 * ref.expand(-1, 3, -1, -1) - 1).flatten()
    assert values.shape == (50,)
    assert bool((values > 1e-5).all())
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-7)
    assert lpips(x, x).abs().max() == 0


def test_lpips_without_what_it_needs(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    x, ref = pair(1, 3, 32, 32)
    for a, b in ((x[:, :, :30], ref[:, :, :30]), (x, ref[:, :, 1:])):
        with pytest.raises(InputError):
            lpips(a, b)
    damaged = tmp_path / "alexnet.safetensors"
    damaged.write_bytes(metrics._ALEXNET.read_bytes()[:-1])
    monkeypatch.setattr(metrics, "_ALEXNET", damaged)
    with pytest.raises(WeightsError, match="the file is damaged; install mspd again"):
        lpips(x, ref)
    with monkeypatch.context() as patch:
        patch.setattr(extras, "import_module", lambda name: exec("raise RuntimeError('operator x does not exist')"))
        with pytest.raises(UsageError, match=r"torchvision does not fit this PyTorch \(operator x does not exist\)"):
            lpips(x, ref)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UsageError, match=r"this needs lpips: pip install 'mspd\[bench\]'"):
        lpips(x, ref)


@pytest.mark.parametrize("metric", [linf, l2, psnr, ssim])
def test_only_floats_of_one_kind_in_the_unit_interval_are_compared(metric):
    x = torch.full((1, 3, 8, 8), 0.5)
    for wrong, line in (
        (torch.full((1, 3, 8, 8), 128, dtype=torch.uint8), "cannot compare torch.uint8: pass two tensors of floats"),
        (np.zeros((1, 3, 8, 8), np.float32), "cannot compare ndarray"),
        (x.double(), "torch.float32 on cpu and torch.float64 on cpu|torch.float64 on cpu and torch.float32"),
        (255 * x, r"they must be finite, in \[0, 1\]"),
        (x + 0.50001, r"they must be finite, in \[0, 1\]"),
        (x * torch.nan, r"they must be finite, in \[0, 1\]"),
    ):
        for pair_ in ((x, wrong), (wrong, x)):
            with pytest.raises(InputError, match=line):
                metric(*pair_)
    assert metric(x + 0.5 + 1e-6, x + 0.5).isfinite().all()


def test_ssim_of_bfloat16_is_that_of_its_values() -> None:
    torch.manual_seed(0)
    a = torch.rand(2, 3, 16, 16).bfloat16()
    b = (a + 0.1 * torch.rand_like(a)).clamp(0, 1)
    assert torch.equal(ssim(a, b), ssim(a.float(), b.float()))
