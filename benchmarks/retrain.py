"""Does a recipe give its shipped model's accuracy again?

    python benchmarks/retrain.py rn20-cifar10 --data DIR --seeds 0 1 2

Trains the recipe from random weights with each seed and writes the accuracies beside the card's to
docs/results/retrain.md. Half-precision arithmetic is not the same on every processor, so even the card's own seed gives
other weights elsewhere.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from mspd.metrics import wilson
from mspd.models import card_of
from mspd.training import get_recipe, train

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    shipped = card_of(options.recipe)
    with tempfile.TemporaryDirectory() as folder:
        cards = {
            seed: train(get_recipe(options.recipe), options.data, Path(folder) / f"{seed}.safetensors", seed=seed)
            for seed in options.seeds
        }
    n = shipped["clean_n"]
    seeds = " ".join(map(str, options.seeds))
    lines = [
        f"{options.recipe} trained again by its recipe ({shipped['epochs']} epochs); clean accuracy on {n} test "
        f"pictures with its 95 % interval. Made by `python benchmarks/retrain.py {options.recipe} --data DIR --seeds "
        f"{seeds}`.", "",
        "| training | clean | PGD-20 |", "|---|---:|---:|",
    ]  # fmt: skip
    for name, card in {
        f"shipped (seed {shipped['seed']})": shipped,
        **{f"seed {s}": c for s, c in cards.items()},
    }.items():
        low, high = wilson(round(card["clean_acc"] * n), n)
        lines.append(f"| {name} | {card['clean_acc']:.1%} ({low:.1%} to {high:.1%}) | {card['pgd20_acc']:.1%} |")
    accuracies = [card["clean_acc"] for card in cards.values()]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    lines += ["", f"Mean of the seeds {mean:.1%}, standard deviation {100 * spread:.1f} points; the shipped model is "
              f"{100 * (shipped['clean_acc'] - mean):+.1f} points from the mean."]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "retrain.md").write_text(text)


if __name__ == "__main__":
    main()
