"""Every defence of the table: invariants on a small network, the closed form on a linear model, exact counts."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import check_refusals, default_dtype
from mspd.ball import image_generators, random_offsets
from mspd.defenses import DEFENSES, bilevel, cascade, gaussian, mcgs, unadv
from mspd.defenses.bilevel import box, from_coordinates, to_coordinates
from mspd.errors import InputError, UsageError
from mspd.evaluation import predict
from mspd.models import build
from mspd.objectives import cross_entropy


def waves(x: Tensor) -> Tensor:
    """A stand-in for A5's trained generator."""
    return (40 * x).sin()


#: cheap settings
QUICK: dict[str, dict[str, Any]] = {
    "mcgs": {"n_samples": 2},
    "unadv": {"epochs": 2, "steps": 3},
    "bilevel": {"epochs": 2, "steps": 2},
    "cascade": {"steps": 3},
    "a5": {"network": waves},
    "gaussian": {},
    "uniform": {},
}
NORMS = [("Linf", 8 / 255), ("L2", 0.5)]
TABLE = [(name, *norm) for name in DEFENSES for norm in NORMS if norm[0] == "Linf" or name != "a5"]
CONTROLS = ["gaussian", "uniform"]
GRADIENT = [name for name in DEFENSES if name not in [*CONTROLS, "a5"]]
DETERMINISTIC = {"unadv", "cascade", "a5"}


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 5, size: int = 16, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, channels, size, size), generator=g(1)).float() / 255


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("wide_resnet", {"num_classes": 4, "depth": 10, "width": 1}).eval()


