"""What a stored number belongs to: versions, and checksums of models and of functions with all that they lead to."""

import ast
import dis
import hashlib
import importlib.util
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
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mspd.benchmark.purified import Purified
from mspd.models import card_of, list_models
from mspd.models.files import checksum

#: where Python and the libraries lie
LIBRARIES = tuple(
    os.path.normcase(os.path.realpath(path))
    for path in (*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
                 *site.getsitepackages(), site.getusersitepackages())
)  # fmt: skip
#: what every module has
MODULE = frozenset(vars(nn.Module()))
#: what is being identified: an object may lead to itself
_OPEN: set[int] = set()


def versions() -> str:
    return f"mspd {version('mspd')}, torch {torch.__version__}"


def model_identity(item: str | Path | nn.Module) -> str:
    """The checksum of a model's weights: the card's, or of a module's own tensors, settings and code of its user's."""
    if isinstance(item, Purified):
        return f"{model_identity(item.target)} behind {function_identity(item.purifier)}"
    if not isinstance(item, nn.Module):
        return str(card_of(item)["sha256"])
    item = getattr(item, "_orig_mod", item)  # what torch.compile was given
    settings = {
        f"{name}.{key}": _value(value)
        for name, module in item.named_modules()
        for key, value in sorted(_settings(vars(module)).items())
        if key not in MODULE
    }
    kinds = {type(module) for module in item.modules()}
    places = {kind: _own_file(kind.__module__) for kind in kinds}
    own = {place or kind: kind for kind, place in places.items() if place or kind.__module__ == "__main__"}
    code = sorted({_source(kind) for kind in own.values()})  # once a file
    return checksum(item, f"{type(item).__name__} {item!r} {settings}{''.join(code)}")


