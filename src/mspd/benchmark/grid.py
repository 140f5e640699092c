"""What is measured: the axes of the grid, their names, and the settings that a result belongs to."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mspd.adapters import Function, check_signature, find, name_of
from mspd.attacks import ATTACKS
from mspd.benchmark.identity import function_identity, model_identity, versions
from mspd.data import ImageSet, load
from mspd.data.classes import check_classes
from mspd.defenses import DEFENSES
from mspd.errors import InputError, MspdError, UsageError
from mspd.guard import check_counts, check_eps, check_images, check_labels, check_placement, check_seed
from mspd.images import to_levels
from mspd.metrics import lpips
from mspd.models import card_of, load_model
from mspd.presets import Preset, get_preset
from mspd.protector import Protector, pick_device
from mspd.purifiers import PURIFIERS
from mspd.reversion import SURROGATES, revert, surrogate
from mspd.smoothing import prepare

#: one axis of the grid: a name, several, or functions or models by names of your own
Axis = str | Path | Callable[..., Any] | Sequence[Any] | Mapping[str, Any]

NONE, REVERT, WHITE = "none", "revert:", "revert:white"
#: the reversions by a model that may be shipped (`mspd.reversion.SURROGATES`)
SHIPPED = ("gray", "black")
#: whose labels the defences aim at
LABELS = ("classifier", "truth")


@dataclass(frozen=True, order=True)
class Cell:
    """One field of the grid, by names. Without a defence there is no backbone either: both are "none"."""

    defense: str
    backbone: str
    treatment: str
    target: str
    attack: str

    @property
    def then(self) -> str:
        """What to say after the defence of the treatment: ", then jpeg", or nothing."""
        return "" if self.treatment == NONE else f", then {self.treatment}"


@dataclass(frozen=True)
class Grid:
    """Everything loaded. `images` (n, 3, H, W) uint8 and `labels` (n,) on the CPU; `surrogates` are the backbones of
    the reversions that do not use the defence's own, `stated` the accuracies of the targets' cards, `budgets` (eps,
    norm) of each attack. `lpips` is false where its package or weights are missing."""

    images: Tensor
    labels: Tensor
    protector: Protector
    defenses: dict[str, Function]
    backbones: dict[str, nn.Module]
    treatments: dict[str, Function | str]
    surrogates: dict[str, nn.Module]
    targets: dict[str, nn.Module]
    stated: dict[str, float | None]
    attacks: dict[str, Function]
    budgets: dict[str, tuple[float, str]]
    eps_def: float
    truth: bool
    lpips: bool
    seed: int
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)

    def cells(self) -> list[Cell]:
        """The fields in the order in which they are measured; reversions only where there is a defence."""
        pairs = [(NONE, NONE), *((d, b) for d in self.defenses for b in self.backbones)]
        return [
            Cell(defense, backbone, treatment, target, attack)
            for defense, backbone in pairs
            for treatment, function in self.treatments.items()
            if not (defense == NONE and isinstance(function, str) and function != NONE)
            for target in self.targets
            for attack in self.attacks
        ]

    def reversion(self, cell: Cell) -> Function:
        """The reversion of a cell's defence, with the backbone that the defence used or with another model."""
        return partial(
            revert, defense=self.defenses[cell.defense], classifier=self.protector.classifier, eps=self.eps_def,
            backbone=self.surrogates.get(cell.treatment, self.backbones[cell.backbone]),
            label=lambda logits: self.protector.labels(logits.softmax(1)),
        )  # fmt: skip


