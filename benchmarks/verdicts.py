"""How often `verify` is right: on protected copies, on plain copies, on copies with random noise of the same budget.

    python benchmarks/verdicts.py photo --data DIR -n 60

Prints, and writes to docs/results/verdicts-PRESET.md, the gains that `verify` finds (growth of the label's lead under
attack, in logits) and how many of each kind it calls helpful.
"""

import argparse
from pathlib import Path

import numpy as np

from mspd import Verifier
from mspd.data import load
from mspd.presets import get_preset
from mspd.verify import LEAST

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=["cifar10", "photo"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-n", type=int, default=60)
    options = parser.parse_args()
    preset = get_preset(options.preset)
    verifier = Verifier(preset.name)
    levels = round(preset.eps * 255)
    rng = np.random.default_rng(0)
    gains: dict[str, list[float]] = {}
    helpful: dict[str, int] = {}
    test = load(options.data, "test", size=preset.size, limit=options.n)
    for index, image in enumerate(test.images):
        pixels = image.permute(1, 2, 0).numpy()
        label = verifier.label(pixels)[0]
        signs = levels * rng.choice([-1, 1], pixels.shape)
        copies = {
            "plain copy": pixels,
            "uniform noise": np.clip(pixels + rng.integers(-levels, levels + 1, pixels.shape), 0, 255).astype(np.uint8),
            "noise of +eps and -eps": np.clip(pixels + signs, 0, 255).astype(np.uint8),
            "protected": verifier.protector.protect_pixels(pixels, seed=index)[0],
        }
        before = {target: verifier.attacked_margin(target, pixels, label) for target in preset.targets}
        for kind, changed in copies.items():
            growth = [verifier.attacked_margin(t, changed, label) - before[t] for t in preset.targets]
            gain = float(np.mean(growth))
            gains.setdefault(kind, []).append(gain)
            helps = gain > LEAST and gain > verifier.chance(pixels, changed, label)  # which is no less, and slow
            helpful[kind] = helpful.get(kind, 0) + helps
    lines = [
        f"{options.n} test pictures, preset {preset.name}, each compared with noise as strong. Made by "
        f"`python benchmarks/verdicts.py {preset.name} --data DIR -n {options.n}`.",
        "",
        "| copy | called helpful | gain: least | 5 % | median | 95 % | most |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, values in gains.items():
        spread = " | ".join(f"{v:+.2f}" for v in np.quantile(values, (0, 0.05, 0.5, 0.95, 1)))
        lines.append(f"| {kind} | {helpful[kind]} of {options.n} | {spread} |")
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"verdicts-{preset.name}.md").write_text(text)


if __name__ == "__main__":
    main()
