"""Our attacks against those of other libraries, same settings, same pictures: PGD against torchattacks and foolbox, the
parts of AutoAttack and the whole against its official code (package pyautoattack); and how RayS's distances fall.

    pip install pyautoattack torchattacks foolbox
    python benchmarks/oracles.py --data DIR -n 256

For each shipped CIFAR-10 target and each attack: robust accuracy of both, their difference in points, and our time as a
share of theirs (both on the same model in the same process). Written to docs/results/oracles.md, or with `--parts` to a
file with their names. The official Square draws one window for all pictures at once, so its accuracy scatters more with
the seed than that of independent draws: `--parts Square --seeds 0 1 2` takes means.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import foolbox
import torch
import torchattacks
from pyautoattack import AutoAttack
from torch import Tensor, nn

from mspd import load_model
from mspd.adapters import from_foolbox, from_torchattacks
from mspd.attacks import apgd, apgd_t, autoattack, fab_t, pgd, rays, square
from mspd.data import load
from mspd.evaluation import predict
from mspd.presets import get_preset

RESULTS = Path(__file__).parents[1] / "docs" / "results"
BUDGETS = {"Linf": 8 / 255, "L2": 0.5}
PGD_STEPS = 20
#: of RayS, at which its distances are told, and for how many pictures
RAYS_QUERIES, RAYS_PICTURES = (100, 300, 1000, 3000), 64


def official(
    model: nn.Module, x: Tensor, y: Tensor, *, parts: list[str], norm: str, seed: int, steps: int, queries: int
) -> Tensor:
    adversary = AutoAttack(model, attacks=parts, norm=norm, eps=BUDGETS[norm], version="custom", seed=seed)
    for part in (adversary.apgd, adversary.apgd_targeted, adversary.fab):
        part.n_iter = steps
    adversary.apgd.n_restarts = adversary.apgd_targeted.n_restarts = adversary.fab.n_restarts = 1
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 9
    adversary.square.n_queries = queries
    result: Any = adversary.run_standard_evaluation(x, y, batch_size=len(x))
    return torch.as_tensor(result[0] if isinstance(result, tuple) else result)


def other_pgd(library: str, norm: str) -> Callable[..., Tensor]:
    """PGD of another library, with steps of eps / 4 from a random start."""
    eps = BUDGETS[norm]
    if library == "foolbox":
        kind = foolbox.attacks.LinfPGD if norm == "Linf" else foolbox.attacks.L2PGD
        return from_foolbox(kind(steps=PGD_STEPS, rel_stepsize=0.25), norm=norm)
    if norm == "Linf":
        return from_torchattacks(torchattacks.PGD, alpha=eps / 4, steps=PGD_STEPS)
    return from_torchattacks(torchattacks.PGDL2, norm="L2", alpha=eps / 4, steps=PGD_STEPS)


def rays_lines(data: Tensor, labels: Tensor) -> list[str]:
    """How near RayS gets with how many queries, on the pictures that each target reads right."""
    lines = [
        "", f"RayS: the median Linf distance of the nearest misread point found, in grey levels, of those of the first "
        f"{RAYS_PICTURES} pictures that the target reads right, and how many are within 8; PGD: how many PGD-20 makes "
        "it misread at 8/255.", "",
        "| target | pictures | " + " | ".join(f"{q} queries" for q in RAYS_QUERIES) + " | PGD |",
        "|---|---:" + "|---:" * (len(RAYS_QUERIES) + 1) + "|",
    ]  # fmt: skip
    eps = BUDGETS["Linf"]
    for name in get_preset("cifar10").targets:
        model = load_model(name)
        x, y = data[:RAYS_PICTURES], labels[:RAYS_PICTURES]
        right = predict(model, x) == y
        x, y = x[right], y[right]
        cells = []
        for queries in RAYS_QUERIES:
            found = torch.empty(len(x))
            generator = torch.Generator().manual_seed(0)
            rays(model, x, y, eps=eps, generator=generator, n_queries=queries, stop_early=False, distances=found)
            cells.append(f"{255 * float(found.median()):.1f} ({int((found <= eps).sum())})")
        x_adv = pgd(model, x, y, eps=eps, generator=torch.Generator().manual_seed(0), steps=PGD_STEPS)
        cells.append(str(int((predict(model, x_adv) != y).sum())))
        lines.append(f"| {name} | {len(x)} | {' | '.join(cells)} |")
    return lines


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
    parts: dict[str, tuple[Callable[..., Tensor], str | list[str]]] = {
        "PGD, torchattacks": (partial(pgd, steps=PGD_STEPS), "torchattacks"),
        "PGD, foolbox": (partial(pgd, steps=PGD_STEPS), "foolbox"),
        "APGD-CE": (partial(apgd, steps=options.steps), ["apgd-ce"]),
        "APGD-T": (partial(apgd_t, steps=options.steps), ["apgd-t"]),
        "FAB-T": (partial(fab_t, steps=options.steps), ["fab-t"]),
        "Square": (partial(square, n_queries=options.queries), ["square"]),
        "AutoAttack": (
            partial(autoattack, steps=options.steps, n_queries=options.queries),
            ["apgd-ce", "apgd-t", "fab-t", "square"],
        ),
    }
    chosen_parts = options.parts or [*parts, "RayS"]
    seeds = "seed 0" if options.seeds == [0] else f"means of seeds {', '.join(map(str, options.seeds))}"
    chosen = "" if options.parts is None else f" --parts {' '.join(options.parts)}"
    chosen += "" if options.seeds == [0] else f" --seeds {' '.join(map(str, options.seeds))}"
    lines = [
        f"{options.n} test pictures, {options.steps} iterations (PGD {PGD_STEPS}), {options.queries} queries, {seeds}, "
        f"{torch.get_num_threads()} threads. Made by `python benchmarks/oracles.py --data DIR -n {options.n} --steps "
        f"{options.steps} --queries {options.queries} --norms {' '.join(options.norms)}{chosen}`.",
        "",
        "| target | norm | attack | clean | ours | theirs | difference, points | ours by seed | theirs by seed "
        "| our time / theirs |",
        "|---|---|---|---:|---:|---:|---:|---|---|---:|",
    ]
    for name in get_preset("cifar10").targets:
        model = load_model(name)
        clean = predict(model, x) == y
        for norm in options.norms:
            for part, (ours, theirs) in parts.items():
                if part not in chosen_parts:
                    continue
                found: list[list[float]] = [[], []]
                spent = [0.0, 0.0]
                for seed in options.seeds:
                    generator = torch.Generator().manual_seed(seed)
                    budget = {"eps": BUDGETS[norm], "norm": norm}
                    other = (
                        partial(other_pgd(theirs, norm), **budget, generator=torch.Generator().manual_seed(seed))
                        if isinstance(theirs, str)
                        else partial(official, parts=theirs, norm=norm, seed=seed, steps=options.steps,
                                     queries=options.queries)
                    )  # fmt: skip
                    calls = (
                        partial(ours, model, x, y, **budget, generator=generator),
                        partial(other, model, x, y),
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
    if "RayS" in chosen_parts:
        lines += rays_lines(x, y)
        print("\n".join(lines[-3:]), flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["oracles", *(part.lower().replace(", ", "-") for part in options.parts or [])])
    (RESULTS / f"{stem}.md").write_text("\n".join(lines) + "\n")


def spread(rates: list[float]) -> str:
    """The least and the most of several seeds."""
    return "" if len(rates) == 1 else f"{min(rates):.1%} to {max(rates):.1%}"


if __name__ == "__main__":
    main()
