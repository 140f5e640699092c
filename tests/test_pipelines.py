"""mspd inside other people's pipelines, each by the real library (ComfyUI by its node contract), and their page."""

import errno
import importlib.util
import io
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.main import get_command

import mspd.cli as cli
from mspd import InputError, Protector, UsageError
from mspd.errors import ImageError
from mspd.extras import torchvision
from mspd.models import load_model
from mspd.pipelines import comfyui
from mspd.pipelines.dataset import ProtectColumn
from mspd.pipelines.defended import Defended
from mspd.pipelines.frames import protect_frames
from mspd.pipelines.pixels import protect_image, protect_tensor
from mspd.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
OLD_NAMES = "ignore:.*scipy.ndimage:DeprecationWarning"  # foolbox imports from there
#: the library that a section of the page needs, by the module's name
SECTIONS = {
    "torchvision": "torchvision",
    "datasets": "datasets",
    "Adversarial Robustness Toolbox": "art",
    "foolbox": "foolbox",
}


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'mspd[pipelines]'")


@pytest.fixture(scope="module")
def protector(tiny: str) -> Protector:
    return Protector(tiny, device="cpu")


def picture(seed: int = 0, size: tuple[int, int] = (20, 18), channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


def expected(protector: Protector, pixels: Any, seed: int = 0) -> Any:
    return protector.protect_pixels(pixels, seed=seed)[0]


# ---------------------------------------------------------------- what they share


def test_tensors_in_both_forms(protector: Protector) -> None:
    pixels = np.stack([picture(0), picture(1)])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    wanted = torch.from_numpy(np.stack([expected(protector, p, 5) for p in pixels])).permute(0, 3, 1, 2)
    assert torch.equal(protect_tensor(protector, x, 5), wanted)
    assert torch.equal(protect_tensor(protector, x[1], 5), wanted[1])
    floats = protect_tensor(protector, x.double() / 255, 5)
    assert floats.dtype == torch.float64
    assert torch.equal((floats * 255).round().to(torch.uint8), wanted)
    assert not torch.equal(wanted, x)
    for wrong, why in ((x[0, 0], "pass .C, H, W."), (x.float(), "not .0, 1."), (x[:, :2], "2 channels")):
        with pytest.raises(InputError, match=why):
            protect_tensor(protector, wrong, 5)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_pictures_keep_their_mode(mode: str, channels: int, protector: Protector) -> None:
    pixels = picture(0, channels=channels)
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    out = np.asarray(protect_image(protector, image, 3)).reshape(pixels.shape)
    colours = channels - (channels in (2, 4))
    assert np.array_equal(out[..., :colours], expected(protector, np.ascontiguousarray(pixels[..., :colours]), 3))
    assert np.array_equal(out[..., colours:], pixels[..., colours:])
    with pytest.raises(InputError, match="a picture of mode CMYK: convert it"):
        protect_image(protector, Image.new("CMYK", (4, 4)), 0)


@pytest.mark.parametrize(("mode", "key"), [("L", 64), ("RGB", (1, 2, 3))])
def test_a_transparent_colour_becomes_alpha(protector: Protector, tmp_path: Path, mode: str, key: Any) -> None:
    image = Image.new(mode, (16, 16), key)
    image.paste(200 if mode == "L" else (9, 8, 7), (0, 0, 8, 16))
    image.save(tmp_path / "a.png", transparency=key)
    with Image.open(tmp_path / "a.png") as opened:
        protected = protect_image(protector, opened, 0)
    protected.save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as written:
        alpha = np.asarray(written.convert("RGBA"))[:, :, 3]
    assert (alpha[:, :8] == 255).all()
    assert (alpha[:, 8:] == 0).all()


def test_gradients_are_taken_where_the_caller_has_none(protector: Protector) -> None:
    x = images()
    wanted = protector(x, seed=1)
    with torch.no_grad():
        assert torch.equal(protector(x, seed=1), wanted)
        assert torch.equal(protect_tensor(protector, x, 1), protect_tensor(protector, x.clone(), 1))
    with torch.inference_mode():
        assert torch.equal(protector(x.clone(), seed=1), wanted)


# ---------------------------------------------------------------- torchvision


def test_torchvision_transform(protector: Protector) -> None:
    needs("torchvision")
    torchvision()
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from mspd.pipelines.images import ProtectImages

    pixels = picture()
    x = torch.from_numpy(pixels).permute(2, 0, 1)
    wanted = torch.from_numpy(expected(protector, pixels, 7)).permute(2, 0, 1)
    transform = ProtectImages(protector, seed=7)
    boxes = tv_tensors.BoundingBoxes([[0, 0, 5, 5]], format="XYXY", canvas_size=(20, 18))
    mask = tv_tensors.Mask(torch.ones(20, 18))
    image, same_boxes, same_mask, label, plain = transform(tv_tensors.Image(x), boxes, mask, 3, torch.rand(3, 9, 9))
    assert type(image) is tv_tensors.Image
    assert torch.equal(image, wanted)
    assert same_boxes is boxes
    assert same_mask is mask
    assert label == 3
    assert plain.shape == (3, 9, 9)
    video = transform(tv_tensors.Video(x.expand(2, 2, -1, -1, -1)))
    assert type(video) is tv_tensors.Video
    assert torch.equal(video, wanted.expand(2, 2, -1, -1, -1))
    assert torch.equal(transform(x), wanted)
    assert np.array_equal(np.asarray(transform(Image.fromarray(pixels))), wanted.permute(1, 2, 0).numpy())
    chain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), transform])
    out = chain(Image.fromarray(pixels))
    assert type(out) is tv_tensors.Image
    assert torch.equal(out, wanted.float() / 255)
    loader = torch.utils.data.DataLoader([(x, 1), (x, 2)], batch_size=2, collate_fn=lambda rows: transform(*rows[0]))
    assert torch.equal(next(iter(loader))[0], wanted)


