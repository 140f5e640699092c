"""Models of other people, by id; weights come from the network once, or lie in a folder of checkpoints.

    robustbench:NAME              the paper's models, as RobustBench calls them (`published.py`)
    chenyaofo:cifar10_resnet56    the paper's ResNet-56
    timm:NAME                     timm's pretrained models, for example timm:resnet18.a1_in1k
    torchvision:NAME              torchvision's, with its default weights, or torchvision:resnet50.IMAGENET1K_V1
    hf-hub:OWNER/NAME@REVISION    a repository of the Hugging Face Hub, in mspd's or timm's format, at one commit

A state dict is all that is read of a file, and it must fit the network name by name.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mspd.data.sets import CIFAR10
from mspd.errors import UsageError, WeightsError
from mspd.extras import library, timm, torchvision
from mspd.models.common import Enlarge, Normalize, Stats
from mspd.models.files import CONFIG, WEIGHT_FILE, load_weights, read_card, read_json
from mspd.models.hub import checkpoints
from mspd.models.hub.networks import NETWORKS
from mspd.models.hub.published import PUBLISHED, Published

FORMS = ("robustbench:NAME", "chenyaofo:NAME", "timm:NAME", "torchvision:NAME", "hf-hub:OWNER/NAME@REVISION")
KINDS = ("robustbench", "chenyaofo", "timm", "torchvision", "hf-hub")
HUB_ID = re.compile(r"hf-hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})")
#: what torchvision's own loading sets for these
TRANSFORMED = {name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")}
#: what a stranger's config.json must not set of `timm.create_model`
CREATING = ("num_classes", "checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")


def _three(value: Any, *kinds: type) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) in kinds for v in value)


#: what a stranger's config.json must say of the pictures, and whether a value can be that
TIMM_FIELDS: dict[str, Callable[[Any], bool]] = {
    "num_classes": lambda value: type(value) is int and 0 < value <= 1_000_000,
    "input_size": lambda value: _three(value, int) and 0 < min(value) <= max(value) <= 4096,
    "mean": lambda value: _three(value, int, float),
    "std": lambda value: _three(value, int, float),
}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """What an id stands for, its files already there.

    build: a network that has the weights of a state dict, which came from the named file
    stats: means and standard deviations of the images, None if they are not normalised
    fixed: the size in pixels that the network insists on, if it does
    """

    card: dict[str, Any]
    files: tuple[Path, ...]
    build: Callable[[State, Path], nn.Module]
    stats: Stats | None
    fixed: int | None


def is_id(name: str | Path) -> bool:
    """Whether a model's name is an id of a hub."""
    return isinstance(name, str) and ":" in name and name.partition(":")[0] in KINDS


def card(name: str) -> dict[str, Any]:
    """The card of a hub's model: name, dataset, size, classes, sha256 of its files, and the published accuracies."""
    found = _find(name)
    return read_card(found) if isinstance(found, Path) else found.card


def load(name: str) -> nn.Module:
    """A hub's model: [0, 1] images to logits. UsageError for an id that does not exist, WeightsError for weights that
    cannot be had or do not fit."""
    found = _find(name)
    if isinstance(found, Path):
        return load_weights(found)
    states = [checkpoints.normalised_as(found.stats, checkpoints.read(file), file) for file in found.files]
    if len(states) > 1:
        states = [{f"members.{i}.{key}": v for i, state in enumerate(states) for key, v in state.items()}]
    layers: list[nn.Module] = [] if found.fixed is None else [Enlarge(found.fixed)]
    if found.stats is not None:
        layers.append(Normalize(found.stats))
    return nn.Sequential(*layers, found.build(states[0], found.files[0]))


def _find(name: str) -> Source | Path:
    """What an id stands for; a path when it is a weight file in mspd's own format."""
    kind, _, rest = name.partition(":")
    if kind == "timm":
        return _of_timm(name, rest)
    if kind == "torchvision":
        return _of_torchvision(name, rest)
    if kind == "hf-hub":
        return _of_hub(name)
    if name not in PUBLISHED:
        known = ", ".join(each.partition(":")[2] for each in PUBLISHED if each.startswith(kind + ":"))
        raise UsageError(f"unknown model {name!r}: known of {kind} are {known}")
    return _of_published(name, PUBLISHED[name])


