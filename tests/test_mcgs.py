"""The engine: the worked vector, the invariants of the algorithm, and independence of batch, chunk and order."""

import math

import pytest
import torch
from torch import Tensor, nn

import mspd.smoothing as smoothing
from conftest import default_dtype
from mspd.attacks import pgd
from mspd.benchmark import Purified
from mspd.defenses import mcgs
from mspd.errors import InputError, UsageError
from mspd.evaluation import evaluate, predict
from mspd.metrics import ssim
from mspd.models import build, load_model
from mspd.objectives import cross_entropy
from mspd.protector import Protector
from mspd.purifiers import diffpure
from mspd.smoothing import compute_rows, in_pieces, input_gradient, prepare


class Linear(nn.Module):
    """Two classes; the gradient's sign is the same everywhere: class 0 gains from larger pixels."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).mean(1)
        return torch.stack([total, -total], 1)


class Rooted(nn.Module):
    """Finite logits, whose gradient is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return Linear()(x) + (x - x).square().flatten(1).sum(1).sqrt()[:, None]


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 3) + 0 * x.sum()


class Positional(nn.Module):
    """Different gradients at different pixels, curved: a small convolutional network with random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean((2, 3)) * 20


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 5, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, channels, 12, 12), generator=g(1)).float() / 255


def test_worked_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel, eps .1, four copies with noise -.1, -.05, 0, .05 in both epochs: F reaches .5625, F then B .6."""
    noise = torch.tensor([-0.1, -0.05, 0.0, 0.05]).view(1, 4, 1, 1, 1)
    monkeypatch.setattr(smoothing, "random_offsets", lambda shape, eps, norm, generators: noise)
    x = torch.full((1, 1, 1, 1), 0.5)
    y = torch.tensor([0])
    forward = mcgs(Linear(), x, y, eps=0.1, generator=g(), n_samples=4, epochs="F")
    assert float(forward) == pytest.approx(0.5625, abs=1e-6)
    both = mcgs(Linear(), x, y, eps=0.1, generator=g(), n_samples=4)
    assert float(both) == pytest.approx(0.6, abs=1e-6)
    backward = mcgs(Linear(), x, y, eps=0.1, generator=g(), n_samples=4, epochs="B")
    # ends at .4, .4, .4, .45 (mean .4125), reflected about .5: .5875
    assert float(backward) == pytest.approx(0.5875, abs=1e-6)
    # near the limit the copies start clamped at 0, 0, .02, .07, and end at .1, .1, .12, .12
    edge = mcgs(Linear(), torch.full((1, 1, 1, 1), 0.02), y, eps=0.1, generator=g(), n_samples=4, epochs="F")
    assert float(edge) == pytest.approx(0.11, abs=1e-6)


def test_many_copies_move_three_quarters_of_the_budget() -> None:
    x = torch.full((2, 3, 8, 8), 0.5)
    y = torch.tensor([0, 1])
    forward = mcgs(Linear(), x, y, eps=0.1, generator=g(), n_samples=4000, epochs="F")
    moved = (forward - x).flatten(1).mean(1)
    assert moved[0] == pytest.approx(0.075, abs=0.001)
    assert moved[1] == pytest.approx(-0.075, abs=0.001)
    both = mcgs(Linear(), x, y, eps=0.1, generator=g(), n_samples=200)
    assert torch.allclose(both[0], torch.tensor(0.6), atol=1e-6)
    assert torch.allclose(both[1], torch.tensor(0.4), atol=1e-6)


@pytest.mark.parametrize("average", ["points", "gradients"])
def test_constant_model_leaves_only_averaged_noise(average: str) -> None:
    x = torch.full((1, 3, 16, 16), 0.5)
    out = mcgs(Constant(), x, torch.tensor([0]), eps=0.1, generator=g(), n_samples=400, average=average, epochs="F")
    spread = float((out - x).std())
    expected = 0.1 / math.sqrt(3) / math.sqrt(400) if average == "points" else 0.0
    assert spread == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("average", ["points", "gradients"])
