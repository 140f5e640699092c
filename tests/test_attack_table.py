"""Every attack of the table: invariants on a small network, the known optimum on a linear model, exact counts."""

import importlib
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import check_refusals, default_dtype
from mspd.attacks import ATTACKS, apgd, apgd_t, autoattack, bpda_eot, cw, decowa, fab_t, mcg, rays, square
from mspd.attacks.apgd import checkpoints
from mspd.attacks.common import wrong_classes
from mspd.attacks.decowa import Splines, warp
from mspd.attacks.fab import to_plane
from mspd.attacks.square import HALVINGS, _bump, _peak, _step_l2
from mspd.errors import InputError, UsageError
from mspd.models import build, load_model
from mspd.objectives import cross_entropy, dlr, margin, targeted_dlr

torch.manual_seed(1)
FLOW = build("flow", {"levels": 2, "steps": 1, "hidden": 8})
SURROGATE = build("resnet20", {"num_classes": 5, "width": 4}).eval()

#: cheap settings
QUICK: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 3},
    "cw": {"steps": 5},
    "cw_pgd": {"steps": 3},
    "apgd": {"steps": 6},
    "apgd_t": {"steps": 5, "targets": 2},
    "fab_t": {"steps": 5, "targets": 2},
    "square": {"n_queries": 30},
    "mcg": {"n_queries": 30, "flow": FLOW, "surrogate": SURROGATE},
    "autoattack": {"steps": 4, "n_queries": 20},
    "rays": {"n_queries": 60},
    "decowa": {"steps": 2, "warps": 2},
    "bpda_eot": {"steps": 3},
}
NORMS = [("Linf", 8 / 255), ("L2", 0.5)]
LINF_ONLY = {"cw", "mcg"}
TABLE = [(name, *norm) for name in ATTACKS for norm in NORMS if norm[0] == "Linf" or name not in LINF_ONLY]
#: attacks that look at the whole ball by gradients and must find a linear model's optimum
GRADIENT = ["pgd", "cw_pgd", "apgd", "apgd_t", "autoattack", "decowa", "bpda_eot"]


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 5, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=g(1)).float() / 255


class Linear(nn.Module):
    """Five classes; class 0 leads by w . (x - 1/2) + lead over class 1, the others are far behind."""

    def __init__(self, lead: float = 1.0, shape: tuple[int, ...] = (3, 8, 8)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=g(2)))
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.w).flatten(1).sum(1) + self.lead
        zero = torch.zeros_like(score)
        return torch.stack([score, zero, zero - 50, zero - 60, zero - 70], 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("wide_resnet", {"num_classes": 5, "depth": 10, "width": 1}).eval()


@pytest.fixture(scope="module")
def labels(network: nn.Module) -> Tensor:
    """The network's own labels, but for the last picture."""
    with torch.no_grad():
        y = network(pictures()).argmax(1)
    y[-1] = (y[-1] + 1) % 5
    return y


def test_table_is_complete() -> None:
    assert set(QUICK) == set(ATTACKS)


@pytest.mark.parametrize(("name", "norm", "eps"), TABLE)
def test_invariants(name: str, norm: str, eps: float, network: nn.Module, labels: Tensor) -> None:
    x, y, attack = pictures(), labels, ATTACKS[name]
    before, state = x.clone(), torch.random.get_rng_state()
    network.train()
    network.bn.eval()  # type: ignore[union-attr]
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    x_adv = attack(network, x, y, eps=eps, norm=norm, generator=g(3), **QUICK[name])
    assert network.training
    assert not network.bn.training  # type: ignore[union-attr]
    network.eval()
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    delta = (x_adv - x).flatten(1)
    length = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert bool((length <= eps * (1 + 1e-5)).all())
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    assert torch.equal(x, before)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(x_adv, attack(network, x, y, eps=eps, norm=norm, generator=g(3), **QUICK[name]))
    # on one picture alone, as in the batch
    alone = attack(network, x[2:3], y[2:3], eps=eps, norm=norm, generator=g(3), **QUICK[name])
    assert torch.equal(alone, x_adv[2:3])
    if name not in {"pgd", "cw_pgd", "decowa"}:
        assert torch.equal(x_adv[-1], x[-1]), "a picture that is misread already is left alone"


@pytest.mark.parametrize(("name", "norm", "eps"), TABLE)
def test_attack_lowers_the_lead(name: str, norm: str, eps: float, network: nn.Module, labels: Tensor) -> None:
    """With many times the budget every attack finds misread points of a network; a no-op finds none."""
    x, y = pictures()[:4], labels[:4]
    big = {"Linf": 0.4, "L2": 12.0}[norm]
    more = {"steps": 20} if "steps" in QUICK[name] else {}
    if name in {"square", "rays", "mcg"}:
        more = {"n_queries": 400}
    if name == "cw":
        more = {"steps": 200, "lr": 0.1, "c": 100.0}
    x_adv = ATTACKS[name](network, x, y, eps=big, norm=norm, generator=g(3), **{**QUICK[name], **more})
    with torch.no_grad():
        assert not bool((network(x).argmax(1) != y).any())
        assert int((network(x_adv).argmax(1) != y).sum()) >= (1 if name == "decowa" else 3)


@pytest.mark.parametrize("layers", ["convolution", "linear"])
@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"mcg"}))  # its flow is of colour pictures
def test_models_of_one_channel(name: str, layers: str) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 16) if layers == "convolution" else nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    model = nn.Sequential(first, nn.Flatten())
    x = pictures()[:, :1, :16, :16]
    with torch.no_grad():
        y = model(x).argmax(1)
    x_adv = ATTACKS[name](model, x, y, eps=0.2, norm="Linf", generator=g(3), **QUICK[name])
    assert x_adv.shape == x.shape
    if name not in ("square", "rays", "cw"):  # 5 steps reach little, and so do few queries
        assert bool((model(x_adv).argmax(1) != y).any())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", GRADIENT)
