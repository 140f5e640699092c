"""Gradients of prepared models against PyTorch's own: the architectures, each operation, precision and fallbacks."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import symbolic_trace

import mspd.smoothing as smoothing
from mspd.errors import InputError
from mspd.gradient import Conv, make_tape
from mspd.models import build
from mspd.smoothing import input_gradient, prepare

ARCHITECTURES = {
    "preact_resnet18": {"width": 8},
    "wide_resnet": {"depth": 16, "width": 2},
    "resnet18": {"width": 24},
    "resnext": {"widths": [32, 64], "depths": [2, 2], "group_width": 8},
}


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed precision also where the machine has no native bfloat16."""
    monkeypatch.setattr(smoothing, "fast_dtype", lambda device: torch.bfloat16)


def model_of(name: str, side: int = 16) -> nn.Module:
    """A network with random weights and BatchNorms that have seen data; some of their scales are negative, one is 0."""
    torch.manual_seed(0)
    model = build(name, {"num_classes": 5, **ARCHITECTURES[name]}).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.rand(8, 3, side, side))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.weight[:2] = torch.tensor([-1.0, 0.0])
                module.bias.normal_(0, 0.2)
    return model.eval()


def noisy(pictures: int, copies: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """(pictures * copies, 3, side, side) noisy copies, and their labels."""
    g = torch.Generator().manual_seed(1)
    centres = torch.rand(pictures, 3, side, side, generator=g).repeat_interleave(copies, 0)
    noise = torch.rand(centres.shape, generator=g) * 16 / 255 - 8 / 255
    return (centres + noise).clamp(0, 1), (torch.arange(pictures) % 5).repeat_interleave(copies)


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prepared_gradients_are_the_models(name: str) -> None:
    model = model_of(name)
    z, y = noisy(3, 6)
    plain = input_gradient(model, z, y)
    mixed, exact = prepare(model), prepare(model, dtype=torch.float32)
    assert mixed.tape is not None
    assert exact.tape is None
    assert error(input_gradient(exact, z, y), plain) < 1e-4
    assert error(input_gradient(mixed, z, y), plain) < 0.01
    assert error(input_gradient(mixed, z, y, copies=6), plain) < 0.03
    with torch.no_grad():
        assert error(mixed(z), model(z)) < 1e-4


def test_copies_are_more_exact_than_bfloat16() -> None:
    model = model_of("preact_resnet18")
    z, y = noisy(4, 10)
    plain = input_gradient(model, z, y)
    mixed = error(input_gradient(prepare(model), z, y, copies=10), plain)
    rough = error(input_gradient(prepare(model, dtype=torch.bfloat16), z, y), plain)
    assert mixed < rough / 3


def test_rows_do_not_depend_on_other_pictures() -> None:
    model = prepare(model_of("preact_resnet18"))
    z, y = noisy(4, 5)
    turned = input_gradient(
        model, z.view(4, 5, 3, 16, 16).flip(0).flatten(0, 1), y.view(4, 5).flip(0).flatten(), copies=5
    )
    assert torch.equal(input_gradient(model, z, y, copies=5), turned.view(4, 5, 3, 16, 16).flip(0).flatten(0, 1))


@pytest.mark.parametrize("copies", [1, 5])
def test_inputs_and_global_state_are_left_alone(copies: int) -> None:
    model = prepare(model_of("resnet18"))
    z, y = noisy(2, 5)
    before = z.clone()
    first = input_gradient(model, z, y, copies=copies)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(first, input_gradient(model, z, y, copies=copies))
    assert torch.equal(first, input_gradient(model, z.contiguous(memory_format=torch.channels_last), y, copies=copies))
    assert torch.equal(z, before)
    assert not first.requires_grad


def test_grey_pictures_and_soft_labels() -> None:
    plain = model_of("wide_resnet")
    model = prepare(plain)
    z, _ = noisy(2, 5)
    grey, soft = z[:, :1], torch.rand(10, 5, generator=torch.Generator().manual_seed(2)).softmax(1)
    for copies in (1, 5):
        assert error(input_gradient(model, grey, soft, copies=copies), input_gradient(plain, grey, soft)) < 0.03
    hard = torch.arange(10) % 5
    same = input_gradient(model, z, torch.eye(5)[hard])
    assert torch.allclose(input_gradient(model, z, hard), same, rtol=1e-2, atol=1e-6)


class Operations(nn.Module):
    """Every operation a tape knows, in its unusual forms."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, (5, 3), (2, 1), (0, 2))
        self.two = nn.Conv2d(8, 8, 3, 1, 0, groups=4)
        self.three = nn.Conv2d(8, 8, 2, 3, 1, groups=2, bias=False)
        self.four = nn.Conv2d(8, 8, 1)
        self.pool = nn.Conv2d(8, 8, 4)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(8, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = self.two(torch.relu(x)) + self.two(x)
        x = self.norm(self.three(x))
        x = torch.add(self.four(x), self.relu(x)) + self.four(self.relu(self.norm(x)))
        x = (x + x + self.pool(x)).relu().mean([-2, -1])
        out: Tensor = self.head(F.relu(self.hidden(x)))
        return out


@pytest.mark.parametrize("copies", [1, 4])
def test_every_operation(copies: int) -> None:
    torch.manual_seed(0)
    model = Operations().eval()
    z, y = noisy(3, 4, 15)
    plain = input_gradient(model, z, y)
    mixed = prepare(model)
    assert mixed.tape is not None
    assert error(input_gradient(mixed, z, y, copies=copies), plain) < 0.02
    smoothing.fast_dtype = lambda device: torch.float32  # put back by the fixture
    assert error(input_gradient(prepare(model), z, y, copies=copies), plain) < 1e-5


class Unknown(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, dilation=2 if kind == "dilation" else 1)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "relu6":
            x = F.relu6(x)
        if self.kind == "in place":
            x = F.relu(x, inplace=True)
        if self.kind == "broadcast":
            x = x + 1
        if self.kind == "keep":
            return x.mean((2, 3), keepdim=True).flatten(1)
        if self.kind == "unused":
            F.relu(x)
        if self.kind == "control" and bool(x.sum() > 0):
            x = -x
        return x.mean((2, 3))


@pytest.mark.parametrize("kind", ["dilation", "relu6", "in place", "broadcast", "keep", "unused", "control"])
def test_unknown_operations_fall_back_to_float32(kind: str) -> None:
    torch.manual_seed(0)
    model = Unknown(kind)
    prepared = prepare(model)
    assert prepared.tape is None
    z, y = noisy(2, 2)
    assert error(input_gradient(prepared, z, y, copies=2), input_gradient(model, z, y)) < 1e-5


def test_no_network_no_tape() -> None:
    assert make_tape(symbolic_trace(nn.Identity()), torch.bfloat16) is None


def test_bad_calls_are_seen() -> None:
    model = prepare(model_of("resnet18"))
    z, y = noisy(2, 1)
    with pytest.raises(InputError, match="outside the model's 5 classes"):
        input_gradient(model, z, y + 5)


def test_prepared_models_can_be_copied_and_pickled() -> None:
    model = prepare(model_of("wide_resnet"))
    z, y = noisy(1, 4)
    first = input_gradient(model, z, y, copies=4)
    assert torch.equal(first, input_gradient(copy.deepcopy(model), z, y, copies=4))
    tape = pickle.loads(pickle.dumps(model.tape))
    assert any(isinstance(step, Conv) for step in tape.steps)
