"""Our attacks against the official AutoAttack code (package pyautoattack), same settings, same pictures.

    pip install pyautoattack
    python benchmarks/oracles.py --data DIR -n 256

For each shipped CIFAR-10 target and each part of the ensemble: robust accuracy of both, their difference in points, and
our time as a share of theirs (both on the same model in the same process). Written to docs/results/oracles.md.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from mspd import load_model
from mspd.attacks import apgd, apgd_t, autoattack, fab_t, square
from mspd.data import load
from mspd.evaluation import predict
from mspd.presets import get_preset

RESULTS = Path(__file__).parents[1] / "docs" / "results"
BUDGETS = {"Linf": 8 / 255, "L2": 0.5}


def official(model: nn.Module, x: Tensor, y: Tensor, parts: list[str], norm: str, steps: int, queries: int) -> Tensor:
    adversary = AutoAttack(model, attacks=parts, norm=norm, eps=BUDGETS[norm], version="custom", seed=0)
    for part in (adversary.apgd, adversary.apgd_targeted, adversary.fab):
        part.n_iter = steps
    adversary.apgd.n_restarts = adversary.apgd_targeted.n_restarts = adversary.fab.n_restarts = 1
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 9
    adversary.square.n_queries = queries
    result: Any = adversary.run_standard_evaluation(x, y, batch_size=len(x))
    return torch.as_tensor(result[0] if isinstance(result, tuple) else result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10's test.parquet")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100, help="iterations of APGD and FAB")
    parser.add_argument("--queries", type=int, default=5000, help="queries of Square")
    parser.add_argument("--norms", nargs="+", default=["Linf"], choices=list(BUDGETS))
    parser.add_argument("--parts", nargs="+", help="only these", default=None)
    options = parser.parse_args()
    test = load(options.data, "test", size=32, limit=options.n)
    x, y = test.floats(), test.labels
    parts = {
        "APGD-CE": (partial(apgd, steps=options.steps), ["apgd-ce"]),
        "APGD-T": (partial(apgd_t, steps=options.steps), ["apgd-t"]),
        "FAB-T": (partial(fab_t, steps=options.steps), ["fab-t"]),
        "Square": (partial(square, n_queries=options.queries), ["square"]),
        "AutoAttack": (
            partial(autoattack, steps=options.steps, n_queries=options.queries),
            ["apgd-ce", "apgd-t", "fab-t", "square"],
        ),
    }
    lines = [
        f"{options.n} test pictures, {options.steps} iterations, {options.queries} queries, seed 0, "
        f"{torch.get_num_threads()} threads. Made by `python benchmarks/oracles.py --data DIR -n {options.n} --steps "
        f"{options.steps} --queries {options.queries} --norms {' '.join(options.norms)}`.",
        "",
        "| target | norm | attack | clean | ours | official | difference, points | our time / theirs |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in get_preset("cifar10").targets:
        model = load_model(name)
        clean = predict(model, x) == y
        for norm in options.norms:
            for part, (ours, names) in parts.items():
                if options.parts and part not in options.parts:
                    continue
                started = time.perf_counter()
                x_adv = ours(model, x, y, eps=BUDGETS[norm], norm=norm, generator=torch.Generator().manual_seed(0))
                middle = time.perf_counter()
                held = clean & (predict(model, x_adv) == y)
                between = time.perf_counter()
                theirs = official(model, x, y, names, norm, options.steps, options.queries)
                end = time.perf_counter()
                kept = clean & (predict(model, theirs) == y)
                a, b = (float(v.float().mean()) for v in (held, kept))
                lines.append(f"| {name} | {norm} | {part} | {float(clean.float().mean()):.1%} | {a:.1%} | {b:.1%} "
                             f"| {100 * (a - b):+.1f} | {(middle - started) / (end - between):.2f} |")  # fmt: skip
                print(lines[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "oracles.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