# ---------------------------------------------------------------- datasets


def test_datasets_map(protector: Protector, tiny: str, tmp_path: Path) -> None:
    needs("datasets")
    import datasets

    pixels = [picture(seed) for seed in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(p) for p in pixels], "label": [4, 5, 6]}, features=features
    )
    for batched in (False, True):
        done = data.map(
            ProtectColumn(tiny, seed=2, device="cpu"), batched=batched, batch_size=2, features=features,
            cache_file_name=str(tmp_path / f"{batched}.arrow"),
        )  # fmt: skip
        assert done["label"][:] == [4, 5, 6]
        for row, original in zip(done, pixels, strict=True):
            assert np.array_equal(np.asarray(row["image"]), expected(protector, original, 2))
    function = ProtectColumn(tiny, seed=2, device="cpu")
    before = datasets.fingerprint.Hasher.hash(function)
    function({"image": Image.fromarray(pixels[0])})
    assert datasets.fingerprint.Hasher.hash(function) == before
    assert datasets.fingerprint.Hasher.hash(ProtectColumn(tiny, seed=3, device="cpu")) != before


def test_the_map_function_travels_light(tiny: str) -> None:
    function = ProtectColumn(tiny, column="picture", seed=2, device="cpu")
    example = {"picture": Image.fromarray(picture()), "label": 1}
    first = function(example)
    sent = pickle.dumps(function)
    assert len(sent) < 500
    again = pickle.loads(sent)(example)
    assert np.array_equal(np.asarray(again["picture"]), np.asarray(first["picture"]))
    assert set(again) == {"picture"}
    with pytest.raises(UsageError, match="no column 'picture', only 'image', 'label': name the pictures' column"):
        function({"image": example["picture"], "label": 1})
    with pytest.raises(InputError, match="a NoneType in place of a picture: pass one of Pillow"):
        function({"picture": None})


# ---------------------------------------------------------------- ART, foolbox


@pytest.fixture(scope="module")
def target(tiny_weights: dict[str, Path]) -> nn.Module:
    return load_model(tiny_weights["target"])


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def test_backward_pass_is_the_identity(protector: Protector, target: nn.Module) -> None:
    x = images().requires_grad_(True)
    defended = Defended(target, protector, seed=4)
    x_def = protector(x.detach(), seed=4).requires_grad_(True)
    assert torch.equal(defended(x), target(x_def))
    (through,) = torch.autograd.grad(defended(x)[:, 0].sum(), x)
    (beyond,) = torch.autograd.grad(target(x_def)[:, 0].sum(), x_def)
    assert torch.equal(through, beyond)
    assert bool((through != 0).any())


