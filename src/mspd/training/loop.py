"""The training loop: reads top to bottom, resumes at every epoch, writes weights and a card.

Each epoch draws from its own generator (seed and epoch number), so a run that was killed and resumed sees the same
pictures in the same order as an unbroken one.
"""

import hashlib
import io
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from mspd import atomic
from mspd.adapters import find
from mspd.data import ImageSet, load
from mspd.data.classes import check_classes, difference, known_difference
from mspd.errors import MspdError, UsageError, WeightsError
from mspd.guard import check_counts, check_seed, seeded
from mspd.models import build, card_of, load_model, save_model
from mspd.models.files import card_beside, check_suffix, write_atomically
from mspd.models.hub import is_id
from mspd.presets import PRESETS
from mspd.protector import pick_device
from mspd.smoothing import layout_on
from mspd.training.augment import augment
from mspd.training.classify import Classify
from mspd.training.denoising import Denoise
from mspd.training.flow import Flow
from mspd.training.memory import keep_freed_memory
from mspd.training.precision import Mixed, bfloat16_is_faster
from mspd.training.recipe import Recipe
from mspd.training.robustify import Robustify
from mspd.training.task import Task

TASKS: dict[str, Callable[[Recipe, ImageSet, torch.device], Task]] = {
    "classify": Classify,
    "denoise": Denoise,
    "robustify": Robustify,
    "flow": Flow,
}


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    start: str | None = None,
    command: str = "",
    device: str = "auto",
) -> dict[str, Any]:
    """Train `recipe` on the image set in `data`, write `out` (safetensors) and its card beside it; return the card.

    A checkpoint `out`.ckpt is written after every epoch and taken up again by the same call; it is removed at the end.
    UsageError for one of another call, so that no training is lost, and while another process trains `out`.
    `start` names a model (or weight file) whose weights are continued, instead of the recipe's own first weights.
    Sub-folders called like the classes of the preset that the recipe is for are numbered like them.
    `device` is auto, cpu, cuda or mps; what one has begun another can go on with. UsageError for one that is not there,
    for a seed that is no int from 0 to 2^32 - 1, and for what does not fit the recipe; MspdError for a training that
    diverges.
    """
    where = pick_device(device)
    check_seed(seed, 2**32 - 1)
    if epochs is not None:
        check_counts(epochs=epochs)
    recipe = replace(recipe, start=start or recipe.start)
    with _alone(Path(out)):
        return _train(recipe, data, Path(out), seed, epochs or recipe.epochs, command, where)