def test_linear_model_optimum(name: str, norm: str) -> None:
    """The lead over class 1 can fall by eps times the dual norm of w, and no further: an attack breaks a lead of 98 %
    of that, and none breaks 101 %. An attack that moves nothing fails the first part."""
    eps = 0.05 if norm == "Linf" else 0.3
    shift = Linear().w.detach()
    reach = eps * float(shift.abs().sum() if norm == "Linf" else shift.norm())
    x, y = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, dtype=torch.long)
    settings = {"pgd": {"steps": 20}, "decowa": {"steps": 10, "warps": 40}, "bpda_eot": {"steps": 30}}.get(name, {})
    if name == "decowa":  # warped gradients of white noise point elsewhere: use a smooth w
        smooth = torch.nn.functional.interpolate(torch.randn(1, 3, 2, 2, generator=g(2)), (8, 8), mode="bilinear")[0]
        reach = eps * float(smooth.abs().sum() if norm == "Linf" else smooth.norm())
    for share, broken in ((0.98, True), (1.01, False)):
        if name == "decowa":
            share = 0.3 if broken else share  # warps blur the direction
        model = Linear(lead=share * reach)
        if name == "decowa":
            model.w.data = smooth
        x_adv = ATTACKS[name](model, x, y, eps=eps, norm=norm, generator=g(), **settings)
        with torch.no_grad():
            assert bool((model(x_adv).argmax(1) != y).all()) is broken, (share, broken)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_finds_the_boundary_of_a_linear_model(norm: str) -> None:
    """FAB looks for the nearest misread point: it succeeds with 2 % more than the distance and not with 2 % less."""
    w = Linear().w.detach()
    x, y = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, dtype=torch.long)
    distance = 1.0 / float(w.abs().sum() if norm == "Linf" else w.norm())
    for share, broken in ((1.02, True), (0.98, False)):
        x_adv = ATTACKS["fab_t"](Linear(), x, y, eps=share * distance, norm=norm, generator=g(), steps=100)
        assert bool((Linear()(x_adv).argmax(1) != y).all()) is broken


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_nearest_point_of_a_plane(norm: str) -> None:
    """Against the plain projection where [0, 1] does not bind, and by the plane's equation where it does."""
    z, w = torch.rand(6, 3, 4, 4, generator=g(1)), torch.randn(6, 3, 4, 4, generator=g(2))
    at = (w * z).flatten(1).sum(1)
    dual = w.flatten(1).abs().sum(1) if norm == "Linf" else w.flatten(1).norm(dim=1)
    near = to_plane(z * 0.2 + 0.4, w, ((z * 0.2 + 0.4) * w).flatten(1).sum(1) - 0.05 * dual, norm)
    size = near.flatten(1).abs().amax(1) if norm == "Linf" else near.flatten(1).norm(dim=1)
    assert torch.allclose(size, torch.full((6,), 0.05), rtol=1e-3)
    far = to_plane(z, w, at + 0.3 * dual, norm)
    moved = (w * far).flatten(1).sum(1)
    assert torch.allclose(moved, 0.3 * dual, rtol=2e-3, atol=2e-3)
    assert 0 <= float((z + far).min()) <= float((z + far).max()) <= 1
    never = to_plane(z, w, at + 1e6, norm)
    assert torch.allclose(z + never, (w > 0).float(), atol=1e-4)


# ---------------------------------------------------------------- the pieces


