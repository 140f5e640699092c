"""The runner: one piece of images after the other, each through every cell of the grid."""

import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from mspd.adapters import Function
from mspd.benchmark.grid import NONE, Axis, Cell, Grid, make_grid
from mspd.benchmark.purified import Purified
from mspd.benchmark.rough import Rough
from mspd.benchmark.store import Row, Store, in_short, read_png, save_png, write
from mspd.benchmark.summary import Summary, markdown, summarise
from mspd.data import ImageSet
from mspd.guard import (
    answer,
    check_accuracy,
    check_finite,
    check_logits,
    check_mode,
    check_model,
    check_result,
    eval_mode,
    no_autocast,
    seeded,
)
from mspd.images import quantise, to_levels
from mspd.metrics import l2, linf, lpips, psnr, ssim, wilson
from mspd.presets import Preset
from mspd.smoothing import prepare

#: images of one piece. Every call of a network, an attack or a defence gets exactly so many (the last piece is filled
#: up with its own images), so an image's numbers do not depend on n. A multiple of 8, as the attacks need it
PIECE = 32
#: random numbers that the attacker's draws stand behind the defender's
DRAWN = 65_537
#: images on which the guard tries the models, and on which it measures their accuracy
TRIED, COUNTED = 8, 1000
#: fewer do not tell whether a backbone reads better than chance
FEW = 64


@no_autocast()
def benchmark(
    data: str | Path | ImageSet | tuple[Tensor, Tensor],
    out: str | Path,
    *,
    preset: str | Preset = "cifar10",
    defenses: Axis = "mcgs",
    backbones: Axis | None = None,
    targets: Axis | None = None,
    attacks: Axis = "pgd",
    treatments: Axis = NONE,
    n: int | None = None,
    eps_def: float | None = None,
    eps_adv: float | None = None,
    norm: str = "Linf",
    labels: str = "classifier",
    seed: int = 0,
    keep: bool = False,
    bfloat16: bool = False,
    device: str = "auto",
) -> Summary:
    """Measure every defence (and none) on every backbone, treatment, target and attack; resumable, in the folder `out`.

    data: a folder as `mspd.data.load` reads it, an `ImageSet`, or (x, y) with x (N, C, H, W) in [0, 1] and labels (N,).
    The first `n` images count; grey ones have three equal channels, also for a module (one of one channel goes into a
    module that takes their mean). The classes of a folder or an `ImageSet` must be those of the classifier and of the
    targets, in their order; where only sub-folders name them, mspd puts them in order. The preset gives the classifier
    whose labels the defences aim at, the backbone and the targets unless others are named, and the budgets: `eps_def`
    in Linf around the original, `eps_adv` in `norm` around the picture as it is attacked; an attack that is a
    functools.partial with `eps` or `norm` has its own. With labels="truth" the defences aim at the true labels.

    An axis is a name, several of them, or a dict of names and functions (or models). Defences and attacks: a name of
    mspd's, `package.module:function`, or any function of the shape in docs/adding.md; settings by functools.partial.
    Models: as `load_model` takes them, or a module from [0, 1] images to logits. A treatment is what happens to the
    published picture before the attack: a purifier, or "revert:white" (also gray, black, or a model's name),
    which is left out where there is no defence. No defence and no treatment ("none") are always measured too.

    Scored are 8-bit pictures written as files and decoded again; an attack's own result is scored as it is and, in a
    second number, rounded to 8 bits. Attacks call `smoothing.prepare(target)`, with `bfloat16` the target in bfloat16
    (`mspd.benchmark.rough`); verdicts are the target's own in float32. The folder's files are listed in
    `mspd.benchmark.store`; `keep` adds the attacked pictures. A run that was stopped goes on with the same call and
    gives the same bytes. A later call with the same `out` may name more on each axis, and count more images (or fewer):
    what is measured already is not measured again. A `Purified` target is attacked without its purifier and read with
    it.

    UsageError for wrong names and settings, InputError for images, models, attacks or defences outside the contract; a
    warning (UserWarning) for what makes numbers doubtful.
    """
    with seeded(0):  # a new network draws its weights before it loads them
        grid = make_grid(
            data, preset=preset, defenses=defenses, backbones=backbones, targets=targets, attacks=attacks,
            treatments=treatments, n=n, eps_def=eps_def, eps_adv=eps_adv, norm=norm, labels=labels, seed=seed,
            device=device,
        )  # fmt: skip
    settings = {**grid.settings, "keep": keep, "bfloat16": bfloat16, "piece": PIECE}
    sources = _guard(grid, bfloat16)
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    cells = grid.cells()
    starts = range(0, len(grid), PIECE)
    with Store(Path(out), settings) as store, _bar(console) as progress:
        ids = {start: range(start, min(start + PIECE, len(grid))) for start in starts}
        todo = {start: [cell for cell in cells if store.missing(cell, ids[start])] for start in starts}
        todo = {start: missing for start, missing in todo.items() if missing}
        total = sum(map(len, todo.values()))
        if total:
            console.print(
                f"{len(cells)} cells x {len(grid)} images, in pieces of {PIECE}: {total} of "
                f"{len(cells) * len(starts)} to measure; timing the first"
            )
        task = progress.add_task("measuring", total=total)
        started, done = time.perf_counter(), 0
        for position, (start, missing) in enumerate(todo.items()):
            for cell, rows, times in _measure(grid, sources, store, ids[start], missing, keep):
                new = set(store.missing(cell, ids[start]))
                store.append(cell, [row for row in rows if row["id"] in new], times)
                progress.update(task, advance=1)
                done += 1
            if position == 0 and done < total:
                left = (time.perf_counter() - started) / done * (total - done)
                console.print(f"about {_duration(left)} left")
    summary = Summary(Path(out), in_short(store.settings), *summarise(store.rows))
    write(Path(out) / "summary.json", summary.json())
    write(Path(out) / "summary.md", markdown(summary))
    return summary