class Linear(nn.Module):
    """Two classes, logits w . (x - 1/2) and its negative; the border is a plane, so the smallest attack is known."""

    def __init__(self, shape: tuple[int, ...] = (3, 8, 8)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=g(2)) / 10)

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([score, -score], 1)

    def distance(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        """Signed length of the smallest move across the border, far from the limits of [0, 1]."""
        w = self.w.detach()
        score = ((x - 0.5) * w).flatten(1).sum(1) * (1 - 2 * y)
        return score / (w.abs().sum() if norm == "Linf" else w.norm())


class Counting(nn.Module):
    """Counts the calls of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.model(x)
        return logits


# ---------------------------------------------------------------- all of them


def test_table_is_complete() -> None:
    assert set(QUICK) == set(DEFENSES)


@pytest.mark.parametrize("name", DEFENSES)
def test_default_dtype_of_the_caller_does_not_matter(name: str, network: nn.Module) -> None:
    x, y = pictures(2, 32), torch.tensor([0, 1])
    settings = {} if name == "a5" else QUICK[name]  # the shipped network
    expected = DEFENSES[name](network, x, y, eps=8 / 255, generator=g(), **settings)
    with default_dtype(torch.float64):
        assert torch.equal(DEFENSES[name](network, x, y, eps=8 / 255, generator=g(), **settings), expected)


@pytest.mark.parametrize(("name", "norm", "eps"), TABLE)
def test_invariants(name: str, norm: str, eps: float, network: nn.Module) -> None:
    x, y, defense = pictures(), torch.tensor([0, 1, 2, 3, 0]), DEFENSES[name]
    before, state = x.clone(), torch.random.get_rng_state()
    network.train()
    network.bn.eval()  # type: ignore[union-attr]
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    x_def = defense(network, x, y, eps=eps, norm=norm, generator=g(3), **QUICK[name])
    assert network.training
    assert not network.bn.training  # type: ignore[union-attr]
    network.eval()
    assert x_def.shape == x.shape
    assert x_def.dtype == x.dtype
    assert not x_def.requires_grad
    delta = (x_def - x).flatten(1)
    length = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert bool((length <= eps * (1 + 1e-5)).all())
    assert bool((length > 0.1 * eps).all())
    assert 0 <= float(x_def.min()) <= float(x_def.max()) <= 1
    assert torch.equal(x, before)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(x_def, defense(network, x, y, eps=eps, norm=norm, generator=g(3), **QUICK[name]))
    other = defense(network, x, y, eps=eps, norm=norm, generator=g(4), **QUICK[name])
    assert torch.equal(x_def, other) is (name in DETERMINISTIC)


@pytest.mark.parametrize(("name", "norm", "eps"), TABLE)
@pytest.mark.parametrize("size", [16, 13])
def test_result_does_not_depend_on_the_batch(name: str, norm: str, eps: float, size: int, network: nn.Module) -> None:
    x, y = pictures(12, size), torch.arange(12) % 4

    def call(index: Tensor) -> Tensor:
        return DEFENSES[name](network, x[index], y[index], eps=eps, norm=norm, generator=g(3), **QUICK[name])

    whole = call(torch.arange(12))
    assert torch.equal(whole[[11]], call(torch.tensor([11])))
    assert torch.equal(whole.flip(0), call(torch.arange(11, -1, -1)))


@pytest.mark.parametrize("name", DEFENSES)
def test_soft_labels_and_grey_pictures(name: str, network: nn.Module) -> None:
    x, y = pictures(2, channels=1), torch.tensor([0, 1])
    hard = DEFENSES[name](network, x, y, eps=0.03, generator=g(), **QUICK[name])
    assert hard.shape == x.shape
    soft = DEFENSES[name](network, x, torch.eye(4)[y], eps=0.03, generator=g(), **QUICK[name])
    assert torch.allclose(hard, soft, atol=1e-5)


@pytest.mark.parametrize("name", GRADIENT)
def test_models_of_one_channel(name: str) -> None:
    torch.manual_seed(0)
    x, y = pictures(4, channels=1), torch.tensor([0, 1, 2, 3])
    patches = nn.Sequential(nn.Unfold(4, stride=4), nn.Flatten(), nn.Linear(256, 4))
    for model in (nn.Sequential(nn.Conv2d(1, 4, 16), nn.Flatten()), patches):
        check_one_channel(name, model, x, y)


def check_one_channel(name: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    x_def = DEFENSES[name](model, x, y, eps=8 / 255, generator=g(), **QUICK[name])
    assert x_def.shape == x.shape
    with torch.no_grad():
        assert float((cross_entropy(model(x), y) - cross_entropy(model(x_def), y)).mean()) > 0.01


@pytest.mark.parametrize("name", GRADIENT)
def test_gradient_defences_lower_the_loss_of_a_network(name: str, network: nn.Module) -> None:
    """With the label of the backbone itself, as the baselines are published, and with another one."""
    x = pictures(4)
    y = predict(network, x)
    for aim in (y, (y + 1) % 4):
        x_def = DEFENSES[name](network, x, aim, eps=8 / 255, generator=g(), **QUICK[name])
        with torch.no_grad():
            assert float((cross_entropy(network(x), aim) - cross_entropy(network(x_def), aim)).mean()) > 0.01


def identity(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
    return x


def raises_the_margin(defense: Callable[..., Tensor], norm: str, **params: object) -> bool:
    """Must the best attacker of a linear model go at least half a budget further than before, for every image?"""
    model, eps = Linear(), 0.05 if norm == "Linf" else 0.3
    x = (0.5 + 0.1 * torch.randn(6, 3, 8, 8, generator=g(5))).clamp(0.2, 0.8)
    y = torch.tensor([0, 1] * 3)
    x_def = defense(model, x, y, eps=eps, norm=norm, generator=g(), **params)
    gained = model.distance(x_def, y, norm) - model.distance(x, y, norm)
    assert bool((gained <= eps * (1 + 1e-3)).all()), "nobody can raise it by more than the budget"
    return bool((gained > 0.5 * eps).all())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_closed_form_margin(norm: str) -> None:
    for name in GRADIENT:
        more = {"lr": 3.0} if (name, norm) == ("bilevel", "L2") else {}
        assert raises_the_margin(DEFENSES[name], norm, **{**QUICK[name], **more}), name
    for name in CONTROLS:
        assert not raises_the_margin(DEFENSES[name], norm), name
    assert not raises_the_margin(identity, norm)


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_wrong_types(name: str) -> None:
    """Of what all of them take, and of counts and lengths; the line names the argument."""
    x, y, parameters = torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]), inspect.signature(DEFENSES[name]).parameters
    wrong: dict[str, tuple[Any, ...]] = {
        "x": ("cat.png", None),
        "y": (0, None),
        "eps": ("8/255", None, torch.tensor(0.1), [0.1]),
        "norm": (2, None),
        "generator": (0, None, [g()]),
        **{key: ("0.1", -0.1, [0.1]) for key in ("step_size", "lr", "alpha") if key in parameters},
        **{key: ("3", 1.5, 0, True, None) for key, parameter in parameters.items() if parameter.annotation is int},
    }
    if name in GRADIENT:  # the others do not look at it
        wrong["model"] = ("prn18-cifar10", None)
    if name == "mcgs":
        wrong |= {"epochs": (2, None), "average": (1, None)}
    call = {"model": Linear(), "x": x, "y": y, "eps": 0.1, "generator": g(), **QUICK[name]}
    check_refusals(DEFENSES[name], call, wrong)


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_bad_input(name: str) -> None:
    model, x, y = Linear(), torch.full((1, 3, 8, 8), 0.5), torch.tensor([0])
    for change, error, line in (
        ({"eps": 8}, UsageError, "did you mean 8/255?"),
        ({"eps": 0}, UsageError, "must be positive"),
        ({"norm": "L1"}, UsageError, "use 'Linf' or 'L2'"),
        ({"x": x * 255}, InputError, "divide by 255"),
        ({"x": x[0]}, InputError, "one image as x[None]"),
        ({"y": torch.tensor([0, 1])}, InputError, "pass integer labels (1,)"),
        ({"y": torch.tensor([7])}, InputError, "outside the model's 2 classes"),
    ):
        if "outside" in line and name in [*CONTROLS, "a5"]:  # these never ask the model
            continue
        call: dict[str, Any] = {"x": x, "y": y, "eps": 0.1, **change}
        with pytest.raises(error) as caught:
            DEFENSES[name](model, call.pop("x"), call.pop("y"), generator=g(), **call)
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ("defense", "option", "line"),
    [
        (unadv, {"epochs": 0}, "epochs is 0: it must be a whole number"),
        (unadv, {"steps": 0}, "steps is 0: it must be a whole number"),
        (unadv, {"alpha": 0}, "alpha is 0"),
        (bilevel, {"epochs": 0}, "epochs is 0: it must be a whole number"),
        (bilevel, {"steps": 0}, "steps is 0: it must be a whole number"),
        (bilevel, {"lr": 0}, "lr is 0: it must be positive"),
        (bilevel, {"step_size": -0.1}, "step_size is -0.1: it must be positive"),
        (cascade, {"steps": 0}, "steps is 0: it must be a whole number"),
    ],
)
def test_wrong_options(defense: Callable[..., Tensor], option: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        defense(Linear(), torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]), eps=0.1, generator=g(), **option)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("defense", "params", "passes"),
    [(mcgs, {}, 40), (unadv, {"epochs": 2}, 40), (unadv, {"epochs": 5, "steps": 3}, 15), (cascade, {}, 40),
     (bilevel, {"epochs": 2}, 42), (bilevel, {"epochs": 5, "steps": 3}, 20)],
)  # fmt: skip
def test_gradients_of_an_image(defense: Callable[..., Tensor], params: dict[str, Any], passes: int) -> None:
    """40 for two epochs of 20, as published; Bi-Level one more an epoch; so 2,000 and 2,100 for a hundred."""
    model = Counting(Linear((3, 2, 2)))
    defense(model, torch.full((1, 3, 2, 2), 0.5), torch.tensor([0]), eps=0.1, generator=g(), **params)
    assert model.calls == (passes / 20 if defense is mcgs else passes)  # mcgs: 20 copies a call
    if defense in (unadv, bilevel):
        defaults = inspect.signature(defense).parameters
        assert (defaults["epochs"].default, defaults["steps"].default) == (100, 20)


# ---------------------------------------------------------------- one by one


def test_unadv_walks_and_moves_a_share() -> None:
    """20 steps of eps/4 reach the corner of the ball around the epoch's start; alpha of the way is taken."""
    model, x, y = Linear(), torch.full((1, 3, 8, 8), 0.5), torch.tensor([0])

    def moved(**params: Any) -> Tensor:
        return (unadv(model, x, y, eps=0.1, generator=g(), **params) - x) * model.w.detach().sign()

    assert torch.allclose(moved(epochs=1), torch.tensor(0.1), atol=1e-6)
    assert torch.allclose(moved(epochs=1, steps=2), torch.tensor(0.05), atol=1e-6)
    assert torch.allclose(moved(epochs=2, alpha=0.1), torch.tensor(0.02), atol=1e-6)  # at most 0.2 eps
    assert torch.allclose(moved(epochs=2), torch.tensor(0.1), atol=1e-6)
    assert torch.allclose(moved(), torch.tensor(0.1), atol=1e-6)
    assert torch.allclose(moved(epochs=10, steps=2), torch.tensor(0.05), atol=1e-6)  # alpha 0.1 from ten epochs on


def test_cascade_reflects_the_attack_about_the_forward_point(network: nn.Module) -> None:
    """2 x_F - PGD(x_F), by hand on a network, around x in the end."""
    x, y, eps, steps = pictures(3), torch.tensor([0, 1, 2]), 8 / 255, 4

    def walk(centre: Tensor, direction: int) -> Tensor:
        z = centre
        for _ in range(steps):
            z = z.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(cross_entropy(network(z), y).sum(), z)
            z = (z.detach() + direction * eps / 4 * found.sign()).clamp(0, 1)
            z = torch.minimum(torch.maximum(z, centre - eps), centre + eps)
        return z

    forward = walk(x, -1)
    expected = (2 * forward - walk(forward, 1)).clamp(0, 1)
    expected = torch.minimum(torch.maximum(expected, x - eps), x + eps)
    x_def = cascade(network, x, y, eps=eps, generator=g(), steps=steps)
    assert float(((x_def - expected).abs() > 1e-4).float().mean()) < 0.01  # a sign near zero may differ
    assert not torch.allclose(x_def, forward, atol=1e-3)


def start_of(x: Tensor, eps: float) -> Tensor:
    return (x + random_offsets(x.shape[1:], eps, "Linf", image_generators(x, g()))).clamp(0, 1)


def test_bilevel_coordinates() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    low, high = box(x, 0.1)
    assert torch.allclose(low.flatten(), torch.tensor([0, 0.4, 0.9], dtype=torch.float64))
    assert torch.allclose(high.flatten(), torch.tensor([0.1, 0.6, 1], dtype=torch.float64))
    ends = to_coordinates(torch.stack([low, (low + high) / 2, high]), low, high)
    assert torch.allclose(ends[2], torch.full_like(low, math.atanh(0.9995)))
    assert torch.allclose(ends[1], torch.zeros_like(low), atol=1e-12)
    assert torch.allclose(ends[0], -ends[2])
    z = low + 0.3 * (high - low)
    assert torch.allclose(from_coordinates(to_coordinates(z, low, high), low, high), z, atol=1e-4)


@pytest.mark.parametrize("label", [0, 1])
def test_bilevel_first_steps_of_rmsprop(label: int) -> None:
    """RMSprop's running mean starts at zero, so the first step moves every coordinate by 0.1 / sqrt(0.01) = 1 towards
    the label; the second follows from both gradients."""
    model, eps = Linear(), 0.1
    w = model.w.data.sign_().mul_(0.01)
    x, y = torch.full((1, 3, 8, 8), 0.5), torch.tensor([label])
    towards = w.double().sign() * (1 - 2 * label)
    low, high = box(x, eps)
    before = to_coordinates(start_of(x, eps), low, high)

    def coordinates(epochs: int) -> Tensor:
        x_def = bilevel(model, x, y, eps=eps, generator=g(), epochs=epochs)
        return torch.atanh((2 * (x_def.double() - low) / (high - low) - 1).clamp(-1 + 1e-12, 1 - 1e-12))

    def gradient(coordinate: Tensor) -> Tensor:
        """Of the loss at the corner that PGD-20 reaches: -2 p w times the slope of tanh, p the other class's share."""
        z = from_coordinates(coordinate, low, high)
        lead = ((z - 0.5) * w * (1 - 2 * label)).sum() - eps * w.abs().sum()
        return -torch.sigmoid(-2 * lead) * (1 - coordinate.tanh().square())

    inner = before.abs() < 1.5  # further out float32 pixels do not tell coordinates apart
    once, twice = coordinates(1), coordinates(2)
    assert torch.allclose(((once - before) * towards)[inner], torch.tensor(1.0).double(), atol=2e-3)
    first, then = gradient(before), gradient(before + towards)
    expected = -0.1 * then / (0.0099 * first**2 + 0.01 * then**2).sqrt()
    assert torch.allclose(((twice - once) * towards)[inner], expected[inner], atol=0.01)
    used = (bilevel(model, x, y, eps=eps, generator=g(), epochs=2) - x).abs().mean() / eps
    assert float(used) > 0.6, "two epochs use most of the budget"


def test_bilevel_leaves_pixels_whose_attack_stops_at_the_limit() -> None:
    """A black pixel that the attack darkens: the attacked picture is black there wherever the point moves."""
    model = Linear((3, 2, 2))
    x, y = torch.zeros(1, 3, 2, 2), torch.tensor([0])
    x_def = bilevel(model, x, y, eps=0.1, generator=g(), epochs=1, steps=20)
    low, high = box(x, 0.1)
    stayed = from_coordinates(to_coordinates(start_of(x, 0.1), low, high), low, high).float()
    brighter_is_better = model.w.detach()[None] > 0  # there the attack darkens to black
    assert torch.allclose(x_def[brighter_is_better], stayed[brighter_is_better], atol=1e-6)
    assert bool((x_def < stayed)[~brighter_is_better].all())


def test_bilevel_l2_takes_raw_gradient_steps() -> None:
    """The gradient of CE at the attacked point is -2 p w, p the probability of the other class."""
    model, x, y, eps, lr = Linear(), torch.full((1, 3, 8, 8), 0.5), torch.tensor([0]), 0.3, 0.05

    def run(epochs: int) -> Tensor:
        return bilevel(model, x, y, eps=eps, norm="L2", generator=g(), epochs=epochs, lr=lr, steps=20)

    w = model.w.detach()
    first, second = run(1), run(2)
    start = x + (random_offsets(x.shape[1:], 0.5, "Linf", image_generators(x, g())))
    start = x + eps * (start - x) / (start - x).norm()
    attacked = start - eps * w / w.norm()
    p = torch.sigmoid(-2 * ((attacked - 0.5) * w).sum())
    expected = start - x + lr * 2 * p * w
    assert torch.allclose(first - x, expected * min(1.0, eps / float(expected.norm())), atol=1e-3)
    gained = model.distance(torch.cat([x, first, second]), torch.zeros(3, dtype=torch.int64), "L2").diff()
    assert float(gained[1]) > 0


def test_sizes_of_the_controls() -> None:
    """Linf: standard deviation near eps/2, cut at eps; L2: close to the border, all in all."""
    x, y = torch.full((4, 3, 16, 16), 0.5), torch.zeros(4, dtype=torch.int64)
    drawn = gaussian(Linear(), x, y, eps=0.1, generator=g()) - x
    cut = math.sqrt(1 - 2 * 2 * math.exp(-2) / math.sqrt(2 * math.pi) - math.erfc(math.sqrt(2)) + 4 * math.erfc(2**0.5))
    assert float(drawn.std()) == pytest.approx(0.05 * cut, rel=0.04)
    assert float((drawn.abs() >= 0.1 - 1e-6).float().mean()) == pytest.approx(0.0455, abs=0.015)
    length = (gaussian(Linear(), x, y, eps=0.3, norm="L2", generator=g()) - x).flatten(1).norm(dim=1)
    assert bool((length > 0.28).all())
    flat = DEFENSES["uniform"](Linear(), x, y, eps=0.1, generator=g()) - x
    assert float(flat.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.04)
    assert abs(float(drawn.mean())) < 0.005
    assert abs(float(flat.mean())) < 0.005


@pytest.mark.parametrize("name", DEFENSES)
def test_soft_labels_are_probabilities(name: str, network: nn.Module) -> None:
    x, y = pictures(2), torch.eye(4)[:2]
    for wrong in (2 * y, -y, y * torch.nan, y - 0.5):
        with pytest.raises(InputError, match="y has rows that are no probabilities"):
            DEFENSES[name](network, x, wrong, eps=0.03, generator=g(), **QUICK[name])


@pytest.mark.parametrize("name", DEFENSES)
def test_where_no_gradient_can_be_taken(name: str, network: nn.Module) -> None:
    x, y = pictures(2), torch.tensor([0, 1])
    call = partial(DEFENSES[name], network, eps=0.03, generator=g(), **QUICK[name])
    with torch.inference_mode():
        if name in GRADIENT:
            with pytest.raises(UsageError, match="which defences follow: call it outside"):
                call(x, y)
        else:
            assert call(x, y).shape == x.shape
    with pytest.raises(InputError, match=r"which defences do not pass on: pass x.detach\(\)"):
        DEFENSES[name](network, x.clone().requires_grad_(), y, eps=0.03, generator=g(), **QUICK[name])