def make_grid(
    data: str | Path | ImageSet | tuple[Tensor, Tensor], *, preset: str | Preset, defenses: Axis,
    backbones: Axis | None, targets: Axis | None, attacks: Axis, treatments: Axis, n: int | None,
    eps_def: float | None, eps_adv: float | None, norm: str, labels: str, seed: int, device: str,
) -> Grid:  # fmt: skip
    """Load and name everything that `benchmark` is called with; UsageError and InputError for what does not fit."""
    if norm == "L2" and eps_adv is None:
        raise UsageError("say how long an L2 attack may be: eps_adv, for example 0.5")
    if labels not in LABELS:
        raise UsageError(f"labels is {labels!r}: use {' or '.join(LABELS)}")
    chosen = replace(get_preset(preset), own_below=0)  # labels of the classifier alone, as published
    chosen = chosen if eps_def is None else replace(chosen, eps=eps_def)
    eps_adv = chosen.eps if eps_adv is None else eps_adv
    check_eps(eps_adv, norm)
    check_seed(seed)
    defense_functions = {
        name: _defense(name, item) for name, item in named("defense", defenses).items() if name != NONE
    }
    attack_functions = {
        name: _function("attack", name, item, ATTACKS, "model, x, y, eps=, norm=, generator=")
        for name, item in named("attack", attacks).items()
    }
    budgets = {name: _budget(name, function, eps_adv, norm) for name, function in attack_functions.items()}
    treatment_functions: dict[str, Function | str] = {
        NONE: NONE,
        **{name: _treatment(name, item, chosen.name) for name, item in named("treatment", treatments).items()},
    }
    attackers = {name: _surrogate(f.removeprefix(REVERT), chosen.name)
                 for name, f in treatment_functions.items()
                 if isinstance(f, str) and f not in (NONE, WHITE)}  # fmt: skip
    backbone_items = named("backbone", chosen.backbone if backbones is None else backbones)
    target_items = named("target", chosen.targets if targets is None else targets)
    for kind, items in (("backbone", backbone_items), ("target", target_items)):
        for name, item in items.items():
            if isinstance(item, nn.Module):
                check_placement(item, pick_device(device), f"{kind} {name}")
    protectors = {name: Protector(chosen, backbone=item, device=device) for name, item in backbone_items.items()}
    protector = next(iter(protectors.values()))
    pictures = image_set(data, chosen.size, n, protector.classes)
    classes = pictures.classes
    if (sides := tuple(pictures.images.shape[2:])) != (chosen.size, chosen.size):
        line = f"the images are {sides[0]} x {sides[1]} pixels, the models of preset {chosen.name} are made for"
        warnings.warn(f"{line} {chosen.size} x {chosen.size}: resize the images", stacklevel=3)
    check_classes(classes, protector.classes, f"classifier {chosen.classifier}")
    for name, item in target_items.items():
        if not isinstance(item, nn.Module):
            check_classes(classes, card_of(item)["classes"], f"target {name}")
    for name, item in attackers.items():  # its defence aims at the classifier's labels
        check_classes(protector.classes, card_of(item)["classes"], f"treatment {name}")
    perceptual = _has_lpips(*sides)
    settings = {
        "preset": {key: value for key, value in asdict(chosen).items() if key not in ("targets", "own_below")}
        | {"targets": list(chosen.targets)},
        "classifier": model_identity(chosen.classifier),
        "images": [hashlib.sha256(picture.numpy().tobytes() + str(int(label)).encode()).hexdigest()[:12]
                   for picture, label in zip(pictures.images, pictures.labels, strict=True)],
        "labels": labels,
        "defenses": {name: function_identity(f) for name, f in defense_functions.items()},
        "backbones": {name: model_identity(item) for name, item in backbone_items.items()},
        "treatments": {name: f if isinstance(f, str) else function_identity(f)
                       for name, f in treatment_functions.items()},
        "surrogates": {name: model_identity(item) for name, item in attackers.items()},
        "targets": {name: model_identity(item) for name, item in target_items.items()},
        "attacks": {name: function_identity(f) for name, f in attack_functions.items()},
        "eps_def": chosen.eps, "eps_adv": eps_adv, "norm": norm, "seed": seed, "lpips": perceptual,
        "device": protector.device.type, "versions": versions(),
    }  # fmt: skip
    return Grid(
        images=pictures.images, labels=pictures.labels, protector=protector, defenses=defense_functions,
        backbones={name: each.backbone for name, each in protectors.items()}, treatments=treatment_functions,
        surrogates={name: prepare(load_model(item, protector.device)) for name, item in attackers.items()},
        targets={name: item if isinstance(item, nn.Module) else load_model(item, protector.device)
                 for name, item in target_items.items()},
        stated={name: None if isinstance(item, nn.Module) else card_of(item).get("clean_acc")
                for name, item in target_items.items()},
        attacks=attack_functions, budgets=budgets, eps_def=chosen.eps, truth=labels == "truth", lpips=perceptual,
        seed=seed, settings=settings,
    )  # fmt: skip


