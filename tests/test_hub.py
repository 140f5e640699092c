"""Models of hubs: names and shapes of published weights, their files and containers, downloads, and what goes wrong.

No published weight file is here: state dicts are random, made by the real classes where the library is installed.
"""

import hashlib
import http.server
import importlib.util
import json
import pickle
import re
import sys
import threading
import types
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mspd import Protector, UsageError, WeightsError, prepare
from mspd.extras import torchvision
from mspd.models import PUBLISHED, build, card_of, load_model, save_folder
from mspd.models.hub import checkpoints
from mspd.models.hub.networks import NETWORKS, ConvStem, DMWideResNet
from mspd.models.hub.published import ROBUSTBENCH_STATS, Published

TIMM = ("xcit_l12", "vit_s_convstem", "timm")
#: sha256 of the sorted lines "name shape" of the state dicts of RobustBench's own classes (robustbench 1.1.1)
NAMES_AND_SHAPES = {
    "Gowal2021Improving_R18_ddpm_100m": "fd8db506d1ce0236",
    "Hendrycks2020AugMix_ResNeXt": "60ec90e8993c1097",
    "Bartoldson2024Adversarial_WRN-94-16": "e6748637883bd84e",
    "Peng2023Robust": "f22ded9b121fd01b",
    "Wang2023Better_WRN-70-16": "61d36a8e32133fb7",
    "Rade2021Helper_extra": "43c2803fda7e2fa2",
    "Xu2023Exploring_WRN-28-10": "cb9a7ceb183b54b4",
    "Wong2020Fast": "2db34b697ceef930",
    "Sehwag2021Proxy_ResNest152": "1100b36237380e19",
    "Chen2020Adversarial": "a4a76d68cc9ef301",
    "Addepalli2022Efficient_RN18": "15e99edfd6f789c7",
    "Debenedetti2022Light_XCiT-L12": "dde4f62a6f64ac73",
    "Standard": "733853da8aaa8952",
    "Singh2023Revisiting_ViT-S-ConvStem": "634f893e128ad7ec",
}
TINY = "robustbench:Tiny"


def needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install 'mspd[hub]'")


def digest(network: nn.Module) -> str:
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def shuffled(network: nn.Module) -> nn.Module:
    """BatchNorm statistics that are not the initial ones; eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


# ---------------------------------------------------------------- the published networks


@pytest.mark.parametrize("name", NAMES_AND_SHAPES)
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    model = PUBLISHED[f"robustbench:{name}"]
    if model.network in TIMM:
        needs("timm")
    with torch.device("meta"):
        network = NETWORKS[model.network](**model.arguments)
    assert digest(network.members[0] if name == "Chen2020Adversarial" else network) == NAMES_AND_SHAPES[name]  # type: ignore[index]


def test_the_paper_is_complete() -> None:
    assert {name.partition(":")[2] for name, model in PUBLISHED.items() if model.network != "timm"} == {
        *NAMES_AND_SHAPES, "cifar10_resnet56",
    }  # fmt: skip
    for name, model in PUBLISHED.items():
        assert len(set(model.urls)) == len(model.urls) == (3 if name.endswith("Chen2020Adversarial") else 1)
        assert (model.autoattack_acc or 0) < model.clean_acc < 100
        assert model.network == "timm" or model.network in NETWORKS
    assert len({url for model in PUBLISHED.values() for url in model.urls}) == len(PUBLISHED) + 2


def test_resnet56_has_torchvisions_blocks() -> None:
    """The published class is torchvision's basic block in three stages."""
    needs("torchvision")
    basic = torchvision().models.resnet.BasicBlock
    theirs = nn.Module()
    theirs.conv1, theirs.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    channels = 16
    for stage, width in enumerate((16, 32, 64), 1):
        down = None
        if width != channels:
            down = nn.Sequential(nn.Conv2d(channels, width, 1, 2, bias=False), nn.BatchNorm2d(width))
        first = basic(channels, width, 1 if down is None else 2, down)
        theirs.add_module(f"layer{stage}", nn.Sequential(first, *(basic(width, width) for _ in range(8))))
        channels = width
    theirs.fc = nn.Linear(64, 10)
    assert sum(p.numel() for p in theirs.parameters()) == 855_770  # 0.86 M, as published
    state = shuffled(theirs).state_dict()
    for old, new in PUBLISHED["chenyaofo:cifar10_resnet56"].renames.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    mine = NETWORKS["resnet56"]().eval()
    checkpoints.load(mine, state, Path("resnet56.pt"))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        out = torch.relu(theirs.bn1(theirs.conv1(x)))
        for stage in (1, 2, 3):
            out = theirs.get_submodule(f"layer{stage}")(out)
        assert torch.allclose(mine(x), theirs.fc(out.mean((2, 3))), atol=1e-5)


