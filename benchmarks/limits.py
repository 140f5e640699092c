"""What protection does not withstand, and whom it does not help: recompression, reversion, ordinary models.

    python benchmarks/limits.py cifar10 --data DIR -n 1000

White reversion: the attacker runs the same defence, same backbone and settings, on the protected picture and takes
the move back (2 x_def - defence(x_def)); black: with an ordinary network as the backbone. Written to
docs/results/limits.md.
"""

import argparse
from pathlib import Path

from torch import Tensor

from mspd import Protector, evaluate, load_model
from mspd.data import load
from mspd.images import to_levels
from mspd.metrics import gain_cell, ssim
from mspd.presets import get_preset
from mspd.purifiers import jpeg
from mspd.reversion import reflect

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def reverted(x_def: Tensor, protector: Protector) -> Tensor:
    """2 x_def - defence(x_def), on the 8-bit grid, with the label read again."""
    again = protector(x_def, seed=1)
    return to_levels(reflect(x_def, again)) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=["cifar10"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-n", type=int, default=1000)
    options = parser.parse_args()
    preset = get_preset(options.preset)
    test = load(options.data, "test", size=preset.size, limit=options.n)
    x, y = test.floats(), test.labels
    protector = Protector(preset)
    x_def = protector(x)
    ordinary = "rn20-cifar10"
    versions = {
        "no defence": x,
        "protected": x_def,
        "no defence, JPEG 75": jpeg(x, quality=75),
        "protected, JPEG 75": jpeg(x_def, quality=75),
        "no defence, JPEG 50": jpeg(x, quality=50),
        "protected, JPEG 50": jpeg(x_def, quality=50),
        "protected, black reversion": reverted(x_def, Protector(preset, backbone=ordinary)),
        "protected, white reversion": reverted(x_def, protector),
    }
    names = (*preset.targets, ordinary)
    lines = [
        f"{options.n} test pictures, eps {preset.eps * 255:g}/255, n_samples {preset.n_samples}, PGD-20 with the fast "
        f"gradients of `prepare`, seed 0; {ordinary} is the ordinary model. In brackets: points over no defence, 95 % "
        "interval. "
        f"Made by `python benchmarks/limits.py {options.preset} --data DIR -n {options.n}`.",
        "",
        "| version | SSIM | " + " | ".join(f"{name} clean | robust" for name in names) + " |",
        "|---|---:|" + "---:|---:|" * len(names),
    ]
    base = {}
    for version, z in versions.items():
        cells = []
        for name in names:
            found = evaluate(load_model(name), z, y, eps=preset.eps, fast=True, stop_early=True).per_image
            base.setdefault(name, found)
            for kind in ("clean", "robust"):
                plain = f"{float(found[kind].double().mean()):.1%}"
                cells.append(plain if version == "no defence" else gain_cell(base[name][kind], found[kind]))
        lines.append(f"| {version} | {float(ssim(z, x).mean()):.3f} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "limits.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