def _card(name: str, files: tuple[Path, ...], classes: list[str], size: int, **more: Any) -> dict[str, Any]:
    digests = [checkpoints.checksum(file) for file in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return {
        "name": name, "size": size, "classes": classes, "training": "published", "sha256": whole,
        "bytes": sum(file.stat().st_size for file in files), **more,
    }  # fmt: skip


def _classes(count: int) -> list[str]:
    """The names of ImageNet's classes if there are as many; numbers otherwise."""
    if count == 1000:
        return list(torchvision().models.ResNet18_Weights.DEFAULT.meta["categories"])
    return [str(index) for index in range(count)]


def _build(make: Callable[[], nn.Module], renames: dict[str, str], state: State, path: Path) -> nn.Module:
    for theirs, ours in renames.items():
        state = {key.replace(theirs, ours): value for key, value in state.items()}
    network = make()
    checkpoints.load(network, state, path)
    return network


def _build_timm(architecture: str, classes: int, arguments: dict[str, Any], state: State, path: Path) -> nn.Module:
    """By timm's own loading, which also takes older names of its networks' parts."""
    overlay = {"state_dict": state, "num_classes": classes, "custom_load": False}
    try:
        network: nn.Module = timm().create_model(
            architecture, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **arguments
        )
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError, AssertionError) as error:
        raise checkpoints.misfit(path, error) from error
    return network


# ---------------------------------------------------------------- the kinds of id


def _of_published(name: str, model: Published) -> Source:
    plain = name.partition(":")[2]
    several = len(model.urls) > 1
    files = []
    for index, url in enumerate(model.urls):
        stem = f"{plain}_m{index}" if several else plain
        theirs = f"{model.zoo}/{plain}.pt_m{index}" if several else f"{model.zoo}/{plain}"  # where RobustBench puts it
        published = url.rpartition("/")[2].partition(".")[0]
        sha256 = model.sha256[index] if model.sha256 else ""
        files.append(checkpoints.obtain(name, (stem, theirs, published), url, sha256))
    classes = list(CIFAR10) if model.size == 32 else _classes(1000)
    build: Callable[[State, Path], nn.Module]
    if model.network == "timm":
        build = partial(_build_timm, model.arguments["name"], len(classes), {})
    else:
        build = partial(_build, partial(NETWORKS[model.network], **model.arguments), model.renames)
    accuracies = {"clean_acc": round(model.clean_acc / 100, 4)}
    if model.autoattack_acc is not None:
        accuracies |= {"autoattack_acc": round(model.autoattack_acc / 100, 4), "autoattack_eps": model.eps}
    described = _card(
        name, tuple(files), classes, model.size, dataset=model.dataset, architecture=model.network,
        arguments=model.arguments, **accuracies,
    )  # fmt: skip
    return Source(described, tuple(files), build, model.stats, model.size if model.fixed else None)


def _of_torchvision(name: str, rest: str) -> Source:
    models = torchvision().models
    architecture, _, tag = rest.partition(".")
    if architecture not in models.list_models(module=models):
        raise UsageError(f"unknown model {name!r}: torchvision has no classifier of this name")
    choices = models.get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        raise UsageError(f"unknown model {name!r}: torchvision's weights of it are {', '.join(choices.__members__)}")
    weights = choices[tag] if tag else choices.DEFAULT
    published = Path(weights.url).stem
    file = checkpoints.obtain(name, (published, rest), weights.url, published.rpartition("-")[2])
    transform = weights.transforms()
    size = transform.crop_size[0]
    described = _card(
        name, (file,), list(weights.meta["categories"]), size, dataset="ImageNet", architecture=architecture,
        arguments={}, clean_acc=round(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, 4),
    )  # fmt: skip
    make = partial(models.get_model, architecture, weights=None, **TRANSFORMED.get(architecture, {}))
    stats = (tuple(transform.mean), tuple(transform.std))
    fixed = size if architecture.startswith(("vit", "maxvit")) else None
    return Source(described, (file,), partial(_build, make, {}), stats, fixed)