@pytest.fixture(scope="module")
def robustbench() -> Iterator[Callable[[str], Any]]:
    """RobustBench's architecture modules, without the imports of its package, which fail (docs/models.md)."""
    spec = importlib.util.find_spec("robustbench")
    root = Path() if spec is None or spec.origin is None else Path(spec.origin).parent
    if not (root / "model_zoo" / "architectures" / "robustarch_wide_resnet.py").exists():  # torchattacks has an old one
        pytest.skip("robustbench 1.1.1 is not there: pip install --no-deps 'robustbench>=1.1.1'")
    needs("timm")
    torchvision()

    def architecture(name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports from deprecated places
            return importlib.import_module(f"robustbench.model_zoo.architectures.{name}")

    with pytest.MonkeyPatch.context() as patch:
        for name, place in (("robustbench", root), ("robustbench.model_zoo", root / "model_zoo")):
            package = types.ModuleType(name)
            package.__path__ = [str(place)]
            patch.setitem(sys.modules, name, package)
        yield architecture


def real(kind: str, rb: Callable[[str], Any]) -> tuple[nn.Module, nn.Module]:
    """A network of RobustBench's class and ours of the same (small) size; theirs normalises or not, as the zoo says."""
    dm, resnet = rb("dm_wide_resnet"), rb("resnet")
    if kind == "dm_preact_resnet18":
        return dm.DMPreActResNet(10, 18, 0, nn.SiLU), NETWORKS[kind]()
    if kind == "dm_wide_resnet":
        return dm.DMWideResNet(10, 10, 1, nn.SiLU), NETWORKS[kind](depth=10, width=1)
    if kind == "ra_wide_resnet":
        wide = rb("robustarch_wide_resnet").NormalizedWideResNet
        sizes: dict[str, Any] = {"se_ratio": 0.25, "se_activation": nn.ReLU, "se_order": 2, "activation_fn": nn.SiLU}
        theirs = wide(*ROBUSTBENCH_STATS, 8, [2, 2, 1], [12, 24, 48], [1, 1, 1], **sizes)
        return theirs, NETWORKS[kind](stem=8, widths=(12, 24, 48), depths=(2, 2, 1))
    if kind == "wide_resnet":
        return rb("wide_resnet").WideResNet(10, 10, 1), NETWORKS[kind](depth=10, width=1)
    if kind == "preact_resnet18":
        return resnet.PreActResNet(resnet.PreActBlock, [2, 2, 2, 2]), NETWORKS[kind]()
    if kind == "resnet18":
        return resnet.ResNet18(), NETWORKS[kind]()
    if kind == "preact_bottlenecks":
        theirs = resnet.ResNet(resnet.BottleneckChen2020AdversarialNet, [1, 1, 2, 1])
        return theirs, NETWORKS[kind](depths=(1, 1, 2, 1), members=1)
    if kind == "resnext29":
        resnext = rb("resnext")
        return resnext.CifarResNeXt(resnext.ResNeXtBottleneck, 11, 4, 32, 10), NETWORKS[kind](depth=1)
    if kind == "resnest152":
        resnest = rb("resnest")
        theirs = resnest.ResNest(
            resnest.Bottleneck, [1, 1, 2, 1], radix=4, deep_stem=True, avg_down=True, avd=True, swish=True
        )
        return theirs, NETWORKS[kind](depths=(1, 1, 2, 1))
    if kind == "vit_s_convstem":
        return rb("convstem_models").ConvBlock(12, end_siz=8), ConvStem(12, 96)
    xcit = rb("xcit")
    theirs = xcit.xcit.Xcit(32, 16, num_classes=10, embed_dim=32, depth=1, num_heads=4, eta=1.0, tokens_norm=True)
    return xcit.adapt_model_patches(theirs, 4), NETWORKS[kind](width=32, depth=1, heads=4)


@pytest.mark.parametrize("kind", sorted({m.network for m in PUBLISHED.values()} - {"timm", "resnet56"}))
def test_answers_are_robustbenchs(kind: str, robustbench: Callable[[str], Any]) -> None:
    torch.manual_seed(0)
    theirs, mine = real(kind, robustbench)
    theirs, mine = shuffled(theirs), mine.eval()
    state = checkpoints._bare(theirs.state_dict())
    if kind == "preact_bottlenecks":
        state = {f"members.0.{key}": value for key, value in state.items()}
    checkpoints.load(mine, state, Path(kind))
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in ROBUSTBENCH_STATS)
    inside = kind in ("dm_preact_resnet18", "dm_wide_resnet", "ra_wide_resnet")
    with torch.no_grad():
        expected, found = theirs(x), mine((x - mean) / std if inside else x)
        if kind == "preact_bottlenecks":
            expected, found = expected.softmax(1), found.exp()
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


