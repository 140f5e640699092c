"""Many small files: memory, how busy the compute is, and what ten kills leave.

    python benchmarks/files.py -n 20000 --kills 10 [--preset cifar10]

Makes n pictures, protects them in one unbroken run, then again in a run that is killed (SIGKILL) at random moments and
resumed. Prints the memory of the process after the first 500 pictures and at the end, and the share of the time in
which pictures were computed; fails unless the two output folders have the same files with the same bytes, nothing else
is left in them, and every picture is done once in the report. The preset "tiny" has random networks of a few thousand
weights: it measures all that is around the networks.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mspd import Preset, Protector
from mspd.batch import plan, run
from mspd.models import build, card_of, save_model
from mspd.presets import get_preset
from mspd.protector import Perturbation

EARLY = 500


class Timed(Protector):
    """Counts the seconds spent in the networks."""

    busy = 0.0

    def perturb(self, x: torch.Tensor, *, seed: int = 0) -> list[Perturbation]:
        started = time.perf_counter()
        try:
            return super().perturb(x, seed=seed)
        finally:
            self.busy += time.perf_counter() - started


def tiny(folder: Path) -> Preset:
    """Random networks of 10 classes at 16 pixels."""
    arguments = {"num_classes": 10, "depth": 10, "width": 1}
    names = []
    for seed, name in enumerate(("classifier", "backbone")):
        torch.manual_seed(seed)
        card = {"architecture": "wide_resnet", "arguments": arguments, "classes": card_of("resnext-cifar10")["classes"]}
        names.append(str(folder / f"{name}.safetensors"))
        if not Path(names[-1]).exists():
            save_model(build("wide_resnet", arguments), Path(names[-1]), card)
    return Preset("tiny", names[0], names[1], (), 16, 8 / 255, 1, 0)


def make_pictures(folder: Path, n: int, size: int) -> None:
    """n smooth pictures as PNG files, a thousand a folder."""
    for index in range(n):
        small = np.random.default_rng(index).integers(40, 216, (6, 6, 3), dtype=np.uint8)
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(path)


def megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def protect(preset: str, folder: Path, out: str, n_samples: int, workers: int | None) -> None:
    """The run itself, in a process of its own: a line a picture on stdout, at last the figures."""
    protector = Timed(tiny(folder) if preset == "tiny" else get_preset(preset), n_samples=n_samples)
    early = 0.0
    started = time.perf_counter()
    report = folder / f"{out}.jsonl"
    done = 0
    for row in run(protector, plan([folder / "in"], folder / out), report=report, seed=0, workers=workers):
        assert row["status"] != "failed", row
        done += row["status"] == "done"
        if done == EARLY:
            early = megabytes()
        print(row["status"], flush=True)
    seconds = time.perf_counter() - started
    print(json.dumps({"early": early, "end": megabytes(), "busy": protector.busy / seconds, "seconds": seconds}))


def child(options: argparse.Namespace, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--protect", out, "--work", str(options.work), "--preset", options.preset]
    command += ["--n-samples", str(options.n_samples)]
    command += [] if options.workers is None else ["--workers", str(options.workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def unbroken(options: argparse.Namespace) -> dict[str, Any]:
    with child(options, "unbroken") as process:
        *_, last = process.communicate()[0].splitlines()
    figures: dict[str, Any] = json.loads(last)
    return figures


def broken(options: argparse.Namespace) -> int:
    """Kill at random pictures, a random while after their row, and resume; returns the number of runs killed."""
    chance = random.Random(options.seed)
    killed = 0
    for moment in [*sorted(chance.uniform(0, options.n) for _ in range(options.kills)), None]:
        with child(options, "broken") as process:
            assert process.stdout is not None
            for count, _ in enumerate(process.stdout):
                if moment is not None and count >= moment:
                    time.sleep(chance.uniform(0, 0.1))
                    process.kill()
                    killed += 1
                    break
            else:
                assert process.wait() == 0
    return killed


def check(folder: Path, n: int) -> None:
    """The two runs left the same, every picture once; AssertionError otherwise."""
    left = {out: {p.relative_to(folder / out) for p in (folder / out).rglob("*") if p.is_file()} for out in RUNS}
    assert left["broken"] == left["unbroken"], left["broken"] ^ left["unbroken"]
    assert len(left["broken"]) == n
    for path in left["broken"]:
        assert (folder / "broken" / path).read_bytes() == (folder / "unbroken" / path).read_bytes(), path
    done = [row["id"] for row in map(json.loads, (folder / "broken.jsonl").open()) if row.get("status") == "done"]
    assert len(done) == len(set(done)) == n


RUNS = ("unbroken", "broken")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--preset", default="cifar10", help="cifar10, photo or tiny")
    parser.add_argument("--n-samples", type=int, default=1)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="a folder for the pictures; a temporary one unless given")
    parser.add_argument("--protect", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.protect:
        protect(options.preset, options.work, options.protect, options.n_samples, options.workers)
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        make_pictures(options.work / "in", options.n, 64 if options.preset == "photo" else 32)
        figures = unbroken(options)
        print(f"{options.n} pictures, preset {options.preset}: {options.n / figures['seconds']:.1f} pictures/s")
        if options.n > EARLY:
            growth = figures["end"] / figures["early"] - 1
            print(f"memory: {figures['early']:.0f} MB after {EARLY}, {figures['end']:.0f} at the end ({growth:+.1%})")
        print(f"computing {figures['busy']:.1%} of the time")
        killed = broken(options)
        check(options.work, options.n)
        print(f"{killed} kills: every file there once, none partial, bytes as in the unbroken run")


if __name__ == "__main__":
    main()