@pytest.mark.parametrize(("epochs", "noise", "steps"), [("FB", True, 1), ("F", True, 2), ("FFBB", False, 1)])
def test_inside_the_ball_deterministic_and_not_a_no_op(
    norm: str, average: str, epochs: str, noise: bool, steps: int
) -> None:
    model, x, y = Positional(), pictures(), torch.tensor([0, 1, 2, 3, 0])
    eps = 8 / 255 if norm == "Linf" else 0.5
    before = x.clone()

    def call(seed: int) -> Tensor:
        return mcgs(
            model, x, y, eps=eps, norm=norm, generator=g(seed), n_samples=3, epochs=epochs, noise=noise, steps=steps,
            average=average,
        )  # fmt: skip

    out = call(0)
    delta = (out - x).flatten(1)
    length = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
    assert bool((length <= eps + 1e-6).all())
    assert bool((out >= 0).all())
    assert bool((out <= 1).all())
    assert torch.equal(x, before)
    assert torch.equal(out, call(0))
    assert torch.equal(out, call(1)) is not noise
    with torch.no_grad():
        before_loss, after_loss = (cross_entropy(model.eval()(z), y).mean() for z in (x, out))
    assert float(after_loss) < float(before_loss) - 0.01


def test_model_and_random_state_are_left_as_found() -> None:
    model = Positional().train()
    model.net[1].eval()
    state = torch.random.get_rng_state()
    weights = [p.clone() for p in model.parameters()]
    mcgs(model, pictures(), torch.zeros(5, dtype=torch.long), eps=0.03, generator=g(), n_samples=2)
    assert model.training
    assert model.net[0].training
    assert not model.net[1].training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("n_samples", [1, 3, 20, 33])
def test_result_of_an_image_depends_on_nothing_but_the_image_and_the_seed(n_samples: int) -> None:
    torch.manual_seed(0)
    model = prepare(build("preact_resnet18", {"num_classes": 4, "width": 8}))
    x = torch.randint(0, 256, (23, 3, 32, 32), generator=g(1)).float() / 255
    y = torch.arange(23) % 4

    def call(index: Tensor) -> Tensor:
        return mcgs(model, x[index], y[index], eps=8 / 255, generator=g(5), n_samples=n_samples)

    whole = call(torch.arange(23))
    assert torch.equal(whole, torch.cat([call(part) for part in torch.arange(23).split(7)]))
    assert torch.equal(whole[[4]], call(torch.tensor([4])))
    assert torch.equal(whole.flip(0), call(torch.arange(22, -1, -1)))


def test_grey_pictures_stay_grey() -> None:
    out = mcgs(Positional(), pictures(2, 1), torch.tensor([0, 1]), eps=0.03, generator=g(), n_samples=2)
    assert out.shape == (2, 1, 12, 12)
    assert not torch.equal(out, pictures(2, 1))


def test_soft_labels_of_one_class_are_hard_labels() -> None:
    model, x, y = Positional(), pictures(), torch.tensor([0, 1, 2, 3, 0])
    hard = mcgs(model, x, y, eps=0.03, generator=g(), n_samples=3)
    soft = mcgs(model, x, torch.eye(4)[y], eps=0.03, generator=g(), n_samples=3)
    assert torch.allclose(hard, soft, atol=1e-6)


def test_prepared_model_has_the_same_gradients() -> None:
    shapes: dict[str, dict[str, object]] = {
        "preact_resnet18": {"width": 8},
        "wide_resnet": {"width": 1},
        "resnet18": {"width": 8},
        "resnext": {"widths": [16, 32], "depths": [1, 1], "group_width": 4},
        "efficientnet_lite0": {"resolution": 48},
    }
    folded = {"resnet18", "resnext", "efficientnet_lite0"}  # the others normalise before they convolve
    for name, arguments in shapes.items():
        torch.manual_seed(0)
        model = build(name, {"num_classes": 5, **arguments}).train()
        with torch.no_grad():
            for _ in range(10):
                model(torch.rand(16, 3, 32, 32))
        model.eval()
        x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
        plain = smoothing.input_gradient(model, x, y)
        fast = prepare(model, dtype=torch.float32)
        prepared = smoothing.input_gradient(fast, x, y)
        assert (name in folded) is not any(isinstance(m, smoothing.Affine) for m in fast.modules())
        assert float((plain - prepared).norm() / plain.norm()) < 1e-4, name
        assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_pieces_have_one_shape_and_keep_the_order() -> None:
    seen = []

    def function(a: Tensor, b: Tensor) -> Tensor:
        seen.append(len(a))
        return a + b

    a, b = torch.arange(11.0), torch.ones(11)
    assert torch.equal(in_pieces(function, 4, a, b), a + b)
    assert seen == [4, 4, 4]