def _guard(grid: Grid, bfloat16: bool) -> dict[str, nn.Module]:
    """Try everything on a few images before the long run; returns the targets as the attacks get them."""
    device = grid.protector.device
    x = grid.images[:TRIED].float().div(255).to(device)
    y = grid.labels[:TRIED].to(device)
    aims = grid.protector.labels(grid.protector.probabilities(x))
    sources = {}
    for name, model in grid.backbones.items():
        check_model(model, x, aims, f"backbone {name}")
    for name, target in grid.targets.items():
        model = target.target if isinstance(target, Purified) else target
        check_mode(model, f"target {name}")
        check_model(model, x, y, f"target {name}")
        with torch.no_grad(), eval_mode(model), seeded(0, device):
            logits = answer(model, x)
            classes = logits.shape[1]
            check_logits(logits[:1].expand(len(grid), -1), grid.labels, f"target {name}")
            source = prepare(model)
            source = source if torch.allclose(source(x), logits.float(), rtol=1e-2, atol=1e-2) else model
            if bfloat16:
                source = Rough(source, f"target {name}")
                source(x)
        sources[name] = source
        right, counted = _count_right(grid, model, f"target {name}")
        check_accuracy(right / counted, wilson(right, counted, z=3.0), classes, f"target {name}", grid.stated[name])
    for name, model in grid.backbones.items():
        right, counted = _count_right(grid, model, f"backbone {name}")
        if counted >= FEW and wilson(right, counted, z=3.0)[0] <= 1 / len(grid.protector.classes):
            line = f"backbone {name} reads {right / counted:.1%} of the images right, hardly more than chance"
            warnings.warn(f"{line}: are its classes in the order of the classifier's?", stacklevel=2)
    return sources


