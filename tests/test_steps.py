"""Steps of the attacks and defences against the same steps written again by hand, one picture at a time."""

import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mspd import smoothing
from mspd.attacks import ATTACKS, cw, decowa, fab_t
from mspd.ball import image_generators, project, random_offsets
from mspd.defenses import bilevel, mcgs, unadv
from mspd.models import build
from mspd.objectives import cross_entropy, dlr, targeted_dlr


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey(*shape: int) -> Tensor:
    return torch.full(shape, 0.5)


class Linear(nn.Module):
    """Class 0 leads by w . (x - 1/2) + lead over class 1, which knows it, too; three others are far behind; all times
    `scale`."""

    def __init__(self, lead: float, scale: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn((3, 8, 8), generator=g(2)))
        self.lead, self.scale = lead, scale

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.w).flatten(1).sum(1) + self.lead
        far = [-score - behind for behind in (50, 60, 70)]
        return self.scale * torch.stack([score / 2, -score / 2, *far], 1)


# ---------------------------------------------------------------- APGD, from the paper, in plain numbers


def normalised(gradient: Tensor, norm: str) -> Tensor:
    return gradient.sign() if norm == "Linf" else gradient / gradient.norm()


def apgd_by_hand(
    slope: Callable[[Tensor], tuple[Tensor, float]], x: Tensor, start: Tensor, eps: float, norm: str, steps: int
) -> list[Tensor]:
    """All points of one picture; `slope` gives the gradient and the loss at a point."""
    marks, width = [0, math.floor(0.22 * steps)], math.floor(0.22 * steps)
    while marks[-1] < steps:
        width = max(width - math.floor(0.03 * steps), math.floor(0.06 * steps))
        marks.append(marks[-1] + width)
    points, (gradient, loss) = [start], slope(start)
    losses, best, size = [0.0], (loss, start, gradient), 2 * eps
    since_halved, best_at_mark = True, loss
    for k in range(steps):
        now, before = points[-1], points[-2] if k else points[-1]
        ahead = project(now + size * normalised(gradient, norm), x, eps, norm)
        momentum = 1.0 if k == 0 else 0.75
        points.append(project(now + momentum * (ahead - now) + (1 - momentum) * (now - before), x, eps, norm))
        gradient, loss = slope(points[-1])
        losses.append(loss)
        best = max(best, (loss, points[-1], gradient), key=lambda found: found[0])
        if k + 1 in marks:
            window = k + 1 - marks[marks.index(k + 1) - 1]
            rises = sum(losses[i] > losses[i - 1] for i in range(k + 2 - window, k + 2))
            few, stuck = rises <= 0.75 * window, not since_halved and best_at_mark >= best[0]
            since_halved, best_at_mark = few or stuck, best[0]
            if since_halved:
                size /= 2
                points[-1], gradient = best[1], best[2]
    return points


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 16 / 255), ("L2", 1.0)])
@pytest.mark.parametrize("kind", ["ce", "dlr", "targeted"])
def test_apgd_walks_as_published(kind: str, norm: str, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred steps on a curved network that nothing misleads."""
    module = importlib.import_module("mspd.attacks.apgd")
    torch.manual_seed(3)
    network = build("wide_resnet", {"num_classes": 5, "depth": 10, "width": 1}).eval()
    x = torch.rand(1, 3, 16, 16, generator=g(4))
    order = network(x).argsort(1, descending=True)
    y, aim = order[:, 0], order[:, 2]
    shift = torch.zeros(5).index_fill(0, y, 15.0)
    model = nn.Sequential(network, Shifted(shift)).eval()
    loss = {"ce": cross_entropy, "dlr": dlr, "targeted": lambda a, b: targeted_dlr(a, b, aim)}[kind]
    seen, own = list[Tensor](), module._slope

    def spy(model: nn.Module, z: Tensor, *rest: Any) -> Any:
        seen.append(z.clone())
        return own(model, z, *rest)

    def slope(z: Tensor) -> tuple[Tensor, float]:
        rows = z.expand(8, -1, -1, -1).clone().requires_grad_(True)
        value = loss(model(rows)[:1], y)
        return torch.autograd.grad(value.sum(), rows)[0][:1], value.item()

    monkeypatch.setattr(module, "_slope", spy)
    goal = {"aim": aim} if kind == "targeted" else {"loss": loss}
    module.ascend(model, x, y, eps=eps, norm=norm, generator=g(), steps=100, **goal)
    walked = apgd_by_hand(slope, x, seen[0], eps, norm, 100)
    assert len(seen) == 101
    # a point that is not the best gives way to it at a mark, after it was looked at
    apart = [float((a - b).abs().max()) for a, b in zip(seen, walked, strict=True)]
    gone = [k for k, far in enumerate(apart) if far > 0.01 * eps]
    assert set(gone) <= set(torch.tensor([0, *module.checkpoints(100)]).cumsum(0).tolist())
    assert gone


def test_apgd_goes_back_to_the_best_where_it_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that rises to 22, falls to 1 and rises again, not as high: most steps go up, but none beats the best."""
    module = importlib.import_module("mspd.attacks.apgd")
    values = [float(k if k <= 22 else k - 22) for k in range(101)]
    directions = [torch.randn(1, 3, 2, 2, generator=g(k)) for k in range(101)]
    seen, logits = list[Tensor](), torch.tensor([[1.0, 0.0]])

    def scripted(model: nn.Module, z: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(z.clone())
        return directions[len(seen) - 1], torch.tensor([values[len(seen) - 1]]), logits

    calls = iter(range(101))

    def slope(z: Tensor) -> tuple[Tensor, float]:
        k = next(calls)
        return directions[k], values[k]

    monkeypatch.setattr(module, "_slope", scripted)
    x, y = grey(1, 3, 2, 2), torch.tensor([0])
    module.ascend(nn.Identity(), x, y, eps=0.1, norm="Linf", generator=g(), steps=100)
    walked = apgd_by_hand(slope, x, seen[0], 0.1, "Linf", 100)
    assert torch.allclose(walked[41], seen[22], atol=1e-6), "at the second mark"
    assert all(torch.allclose(a, b, atol=1e-6) for k, (a, b) in enumerate(zip(seen, walked, strict=True)) if k < 41)
    assert torch.allclose(seen[42], walked[42], atol=1e-6)
    assert not torch.allclose(seen[42], seen[41], atol=1e-3)


class Shifted(nn.Module):
    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.shift


# ---------------------------------------------------------------- the other attacks


def test_fab_is_pulled_to_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps on a curved boundary: (1 - a) (z + 1.05 d) + a (x + 1.05 d0), a the share of d's length, a tenth at
    most; d and d0 lead from z and from x to the plane through the gradient at z."""
    module = importlib.import_module("mspd.attacks.fab")
    bend = torch.linspace(0.2, 3, 12).view(1, 3, 2, 2)

    class Bowl(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            height = (z - 0.3 + bend * (z - 0.5).square()).flatten(1).sum(1) - 4.5
            return torch.stack([-height, height, height - 9, height - 9], 1)

    seen, own = list[Tensor](), module.loss_gradient

    def spy(model: nn.Module, z: Tensor, *rest: Any) -> Any:
        seen.append(z.clone())
        return own(model, z, *rest)

    monkeypatch.setattr(module, "loss_gradient", spy)
    x, y = grey(1, 3, 2, 2), torch.tensor([0])
    fab_t(Bowl(), x, y, eps=1e-4, norm="L2", generator=g(), steps=4, targets=1)
    shares = []
    for z, after in pairwise(seen):
        at = z.clone().requires_grad_(True)
        logits = Bowl()(at)
        lead = logits[0, 1] - logits[0, 0]
        w = torch.autograd.grad(lead, at)[0]
        b = float((w * z).sum() - lead.detach())
        here, there = (w * (b - float((w * p).sum())) / w.square().sum() for p in (z, x))
        share = min(float(here.norm() / (here.norm() + there.norm())), 0.1)
        step = (1 - share) * (z + 1.05 * here) + share * (x + 1.05 * there)
        misread = bool(Bowl()(step).argmax(1) != 0)
        assert torch.allclose(after, x + 0.9 * (step - x) if misread else step, atol=1e-6)
        shares.append(share * float((here - there + z - x).norm()))
    assert max(shares) > 1e-3, "the pull moves something"


def test_cw_keeps_the_move_short() -> None:
    """The boundary is at a tenth of the budget: with the length in the loss CW ends near it."""
    x, y, w = grey(1, 3, 8, 8), torch.tensor([0]), Linear(0.0).w.detach()
    model = Linear(lead=0.1 * 0.1 * float(w.abs().sum()))
    nearest = model.lead / float(w.norm())
    found = cw(model, x, y, eps=0.1, generator=g(), steps=200)
    assert int(model(found).argmax(1)) != 0
    assert nearest < float((found - x).norm()) < 1.15 * nearest


def gradients(monkeypatch: pytest.MonkeyPatch, values: list[Tensor]) -> None:
    """DeCoWA is given these, one after the other, whatever the model."""
    given = iter(values)
    module = importlib.import_module("mspd.attacks.decowa")
    monkeypatch.setattr(module, "loss_gradient", lambda model, z, *_: (next(given).expand_as(z), None, None))
    monkeypatch.setattr(module, "_shift_gradient", lambda *args: torch.zeros_like(args[3]))


def test_decowa_steps_along_the_mean_of_its_warps(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.ones(1, 1, 1, 1)
    gradients(monkeypatch, [3 * one, -one, -one])
    x_adv = decowa(Linear(1.0), grey(1, 3, 8, 8), torch.tensor([0]), eps=0.1, generator=g(), steps=1, warps=3)
    assert torch.allclose(x_adv, torch.tensor(0.6))


def test_decowa_sums_directions_not_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long gradient down at one pixel, then a short one up at it alone: the second counts as much as the first."""
    first, second = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    first[0, 0, 0, 0], second[0, 0, 0, 0] = -1, 1
    gradients(monkeypatch, [1000 * first, 0.001 * second])
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x_adv = decowa(model, grey(1, 3, 2, 2), torch.tensor([0]), eps=0.1, generator=g(), steps=2, warps=1)
    assert float(x_adv[0, 0, 0, 0]) == pytest.approx(0.5)
    assert float(x_adv[0, 1, 1, 1]) == pytest.approx(0.6)


def test_bpda_ascends_the_loss_of_the_mean_logits() -> None:
    module = importlib.import_module("mspd.attacks.bpda_eot")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)).double().float()
    clean, y = [torch.rand(2, 3, 2, 2, generator=g(k)) for k in range(3)], torch.tensor([0, 3])
    shift = torch.zeros(2, 3, 2, 2, requires_grad=True)
    logits = torch.stack([model(3 * (p + shift)) for p in clean]).mean(0)
    wanted = torch.autograd.grad(cross_entropy(logits, y).sum(), shift)[0] / 1
    sharp = nn.Sequential(Scaled(3), model)
    found = module._mean_gradient(sharp, clean, logits.detach(), y)
    each = torch.stack([smoothing.input_gradient(sharp, p, y) for p in clean]).mean(0)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not torch.allclose(each, wanted, atol=1e-3), "the mean of the samples' own losses is another thing"


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_square_proposes_corners_of_the_ball() -> None:
    x, seen = grey(1, 3, 16, 16), list[Tensor]()

    class Robust(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            seen.append(z[:1].clone())
            return torch.tensor([[1.0, 0.0, -1.0]]).expand(len(z), -1)

    ATTACKS["square"](Robust(), x, torch.tensor([0]), eps=0.1, generator=g(), n_queries=40)
    assert len(seen) == 40
    assert all(torch.allclose((z - x).abs(), torch.tensor(0.1), atol=1e-6) for z in seen[1:])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (10, 40), (64, 192), (9, 9), (33, 20)])