def test_rows_are_bounded_whatever_n_samples() -> None:
    for n in (1, 2, 3, 5, 20, 1000):
        for side in (32, 64, 224, 512):
            rows = compute_rows(n, side, side, torch.device("cpu"))
            assert rows <= max(4, 20 * 64 * 64 // side**2)
            assert rows % n <= 1 or n > rows
            assert rows <= n or rows % 8 == 0, "of several images, each in a place with the same last bits"


@pytest.mark.parametrize("n", [1, 3, 5, 20])
def test_last_bits_do_not_depend_on_the_place_in_a_call(n: int) -> None:
    """With two threads an image's gradients are the same to the bit wherever it stands among the images of a call."""
    model, threads = load_model("prn18-cifar10"), torch.get_num_threads()
    assert not any(parameter.requires_grad for parameter in prepare(model.requires_grad_(True)).parameters())
    rows = compute_rows(n, 32, 32, torch.device("cpu"))
    z = torch.rand(n, 3, 32, 32, generator=g()).repeat(max(1, rows // n), 1, 1, 1)
    torch.set_num_threads(2)
    try:
        found = in_pieces(lambda a, b: input_gradient(model, a, b), rows, z, torch.zeros(len(z), dtype=torch.long))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[:n], other) for other in found.split(n))


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"eps": 0}, UsageError, "must be positive"),
        ({"eps": -0.1}, UsageError, "must be positive"),
        ({"eps": 8}, UsageError, "did you mean 8/255?"),
        ({"eps": float("nan")}, UsageError, "must be positive"),
        ({"norm": "L1"}, UsageError, "use 'Linf' or 'L2'"),
        ({"epochs": "FX"}, UsageError, "string of F"),
        ({"epochs": ""}, UsageError, "string of F"),
        ({"average": "median"}, UsageError, "'points' or 'gradients'"),
        ({"n_samples": 0}, UsageError, "at least 1"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"alpha": 0}, UsageError, "must be positive"),
        ({"step_size": 0}, UsageError, "step_size is 0: it must be positive"),
        ({"step_size": -0.1}, UsageError, "must be positive"),
        ({"step_size": float("nan")}, UsageError, "must be positive"),
        ({"x": torch.full((1, 3, 4, 4), 2.0)}, InputError, "divide by 255"),
        ({"x": torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)}, InputError, "pass x.float()"),
        ({"x": torch.full((1, 3, 4, 4), -2.0)}, InputError, "undo the normalisation"),
        ({"x": torch.full((1, 3, 4, 4), float("nan"))}, InputError, "NaN"),
        ({"x": torch.zeros(3, 4, 4)}, InputError, "one image as x[None]"),
        ({"x": torch.zeros(1, 4, 4, 3)}, InputError, "4 channels"),
        ({"x": torch.zeros(0, 3, 4, 4)}, InputError, "empty"),
        ({"x": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}, InputError, "x.float() / 255"),
        ({"x": "photo.jpg"}, InputError, "is a str"),
        ({"y": torch.tensor([0, 1])}, InputError, "pass integer labels (1,)"),
        ({"y": torch.tensor([0.0])}, InputError, "pass integer labels (1,)"),
        ({"y": torch.tensor([7])}, InputError, "label 7 is outside the model's 2 classes"),
        ({"y": torch.tensor([-1])}, InputError, "label -1 is outside"),
        ({"y": torch.ones(1, 3) / 3}, InputError, "has 2 classes, but the soft labels have 3"),
        ({"model": nn.Sequential(Linear(), nn.Softmax(1))}, InputError, "without its softmax"),
        ({"model": nn.Identity()}, InputError, "must return logits"),
        ({"model": Rooted()}, InputError, "gradient is NaN or infinite"),
    ],
)
def test_bad_calls_say_what_is_wrong(change: dict[str, object], error: type[Exception], line: str) -> None:
    call: dict[str, object] = {"model": Linear(), "x": torch.full((1, 3, 4, 4), 0.5), "y": torch.tensor([0])}
    call |= {"eps": 8 / 255, **change}
    with pytest.raises(error) as caught:
        mcgs(call.pop("model"), call.pop("x"), call.pop("y"), generator=g(), **call)  # type: ignore[arg-type]
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prepared_keeps_hooks_and_weights_that_are_read_elsewhere() -> None:
    class Reading(nn.Module):
        __module__ = "timm.models.reading"  # from where it may be traced

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.norm(self.conv(x)).mean((2, 3)) * self.conv.weight.norm()
            return logits

    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8)
    model = Reading()
    model.norm.running_var.fill_(9.0)
    model.eval()
    assert torch.allclose(prepare(model)(x), model(x), atol=1e-5)
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    hooked.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(3) * 2 - 1,))
    assert torch.allclose(prepare(hooked)(x), hooked(x), atol=1e-5)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["behind a purifier", "forward of its own", "backward hook"])
