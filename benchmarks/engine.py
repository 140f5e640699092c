"""How fast the engine is, against a plain float32 loop of the same algorithm in the same process.

    python benchmarks/engine.py --data DIR

Prints and writes to docs/results/engine.md: the ratio at batch 1 and 64, the share of the machine's matrix-product
rate (bfloat16 where the processor is faster at it, else float32), peak memory, the share of 8-bit pixels that differ
from the plain loop's, and seconds against n_samples (beside the robust accuracy of docs/results/gain-cifar10.json, when
it is there).
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mspd import images, load_model, prepare
from mspd.ball import image_generators, random_offsets
from mspd.data import load
from mspd.defenses import mcgs
from mspd.objectives import cross_entropy
from mspd.training.loop import matmul_rate
from mspd.training.precision import bfloat16_is_faster

RESULTS = Path(__file__).parents[1] / "docs" / "results"
EPS = 8 / 255


def plain_mcgs(model: nn.Module, x: Tensor, y: Tensor, n_samples: int, *, stacked: bool = False) -> Tensor:
    """MCGS as one would first write it: float32, one noisy copy of the batch after the other (or all in one call)."""
    generators = image_generators(x, torch.Generator().manual_seed(0))
    centre = x
    for direction in (-1, 1):
        noise = random_offsets((n_samples, *x.shape[1:]), EPS, "Linf", generators).transpose(0, 1)
        total = torch.zeros_like(x)
        for copies in [noise] if stacked else noise.split(1):
            c, labels = (v.repeat(len(copies), *[1] * (v.ndim - 1)) for v in (centre, y))
            z = (c + copies.flatten(0, 1)).clamp(0, 1).requires_grad_(True)
            (gradient,) = torch.autograd.grad(cross_entropy(model(z), labels).sum(), z)
            z = z.detach() + direction * EPS * gradient.sign()
            z = torch.minimum(torch.maximum(z, c - EPS), c + EPS).clamp(0, 1)
            total += z.view(len(copies), *x.shape).sum(0)
        reached = total / n_samples
        centre = centre - direction * (reached - centre)
        centre = torch.minimum(torch.maximum(centre, x - EPS), x + EPS).clamp(0, 1)
    return centre


def fastest(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each call, the calls alternating."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def peak_memory(kind: str, data: Path) -> float:
    """Megabytes that 64 pictures add to a fresh process's peak."""
    command = [sys.executable, __file__, "--data", str(data), "--memory", kind]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10's test.parquet")
    parser.add_argument("--backbone", default="prn18-cifar10")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=["ours", "plain", "stacked"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    test = load(options.data, "test", limit=100)
    x, y = test.floats(), test.labels
    model = load_model(options.backbone)
    half = bfloat16_is_faster(torch.device("cpu"))
    fast, rough = prepare(model), prepare(model, dtype=torch.bfloat16)

    def ours(batch: int, n: int, backbone: nn.Module = fast) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return mcgs(backbone, x[:batch], y[:batch], eps=EPS, generator=generator, n_samples=n)

    if options.memory:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if options.memory == "ours":
            ours(64, 20)
        else:
            plain_mcgs(model, x[:64], y[:64], 20, stacked=options.memory == "stacked")
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return

    # before this process grows: on Linux a child's peak starts with its parent's
    memory = ", ".join(f"{kind} {peak_memory(kind, options.data):.0f} MB" for kind in ("ours", "plain", "stacked"))
    peak = matmul_rate(torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x[:1])
    flops = 2 * counter.get_total_flops()
    lines = [
        f"Backbone {options.backbone}, eps 8/255, {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, bfloat16 {'faster' if half else 'slower'} "
        f"than float32; least of {options.repeats} alternating repeats. Made by "
        f"`python benchmarks/engine.py --data DIR`.",
        "",
        "How many times faster, n_samples 20:",
        "",
        "| batch | than a loop over copies | than all copies in one call | in bfloat16 than the loop | than one call |",
        "|---|---:|---:|---:|---:|",
    ]
    shares = []
    for batch in (1, 64):
        calls: dict[str, Callable[[], object]] = {
            "ours": lambda batch=batch: ours(batch, 20),
            "loop": lambda batch=batch: plain_mcgs(model, x[:batch], y[:batch], 20),
            "stacked": lambda batch=batch: plain_mcgs(model, x[:batch], y[:batch], 20, stacked=True),
        }
        if half:
            calls["rough"] = lambda batch=batch: ours(batch, 20, rough)
        seconds = fastest(calls, options.repeats)
        ratios = [
            f"{seconds[other] / seconds[own]:.2f}" if own in seconds else "not run"
            for own in ("ours", "rough") for other in ("loop", "stacked")
        ]  # fmt: skip
        shares.append(batch * 40 * flops / seconds["ours"] / peak)
        lines.append(f"| {batch} | {' | '.join(ratios)} |")
    lines += [
        "",
        f"Share of the {'bfloat16' if half else 'float32'} matrix-product rate of the machine: {shares[0]:.0%} at "
        f"batch 1, {shares[1]:.0%} at 64.",
        f"Peak memory that 64 pictures add: {memory} (plain: loop over copies; stacked: all copies in one call).",
        "",
        "| n_samples | time (1 = n_samples 20) | 8-bit values that differ from plain float32 | in bfloat16 | "
        "robust accuracy gain |",
        "|---:|---:|---:|---:|---:|",
    ]
    gains = robust_gains()
    sizes = (20, 10, 5, 4, 2, 1)
    seconds_of = fastest({str(n): (lambda n=n: ours(64, n)) for n in sizes}, options.repeats)
    for n in sizes:
        plain = images.quantise(plain_mcgs(model, x, y, n), x, EPS)
        differ, rounded = (
            f"{float((images.quantise(ours(100, n, backbone), x, EPS) != plain).float().mean()):.2%}"
            for backbone in (fast, rough)
        )
        share = seconds_of[str(n)] / seconds_of["20"]
        lines.append(f"| {n} | {share:.2f} | {differ} | {rounded} | {gains.get(n, 'not measured')} |")
    lines += [
        "",
        "Robust accuracy gain: points over no defence under PGD-20, mean of the targets of gain-cifar10.md, which has "
        "n and seed.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "engine.md").write_text(text)


def robust_gains() -> dict[int, str]:
    """Mean gain in robust accuracy over the unseen targets, from the gain table's results."""
    path = RESULTS / "gain-cifar10.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["rows"]

    def robust(row: str) -> float:
        scores = [score["robust"] for score in rows[row].values()]
        return sum(s.count("1") / len(s) for s in scores) / len(scores)

    names = {n: f"MCGS, n_samples {n}" for n in (20, 10, 5, 4, 2, 1)}
    return {n: f"{100 * (robust(name) - robust('no defence')):+.1f}" for n, name in names.items() if name in rows}


if __name__ == "__main__":
    main()
