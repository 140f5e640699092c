"""The contract at the door: images, labels, budgets and models are checked here, each failure one clear line."""

import math
import random
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn

from mspd.ball import check_norm, length_of
from mspd.errors import InputError, MspdError, UsageError, first_line, memory_errors
from mspd.objectives import cross_entropy


def check_images(x: Tensor, name: str = "x") -> None:
    """x must be a float tensor (B, C, H, W) with finite values in [0, 1]; InputError otherwise. 1e-6 is granted to the
    rounding of a resize."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is a {type(x).__name__}: pass a float tensor (B, C, H, W) in [0, 1]")
    if x.ndim != 4:
        raise InputError(f"{name} has shape {tuple(x.shape)}: pass images as (B, C, H, W), one image as x[None]")
    if not x.is_floating_point():
        raise InputError(f"{name} is {x.dtype}: pass floats in [0, 1], for 8-bit images x.float() / 255")
    if x.shape[1] not in (1, 3):
        raise InputError(f"{name} has {x.shape[1]} channels: pass 3 (RGB) or 1 (grey), as (B, C, H, W)")
    if x.numel() == 0:
        raise InputError(f"{name} is empty: pass at least one image")
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{name} contains NaN or infinite values")
    low, high = float(x.detach().min()), float(x.detach().max())
    if low < -1e-6 or high > 1 + 1e-6:
        hint = "divide by 255" if low >= 0 and high <= 255 else "undo the normalisation, mspd's models do their own"
        raise InputError(f"{name} ranges over [{low:.3g}, {high:.3g}], not [0, 1]: {hint}")


def check_arguments(
    who: str, x: Tensor, y: Tensor, eps: float, norm: str, generator: torch.Generator, *, soft: bool = True,
    gradients: bool = True, **counts: int,
) -> None:  # fmt: skip
    """What all attacks and all defences (`who`) are called with: float32 images, labels, a budget, a generator, at
    least one of each of `counts`, and where they take `gradients` a place for these; UsageError or InputError
    otherwise."""
    check_counts(**counts)
    check_images(x)
    if x.dtype != torch.float32:
        raise InputError(f"x is {x.dtype}: {who} compute in float32, pass x.float()")
    check_labels(y, len(x), soft=soft)
    check_eps(eps, norm)
    longest = math.sqrt(x[0].numel())
    if norm == "L2" and eps >= longest:
        raise UsageError(
            f"eps is {eps:g}, but no move in [0, 1] is longer than {longest:.1f}: did you mean {eps:g}/255?"
        )
    check_generator(generator)
    if x.requires_grad:
        raise InputError(f"x requires a gradient, which {who} do not pass on: pass x.detach()")
    if gradients and torch.is_inference_mode_enabled():
        raise UsageError(f"inside torch.inference_mode() there are no gradients, which {who} follow: call it outside")


def check_labels(y: Tensor, batch: int, *, soft: bool = True) -> None:
    """y must be int64 labels (B,) or, where `soft` ones fit, float32 labels (B, K): rows of probabilities."""
    wanted = f"integer labels ({batch},) as int64" + (
        f" or probabilities ({batch}, classes) as float32" if soft else ""
    )
    if not isinstance(y, Tensor):
        raise InputError(f"y is a {type(y).__name__}: pass {wanted}")
    if y.dtype == torch.int64 and y.shape == (batch,):
        return
    if soft and y.dtype == torch.float32 and y.ndim == 2 and len(y) == batch:
        whole = y.detach()
        if not bool(torch.isfinite(whole).all() and (whole >= 0).all() and ((whole.sum(1) - 1).abs() < 1e-3).all()):
            raise InputError(
                "y has rows that are no probabilities: pass what softmax gives, 0 or more, with a sum of 1"
            )
        return
    raise InputError(f"y is {y.dtype} of shape {tuple(y.shape)}: pass {wanted}")


def check_eps(eps: float, norm: str = "Linf") -> None:
    """eps must be a positive length in [0, 1] units; UsageError with the likely meaning otherwise."""
    check_norm(norm)
    if not isinstance(eps, Real):
        raise UsageError(f"eps is {eps!r}: pass a number, for example 8/255")
    if not 0 < eps < math.inf:
        raise UsageError(f"eps is {eps:g}: the budget must be positive and finite, for example 8/255")
    if norm == "Linf" and eps >= 1:
        grey = eps == round(eps) and eps < 255
        meant = f"did you mean {eps:g}/255?" if grey else "take a share of it, for example 8/255"
        raise UsageError(f"eps is {eps:g}, but images are in [0, 1]: {meant}")


def check_counts(least: int = 1, **counts: int) -> None:
    """Each must be a whole number, `least` or more; UsageError otherwise."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < least:
            raise UsageError(f"{name} is {count!r}: it must be a whole number, at least {least}")