def test_losses_by_hand() -> None:
    logits, y = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 5.0, 1.0]]), torch.tensor([0, 1])
    assert torch.allclose(margin(logits, y), torch.tensor([-2.0, 3.0]))
    assert torch.allclose(dlr(logits, y), torch.tensor([-2 / 3, 3 / 4]))
    aim = torch.tensor([2, 3])
    assert torch.allclose(targeted_dlr(logits, y, aim), torch.tensor([-3 / 3.5, -1 / 4.5]))
    assert wrong_classes(logits, y).tolist() == [[1, 2, 3], [2, 3, 0]]


def test_checkpoints_of_a_hundred_steps() -> None:
    ends = torch.tensor(checkpoints(100)).cumsum(0).tolist()
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]


def test_apgd_halves_its_step_and_converges() -> None:
    """On a bowl around a point inside the ball a fixed step of 2 eps would bounce for ever."""

    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            height = -(x - 0.53).square().flatten(1).sum(1)
            return torch.stack([-height + 1, height, height - 9, height - 9], 1)

    x = torch.full((1, 3, 4, 4), 0.5)
    points: list[Tensor] = []

    class Seen(Bowl):
        def forward(self, x: Tensor) -> Tensor:
            points.append(x.detach()[:1])
            return super().forward(x)

    apgd(Seen(), x, torch.tensor([0]), eps=0.1, generator=g(), steps=100)
    last = torch.cat(points[-20:]) - 0.53
    assert float(last.abs().max()) < 0.02


def test_cw_is_short_and_weaker_than_the_budget() -> None:
    """From the centre 50 steps of 0.01 reach tanh(0.5) = 46 % of the budget at most, and CW stays near the boundary."""
    x, y = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0])
    w = Linear().w.detach()
    easy, hard = Linear(lead=0.2 * 0.1 * float(w.abs().sum())), Linear(lead=0.6 * 0.1 * float(w.abs().sum()))
    found = cw(easy, x, y, eps=0.1, generator=g(), c=1e3)
    assert int(easy(found).argmax(1)) != 0
    assert float((found - x).abs().max()) < 0.047
    assert torch.equal(cw(hard, x, y, eps=0.1, generator=g(), c=1e3), x)


def test_cw_moves_pixels_at_0_and_1_as_readily_as_others() -> None:
    x, y = torch.cat([torch.zeros(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], 3), torch.tensor([0])
    w = Linear().w.detach()
    most = 0.1 * float((w * (2 * x[0] - 1)).clamp_min(0).sum())
    model = Linear(lead=0.3 * most - float(((x - 0.5) * w).sum()))
    x_adv = cw(model, x, y, eps=0.1, generator=g(), c=1e3)
    assert int(model(x).argmax(1)) == 0
    assert int(model(x_adv).argmax(1)) != 0


def test_cw_with_a_large_weight_reaches_the_optimum() -> None:
    """Where success counts far more than length, and with time, CW breaks a lead of 98 % of what the box allows."""
    x, y, w = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, dtype=torch.long), Linear().w.detach()
    for share, broken in ((0.98, True), (1.01, False)):
        model = Linear(lead=share * 0.05 * float(w.abs().sum()))
        x_adv = cw(model, x, y, eps=0.05, generator=g(), c=1e3, steps=1000, lr=0.05)
        assert bool((model(x_adv).argmax(1) != y).all()) is broken


def test_an_attack_without_gradients_says_what_to_do(network: nn.Module, labels: Tensor) -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(x).detach()
            return logits

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), 5)

    for model, y in ((Detached(), labels), (Constant(), torch.zeros_like(labels))):
        for name in ("pgd", "cw", "apgd", "bpda_eot"):
            with pytest.raises(InputError, match=r"gives no gradient .*: attack it with square or rays"):
                ATTACKS[name](model, pictures(), y, eps=0.03, generator=g(), **QUICK[name])
    square(Detached(), pictures(), labels, eps=0.03, generator=g(), n_queries=5)


def test_surrogates_by_name_and_of_other_classes(labels: Tensor) -> None:
    x, twelve = pictures(3), nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 12))
    nn.init.zeros_(twelve[1].weight)
    nn.init.constant_(twelve[1].bias[11:], 5.0)
    for attack in (partial(decowa, surrogate="rn20-cifar10"), partial(mcg, n_queries=5)):
        with pytest.raises(InputError, match=r"label 11 is outside .*pass surrogate=, a model with the"):
            attack(twelve, x, torch.full((3,), 11), eps=0.03, generator=g())
    ten, settings = load_model("rn56-cifar10"), {"eps": 0.03, "steps": 1, "warps": 1}
    named = decowa(ten, x, labels[:3], generator=g(), surrogate="rn20-cifar10", **settings)
    given = decowa(ten, x, labels[:3], generator=g(), surrogate=load_model("rn20-cifar10"), **settings)
    assert torch.equal(named, given)