def test_prepared_keeps_gradients_that_a_graph_would_lose(kind: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model: nn.Module = nn.Sequential(nn.Sequential(*layers)).eval()
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    bare = smoothing.input_gradient(model, x, y)
    if kind == "behind a purifier":
        model = Purified(model, lambda z, *, generator: (z * 4).round() / 4).eval()
    elif kind == "forward of its own":
        own = model.forward
        model.forward = lambda z: own(z.flip(3) * 2 - 1)  # type: ignore[method-assign]
    else:
        model[0].register_full_backward_hook(lambda _, gradients, __: (5 * gradients[0],))  # type: ignore[index]
    wanted = smoothing.input_gradient(model, x, y)
    assert not torch.allclose(wanted, bare, rtol=1e-3)
    assert torch.allclose(smoothing.input_gradient(prepare(model), x, y), wanted, rtol=1e-3, atol=1e-7)


class Stranger(nn.Module):
    """Does what a traced graph loses: a block without gradients, a draw, a norm that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            moved = (x * 15).round() / 15 - x + 0.1 * torch.randn(1, 3, 1, 1)
        logits: Tensor = self.norm(input=self.conv(x + moved)).mean((2, 3))
        return logits


def test_prepared_keeps_what_a_graph_would_lose() -> None:
    torch.manual_seed(0)
    model, x, y = Stranger().eval(), torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    fast = prepare(model)
    results = []
    for network in (model, fast):
        torch.manual_seed(1)
        results.append(smoothing.input_gradient(network, x, y))
    assert float(results[0].abs().max()) > 0
    assert torch.allclose(*results, rtol=1e-4, atol=1e-6)
    assert not torch.equal(fast(x), fast(x))


def test_the_callers_precision_changes_nothing() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    protector = Protector("cifar10", n_samples=2)
    plain, target = protector(x), load_model("rn20-cifar10")
    y = predict(target, x)
    attacked = attack(target, x, y)
    weight = torch.rand(3, 3, 3, 3)

    def foreign(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
        seen.append(torch.conv2d(x, weight))
        return x

    seen: list[Tensor] = []
    evaluate(target, x, y, attack=foreign, eps=1 / 255)
    likeness, pure = ssim(x, plain), diffpure(x, t=0.002)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(protector(x), plain)
        assert torch.equal(attack(target, x, y), attacked)
        assert torch.equal(ssim(x, plain), likeness)
        assert torch.equal(diffpure(x, t=0.002), pure)
        evaluate(target, x, y, attack=foreign, eps=1 / 255)
    assert torch.equal(*seen)
    with default_dtype(torch.float64):
        assert torch.equal(protector(x), plain)
        assert torch.equal(attack(target, x, y), attacked)
        assert torch.equal(ssim(x, plain), likeness)
        assert torch.equal(diffpure(x, t=0.002), pure)


def attack(target: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Where an attack takes each picture."""
    return pgd(target, x, y, eps=1 / 255, steps=2, generator=torch.Generator().manual_seed(0))


def test_gradients_where_they_are_switched_off() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        found = mcgs(model, x, y, eps=8 / 255, generator=torch.Generator().manual_seed(0), n_samples=2)
    assert torch.equal(found, mcgs(model, x, y, eps=8 / 255, generator=torch.Generator().manual_seed(0), n_samples=2))