SMALL: dict[str, dict[str, Any]] = {
    "dm_preact_resnet18": {"width": 4},
    "dm_wide_resnet": {"depth": 10, "width": 1},
    "preact_bottlenecks": {"width": 4, "depths": (1, 1, 1, 1), "members": 2},
    "preact_resnet18": {"width": 4},
    "ra_wide_resnet": {"stem": 8, "widths": (12, 24, 48), "depths": (1, 1, 1)},
    "resnest152": {"width": 4, "depths": (1, 1, 1, 1)},
    "resnet18": {"width": 4},
    "resnet56": {"width": 4, "depth": 1},
    "resnext29": {"width": 8, "depth": 1},
    "wide_resnet": {"depth": 10, "width": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_prepared_for_gradients(name: str) -> None:
    """`prepare` can trace them and fold what can be folded; the answers and the gradients stay."""
    torch.manual_seed(0)
    network = shuffled(NETWORKS[name](**SMALL[name]))
    ready = prepare(network)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in ready.modules()) == 0
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert torch.allclose(ready(x), network(x), rtol=1e-3, atol=1e-3)
    (gradient,) = torch.autograd.grad(ready(x)[:, 0].sum(), x)
    assert bool((gradient != 0).any())


def test_small_networks_are_all() -> None:
    assert set(SMALL) == set(NETWORKS) - set(TIMM)


# ---------------------------------------------------------------- checkpoint files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of checkpoints, and a published model of tiny size whose address nobody answers."""
    monkeypatch.setenv("MSPD_CHECKPOINTS", str(tmp_path))
    nobody = ("http://127.0.0.1:9/weights.pt",)
    model = Published("dm_wide_resnet", {"depth": 10, "width": 1}, nobody, 87.35, 58.63)
    monkeypatch.setitem(PUBLISHED, TINY, model)
    return tmp_path


@pytest.fixture
def tiny_network() -> DMWideResNet:
    torch.manual_seed(0)
    network = shuffled(NETWORKS["dm_wide_resnet"](depth=10, width=1))
    assert isinstance(network, DMWideResNet)
    return network


def normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in ROBUSTBENCH_STATS)
    return (x - mean) / std


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