def test_surrogates_of_fewer_or_more_classes() -> None:
    x, y = pictures(3), torch.zeros(3, dtype=torch.int64)
    for attack in (partial(decowa, surrogate="rn20-cifar10"), partial(mcg, n_queries=5)):
        with pytest.raises(
            InputError, match=r"cifar10 has 10 classes, the target has 5; pass surrogate=, a model with"
        ):
            attack(Linear(lead=1000.0), x[:, :, :8, :8], y, eps=0.03, generator=g())


class Ties(nn.Module):
    """Two classes by the mean brightness, in logits of whole numbers: most are equal, and read as class 0."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) - 0.5
        return torch.stack([(-9 * bright).round(), (9 * bright).round()], 1)


@pytest.mark.parametrize("name", ["square", "mcg"])
def test_equal_logits_are_no_success(name: str) -> None:
    """On a tie the label is still read: the attack goes on until the picture is misread or its queries are used."""
    x, y = torch.full((4, 3, 16, 16), 0.45), torch.zeros(4, dtype=torch.int64)
    model, queries = Ties(), torch.zeros(4, dtype=torch.int64)
    flow = {"flow": FLOW, "surrogate": Ties(), "tuning": 0} if name == "mcg" else {}
    x_adv = ATTACKS[name](model, x, y, eps=0.02, generator=g(), n_queries=20, queries=queries, **flow)
    assert bool((model(x_adv).argmax(1) == y).all())
    assert queries.tolist() == [20] * 4


def test_cw_leads_by_its_confidence(network: nn.Module, labels: Tensor) -> None:
    x = pictures(4)
    y = network(x).argmax(1)
    settings = {"eps": 0.3, "steps": 60, "lr": 0.1, "c": 10.0}
    for confidence in (0.0, 0.05):
        x_adv = cw(network, x, y, generator=g(), confidence=confidence, **settings)
        with torch.no_grad():
            lead = margin(network(x_adv), y)
        assert bool((lead > 0).any())
        assert bool((lead[lead > 0] >= confidence).all())


class Counting(nn.Module):
    """Counts the rows that are not padding: every call's distinct images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        logits: Tensor = self.model(x)
        return logits


def quick_mcg(*args: Any, **params: Any) -> Tensor:
    return mcg(*args, flow=FLOW, surrogate=SURROGATE, **params)


def test_mcg_takes_no_other_flow(network: nn.Module, labels: Tensor) -> None:
    for flow in (0, network):
        with pytest.raises(UsageError, match=r"flow is a .*: pass a ConditionalFlow"):
            mcg(network, pictures(), labels, eps=0.1, generator=g(), flow=flow, surrogate=SURROGATE)  # type: ignore[arg-type]


