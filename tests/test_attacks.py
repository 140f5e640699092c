"""PGD by closed forms and invariants, and the counting of `evaluate`."""

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import mspd
from mspd import evaluate, prepare
from mspd.attacks import ATTACKS, bpda_eot, pgd, rays, smallest_eps
from mspd.defenses import DEFENSES, mcgs
from mspd.errors import InputError, UsageError
from mspd.evaluation import predict
from mspd.models import build
from mspd.objectives import cross_entropy


class Plane(nn.Module):
    """Two classes, logits w . (x - 1/2) and its negative: the loss of class 0 grows along -w everywhere."""

    def __init__(self, shape: tuple[int, ...] = (3, 6, 6)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


class Brightness(nn.Module):
    """Class 0 for dark images, class 1 for bright ones; the border is at one half."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        lead = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-lead, lead], 1)


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 5, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=g(1)).float() / 255


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("wide_resnet", {"num_classes": 4, "depth": 10, "width": 1}).eval()


# ---------------------------------------------------------------- PGD


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 8 / 255), ("L2", 0.5)])
@pytest.mark.parametrize("steps", [1, 5])
def test_inside_the_ball_deterministic_and_not_a_no_op(network: nn.Module, norm: str, eps: float, steps: int) -> None:
    x, y = images(), torch.tensor([0, 1, 2, 3, 0])
    before = x.clone()
    x_adv = pgd(network, x, y, eps=eps, norm=norm, generator=g(), steps=steps)
    delta = (x_adv - x).flatten(1)
    length = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert bool((length <= eps * (1 + 1e-5)).all())
    assert bool((length > 0.2 * eps).all())
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    assert torch.equal(x, before)
    assert torch.equal(x_adv, pgd(network, x, y, eps=eps, norm=norm, generator=g(), steps=steps))
    assert not torch.equal(x_adv, pgd(network, x, y, eps=eps, norm=norm, generator=g(1), steps=steps))
    with torch.no_grad():
        assert float(cross_entropy(network(x_adv), y).mean()) > float(cross_entropy(network(x), y).mean()) + 1e-3


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 8 / 255), ("L2", 0.5)])
def test_start_of_an_image_does_not_depend_on_the_batch(norm: str, eps: float) -> None:
    x, y = images(6), torch.zeros(6, dtype=torch.long)

    def call(index: Tensor) -> Tensor:
        return pgd(Plane((3, 16, 16)), x[index], y[index], eps=eps, norm=norm, generator=g(3), steps=1, step_size=1e-9)

    whole = call(torch.arange(6))
    assert float((whole - x).abs().max()) > 0.1 * eps / (1 if norm == "Linf" else 30)
    assert torch.allclose(whole.flip(0), call(torch.arange(5, -1, -1)), atol=1e-7)
    assert torch.allclose(whole[[4]], call(torch.tensor([4])), atol=1e-7)


@pytest.mark.parametrize("label", [0, 1])
def test_linear_model_linf_reaches_the_corner(label: int) -> None:
    model, x = Plane(), torch.full((2, 3, 6, 6), 0.5)
    x_adv = pgd(model, x, torch.full((2,), label), eps=0.1, generator=g())
    away = -1 if label == 0 else 1
    assert torch.allclose(x_adv, x + away * 0.1 * model.w.sign(), atol=1e-6)
    # At the edge of [0, 1] the corner is cut off.
    white = torch.ones(1, 3, 6, 6)
    x_adv = pgd(model, white, torch.tensor([label]), eps=0.1, generator=g())
    assert torch.allclose(x_adv, (white + away * 0.1 * model.w.sign()).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_linear_model_l2_reaches_the_optimum(label: int) -> None:
    model, x, eps = Plane(), torch.full((2, 3, 6, 6), 0.5), 0.3
    y = torch.full((2,), label)
    x_adv = pgd(model, x, y, eps=eps, norm="L2", generator=g(), steps=40)
    with torch.no_grad():
        reached = (model(x_adv) - model(x))[:, label]
    best = -eps * float(model.w.detach().norm())
    assert torch.allclose(reached, torch.full((2,), best), rtol=0.02)
    assert bool((reached >= best * (1 + 1e-5)).all())


def test_smallest_eps_is_the_known_one() -> None:
    """On a plane the lead is lost at score / sum |w|; the search ends within its last halving above that."""
    model = Plane()
    shares = torch.tensor([0.02, 0.1, 0.19, -0.05, 0.4])  # how far beyond the border each image is, in budgets
    x = 0.5 + shares.view(-1, 1, 1, 1) * model.w.detach().sign()
    found = smallest_eps(model, x, torch.zeros(5, dtype=torch.long), largest=0.3, generator=g(), rounds=6)
    assert found[3:].tolist() == [0, torch.inf]
    assert bool((found[:3] >= shares[:3] * (1 - 1e-4)).all())
    assert bool((found[:3] <= shares[:3] + 0.3 / 2**6 + 1e-4).all())
    assert smallest_eps(model, x[3:4], torch.zeros(1, dtype=torch.long), largest=0.3, generator=g()).tolist() == [0]


def test_smallest_eps_of_an_image_is_what_pgd_says_of_it_alone(network: nn.Module) -> None:
    x = images()
    with torch.no_grad():
        y = network(x).argmax(1)
    found = smallest_eps(network, x, y, largest=0.1, generator=g(), rounds=5)
    assert len(set(found.tolist())) > 1
    for index, eps in enumerate(found.tolist()):
        one, label = x[[index]], y[[index]]
        assert smallest_eps(network, one, label, largest=0.1, generator=g(), rounds=5).tolist() == [eps]
        with torch.no_grad():
            assert network(pgd(network, one, label, eps=eps, generator=g())).argmax(1) != label
            assert network(pgd(network, one, label, eps=eps - 0.1 / 2**5, generator=g())).argmax(1) == label


def test_model_is_left_as_found(network: nn.Module) -> None:
    model = build("wide_resnet", {"num_classes": 4, "depth": 10, "width": 1}).train()
    model.bn.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    x, y = images(), torch.tensor([0, 1, 2, 3, 0])
    pgd(model, x, y, eps=8 / 255, generator=g(), steps=2)
    evaluate(model, x, y, eps=8 / 255, steps=2)
    assert model.training
    assert model.blocks.training
    assert not model.bn.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"eps": 0}, UsageError, "must be positive"),
        ({"eps": 8}, UsageError, "did you mean 8/255?"),
        ({"norm": "L1"}, UsageError, "use 'Linf' or 'L2'"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"x": torch.full((1, 3, 6, 6), 2.0)}, InputError, "divide by 255"),
        ({"x": torch.zeros(3, 6, 6)}, InputError, "one image as x[None]"),
        ({"y": torch.tensor([2])}, InputError, "label 2 is outside the model's 2 classes"),
        ({"y": [0]}, InputError, "is a list"),
        ({"model": nn.Sequential(Plane(), nn.Softmax(1))}, InputError, "without its softmax"),
    ],
)
def test_bad_calls_say_what_is_wrong(change: dict[str, object], error: type[Exception], line: str) -> None:
    call: dict[str, object] = {"model": Plane(), "x": torch.full((1, 3, 6, 6), 0.5), "y": torch.tensor([0])}
    call |= {"eps": 8 / 255, **change}
    arguments = [call.pop(name) for name in ("model", "x", "y")]
    with pytest.raises(error) as caught:
        pgd(*arguments, generator=g(), **call)  # type: ignore[arg-type]
    assert line in str(caught.value)


# ---------------------------------------------------------------- evaluate


def grey(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


def test_counts_and_intervals() -> None:
    """Dark images, class 0, border at .5, budget .1: right and far, right and near, wrong already."""
    x, y = grey(0.2, 0.45, 0.55, 0.1), torch.tensor([0, 0, 0, 0])
    report = evaluate(Brightness(), x, y, eps=0.1)
    assert (report.attack, report.eps, report.norm, report.n) == ("pgd", 0.1, "Linf", 4)
    assert (report.clean_acc, report.robust_acc) == (0.75, 0.5)
    assert report.per_image["clean"].tolist() == [True, True, False, True]
    assert report.per_image["robust"].tolist() == [True, False, False, True]
    z, n, k = 1.959964, 4, 2  # Wilson
    centre, half = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    assert report.robust_interval == pytest.approx((centre - half, centre + half), abs=1e-4)
    assert report.clean_interval[0] < 0.75 < report.clean_interval[1]
    fast = evaluate(Brightness(), x, y, eps=0.1, fast=True)
    assert torch.equal(fast.per_image["robust"], report.per_image["robust"])


def test_image_that_is_wrong_before_is_not_robust() -> None:
    """An attack that would make it right changes nothing."""

    def help_it(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
        return torch.zeros_like(x)

    report = evaluate(Brightness(), grey(0.9, 0.1), torch.tensor([0, 0]), attack=help_it, eps=0.5)
    assert report.attack == "help_it"
    assert (report.clean_acc, report.robust_acc) == (0.5, 0.5)
    assert report.per_image["robust"].tolist() == [False, True]
    none = evaluate(Brightness(), grey(0.9, 0.9), torch.tensor([0, 0]), eps=0.1)
    assert (none.clean_acc, none.robust_acc) == (0, 0)
    assert none.robust_interval[0] == pytest.approx(0, abs=1e-12)


def test_attack_gets_what_it_needs() -> None:
    seen: dict[str, object] = {}

    def attack(model: nn.Module, x: Tensor, y: Tensor, **options: object) -> Tensor:
        seen.update(options)
        return x

    report = evaluate(Brightness(), grey(0.1), torch.tensor([0]), attack=attack, eps=0.2, norm="L2", seed=7, strength=3)
    generator = seen.pop("generator")
    assert isinstance(generator, torch.Generator)
    assert generator.initial_seed() == report.seed == 7
    assert seen == {"eps": 0.2, "norm": "L2", "strength": 3}


def test_evaluate_does_not_read_around_a_purifier() -> None:
    x, y = grey(0.1), torch.tensor([0])
    with pytest.raises(UsageError, match="evaluate reads the model alone"):
        evaluate(Brightness(), x, y, attack="bpda_eot", eps=0.1, purifier=lambda z, generator: z)
    with pytest.raises(UsageError, match="evaluate reads the model alone"):
        evaluate(Brightness(), x, y, attack=partial(bpda_eot, purifier=lambda z, generator: z), eps=0.1)


def test_random_models_follow_the_seed_and_are_named(network: nn.Module) -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(x)
            return logits + 3 * torch.randn_like(logits)

    x = images(60, 8)
    y = network(x).argmax(1)
    state = torch.random.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        with pytest.warns(UserWarning, match="the model answers the same images differently when asked twice"):
            found.append(evaluate(Random(), x, y, eps=1 / 255, steps=2, seed=seed).per_image["robust"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(state, torch.random.get_rng_state())


def test_flat_models_and_models_elsewhere(network: nn.Module) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network((x > 0.5).float() + 0 * x)
            return logits

    x = images(9, 8)
    y = Flat()(x).argmax(1)
    with pytest.warns(UserWarning, match=r"the model has no gradient at 8 of 8 images.*square or rays"):
        evaluate(Flat(), x, y, eps=1 / 255, steps=2)
    with pytest.raises(InputError, match="the model is on meta, the images are on cpu"):
        evaluate(nn.Conv2d(3, 2, 3).to("meta"), x, y, eps=0.1)
    with pytest.raises(InputError, match=r"the model does not take images \(8, 3, 8, 8\)"):
        evaluate(nn.Conv2d(1, 2, 3), x, y, eps=0.1)


def test_number_of_images_changes_nothing(network: nn.Module) -> None:
    x = images(60, 8)
    with torch.no_grad():
        y = network(x).argmax(1)
    whole = evaluate(network, x, y, eps=0.5 / 255, steps=2)
    parts = [evaluate(network, x[i], y[i], eps=0.5 / 255, steps=2) for i in torch.arange(60).split(13)]
    assert whole.n == 60
    assert whole.clean_acc == 1
    assert torch.equal(whole.per_image["robust"], torch.cat([part.per_image["robust"] for part in parts]))


@pytest.mark.parametrize(
    ("call", "error", "line"),
    [
        (
            lambda m, x, y: evaluate(m, x, y, eps=0.1, attack="fgsm"),
            UsageError,
            "unknown attack 'fgsm': choose one of pgd",
        ),
        (lambda m, x, y: evaluate(m, x, y, eps=8), UsageError, "did you mean 8/255?"),
        (lambda m, x, y: evaluate(m, x, y, eps="8/255"), UsageError, "eps is '8/255': pass a number"),
        (lambda m, x, y: evaluate(m, x, y, eps=0.1, seed="a"), UsageError, "seed is 'a': it must be an int from 0"),
        (lambda m, x, y: evaluate(m, x, y, eps=0.1, seed=-1), UsageError, "seed is -1: it must be an int from 0"),
        (lambda m, x, y: evaluate(m, x, y, eps=0.1, seed=1.5), UsageError, "seed is 1.5: it must be an int from 0"),
        (lambda m, x, y: evaluate(m, x, y, eps=0.1, steps=1.5), UsageError, "steps is 1.5: it must be a whole number"),
        (lambda m, x, y: evaluate(m, x, y, eps=0.1, generator=torch.Generator()), UsageError, "choose its seed"),
        (
            lambda m, x, y: evaluate(m, x, y, eps=0.1, attack="square", queries=torch.zeros(2, dtype=torch.int64)),
            UsageError,
            "cannot fill queries: call the attack itself",
        ),
        (
            lambda m, x, y: evaluate(m, x, y, eps=0.1, attack=partial(rays, distances=torch.zeros(2))),
            UsageError,
            "cannot fill distances: call the attack itself",
        ),
        (
            lambda m, x, y: evaluate(m, x, y, eps=0.1, attack=partial(pgd, norm="L2")),
            UsageError,
            "the attack has norm='L2', evaluate norm='Linf': give it to evaluate alone",
        ),
        (
            lambda m, x, y: evaluate(m, x, y, eps=0.1, attack=partial(pgd, eps=0.2)),
            UsageError,
            "the attack has eps=0.2, evaluate eps=0.1",
        ),
        (lambda m, x, y: evaluate(m.double(), x, y, eps=0.1), InputError, "float"),
        (lambda m, x, y: evaluate("rn18", x, y, eps=0.1), InputError, "the model is a str: pass a torch.nn.Module"),
        (lambda m, x, y: evaluate(m, x * 255, y, eps=0.1), InputError, "divide by 255"),
        (lambda m, x, y: evaluate(m, x, y[:1], eps=0.1), InputError, "pass integer labels (2,)"),
        (lambda m, x, y: evaluate(m, x, y + 2, eps=0.1), InputError, "outside the model's 2 classes"),
        (lambda m, x, y: evaluate(m, x, torch.eye(2)[y], eps=0.1), InputError, "pass integer labels (2,)"),
        (
            lambda m, x, y: evaluate(nn.Sequential(m, nn.Softmax(1)), x, y, eps=0.1),
            InputError,
            "the model returns probabilities: pass it without its softmax",
        ),
        (lambda m, x, y: evaluate(nn.Identity(), x, y, eps=0.1), InputError, "must return logits"),
    ],
)
def test_bad_evaluations_say_what_is_wrong(
    call: Callable[[nn.Module, Tensor, Tensor], object], error: type[Exception], line: str
) -> None:
    with pytest.raises(error) as caught:
        call(Brightness(), grey(0.1, 0.2), torch.tensor([0, 0]))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_attack_that_works_in_place_is_judged_against_the_images_it_was_given() -> None:
    def in_place(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
        return x.copy_(1 - x)

    x = grey(0.1, 0.9)
    with pytest.raises(InputError, match="leaves the Linf ball"):
        evaluate(Brightness(), x, torch.tensor([0, 1]), attack=in_place, eps=1 / 255)
    assert torch.equal(x, grey(0.1, 0.9))


def test_evaluate_on_images_of_one_channel() -> None:
    def stay(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
        return x

    x, y = torch.rand(5, 1, 4, 4, generator=g()), torch.zeros(5, dtype=torch.int64)
    own = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    report = evaluate(own, x, y, attack=stay, eps=0.1)
    assert report.clean_acc == report.robust_acc
    colours = nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())
    grey, expanded = (
        evaluate(colours, z, y, attack="square", n_queries=9, eps=0.3) for z in (x, x.expand(-1, 3, -1, -1))
    )
    assert torch.equal(grey.per_image["clean"], expanded.per_image["clean"])
    wide = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(InputError, match=r"the model does not take images \(5, 3, 4, 4\), torch.float32 on cpu \(mat1"):
        evaluate(wide, x.expand(-1, 3, -1, -1), y, attack=stay, eps=0.1)


class InPlace(nn.Module):
    """Works on the images that it is given, as some do."""

    def __init__(self, network: nn.Module, own: bool) -> None:
        super().__init__()
        self.network, self.own = network, own

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone() if self.own else x
        x -= 0.1
        logits: Tensor = self.network(x)
        return logits


@pytest.mark.parametrize("name", ["pgd", "cw", "apgd", "square", "rays", "decowa", "bpda_eot", "mcgs", "bilevel"])
def test_models_that_work_in_place(name: str, network: nn.Module) -> None:
    function = {**ATTACKS, **DEFENSES}[name]
    few = {"square": {"n_queries": 20}, "rays": {"n_queries": 20}, "bilevel": {"epochs": 1, "steps": 2}}.get(name, {})
    few |= {"decowa": {"steps": 1, "warps": 1}}.get(name, {})
    x = torch.rand(8, 3, 16, 16, generator=g())
    y, before = predict(InPlace(network, True), x), x.clone()
    found = [function(InPlace(network, own), x, y, eps=0.05, generator=g(), **few) for own in (True, False)]
    assert torch.equal(x, before)
    assert torch.equal(*found)
    assert evaluate(InPlace(network, False), x, y, eps=0.05, attack="pgd", steps=2).clean_acc == 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["pgd", "square", "mcgs"])
def test_models_of_another_type_are_one_line(name: str, network: nn.Module) -> None:
    x, y = images(), torch.zeros(5, dtype=torch.int64)
    half = copy.deepcopy(network).bfloat16()
    with pytest.raises(InputError, match=r"the model does not take images \(.*, 3, 16, 16\), torch.float32 on cpu \("):
        {**ATTACKS, **DEFENSES}[name](half, x, y, eps=0.1, generator=g())


def test_a_prepared_model_of_several_outputs_is_one_line() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.mean((2, 3)), x

    with pytest.raises(InputError, match="the model returns a tuple: it must return logits"):
        mcgs(prepare(Two()), images(), torch.zeros(5, dtype=torch.int64), eps=0.1, generator=g())


def test_the_rounding_of_a_resize_is_no_mistake(network: nn.Module) -> None:
    white = nn.functional.interpolate(torch.ones(1, 3, 333, 500), size=(16, 16), mode="bilinear", antialias=True)
    x = torch.cat([white, torch.full_like(white, -1e-9)])
    assert float(white.max()) > 1
    x_def = mcgs(network, x, torch.tensor([0, 1]), eps=0.1, generator=g())
    assert 0 <= float(x_def.min()) <= float(x_def.max()) <= 1
    with pytest.raises(InputError, match="ranges over"):
        mcgs(network, x + 2e-6, torch.tensor([0, 1]), eps=0.1, generator=g())


def test_models_loaded_in_inference_mode_work_outside() -> None:
    with torch.inference_mode():
        protector = mspd.Protector("cifar10", n_samples=1)
        model = mspd.load_model("rn20-cifar10")
    x = torch.rand(1, 3, 32, 32, generator=g())
    assert torch.equal(protector(x), mspd.Protector("cifar10", n_samples=1)(x))
    assert ATTACKS["pgd"](model, x, predict(model, x), eps=0.1, generator=g(), steps=1).shape == x.shape


def test_evaluate_names_what_does_not_fit(network: nn.Module) -> None:
    x, y = images(), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"x is torch.float64: models are measured in float32, pass x.float\(\)"):
        evaluate(network, x.double(), y, eps=0.1)
    with pytest.raises(UsageError, match=r"attack 'pgd' cannot be called with its settings: .*'stepz'"):
        evaluate(network, x, y, eps=0.1, stepz=3)
    with pytest.raises(UsageError, match="attack is 3: pass a function"):
        evaluate(network, x, y, eps=0.1, attack=3)  # type: ignore[arg-type]
    report = evaluate(network, x, y, eps=0.1, attack=partial(pgd, steps=1))
    assert report.attack == "pgd"


class Bare(nn.Module):
    """Returns its logits in a dict."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(x)}


@pytest.mark.parametrize("attack", [pgd, bpda_eot])
def test_a_model_that_returns_no_tensor(attack: Callable[..., Tensor], network: nn.Module) -> None:
    with pytest.raises(InputError, match=r"the model returns a dict: it must return logits \(B, classes\)"):
        attack(Bare(network), images(), torch.zeros(5, dtype=torch.int64), eps=0.1, generator=g())


def test_a_model_whose_answers_depend_on_the_batch(network: nn.Module) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), network)
    x, y = images(), torch.zeros(5, dtype=torch.int64)
    with pytest.warns(UserWarning, match="answers an image differently in another batch"):
        evaluate(model, x, y, eps=0.1, steps=1)


def test_evaluate_inside_no_grad(network: nn.Module) -> None:
    x = images()
    with torch.no_grad():
        y = network(x).argmax(1)
        inside = evaluate(network, x, y, eps=8 / 255, steps=2)
    assert torch.equal(inside.per_image["robust"], evaluate(network, x, y, eps=8 / 255, steps=2).per_image["robust"])
