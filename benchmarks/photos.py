"""Real photos: does the gain survive when the target downsizes them, and one that sees them finer than the backbone,
which label serves pictures of other classes, and how long does a large one take?

    python benchmarks/photos.py --photos DIR --classes DIR

`--photos` is a folder with ImageNet's test.parquet and classes.tsv, `--classes` one with the classes.tsv of the photo
preset. Written to docs/results/photos.md, with photos.png.

Sizes: photos of the preset's classes, protected at full size and then downsized as a site does (shorter side 64,
Lanczos, centre crop), against the same photos downsized first and protected at native size. Labels: photos of other
classes, where the prediction to keep is the target's own on the untouched photo; protected at native size but for the
last row. Finer: all photos, protected at full size, on targets that see them at more pixels, with the same prediction
to keep. Time: one photo at two sizes, from a JPEG file to a PNG file, without what Pillow's decoder and encoder take of
it.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from mspd import Protector, evaluate, images, load_model
from mspd.benchmark.papers.mspd import plots
from mspd.data.sets import records
from mspd.evaluation import predict
from mspd.metrics import gain_cell, paired_interval
from mspd.models import card_of
from mspd.presets import get_preset

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PRESET = get_preset("photo")
NONE = "no defence"
FINER = ("convnext-128-photo",)
SMALL, LARGE = (640, 480), (4000, 3000)
OWN = "the backbone's own reading"
#: by the row's name, the preset's settings of the label
LABELS: dict[str, dict[str, Any]] = {
    **{f"hard, {OWN} below {sure:.0%}": {"own_below": sure} for sure in (0.2, 0.3, 0.5)},
    OWN: {"own_below": 1.1},
    "hard: the best class": {"own_below": 0},
    **{f"soft: the best {k}": {"own_below": 0, "soft_labels": k} for k in (3, 5, 10)},
    "soft: all": {"own_below": 0, "soft_labels": 100},
}


def wordnet_ids(folder: Path) -> list[str]:
    return [line.split("\t")[1] for line in (folder / "classes.tsv").read_text(encoding="utf-8").splitlines()[1:]]


def decode(data: bytes, scale: int = 1) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    return np.array(image)


def downsized(pixels: NDArray[np.uint8], size: int = PRESET.size) -> Tensor:
    """What a target of `size` pixels sees: shorter side to that (Lanczos), centre crop."""
    return images.to_tensor(np.array(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.LANCZOS)))


def seconds(protector: Protector, photo: Image.Image, repeats: int = 10) -> float:
    """Processor seconds of a JPEG file protected as PNG, without those of Pillow's decoder and encoder; the least."""
    rests = []
    coding = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal coding
            started = time.process_time()
            result = method(*args, **options)
            coding += time.process_time() - started
            return result

        return call

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(ImageFile.ImageFile, "load", timed(ImageFile.ImageFile.load)),
        patch.object(Image.Image, "save", timed(Image.Image.save)),
    ):
        source, out = Path(folder, "photo.jpg"), Path(folder, "photo.png")
        photo.save(source, quality=95)
        for _ in range(repeats):
            out.unlink(missing_ok=True)
            coding, started = 0.0, time.process_time()
            protector.protect_file(source, out)
            rests.append(time.process_time() - started - coding)
    return min(rests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=4, help="enlarge the photos, to stand for camera sizes")
    options = parser.parse_args()
    ours, theirs = wordnet_ids(options.classes), wordnet_ids(options.photos)
    inside, outside = [], []
    for _, data, label in records(options.photos, "test"):
        (inside if theirs[label] in ours else outside).append((data, theirs[label]))
    targets = {name: load_model(name) for name in PRESET.targets}
    lines = [
        f"Preset photo, eps {PRESET.eps * 255:g}/255, PGD-20 (float32), seed 0. Made by "
        "`python benchmarks/photos.py --photos DIR --classes DIR`.",
        "",
    ]

    protector = Protector(PRESET)
    y = torch.tensor([ours.index(wnid) for _, wnid in inside])
    plain = torch.cat([downsized(decode(data)) for data, _ in inside])
    versions = {NONE: plain, "protected at native size": protector(plain)}
    ratios = []
    for scale in (1, options.scale):
        rows = []
        for index, (data, _) in enumerate(inside):
            pixels = decode(data, scale)
            protected, _, _ = protector.protect_pixels(pixels)
            assert np.abs(protected.astype(int) - pixels).max() <= round(PRESET.eps * 255)
            rows.append(downsized(protected))
            ratios.append(float((rows[-1] - downsized(pixels)).norm() / (versions["protected at native size"][index]
                                                                         - plain[index]).norm()))  # fmt: skip
        versions[f"protected at full size x {scale}, then downsized"] = torch.cat(rows)
    lines += [f"## Sizes ({len(inside)} photos of the preset's classes, shorter side 256 x scale)", ""]
    lines += ["| target | version | clean | robust |", "|---|---|---:|---:|"]
    gained: dict[str, dict[str, plots.Interval | None]] = {}
    for name, target in targets.items():
        base = evaluate(target, plain, y, eps=PRESET.eps, stop_early=True).per_image
        for version, x in versions.items():
            report = evaluate(target, x, y, eps=PRESET.eps, stop_early=True)
            cells = [f"{report.clean_acc:.1%}", f"{report.robust_acc:.1%}"]
            if version != NONE:
                cells = [gain_cell(base[kind], report.per_image[kind]) for kind in ("clean", "robust")]
                gained.setdefault(name, {})[version] = paired_interval(base["robust"], report.per_image["robust"])
            lines.append(f"| {name} | {version} | {' | '.join(cells)} |")
    plots.gains(gained, "gain in robust accuracy over no defence, points", RESULTS / "photos.png")
    lines += ["", f"Length of the perturbation that reaches the target after downsizing, as a share of the native one: "
              f"{np.mean(ratios):.2f} on average.", "", "![Gain by target and version](photos.png)", ""]  # fmt: skip

    photos = [decode(data) for data, _ in (*inside, *outside)]
    copies = [protector.protect_pixels(pixels)[0] for pixels in photos]
    x, whole = (torch.cat([downsized(pixels) for pixels in each[len(inside) :]]) for each in (photos, copies))
    protected = {name: Protector(replace(PRESET, **settings))(x) for name, settings in LABELS.items()}
    protected["as protect does, at full size, then downsized"] = whole
    lines += [f"## Labels ({len(outside)} photos of other classes; the label to keep is the target's own)", ""]
    lines += ["| target | label of the defence | kept without attack | kept under PGD-20 |", "|---|---|---:|---:|"]
    for name, target in targets.items():
        y = predict(target, x)
        base = evaluate(target, x, y, eps=PRESET.eps, stop_early=True).per_image
        lines.append(f"| {name} | {NONE} | 100.0% | {float(base['robust'].float().mean()):.1%} |")
        for label, x_def in protected.items():
            report = evaluate(target, x_def, y, eps=PRESET.eps, stop_early=True)
            robust = gain_cell(base["robust"], report.per_image["robust"])
            lines.append(f"| {name} | {label} | {report.clean_acc:.1%} | {robust} |")

    lines += ["", f"## Finer ({len(photos)} photos; the label to keep is the target's own)", ""]
    lines += ["| target | it sees | kept under PGD-20 | protected at full size, kept without attack | under PGD-20 |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name in (*targets, *FINER):
        target, size = load_model(name), card_of(name)["size"]
        plain, x_def = (torch.cat([downsized(pixels, size) for pixels in each]) for each in (photos, copies))
        y = predict(target, plain)
        base, report = (evaluate(target, x, y, eps=PRESET.eps, stop_early=True) for x in (plain, x_def))
        robust = gain_cell(base.per_image["robust"], report.per_image["robust"])
        lines.append(f"| {name} | {size} px | {base.robust_acc:.1%} | {report.clean_acc:.1%} | {robust} |")

    photo = Image.open(io.BytesIO(inside[0][0])).convert("RGB")
    torch.set_num_threads(1)
    small, large = (seconds(protector, photo.resize(size, Image.Resampling.BICUBIC)) for size in (SMALL, LARGE))
    lines += ["", "## Time", "", f"Beyond decoding and encoding a photo of {LARGE[0]} x {LARGE[1]} takes "
              f"{large / small:.2f} times the processor time of one of {SMALL[0]} x {SMALL[1]} (one thread, least of "
              "10)."]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "photos.md").write_text(text)


if __name__ == "__main__":
    main()
