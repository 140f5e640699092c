"""A5's generator and MCG's flow: exact volumes, inverses, and trainings that learn."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mspd.training.loop as loop
from mspd.attacks import mcg, square
from mspd.defenses import a5
from mspd.errors import UsageError
from mspd.models import build, load_model
from mspd.models.flow import ConditionalFlow
from mspd.training import Recipe, train


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def flow() -> ConditionalFlow:
    torch.manual_seed(0)
    net = build("flow", {"levels": 2, "steps": 2, "hidden": 8})
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    assert isinstance(net, ConditionalFlow)
    return net


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark pictures of 16 pixels, close to each other, so that small perturbations change the class."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 12)):
        for name, level in (("bright", 140), ("dark", 116)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = (level + rng.integers(-20, 21, (16, 16, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


class Brightness(nn.Module):
    """Class 0 when the mean is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        score = 30 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([score, -score], 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "matmul_rate", lambda device: 1.0)
    monkeypatch.setattr(loop, "card_of", lambda name: {"classes": []})
    for module in ("robustify", "flow"):
        monkeypatch.setattr(f"mspd.training.{module}.load_model", lambda name, device: Brightness())


def test_flow_has_an_exact_inverse_and_volume(flow: ConditionalFlow) -> None:
    x, delta = torch.rand(3, 3, 8, 8, generator=g()), torch.randn(3, 3, 8, 8, generator=g(1))
    latents, likelihood = flow(delta, x)
    assert torch.allclose(flow.generate(latents, x), delta, atol=1e-4)
    assert [latent.shape for latent in latents] == [part.shape for part in flow.latents_of(delta)]

    def flat(v: Tensor) -> Tensor:
        return torch.cat([latent.flatten() for latent in flow(v.view(1, 3, 8, 8), x[:1])[0]])

    jacobian = torch.autograd.functional.jacobian(flat, delta[0].flatten())
    z = flat(delta[0].flatten())
    exact = torch.linalg.slogdet(jacobian)[1] - 0.5 * (z.square() + math.log(2 * math.pi)).sum()
    assert float(likelihood[0].detach()) == pytest.approx(float(exact.detach()), abs=0.05)
    other = flow(delta, x.flip(0))[1]
    assert not torch.allclose(other, likelihood), "the picture matters"


def test_a5_learns_to_move_away_from_the_border(world: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        name="tiny", dataset="levels", architecture="robustifier", arguments={"width": 8}, size=16, epochs=25,
        task="robustify", against="stub", eps=8 / 255, batch_size=16, pictures=48, lr=3e-3, average=0.5,
        weight_decay=0.0, crop=0, warmup=0.1,
    )  # fmt: skip
    card = train(recipe, world, tmp_path / "a5.safetensors")
    assert card["training"] == "adversarial augmentation (A5, empirical loss)"
    assert card["against_clean_acc"] == 1.0
    network = load_model(tmp_path / "a5.safetensors")
    x = torch.tensor([0.54, 0.46])[:, None, None, None].expand(2, 3, 16, 16)
    x_def = a5(Brightness(), x, torch.tensor([0, 1]), eps=8 / 255, generator=g(), network=network)
    moved = (x_def - x).mean((1, 2, 3)) * 255
    assert float(moved[0]) > 4
    assert float(moved[1]) < -4
    network.train()
    again = a5(Brightness(), x, torch.tensor([0, 1]), eps=8 / 255, generator=g(), network=network)
    assert torch.equal(again, x_def), "in evaluation mode, whatever it is found in"
    assert network.training
    with pytest.raises(UsageError, match="network is 0: pass a function"):
        a5(Brightness(), x, torch.tensor([0, 1]), eps=8 / 255, generator=g(), network=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Linf only"):
        a5(Brightness(), x, torch.tensor([0, 1]), eps=0.5, norm="L2", generator=g(), network=network)


def test_a_trained_flow_misleads_at_the_first_query(world: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        name="tiny", dataset="levels", architecture="flow", arguments={"levels": 2, "steps": 1, "hidden": 16}, size=16,
        epochs=25, task="flow", against="stub", eps=16 / 255, batch_size=16, lr=5e-3, average=0.5, weight_decay=0.0,
        crop=0, warmup=0.1,
    )  # fmt: skip
    out = tmp_path / "flow.safetensors"
    card = train(recipe, world, out)
    assert card["against_clean_acc"] == 1.0
    assert card["against_first_query_acc"] < 0.3
    trained = load_model(out)
    assert isinstance(trained, ConditionalFlow)
    x = torch.tensor([0.54, 0.46])[:, None, None, None].expand(2, 3, 16, 16).contiguous()
    y, queries = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    x_adv = mcg(
        Brightness(), x, y, eps=16 / 255, generator=g(), n_queries=20, flow=trained, surrogate=Brightness(),
        queries=queries,
    )  # fmt: skip
    assert queries.tolist() == [2, 2], "the picture itself, and the flow's guess"
    assert bool((Brightness()(x_adv).argmax(1) != y).all())
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    square(Brightness(), x, y, eps=16 / 255, generator=g(), n_queries=20, queries=queries)
    assert int(queries.min()) > 2, "Square alone needs more"


def test_mcg_wants_what_the_flow_can_take() -> None:
    x, y = torch.full((1, 3, 12, 12), 0.6), torch.tensor([0])
    with pytest.raises(UsageError, match="sides that 8 divides: use square"):
        mcg(Brightness(), x, y, eps=0.1, generator=g())
    with pytest.raises(UsageError, match="Linf only"):
        mcg(Brightness(), x[:, :, :8, :8], y, eps=0.1, norm="L2", generator=g())
