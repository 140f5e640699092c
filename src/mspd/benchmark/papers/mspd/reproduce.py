"""One table or figure from start to end: measure what is missing, report, write."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from mspd.benchmark.grid import image_set
from mspd.benchmark.identity import versions
from mspd.benchmark.papers.mspd.found import Found
from mspd.benchmark.papers.mspd.report import Report, markdown
from mspd.benchmark.papers.mspd.study import Study
from mspd.benchmark.papers.mspd.tier import Tier, get_tier
from mspd.benchmark.store import write
from mspd.data import ImageSet
from mspd.errors import UsageError
from mspd.models import card_of

ITEMS = (
    "table4", "table5", "table6", "table7", "table8", "table10", "table11", "table12", "table13", "table14", "table15",
    "table16", "table17", "table18", "fig4", "fig6", "fig7", "fig8", "fig9", "lemmas",
)  # fmt: skip


def title_of(name: str) -> str:
    """What the table or figure shows."""
    return str(_item(name).TITLE)


def reproduce(
    name: str,
    data: str | Path | ImageSet | tuple[Tensor, Tensor],
    out: str | Path,
    *,
    tier: str | Tier = "embedded",
    first: int | None = None,
    device: str = "auto",
) -> Path:
    """Measure the table or figure `name` and write it to `out`: NAME.json, NAME.md and, where there is one, NAME.png.

    data: as for `benchmark`. A tier of ImageNet's pictures puts "-photo" behind NAME. What is measured stays in the
    same folder and serves the other tables too; a call that was stopped goes on, and Ctrl-C leaves a page of what there
    is; so does `first`, which stops each grid after so many pictures, where all would take days. Returns the Markdown
    file.
    UsageError for an unknown name or tier or a table that the tier does not have, where matplotlib is missing for a
    plot, and where none of the models is there; else as `benchmark`.
    """
    item = _item(name)
    chosen = get_tier(tier) if isinstance(tier, str) else tier
    if chosen.imagenet and not hasattr(item, "IMAGENET"):
        raise UsageError(f"{name}: tier {chosen.name} is of ImageNet's pictures, on which the paper does not have it")
    out = Path(out)
    plot = getattr(item, "plot", None)
    if plot is not None:
        importlib.import_module("mspd.benchmark.papers.mspd.plots").pyplot()
    n = max(chosen.n, chosen.n_wide, chosen.n_strong)
    pictures = image_set(data, chosen.preset.size, n, card_of(chosen.preset.classifier)["classes"])
    study = Study(chosen, pictures, out, device, first)
    runs = item.runs(chosen)
    try:
        for run in runs:
            study.measure(run)
        if study.found.left_out and not study.found.cells:
            raise UsageError(f"{name}: nothing can be measured: {study.found.left_out[0]}")
        if hasattr(item, "extras"):
            item.extras(study)
        if plot is not None:
            plot(study, out / f"{_stem(name, chosen)}.png")
    except KeyboardInterrupt:
        for run in runs:
            study.read(run)
        if study.found.cells:
            write_page(name, study)
        raise
    return write_page(name, study)


def write_page(name: str, study: Study) -> Path:
    """The page and its JSON, of what is measured so far; with the plot in it where one was drawn."""
    item, page = _item(name), study.out / f"{_stem(name, study.tier)}.md"
    report: Report = item.report(study.found, study.tier)
    result = _result(name, item, study, report)
    study.out.mkdir(parents=True, exist_ok=True)
    write(page.with_suffix(".json"), json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    text = markdown(item.TITLE, _setting(name, study), report, study.found.left_out)
    plot = page.with_suffix(".png")
    write(page, text + (f"\n![{item.TITLE}]({plot.name})\n" if plot.exists() else ""))
    return page


def _stem(name: str, tier: Tier) -> str:
    """What the files of a table are called."""
    return f"{name}-photo" if tier.imagenet else name


def _item(name: str) -> ModuleType:
    if name not in ITEMS:
        raise UsageError(f"unknown table or figure {name!r}: choose one of {', '.join(ITEMS)}")
    return importlib.import_module(f"mspd.benchmark.papers.mspd.{name}")


def _setting(name: str, study: Study) -> str:
    tier = study.tier
    purified = f"DiffPure in {tier.strides} deterministic strides" if tier.strides else "DiffPure in 100 steps"
    return (
        f"Tier {tier.name}: {_pictures_of(study)}, classifier "
        f"{tier.preset.classifier}, backbone {tier.preset.backbone}, eps {tier.preset.eps * 255:g}/255, N = "
        f"{tier.samples}, PGD of {tier.pgd_steps} steps, AutoAttack of {tier.aa_steps} steps and {tier.aa_queries} "
        f"queries, other query attacks {tier.queries} queries, baselines of {tier.epochs} epochs of {tier.inner} "
        f"steps, {purified}, seed 0, {versions()}, {study.day()}. Cells: measured in % with its 95 % interval / the "
        f"paper's number (on its models). In square brackets behind a difference its paired 95 % interval, in points. "
        f"Made by `{study.command(name)} --data DIR -o DIR`."
    )


def _pictures_of(study: Study) -> str:
    """ "the first test pictures: 1000 (PGD), 32 to 128 (AutoAttack)", as many as were measured."""
    sizes: dict[str, set[int]] = {}
    for (_, cell), found in study.found.cells.items():
        sizes.setdefault(cell.attack, set()).add(len(found))
    if not sizes:
        return f"the first {min(study.tier.n_strong, len(study.data))} test pictures"
    said = ((" to ".join(map(str, sorted({min(n), max(n)}))), attack) for attack, n in sizes.items())
    return "the first test pictures: " + ", ".join(f"{n} ({attack})" for n, attack in said)


def _plain(numbers: dict[Any, Any]) -> dict[str, Any]:
    """The paper's numbers with names for keys."""
    return {key if isinstance(key, str) else ", ".join(key): value for key, value in numbers.items()}


def _result(name: str, item: ModuleType, study: Study, report: Report) -> dict[str, Any]:
    found: Found = study.found
    return {
        "item": name, "title": item.TITLE, "command": study.command(name),
        "settings": study.settings(), "versions": versions(), "date": study.day(), "seed": 0,
        "paper": _plain(item.IMAGENET if study.tier.imagenet else item.PAPER),
        "cells": [{"labels": labels, **vars(cell), **each.json()} for (labels, cell), each in found.cells.items()],
        "extras": found.extras,
        "orderings": [vars(ordering) for ordering in report.orderings],
        "left_out": found.left_out,
    }  # fmt: skip
