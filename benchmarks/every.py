"""Every defence against every attack, on a few pictures: does the order of the published tables hold here?

    python benchmarks/every.py --data DIR --out RUNS -n 64

The baselines take their label from their own backbone, as published, and 10 epochs instead of 100; AutoAttack takes 20
steps and 500 queries, the query attacks 500 queries, DeCoWA 5 warps. Resumable; rows in RUNS, the table and the verdict
on each order in docs/results/every.md.
"""

import argparse
from functools import partial
from pathlib import Path

from mspd.attacks import ATTACKS
from mspd.benchmark import Summary, benchmark, markdown
from mspd.benchmark.papers.mspd.coupled import coupled
from mspd.defenses import DEFENSES

RESULTS = Path(__file__).parents[1] / "docs" / "results"
QUERIES = 500
SHORT = {"unadv": {"epochs": 10}, "bilevel": {"epochs": 10}, "cascade": {}}
ROWS = {
    name: partial(coupled, defense=partial(defense, **SHORT[name])) if name in SHORT else defense
    for name, defense in DEFENSES.items()
}
CHEAP = {
    "autoattack": {"steps": 20, "n_queries": QUERIES},
    "apgd": {"steps": 20},
    "apgd_t": {"steps": 20},
    "fab_t": {"steps": 20},
    "square": {"n_queries": QUERIES},
    "rays": {"n_queries": QUERIES},
    "mcg": {"n_queries": QUERIES},
    "decowa": {"warps": 5},
}
CASES = {name: partial(attack, **CHEAP.get(name, {})) for name, attack in ATTACKS.items()}


def measure(data: Path, out: Path, n: int) -> Summary:
    return benchmark(data, out, defenses=ROWS, targets="wrn16-2-cifar10", attacks=CASES, n=n)


def orders(summary: Summary) -> list[tuple[str, list[str]]]:
    """Each published order, and where it does not hold: robust accuracies, both in points."""
    acc = {(s.cell.defense, s.cell.attack): s.robust_acc * 100 for s in summary.scores}

    def above(pairs: list[tuple[tuple[str, str], tuple[str, str]]], slack: float = 0.0) -> list[str]:
        """Pairs of cells of which the first should not lie more than `slack` points below the second."""
        return [
            f"{'/'.join(low)} {acc[low]:.1f} < {'/'.join(high)} {acc[high]:.1f}"
            for low, high in pairs
            if acc[low] < acc[high] - slack - 1e-9
        ]

    one = 100 / summary.scores[0].n
    names = ["none", *ROWS]
    others = [name for name in CASES if name != "autoattack"]
    return [
        ("MCGS above no defence, under every attack", above([(("mcgs", a), ("none", a)) for a in CASES])),
        ("MCGS highest of all defences, under every attack",
         above([(("mcgs", a), (d, a)) for a in CASES for d in names if d != "mcgs"])),
        ("AutoAttack lowest of all attacks, but for one picture",
         above([((d, a), (d, "autoattack")) for d in names for a in others], one)),
        ("CW above PGD", above([((d, "cw"), (d, "pgd")) for d in names])),
        ("RayS and DeCoWA above PGD", above([((d, a), (d, "pgd")) for d in names for a in ("rays", "decowa")])),
        ("MCG at most Square, but for one picture", above([((d, "square"), (d, "mcg")) for d in names], one)),
        ("A5 within 2 points of no defence, under AutoAttack",
         above([(("none", "autoattack"), ("a5", "autoattack")), (("a5", "autoattack"), ("none", "autoattack"))], 2.0)),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10's test.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for the rows")
    parser.add_argument("-n", type=int, default=64)
    options = parser.parse_args()
    summary = measure(options.data, options.out, options.n)
    lines = [f"Made by `python benchmarks/every.py --data DIR --out RUNS -n {options.n}`, with reduced settings.", ""]
    for text, found in orders(summary):
        lines.append(f"- {text}: {'holds' if not found else 'does not hold: ' + '; '.join(found)}")
    text = "\n".join(lines) + "\n\n" + markdown(summary)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "every.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
