"""Reversion by closed forms, its criterion on hand-made values, the surrogates' table, JPEG, and `mspd revert`."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mspd import images
from mspd.defenses import DEFENSES, mcgs, uniform
from mspd.errors import InputError, UsageError
from mspd.metrics import cosine, l2
from mspd.models import build, card_of, list_models
from mspd.presets import PRESETS
from mspd.purifiers import PURIFIERS, jpeg
from mspd.reversion import SURROGATES, Criterion, criterion, reflect, revert, surrogate

#: cheap settings
QUICK: dict[str, dict[str, Any]] = {
    "mcgs": {"n_samples": 20},
    "unadv": {"epochs": 2, "steps": 5},
    "bilevel": {"epochs": 2, "steps": 5},
    "cascade": {"steps": 5},
}


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Two classes, logits w . (x - 1/2) and its negative."""

    def __init__(self, seed: int = 2) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8, 8, generator=g(seed)) / 10)

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


def middling(n: int = 4) -> Tensor:
    """Pictures that stay off the limits of [0, 1]."""
    return torch.randint(64, 192, (n, 3, 8, 8), generator=g(1)).float() / 255


# ---------------------------------------------------------------- revert


def test_reflection() -> None:
    x_def, again = torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0.6, 0.7, 0.3])
    assert torch.allclose(reflect(x_def, again), torch.tensor([0.4, 1.0, 0.0]))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", QUICK)
def test_white_reversion_on_a_linear_model(name: str, norm: str) -> None:
    """The gradient is the same everywhere, so the second move is the first one, and taking it back leads home."""
    model, x, eps, params = Linear(), middling(), 0.05 if norm == "Linf" else 0.3, QUICK[name]
    params = {**params, "lr": 3.0} if (name, norm) == ("bilevel", "L2") else params
    y = model(x).argmax(1)
    call: dict[str, Any] = {"eps": eps, "norm": norm, **params}
    x_def = DEFENSES[name](model, x, y, generator=g(), **call)
    x_rev = revert(x_def, defense=DEFENSES[name], backbone=model, classifier=model, generator=g(), **call)
    assert bool((cosine(x_def - x, x_def - x_rev) > 0.4).all())
    assert bool((l2(x_rev, x) < 0.9 * l2(x_def, x)).all())
    if norm == "Linf" and name in {"mcgs", "unadv", "cascade"}:  # the corner, exactly
        assert torch.allclose(x_rev, x, atol=1e-6)
    other = revert(x_def, defense=DEFENSES[name], backbone=Linear(9), classifier=model, generator=g(), **call)
    assert bool((l2(other, x) > l2(x_def, x)).all()), "another backbone only leads further away"


def test_same_seed_gives_fresh_noise() -> None:
    """Were the noise the same, the reversion would undo it exactly."""
    x, y, model = middling(), torch.zeros(4, dtype=torch.int64), Linear()
    call: dict[str, Any] = {"eps": 0.05, "generator": g(7)}
    x_def = uniform(model, x, y, **call)
    x_rev = revert(x_def, defense=uniform, backbone=model, classifier=model, **call)
    assert float(cosine(x_def - x, x_def - x_rev).abs().max()) < 0.2
    again = revert(x_def, defense=uniform, backbone=model, classifier=model, **call)
    assert torch.equal(x_rev, again)