def check_positive(**numbers: float) -> None:
    """Each must be a positive, finite number; UsageError otherwise."""
    for name, value in numbers.items():
        if not isinstance(value, Real) or not 0 < value < math.inf:
            raise UsageError(f"{name} is {value!r}: it must be positive and finite")


def check_nonnegative(**numbers: float) -> None:
    """Each must be zero or a positive, finite number; UsageError otherwise."""
    for name, value in numbers.items():
        if not isinstance(value, Real) or not 0 <= value < math.inf:
            raise UsageError(f"{name} is {value!r}: it must be finite and not negative")


def check_functions(**functions: object) -> None:
    """Each must be callable; UsageError for a name or anything else."""
    for name, function in functions.items():
        if not callable(function):
            raise UsageError(f"{name} is {function!r}: pass a function")


def check_generator(generator: torch.Generator) -> None:
    """UsageError for a seed or anything else in place of a generator."""
    if not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise UsageError(f"generator is a {kind}: pass a torch.Generator, as torch.Generator().manual_seed(0)")


def check_seed(seed: int, most: int = 2**63 - 1) -> None:
    """A seed must be an int from 0 to `most`; UsageError otherwise."""
    if type(seed) is not int or not 0 <= seed <= most:
        raise UsageError(f"seed is {seed!r}: it must be an int from 0 to {most}")


def step_or(step_size: float | None, default: float) -> float:
    """`step_size`, or the default without one; UsageError where it is not positive and finite: a step of 0 does
    nothing, and a negative one turns an attack into a defence and the other way round."""
    if step_size is None:
        return default
    check_positive(step_size=step_size)
    return step_size


def number(text: str) -> float:
    """ "8/255" or "0.03" as a float; UsageError otherwise."""
    try:
        above, _, below = text.partition("/")
        return float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"eps is {text!r}: write a number or a fraction, for example 8/255") from error


def check_output(logits: object, name: str = "the model") -> None:
    """What a model returns must be a tensor."""
    if not isinstance(logits, Tensor):
        raise InputError(f"{name} returns a {type(logits).__name__}: it must return logits (B, classes)")


def answer(model: nn.Module, x: Tensor, name: str = "the model") -> Tensor:
    """What a model returns for images x (B, C, H, W): for a copy, since it may work in place; those of one channel that
    it does not take so have three equal ones. InputError where it fails on them, or returns no tensor."""
    try:
        with memory_errors():
            logits = model(x.clone())
    except (MspdError, MemoryError):
        raise
    except Exception as error:  # a model can fail in any way
        if x.shape[1] == 1:
            return answer(model, x.expand(-1, 3, -1, -1), name)
        given = f"images {tuple(x.shape)}, {x.dtype} on {x.device}"
        other = any(p.is_floating_point() and p.dtype != x.dtype for p in model.parameters())
        remedy = "pass it as model.float()" if other else "give it its size, type and device"
        raise InputError(f"{name} does not take {given} ({first_line(error)}): {remedy}") from error
    check_output(logits, name)
    return torch.as_tensor(logits)


def check_finite(logits: Tensor, name: str = "the model") -> None:
    """No verdict can be read from NaN: InputError."""
    if not bool(torch.isfinite(logits).all()):
        raise InputError(f"{name} returns NaN or infinite logits")


