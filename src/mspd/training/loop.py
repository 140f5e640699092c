"""The training loop: reads top to bottom, resumes at every epoch, writes weights and a card.

Each epoch draws from its own generator (seed and epoch number), so a run that was killed and resumed sees the same
pictures in the same order as an unbroken one.
"""

import importlib
import math
import os
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from mspd.attacks.pgd import pgd
from mspd.data import ImageSet, load
from mspd.errors import UsageError, WeightsError
from mspd.models import build, card_of, load_model, save_model
from mspd.objectives import cross_entropy
from mspd.training.adversarial import n_fgsm
from mspd.training.denoising import denoising_loss, evaluate_denoiser
from mspd.training.memory import keep_freed_memory
from mspd.training.precision import bfloat16_is_faster, mixed
from mspd.training.recipe import Recipe
from mspd.training.standard import augment


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    start: str | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Train `recipe` on the image set in `data`, write `out` (safetensors) and its card beside it; return the card.

    A checkpoint `out`.ckpt is written after every epoch and taken up again by the same call; it is removed at the end.
    `start` names a model (or weight file) whose weights are continued, instead of the recipe's own first weights.
    """
    recipe = replace(recipe, start=start or recipe.start)
    out = Path(out)
    epochs = epochs or recipe.epochs
    training, testing = (load(data, split, size=recipe.size) for split in ("train", "test"))
    if training.classes != testing.classes:
        raise UsageError(f"{data}: the test part has other classes than the train part; both need the same sub-folders")
    num_classes = int(training.labels.max()) + 1
    keep_freed_memory()
    torch.manual_seed(seed)
    arguments = recipe.arguments if recipe.denoise else {**recipe.arguments, "num_classes": num_classes}
    model = build(recipe.architecture, arguments)
    layout = _layout(model)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    origin = _start(model, recipe.start) if recipe.start else None
    _freeze(model, recipe)
    averaging = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
    optimizer: torch.optim.Optimizer
    if recipe.denoise:
        optimizer = torch.optim.Adam(_groups(model, recipe), lr=recipe.lr)
    else:
        optimizer = torch.optim.SGD(_groups(model, recipe), lr=recipe.lr, momentum=0.9, nesterov=True)
        targets = _targets(recipe, training, num_classes)

    checkpoint, settings = out.with_name(out.name + ".ckpt"), f"{recipe}, epochs {epochs}, seed {seed}"
    first, seconds = _resume(checkpoint, model, averaged, optimizer, settings)
    steps = math.ceil(len(training) / recipe.batch_size)
    peak = matmul_rate()
    flops = _flops_per_image(model, recipe)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
    ) as progress:
        for epoch in range(first, epochs):
            bar = progress.add_task(f"epoch {epoch + 1}/{epochs}", total=steps, note="")
            started = time.perf_counter()
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(training), generator=generator)
            small = epoch < recipe.small_epochs
            size = recipe.small_size if small else recipe.size
            model.train()
            _freeze(model, recipe)
            total = 0.0
            for step in range(steps):
                rate = one_cycle((epoch + step / steps) / epochs, recipe.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * rate
                index = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                x = training.images[index].float().div_(255)
                x = augment(x, crop=recipe.crop, cutout=recipe.cutout, generator=generator)
                if size != recipe.size:
                    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
                x = x.contiguous(memory_format=layout)
                if recipe.denoise:
                    loss = denoising_loss(model, x, timesteps=recipe.denoise, generator=generator)
                else:
                    y = targets[index]
                    if recipe.eps:
                        x = n_fgsm(model, x, y, eps=recipe.eps, generator=generator)
                    with mixed(x.device):
                        logits = model(x)
                    loss = cross_entropy(logits.float(), y).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                averaged.update_parameters(model)
                total += loss.item()
                progress.update(bar, advance=1, note=f"loss {total / (step + 1):.3f}")
            spent = time.perf_counter() - started
            seconds += spent
            speed = len(training) / spent
            share = speed * flops * (size / recipe.size) ** 2 / peak
            note = f"loss {total / steps:.3f}  {speed:.0f} images/s  {share:.0%} of the matrix-product rate"
            progress.update(bar, note=note)
            print(f"epoch {epoch + 1}/{epochs}  {note}", file=sys.stderr, flush=True)
            _save_checkpoint(checkpoint, model, averaged, optimizer, epoch + 1, seconds, settings)

    final = averaged.module.eval()
    if recipe.denoise:
        scores = evaluate_denoiser(final, testing, timesteps=recipe.denoise)
    else:
        scores = evaluate_plain(final, testing, eps=recipe.test_eps, n=1000 if recipe.eps else 200)
    card = {
        "name": recipe.name,
        "dataset": recipe.dataset,
        "architecture": recipe.architecture,
        "arguments": arguments,
        "size": recipe.size,
        "classes": list(training.classes),
        "training": "denoising" if recipe.denoise else "adversarial (N-FGSM)" if recipe.eps else "standard",
        "eps": recipe.eps,
        "epochs": epochs,
        "seed": seed,
        "teacher": recipe.teacher,
        "start": origin,
        **scores,
        "training_hours": round(seconds / 3600, 2),
        "command": command,
    }
    save_model(final, out, card)
    checkpoint.unlink(missing_ok=True)
    return card


def one_cycle(progress: float, warmup: float) -> float:
    """Learning-rate factor: linear from 0 to 1 during `warmup` (a share of the run), then linear to 0."""
    return progress / warmup if progress < warmup else max(0.0, (1 - progress) / (1 - warmup))


def evaluate_plain(model: nn.Module, data: ImageSet, *, eps: float, n: int = 1000) -> dict[str, Any]:
    """Clean accuracy on all test pictures, PGD-20 accuracy on the first `n` (step eps/4, one random start)."""
    clean = 0
    robust = 0
    for start in range(0, len(data), 250):
        x, y = data.floats(start, start + 250), data.labels[start : start + 250]
        with torch.no_grad():
            clean += int((model(x).argmax(1) == y).sum())
        if start < n:
            generator = torch.Generator().manual_seed(start)
            x_adv = pgd(model, x[: n - start], y[: n - start], eps=eps, steps=20, generator=generator)
            with torch.no_grad():
                robust += int((model(x_adv).argmax(1) == y[: n - start]).sum())
    n = min(n, len(data))
    return {
        "clean_acc": round(clean / len(data), 4),
        "clean_n": len(data),
        "pgd20_acc": round(robust / n, 4),
        "pgd20_n": n,
        "pgd20_eps": eps,
    }


def matmul_rate(seconds: float = 0.3) -> float:
    """Floating-point operations per second of a 1024 x 1024 matrix product on this machine, best of many, in bfloat16
    or float32, whichever is faster here."""
    a = torch.randn(1024, 1024).to(torch.bfloat16 if bfloat16_is_faster("cpu") else torch.float32)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def _start(model: nn.Module, start: str) -> str:
    """First weights from a loader `module:function`, or from the model of that name: all that have the same shape.
    Return what the card says of them."""
    module, colon, function = start.partition(":")
    if colon:
        getattr(importlib.import_module(module), function)(model)
        return start
    state = model.state_dict()
    earlier = load_model(start).state_dict()
    model.load_state_dict({**state, **{k: v for k, v in earlier.items() if v.shape == state[k].shape}})
    card = card_of(start)
    return f"{start} ({card['epochs']} epochs, sha256 {card['sha256'][:12]})"


def _layout(model: nn.Module) -> torch.memory_format:
    """channels-last, the faster one, unless a layer has a number of channels that 8 does not divide: there PyTorch's
    weight gradient of strided 1 x 1 convolutions writes beyond its memory (2.13, oneDNN 3.12, AVX2 processors)."""
    channels = [c for m in model.modules() if isinstance(m, nn.Conv2d) for c in (m.in_channels, m.out_channels)]
    aligned = all(c % 8 == 0 for c in channels if c > 3)
    return torch.channels_last if aligned else torch.contiguous_format


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only, not on biases and BatchNorm."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _freeze(model: nn.Module, recipe: Recipe) -> None:
    for name, module in model.named_modules():
        if any(word in name for word in recipe.frozen.split()):
            module.eval().requires_grad_(False)


def _targets(recipe: Recipe, training: ImageSet, num_classes: int) -> Tensor:
    """Soft labels (N, K): smoothed one-hot rows, mixed with the teacher's probabilities when there is a teacher."""
    targets = F.one_hot(training.labels, num_classes).float()
    targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / num_classes
    if recipe.teacher:
        teacher = load_model(recipe.teacher)
        teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for start in range(0, len(training), 250):
            x = training.floats(start, start + 250).contiguous(memory_format=torch.channels_last)
            with torch.no_grad(), mixed(x.device):
                p = (teacher(x).float().softmax(1) + teacher(x.flip(3)).float().softmax(1)) / 2
            targets[start : start + 250].lerp_(p, recipe.teacher_weight)
    return targets


def _flops_per_image(model: nn.Module, recipe: Recipe) -> float:
    """Operations of one training image: forward and backward (3 forward passes), for adversarial training 2 more."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        inputs = [torch.zeros(1, 3, recipe.size, recipe.size), torch.zeros(1)]
        model.eval()(*inputs[: 2 if recipe.denoise else 1])
    return float(counter.get_total_flops() * (5 if recipe.eps else 3))


def _resume(
    path: Path, model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, settings: str
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["settings"] != settings:
            print(f"{path} belongs to another recipe, seed or number of epochs: starting anew", file=sys.stderr)
            return 0, 0.0
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: a damaged checkpoint; delete it to start anew") from error
    print(f"resuming after epoch {state['epoch']}", file=sys.stderr, flush=True)
    return int(state["epoch"]), float(state["seconds"])


def _save_checkpoint(
    path: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seconds: float,
    settings: str,
) -> None:
    state = {
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "seconds": seconds,
        "settings": settings,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