STATISTICS = {
    "mean": torch.tensor(ROBUSTBENCH_STATS[0]).view(3, 1, 1),
    "std": torch.tensor(ROBUSTBENCH_STATS[1]).view(3, 1, 1),
}
FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda s: s,
    "state_dict, module.": lambda s: {"epoch": 7, "state_dict": prefixed(s, "module."), "args": Namespace(lr=0.1)},
    "model, model.": lambda s: {"model": prefixed(s, "model."), "optimizer": {"state": {}, "param_groups": []}},
    "ema": lambda s: {"ema": s, "best_acc": 0.9},
    "net": lambda s: {"net": prefixed(s, "net.")},
    "normalisation": lambda s: {**s, **STATISTICS},
    "normalisation beside, module.": lambda s: {
        **prefixed(s, "module.model."), **prefixed(STATISTICS, "module.normalize."),
    },
    "sequential": lambda s: {**prefixed(s, "1."), **prefixed(STATISTICS, "0.")},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_containers_and_prefixes(form: str, folder: Path, tiny_network: DMWideResNet) -> None:
    torch.save(FORMS[form](tiny_network.state_dict()), folder / "Tiny.pt")
    model = load_model(TINY)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), tiny_network(normalised(x)))
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("place", ["Tiny.pth", "Tiny.safetensors", "cifar10/Linf/Tiny.pt", "weights.pth.tar"])
def test_places_of_a_file(place: str, folder: Path, tiny_network: DMWideResNet) -> None:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tiny_network.half().state_dict(), path)
    else:
        torch.save(tiny_network.state_dict(), path)
    x = torch.rand(2, 3, 32, 32)
    assert torch.allclose(load_model(TINY)(x), tiny_network.float()(normalised(x)), atol=1e-6)


def test_a_card_tells_what_is_published(folder: Path, tiny_network: DMWideResNet) -> None:
    path = folder / "Tiny.pt"
    torch.save(tiny_network.state_dict(), path)
    card = card_of(TINY)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card["clean_acc"], card["autoattack_acc"], card["autoattack_eps"]) == (0.8735, 0.5863, 8 / 255)
    assert (card["name"], card["dataset"], card["size"]) == (TINY, "CIFAR-10", 32)
    assert card["classes"] == card_of("resnext-cifar10")["classes"]
    torch.save({"state_dict": tiny_network.state_dict()}, path)
    assert card_of(TINY)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() != card["sha256"]


def test_serves_as_backbone(folder: Path, tiny_network: DMWideResNet, tiny: str) -> None:
    torch.save(tiny_network.state_dict(), folder / "Tiny.pt")
    x = torch.rand(2, 3, 16, 16).mul(255).round() / 255
    x_def = Protector(tiny, backbone=TINY, device="cpu")(x)
    assert 0 < (x_def - x).abs().max() <= 8 / 255 + 1e-6
    assert not torch.equal(x_def, Protector(tiny, device="cpu")(x))


def test_ensemble_of_three_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(PUBLISHED["robustbench:Chen2020Adversarial"], arguments={"width": 4, "depths": (1, 1, 1, 1)})
    monkeypatch.setitem(PUBLISHED, "robustbench:Chen2020Adversarial", small)
    ensemble = shuffled(NETWORKS["preact_bottlenecks"](**small.arguments))
    (folder / "cifar10" / "Linf").mkdir(parents=True)
    for index, place in enumerate(("cifar10/Linf/Chen2020Adversarial.pt_m0.pt", "Chen2020Adversarial_m1.pth",
                                   "Chen2020Adversarial_m2.pt")):  # fmt: skip
        torch.save({"state_dict": ensemble.members[index].state_dict()}, folder / place)  # type: ignore[index]
    model = load_model("robustbench:Chen2020Adversarial")
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in small.stats or ())
    members = [member((x - mean) / std).softmax(1) for member in ensemble.members]  # type: ignore[union-attr]
    assert torch.allclose(model(x).exp(), torch.stack(members).mean(0), atol=1e-6)
    assert card_of("robustbench:Chen2020Adversarial")["bytes"] == sum(p.stat().st_size for p in folder.rglob("*m?.pt*"))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("evil").touch, ())


