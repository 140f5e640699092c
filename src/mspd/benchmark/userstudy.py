"""The paper's user study (Table IX): 200 blinded pictures in one HTML page, and the table from the answers.

Half of the pictures are protected by MCGS, half attacked by PGD, with one budget, in five conditions: as they are,
sharpened, brighter, with more contrast, and compressed. Each is shown beside its original in the same condition; people
say whether it looks worse. The strengths are not in the paper; they are ours.
"""

import base64
import hashlib
import html
import io
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from mspd.attacks import pgd
from mspd.benchmark.store import write
from mspd.data import load
from mspd.data.classes import check_classes
from mspd.errors import InputError, MspdError, UsageError
from mspd.images import quantise, to_pixels, to_tensor
from mspd.metrics import lpips, ssim, wilson
from mspd.models import load_model
from mspd.protector import Protector
from mspd.purifiers.jpeg import recoded
from mspd.smoothing import prepare

METHODS = ("PGD", "MCGS")
#: pictures of each method in each condition
EACH = 20
#: images judged degraded, of 20 in each condition
PAPER = {"PGD": (3, 6, 4, 4, 3), "MCGS": (1, 2, 1, 1, 1)}


CONDITIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "raw": lambda image: image,
    "sharpened": lambda image: ImageEnhance.Sharpness(image).enhance(2.0),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.5),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
    "compressed": lambda image: Image.fromarray(recoded(np.asarray(image), 50)),
}


def make(data: Path, out: Path, *, preset: str = "cifar10", seed: int = 0, device: str = "auto") -> str:
    """Write study.html for the participants, key.json for whoever scores and the proxy as proxy.md, from the first 100
    test pictures; return the proxy. Both methods get the same pictures in the same condition. UsageError when there are
    fewer, or when `out` holds a study already."""
    if any((out / name).exists() for name in ("study.html", "key.json")):
        raise UsageError(f"{out}: holds a study already; choose another folder")
    protector = Protector(preset, n_samples=20, device=device)
    settings = protector.settings
    needed = EACH * len(CONDITIONS)
    test = load(data, "test", size=settings.size, limit=needed, like=protector.classes)
    check_classes(test.classes, protector.classes, f"classifier {settings.classifier}")
    if len(test) < needed:
        raise UsageError(f"{data}: has {len(test)} test pictures, the study needs {needed}")
    out.mkdir(parents=True, exist_ok=True)
    x, y = test.floats().to(protector.device), test.labels.to(protector.device)
    generator = torch.Generator().manual_seed(seed)
    target = prepare(load_model(settings.targets[0], protector.device))
    attacked = pgd(target, x, y, eps=settings.eps, generator=generator)
    made = {"MCGS": protector(x, seed=seed), "PGD": quantise(attacked, x, settings.eps)}
    items: list[dict[str, Any]] = []
    for place, (condition, change) in enumerate(CONDITIONS.items()):
        for index in range(place * EACH, (place + 1) * EACH):
            shown = change(_image(x[index]))
            for method in METHODS:
                other = change(_image(made[method][index]))
                items.append({"method": method, "condition": condition, "picture": index, "pair": (shown, other)})
    order = torch.randperm(len(items), generator=generator).tolist()
    shuffled = [{"id": f"{number:03d}", **items[i]} for number, i in enumerate(order, 1)]
    key = {"seed": seed, "preset": preset, "target": settings.targets[0],
           "items": [{k: v for k, v in item.items() if k != "pair"} for item in shuffled]}  # fmt: skip
    text = json.dumps(key, indent=1) + "\n"
    write(out / "study.html", _page(shuffled, _name(text)))
    write(out / "key.json", text)
    said = proxy(items)
    head = (
        f"Preset {preset}, the first {needed} test pictures, {EACH} in each condition, PGD on {settings.targets[0]}, "
        f"{settings.eps * 255:g}/255, seed {seed}. Higher SSIM and lower LPIPS mean closer to the original in the same "
        "condition. Made by `mspd userstudy make --data DIR -o DIR`."
    )
    write(out / "proxy.md", f"# Table IX without participants\n\n{head}\n\n{said}")
    return said