@pytest.mark.filterwarnings(OLD_NAMES)
def test_foolbox(protector: Protector, target: nn.Module) -> None:
    needs("foolbox")
    import foolbox

    x = images()
    y = target(x).argmax(1)
    model = foolbox.PyTorchModel(Defended(target, protector).eval(), bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(steps=2, random_start=False)
    _, x_adv, _ = attack(model, x, y, epsilons=8 / 255)
    assert 0 < (x_adv - x).abs().max() <= 8 / 255 + 1e-6


def test_art(protector: Protector, target: nn.Module) -> None:
    needs("art")
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    from mspd.pipelines.art import ArtPreprocessor

    x = images()
    classifier = PyTorchClassifier(
        target, loss=nn.CrossEntropyLoss(), input_shape=(3, 16, 16), nb_classes=10, clip_values=(0, 1),
        preprocessing_defences=ArtPreprocessor(protector, seed=4), device_type="cpu",
    )  # fmt: skip
    with torch.no_grad():
        wanted = target(protector(x, seed=4))
    assert np.allclose(classifier.predict(x.numpy()), wanted.numpy(), atol=1e-5)
    turned = np.ascontiguousarray(x.numpy()[:, ::-1])[:, ::-1]  # from BGR: its stride is negative
    assert np.allclose(classifier.predict(turned), wanted.numpy(), atol=1e-5)
    y = np.eye(10, dtype=np.float32)[[1, 2]]
    through = classifier.loss_gradient(x.numpy(), y)
    x_def = protector(x, seed=4).requires_grad_(True)
    loss = nn.functional.cross_entropy(target(x_def), torch.tensor([1, 2]), reduction="sum")
    (beyond,) = torch.autograd.grad(loss, x_def)
    ratio = through / np.where(beyond.numpy() == 0, 1, beyond.numpy())
    assert np.allclose(through / np.abs(through).max(), (beyond / beyond.abs().max()).numpy(), atol=1e-4), ratio
    attack = ProjectedGradientDescent(classifier, eps=8 / 255, eps_step=4 / 255, max_iter=2, verbose=False)
    x_adv = attack.generate(x.numpy(), y)
    assert 0 < np.abs(x_adv - x.numpy()).max() <= 8 / 255 + 1e-6


# ---------------------------------------------------------------- ComfyUI


def test_comfyui_node(tiny: str, protector: Protector) -> None:
    """What ComfyUI does with a node: looks into the mappings, asks for the inputs, calls FUNCTION by name."""
    assert set(comfyui.NODE_CLASS_MAPPINGS) == set(comfyui.NODE_DISPLAY_NAME_MAPPINGS)
    node = comfyui.NODE_CLASS_MAPPINGS["MspdProtect"]
    inputs = node.INPUT_TYPES()["required"]
    assert inputs["image"] == ("IMAGE",)
    assert inputs["preset"][0] == list(PRESETS)
    given: dict[str, Any] = {name: kind[1]["default"] for name, kind in inputs.items() if len(kind) > 1}
    pixels = np.stack([picture(0), picture(1)])
    image = torch.from_numpy(pixels).float() / 255  # (B, H, W, C)
    comfyui._protector.cache_clear()
    with torch.inference_mode():  # as ComfyUI does
        results = getattr(node(), node.FUNCTION)(
            image=image.clone(), **{**given, "preset": tiny, "levels": 8, "seed": 6}
        )
    assert len(results) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    wanted = torch.from_numpy(np.stack([expected(protector, p, 6) for p in pixels])).float() / 255
    assert torch.equal(results[0], wanted)
    assert results[0].is_contiguous()
    comfyui._protector.cache_clear()


# ---------------------------------------------------------------- frames


class Slow(io.RawIOBase):
    """A pipe that gives and takes a few bytes at a time, and remembers how much was asked for at once."""

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.taken, self.most = data, b"", 0

    def read(self, size: int = -1) -> bytes:
        self.most = max(self.most, size)
        piece, self.data = self.data[: min(size, 100)], self.data[min(size, 100) :]
        return piece

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:100])
        return min(len(data), 100)


def test_frames(protector: Protector) -> None:
    pixels = [picture(seed) for seed in (0, 1, 0)]
    source, sink = Slow(b"".join(p.tobytes() for p in pixels)), Slow()
    assert protect_frames(protector, source, sink, (18, 20), seed=3) == 3  # type: ignore[arg-type]
    assert sink.taken == b"".join(expected(protector, p, 3).tobytes() for p in pixels)
    assert source.most == 20 * 18 * 3
    assert protect_frames(protector, io.BytesIO(), io.BytesIO(), (18, 20), seed=3) == 0


def test_frames_that_end_too_early(protector: Protector) -> None:
    whole, sink = picture(), io.BytesIO()
    cut = io.BytesIO(whole.tobytes() + b"abc")
    why = r"the stream ends inside frame 2, after 3 of its 1080 bytes: is the size 18x20 .* 1 frames are written"
    with pytest.raises(InputError, match=why):
        protect_frames(protector, cut, sink, (18, 20), seed=0)
    assert sink.getvalue() == expected(protector, whole).tobytes()