class NoTensor:
    """Asks PyTorch to rebuild a tensor out of a tuple."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, ((1,), 0, (1,), (1,), False, None))


def test_files_that_are_refused(
    folder: Path, tiny_network: DMWideResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, state = folder / "Tiny.pt", tiny_network.state_dict()

    def refused(why: str) -> None:
        with pytest.raises(WeightsError, match=why) as caught:
            load_model(TINY)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    path.write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    refused("this is a web page, not weights; the download failed")
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    refused("holds more than tensors, and such a file can run code")
    torch.save({**state, "hook": Evil()}, path)
    refused("holds more than tensors")
    assert not Path("evil").exists()
    path.write_bytes(b"")
    refused("not a checkpoint, or damaged")
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused("not a checkpoint, or damaged")
    torch.save({"state_dict": NoTensor()}, path)
    refused("not a checkpoint, or damaged")
    torch.save({"epoch": 3}, path)
    refused("no state dict in it")
    torch.save({}, path)
    refused("no state dict in it")
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, path)
    refused("no state dict in it")
    torch.save({k: v for k, v in state.items() if k != "logits.bias"}, path)
    refused(r"the weights of another network \(logits.bias is missing\)")
    torch.save({**state, "head.weight": torch.ones(1)}, path)
    refused(r"the weights of another network \(head.weight is too much\)")
    torch.save({**state, "logits.bias": torch.ones(11)}, path)
    refused("the weights of another network .*size mismatch for logits.bias")
    torch.save({**state, **STATISTICS, "std": torch.ones(3, 1, 1)}, path)
    refused(r"normalises its images by std = \[1.0, 1.0, 1.0\]")
    torch.save(state, path)
    monkeypatch.setitem(PUBLISHED, TINY, replace(PUBLISHED[TINY], sha256=("0" * 9,)))
    refused("its sha256 does not begin with 000000000")


# ---------------------------------------------------------------- downloads


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server: its address, its folder, and the paths that were asked for."""
    root, asked = tmp_path / "www", []
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(root))

        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}", root, asked
        web.shutdown()
        thread.join()