def _measure(
    grid: Grid, sources: dict[str, nn.Module], store: Store, ids: range, cells: list[Cell], keep: bool
) -> Iterator[tuple[Cell, list[Row], Row]]:
    """Each cell with the rows of one piece of images and the seconds that it took. What cells share is computed once:
    the defended pictures, the treated ones, and what a target reads before the attack."""
    device = grid.protector.device
    index = torch.arange(PIECE) % len(ids) + ids.start
    original = grid.images[index].float().div(255).to(device)
    y = grid.labels[index].to(device)
    piece = ids.start // PIECE
    published: dict[tuple[str, str, str], Tensor] = {}
    before: dict[tuple[str, str, str, str], Tensor] = {}

    def call(function: Function, *args: Any, after: int = 0, **options: Any) -> Tensor:
        """A function with its own fresh generator, on copies of its tensors, in a global random state that is the same
        whenever it runs. Both go on `after` so many numbers: an attacker does not draw what the defender has drawn."""
        copies = [a.clone() if isinstance(a, Tensor) else a for a in args]
        generator = torch.Generator().manual_seed(grid.seed)
        with seeded((grid.seed * 1_000_003 + piece) % 2**63, device):
            torch.rand(after, generator=generator), torch.rand(after), np.random.rand(after)
            z = function(*copies, generator=generator, **options)
        return z.detach() if isinstance(z, Tensor) else z

    def stored(paths: list[Path], make: Callable[[], Tensor], eps: float) -> Tensor:
        """Pictures within eps of the original, from their files, which are written first where they are missing."""
        if not all(path.exists() for path in paths):
            made = make()
            for row, path in enumerate(paths):
                if not path.exists():
                    save_png(made[row : row + 1], original[row : row + 1], path, eps)
        return read_png(paths)[index - ids.start].to(device)

    def defended(cell: Cell) -> Tensor:
        aims = y if grid.truth else grid.protector.labels(grid.protector.probabilities(original))
        function, backbone = grid.defenses[cell.defense], grid.backbones[cell.backbone]
        x_def = call(function, backbone, original, aims, eps=grid.eps_def, norm="Linf")
        check_result(x_def, original, f"defense {cell.defense}", eps=grid.eps_def)
        return quantise(x_def, original, grid.eps_def)

    def treated(cell: Cell, x: Tensor) -> Tensor:
        treatment = grid.treatments[cell.treatment]
        z = call(grid.reversion(cell), x, after=DRAWN) if isinstance(treatment, str) else call(treatment, x)
        check_result(z, x, f"treatment {cell.treatment}")
        return to_levels(z) / 255

    def publish(cell: Cell) -> Tensor:
        """The picture as it is attacked."""
        plain = (cell.defense, cell.backbone, NONE)
        if plain not in published:
            places = [store.defended(cell, i) for i in ids]
            published[plain] = (
                original if cell.defense == NONE else stored(places, lambda: defended(cell), grid.eps_def)
            )
        if cell.treatment == NONE:
            return published[plain]
        return stored([store.treated(cell, i) for i in ids], lambda: treated(cell, published[plain]), 1.0)

    for cell in cells:
        started = time.perf_counter()
        key = (cell.defense, cell.backbone, cell.treatment)
        if key not in published:
            published[key] = publish(cell)
        x, model = published[key], grid.targets[cell.target]
        if (*key, cell.target) not in before:
            before[*key, cell.target] = _read(model, x, f"target {cell.target}")
        prepared = time.perf_counter()
        attack, (eps, norm) = grid.attacks[cell.attack], grid.budgets[cell.attack]
        queries = torch.zeros(PIECE, dtype=torch.int64) if _counts(attack) else None
        options: dict[str, Any] = {} if queries is None else {"queries": queries}
        x_adv = call(attack, sources[cell.target], x, y, eps=eps, norm=norm, **options)
        check_result(x_adv, x, f"attack {cell.attack}", eps=eps, norm=norm)
        spent = time.perf_counter() - prepared
        rounded = _rounded(x_adv, x, eps, norm)
        columns = {
            "before": before[*key, cell.target],
            "after": _read(model, x_adv, f"target {cell.target}"),
            "after_8bit": _read(model, rounded, f"target {cell.target}"),
            "defense_linf": linf(x, original), "defense_l2": l2(x, original), "ssim": ssim(x, original),
            "psnr": psnr(x, original),
            "lpips": lpips(x, original) if grid.lpips else None,
            "attack_linf": linf(x_adv, x), "attack_l2": l2(x_adv, x), "attack_ssim": ssim(x_adv, x),
            "attack_lpips": lpips(x_adv, x) if grid.lpips else None,
            "queries": queries,
        }  # fmt: skip
        if keep:
            for row, i in enumerate(ids):
                path = store.adversarial(cell, i)
                path.unlink(missing_ok=True)
                save_png(rounded[row : row + 1], x[row : row + 1], path, eps if norm == "Linf" else 1.0)
        rows = [
            {"id": i, "label": int(y[row]), **asdict(cell),
             **{name: _plain(column, row) for name, column in columns.items()},
             "seed": grid.seed, "versions": grid.settings["versions"]}
            for row, i in enumerate(ids)
        ]  # fmt: skip
        times = {"first_id": ids.start, "images": len(ids), **asdict(cell),
                 "seconds_before": round(prepared - started, 4), "seconds_attack": round(spent, 4)}  # fmt: skip
        yield cell, rows, times


def _rounded(x_adv: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """x_adv on the 8-bit grid and in the ball: where rounding leaves the L2 ball, towards x, which cannot."""
    if norm == "Linf":
        return quantise(x_adv, x, eps)
    nearest = quantise(x_adv, x, 1.0)
    inward = x + ((x_adv - x) * 255).trunc() / 255
    return torch.where((l2(nearest, x) > eps)[:, None, None, None], inward, nearest)


def _count_right(grid: Grid, model: nn.Module, name: str) -> tuple[int, int]:
    """How many of the first images the model reads right, and of how many."""
    counted = min(len(grid), COUNTED)
    right = 0
    for i in range(0, counted, PIECE):
        seen = _read(model, grid.images[i : i + PIECE].float().div(255).to(grid.protector.device), name)
        right += int((seen.cpu() == grid.labels[i : i + PIECE]).sum())
    return right, counted


def _read(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """What a model reads, (B,), from finite float32 logits."""
    with torch.no_grad(), eval_mode(model), seeded(0, x.device):
        logits = answer(model, x, name)
    check_finite(logits, name)
    return logits.argmax(1)


def _plain(column: Tensor | None, row: int) -> int | float | None:
    if column is None:
        return None
    value = column[row].item()
    if value == math.inf:  # the PSNR of equal pictures; JSON has no word for it
        return None
    return round(value, 6) if isinstance(value, float) else int(value)


def _counts(attack: Function) -> bool:
    try:
        return "queries" in inspect.signature(attack).parameters
    except (TypeError, ValueError):
        return False


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def _duration(seconds: float) -> str:
    """ "8 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