def test_square_l2_begins_all_over_the_picture(height: int, width: int) -> None:
    """Tiles of a fifth of the height, as many as there is room for, in the middle."""
    seen = list[Tensor]()

    class Robust(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            seen.append(z[:1].clone())
            return torch.tensor([[1.0, 0.0, -1.0]]).expand(len(z), -1)

    ATTACKS["square"](
        Robust(), grey(1, 3, height, width), torch.tensor([0]), eps=1.0, norm="L2", generator=g(), n_queries=2
    )
    moved = (seen[1] != 0.5).any(1)[0]
    side = height // 5
    for length, lines in ((height, moved.any(1)), (width, moved.any(0))):
        left = (length % side) // 2
        assert lines.nonzero()[:, 0].tolist() == list(range(left, left + length // side * side))


# ---------------------------------------------------------------- tiny gradients


@pytest.mark.parametrize("name", ["pgd", "apgd", "decowa", "bpda_eot"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("scale", [1.0, 60.0, 80.0])
def test_attacks_on_very_sure_models(name: str, norm: str, scale: float) -> None:
    """The cross-entropy of a lead of 80 has gradients of 1e-35: an attack that loses them reports a model as robust."""
    x, y = grey(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    model = Linear(lead=1.0, scale=scale)
    eps = 4 / float(model.w.detach().abs().sum() if norm == "Linf" else model.w.detach().norm())
    x_adv = ATTACKS[name](model, x, y, eps=eps, norm=norm, generator=g())
    assert bool((model(x_adv).argmax(1) != y).all())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_defences_on_very_sure_models(norm: str) -> None:
    x, y, w = grey(1, 3, 8, 8), torch.tensor([0]), Linear(1.0).w.detach()
    eps = 0.3 / float(w.abs().sum() if norm == "Linf" else w.norm())
    plain, sure = (unadv(Linear(1.0, s), x, y, eps=eps, norm=norm, generator=g(), epochs=2) - x for s in (1.0, 60.0))
    assert float((w * plain).sum()) == pytest.approx(0.3, rel=1e-3)
    assert torch.allclose(plain, sure, atol=1e-6)


# ---------------------------------------------------------------- the defences


class Rising(nn.Module):
    """The loss of label 0 falls where the pixels rise."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, -mean], 1)


def test_worked_vector_of_half_an_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel, eps .1, noise -.1, -.05, 0, .05: F ends at .5625 and moves half of that, to .53125. There the copies
    of B, at .43125, .48125, .53125, .58125, step down to .43125 (three) and .48125, mean .44375; half of the way back
    from there gives .575."""
    noise = torch.tensor([-0.1, -0.05, 0.0, 0.05]).view(1, 4, 1, 1, 1)
    monkeypatch.setattr(smoothing, "random_offsets", lambda shape, eps, norm, generators: noise)
    both = mcgs(Rising(), grey(1, 1, 1, 1), torch.tensor([0]), eps=0.1, generator=g(), n_samples=4, alpha=0.5)
    assert float(both) == pytest.approx(0.575, abs=1e-6)


def test_walks_along_the_mean_gradient_stay_in_range() -> None:
    """From .05 a step of .1 down ends at 0, whose reflection is .1; at -.05 it would be .15."""
    x = torch.full((1, 3, 4, 4), 0.05)
    backward = mcgs(
        Rising(), x, torch.tensor([0]), eps=0.1, generator=g(), n_samples=4, epochs="B", average="gradients"
    )
    assert torch.allclose(backward, torch.tensor(0.1), atol=1e-6)


def test_bilevel_attacks_from_a_random_point() -> None:
    x, seen = grey(1, 3, 8, 8), list[Tensor]()

    class Seen(Linear):
        def forward(self, z: Tensor) -> Tensor:
            if z.requires_grad:
                seen.append(z[:1].detach().clone())
            return super().forward(z)

    bilevel(Seen(1.0), x, torch.tensor([0]), eps=0.1, generator=g(), epochs=1, steps=1)
    start = x + random_offsets((3, 8, 8), 0.1, "Linf", image_generators(x, g()))
    far = (seen[0] - start).abs()
    assert float(far.max()) <= 0.1 + 1e-4
    assert float(far.mean()) > 0.02


def test_random_starts_fill_the_l2_ball() -> None:
    """Their radii are even between 0 and eps, for each of an image's draws."""
    x = torch.rand(4, 3, 8, 8, generator=g(1))
    radii = random_offsets((500, 3, 8, 8), 0.5, "L2", image_generators(x, g())).flatten(2).norm(dim=2).flatten()
    assert float(radii.max()) <= 0.5 + 1e-5
    share = radii.histc(5, 0, 0.5) / len(radii)
    assert torch.allclose(share, torch.tensor(0.2), atol=0.03)