def _of_timm(name: str, rest: str) -> Source:
    if not timm().is_model(rest):
        raise UsageError(f"unknown model {name!r}: timm has no model of this name (timm.list_models shows them)")
    config = timm().get_pretrained_cfg(rest)
    if config is None or not (config.hf_hub_id or config.url):
        raise UsageError(f"unknown model {name!r}: timm has no weights of this name; timm.list_pretrained shows them")
    if not config.num_classes:
        raise UsageError(f"{name}: no classifier, timm's weights of it tell features; choose a model with classes")
    file = checkpoints.lying(rest)
    if file is None and config.hf_hub_id:
        file = _from_hub(name, config.hf_hub_id, config.hf_hub_filename or WEIGHT_FILE, None)
    elif file is None:
        file = checkpoints.obtain(name, (rest,), config.url)
    return _timm_source(name, rest, config.to_dict(), {}, file)


def _timm_source(name: str, architecture: str, config: dict[str, Any], arguments: dict[str, Any], file: Path) -> Source:
    size, count = config["input_size"][-1], config["num_classes"]
    described = _card(
        name, (file,), _classes(count), size, dataset="ImageNet" if count == 1000 else "see timm",
        architecture=architecture, arguments=arguments,
    )  # fmt: skip
    build = partial(_build_timm, architecture, count, arguments)
    stats = (tuple(config["mean"]), tuple(config["std"]))
    return Source(described, (file,), build, stats, size if config.get("fixed_input_size") else None)


def _of_hub(name: str) -> Source | Path:
    match = HUB_ID.fullmatch(name)
    if match is None:
        raise UsageError(
            f"{name!r}: write hf-hub:OWNER/NAME@REVISION, the revision a commit's 40 hexadecimal digits (branches and "
            "tags may change)"
        )
    repository, revision = match.groups()
    path = _from_hub(name, repository, CONFIG, revision)
    config = read_json(path)
    file = _from_hub(name, repository, WEIGHT_FILE, revision)
    if "sha256" in config:
        return file  # config.json is its card, in the same folder
    architecture, pretrained = config.get("architecture"), config.get("pretrained_cfg")
    if not (isinstance(architecture, str) and isinstance(pretrained, dict) and timm().is_model(architecture)):
        raise WeightsError(f"{name}: neither in mspd's nor in timm's format; load it yourself and pass the module")
    given = config.get("model_args", {})
    described = {**pretrained, "num_classes": config.get("num_classes", pretrained.get("num_classes"))}
    wrong = next((key for key, fits in TIMM_FIELDS.items() if not fits(described.get(key))), None)
    if wrong is not None or not isinstance(given, dict):
        raise WeightsError(f"{path}: {wrong or 'model_args'} is missing or no such thing; get the model's files again")
    arguments = {key: value for key, value in given.items() if key not in CREATING}
    return _timm_source(name, architecture, described, arguments, file)


def _from_hub(name: str, repository: str, file: str, revision: str | None) -> Path:
    """A file of a repository, out of the library's cache if it is there."""
    hub = library("huggingface_hub", "'mspd[hub]'")
    try:
        path = Path(hub.hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # of many kinds, those of its HTTP client among them
        reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]
        at = "" if revision is None else f"?revision={revision}"
        raise WeightsError(
            f"{name}: {file} of https://huggingface.co/{repository}{at} cannot be had ({reason}); "
            + (f"get it by hand and put it there as {checkpoints.folder() / name.partition(':')[2]}.safetensors"
               if revision is None
               else "if it is in mspd's format, get config.json and model.safetensors by hand and pass their folder")
        ) from error  # fmt: skip
    return path