def _name(key: str) -> str:
    """What a page and its answers carry, so that they are not scored with another study's key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _image(image: Tensor) -> Image.Image:
    return Image.fromarray(to_pixels(image[None].cpu()))


def proxy(items: Sequence[dict[str, Any]]) -> str:
    """Mean SSIM, and LPIPS where it is there, of the shown pairs, by method and condition: for those who have no
    participants. Higher SSIM and lower LPIPS mean closer to the original."""
    lines = ["| method | measure | " + " | ".join(CONDITIONS) + " |", "|---|---|" + "---:|" * len(CONDITIONS)]
    for name, measure in (("SSIM", ssim), ("LPIPS", lpips)):
        for method in METHODS:
            cells = []
            for condition in CONDITIONS:
                pairs = [i["pair"] for i in items if (i["method"], i["condition"]) == (method, condition)]
                a, b = (torch.cat([to_tensor(np.asarray(pair[side])) for pair in pairs]) for side in (1, 0))
                try:
                    cells.append(f"{float(measure(a, b).mean()):.4f}")
                except MspdError:  # no LPIPS here
                    cells.append("-")
            lines.append(f"| {method} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _page(items: Sequence[dict[str, Any]], study: str) -> str:
    """The questionnaire: pictures and script inside, nothing is sent anywhere."""

    def shown(image: Image.Image, text: str) -> str:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'

    blocks = []
    for item in items:
        before, after = item["pair"]
        name = html.escape(item["id"])
        answers = "".join(
            f'<label><input type="radio" name="{name}" value="{value}" required> {text}</label> '
            for value, text in (("no", "not worse"), ("yes", "worse"))
        )
        figures = shown(before, "original") + shown(after, "modified")
        blocks.append(f"<fieldset><legend>{name} of {len(items)}</legend>{figures}<p>{answers}</p></fieldset>")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Picture quality</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:1rem/1.5 sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}figure{{display:inline-block;
margin:.5rem}}img{{width:16rem;max-width:42vw;image-rendering:pixelated}}fieldset{{margin:1rem 0}}
label{{margin-right:2rem}}</style>
<h1>Picture quality</h1>
<p>On the right is a modified copy of the picture on the left. Does its visual quality look worse to you? There is no
right answer; please answer all {len(items)}. Your answers stay in this page until you save them as a file.</p>
<form><p><label>Your name or number: <input name="participant" required></label></p>
{"".join(blocks)}
<p><button>Save my answers</button></p></form>
<script>
document.querySelector("form").addEventListener("submit", event => {{
  event.preventDefault();
  const all = Object.fromEntries(new FormData(event.target));
  const {{participant, ...answers}} = all;
  const text = JSON.stringify({{study: "{study}", participant, answers}});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {{type: "application/json"}}));
  link.download = "answers-" + participant.replace(/[^A-Za-z0-9]+/g, "-") + ".json";
  link.click();
}});
</script></html>
"""


def score(key: Path, files: Sequence[Path]) -> str:
    """Table IX from filled files: pictures that most participants call worse, and the share of single votes, each with
    its 95 % interval (the votes' over pictures, since the votes on one picture go together). UsageError or InputError
    for files that are not answers to this study."""
    text = _read(key)
    items = _items(key, text)
    ids = {item["id"] for item in items}
    ballots: dict[str, dict[str, bool]] = {}
    for path in files:
        participant, answers = _ballot(path, _name(text), ids)
        if participant in ballots:
            raise InputError(f"{path}: a second file of participant {participant!r}; pass each one once")
        ballots[participant] = answers
    if not ballots:
        raise UsageError("no filled files given: pass the answers-*.json of the participants")
    head = ["method", *CONDITIONS, "all", "single votes", "paper"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for method in METHODS:
        cells, total = [], 0
        shares: list[float] = []
        for condition in CONDITIONS:
            group = [item["id"] for item in items if (item["method"], item["condition"]) == (method, condition)]
            worse = [sum(answers[i] for answers in ballots.values()) for i in group]
            degraded = sum(2 * count > len(ballots) for count in worse)
            cells.append(_share(degraded, len(group)))
            total, shares = total + degraded, [*shares, *(count / len(ballots) for count in worse)]
        mean, spread = statistics.fmean(shares), 1.96 * statistics.stdev(shares) / len(shares) ** 0.5
        votes = f"{mean:.1%} [{max(0.0, mean - spread):.1%}, {min(1.0, mean + spread):.1%}]"
        rates = [_share(total, len(shares)), votes]
        published = f"{', '.join(map(str, PAPER[method]))}; {sum(PAPER[method])}/100"
        lines.append("| " + " | ".join([method, *cells, *rates, published]) + " |")
    said = f"{len(ballots)} participants. A picture counts as worse when more than half of them say so."
    return "\n".join([said, "", *lines]) + "\n"


def _share(count: int, of: int) -> str:
    low, high = wilson(count, of)
    return f"{count}/{of} [{low:.1%}, {high:.1%}]"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error


def _items(key: Path, text: str) -> list[dict[str, Any]]:
    try:
        items = json.loads(text)["items"]
        known = {(item["method"], item["condition"], item["id"]) for item in items}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"{key}: not a study's key.json") from error
    cells = Counter((method, condition) for method, condition, _ in known)
    if cells != Counter([*product(METHODS, CONDITIONS)] * EACH) or len({i for _, _, i in known}) != len(items):
        raise UsageError(f"{key}: not a study's key.json")
    return list(items)


def _ballot(path: Path, study: str, ids: set[str]) -> tuple[str, dict[str, bool]]:
    """One participant's name and answers, checked."""
    try:
        content = json.loads(_read(path))
        named, participant, answers = content["study"], content["participant"], dict(content["answers"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a file of answers; pass what the page saved") from error
    if named != study:
        raise InputError(f"{path}: answers to another study than this key's")
    if (
        not isinstance(participant, str)
        or answers.keys() != ids
        or any(a not in ("yes", "no") for a in answers.values())
    ):
        raise InputError(f"{path}: the answers are not complete; all pictures need one")
    return participant, {i: answer == "yes" for i, answer in answers.items()}
