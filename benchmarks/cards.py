"""Check the cards of the shipped classifiers, add what AutoAttack leaves of the robust ones, and list the zoo.

    python benchmarks/cards.py --cifar10 DIR --photo DIR -n 128

For each classifier: its clean accuracy on the first 1,000 test pictures beside the card's, which has that of all of
them and, from here, that of the first 1,000; for each robust one the temperature that calibrates it on these
(mspd.models.calibration) where the card has none, and, on the first `n`, the accuracy under standard
AutoAttack (100 steps, 5,000 queries, the budget of the card's PGD-20). The latter is written into the card;
docs/results/table6.json has it for the targets of Table VI, the others are attacked here, unless their card has it
already for as many pictures. From the cards docs/results/zoo.md is written, each robust model beside the published one
in whose row of Table VI it stands. Exit code 1 when an accuracy is more than a point from what the card has of the same
pictures, or further than chance (three standard errors) from what it has of all.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import mspd
from mspd import evaluate, load_model
from mspd.benchmark.papers.mspd import get_tier
from mspd.data import load
from mspd.metrics import wilson
from mspd.models import PUBLISHED, card_of, list_models
from mspd.models.calibration import temperature

RESULTS = Path(__file__).parents[1] / "docs" / "results"
WEIGHTS = Path(mspd.__file__).parent / "models" / "weights"
FOLDERS = {"CIFAR-10": "cifar10", "Tiny-ImageNet-100": "photo"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder with its test pictures")
    parser.add_argument("--photo", type=Path, help="folder with Tiny-ImageNet-100's")
    parser.add_argument("-n", type=int, default=128, help="pictures for AutoAttack; 0: none")
    parser.add_argument("--only", nargs="+", help="only these models")
    options = parser.parse_args()
    wrong = False
    for name in options.only or list_models():
        card = card_of(name)
        folder = getattr(options, FOLDERS[card["dataset"]])
        if "clean_acc" not in card or folder is None:
            continue
        test = load(folder, "test", size=card["size"], limit=1000)
        x, y = test.floats(), test.labels
        model = load_model(name)
        with torch.no_grad():
            logits = torch.cat([model(piece) for piece in x.split(100)])
        right = int((logits.argmax(1) == y).sum())
        clean, (low, high) = right / len(y), wilson(right, len(y), z=3.0)
        off = abs(clean - card.get("clean_first_1000", clean)) > 0.01 or not low <= card["clean_acc"] <= high
        wrong |= off
        remark = "  OFF" if off else ""
        print(f"{name}: clean {clean:.1%} of {len(y)}, card {card['clean_acc']:.1%}{remark}", flush=True)
        if "clean_first_1000" not in card:
            add(name, {"clean_first_1000": round(clean, 4)})
        if card["eps"] and "temperature" not in card:
            add(name, {"temperature": round(temperature(logits, y), 3)})
        eps, n = card["pgd20_eps"], options.n
        if not card["eps"] or n == 0 or (card.get("autoattack_n"), card.get("autoattack_eps")) == (n, eps):
            continue
        robust = measured(name, eps, n)
        if robust is None:
            robust = evaluate(model, x[:n], y[:n], attack="autoattack", eps=eps, seed=0, fast=True).robust_acc
        print(f"    AutoAttack {eps * 255:g}/255: {robust:.1%}, n = {n}", flush=True)
        added = {"autoattack_acc": round(robust, 4), "autoattack_n": n, "autoattack_eps": eps, "autoattack_seed": 0}
        add(name, added)
    (RESULTS / "zoo.md").write_text(zoo())
    sys.exit(int(wrong))


def add(name: str, entries: dict[str, float]) -> None:
    """Write entries into a model's card."""
    path = WEIGHTS / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}, indent=2, ensure_ascii=False) + "\n")


def measured(target: str, eps: float, n: int) -> float | None:
    """What Table VI has of a target without defence."""
    path = RESULTS / "table6.json"
    table = json.loads(path.read_text()) if path.exists() else {"cells": []}
    for cell in table["cells"]:
        if (cell["target"], cell["defense"], cell["attack"], cell["n"]) == (target, "none", "AutoAttack", n):
            return float(cell["robust"]) if table["settings"]["tier"]["preset"]["eps"] == eps else None
    return None


def zoo() -> str:
    """The robust models from their cards, as a page."""
    published = {model: get_tier("paper").targets.get(row) for row, model in get_tier("embedded").targets.items()}
    lines = [
        "# The robust models that come with mspd", "",
        "Accuracies in %, of as many of the first test pictures as stand behind them, PGD-20 and AutoAttack (standard, "
        "100 steps, 5,000 queries, seed 0) with the budget in the next column. Beside each target of Table VI the "
        "published model in whose row it stands, with the accuracies that RobustBench states (of larger networks "
        "and far longer trainings), and how many points ours are below. Made by "
        "`python benchmarks/cards.py --cifar10 DIR --photo DIR -n N`.", "",
        "| model | network | million weights | training | epochs | seed | clean | PGD-20 | AutoAttack | budget | "
        "published: clean, AutoAttack | below |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name in list_models():
        card = card_of(name)
        if "clean_acc" not in card or not card["eps"]:
            continue
        weights = sum(p.numel() for p in load_model(name).parameters()) / 1e6
        cells = [f"{100 * card[f'{what}_acc']:.1f} ({card[f'{what}_n']})" if f"{what}_acc" in card else "-"
                 for what in ("clean", "pgd20", "autoattack")]  # fmt: skip
        other = PUBLISHED.get(published.get(name) or "")
        best, below = "-", "-"
        if other is not None and other.autoattack_acc is not None:
            best = f"{other.clean_acc:.1f}, {other.autoattack_acc:.1f}"
            attacked = f"{other.autoattack_acc - 100 * card['autoattack_acc']:.1f}" if "autoattack_acc" in card else "-"
            below = f"{other.clean_acc - 100 * card['clean_acc']:.1f}, {attacked}"
        arguments = {key: value for key, value in card["arguments"].items() if key not in ("num_classes", "stats")}
        network = " ".join([card["architecture"], *(f"{key} {value}" for key, value in arguments.items())])
        training = f"{card['training'].removeprefix('adversarial ').strip('()')} at {card['eps'] * 255:g}/255"
        lines.append(
            f"| {name} | {network} | {weights:.1f} | {training} | {card['epochs']} | {card['seed']} | "
            f"{' | '.join(cells)} | {card['pgd20_eps'] * 255:g}/255 | {best} | {below} |"
        )
    lines += [
        "",
        "Epochs are those of the last training; what it started from, and the command, are in the card "
        "(`mspd.models.card_of`). CIFAR-10 is, for training and test alike, a copy whose pictures were JPEG-coded.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
