"""What protection gains on robust models that the defence never saw: the table in the README.

    python benchmarks/gain.py cifar10 --data DIR --out DIR -n 2000

Each row defends the same test pictures, writes them as 8-bit PNG files, reads the files back and scores the targets on
them: clean accuracy, and PGD-20 accuracy with the budget around the defended picture. The attack's gradients are
those of `mspd.prepare` (`--exact`: plain float32); every verdict is float32. Results go to docs/results/ as JSON
and Markdown; what is already there with the same n, seed and weights is kept, and only the rest is measured.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mspd import Protector, evaluate, images, load_model, prepare
from mspd.benchmark.store import read_png, save_png
from mspd.data import load
from mspd.defenses import mcgs
from mspd.metrics import gain_cell
from mspd.models import card_of
from mspd.presets import get_preset

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@dataclass(frozen=True)
class Row:
    """One defence: its name and the settings of MCGS; None is no defence. `ceiling` uses true labels and the target
    itself as the backbone; `own` does as `protect`, others take the classifier's labels and the backbone as it is."""

    name: str
    settings: dict[str, Any] | None = field(default_factory=dict)
    ceiling: bool = False
    own: bool = False


ROWS = (
    Row("no defence", None),
    Row("as mspd protect does, its backbone calibrated", own=True),
    *(Row(f"MCGS, n_samples {n}", {"n_samples": n}) for n in (2, 20, 1, 5)),
    Row("MCGS, Eq. 5 (gradients averaged), n_samples 2", {"n_samples": 2, "average": "gradients"}),
    Row("forward epoch alone, n_samples 2", {"n_samples": 2, "epochs": "F"}),
    Row("backward epoch alone, n_samples 2", {"n_samples": 2, "epochs": "B"}),
    Row("ceiling: true labels, backbone = target, n_samples 2", {"n_samples": 2}, ceiling=True),
    Row("no smoothing (one gradient at the centre)", {"noise": False}),
    *(Row(f"MCGS, n_samples {n}", {"n_samples": n}) for n in (10, 4)),
)


def through_files(x: Tensor, x_def: Tensor, eps: float) -> Tensor:
    """x_def written as PNG files, as `protect` writes them and checked against x, then read back."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.png" for index in range(len(x))]
        for path, image, defended in zip(paths, x.split(1), x_def.split(1), strict=True):
            save_png(defended, image, path, eps)
        return read_png(paths)


def measure(preset_name: str, data: Path, folder: Path, n: int, seed: int, exact: bool, only: str | None) -> Path:
    preset = get_preset(preset_name)
    out = folder / f"gain-{preset_name}.json"
    weights = {name: card_of(name)["sha256"][:12] for name in (preset.classifier, preset.backbone, *preset.targets)}
    setting = {
        "preset": preset_name,
        "eps": preset.eps,
        "attack": "pgd, 20 steps of eps/4 or until misread, one random start",
        "n": n,
        "seed": seed,
        "attack_gradients": "plain float32" if exact else "of mspd.prepare",
        "weights": weights,
    }
    rows = kept(json.loads(out.read_text()), setting) if out.exists() else {}
    test = load(data, "test", size=preset.size, limit=n)
    x, y = test.floats(), test.labels
    protector = Protector(preset)
    aims, probabilities = protector.aims(x)
    labels = protector.labels(probabilities)
    targets = {name: load_model(name) for name in preset.targets}
    classifier_acc = float((probabilities.argmax(1) == y).float().mean())
    for row in ROWS:
        scores = rows.get(row.name, {})
        missing = [name for name in targets if name not in scores]
        if not missing or (only and only not in row.name):
            continue
        for name in missing:
            target, started = targets[name], time.perf_counter()
            if row.settings is None:
                x_def = x
            elif name == missing[0] or row.ceiling:
                model, aim = protector.backbone, labels
                if row.own:
                    model, aim = protector.calibrated, aims
                elif row.ceiling:
                    model, aim = prepare(target), y
                generator = torch.Generator().manual_seed(seed)
                settings = {"n_samples": preset.n_samples, **row.settings}
                x_def = mcgs(model, x, aim, eps=preset.eps, generator=generator, **settings)
                x_def = through_files(x, images.quantise(x_def, x, preset.eps), preset.eps)
            report = evaluate(
                target, x_def, y, attack="pgd", eps=preset.eps, seed=seed, fast=not exact, stop_early=True
            )
            scores[name] = {
                "clean": "".join("01"[int(b)] for b in report.per_image["clean"]),
                "robust": "".join("01"[int(b)] for b in report.per_image["robust"]),
                "linf": float((x_def - x).abs().max() * 255),
            }
            spent = time.perf_counter() - started
            print(f"{row.name:52s} {name:18s} clean {report.clean_acc:.1%} robust {report.robust_acc:.1%}"
                  f"  ({spent:.0f} s)", flush=True)  # fmt: skip
        rows[row.name] = scores
        result = {"setting": setting, "classifier_acc": classifier_acc, "command":
                  f"python benchmarks/gain.py {preset_name} --data DIR -n {n} --seed {seed}", "rows": rows}  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(result))
    print(table(json.loads(out.read_text())))
    return out


def kept(done: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """The rows measured before in this setting: all of them if at most the targets became more, else none."""
    earlier = done["setting"]
    grown = earlier["weights"].items() <= setting["weights"].items()
    return done["rows"] if grown and {**earlier, "weights": setting["weights"]} == setting else {}


def bits(text: str) -> Tensor:
    return torch.tensor([c == "1" for c in text])


def table(result: dict[str, Any]) -> str:
    """Markdown: accuracy of each target, and the gain over no defence with its paired 95 % interval, in points."""
    setting, rows = result["setting"], result["rows"]
    names = list(rows["no defence"])
    lines = [
        f"{setting['n']} test pictures, eps {setting['eps'] * 255:g}/255, {setting['attack']}, seed {setting['seed']}, "
        f"attack gradients {setting['attack_gradients']}; classifier {result['classifier_acc']:.1%}. "
        f"Made by `{result['command']}`.",
        "",
        "| defence | " + " | ".join(f"{name} clean | robust" for name in names) + " |",
        "|---|" + "---:|---:|" * len(names),
    ]
    for row, scores in rows.items():
        cells = []
        for name in names:
            for kind in ("clean", "robust"):
                if name not in scores:
                    cells.append("-")
                    continue
                after = bits(scores[name][kind])
                plain = f"{float(after.double().mean()):.1%}"
                cells.append(plain if row == "no defence" else gain_cell(bits(rows["no defence"][name][kind]), after))
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=["cifar10", "photo"])
    parser.add_argument("--data", type=Path, required=True, help="folder with test.parquet or valid.parquet")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder; rows there of the same settings are kept")
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="float32 attack gradients")
    parser.add_argument("--only", help="rows whose name contains this")
    options = parser.parse_args()
    measure(options.preset, options.data, options.out, options.n, options.seed, options.exact, options.only)
