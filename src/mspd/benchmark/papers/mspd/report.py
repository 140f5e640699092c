"""From measured cells to a table beside the paper's numbers, and to what should hold: pure functions, and rendering."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mspd.benchmark.papers.mspd.found import Field
from mspd.metrics import paired_interval

NOTHING = "-"


@dataclass(frozen=True)
class Ordering:
    """A claim of the paper that should hold at any scale, whether it does (None: not measured), and the numbers."""

    claim: str
    holds: bool | None
    numbers: str

    def line(self) -> str:
        return f"{self.claim}: {'holds' if self.holds else '**does not hold**'} ({self.numbers})"


@dataclass(frozen=True)
class Report:
    """A table's head and rows, the orderings, and remarks about what the columns are."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    orderings: Sequence[Ordering] = ()
    remarks: Sequence[str] = field(default_factory=tuple)


def above(claim: str, better: Field | None, worse: Field | None, *, what: str = "robust", by: float = 0.0) -> Ordering:
    """`better` leads by at least `by` points on the images that both have; with `by` 0, by more than nothing. The
    difference itself decides; its paired 95 % interval is among the numbers."""
    if better is None or worse is None:
        return Ordering(claim, None, "")
    lead, text = _lead(better, worse, what)
    return Ordering(claim, lead > 1e-9 if by == 0 else lead >= by / 100 - 1e-9, text)


def within(claim: str, a: Field | None, b: Field | None, points: float, *, what: str = "robust") -> Ordering:
    """The two differ by at most so many points."""
    if a is None or b is None:
        return Ordering(claim, None, "")
    lead, text = _lead(a, b, what)
    return Ordering(claim, abs(lead) <= points / 100 + 1e-9, text)


def shared(a: Field, b: Field, what: str = "robust") -> tuple[Tensor, Tensor]:
    """The verdicts of both on the images that both have."""
    n = min(len(a), len(b))
    return getattr(a.first(n), what), getattr(b.first(n), what)


def gain(before: Field | None, after: Field | None) -> tuple[float, float, float] | None:
    """In robust accuracy, with its paired interval, on the pictures that both have."""
    return None if before is None or after is None else paired_interval(*shared(before, after))


def _lead(a: Field, b: Field, what: str) -> tuple[float, str]:
    first, second = shared(a, b, what)
    lead, low, high = paired_interval(second, first)
    rates = f"{_rate(first)} against {_rate(second)}, {lead * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]"
    return lead, f"{rates}, n = {len(first)}"


def _rate(bits: Any) -> str:
    return f"{float(bits.double().mean()):.1%}".replace("%", " %")


def numbers_above(claim: str, high: float | None, low: float | None, form: str = ".3f") -> Ordering:
    """The first number is larger."""
    if high is None or low is None or high != high or low != low:
        return Ordering(claim, None, "")
    return Ordering(claim, high > low, f"{high:{form}} against {low:{form}}")


def percent(found: Field | None, what: str, paper: float | None, *, of: int | None = None) -> str:
    """ "58.5 [54.2, 62.7] / 86.3": measured, its interval, the paper's; of fewer pictures than `of` with their n."""
    if found is None:
        measured = NOTHING
    else:
        values = found.json()
        low, high = values[f"{what}_interval"]
        few = f", n = {len(found)}" if of is not None and len(found) < of else ""
        measured = f"{values[what] * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]{few}"
    return f"{measured} / {NOTHING if paper is None else f'{paper:.1f}'}"


def number(found: float | None, paper: float | None, form: str = ".3f") -> str:
    """ "0.962 / 0.9618"."""
    return f"{plain(found, form)} / {NOTHING if paper is None else f'{paper:g}'}"


def plain(found: float | None, form: str = ".4f") -> str:
    """The number, where the paper has none beside it."""
    return NOTHING if found is None or found != found else f"{found:{form}}"


def mean(found: Field | None, what: str) -> float | None:
    """The mean of one of the distances, None where it was not measured."""
    if found is None:
        return None
    value = float(getattr(found, what).mean())
    return None if value != value else value


def cost_cell(costs: dict[str, Any], name: str, paper: float | None) -> str:
    """ "40 passes, 44 gradients / 0.02 s": the paper has seconds on its own machine."""
    measured = costs.get(name)
    own = NOTHING if measured is None else f"{measured['passes']:g} passes, {measured['gradients']:.1f} gradients"
    return f"{own} / {NOTHING if paper is None else f'{paper:g} s'}"


LPIPS = "LPIPS is empty where the lpips package was not there (pip install 'mspd[bench]')."
COST = (
    "Cost: gradient passes of the backbone an image, and the time in units of one such gradient, "
    "measured on 8 pictures at once; the paper has seconds on an A100."
)


def markdown(title: str, setting: str, report: Report, left_out: Sequence[str]) -> str:
    """The report as a page."""
    lines = [f"# {title}", "", setting, ""]
    lines += ["| " + " | ".join(row) + " |" for row in (report.head, ["---"] * len(report.head), *report.rows)]
    if report.remarks:
        lines += ["", *report.remarks]
    if report.orderings:
        measured = [ordering for ordering in report.orderings if ordering.holds is not None]
        count = f"{sum(bool(o.holds) for o in measured)} of the {len(measured)} measured"
        missing = len(report.orderings) - len(measured)
        rest = f"; {missing} more are not measured, the JSON file names them" if missing else ""
        lines += ["", "## What should hold", "", f"{count} hold{rest}.", "", *(f"- {o.line()}" for o in measured)]
    if left_out:
        lines += ["", "## Left out", "", *(f"- {why}: {'; '.join(what)}" for why, what in by_reason(left_out).items())]
    return "\n".join(lines) + "\n"


def by_reason(left_out: Sequence[str]) -> dict[str, list[str]]:
    """Lines "what: why" gathered by their why."""
    gathered: dict[str, list[str]] = {}
    for line in left_out:
        what, _, why = line.partition(": ")
        gathered.setdefault(why, []).append(what)
    return gathered