def check_logits(logits: Tensor, y: Tensor, name: str = "the model") -> None:
    """What a model returns must be logits (B, K) that fit the labels."""
    check_output(logits, name)
    if logits.ndim != 2 or len(logits) != len(y):
        raise InputError(f"{name} returns shape {tuple(logits.shape)}: it must return logits ({len(y)}, classes)")
    check_finite(logits, name)
    probabilities = bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all())
    if logits.shape[1] > 1 and probabilities:
        raise InputError(f"{name} returns probabilities: pass it without its softmax, so that it returns logits")
    classes = logits.shape[1]
    if y.ndim == 2 and y.shape[1] != classes:
        raise InputError(f"{name} has {classes} classes, but the soft labels have {y.shape[1]}")
    if y.ndim == 1 and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise InputError(
            f"label {int(y.max()) if int(y.min()) >= 0 else int(y.min())} is outside {name}'s {classes} classes"
        )


def gradient_of(loss: Tensor, z: Tensor, *, check: bool = True) -> Tensor:
    """The gradient of the scalar `loss` with respect to z. InputError where there is none, as behind a detach() or
    numpy, and where it is not finite: the sign of NaN is 0, and a step along it would do nothing without a word.
    `check` looks at its values, which a graph that is being traced does not have yet."""
    gradient = torch.autograd.grad(loss, z, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise InputError(
            "the model gives no gradient (its logits are detached from the images, or do not depend on them): attack "
            "it with square or rays"
        )
    if check and not bool(torch.isfinite(gradient).all()):
        raise InputError("the model's gradient is NaN or infinite: look for square roots or divisions that reach 0")
    return gradient


def check_module(model: nn.Module, name: str = "the model") -> None:
    """InputError for a name, or anything else, in place of a model."""
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} is a {type(model).__name__}: pass a torch.nn.Module, as mspd.load_model gives it")


@contextmanager
def no_autocast() -> Iterator[None]:
    """Off inside, where the caller has switched it on: small gradients would have the signs of its rounding errors."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode as it was afterwards; InputError for what is no module. Models
    that torch.export or torch.jit.freeze has made keep the mode that they were made in."""
    check_module(model)
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        try:
            model.eval()
        except NotImplementedError:  # of an exported part, which leaves those behind it as they are
            for module, _ in modes:
                module.training = False
        with no_autocast():
            yield
    finally:
        for module, training in modes:
            module.training = training


