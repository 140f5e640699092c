"""Every defence against every attack on real pictures: hours, so behind the marker (pytest -m science)."""

import importlib.util
from pathlib import Path

import pytest

from mspd.attacks import ATTACKS
from mspd.benchmark import Cell, Summary
from mspd.defenses import DEFENSES

SPEC = importlib.util.spec_from_file_location("every", Path(__file__).parents[1] / "benchmarks" / "every.py")
assert SPEC is not None
assert SPEC.loader is not None
every = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(every)


class Score:
    def __init__(self, defense: str, attack: str, robust_acc: float) -> None:
        self.cell, self.robust_acc, self.n = Cell(defense, "b", "none", "t", attack), robust_acc, 64


def orders(acc: dict[tuple[str, str], float]) -> dict[str, list[str]]:
    scores = tuple(Score(*cell, value) for cell, value in acc.items())
    return dict(every.orders(Summary(Path(), {}, scores)))  # type: ignore[arg-type]


def test_a_violated_order_is_named() -> None:
    base = {"autoattack": 0.30, "pgd": 0.35, "cw": 0.40, "rays": 0.5, "decowa": 0.5, "square": 0.4, "mcg": 0.4}
    acc = {(d, a): base.get(a, 0.36) + 0.1 * (d == "mcgs") for d in ["none", *DEFENSES] for a in ATTACKS}
    assert all(found == [] for found in orders(acc).values())
    found = orders({**acc, ("mcgs", "cw"): 0.2})
    assert found["MCGS above no defence, under every attack"] == ["mcgs/cw 20.0 < none/cw 40.0"]
    assert found["CW above PGD"] == ["mcgs/cw 20.0 < mcgs/pgd 45.0"]
    assert found["AutoAttack lowest of all attacks, but for one picture"] == ["mcgs/cw 20.0 < mcgs/autoattack 40.0"]
    assert orders({**acc, ("a5", "autoattack"): 0.4})["A5 within 2 points of no defence, under AutoAttack"] != []


@pytest.mark.science
def test_every_defence_against_every_attack(data: Path, tmp_path: Path) -> None:
    summary = every.measure(data / "cifar10", tmp_path, 64)
    assert len(summary.scores) == (len(DEFENSES) + 1) * len(ATTACKS)
    assert all(score.n == 64 for score in summary.scores)
    found = dict(every.orders(summary))
    for text in ("MCGS above no defence, under every attack", "AutoAttack lowest of all attacks, but for one picture"):
        assert found[text] == [], text