@pytest.mark.parametrize(
    ("error", "why"),
    [(errno.EPIPE, "the reader has gone"), (errno.ENOSPC, "the disk is full; free some space or choose another place")],
)
def test_frames_that_nobody_takes(protector: Protector, error: int, why: str) -> None:
    class Gone(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(error, os.strerror(error))

    with pytest.raises(ImageError, match=f"frame 1 cannot be written: {why}"):
        protect_frames(protector, io.BytesIO(picture().tobytes()), Gone(), (18, 20), seed=0)


def run(*arguments: str, data: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "mspd", *arguments], input=data, capture_output=True, env=environment, **more
    )


def test_frames_on_the_command_line() -> None:
    pixels = picture(0, (24, 32))
    command = ("frames", "--size", "32x24", "--preset", "cifar10", "--seed", "9", "--device", "cpu")
    done = run(*command, data=pixels.tobytes() + b"rest")
    assert done.returncode == 1
    assert done.stdout == expected(Protector("cifar10", device="cpu"), pixels, 9).tobytes()
    assert done.stderr.decode().startswith("mspd: the stream ends inside frame 2, after 4 of its 2304 bytes")


def test_frames_without_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # where the shell closed it
    with pytest.raises(UsageError, match="frames come from a pipe and go into one"):
        cli.frames("32x24")


@pytest.mark.parametrize("size", ["32", "0x4", "axb", "4x4x4", "-3x4"])
def test_wrong_sizes(size: str) -> None:
    with pytest.raises(UsageError, match=r"--size is .*: write width and height in pixels, for example 1280x720"):
        cli.frames(size)


# ---------------------------------------------------------------- the page


def sections() -> Iterator[tuple[str, str, str]]:
    """(heading, language, content) of each block of the page."""
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        for language, content in re.findall(r"^```(\w+)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
            yield part.partition("\n")[0], language, content


@pytest.mark.filterwarnings(OLD_NAMES)
@pytest.mark.parametrize("heading", [heading for heading, language, _ in sections() if language == "python"])
def test_the_pages_python_runs(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = SECTIONS.get(heading)
    if library is not None:
        needs(library)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(0, (48, 40))).save("photo.png")
    (content,) = (c for h, language, c in sections() if h == heading and language == "python")
    module = types.ModuleType("page")
    exec(compile(content, "pipelines.md", "exec"), module.__dict__)
    if heading == "ComfyUI":
        assert set(module.NODE_CLASS_MAPPINGS) == {"MspdProtect"}


def test_the_pages_commands_exist() -> None:
    (content,) = (c for heading, language, c in sections() if heading.startswith("ffmpeg") and language == "console")
    stages: list[list[str]] = [shlex.split(stage) for stage in content.replace("\\\n", "").lstrip("$ ").split("|")]
    assert [stage[0] for stage in stages] == ["ffmpeg", "mspd", "ffmpeg"]
    options = {option for parameter in get_command(cli.app).commands["frames"].params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {word for word in stages[1] if word.startswith("--")} <= options
    assert stages[1][2:4] == ["--size", "1280x720"]
    assert "1280x720" in stages[2]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs apt-get install ffmpeg")
def test_the_pages_command_through_ffmpeg(tmp_path: Path) -> None:
    """The command as it stands, but for the size: the film that comes out has the protector's frames."""
    (content,) = (c for heading, language, c in sections() if heading.startswith("ffmpeg") and language == "console")
    quiet, raw = ["ffmpeg", "-v", "error"], ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=0.4", "in.mp4"]
    subprocess.run([*quiet, *source], cwd=tmp_path, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = content.lstrip("$ ").replace("1280x720", "64x48")
    subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    before, after = (
        np.frombuffer(
            subprocess.run([*quiet, "-i", name, *raw], cwd=tmp_path, check=True, capture_output=True).stdout, np.uint8
        ).reshape(-1, 48, 64, 3)
        for name in ("in.mp4", "out.mp4")
    )
    protector = Protector("photo", device="cpu")
    assert len(before) == len(after) == 2
    for frame, protected in zip(before, after, strict=True):
        assert (protected == expected(protector, frame, 7)).all()
        assert (protected != frame).any()


def test_pictures_keep_their_orientation(protector: Protector) -> None:
    pixels, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(pixels)
    lying.info["exif"] = exif.tobytes()
    out = protect_image(protector, lying, 3)
    assert np.array_equal(np.asarray(out), expected(protector, pixels, 3))
    assert out.getexif()[0x0112] == 6