def test_mcg_tunes_its_flow_and_starts_square_late(
    network: nn.Module, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[int, Tensor] = {}

    def caught(model: nn.Module, x: Tensor, y: Tensor, *, start: Any, p_init: float, skip: int, **_: Any) -> Tensor:
        assert (p_init, skip) == (0.3, 500)
        starts[len(starts)] = start(torch.arange(len(x)), 5)
        return x

    monkeypatch.setattr(importlib.import_module("mspd.attacks.mcg"), "square", caught)
    with torch.no_grad():
        lost = []
        for tuning in (0, 10):
            quick_mcg(network, pictures(4), labels[:4], eps=0.1, generator=g(), tuning=tuning, lr=0.05)
            lost.append(float(margin(SURROGATE(starts[len(starts) - 1]), labels[:4]).mean()))
    assert lost[1] > lost[0] + 0.01, "tuned on the surrogate, the first guess costs it more of its margin"


def test_mcg_leaves_its_surrogate_as_found(network: nn.Module, labels: Tensor) -> None:
    quick_mcg(network, pictures(2), labels[:2], eps=0.1, generator=g(), n_queries=2)
    assert all(p.requires_grad and p.grad is None for p in SURROGATE.parameters())


@pytest.mark.parametrize("attack", [square, rays, quick_mcg])
@pytest.mark.parametrize("limit", [1, 2, 3, 17, 50])
def test_queries_are_counted_and_never_exceed_the_limit(
    attack: Callable[..., Tensor], limit: int, network: nn.Module, labels: Tensor
) -> None:
    x = pictures(8)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[3] = (y[3] + 1) % 5  # misread already
    model, queries = Counting(network), torch.zeros(8, dtype=torch.int64)
    attack(model, x, y, eps=1e-4, generator=g(), n_queries=limit, queries=queries)
    assert int(queries.max()) == limit
    assert int(queries[3]) == 1
    one = Counting(network)
    own = torch.zeros(1, dtype=torch.int64)
    attack(one, x[:1], y[:1], eps=1e-4, generator=g(), n_queries=limit, queries=own)
    assert int(own) == limit
    assert one.rows == 8 * limit  # one row filled up to 8


@pytest.mark.parametrize("attack", [square, rays, quick_mcg])
@pytest.mark.parametrize(
    ("queries", "found"),
    [(50, "50"), (torch.zeros((), dtype=torch.int64), r"shape \(\)"), (torch.zeros(3), r"shape \(3,\)")],
)
def test_what_is_filled_is_no_limit(
    attack: Callable[..., Tensor], queries: object, found: str, network: nn.Module
) -> None:
    model = Counting(network)
    with pytest.raises(UsageError, match=rf"^queries: {found}; .* shape \(8,\), or the limit as n_queries$"):
        attack(model, pictures(8), torch.zeros(8, dtype=torch.int64), eps=1e-4, generator=g(), queries=queries)
    assert model.rows == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_default_dtype_of_the_caller_does_not_matter(name: str, network: nn.Module, labels: Tensor) -> None:
    x, y = pictures(4), labels[:4]

    def call() -> Tensor:
        return ATTACKS[name](network, x, y, eps=0.05, generator=g(), **QUICK[name])

    expected = call()
    with default_dtype(torch.float64):
        assert torch.equal(call(), expected)


def test_decowa_constrains_its_warps_and_keeps_its_momentum(network: nn.Module, labels: Tensor) -> None:
    x, shifts = pictures()[:2], list[Tensor]()
    module = importlib.import_module("mspd.attacks.decowa")

    class Seen(module._Warped):  # type: ignore[name-defined,misc]
        def __init__(self, model: nn.Module, shift: Tensor, splines: Splines) -> None:
            super().__init__(model, shift, splines)
            shifts.append(shift)

    for slope in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_Warped", Seen)
            patch.setattr(module, "_shift_gradient", lambda *args, s=slope: torch.full_like(args[3], s))
            decowa(network, x, labels[:2], eps=0.1, generator=g(), steps=1, warps=1)
    assert torch.allclose(shifts[1], shifts[0] - module.CONSTRAINT, atol=1e-6), "against the loss"
    assert module.CONSTRAINT > 0
    splines, shift = Splines(x.shape[2], x.shape[3], x.device), shifts[0]
    slope_of = module._shift_gradient(network, x, labels[:2], shift, splines)
    with torch.no_grad():
        before, after = (
            cross_entropy(
                network(warp(x, splines.places(shift + 1e-2 * slope_of / slope_of.norm() * k))), labels[:2]
            ).sum()
            for k in (0, 1)
        )
    assert float(after) > float(before)
    whole, none = (
        decowa(network, x, labels[:2], eps=0.1, generator=g(), steps=3, warps=1, decay=d) for d in (1.0, 0.0)
    )
    assert not torch.equal(whole, none)


def test_square_follows_its_schedule(network: nn.Module) -> None:
    """The side of what changes between two proposals shrinks as the queries pass the schedule's marks."""
    assert len(HALVINGS) == 9
    x = torch.full((1, 3, 20, 20), 0.5)
    seen: list[Tensor] = []

    class Robust(nn.Module):
        """The lead never falls: every proposal is made from the first point."""

        def forward(self, z: Tensor) -> Tensor:
            seen.append(z[:1].clone())
            return torch.tensor([[1.0, 0.0, -1.0]]).expand(len(z), -1) + 0 * z.sum()

    square(Robust(), x, torch.tensor([0]), eps=0.1, generator=g(), n_queries=70)
    first, proposals = seen[1], seen[2:]
    assert torch.allclose((first - x).abs(), torch.tensor(0.1), atol=1e-6)
    assert torch.equal(first[:, :, 0], first[:, :, -1])  # vertical stripes

    def widest(points: list[Tensor]) -> int:
        return max(int((p != first).any(1).flatten(1).any(0).view(20, 20).any(1).sum()) for p in points)

    sides = [round(math.sqrt(0.8 / 2**k * 400)) for k in range(3)]
    assert widest(proposals[:11]) == sides[0]
    assert widest(proposals[11:51]) == sides[1]
    assert widest(proposals[51:]) == sides[2]


def test_square_l2_moves_a_peak_from_one_window_to_another() -> None:
    peak = _peak(3, 3)
    assert torch.allclose(peak / peak[0, 0], torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]))
    both = _bump(5, torch.tensor([0.0, 1.0]))[:, 0]
    assert torch.equal(both[1], both[0].T)
    assert bool((both[0, :2] > 0).all())
    assert bool((both[0, 2:] < 0).all())
    assert float(both[0].norm()) == pytest.approx(1)

    class Drawn:
        def take(self, live: Tensor, count: int) -> Tensor:
            return torch.tensor([[0.0, 0.0, 0.99, 0.99, 0.0, *[0.9] * (count - 5)]])

    x = torch.full((1, 3, 20, 20), 0.5)
    before = x + 0.02
    moved = _step_l2(before, x, Drawn(), torch.tensor([0]), float((before - x).norm()), 0.05) - x  # type: ignore[arg-type]
    assert float(moved.norm()) == pytest.approx(float((before - x).norm()), rel=1e-5)
    assert float(moved[:, :, 14:19, 14:19].abs().max()) == 0, "the second window is emptied"
    assert float(moved[0, 0, :5, :5].max()) > 4 * float(moved[0, 0, 10, 10]), "into the first one"