def _train(
    recipe: Recipe, data: str | Path, out: Path, seed: int, epochs: int, command: str, where: torch.device
) -> dict[str, Any]:
    checkpoint = _checkpoint(out)
    classifier = _classifier(recipe)
    wanted = card_of(classifier)["classes"] if classifier else ()
    training = load(data, "train", size=recipe.size, like=wanted)
    testing = load(data, "test", size=recipe.size, like=training.classes)
    if training.classes != testing.classes:
        raise UsageError(f"{data}: the test part has other classes than the train part; both need the same sub-folders")
    if recipe.against:
        check_classes(training.classes, card_of(recipe.against)["classes"], f"model {recipe.against}")
    if recipe.task == "classify" and not training.classes:
        raise UsageError(f"{data}: the names of the classes are not known; put a classes.tsv (label, wnid, name) there")
    if recipe.task == "classify" and len(training.classes) < 2:
        raise UsageError(f"{data}: one class alone; a classifier needs pictures of at least two")
    keep_freed_memory()
    arguments = recipe.arguments
    if recipe.task == "classify":
        arguments = {**arguments, "num_classes": len(training.classes)}
    with seeded(seed):
        model = build(recipe.architecture, arguments)
    layout = _layout(model, where)
    model.to(where, memory_format=layout)  # type: ignore[call-overload]
    origin = _start(model, recipe, recipe.start, training.classes) if recipe.start else None
    _freeze(model, recipe)
    count = min(recipe.pictures or len(training), len(training))
    steps = math.ceil(count / recipe.batch_size)
    averaging = get_ema_multi_avg_fn(memory(recipe.average, epochs * steps))  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
    task = TASKS[recipe.task](recipe, training, where)
    optimizer = task.optimiser(_groups(model, recipe))

    differ = difference(training.classes, wanted, classifier) if classifier else None
    if recipe.task == "classify" and differ is not None:
        print(f"note: {differ}, so the model cannot be the backbone beside it", file=sys.stderr, flush=True)
    settings = f"{replace(recipe, start=origin)}, epochs {epochs}, seed {seed}, pictures {_checksum(training)}"
    half = task.mixes and bfloat16_is_faster(where)
    first, seconds, half = _resume(checkpoint, model, averaged, optimizer, settings, half)
    trained = Mixed(model) if half else model
    peak = matmul_rate(where)
    flops = _flops_per_image(model, task, torch.zeros(1, 3, recipe.size, recipe.size, device=where))
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
    ) as progress:
        for epoch in range(first, epochs):
            bar = progress.add_task(f"epoch {epoch + 1}/{epochs}", total=steps, note="")
            started = time.perf_counter()
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(training), generator=generator)[:count]
            small = epoch < recipe.small_epochs
            size = recipe.small_size if small else recipe.size
            model.train()
            _freeze(model, recipe)
            total = 0.0
            for step in range(steps):
                done = (epoch + step / steps) / epochs
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * one_cycle(done, recipe.warmup)
                index = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                x = training.images[index].float().div_(255)
                x = augment(x, crop=recipe.crop, cutout=recipe.cutout, generator=generator)
                if size != recipe.size:
                    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
                x = x.to(where).contiguous(memory_format=layout)
                optimizer.zero_grad(set_to_none=True)
                total += task.gradient(trained, x, index, generator, done)
                if not math.isfinite(total):
                    line = f"epoch {epoch + 1}: the loss is no number any more"
                    raise MspdError(f"{line}; choose another seed, or other first weights")
                optimizer.step()
                averaged.update_parameters(model)
                progress.update(bar, advance=1, note=f"loss {total / (step + 1):.3f}")
            spent = time.perf_counter() - started
            seconds += spent
            speed = count / spent
            share = speed * flops * (size / recipe.size) ** 2 / peak
            note = f"loss {total / steps:.3f}  {speed:.0f} images/s  {share:.0%} of the matrix-product rate"
            progress.update(bar, note=note)
            print(f"epoch {epoch + 1}/{epochs}  {note}", file=sys.stderr, flush=True)
            _save_checkpoint(checkpoint, model, averaged, optimizer, epoch + 1, seconds, settings, half)

    final = averaged.module.eval()
    testing = replace(testing, images=testing.images.to(where), labels=testing.labels.to(where))
    card = {
        "name": recipe.name,
        "dataset": recipe.dataset,
        "architecture": recipe.architecture,
        "arguments": arguments,
        "size": recipe.size,
        "classes": list(training.classes),
        "training": task.name,
        "precision": "mixed bfloat16" if half else "float32",
        "eps": recipe.eps,
        "epochs": epochs,
        "seed": seed,
        "start": origin,
        **task.score(final, testing),
        "training_hours": round(seconds / 3600, 2),
        "command": command,
    }
    save_model(final.cpu(), out, card)
    checkpoint.unlink(missing_ok=True)
    return card


def one_cycle(progress: float, warmup: float) -> float:
    """Learning-rate factor: linear from 0 to 1 during `warmup` (a share of the run), then linear to 0."""
    return progress / warmup if progress < warmup else max(0.0, (1 - progress) / (1 - warmup))


def memory(average: float, steps: int) -> float:
    """The decay of the weights' moving average: `average`, or less in a training of few steps, so that it reaches back
    over a third of them and not to the first weights."""
    return min(average, max(0.0, 1 - 3 / steps))


