"""Our attacks against the official AutoAttack code (package pyautoattack), same settings, same pictures.

    pip install pyautoattack
    python benchmarks/oracles.py --data DIR -n 256

For each shipped CIFAR-10 target and each part of the ensemble: robust accuracy of both, their difference in points, and
our time as a share of theirs (both on the same model in the same process). Written to docs/results/oracles.md, or with
`--parts` to a file with their names. The official Square draws one window for all pictures at once, so its accuracy
scatters more with the seed than that of independent draws: `--parts Square --seeds 0 1 2` takes means.
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


def official(
    model: nn.Module, x: Tensor, y: Tensor, parts: list[str], norm: str, seed: int, steps: int, queries: int
) -> Tensor:
    adversary = AutoAttack(model, attacks=parts, norm=norm, eps=BUDGETS[norm], version="custom", seed=seed)
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
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
    seeds = "seed 0" if options.seeds == [0] else f"means of seeds {', '.join(map(str, options.seeds))}"
    chosen = "" if options.parts is None else f" --parts {' '.join(options.parts)}"
    chosen += "" if options.seeds == [0] else f" --seeds {' '.join(map(str, options.seeds))}"
    lines = [
        f"{options.n} test pictures, {options.steps} iterations, {options.queries} queries, {seeds}, "
        f"{torch.get_num_threads()} threads. Made by `python benchmarks/oracles.py --data DIR -n {options.n} --steps "
        f"{options.steps} --queries {options.queries} --norms {' '.join(options.norms)}{chosen}`.",
        "",
        "| target | norm | attack | clean | ours | official | difference, points | ours by seed | official by seed "
        "| our time / theirs |",
        "|---|---|---|---:|---:|---:|---:|---|---|---:|",
    ]
    for name in get_preset("cifar10").targets:
        model = load_model(name)
        clean = predict(model, x) == y
        for norm in options.norms:
            for part, (ours, names) in parts.items():
                if options.parts and part not in options.parts:
                    continue
                found: list[list[float]] = [[], []]
                spent = [0.0, 0.0]
                for seed in options.seeds:
                    generator = torch.Generator().manual_seed(seed)
                    budget = {"eps": BUDGETS[norm], "norm": norm}
                    calls = (
                        partial(ours, model, x, y, **budget, generator=generator),
                        partial(official, model, x, y, names, norm, seed, options.steps, options.queries),
                    )
                    for which, call in enumerate(calls):
                        started = time.perf_counter()
                        x_adv = call()
                        spent[which] += time.perf_counter() - started
                        found[which].append(float((clean & (predict(model, x_adv) == y)).float().mean()))
                a, b = (sum(rates) / len(rates) for rates in found)
                lines.append(f"| {name} | {norm} | {part} | {float(clean.float().mean()):.1%} | {a:.1%} | {b:.1%} "
                             f"| {100 * (a - b):+.1f} | {spread(found[0])} | {spread(found[1])} "
                             f"| {spent[0] / spent[1]:.2f} |")  # fmt: skip
                print(lines[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["oracles", *(part.lower() for part in options.parts or [])])
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")


def spread(rates: list[float]) -> str:
    """The least and the most of several seeds."""
    return "" if len(rates) == 1 else f"{min(rates):.1%} to {max(rates):.1%}"


if __name__ == "__main__":
    main()
