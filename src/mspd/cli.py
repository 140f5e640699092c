"""The command line: parse, call, print. Exit codes: 0 fine, 1 something failed, 2 wrong usage,
130 stopped by Ctrl-C."""

import io
import json
import os
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import mspd
from mspd.errors import MspdError, UsageError, WeightsError, memory_errors, printable
from mspd.guard import number

app = typer.Typer(
    name="mspd",
    help="Protect pictures before they are published, so that robust classifiers keep reading them correctly under "
    "attack. It helps against robust (adversarially trained) models; ordinary models gain almost nothing, and it does "
    "not stop training, style mimicry or face search.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
userstudy = typer.Typer(help="The paper's user study: questionnaire and scores.")
app.add_typer(userstudy, name="userstudy")


class _Screen(Console):
    """Shows what is in a file's name and no terminal should obey as its code: a name cannot move the cursor or
    begin a line. What has several lines goes through `_print_lines`, or is a Text."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _Screen(highlight=False, soft_wrap=True, markup=False, emoji=False)
errors = _Screen(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

PresetOption = Annotated[str, typer.Option(help="photo, or cifar10 for 32-pixel images.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same bytes. Keep it private.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
EpsOption = Annotated[float | None, typer.Option(parser=number, metavar="EPS", help="Budget, for example 4/255.")]
BackboneOption = Annotated[
    str | None, typer.Option(help="Another backbone: a model's name, a hub's id or a .safetensors file.")
]


def _version(asked: bool) -> None:
    if asked:
        console.print(f"mspd {mspd.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which mspd this is.")
    ] = False,
) -> None:
    pass


@app.command()
def protect(
    pictures: Annotated[
        list[str], typer.Argument(help="Pictures, folders, tar shards; also addresses such as s3://bucket/folder.")
    ],
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="Output file, folder or address; in a folder a.jpg becomes a.jpg.png."),
    ] = None,
    preset: PresetOption = "photo",
    eps: EpsOption = None,
    seed: SeedOption = 0,
    n_samples: Annotated[int | None, typer.Option(min=1, help="Noisy copies an epoch; the paper's N is 20.")] = None,
    backbone: BackboneOption = None,
    format: Annotated[
        str | None, typer.Option(help="png, tif or bmp (lossless), jpg or webp. [of the output's name, else png]")
    ] = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Of jpg and webp. [95]")] = None,
    report: Annotated[str | None, typer.Option(help="Rows of the run, .jsonl or .parquet; keep it private.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and write; with ray, processes that compute.")
    ] = None,
    on_error: Annotated[str, typer.Option(help="After a picture that fails: row (go on) or stop.")] = "row",
    engine: Annotated[str, typer.Option(help="local, or ray for many machines.")] = "local",
    strip: Annotated[str | None, typer.Option(help="gps: leave out where the picture was taken.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Say in the XMP that mspd edited the picture.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Write protected copies; the originals are never touched. A folder run resumes after a kill."""
    from mspd.batch import plan, run
    from mspd.images import FORMATS, LOSSY
    from mspd.protector import Protector

    suffix = None if format is None else "." + format.lower().lstrip(".")
    if suffix not in (None, *FORMATS):
        raise UsageError(f"unknown format {format!r}: use png, tif, jpg, webp or bmp")
    strip_gps = _gps(strip)
    if report is not None and "://" in report:
        raise UsageError(f"--report is {report!r}: it is private, name a file of this computer")
    jobs = plan(pictures, out, suffix=suffix)
    if history or quality is not None:
        written = FORMATS.get(Path(next(iter(jobs)).output.name).suffix.lower())
        if quality is not None and written is not None and written not in LOSSY:
            line = f"--quality is of jpg and webp, the output is {written}: leave it out, or say --format jpg"
            raise UsageError(line)
        if history and written == "BMP":
            raise UsageError("--history is a line in XMP, the output is BMP, which has none: write another format")
    journal = jobs.report if report is None else Path(report)
    protector = Protector(preset, eps=eps, n_samples=n_samples, backbone=backbone, device=device)
    first: list[dict[str, Any]] = []
    counts = dict.fromkeys(("done", "skipped", "failed"), 0)
    with _progress() as progress, _goes_on(journal is not None):
        task = progress.add_task("protecting", total=len(jobs))
        for row in run(
            protector,
            jobs,
            report=journal,
            seed=seed,
            quality=95 if quality is None else quality,
            workers=workers,
            on_error=on_error,
            engine=engine,
            strip_gps=strip_gps,
            history=history,
        ):
            counts[row["status"]] += 1
            if len(first) < _SHOWN:
                first.append(row)
            progress.update(task, advance=1)
            if row["status"] == "failed":
                _complain(row["error"])
            elif "note" in row:
                _complain(f"{row['id']}: {row['note']}")
    _protection_table(first)
    if counts["done"] + counts["skipped"]:
        where = next(iter(jobs)).output if len(jobs) == 1 else jobs.root or "beside each picture"
        console.print(f"written: {where}")
    if len(jobs) > 1:
        left = f" (first {_SHOWN} shown)" if sum(counts.values()) > _SHOWN else ""
        console.print(", ".join(f"{n} {status}" for status, n in counts.items() if n) + left)
    if journal is not None:
        console.print(f"report: {journal}")
    if counts["failed"]:
        raise typer.Exit(1)


@app.command()
def sign(
    original: Annotated[Path, typer.Argument(help="The picture as it was.", readable=False)],
    protected: Annotated[
        Path, typer.Argument(help="Its protected copy; gets the manifest, its pixels stay.", readable=False)
    ],
    certificates: Annotated[Path, typer.Option(help="Your certificate and its issuers, PEM, yours first.")],
    key: Annotated[Path, typer.Option(help="Your private key, PEM (PKCS 8, without a password).")],
    strip: Annotated[str | None, typer.Option(help="gps: redact the original's metadata that may hold it.")] = None,
) -> None:
    """Sign the copy as an edit of the original (C2PA). The original's own credentials become its parent's."""
    from mspd.provenance import sign as run

    run(original, protected, certificates, key, strip_gps=_gps(strip))
    console.print(f"signed: {protected}")


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(help="The picture as it was.", readable=False)],
    protected: Annotated[Path, typer.Argument(help="Its protected copy.", readable=False)],
    preset: PresetOption = "photo",
    backbone: Annotated[
        str | None,
        typer.Option(help="Of the protection, if not the preset's: a name or a .safetensors file."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the attack.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Say whether a protection helps. Attacks both on robust models that the defence never saw."""
    from mspd.verify import Verifier

    with _progress() as progress:
        task = progress.add_task("attacking", total=None)
        result = Verifier(preset, backbone=backbone, device=device)(
            original, protected, seed=seed, progress=lambda done, of: progress.update(task, completed=done, total=of)
        )
    if as_json:
        print(json.dumps(result.row(), indent=2))
        return
    own = "; the backbone's reading" if result.named_by == "backbone" else ""
    console.print(f"label: {result.label} ({result.confidence:.0%} sure{own})")
    for target in result.targets:
        names = ("version", "reads, not attacked", "breaks at", "2/255", "4/255", "8/255")
        table = _table(*names, title=f"target {target.target}")
        for key, reading in vars(target).items():
            if key == "target":
                continue
            breaks = "> 32/255" if reading.breaks_at is None else f"{reading.breaks_at:g}/255"
            holds = ("holds" if reading.survives[f"{m}/255"] else "-" for m in (2, 4, 8))
            table.add_row(
                key.replace("_jpeg", ", JPEG 75").replace("_half", ", half size"), reading.prediction, breaks, *holds
            )
        _print(table)
    console.print(
        f"{result.verdict}: under attack the label's lead changes by {result.gain:+.2f} logits "
        f"(after JPEG 75 {result.gain_jpeg:+.2f}, at half size {result.gain_half:+.2f}; "
        f"noise as strong stays below {result.chance:+.2f}); largest difference {result.linf}/255",
    )
    if result.remark:
        console.print(result.remark)


@app.command()
def revert(
    pictures: Annotated[list[str], typer.Argument(help="Protected pictures, or folders of them.")],
    out: Annotated[str, typer.Option("-o", "--out", help="Output file, or folder.")],
    preset: PresetOption = "photo",
    setting: Annotated[
        str | None,
        typer.Option(
            help="What the attacker knows of the backbone: white (all), gray (cifar10 only), black (nothing). [white]"
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Instead of a setting: a model's name or a .safetensors file.")
    ] = None,
    eps: EpsOption = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the attacker.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Take a protection back, as a test: name the protected picture, protect it again, subtract. Whoever has the
    backbone can do this."""
    import numpy as np

    from mspd.batch import plan
    from mspd.batch.places import Member, load, save
    from mspd.protector import Protector
    from mspd.reversion import surrogate

    if backbone is not None and setting is not None:
        raise UsageError("--setting chooses the backbone, --backbone is one: leave one of them out")
    chosen = surrogate(preset, "white" if setting is None else setting) if backbone is None else backbone
    protector = Protector(preset, eps=eps, backbone=chosen, device=device)
    failed = False
    for job in plan(pictures, out):
        try:
            if isinstance(job.output, Member):
                raise UsageError(f"{job.source}: a shard cannot be reverted; unpack it first")
            picture = load(job.source)
            again, _, _ = protector.protect_pixels(picture.pixels, seed=seed)
            pixels = np.clip(2 * picture.pixels.astype(np.int16) - again, 0, 255).astype(np.uint8)  # Eq. 7
            save(picture, pixels, job.output, eps=protector.settings.eps)
            console.print(f"written: {job.output}")
        except MspdError as error:
            _complain(error)
            failed = True
    if failed:
        raise typer.Exit(1)


@app.command()
def benchmark(
    data: Annotated[Path, typer.Option(help="Folder with test pictures, as for 'mspd train'.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for rows, summary and pictures.")],
    preset: PresetOption = "cifar10",
    defense: Annotated[
        list[str] | None, typer.Option(help="A name, or package.module:function; repeat for several. [mcgs]")
    ] = None,
    backbone: Annotated[
        list[str] | None, typer.Option(help="A model: a name, a hub's id or a .safetensors file. [the preset's]")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="The same. [the preset's]")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="A name, or package.module:function. [pgd]")] = None,
    treatment: Annotated[
        list[str] | None, typer.Option(help="Before the attack: a purifier, or revert:white, gray, black or a model.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="The first n test pictures.")] = 500,
    eps_def: Annotated[
        float | None, typer.Option(parser=number, metavar="EPS", help="Budget of the defence. [the preset's]")
    ] = None,
    eps_adv: Annotated[
        float | None, typer.Option(parser=number, metavar="EPS", help="Budget of the attack. [the preset's]")
    ] = None,
    norm: Annotated[str, typer.Option(help="Linf or L2, of the attack.")] = "Linf",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same rows.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the attacked pictures as PNG.")] = False,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Attack faster, where the processor has it; verdicts are float32.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Measure what defences gain on targets under attack. Picture by picture; resumes after a kill.

    A name that does not exist is answered with those that do.
    """
    from mspd.benchmark import benchmark as run

    sys.path.insert(0, "")  # package.module:function may lie in this folder
    with _warned(), _goes_on():
        summary = run(
            data, out, preset=preset, defenses=defense or "mcgs", backbones=backbone or None, targets=target or None,
            attacks=attack or "pgd", treatments=treatment or "none", n=n,
            eps_def=eps_def, eps_adv=eps_adv, norm=norm, seed=seed, keep=keep, bfloat16=bfloat16, device=device,
        )  # fmt: skip
    table = _table("picture", "target", "attack", "n", "clean", "robust")
    several = len({score.cell.backbone for score in summary.scores} - {"none"}) > 1
    for score in summary.scores:
        cell = score.cell
        through = f" on {cell.backbone}" if several and cell.backbone != "none" else ""
        clean, robust = (
            f"{acc:.1%}" if gain is None else f"{acc:.1%} ({', '.join(f'{100 * g:+.1f}' for g in gain)})"
            for acc, gain in ((score.clean_acc, score.clean_gain), (score.robust_acc, score.robust_gain))
        )
        table.add_row(cell.defense + through + cell.then, cell.target, cell.attack, str(score.n), clean, robust)
    _print(table)
    console.print("in brackets: points over no defence on the same pictures, and their 95 % interval")
    console.print(f"written: {summary.out / 'summary.md'}")


@app.command()
def frames(
    size: Annotated[str, typer.Option(help="Width and height of the frames, for example 1280x720.")],
    preset: PresetOption = "photo",
    eps: EpsOption = None,
    seed: SeedOption = 0,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Protect raw video frames. rgb24 from standard input to standard output, between two ffmpeg."""
    from mspd.pipelines.frames import protect_frames
    from mspd.protector import Protector

    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if match is None:
        raise UsageError(f"--size is {size!r}: write width and height in pixels, for example 1280x720")
    if any(stream is None or stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise UsageError("frames come from a pipe and go into one: ffmpeg ... | mspd frames ... | ffmpeg ...")
    protector = Protector(preset, eps=eps, backbone=backbone, device=device)
    with (
        open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as source,
        open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as sink,
    ):
        count = protect_frames(protector, source, sink, (int(match[1]), int(match[2])), seed=seed)
    errors.print(f"{count} frames protected")


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="A table or figure; 'mspd reproduce list' shows them. leaderboard: of the tables in the folder."
        ),
    ],
    tier: Annotated[
        str, typer.Option(help="smoke, embedded (shipped models), paper, photo or paper-photo.")
    ] = "embedded",
    data: Annotated[Path | None, typer.Option(help="Folder with test pictures, as for 'mspd train'.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for results; shared by all tables.")] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many pictures of each cell for now.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a table or figure of the paper, beside its numbers. Resumes after a kill."""
    from mspd.benchmark.papers.mspd import ITEMS, leaderboard, title_of
    from mspd.benchmark.papers.mspd import reproduce as run

    if name == "list":
        for item in ITEMS:
            console.print(f"{item:8s} {title_of(item)}")
        return
    if name == "leaderboard":
        if out is None:
            raise UsageError("say which folder the results are in (-o DIR)")
        console.print(f"written: {leaderboard(out, tier=tier)}")
        return
    title_of(name)  # an unknown name is told before what else is missing
    if data is None or out is None:
        raise UsageError("say which pictures (--data DIR) and which folder to write to (-o DIR)")
    with _warned(), _goes_on():
        page = run(name, data, out, tier=tier, first=first, device=device)
    _print_lines(page.read_text(encoding="utf-8"))
    console.print(f"written: {page}")


@userstudy.command("make")
def userstudy_make(
    data: Annotated[Path, typer.Option(help="Folder with test pictures, as for 'mspd train'.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for study.html and key.json.")],
    preset: PresetOption = "cifar10",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Write the questionnaire and its answer key, and print what SSIM and LPIPS say."""
    from mspd.benchmark.userstudy import make

    _print_lines(make(data, out, preset=preset, seed=seed, device=device))
    console.print(f"written: {out / 'study.html'} for the participants; keep {out / 'key.json'} to yourself")


@userstudy.command("score")
def userstudy_score(
    files: Annotated[list[Path], typer.Argument(help="The participants' answers-*.json.")],
    key: Annotated[Path, typer.Option(help="The study's key.json.")],
) -> None:
    """Print the table from the filled files."""
    from mspd.benchmark.userstudy import score

    _print_lines(score(key, files))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name; 'mspd train list' shows them.")],
    data: Annotated[Path | None, typer.Option(help="Folder with train and test pictures.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Weight file to write (.safetensors).")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the training; another seed gives another backbone.")
    ] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    start: Annotated[
        str | None, typer.Option(help="Continue this model's weights: a name, a path or package.module:function.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a model by a recipe. On the pictures of the paper's data sets or on your own."""
    from mspd.models.files import card_beside, check_suffix
    from mspd.training import get_recipe, list_recipes
    from mspd.training import train as run_training

    if recipe == "list":
        for name in list_recipes():
            console.print(name)
        return
    chosen = get_recipe(recipe)
    if data is None or out is None:
        raise UsageError("say which pictures (--data DIR) and which file to write (--out FILE.safetensors)")
    check_suffix(out)
    for path in (out, card_beside(out)):
        if path.exists():
            raise WeightsError(f"{path}: already exists; choose another file or remove it first")
    sys.path.insert(0, "")  # package.module:function of --start may lie in this folder
    command = shlex.join(["mspd", *sys.argv[1:]])
    with _goes_on():
        card = run_training(chosen, data, out, seed=seed, epochs=epochs, start=start, command=command, device=device)
    figures = {key: card[key] for key in card if key.endswith(("_acc", "_mse"))}
    console.print(f"{out}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


@app.command()
def export(
    format: Annotated[str, typer.Argument(help="onnx.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for defense.onnx and defense.json.")],
    preset: PresetOption = "photo",
    backbone: BackboneOption = None,
) -> None:
    """Write the whole defence as one ONNX file. Checked against PyTorch; whoever gets it has the backbone."""
    from mspd.export import export_onnx
    from mspd.protector import Protector

    if format != "onnx":
        raise UsageError(f"unknown format {format!r}: the defence can be exported as onnx")
    done = export_onnx(Protector(preset, backbone=backbone, device="cpu"), out)
    console.print(
        f"{done.model}: {done.bytes / 1e6:.1f} MB; of {done.pixels} pixels in {done.pictures} checked pictures "
        f"{done.differing:.3%} have another 8-bit value than in PyTorch; "
        f"{1000 * done.seconds:.0f} ms a picture, PyTorch {1000 * done.seconds_torch:.0f} ms"
    )


@app.command()
def models() -> None:
    """List the shipped models and those that others published."""
    from mspd.models import PUBLISHED, card_of, list_models
    from mspd.models.hub import FORMS

    cards = {name: card_of(name) for name in list_models()}
    for dataset in sorted({card["dataset"] for card in cards.values()}):
        table = _table("model", "trained", "clean", "PGD-20", "AA", "at", title=dataset)
        table.columns[1].max_width = 24
        for name, card in cards.items():
            if card["dataset"] != dataset:
                continue
            rates = (f"{card[key]:.1%}" if key in card else "-" for key in ("clean_acc", "pgd20_acc", "autoattack_acc"))
            at = f"{card['pgd20_eps'] * 255:.0f}/255" if "pgd20_eps" in card else "-"
            table.add_row(name, card["training"], *rates, at)
        _print(table)
        console.print()
    table = _table("model", "data", "clean", "AutoAttack", title="published by others")
    for name, model in PUBLISHED.items():
        attacked = "-"
        if model.autoattack_acc is not None:
            attacked = f"{model.autoattack_acc:.1f}% at {model.eps * 255:.0f}/255"
        table.add_row(name, model.dataset, f"{model.clean_acc:.1f}%", attacked)
    _print(table)
    console.print()
    legend = "clean and PGD-20 accuracy, AA: AutoAttack; for how many pictures, see the cards (mspd.models.card_of)"
    _print_lines(textwrap.fill(legend, console.width))
    also = f"wherever a model is named, also: {', '.join(FORMS)}; the last three need pip install 'mspd[hub]'"
    _print_lines(textwrap.fill(also, console.width, break_long_words=False, break_on_hyphens=False))


@app.command()
def presets() -> None:
    """List the presets and their settings."""
    from mspd.presets import PRESETS

    table = _table("preset", "settings")
    for name, preset in PRESETS.items():
        settings = {**asdict(preset), "eps": f"{preset.eps * 255:g}/255"}
        del settings["name"]
        table.add_row(name, Text("\n".join(f"{key} = {value}" for key, value in settings.items())))
    _print(table)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but the default lets other computers in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    device: DeviceOption = "auto",
) -> None:
    """Show the page, and answer its HTTP API. Pictures stay in memory, nothing is kept."""
    try:
        from mspd.web import serve as run
    except ModuleNotFoundError as error:
        raise UsageError(f"the page needs {error.name}: pip install 'mspd[web]'") from error

    run(host, port, device=device, ready=lambda address: console.print(f"{address}  (Ctrl-C stops it)"))


class _StoppedError(Exception):
    """Ctrl-C during what the same command goes on with."""


@contextmanager
def _goes_on(so: bool = True) -> Iterator[None]:
    """After Ctrl-C in here the same command goes on from what is finished, if `so`."""
    try:
        yield
    except KeyboardInterrupt as error:
        if so:
            raise _StoppedError from error
        raise


@contextmanager
def _warned() -> Iterator[None]:
    """Warnings in here are lines on stderr."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _complain(f"warning: {message}")
        warnings.simplefilter("always", UserWarning)
        yield


def _gps(strip: str | None) -> bool:
    """Whether to leave out the place; UsageError for what else --strip may name."""
    if strip not in (None, "gps"):
        raise UsageError(f"--strip is {strip!r}: only gps can be left out")
    return strip == "gps"


class _Speed(ProgressColumn):
    """Pictures a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0
        return Text(f"{speed:.1f}/s" if speed < 100 else f"{speed:.0f}/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )


#: rows of a run's table
_SHOWN = 40
#: below it a label is called low
SURE = 0.5


def _protection_table(rows: list[dict[str, Any]]) -> None:
    from mspd.images import LOSSY_MARGIN

    table = _table("picture", "label", "sure", "moved", "SSIM", "PSNR", "seconds")
    done = [row for row in rows if row["status"] != "failed"]
    if not done:
        return
    for row in rows:
        if row["status"] == "failed":
            table.add_row(row["id"], "failed", "", "", "", "", "")
            continue
        moved = f"{row['linf']} of {row['eps'] * 255:g}"
        if row["lossy"]:  # single values move further; the limit is on their root mean square
            rms = 0 if row["psnr"] is None else 255 * 10 ** (-row["psnr"] / 20)
            moved = f"rms {rms:.1f} of {LOSSY_MARGIN * row['eps'] * 255:g}"
        own = row.get("named_by") == "backbone"
        sure = f"{row['confidence']:.0%}" + (" (backbone's)" if own else " (low)" if row["confidence"] < SURE else "")
        seconds = "done before" if row["status"] == "skipped" else f"{row['seconds']:.2f}"
        psnr = "inf" if row["psnr"] is None else f"{row['psnr']:.1f}"
        table.add_row(row["id"], row["label"], sure, moved, f"{row['ssim']:.3f}", psnr, seconds)
    _print(table)
    if any(row["confidence"] < SURE and row.get("named_by") != "backbone" for row in done):
        console.print("low: the classifier hardly knows what is in the picture; protection may help little")
    if any(row.get("named_by") == "backbone" for row in done):
        console.print(
            "backbone's: the classifier does not know the picture; the label is what the backbone reads in it"
        )


def _table(*columns: str, title: str | None = None) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def _print_lines(text: str) -> None:
    console.print(*text.split("\n"), sep="\n")


def _print(table: Table) -> None:
    """The table where it fits the screen, else a paragraph a row, so that nothing in it is cut."""
    if console.measure(table, options=console.options.update(width=sys.maxsize)).maximum <= console.width:
        console.print(table)
        return
    if table.title is not None:
        console.print(table.title)
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        said = (f"{column.header} {cell}" for column, cell in zip(table.columns[1:], cells, strict=True) if cell)
        console.print(name)
        text = ", ".join(said).replace("\n", ", ")
        lines = textwrap.wrap(text, max(console.width - 4, 16), break_long_words=False, break_on_hyphens=False)
        _print_lines(textwrap.indent("\n".join(lines), "    "))


def main() -> None:
    """Run the command line; every failure is one line on stderr."""
    stopped = "stopped; finished files are kept"
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no failure
        with memory_errors():
            code = app(args=None if sys.argv[1:] else ["--help"], prog_name="mspd", standalone_mode=False)
        if sys.stdout is not None:  # None where the shell closed it
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except _StoppedError:
        code, stopped = 130, f"{stopped}, the same command goes on from there"
    except MspdError as error:
        _complain(error)
        code = 2 if isinstance(error, UsageError) else 1
    except (OSError, MemoryError) as error:
        name = getattr(error, "filename", None)
        _complain(f"{'' if name is None else f'{name}: '}{getattr(error, 'strerror', None) or 'out of memory'}")
        code = 1
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        dashed = next((word for word in sys.argv[1:] if word.startswith("-") and os.path.exists(word)), None)
        remedy = f"see {_command(error)} --help" if dashed is None else f"write the file's name as ./{dashed}"
        _complain(f"{error.format_message().rstrip('.')} ({remedy})")  # typer: wrong usage
        code = 2
    if code == 130:
        _complain(stopped)
    sys.exit(code or 0)


def _command(error: Exception) -> str:
    return str(getattr(getattr(error, "ctx", None), "command_path", "mspd"))


def _complain(error: object) -> None:
    """One line on stderr, whatever the names in it contain."""
    errors.print(f"mspd: {error}")