def named(kind: str, axis: Axis) -> dict[str, Any]:
    """The entries of an axis by their names: a function's or a class's own unless the axis is a dict."""
    if isinstance(axis, Mapping):
        entries = list(axis.items())
    else:
        items = [axis] if isinstance(axis, str | Path) or callable(axis) else list(axis)
        entries = [(str(item) if isinstance(item, str | Path) else name_of(item), item) for item in items]
    if not entries:
        raise UsageError(f"no {kind} given: name at least one")
    odd = next((name for name, _ in entries if not isinstance(name, str)), None)
    if odd is not None:
        raise UsageError(f"an entry of the {kind} axis is called {odd!r}: its name must be a string")
    names = [name for name, _ in entries]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        remedy = "name it once, or in Python pass a dict with names of your own"
        raise UsageError(f"two entries of the {kind} axis are called {doubled!r}: {remedy}")
    if any(name == NONE and item != NONE for name, item in entries):
        raise UsageError(f"an entry of the {kind} axis is called {NONE!r}, which stands for none: give it another name")
    return dict(entries)


def _function(kind: str, name: str, item: Any, table: Mapping[str, Function], example: str) -> Function:
    function = find(kind, item, table) if isinstance(item, str) else item
    if not callable(function):
        raise UsageError(f"{kind} {name!r} is a {type(item).__name__}: pass a name or a function")
    check_signature(kind, name, function, example)
    result: Function = function
    return result


def _defense(name: str, item: Any) -> Function:
    """A defence; all of them have one budget."""
    function = _function("defense", name, item, DEFENSES, "model, x, y, eps=, norm=, generator=")
    own = function.keywords if isinstance(function, partial) else {}
    for given in {"eps", "norm"} & own.keys():
        line = f"defense {name!r} has {given}={own[given]!r}, but all defences of a call have one Linf budget"
        raise UsageError(f"{line}: leave it out and set eps_def")
    return function


def _budget(name: str, attack: Function, eps: float, norm: str) -> tuple[float, str]:
    """The eps and the norm of an attack: its own where functools.partial gives them, else the grid's."""
    own = attack.keywords if isinstance(attack, partial) else {}
    if own.get("norm", norm) != norm and "eps" not in own:
        raise UsageError(f"attack {name!r} is in {own['norm']}, the others in {norm}: give it an eps of its own")
    budget = own.get("eps", eps), own.get("norm", norm)
    check_eps(*budget)
    return budget


def _has_lpips(height: int, width: int) -> bool:
    blank = torch.zeros(1, 3, height, width)
    try:
        lpips(blank, blank)
    except MspdError:
        return False
    return True


def _treatment(name: str, item: Any, preset: str) -> Function | str:
    """A purifier, or "none", or "revert:" with the word or the model that says which backbone the attacker has."""
    if item == REVERT:
        raise UsageError("treatment 'revert:' lacks what the attacker has: revert:white, gray, black or a model")
    if isinstance(item, str) and (item == NONE or item.startswith(REVERT)):
        return item
    if isinstance(item, str) and ":" not in item and item not in PURIFIERS:
        shipped = [REVERT + word for word in SHIPPED if SURROGATES.get(preset, {}).get(word)]
        known = ", ".join((NONE, *PURIFIERS, WHITE, *shipped))
        raise UsageError(f"unknown treatment {item!r}: choose one of {known}, revert:MODEL or package.module:function")
    return _function("treatment", name, item, PURIFIERS, "x, generator=")


def _surrogate(setting: str, preset: str) -> str:
    """The model of a reversion that is not white: the shipped one for "gray" and "black", or the one named."""
    return surrogate(preset, setting) if setting in SHIPPED else setting


def image_set(
    data: str | Path | ImageSet | tuple[Tensor, Tensor], size: int, n: int | None, like: Sequence[str]
) -> ImageSet:
    """The first n of the images that `benchmark` is called with; the classes are () where they are not known."""
    if n is not None:
        check_counts(n=n)
    if isinstance(data, str | Path):
        data = load(data, "test", size=size, limit=n, like=like)
    if isinstance(data, ImageSet):
        if data.images.dtype != torch.uint8 or data.images.ndim != 4 or data.images.shape[1] != 3:
            found = f"{data.images.dtype} of shape {tuple(data.images.shape)}"
            raise InputError(f"the images of the ImageSet are {found}: it holds uint8 (N, 3, H, W)")
        check_labels(data.labels, len(data.images), soft=False)
        return ImageSet(data.images[:n], data.labels[:n], data.classes)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise UsageError(f"data is a {type(data).__name__}: pass a folder, an ImageSet or (images, labels)")
    x, y = data
    if isinstance(x, Tensor):
        check_labels(y, len(x), soft=False)
        x, y = x[:n].cpu(), y[:n].cpu()
    check_images(x)
    return ImageSet(to_levels(x).expand(-1, 3, -1, -1), y, ())