def test_downloads_once(
    server: tuple[str, Path, list[str]], folder: Path, tiny_network: DMWideResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, root, asked = server
    torch.save(tiny_network.state_dict(), root / "w.pth")
    monkeypatch.setitem(PUBLISHED, TINY, replace(PUBLISHED[TINY], urls=(f"{address}/w.pth",)))
    monkeypatch.setenv("MSPD_CHECKPOINTS", str(folder / "new"))
    x = torch.rand(1, 3, 32, 32)
    for _ in range(2):
        assert torch.equal(load_model(TINY)(x), tiny_network(normalised(x)))
    assert asked == ["/w.pth"]
    assert [p.name for p in (folder / "new").iterdir()] == ["Tiny.pth"]


def test_downloads_that_fail(
    server: tuple[str, Path, list[str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, root, _ = server
    monkeypatch.setenv("MSPD_CHECKPOINTS", str(folder / "new"))
    (root / "page.pt").write_text("<html>Sign in</html>")
    by_hand = rf"get it by hand and put it there as {folder}/new/Tiny.pt \(or set MSPD_CHECKPOINTS"
    for url, why in (
        (f"{address}/page.pt", "gives a web page instead of the file"),
        (f"{address}/none.pt", r"cannot be downloaded \(File not found\)"),
        ("http://127.0.0.1:9/w.pt", r"cannot be downloaded \(.*refused"),
    ):
        monkeypatch.setitem(PUBLISHED, TINY, replace(PUBLISHED[TINY], urls=(url,)))
        with pytest.raises(WeightsError, match=f"{why}.*{by_hand}") as caught:
            load_model(TINY)
        assert url in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list((folder / "new").iterdir())


def test_where_checkpoints_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSPD_CHECKPOINTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checkpoints.folder() == tmp_path / "mspd"


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="known of robustbench are Gowal2021Improving_R18_ddpm_100m, Hendrycks2020"):
        load_model("robustbench:Carmon2019")
    with pytest.raises(UsageError, match="known of chenyaofo are cifar10_resnet56"):
        load_model("chenyaofo:resnet20")
    for name in ("hf-hub:owner/name", "hf-hub:owner/name@main", "hf-hub:name@" + "0" * 40):
        with pytest.raises(UsageError, match="write hf-hub:OWNER/NAME@REVISION, the revision a commit's 40"):
            load_model(name)
    with pytest.raises(
        UsageError, match=r"unknown model 'zoo:x': .* an id of a hub .robustbench:NAME, chenyaofo:NAME, timm:NAME"
    ):
        load_model("zoo:x")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=r"this needs torchvision: pip install 'mspd\[hub\]'"):
        load_model("torchvision:resnet18")


# ---------------------------------------------------------------- torchvision, timm, the Hugging Face Hub


def test_torchvision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("torchvision")
    models = torchvision().models
    assert torchvision() is sys.modules["torchvision"]
    torch.manual_seed(0)
    theirs = shuffled(models.squeezenet1_1(weights=None))
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    path = folder / Path(weights.url).name
    torch.save(theirs.state_dict(), path)
    published = path.stem.rpartition("-")[2]
    with pytest.raises(WeightsError, match=f"its sha256 does not begin with {published}, as published"):
        load_model("torchvision:squeezenet1_1")
    monkeypatch.setattr(checkpoints, "checksum", lambda path: published + "0" * 56)
    card, model = card_of("torchvision:squeezenet1_1.IMAGENET1K_V1"), load_model("torchvision:squeezenet1_1")
    assert (card["size"], len(card["classes"]), card["classes"][0]) == (224, 1000, "tench")
    assert card["clean_acc"] == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, abs=1e-4)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs((x - torch.tensor(IMAGENET[0]).view(3, 1, 1)) / torch.tensor(IMAGENET[1]).view(3, 1, 1))
    assert torch.allclose(model(x), expected, atol=1e-5)
    for name, why in (
        ("torchvision:resnet19", "torchvision has no classifier of this name"),
        ("torchvision:resnet18.V9", "torchvision's weights of it are IMAGENET1K_V1"),
    ):
        with pytest.raises(UsageError, match=why):
            load_model(name)


def test_torchvision_file_with_a_dot_in_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("torchvision")
    (folder / "shufflenetv2_x0.5-f707e7126e.pth").write_bytes(b"weights")
    monkeypatch.setattr(checkpoints, "checksum", lambda path: "f707e7126e" + "0" * 54)
    assert card_of("torchvision:shufflenet_v2_x0_5")["bytes"] == 7


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def timm_test_model() -> tuple[nn.Module, Any]:
    """timm's tiny ResNet for tests, with random weights, and timm."""
    needs("timm")
    torchvision()
    import timm

    torch.manual_seed(0)
    return shuffled(timm.create_model("test_resnet.r160_in1k", pretrained=False)), timm


def test_timm(folder: Path) -> None:
    theirs, timm = timm_test_model()
    torch.save({"model": theirs.state_dict()}, folder / "test_resnet.r160_in1k.pt")
    card, model = card_of("timm:test_resnet.r160_in1k"), load_model("timm:test_resnet.r160_in1k")
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert (card["size"], len(card["classes"])) == (160, config.num_classes)
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (config.mean, config.std))
    with torch.no_grad():
        assert torch.allclose(model(x), theirs((x - mean) / std), atol=1e-5)
    torch.save({"model": {"fc.weight": torch.ones(2, 2)}}, folder / "test_resnet.r160_in1k.pt")
    with pytest.raises(WeightsError, match="the weights of another network"):
        load_model("timm:test_resnet.r160_in1k")
    with pytest.raises(UsageError, match="timm has no model of this name"):
        load_model("timm:resnet_of_nobody")
    with pytest.raises(
        UsageError, match="timm:vit_small_patch14_dinov2: no classifier, timm's weights of it tell feat"
    ):
        load_model("timm:vit_small_patch14_dinov2")


