"""What a stored number belongs to: versions, and checksums of models and of functions with all that they lead to."""

import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mspd.benchmark.purified import Purified
from mspd.models import card_of, list_models
from mspd.models.files import checksum


def versions() -> str:
    return f"mspd {version('mspd')}, torch {torch.__version__}"


def model_identity(item: str | Path | nn.Module) -> str:
    """The checksum of a model's weights: the card's, or of a module's own tensors."""
    if isinstance(item, Purified):
        return f"{model_identity(item.target)} behind {function_identity(item.purifier)}"
    if not isinstance(item, nn.Module):
        return str(card_of(item)["sha256"])
    settings = {
        f"{name}.{key}": _value(value)
        for name, module in item.named_modules()
        for key, value in sorted(_settings(vars(module)).items())
        if key != "training"
    }
    return checksum(item, f"{type(item).__name__} {item!r} {settings}")


def function_identity(function: Any) -> str:
    """A function by its place, its settings, and checksums of its source, of the mspd modules that its module leads to
    and of the shipped weights that the module names in WEIGHTS: what must be the same for a run to go on."""
    if isinstance(function, partial):
        settings = {**{str(i): a for i, a in enumerate(function.args)}, **function.keywords}
        inside = ", ".join(f"{key}={_value(value)}" for key, value in sorted(settings.items()))
        return f"{function_identity(function.func)}({inside})"
    owner = function if hasattr(function, "__qualname__") else type(function)
    try:
        text = inspect.getsource(owner) + "".join(inspect.getsource(module) for module in _reached(owner.__module__))
        source = hashlib.sha256(text.encode()).hexdigest()[:12]
    except (OSError, TypeError):
        source = "no source"
    holder = function.__self__ if inspect.ismethod(function) else None if owner is function else function
    own = "" if holder is None else f" {_value(holder)} {_value(_settings(getattr(holder, '__dict__', {})))}"
    if getattr(function, "__closure__", None):
        own += f" {_value(_settings(inspect.getclosurevars(function).nonlocals))}"
    weights = getattr(sys.modules.get(owner.__module__), "WEIGHTS", None)
    own += f" {_value(weights)}" if weights else ""
    return f"{owner.__module__}:{owner.__qualname__} {source}{own}"


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are set once: lists and the like may be what a function keeps its notes in."""
    fixed = (bool, int, float, str, tuple, Tensor, nn.Module, partial)
    return {key: v for key, v in values.items() if key[0] != "_" and (isinstance(v, fixed) or inspect.isroutine(v))}


def _reached(start: str) -> list[ModuleType]:
    """The module called so and those it imports names from, all of mspd, and theirs; in the order of their names."""
    found, ahead = set[str](), [start]
    while ahead:
        name = ahead.pop()
        if name in found or not name.startswith("mspd."):
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            ahead.append(value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) or "")
    return [sys.modules[name] for name in sorted(found)]


def _value(value: Any) -> str:
    """A setting as text that is the same in every process."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, nn.Module):
        return model_identity(value)
    if isinstance(value, partial) or inspect.isroutine(value):
        return function_identity(value)
    if isinstance(value, str) and value in list_models():
        return f"{value!r} {model_identity(value)[:12]}"
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().numpy().tobytes()).hexdigest()
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