def test_apgd_keeps_a_quarter_of_the_last_move() -> None:
    """Up once, then down: its second point is three quarters of the step away, and a quarter of the first move."""
    points: list[Tensor] = []

    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                points.append(x.detach()[0].clone())
            height = x.flatten(1).sum(1) * (-1 if len(points) > 1 else 1)
            height = height / 10
            return torch.stack([5 - height, height, height - 9, height - 9], 1)

    apgd(Turn(), torch.full((1, 3, 2, 2), 0.5), torch.tensor([0]), eps=0.4, generator=g(), steps=100)
    start, first, second = points[:3]
    assert torch.allclose(first, torch.tensor(0.9)), "the whole step, cut off at the ball"
    assert torch.allclose(second, first + 0.75 * (0.1 - first) + 0.25 * (first - start))
    assert float((first - start).max()) > 0.1


def test_rays_distance_on_a_linear_model() -> None:
    """RayS finds the sign vector of w, the Linf optimum; its distance falls with the queries, towards the optimum."""
    model, x, y = Linear(shape=(3, 2, 2)), torch.full((1, 3, 2, 2), 0.5), torch.tensor([0])
    best = 1.0 / float(model.w.detach().abs().sum())
    lengths = []
    for limit in (40, 150, 1500):
        distance = torch.zeros(1)
        rays(model, x, y, eps=1e-3, generator=g(), n_queries=limit, distances=distance)
        lengths.append(float(distance))
    assert lengths[0] >= lengths[1] >= lengths[2]
    assert lengths[2] == pytest.approx(best, rel=0.03)
    found = rays(model, x, y, eps=1.05 * lengths[2], generator=g(), n_queries=1500)
    assert int(model(found).argmax(1)) != 0
    queries = torch.zeros(1, dtype=torch.int64)
    rays(model, x, y, eps=0.4, generator=g(), n_queries=1500, queries=queries)
    assert int(queries) < 100  # it stops within the budget