def test_timm_of_one_size_takes_any(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, timm = timm_test_model()
    theirs = timm.create_model("test_vit.r160_in1k", pretrained=False)
    torch.save(theirs.state_dict(), folder / "test_vit.r160_in1k.pt")
    assert load_model("timm:test_vit.r160_in1k")(torch.rand(1, 3, 32, 48)).shape == (1, theirs.num_classes)


def test_published_networks_of_timm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swin-L and DeiT-B are loaded like this small one, by timm's own function."""
    theirs, timm = timm_test_model()
    entry = PUBLISHED["robustbench:Liu2023Comprehensive_Swin-L"]
    monkeypatch.setitem(PUBLISHED, TINY, replace(entry, arguments={"name": "test_resnet"}, size=224))
    torch.save({"state_dict": prefixed(theirs.state_dict(), "module.")}, folder / "Tiny.pt")
    model = load_model(TINY)
    x = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in IMAGENET)
    with torch.no_grad():
        assert torch.allclose(model(x), theirs((x - mean) / std), atol=1e-5)
    assert card_of(TINY)["clean_acc"] == 0.7892
    for name in ("robustbench:Liu2023Comprehensive_Swin-L", "robustbench:Tian2022Deeper_DeiT-B"):
        assert timm.is_model(PUBLISHED[name].arguments["name"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes the folder where the real library keeps a repository's files at a commit; no network behind it."""
    needs("huggingface_hub")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def make(repository: str, revision: str) -> Path:
        place = tmp_path / "hf" / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
        place.mkdir(parents=True)
        return place

    return make


def small_model() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    arguments = {"num_classes": 3, "depth": 10, "width": 1}
    card = {"name": "mine", "architecture": "wide_resnet", "arguments": arguments, "classes": ["a", "b", "c"]}
    return shuffled(build("wide_resnet", arguments)), card


def test_own_format_from_the_hub(cache: Callable[[str, str], Path]) -> None:
    model, card = small_model()
    save_folder(model, cache("me/mine", "a" * 40), card)
    again = load_model(f"hf-hub:me/mine@{'a' * 40}")
    model.load_state_dict({k: v.half().float() for k, v in model.state_dict().items()})
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(x), model(x))
    assert card_of(f"hf-hub:me/mine@{'a' * 40}")["classes"] == ["a", "b", "c"]
    why = f"config.json of https://huggingface.co/me/mine.revision={'b' * 40} cannot be had .* and pass their folder$"
    with pytest.raises(WeightsError, match=why) as caught:
        load_model(f"hf-hub:me/mine@{'b' * 40}")
    assert "\n" not in str(caught.value)


def test_timms_format_from_the_hub(cache: Callable[[str, str], Path]) -> None:
    theirs, timm = timm_test_model()
    place = cache("you/theirs", "c" * 40)
    timm.models.save_for_hf(theirs, place, safe_serialization=True)
    model = load_model(f"hf-hub:you/theirs@{'c' * 40}")
    config = theirs.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))  # type: ignore[index, call-overload]
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(x), theirs((x - mean) / std), atol=1e-5)
    (place / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsError, match="neither in mspd's nor in timm's format"):
        load_model(f"hf-hub:you/theirs@{'c' * 40}")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_classes": 10**9}, "num_classes is missing or no such thing"),
        ({"num_classes": "ten"}, "num_classes"),
        ({"pretrained_cfg": {}}, "input_size"),
        ({"pretrained_cfg": {"input_size": 160, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "input_size"),
        ({"pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0, 0], "std": [1, 1, 1]}}, "mean"),
        ({"model_args": [1]}, "model_args"),
        ({"model_args": {"no_such_argument": 1}}, "the weights of another network"),
    ],
)
def test_a_config_of_timms_that_is_wrong(cache: Callable[[str, str], Path], change: Any, why: str) -> None:
    theirs, timm = timm_test_model()
    place = cache("you/theirs", "c" * 40)
    timm.models.save_for_hf(theirs, place, safe_serialization=True)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(WeightsError, match=why):
        load_model(f"hf-hub:you/theirs@{'c' * 40}")


def test_a_folder_in_the_hubs_format(tmp_path: Path) -> None:
    model, card = small_model()
    folder = tmp_path / "mine"
    save_folder(model, folder, card)
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    again = load_model(folder)
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(again(x), model(x), atol=0.02)
    assert card_of(folder) == {
        **card, "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "bytes": (folder / "model.safetensors").stat().st_size,
    }  # fmt: skip
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: mspd\n")
    assert "| classes | a, b, c |" in readme
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    save_folder(again, folder, card)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == first
    (folder / "model.safetensors").write_bytes(first["model.safetensors"] + b"\0")
    with pytest.raises(WeightsError, match="sha256 differs from its card's"):
        load_model(folder)


# ---------------------------------------------------------------- the page


PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_pages_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "models.md", "exec"), {})


def test_the_page_and_the_command_list_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    from mspd.cli import models

    models()
    shown = capsys.readouterr().out
    for name in PUBLISHED:
        assert f"`{name.partition(':')[2]}`" in PAGE
        assert name in shown