def test_label_is_read_again() -> None:
    """From the classifier, on the defended picture, hard unless asked otherwise; the defence gets the backbone."""
    seen: dict[str, Any] = {}
    classifier, backbone, x_def = Linear(), Linear(9), middling()
    classifier.train()

    def defense(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        seen.update(options, model=model, x=x, y=y)
        return x

    x_rev = revert(x_def, defense=defense, backbone=backbone, classifier=classifier, eps=0.1, generator=g(), strength=3)
    assert torch.equal(x_rev, x_def)
    assert seen["model"] is backbone
    assert seen["x"] is x_def
    assert torch.equal(seen["y"], classifier(x_def).argmax(1))
    assert (seen["eps"], seen["norm"], seen["strength"]) == (0.1, "Linf", 3)
    assert classifier.training
    revert(
        x_def, defense=defense, backbone=backbone, classifier=classifier, eps=0.1, generator=g(),
        label=lambda logits: logits.softmax(1),
    )  # fmt: skip
    assert torch.allclose(seen["y"], classifier(x_def).softmax(1).detach())


def test_a_defence_that_breaks_the_contract_is_one_line() -> None:
    def without_budget(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x

    def too_far(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        return (x + 0.2).clamp(0, 1)

    def smaller(model: nn.Module, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        return x[:1]

    call: dict[str, Any] = {"backbone": Linear(), "classifier": Linear(), "eps": 0.1, "generator": g()}
    with pytest.raises(UsageError, match="defence 'without_budget' cannot be called"):
        revert(middling(), defense=without_budget, **call)
    with pytest.raises(InputError, match="defence 'too_far' leaves the Linf ball"):
        revert(middling(), defense=too_far, **call)
    with pytest.raises(InputError, match="defence 'smaller' returns shape"):
        revert(middling(), defense=smaller, **call)


@pytest.mark.parametrize("channels", [1, 3])
def test_stays_within_the_budget_and_does_not_depend_on_the_batch(channels: int) -> None:
    torch.manual_seed(0)
    model = build("wide_resnet", {"num_classes": 4, "depth": 10, "width": 1}).eval()
    x_def = torch.randint(0, 256, (5, channels, 16, 16), generator=g(1)).float() / 255
    call: dict[str, Any] = {"defense": mcgs, "backbone": model, "classifier": model, "eps": 0.03, "n_samples": 2}
    whole = revert(x_def, generator=g(), **call)
    assert whole.shape == x_def.shape
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
    assert float((whole - x_def).abs().max()) <= 0.03 + 1e-6
    assert torch.equal(whole[3:4], revert(x_def[3:4], generator=g(), **call))


def test_bad_calls() -> None:
    model = Linear()
    call: dict[str, Any] = {"defense": mcgs, "backbone": model, "classifier": model, "eps": 0.03, "generator": g()}
    with pytest.raises(InputError, match="x_def ranges over"):
        revert(middling() * 255, **call)
    with pytest.raises(UsageError, match="did you mean 8/255"):
        revert(middling(), **{**call, "eps": 8})
    with pytest.raises(InputError, match="without its softmax"):
        revert(middling(), **{**call, "classifier": nn.Sequential(model, nn.Softmax(1))})
    with pytest.raises(UsageError, match="the backbone has 3 classes, the classifier 2: they must be the same"):
        revert(middling(), **{**call, "backbone": nn.Sequential(model, nn.Linear(2, 3))})


# ---------------------------------------------------------------- settings


def test_surrogates_are_what_they_say() -> None:
    assert set(SURROGATES) == set(PRESETS) - {"tiny"}
    for preset, settings in SURROGATES.items():
        assert list(settings) == ["white", "gray", "black"]
        white = settings["white"]
        assert white == PRESETS[preset].backbone
        own = card_of(white)
        for setting, name in settings.items():
            if name is None:
                continue
            card = card_of(name)
            assert name in list_models()
            assert surrogate(preset, setting) == name
            assert card["classes"] == own["classes"]
            if setting == "gray":
                assert card["architecture"] == own["architecture"]
                assert card["sha256"] != own["sha256"]
            if setting == "black":
                assert card["training"] == "standard"
                assert card["pgd20_acc"] < 0.02
                assert card["architecture"] != own["architecture"]


def test_surrogates_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown setting 'blue': choose one of white, gray, black"):
        surrogate("cifar10", "blue")
    with pytest.raises(UsageError, match="no surrogates are known for preset 'x', only for cifar10, photo"):
        surrogate("x", "white")
    with pytest.raises(UsageError, match="no gray surrogate is shipped for photo: pass prn18-photo trained with"):
        surrogate("photo", "gray")
    monkeypatch.setitem(SURROGATES, "photo", {"white": "prn18-photo", "gray": None, "black": None})
    with pytest.raises(UsageError, match="no black surrogate is shipped for photo: pass an ordinary network as the"):
        surrogate("photo", "black")


# ---------------------------------------------------------------- the criterion


def robust(*counts: int, n: int = 100) -> tuple[Tensor, ...]:
    """Boolean vectors with so many of n true."""
    return tuple(torch.arange(n) < count for count in counts)


def scores(mean: float, n: int = 100) -> Tensor:
    return mean + torch.linspace(-0.01, 0.01, n)


def judge(verdicts: tuple[Tensor, ...], similarity: float = 0.97, distance: float | None = None) -> Criterion:
    pair = None if distance is None else (scores(0.006), scores(distance))
    return criterion(verdicts, (scores(0.96), scores(similarity)), pair)  # type: ignore[arg-type]


def test_the_three_flags_are_separate() -> None:
    assert judge(robust(50, 60, 51), 0.97, 0.002) == Criterion(True, True, True)
    assert judge(robust(50, 60, 59), 0.97, 0.002) == Criterion(False, True, True)
    assert judge(robust(50, 60, 51), 0.95, 0.002) == Criterion(True, False, True)
    assert judge(robust(50, 60, 51), 0.97, 0.012) == Criterion(True, True, False)
    assert judge(robust(50, 60, 51)) == Criterion(True, True, None)


def test_accuracy_falls_to_three_points_or_one_error() -> None:
    assert judge(robust(50, 60, 53)).accuracy_falls
    assert not judge(robust(50, 60, 54)).accuracy_falls
    assert not judge(robust(50, 50, 50)).accuracy_falls, "nothing was gained, nothing falls"
    assert judge(robust(50, 60, 40)).accuracy_falls
    # 10 images: 4 gained, 3 lost, one standard error of the difference is 0.26
    undefended = torch.tensor([True] * 5 + [False] * 5)
    reverted = torch.tensor([True] * 2 + [False] * 3 + [True] * 4 + [False])
    flags = criterion((undefended, torch.ones(10) > 0, reverted), (torch.zeros(10), torch.ones(10)))
    assert flags == Criterion(True, True, None)


def test_scores_must_change_beyond_chance() -> None:
    before = torch.zeros(100)
    after = torch.tensor([1.0, -1.0]).repeat(50)
    after[0] += 1  # mean 0.01, standard error 0.1
    assert not criterion(robust(1, 1, 1), (before, after)).ssim_rises  # type: ignore[arg-type]
    assert not criterion(robust(1, 1, 1), (before, before)).ssim_rises  # type: ignore[arg-type]
    assert criterion(robust(1, 1, 1), (before, before + 1e-3)).ssim_rises  # type: ignore[arg-type]


def test_criterion_needs_the_same_images() -> None:
    a, b, c = robust(1, 2, 3, n=5)
    for verdicts, similarity, distance in (
        ((a, b, c[:4]), (torch.ones(5), torch.ones(5)), None),
        ((a, b, c), (torch.ones(5), torch.ones(1)), None),
        ((a, b, c), (torch.ones(5), torch.ones(5)), (torch.ones(5), torch.ones(5, 1))),
        ((a[:0], b[:0], c[:0]), (torch.ones(0), torch.ones(0)), None),
        ((a[:1], b[:1], c[:1]), (torch.zeros(1), torch.ones(1)), None),
    ):
        with pytest.raises(InputError, match="the same images everywhere"):
            criterion(verdicts, similarity, distance)


# ---------------------------------------------------------------- JPEG


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(quality: int, channels: int) -> None:
    x = torch.rand(2, channels, 20, 13, generator=g())
    before = x.clone()
    y = jpeg(x, quality=quality)
    assert torch.equal(x, before)
    for image, purified in zip(x, y, strict=True):
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).save(file, "JPEG", quality=quality)
        decoded = np.array(Image.open(file)).reshape(20, 13, channels)
        assert np.array_equal(decoded, (purified * 255).round().permute(1, 2, 0).numpy())
    assert torch.equal(y, (y * 255).round() / 255)
    assert not torch.equal(y, jpeg(x, quality=quality - 40))
    assert torch.equal(y[1:], jpeg(x[1:], quality=quality, generator=g()))


def test_jpeg_defaults_and_keeps_the_type() -> None:
    assert PURIFIERS["jpeg"] is jpeg
    x = torch.rand(1, 3, 16, 16, generator=g())
    assert torch.equal(jpeg(x), jpeg(x, quality=50))
    assert jpeg(x.double()).dtype == torch.float64
    smooth = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    assert float((jpeg(smooth) - smooth).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("x", "quality", "error", "line"),
    [
        (torch.rand(1, 3, 8, 8), 0, UsageError, "quality is 0: give a whole number from 1 to 100"),
        (torch.rand(1, 3, 8, 8), 101, UsageError, "quality is 101"),
        (torch.rand(1, 3, 8, 8), 50.0, UsageError, "quality is 50.0"),
        (torch.rand(1, 3, 8, 8) * 255, 50, InputError, "divide by 255"),
        (torch.zeros(1, 1, 1, 65_501), 50, InputError, "JPEG takes 65500 at most"),
    ],
)
def test_jpeg_refuses(x: Tensor, quality: int, error: type[Exception], line: str) -> None:
    with pytest.raises(error, match=line):
        jpeg(x, quality=quality)


# ---------------------------------------------------------------- mspd revert


def test_command(
    call: Callable[..., Any], tiny: str, tiny_weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(60, 196, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((40, 36), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    assert call("protect", "a.png", "--preset", tiny)[0] == 0
    white = str(tiny_weights["backbone"])
    monkeypatch.setitem(SURROGATES, tiny, {"white": white, "gray": None, "black": str(tiny_weights["target"])})
    code, out, err = call("revert", "a.protected.png", "-o", "white.png", "--preset", tiny)
    assert (code, err) == (0, "")
    assert "written: white.png" in out
    assert call("revert", ".", "-o", "out", "--preset", tiny, "--setting", "black")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.png.png", "a.protected.png.png", "white.png.png",
    ]  # fmt: skip
    assert call("revert", "a.protected.png", "-o", "own.png", "--preset", tiny, "--backbone", white)[0] == 0
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "white.png").read_bytes()
    assert call("revert", "a.protected.png", "-o", "less.png", "--preset", tiny, "--eps", "2/255")[0] == 0
    moved = images.read(tmp_path / "less.png").pixels.astype(int) - images.read(tmp_path / "a.protected.png").pixels
    assert 0 < abs(moved).max() <= 2
    original, protected, reverted, black = (
        images.to_tensor(images.read(tmp_path / name).pixels)
        for name in ("a.png", "a.protected.png", "white.png", "out/a.protected.png.png")
    )
    assert 0 < float((reverted - protected).abs().max()) <= 8 / 255 + 1e-6
    assert not torch.equal(reverted, black)
    assert float(l2(reverted, original)) < float(l2(black, original))

    for command, code, line in (
        (("a.png", "-o", "b.png", "--preset", tiny, "--setting", "gray"), 2, "no gray surrogate is shipped for tiny"),
        (("a.png", "-o", "b.png", "--preset", tiny, "--setting", "blue"), 2, "unknown setting 'blue'"),
        (("a.png", "-o", "b.png", "--setting", "black", "--backbone", "x"), 2, "leave one of them out"),
        (("a.png", "-o", "white.png", "--preset", tiny), 1, "already exists"),
        (("gone.png", "-o", "b.png", "--preset", tiny), 1, "gone.png: no such file"),
        (("a.png", "--preset", tiny), 2, "see mspd revert --help"),
    ):
        result = call("revert", *command)
        assert result[0] == code, result
        assert re.fullmatch(r"mspd: [^\n]+\n", result[2]), result
        assert line in result[2]
