"""What a stored number belongs to: versions, and checksums of models and of functions with all that they lead to."""

import dis
import hashlib
import inspect
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mspd.benchmark.purified import Purified
from mspd.models import card_of, list_models
from mspd.models.files import checksum

#: where Python and the libraries lie
LIBRARIES = tuple(
    os.path.realpath(path)
    for path in (*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
                 *site.getsitepackages(), site.getusersitepackages())
)  # fmt: skip
#: settings and constants that are set once; lists and the like may be what a function keeps its notes in
FIXED = (bool, int, float, str, tuple, frozenset, np.ndarray, Tensor, nn.Module, partial)


def versions() -> str:
    return f"mspd {version('mspd')}, torch {torch.__version__}"


def model_identity(item: str | Path | nn.Module) -> str:
    """The checksum of a model's weights: the card's, or of a module's own tensors, settings and code of its user's."""
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
    seen = set[int]()
    code = "".join(part for module in item.modules() for part in _code(type(module), seen))
    return checksum(item, f"{type(item).__name__} {item!r} {settings}{code}")


def function_identity(function: Any) -> str:
    """A function by its place, its settings, and checksums of its source and of what it leads to: in mspd the modules
    that its own imports names from and the shipped weights that it names in WEIGHTS, elsewhere the code and constants
    of its user's that it names. That must be the same for a run to go on."""
    if isinstance(function, partial):
        settings = {**{str(i): a for i, a in enumerate(function.args)}, **function.keywords}
        inside = ", ".join(f"{key}={_value(value)}" for key, value in sorted(settings.items()))
        return f"{function_identity(function.func)}({inside})"
    owner = function if hasattr(function, "__qualname__") else type(function)
    try:
        own_code = "".join(_code(owner, set()))
        text = own_code or "".join(map(inspect.getsource, (owner, *_reached(owner.__module__))))
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
    """Those that are set once."""
    return {key: v for key, v in values.items() if key[0] != "_" and (isinstance(v, FIXED) or inspect.isroutine(v))}


def _own(module: str) -> bool:
    """Whether the code of a module is its user's: not mspd's, no library's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    outside = module == "__main__" if file is None else not os.path.realpath(file).startswith(LIBRARIES)
    return outside and module.partition(".")[0] != "mspd"


def _code(thing: Any, seen: set[int]) -> Iterator[str]:
    """The source of a user's function, class or module, and of what of the user's code and constants it names, and of
    what that names; what is among `seen` only once."""
    thing = inspect.unwrap(thing.__func__ if inspect.ismethod(thing) else thing)
    module = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None) or ""
    if id(thing) in seen or not _own(module):
        return
    seen.add(id(thing))
    functions = _functions(thing)
    try:
        yield inspect.getsource(thing)
    except (OSError, TypeError):  # typed in, not read from a file
        yield repr([(f.__code__.co_code.hex(), [c for c in f.__code__.co_consts if not isinstance(c, CodeType)])
                    for f in functions])  # fmt: skip
    for base in getattr(thing, "__bases__", ()):
        yield from _code(base, seen)
    for function in functions:
        for name in sorted(_read(function.__code__)):
            value = function.__globals__.get(name)
            if inspect.isroutine(value) or inspect.isclass(value) or inspect.ismodule(value):
                yield from _code(value, seen)
            elif isinstance(value, FIXED):
                yield f"{name} = {_value(value)}"


def _functions(thing: Any) -> list[FunctionType]:
    """A function, or those of a class."""
    members = vars(thing).values() if inspect.isclass(thing) else (thing,)
    parts = (part for m in members for part in (m, *(getattr(m, name, None) for name in ("__func__", "fget"))))
    return [part for part in map(_unwrapped, parts) if isinstance(part, FunctionType)]


def _unwrapped(part: Any) -> Any:
    return inspect.unwrap(part) if callable(part) else part


def _read(code: CodeType) -> set[str]:
    """The global names that a function reads, but for those that it also writes: these are its notes."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    steps = list(dis.get_instructions(code))
    read = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    written = {step.argval for step in steps if step.opname == "STORE_GLOBAL"}
    return read.union(*map(_read, inner)) - written


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
        return "{" + ", ".join(f"{key}: {_value(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, nn.Module):
        return model_identity(value)
    if isinstance(value, partial) or inspect.isroutine(value):
        return function_identity(value)
    if isinstance(value, str) and value in list_models():
        return f"{value!r} {model_identity(value)[:12]}"
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