def at_rest(function: object) -> AbstractContextManager[None]:
    """`eval_mode` where the function is a module, which others than models can be: a denoiser, for one."""
    return eval_mode(function) if isinstance(function, nn.Module) else no_autocast()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """The global random state of torch, numpy and Python seeded inside, as it was afterwards: for foreign code that
    draws from it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), _own_device_seeded(seed, device):
        try:
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _own_device_seeded(seed: int, device: torch.device | None) -> Iterator[None]:
    """The same for the accelerator that is `device`; others are left alone."""
    if device is None or device.type not in ("cuda", "mps"):
        yield
        return
    chosen = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    module = torch.cuda if device.type == "cuda" else torch.mps
    with chosen:
        state = module.get_rng_state()
        module.manual_seed(seed)
    try:
        yield
    finally:
        with chosen:
            module.set_rng_state(state)


def check_placement(model: nn.Module, device: torch.device, name: str) -> None:
    """All of a model must be float32 and on `device`, where the images are; InputError otherwise."""
    check_module(model, name)
    tensors = [*model.parameters(), *model.buffers()]
    other = next((t.device for t in tensors if t.device.type != device.type), None)
    if other is not None:
        raise InputError(f"{name} is on {other}, the images are on {device}: move one of them with .to(device)")
    dtype = next((t.dtype for t in tensors if t.is_floating_point() and t.dtype != torch.float32), None)
    if dtype is not None:
        raise InputError(f"{name} is {dtype}: verdicts are float32, pass it as model.float()")


def check_mode(model: nn.Module, name: str) -> None:
    """A warning where a model, or a part of it, is in train mode, unless torch.export has made a part: then nobody can
    change it."""
    exported = any("train" in vars(module) for module in model.modules())
    if not exported and any(getattr(module, "training", False) for module in model.modules()):
        warnings.warn(f"{name} is in train mode: it is measured in evaluation mode; call .eval() on it", stacklevel=2)


def check_model(model: nn.Module, x: Tensor, y: Tensor, name: str = "the model") -> None:
    """What a measurement needs of a model, tried on a few images x (B, C, H, W) with labels y: finite logits that fit
    the labels, else InputError; a warning for random outputs, for outputs that depend on the other images of the batch,
    and for gradients that are zero."""
    with eval_mode(model), seeded(0, x.device), torch.enable_grad():
        z = x.detach().clone().requires_grad_(True)
        logits, again, part = (answer(model, part, name) for part in (z, z, z[: (len(z) + 1) // 2]))
        check_logits(logits.detach(), y, name)
        check_logits(part.detach(), y[: (len(z) + 1) // 2], name)
        if not torch.allclose(logits, again, rtol=1e-4, atol=1e-4):
            message = f"{name} answers the same images differently when asked twice: its accuracy depends on the seed"
            warnings.warn(f"{message}; attack it with autoattack version='rand' or bpda_eot", stacklevel=2)
        elif not torch.allclose(part, logits[: len(part)], rtol=1e-3, atol=1e-3):
            message = f"{name} answers an image differently in another batch: verdicts depend on how images are grouped"
            warnings.warn(f"{message}; does it normalise with the batch's own statistics?", stacklevel=2)
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(cross_entropy(logits.float(), y).sum(), z, allow_unused=True)
    flat = torch.ones(len(x)) if gradient is None else ~(gradient.flatten(1).abs().amax(1) > 0)
    if int(flat.sum()):
        where = f"{int(flat.sum())} of {len(x)} images"
        message = f"{name} has no gradient at {where}: gradient attacks see nothing there"
        warnings.warn(f"{message}; attack it with square or rays", stacklevel=2)


def check_accuracy(
    accuracy: float, interval: tuple[float, float], classes: int, name: str, stated: float | None = None
) -> None:
    """The accuracy measured before any attack, with an interval that almost surely holds the true one, must not lie
    below chance (InputError); a warning when it is far from the accuracy that the model's card states."""
    if interval[1] < 1 / classes:
        raise InputError(
            f"{name} reads {accuracy:.1%} of the images right, below chance for {classes} classes: the labels are "
            "wrong, or in another order than the model's classes"
        )
    if stated is not None and not interval[0] - 0.02 <= stated <= interval[1] + 0.02:
        warnings.warn(
            f"{name} reads {accuracy:.1%} of the images right, its card says {stated:.1%}: are the images normalised, "
            "or of another data set?",
            stacklevel=2,
        )


def check_result(z: Tensor, x: Tensor, name: str, *, eps: float | None = None, norm: str = "Linf") -> None:
    """What an attack, a defence or a purifier made of x must have x's shape, type and device, be finite, in [0, 1] and,
    with `eps`, in the ball around x; InputError otherwise. 1e-6 is granted to rounding (L2: also 1e-5 of eps)."""
    if not isinstance(z, Tensor):
        raise InputError(f"{name} returns a {type(z).__name__}: it must return a tensor like x")
    if z.shape != x.shape:
        raise InputError(f"{name} returns shape {tuple(z.shape)}: it must keep x's {tuple(x.shape)}")
    if z.dtype != x.dtype:
        raise InputError(f"{name} returns {z.dtype}: it must keep x's {x.dtype}")
    if z.device != x.device:
        raise InputError(f"{name} returns a tensor on {z.device}: it must stay on {x.device}")
    if not bool(torch.isfinite(z).all()):
        raise InputError(f"{name} returns NaN or infinite values")
    low, high = float(z.min()), float(z.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise InputError(f"{name} returns values in [{low:.3g}, {high:.3g}]: clamp them to [0, 1]")
    if eps is None:
        return
    moved = length_of(z - x, norm)
    most = float(moved.max())
    if most > eps * (1 if norm == "Linf" else 1 + 1e-5) + 1e-6:
        at = int(moved.argmax())
        sizes = (f"{most * 255:.4g}/255", f"{eps * 255:.4g}/255") if norm == "Linf" else (f"{most:.4g}", f"{eps:.4g}")
        raise InputError(
            f"{name} leaves the {norm} ball: image {at} of the piece moves by {sizes[0]}, eps is {sizes[1]}; project it"
        )
