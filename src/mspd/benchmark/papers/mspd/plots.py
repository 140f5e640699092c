"""The plots; matplotlib is asked for only here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from torch import Tensor

from mspd.extras import library

#: a perturbation is shown this many times as strong, around grey
GAIN = 8
#: colours that are told apart without colour vision (Okabe and Ito 2008)
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def pyplot() -> Any:
    """matplotlib's, drawing into files; UsageError when it is not installed."""
    library("matplotlib", "'mspd[bench]'").use("agg")
    return library("matplotlib.pyplot", "'mspd[bench]'")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    pyplot().close(figure)


Interval = tuple[float, float, float]


def gains(series: Mapping[str, Mapping[str, Interval | None]], title: str, path: Path) -> None:
    """For each name of `series` and each place: a gain and the ends of its interval, as shares, drawn in points. Names
    and places of which nothing is measured are left out."""
    points = {name: {place: v for place, v in places.items() if v is not None} for name, places in series.items()}
    points = {name: measured for name, measured in points.items() if measured}
    places = [place for place in next(iter(series.values())) if any(place in measured for measured in points.values())]
    figure, axes = pyplot().subplots(figsize=(7, 0.9 + 0.7 * len(places)))
    for index, (name, measured) in enumerate(points.items()):
        rows = [places.index(place) + (index - (len(points) - 1) / 2) * 0.13 for place in measured]
        middle, low, high = (100 * torch.tensor(values) for values in zip(*measured.values(), strict=True))
        axes.errorbar(middle, rows, xerr=[middle - low, high - middle], fmt="o", markersize=5, capsize=3,
                      color=COLOURS[index], label=name)  # fmt: skip
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(places)), places)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_xlabel(title)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


def curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], x_label: str, path: Path) -> None:
    """A panel for each quantity, a line of (x, y) for each name, x in logarithms."""
    figure, axes = pyplot().subplots(1, len(panels), figsize=(5 * len(panels), 3.4), squeeze=False)
    for panel, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for index, (name, points) in enumerate(lines.items()):
            style = ("-", "--", "-.", ":")[index % 4]
            panel.plot(*zip(*points, strict=True), style, marker="o", markersize=3, color=COLOURS[index], label=name)
        panel.set_xscale("log")
        ticks = sorted({x for points in lines.values() for x, _ in points})
        panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
        panel.minorticks_off()
        panel.set_xlabel(x_label)
        panel.set_title(title)
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


def pictures(columns: Mapping[str, Tensor], reference: Tensor, path: Path) -> None:
    """A row for each picture (C, H, W) in [0, 1], a column for each name, and below each, where it differs from the
    `reference`, its difference, GAIN times as strong around grey."""
    count = len(next(iter(columns.values())))
    size = (1.15 * len(columns), 2.4 * count)
    figure, axes = pyplot().subplots(2 * count, len(columns), figsize=size, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for index, (name, stack) in enumerate(columns.items()):
        axes[0][index].set_title("\n".join(fill(line, 16) for line in name.splitlines()), fontsize=7)
        for row in range(count):
            axes[2 * row][index].imshow(_array(stack[row]), interpolation="nearest")
            difference = stack[row] - reference[row]
            if bool(difference.any()):
                axes[2 * row + 1][index].imshow(_array(0.5 + GAIN * difference), interpolation="nearest")
    note = f"below each picture: its difference from the original, x {GAIN}"
    figure.text(0.5, 0.06, note, ha="center", fontsize=8)
    _save(figure, path)


def _array(image: Tensor) -> Any:
    return torch.as_tensor(image).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