def matmul_rate(device: torch.device, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a matrix product of 1024 (CPU) or 4096 rows and columns on `device`, best
    of many, in bfloat16 or float32, whichever is faster there."""
    side = 1024 if device.type == "cpu" else 4096
    a = torch.ones(side, side, device=device)
    a = a.to(torch.bfloat16 if bfloat16_is_faster(device) else torch.float32)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _classifier(recipe: Recipe) -> str | None:
    """The classifier of the preset for the recipe's data set."""
    names = [preset.classifier for preset in PRESETS.values()]
    return next((name for name in names if card_of(name).get("dataset") == recipe.dataset), None)


def _checkpoint(out: Path) -> Path:
    return out.with_name(out.name + ".ckpt")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The only training of `out`, without what killed ones left; an error where it could not be written later."""
    check_suffix(out)
    if out.is_dir():
        raise WeightsError(f"{out}: is a folder; name a file in it")
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(atomic.alone(out))
        except OSError as error:
            raise WeightsError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from error
        if not free:
            raise UsageError(f"{out}: another training is writing it; wait for it or choose another file")
        atomic.sweep([out, card_beside(out), _checkpoint(out)])
        yield


def _start(model: nn.Module, recipe: Recipe, start: str, classes: Sequence[str]) -> str:
    """First weights from a loader `module:function`, or from the model of that name: all of them, but for a head of
    other classes. Return what the card says of them."""
    remedy = f"start from a model that recipe {recipe.name} trained, or from none"
    if ":" in start and not is_id(start) and not Path(start).exists():
        loader = find("start", start, {})
        try:
            loader(model)
        except MspdError:
            raise
        except Exception as error:  # a loader can fail in any way
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UsageError(f"start {start}: no weights of a {recipe.architecture} ({reason}); {remedy}") from error
        return start
    state, earlier = model.state_dict(), load_model(start).state_dict()
    card = card_of(start)
    same = {k for k in state.keys() & earlier.keys() if state[k].shape == earlier[k].shape}
    misfit = next((k for k in {**state, **earlier} if k not in same and not k.startswith("head.")), None)
    if misfit is not None:
        raise UsageError(f"start {start}: not the recipe's {recipe.architecture} ({misfit} differs); {remedy}")
    if recipe.task == "classify" and known_difference(card.get("classes", ()), classes, "the training") is not None:
        same = {k for k in same if not k.startswith("head.")}
    model.load_state_dict({**state, **{k: earlier[k] for k in same}})
    epochs = f"{card['epochs']} epochs, " if "epochs" in card else ""
    return f"{start} ({epochs}sha256 {card['sha256'][:12]})"


def _layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """The device's, unless a layer has a number of channels that 8 does not divide: there PyTorch's weight gradient of
    strided 1 x 1 convolutions writes beyond its memory in channels-last (2.13, oneDNN 3.12, AVX2 processors)."""
    channels = [c for m in model.modules() if isinstance(m, nn.Conv2d) for c in (m.in_channels, m.out_channels)]
    aligned = all(c % 8 == 0 for c in channels if c > 3)
    return layout_on(device) if aligned else torch.contiguous_format


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only, not on biases and BatchNorm."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _freeze(model: nn.Module, recipe: Recipe) -> None:
    for name, module in model.named_modules():
        if any(word in name for word in recipe.frozen.split()):
            module.eval().requires_grad_(False)


def _checksum(training: ImageSet) -> str:
    """Of what is trained on."""
    digest = hashlib.sha256(training.images.numpy().tobytes())
    digest.update(training.labels.numpy().tobytes())
    digest.update(repr(training.classes).encode())
    return digest.hexdigest()[:12]


def _flops_per_image(model: nn.Module, task: Task, x: Tensor) -> float:
    """Operations of one training image, x (1, 3, S, S)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*task.inputs(x))
    return float(counter.get_total_flops() * task.passes)


def _resume(
    path: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, settings: str, half: bool
) -> tuple[int, float, bool]:
    """The epochs and seconds that are over, and whether they were in bfloat16; `half` where there are none."""
    if not path.exists():
        return 0, 0.0, half
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] != settings:
            line = f"{path}: belongs to another recipe, seed, number of epochs, start or other pictures"
            raise UsageError(f"{line}; delete it to start anew, or choose another file")
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    except MspdError:
        raise
    except Exception as error:  # reading a damaged file can fail in any way
        raise WeightsError(f"{path}: a damaged checkpoint; delete it to start anew") from error
    print(f"resuming after epoch {state['epoch']}", file=sys.stderr, flush=True)
    return int(state["epoch"]), float(state["seconds"]), bool(state.get("bfloat16", half))


def _save_checkpoint(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seconds: float,
    settings: str,
    half: bool,
) -> None:
    state = {
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "seconds": seconds,
        "settings": settings,
        "bfloat16": half,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())