def test_rays_move_in_l2_never_grows_with_the_queries() -> None:
    """At black and white pixels half of a sign vector leads nowhere: the shorter reach may be the longer move."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 10)).requires_grad_(False)
    x = torch.rand(8, 1, 6, 6, generator=g()).round()
    y, found = model(x).argmax(1), torch.zeros(8)
    before = torch.full((8,), torch.inf)
    for limit in range(20, 200, 20):
        rays(model, x, y, eps=1e-3, norm="L2", generator=g(), n_queries=limit, distances=found)
        assert bool((found <= before).all())
        before = found.clone()
    assert bool(torch.isfinite(before).all())


@pytest.mark.parametrize("size", [(16, 16), (13, 20)])
def test_warp_of_nothing_is_the_image(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=g())
    splines = Splines(*size, x.device)
    assert torch.allclose(warp(x, splines.places(torch.zeros(2, 1, 2))), x, atol=1e-4)
    moved = warp(x, splines.places(torch.tensor([[[0.5, 0.0]], [[0.0, -0.5]]])))
    assert not torch.allclose(moved, x, atol=0.05)
    assert torch.allclose(moved[:, :, 0, 0], x[:, :, 0, 0], atol=1e-3)  # the corners stay


def test_decowa_takes_gradients_of_the_surrogate_only(network: nn.Module, labels: Tensor) -> None:
    class NoGradient(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(x).detach()
            return logits

    x = pictures()
    a = decowa(NoGradient(), x, labels, eps=0.03, generator=g(), surrogate=network, steps=2, warps=2)
    b = decowa(network, x, labels, eps=0.03, generator=g(), steps=2, warps=2)
    assert torch.equal(a, b)


# ---------------------------------------------------------------- purifiers and random models


def noise(x: Tensor, *, generator: torch.Generator) -> Tensor:
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_bpda_without_a_purifier_is_pgd_from_the_image(network: nn.Module, labels: Tensor) -> None:
    x = pictures()
    calls = Counting(network)
    x_adv = bpda_eot(calls, x, labels, eps=1e-4, generator=g(), steps=4)
    assert calls.rows <= 8 * (1 + 3 * 5)  # one sample a step, not twenty
    same = bpda_eot(network, x, labels, eps=1e-4, generator=g(), steps=4, purifier=lambda z, generator: z)
    assert torch.equal(x_adv, same)


def test_bpda_goes_through_a_random_purifier() -> None:
    """A linear model behind noise: the mean gradient is the model's own, so the optimum is reached; and what breaks it
    once by chance is not counted."""
    x, y, eps = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, dtype=torch.long), 0.05
    reach = eps * float(Linear().w.detach().abs().sum())
    for share, broken in ((0.9, True), (1.1, False)):
        model = Linear(lead=share * reach)
        x_adv = bpda_eot(
            model, x, y, eps=eps, generator=g(), purifier=noise, steps=10, step_size=eps / 4, samples=6, checks=100
        )
        held = [bool((model(noise(x_adv, generator=g(100 + k))).argmax(1) == y).all()) for k in range(5)]
        assert (sum(held) < 3) is broken

    # one noisy look misreads these often, a hundred hardly ever: they must all go on from where they are
    model, many = Linear(lead=0.05 * reach), torch.full((8, 3, 8, 8), 0.5)
    x_adv = bpda_eot(
        model, many, torch.zeros(8, dtype=torch.long), eps=1e-5, generator=g(), purifier=noise, steps=3, samples=1,
        checks=100,
    )  # fmt: skip
    once = torch.stack([model(noise(many, generator=g(k))).argmax(1) for k in range(20)]).double().mean()
    assert 0.2 < float(once) < 0.5
    assert bool((x_adv != many).flatten(1).any(1).all())
    with pytest.raises(InputError, match=r"the purifier returns shape \(1, 3, 4, 4\)"):
        bpda_eot(Linear(), x, y, eps=eps, generator=g(), purifier=lambda z, generator: z[:, :, ::2, ::2])


def test_rand_asks_a_deterministic_model_once(network: nn.Module, labels: Tensor) -> None:
    x, rows = pictures(), {}
    for eot in (1, 20):
        model = Counting(network)
        autoattack(model, x, labels, eps=1e-4, generator=g(), version="rand", steps=3, eot=eot)
        rows[eot] = model.rows
    assert rows[1] == rows[20]

    class Random(Counting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0.01 * torch.rand(len(x), 5, generator=self.generator)

    model = Random(network)
    model.generator = g()
    autoattack(model, x, labels, eps=1e-4, generator=g(), version="rand", steps=3, eot=20)
    assert model.rows > 5 * rows[1]
    model.rows = 0
    bpda_eot(model, x, labels, eps=1e-4, generator=g(), steps=3, samples=20, checks=2)
    assert model.rows >= 8 * 3 * 2 * 20  # a random model is asked as often as one behind a random purifier


def test_broken_images_cost_nothing_more(network: nn.Module, labels: Tensor) -> None:
    x = pictures()
    rows = {}
    for eps in (1e-5, 0.4):
        model = Counting(network)
        autoattack(model, x, labels, eps=eps, generator=g(), steps=10, n_queries=50)
        rows[eps] = model.rows
    assert rows[0.4] < rows[1e-5] / 3


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda m, x, y: apgd(m, x, y, eps=0.1, generator=g(), loss="mse"), "unknown loss 'mse': use ce or dlr"),
        (lambda m, x, y: autoattack(m, x, y, eps=0.1, generator=g(), version="plus"), "unknown version 'plus'"),
        (lambda m, x, y: cw(m, x, y, eps=0.1, norm="L2", generator=g()), "use norm='Linf'"),
        (
            lambda m, x, y: square(m, x, y, eps=0.1, generator=g(), n_queries=0),
            "n_queries is 0: it must be a whole number",
        ),
        (
            lambda m, x, y: rays(m, x, y, eps=0.1, generator=g(), n_queries=0),
            "n_queries is 0: it must be a whole number",
        ),
        (lambda m, x, y: apgd(m, x, y, eps=0.1, generator=g(), steps=0), "steps is 0: it must be a whole"),
        (lambda m, x, y: apgd(m, x, y, eps=0.1, generator=g(), eot=0), "eot is 0: it must be a whole"),
        (lambda m, x, y: apgd_t(m, x, y, eps=0.1, generator=g(), steps=0), "steps is 0: it must be a whole"),
        (lambda m, x, y: fab_t(m, x, y, eps=0.1, generator=g(), targets=0), "targets is 0: it must be a whole"),
        (lambda m, x, y: cw(m, x, y, eps=0.1, generator=g(), steps=0), "steps is 0: it must be a whole"),
        (lambda m, x, y: decowa(m, x, y, eps=0.1, generator=g(), warps=0), "warps is 0: it must be a whole"),
        (lambda m, x, y: decowa(m, x, y, eps=0.1, generator=g(), decay=math.nan), "decay is nan: it must be finite"),
        (lambda m, x, y: decowa(m, x, y, eps=0.1, generator=g(), decay=-1), "decay is -1: it must be finite and not"),
        (lambda m, x, y: cw(m, x, y, eps=0.1, generator=g(), confidence=math.nan), "confidence is nan: it must be"),
        (lambda m, x, y: cw(m, x, y, eps=0.1, generator=g(), confidence="0"), "confidence is '0': it must be finite"),
        (lambda m, x, y: bpda_eot(m, x, y, eps=0.1, generator=g(), checks=0), "checks is 0: it must be a whole"),
        (lambda m, x, y: autoattack(m, x, y, eps=0.1, generator=g(), eot=0), "eot is 0: it must be a whole"),
    ],
)
def test_wrong_options(call: Callable[..., object], line: str, network: nn.Module, labels: Tensor) -> None:
    with pytest.raises(UsageError) as caught:
        call(network, pictures(), labels)
    assert line in str(caught.value)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"square", "rays", "mcg"}))
def test_a_gradient_that_is_not_finite(name: str) -> None:
    class Rooted(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (x - x).square().flatten(1).sum(1).sqrt()[:, None]

    with pytest.raises(InputError, match="the model's gradient is NaN or infinite"):
        ATTACKS[name](Rooted(lead=50), torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 0]), eps=0.01, generator=g())


def test_inference_mode() -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match="which attacks follow: call it outside"):
        ATTACKS["pgd"](Linear(), torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]), eps=0.01, generator=g())


@pytest.mark.parametrize("name", ["apgd_t", "autoattack"])
def test_too_few_classes(name: str) -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).mean(2) * torch.tensor([3.0, -2.0, 1.0])

    with pytest.raises(UsageError, match="needs at least 4 classes, the model has 3: use pgd"):
        ATTACKS[name](Three(), pictures(2), torch.tensor([0, 1]), eps=0.1, generator=g())


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_wrong_types(name: str) -> None:
    """Of what all of them take, and of counts and lengths; the line names the argument."""
    x, y, parameters = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]), inspect.signature(ATTACKS[name]).parameters
    wrong: dict[str, tuple[Any, ...]] = {
        "model": ("prn18-cifar10", None),
        "x": ("cat.png", None),
        "y": (0, None),
        "eps": ("8/255", None, torch.tensor(0.1), [0.1]),
        "norm": (2, None),
        "generator": (0, None, [g()]),
        **{key: ("0.1", -0.1, [0.1]) for key in ("step_size", "lr", "c", "p_init") if key in parameters},
        **{key: ("3", 1.5, -1, True, None) for key, parameter in parameters.items() if parameter.annotation is int},
        **{key: values for key, values in (("loss", ("ce", None)), ("purifier", ("jpeg",)))
           if key in parameters and parameters[key].annotation is not str},
    }  # fmt: skip
    call = {"model": Linear(), "x": x, "y": y, "eps": 0.1, "generator": g(), **QUICK[name]}
    check_refusals(ATTACKS[name], call, wrong)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_bad_input(name: str) -> None:
    model, x, y = Linear(), torch.full((1, 3, 8, 8), 0.5), torch.tensor([0])
    for change, error, line in (
        ({"eps": 8}, UsageError, "did you mean 8/255?"),
        ({"norm": "L1"}, UsageError, "use 'Linf' or 'L2'"),
        ({"x": x * 255}, InputError, "divide by 255"),
        ({"x": x.double()}, InputError, "x is torch.float64: attacks compute in float32"),
        ({"x": x.half()}, InputError, "x is torch.float16"),
        ({"x": x.clone().requires_grad_()}, InputError, "pass x.detach()"),
        ({"y": torch.tensor([7])}, InputError, "outside the model's 5 classes"),
        ({"y": torch.tensor([[1.0, 0, 0, 0, 0]])}, InputError, "pass integer labels"),
    ):
        call: dict[str, Any] = {"x": x, "y": y, "eps": 0.1, **change}
        with pytest.raises(error) as caught:
            ATTACKS[name](model, call.pop("x"), call.pop("y"), generator=g(), **call)
        assert line in str(caught.value)
