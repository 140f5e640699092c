"""What was measured for a table: the cells of the grids, image by image, and what no grid can say."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mspd.benchmark.grid import NONE, Cell
from mspd.benchmark.store import Row, cell_of
from mspd.metrics import wilson


@dataclass(frozen=True)
class Field:
    """One cell of a grid, image by image, each (n,): right before the attack, and after it too; SSIM, LPIPS (NaN where
    it was not measured) and L2 of the picture as it is attacked, to the original; the same of the attack, to that."""

    clean: Tensor
    robust: Tensor
    ssim: Tensor
    lpips: Tensor
    l2: Tensor
    attack_ssim: Tensor
    attack_lpips: Tensor
    attack_l2: Tensor

    def __len__(self) -> int:
        return len(self.clean)

    def first(self, n: int) -> "Field":
        return Field(*(value[:n] for value in vars(self).values()))

    def json(self) -> dict[str, Any]:
        """Accuracies with intervals, the verdicts as bits, and means."""
        out: dict[str, Any] = {"n": len(self)}
        for name in ("clean", "robust"):
            bits = getattr(self, name)
            out[name] = round(float(bits.double().mean()), 6)
            out[f"{name}_interval"] = [round(v, 6) for v in wilson(int(bits.sum()), len(bits))]
            out[f"{name}_bits"] = "".join("01"[int(bit)] for bit in bits)
        for name in ("ssim", "lpips", "l2"):
            value = float(getattr(self, name).mean())
            out[name] = None if value != value else round(value, 6)
        return out


def field_of(rows: list[Row]) -> Field:
    """The rows of one cell, in any order."""
    ordered = sorted(rows, key=lambda row: row["id"])

    def numbers(key: str) -> Tensor:
        return torch.tensor([float("nan") if row[key] is None else float(row[key]) for row in ordered])

    clean = torch.tensor([row["before"] == row["label"] for row in ordered])
    robust = clean & torch.tensor([row["after"] == row["label"] for row in ordered])
    return Field(clean, robust, *map(numbers, ("ssim", "lpips", "defense_l2", "attack_ssim", "attack_lpips",
                                               "attack_l2")))  # fmt: skip


@dataclass
class Found:
    """What was measured: cells by their names and whose labels the defence had, values of no grid by their names, and
    why something was left out."""

    backbone: str
    cells: dict[tuple[str, Cell], Field] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def get(
        self, target: str, attack: str, defense: str = NONE, *, backbone: str | None = None, treatment: str = NONE,
        labels: str = "classifier",
    ) -> Field | None:  # fmt: skip
        """The cell of these names; None where it was left out. A defence is on the preset's backbone unless said."""
        through = NONE if defense == NONE else backbone or self.backbone
        return self.cells.get((labels, Cell(defense, through, treatment, target, attack)))

    def add(self, labels: str, rows: list[Row]) -> None:
        groups: dict[Cell, list[Row]] = {}
        for row in rows:
            groups.setdefault(cell_of(row), []).append(row)
        for cell, group in groups.items():
            known = self.cells.get((labels, cell))
            if known is None or len(known) < len(group):
                self.cells[labels, cell] = field_of(group)