def function_identity(function: Any) -> str:
    """A function by its place, its settings, and checksums of its source and of what it leads to: in mspd the modules
    that its own imports names from and the shipped weights that it names in WEIGHTS, elsewhere its user's module and
    those of the user's that this imports. That must be the same for a run to go on. Lists in it do not count."""
    if isinstance(function, partial):
        settings = {**{str(i): a for i, a in enumerate(function.args)}, **function.keywords}
        inside = ", ".join(f"{key}={_value(value)}" for key, value in sorted(settings.items()))
        return f"{function_identity(function.func)}({inside})"
    owner = function if hasattr(function, "__qualname__") else type(function)
    try:
        source = hashlib.sha256(_source(owner).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        source = "no source"
    holder = function.__self__ if inspect.ismethod(function) else None if owner is function else function
    own = "" if holder is None else f" {_value(holder)}"
    if getattr(function, "__closure__", None):
        own += f" {_value(_settings(inspect.getclosurevars(function).nonlocals))}"
    weights = getattr(sys.modules.get(owner.__module__), "WEIGHTS", None)
    own += f" {_value(weights)}" if weights else ""
    return f"{owner.__module__}:{owner.__qualname__} {source}{own}"


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a function or an object holds, without lists and sets: it may keep its notes in them."""
    return {key: value for key, value in values.items() if not isinstance(value, list | set)}


def _source(owner: Any) -> str:
    """The source of a function or class: with that of the modules of mspd that its own leads to, or of the user's. Of
    the script that runs or a notebook also what is in no text that lasts: what is compiled and what it reads."""
    module = owner.__module__ or ""
    file = _own_file(module)
    own = "" if file is None else "".join(_files(module, file).values())
    if module == "__main__":
        return own + _running(owner)
    return own or "".join(map(inspect.getsource, (owner, *_reached(module))))


def _own_file(module: str) -> Path | None:
    """The file of a module that is its user's: not mspd's, no library's. What is not imported yet is not imported."""
    parent, _, name = module.rpartition(".")
    places: list[Any] = [getattr(sys.modules.get(module), "__file__", None)]
    if module not in sys.modules and parent:
        above = _own_file(parent)
        if above is not None and above.name == "__init__.py":
            places = [above.with_name(f"{name}.py"), above.parent / name / "__init__.py"]
    elif module not in sys.modules:
        places = [getattr(importlib.util.find_spec(module), "origin", None)] if module else []
    files = [Path(place) for place in places if str(place).endswith(".py") and os.path.exists(place)]
    own = (
        files
        and module.partition(".")[0] != "mspd"
        and not os.path.normcase(os.path.realpath(files[0])).startswith(LIBRARIES)
    )
    return files[0] if own else None


def _files(start: str, file: Path) -> dict[str, str]:
    """The text of the user's module and of those of the user's that it imports anywhere in it, by their names."""
    found, ahead = dict[str, str](), {start: file}
    while ahead:
        name, path = ahead.popitem()
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            tree = ast.parse(text)
        except SyntaxError:  # edited since it was imported
            tree = ast.Module([], [])
        found[name] = _lasting(text, tree) if name == "__main__" else text
        package = getattr(sys.modules.get(name), "__package__", None) or name.rpartition(".")[0]
        for other in _imported(tree, package):
            if other not in found and (place := _own_file(other)) is not None:
                ahead[other] = place
    return dict(sorted(found.items()))


def _lasting(text: str, tree: ast.Module) -> str:
    """Of a script what it defines, not what it does: functions, classes, imports, and names of what is not called
    for."""
    lines, kept = text.splitlines(), []
    for node in tree.body:
        called = any(isinstance(part, ast.Call) for part in ast.walk(node))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Assign | ast.AnnAssign) and not called
        ):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            kept += lines[first - 1 : node.end_lineno]
    return "\n".join(kept)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The modules that a module may import, wherever in it, and their packages; of `from a import b` also a.b, which
    may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _running(owner: Any) -> str:
    """What the script that runs or a notebook has of a function, class or class member: the code, its defaults and the
    globals that it reads, but for those that it sets, and for lists, sets and dicts, in which it may keep its notes."""
    if isinstance(owner, staticmethod | classmethod):
        return _running(owner.__func__)
    if isinstance(owner, property):
        return "".join(_running(part) for part in (owner.fget, owner.fset) if part is not None)
    if inspect.isclass(owner):
        kinds = [kind for kind in owner.__mro__ if kind.__module__ == "__main__"]
        members = [(name, value) for kind in kinds for name, value in vars(kind).items()]
        plain = [v for name, v in members if inspect.isfunction(v) or not name.startswith("__")]
        return "".join(_value(v) if inspect.isclass(v) else _running(v) for v in plain)
    if isinstance(owner, Mapping | list | set):
        return ""
    if not inspect.isfunction(owner):
        return _value(owner)
    codes = [owner.__code__]
    for code in codes:
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    names = {name for code in codes for name in code.co_names}
    names -= {step.argval for code in codes for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}
    values = [owner.__globals__[name] for name in sorted(names & owner.__globals__.keys())]
    read = [_value(v) if inspect.isfunction(v) or inspect.isclass(v) else _running(v) for v in values]
    return f"{_compiled(owner.__code__)} {_value(owner.__defaults__)} {_value(owner.__kwdefaults__)} {read}"


def _compiled(code: CodeType) -> str:
    inner = [_compiled(c) if isinstance(c, CodeType) else _value(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"


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
    """A setting as text that is the same in every process: with all that it holds, by checksum where that is long."""
    if id(value) in _OPEN:
        return f"the {type(value).__qualname__} around"
    _OPEN.add(id(value))
    try:
        text = _told(value)
    finally:
        _OPEN.discard(id(value))
    return text if len(text) <= 1000 else f"{text[:100]}... {hashlib.sha256(text.encode()).hexdigest()}"


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, nn.Module):
        return model_identity(value)
    if isinstance(value, ModuleType):
        file = _own_file(value.__name__)
        return value.__name__ + ("" if file is None else "".join(_files(value.__name__, file).values()))
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_value, value))) + "}"
    if isinstance(value, partial) or inspect.isroutine(value) or inspect.isclass(value):
        return function_identity(value)
    if isinstance(value, str) and value in list_models():
        return f"{value!r} {model_identity(value)[:12]}"
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    plain = getattr(type(value), "__repr__", None) is object.__repr__
    held = _settings(getattr(value, "__dict__", {})) if plain else {}
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)) + (f" {_value(held)}" if held else "")
