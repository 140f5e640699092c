"""Functions from outside: by name, as `package.module:function`, or made of an attack of another library.

The other libraries are imported when their attack runs; mspd does not depend on them. Each adapter gives them what mspd
decides (the model, the images, the labels, eps) and takes images back; their global random draws follow from the
generator's seed and the images.

    attack = from_torchattacks(torchattacks.PGD, alpha=2 / 255, steps=20)
    attack = from_foolbox(foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=20))
    attack = from_art(art.attacks.evasion.ProjectedGradientDescent, eps_step=2 / 255, max_iter=20, verbose=False)
"""

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mspd.ball import check_norm, image_generators, project
from mspd.errors import UsageError
from mspd.extras import library
from mspd.guard import check_generator, eval_mode, seeded

Function = Callable[..., Tensor]


def find(kind: str, name: str, table: Mapping[str, Function]) -> Function:
    """The function called `name` in `table`, or the one at `package.module:function`; UsageError when there is none.

    `kind` ("attack", "defense", ...) is the word for it in messages.
    """
    if name in table:
        return table[name]
    if ":" not in name:
        raise UsageError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}, or write package.module:function")
    place, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(place)
    except Exception as error:  # a module can fail in any way while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{kind} {name!r}: {place!r} cannot be imported ({reason}); is it in this folder?") from error
    function = getattr(found, attribute, None)
    if not callable(function):
        what = "has no" if function is None else "does not call its"
        raise UsageError(f"{kind} {name!r}: module {place!r} {what} function {attribute!r}")
    result: Function = function
    return result


def check_signature(kind: str, name: str, function: Function, example: str) -> None:
    """The function must take what `example` shows, for instance "model, x, y, eps=, norm=, generator="; UsageError
    otherwise."""
    words = example.split(", ")
    whole = function
    try:
        while isinstance(whole, partial):
            inspect.signature(whole.func).bind_partial(*whole.args, **whole.keywords)
            whole = whole.func
        signature = inspect.signature(function)
    except TypeError as error:
        if isinstance(function, partial):
            raise UsageError(f"{kind} {name!r} cannot be called with its settings: {error}") from error
        return
    except ValueError:  # built-in functions do not tell
        return
    try:
        signature.bind(*(w for w in words if w[-1] != "="), **{w[:-1]: None for w in words if w[-1] == "="})
    except TypeError as error:
        raise UsageError(f"{kind} {name!r} cannot be called as {kind}({example}): {error}") from error


def name_of(item: Any) -> str:
    """What a function or a class is called; a partial as what it is of."""
    inner = item.func if isinstance(item, partial) else item
    return getattr(inner, "__name__", None) or type(inner).__name__


def from_torchattacks(attack: Callable[..., Any], *, norm: str = "Linf", **params: Any) -> Function:
    """An mspd attack made of a class of torchattacks, for example torchattacks.PGD (`norm` is the class's own); it is
    built as attack(model, eps=eps, **params) for each call. UsageError for one that cannot be, such as CW, which knows
    no eps."""
    _refuse_instance(attack, "torchattacks")
    check_signature("attack", name_of(attack), partial(attack, **params), "model, eps=")
    return partial(_torchattacks, attack=attack, made_for=norm, params=params)


def from_foolbox(attack: Any, *, norm: str = "Linf") -> Function:
    """An mspd attack made of an attack object of foolbox, for example foolbox.attacks.LinfPGD(steps=20) (`norm` is its
    own)."""
    if isinstance(attack, type):
        raise UsageError("foolbox: pass an attack object, for example foolbox.attacks.LinfPGD(steps=20)")
    try:
        length = attack.distance.p
    except (AttributeError, ValueError):  # some have none, or none before they are called
        length = math.nan
    own = {math.inf: "Linf", 2: "L2"}.get(length, norm)
    if own != norm:
        raise UsageError(f"{type(attack).__name__} of foolbox is made for {own}: pass norm={own!r}")
    return partial(_foolbox, attack=attack, made_for=norm)


def from_art(attack: Callable[..., Any], *, norm: str = "Linf", **params: Any) -> Function:
    """An mspd attack made of an evasion class of the Adversarial Robustness Toolbox; it is built as
    attack(classifier, **params) for each call, with `eps` and `norm` where the class takes them. What it returns is cut
    to the budget: some classes, DeepFool for one, look for the nearest misread point, however far it is."""
    _refuse_instance(attack, "ART")
    check_signature("attack", name_of(attack), partial(attack, **params), "classifier")
    return partial(_art, attack=attack, made_for=norm, params=params)


def _refuse_instance(attack: object, library: str) -> None:
    if not callable(attack):
        raise UsageError(f"{library}: pass an attack's class, not {attack!r}")
    if not isinstance(attack, type) and not inspect.isroutine(attack) and not isinstance(attack, partial):
        name = type(attack).__name__
        raise UsageError(f"this {name} of {library} is bound to one model and eps: pass the class {name} instead")


def _seed(x: Tensor, generator: torch.Generator, norm: str, made_for: str) -> int:
    """A seed for the global random state, from the generator's and the first image."""
    check_norm(made_for)
    check_generator(generator)
    if norm != made_for:
        raise UsageError(f"this attack is made for {made_for}, not for {norm}: pass norm={norm!r} if its class is")
    return image_generators(x[:1], generator)[0].initial_seed()


@contextmanager
def _foreign(model: nn.Module, seed: int, device: torch.device) -> Iterator[None]:
    """Where another library attacks: the global random state seeded, gradients on, and the model afterwards as it was,
    with the gradients that its parameters had."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        with eval_mode(model), seeded(seed, device), torch.enable_grad():
            yield
    finally:
        for parameter, grad in kept:
            parameter.grad = grad


def _torchattacks(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator,
    attack: Callable[..., Any], made_for: str, params: Mapping[str, Any],
) -> Tensor:  # fmt: skip
    with _foreign(model, _seed(x, generator, norm, made_for), x.device):
        return torch.as_tensor(attack(model, eps=eps, **params)(x, y)).detach()


def _foolbox(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator,
    attack: Any, made_for: str,
) -> Tensor:  # fmt: skip
    foolbox = library("foolbox", "foolbox")
    with _foreign(model, _seed(x, generator, norm, made_for), x.device):
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        _, clipped, _ = attack(bounded, x, y, epsilons=eps)
        return torch.as_tensor(clipped).detach()


def _art(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "Linf", generator: torch.Generator,
    attack: Callable[..., Any], made_for: str, params: Mapping[str, Any],
) -> Tensor:  # fmt: skip
    estimators = library("art.estimators.classification", "adversarial-robustness-toolbox")
    wanted = {"eps": eps, "norm": torch.inf if norm == "Linf" else 2}
    own = {key: value for key, value in wanted.items() if key in inspect.signature(attack).parameters}
    with _foreign(model, _seed(x, generator, norm, made_for), x.device):
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        classifier = estimators.PyTorchClassifier(
            model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes,
            clip_values=(0.0, 1.0), device_type="cpu" if x.device.type == "cpu" else "gpu",
        )  # fmt: skip
        made = attack(classifier, **own, **params)
        found = torch.as_tensor(made.generate(x.detach().cpu().numpy(), y.cpu().numpy())).to(x)
    return project(found, x, eps, norm)
