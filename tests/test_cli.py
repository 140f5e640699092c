"""The command line: what it prints, its exit codes, and one clear line for everything that can go wrong."""

import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tomllib
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mspd.batch.local as local
import mspd.batch.runner as runner
import mspd.cli as cli
from conftest import Call, one_line
from mspd import Protector, Verifier, images
from mspd.models import PUBLISHED, card_of, list_models
from mspd.models.files import WEIGHTS
from mspd.presets import PRESETS
from mspd.verify import Reading

QUICK = ("--preset", "tiny")
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".mspd-") or path.suffix == ".tmp"]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


# ---------------------------------------------------------------- what works


def test_protect_writes_a_copy(call: Call, tmp_path: Path) -> None:
    source = picture(tmp_path / "cat.png")
    before = source.read_bytes()
    code, out, err = call("protect", "cat.png", *QUICK)
    assert (code, err) == (0, "")
    assert "cat.protected.png" in out
    assert source.read_bytes() == before
    moved = np.abs(images.read(source).pixels.astype(int) - images.read(tmp_path / "cat.protected.png").pixels)
    assert 0 < moved.max() <= 8


def test_version(call: Call) -> None:
    code, out, err = call("--version")
    assert (code, out, err) == (0, f"mspd {version('mspd')}\n", "")


def test_protect_options(call: Call, tmp_path: Path) -> None:
    source = picture(tmp_path / "cat.png")
    options = (
        "--eps",
        "3/255",
        "--format",
        "webp",
        "--quality",
        "100",
        "--seed",
        7,
        "--backbone",
        "rn18-cifar10",
        "--n-samples",
        1,
    )
    code, _, err = call("protect", source, "--preset", "cifar10", *options, "--report", "r/r.jsonl", "--device", "cpu")
    assert (code, err) == (0, "")
    settings, _, row = map(json.loads, (tmp_path / "r" / "r.jsonl").read_text().splitlines())
    assert settings["settings"]["seed"] == row["seed"] == 7
    assert row["eps"] == 3 / 255
    assert row["lossy"] is True
    assert images.read(Path(row["output"])).format == "WEBP"
    assert card_of("rn18-cifar10")["sha256"] in settings["settings"]["weights"]


def test_protect_folder_and_resume(call: Call, tmp_path: Path) -> None:
    for seed in range(2):
        picture(tmp_path / "in" / f"[red]{seed}[/x].png", seed)
    code, out, err = call("protect", "in", *QUICK)
    assert (code, err) == (0, "")
    assert "[red]0[/x].png" in out
    assert "2 done" in out
    assert "report: in.protected.report.jsonl" in out
    assert len(list((tmp_path / "in.protected").iterdir())) == 2
    code, out, err = call("protect", "in", *QUICK)
    assert (code, err) == (0, "")
    assert "2 skipped" in out


def test_protect_says_where_several_copies_are(call: Call, tmp_path: Path) -> None:
    code, out, err = call("protect", picture(tmp_path / "a.png"), picture(tmp_path / "in" / "b.png"), *QUICK)
    assert (code, err) == (0, "")
    assert "written: beside each picture\n" in out
    assert (tmp_path / "in" / "b.protected.png").exists()


def test_protect_shows_the_first_rows_and_counts_all(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        picture(tmp_path / "in" / f"{seed}.png", seed)
    monkeypatch.setattr(cli, "_SHOWN", 2)
    code, out, err = call("protect", "in", *QUICK, "--workers", 2)
    assert (code, err) == (0, "")
    assert [name in out for name in ("0.png", "1.png", "2.png", "4.png")] == [True, True, False, False]
    assert "5 done (first 2 shown)" in out
    assert "written: in.protected\n" in out


def test_protect_stops_at_an_error(call: Call, tmp_path: Path) -> None:
    for seed in range(3):
        picture(tmp_path / "in" / f"{seed}.png", seed)
    (tmp_path / "in" / "1.png").write_bytes(b"broken")
    code, out, err = call("protect", "in", *QUICK, "--on-error", "stop")
    one_line((code, out, err), 1, "in/1.png: not a readable")
    assert "1 done, 1 failed" in out


def test_protect_and_revert_a_shard(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    code, out, err = call("protect", "s.tar", *QUICK)
    assert (code, err) == (0, "")
    assert "written: s.protected.tar/a.png" in out
    assert "report: s.protected.tar.report.jsonl" in out
    command = ("revert", "s.protected.tar", "-o", "x.tar", "--preset", "cifar10")
    one_line(call(*command), 1, "a shard cannot be reverted; unpack it")


def test_speed_is_shown() -> None:
    with cli._progress() as progress:
        task = progress.add_task("protecting", total=3)
        column = next(c for c in progress.columns if isinstance(c, cli._Speed))
        assert column.render(progress.tasks[0]).plain == "0.0/s"
        progress.tasks[0].finished_speed = 12.345
        assert column.render(progress.tasks[0]).plain == "12.3/s"
        progress.update(task, advance=1)


def test_protect_name_with_leading_dash(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "-x.PNG")
    assert call("protect", *QUICK, "--", "-x.PNG")[0] == 0
    assert (tmp_path / "-x.protected.png").exists()


def test_protect_here(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path / "in")
    assert call("protect", ".", *QUICK)[0] == 0
    assert (tmp_path / "in.protected" / "a.png.png").exists()
    assert (tmp_path / "in.protected.report.jsonl").exists()


def test_names_that_the_terminal_cannot_show(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("names that are no text exist on Linux only")
    picture(tmp_path / "x.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert call("protect", os.fsdecode(b"\xff.png"), *QUICK)[0] == 0


def test_names_with_commands_for_the_terminal(call: Call, tmp_path: Path) -> None:
    name = "a\x1b[31mb\x07.png"
    Image.new("RGB", (20, 16), "red").save(tmp_path / name)
    code, out, err = call("protect", name, *QUICK)
    assert (code, err) == (0, "")
    assert "a\\x1b[31mb\\x07.png" in out
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out) is None


def test_a_name_of_two_lines_makes_no_row(call: Call, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("no such names on Windows")
    name = "a\nfake.png  bee    99%.png"
    (tmp_path / name).mkdir()
    picture(tmp_path / name / name)
    for source in (name, f"{name}/{name}"):
        code, out, err = call("protect", source, *QUICK)
        assert (code, err) == (0, "")
        assert "\nfake" not in out


def test_a_copy_that_is_protected_again_is_noted(call: Call, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "a.png")
    assert call("protect", "in/a.png", *QUICK)[2] == ""
    code, _, err = call("protect", "in", *QUICK)
    assert code == 0
    assert err.startswith("mspd: a.protected.png: called like a copy that mspd wrote")
    assert err.count("\n") == 1


def test_the_video_of_a_motion_photo_is_noted(call: Call, tmp_path: Path) -> None:
    xmp = b'<a xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"/>'
    Image.new("RGB", (40, 36), "teal").save(tmp_path / "a.jpg", xmp=xmp)
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"\0\0\0\x18ftypmp42")
    code, _, err = call("protect", "a.jpg", *QUICK)
    assert (code, err) == (0, "mspd: a.jpg: the video of the original, a motion photo, is not in the copy\n")


def test_nothing_protected_no_table(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    code, out, err = call("protect", "a.png", *QUICK)
    assert (code, out) == (1, "")
    assert err.startswith("mspd: a.png: ")


def test_name_that_looks_like_an_option(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "-dash.png")
    one_line(call("protect", "-dash.png", *QUICK), 2, "No such option", "write the file's name as ./-dash.png")
    assert call("protect", "./-dash.png", *QUICK)[0] == 0
    one_line(call("protect", "-" + "x" * 300, *QUICK), 2, "No such option", "see mspd protect --help")
    one_line(call("protct"), 2, "mspd: No such command 'protct'", " (see mspd --help)\n")


def test_lossy_output_shows_what_is_limited(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("protect", picture(tmp_path / "a.png"), *QUICK, "--format", "jpg", "--quality", "100")
    assert code == 0
    assert re.search(r"moved rms \d\.\d of 10|  rms \d\.\d of 10  ", out)


def test_a_picture_hardly_known_is_called_so(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = picture(tmp_path / "a.png")
    said = "low: the classifier hardly knows what is in the picture"
    for confidence in (0.4, 0.9):
        probabilities = torch.full((1, 10), (1 - confidence) / 9)
        probabilities[0, 3] = confidence
        monkeypatch.setattr(Protector, "probabilities", lambda self, x, p=probabilities: p.expand(len(x), -1))
        code, out, _ = call("protect", source, "-o", f"{confidence}.png", *QUICK)
        assert code == 0
        assert (said in out) == (confidence < 0.5)


def test_unchanged_picture_has_no_psnr(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protector, "defend", lambda self, x, y, seed: x)
    code, out, _ = call("protect", picture(tmp_path / "a.png"), *QUICK, "--report", "r.jsonl")
    assert code == 0
    assert " inf " in out
    assert '"psnr": null' in (tmp_path / "r.jsonl").read_text()


def test_verify(call: Call, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)
    code, out, err = call("verify", a, b, *QUICK)
    assert (code, err) == (0, "")
    assert "logits" in out
    assert "target.safetensors" in out
    code, out, err = call("verify", a, a, *QUICK, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["verdict"] == "no effect"
    assert (result["linf"], result["gain"], result["gain_jpeg"], result["gain_half"]) == (0, 0, 0, 0)


def test_progress_of_verify_is_full_at_the_end_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int] | str] = []
    monkeypatch.setattr(Verifier, "chance", lambda *_: told.append("noise") or 0.0)
    a = picture(tmp_path / "a.png")
    Verifier("tiny")(a, a, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), "noise", (2, 2)]


@pytest.mark.parametrize(
    ("before", "after", "remark"),
    [
        ((0, -3), (0, -1), "Even so, no target reads the picture as {}, before or after, attacked or not: the name"),
        ((0, -3), (2.5, -1), "Even so, another name stays ahead under attack."),
        ((2, -3), (5, 1), ""),
        ((0, -3), (0, -3), ""),
    ],
)
def test_verify_says_when_the_help_is_not_enough(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: tuple[float, float],
    after: tuple[float, float],
    remark: str,
) -> None:
    survives = dict.fromkeys(("2/255", "4/255", "8/255"), False)
    readings = 3 * [Reading("x", breaks, survives, margin) for breaks, margin in (before, after)]
    monkeypatch.setattr(Verifier, "read", lambda *_: readings)
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    code, out, err = call("verify", a, b, *QUICK)
    label = out.splitlines()[0].removeprefix("label: ").rpartition(" (")[0]
    assert (code, err) == (0, "")
    assert out.count("Even so") == bool(remark)
    assert remark.format(label) in out
    assert json.loads(call("verify", a, b, *QUICK, "--json")[1])["remark"].startswith(remark.format(label))


def test_verify_says_when_the_pictures_are_not_one(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 1)
    before, after = (images.read(path).pixels.astype(int) for path in (a, b))
    average = np.abs(before - after).mean()
    assert f"differ by {average:.0f} grey levels on average" in call("verify", a, b, *QUICK)[1]
    Image.fromarray(before.astype(np.uint8)).save(tmp_path / "a.jpg", quality=30)
    assert "differ by" not in call("verify", a, tmp_path / "a.jpg", *QUICK)[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(call: Call, tmp_path: Path) -> None:
    a = picture(tmp_path / "a.png")
    a.chmod(0)
    for arguments in (("protect", a), ("verify", a, a), ("sign", a, a, "--certificates", a, "--key", a)):
        one_line(call(*arguments, *(QUICK if arguments[0] != "sign" else ())), 1, "a.png: ", "Permission denied")


def test_lists(call: Call) -> None:
    code, out, _ = call("models")
    assert code == 0
    assert all(path.stem in out for path in WEIGHTS.glob("*.json"))
    code, out, _ = call("presets")
    assert code == 0
    assert "eps = 8/255" in out
    code, out, _ = call("train", "list")
    assert code == 0
    assert "prn18-cifar10" in out.split()
    for arguments in ((), ("--help",), ("protect", "--help")):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        assert "Usage: mspd" in out


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lists_on_narrow_screens(call: Call, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Names and cells are whole at any width, lines as long as the screen: a table where it fits, else paragraphs."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.delitem(PRESETS, "tiny")
    for command in ("models", "presets"):
        code, out, err = call(command)
        assert (code, err) == (0, "")
        assert "…" not in out
        assert max(map(len, out.split("wherever a model")[0].splitlines())) <= max(width, len(max(PUBLISHED, key=len)))
        words = " ".join(out.split())
        if command == "models":
            names = [*list_models(), *PUBLISHED]
            assert [name for name in names if not re.search(rf"^{re.escape(name)}(\s|$)", out, re.MULTILINE)] == []
            found = set(out.replace(",", "").split())
            assert {"adversarial", "perturbations", "meta-learned", "45.4%", "58.6%", "8/255"} <= found
            assert ("prn18-cifar10 adversarial (N-FGSM) 67.6% 45.4% 33.6% 8/255 prn18" in words) is (width >= 80)
        else:
            assert "targets = ('wrn16-2-cifar10', 'rn18-cifar10')" in words


def test_table_of_a_run_on_a_narrow_screen(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{'a' * 90}.png"
    picture(tmp_path / name)
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = call("protect", name, *QUICK)
    assert code == 0
    assert out.splitlines()[0] == name
    assert re.match(r"    label \w+, sure \d+%( \(low\))?, moved \d of 8, SSIM", out.splitlines()[1])


def test_processes(tmp_path: Path) -> None:
    """The real thing: exit codes of the process, and no traceback."""

    def process(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "mspd", *arguments], capture_output=True, text=True, cwd=tmp_path)

    for code, arguments in ((1, ("protect", "no.png")), (2, ("protect", "--nope", "x")), (0, ("models",))):
        done = process(*arguments)
        assert done.returncode == code, done
        if code:
            one_line((done.returncode, done.stdout, done.stderr), code)
        else:
            assert done.stderr == ""


# ---------------------------------------------------------------- pictures that fail


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def truncated(path: Path) -> None:
    data = picture(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def sixteen_bit(path: Path) -> None:
    path.write_bytes(png(2, 2, 16, (b"\0" + b"\1" * 12) * 2))


def cmyk(path: Path) -> None:
    Image.new("CMYK", (20, 20)).save(path, "TIFF")


BAD = {
    "missing": (missing, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "truncated": (truncated, "damaged or cut short"),
    "text": (lambda path: path.write_bytes(b"hello"), "convert it to PNG"),
    "page": (lambda path: path.write_bytes(b"<!doctype html><html></html>"), "convert it to PNG"),
    "bomb": (lambda path: path.write_bytes(png(100_000, 100_000)), "more pixels than the limit"),
    "large": (lambda path: path.write_bytes(png(15_000, 10_000)), "damaged or cut short"),
    "cmyk": (cmyk, "convert it to RGB"),
    "sixteen": (sixteen_bit, "convert it to 8 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_picture(call: Call, tmp_path: Path, name: str) -> None:
    make, remedy = BAD[name]
    make(tmp_path / "x.png")
    one_line(call("protect", "x.png", *QUICK), 1, "x.png: ", remedy)
    assert {path.name for path in tmp_path.iterdir()} <= {"x.png"}
    one_line(call("verify", "x.png", "x.png", *QUICK), 1, "x.png: ", remedy)


def test_bad_pictures_leave_the_others_unharmed(call: Call, tmp_path: Path) -> None:
    for name, (make, _) in BAD.items():
        make(picture(tmp_path / "in" / f"{name}.png"))
    for seed in range(2):
        picture(tmp_path / "in" / f"{seed}.png", seed)
    code, out, err = call("protect", "in", *QUICK)
    lines = err.splitlines()
    assert code == 1
    assert len(lines) == len(BAD) - 1  # a missing one is not found in a folder
    assert all(line.startswith("mspd: in/") for line in lines)
    assert f"2 done, {len(BAD) - 1} failed" in out
    assert sorted(path.name for path in (tmp_path / "in.protected").iterdir()) == ["0.png.png", "1.png.png"]
    good = picture(tmp_path / "good.png")
    code, out, err = call("protect", "gone.png", good, *QUICK)
    one_line((code, out, err), 1, "gone.png: no such file")
    assert (tmp_path / "good.protected.png").exists()


def test_unreadable_picture(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = picture(tmp_path / "in" / "good.png"), picture(tmp_path / "in" / "bad.png")
    real = Path.open

    def denied(self: Path, *args: object, **options: object) -> object:
        if self.name == bad.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", denied)
    one_line(call("protect", "in", *QUICK), 1, "in/bad.png: no permission; change the access rights")
    assert (tmp_path / "in.protected" / f"{good.name}.png").exists()


def test_folder_without_pictures(call: Call, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    one_line(call("protect", "in", *QUICK), 2, "in: no pictures in this folder (looking for .png")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_name_too_long(call: Call) -> None:
    one_line(call("protect", "x" * 300 + ".png", *QUICK), 1, "xxx.png: ", "name too long")


def test_name_with_a_line_break(call: Call) -> None:
    one_line(call("protect", "a\nb.png", *QUICK), 1, r"mspd: a\nb.png: no such file")
    one_line(call("protect", "[/red].png", *QUICK), 1, "mspd: [/red].png: no such file")


# ---------------------------------------------------------------- outputs that fail


def test_output_exists(call: Call, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    mine = tmp_path / "a.protected.png"
    mine.write_text("mine")
    one_line(call("protect", source, *QUICK), 1, "a.protected.png: already exists; choose another output or remove it")
    one_line(call("protect", source, "-o", source, *QUICK), 1, "a.png: is the original itself; choose another output")
    assert mine.read_text() == "mine"
    assert images.read(source).pixels.shape == (36, 40, 3)


def test_full_disk(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "in" / f"{name}.png")
    real, count = os.fsync, iter(range(10))

    def full(handle: int) -> None:
        if next(count) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    result = call("protect", "in", *QUICK, "--workers", 1)
    one_line(result, 1, "in.protected/b.png.png: the disk is full; free some space")
    assert sorted(path.name for path in (tmp_path / "in.protected").iterdir()) == ["a.png.png", "c.png.png"]
    assert call("protect", "in", *QUICK)[0] == 0
    assert len(list((tmp_path / "in.protected").iterdir())) == 3


def test_full_disk_at_the_report(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.png")

    class Full(io.FileIO):
        left = 5

        def write(self, data: object) -> int:
            Full.left -= 1
            if Full.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    real = Path.open

    def opened(self: Path, mode: str = "r", **options: object) -> object:
        return Full(self, mode) if mode == "ab" else real(self, mode, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        line = "in.protected.report.jsonl: the report cannot be written (No space left on device); the same command"
        for left in (0, 1, 1, 1, 1):  # the settings; then what a started, done; b started, done comes to
            Full.left = left
            one_line(call("protect", "in", *QUICK), 1, line)
    code, out, err = call("protect", "in", *QUICK)
    assert (code, err) == (0, "")
    assert "a.png" in out
    assert len(list((tmp_path / "in.protected").iterdir())) == 2


def test_output_in_an_impossible_place(call: Call, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    for out in (source / "b.png", source / "deep" / "b.png"):
        line = f"{out.parent}: is a file or in one, not a folder; choose another output"
        one_line(call("protect", source, "-o", out, *QUICK), 1, line)
    one_line(call("protect", source, "-o", "x.gif", *QUICK), 2, "x.gif: unknown picture format", "use one of .png")
    picture(tmp_path / "in" / "b.png")
    one_line(call("protect", "in", "-o", source, *QUICK), 2, "a.png: is a file; give a folder")
    one_line(call("protect", "in", "-o", "in", *QUICK), 2, "in: is the output folder, too; choose another")
    one_line(call("protect", source, "in/b.png", "in/b.png", *QUICK), 2, "two files would be written to in/b.prot")


def test_report_of_other_settings_or_none(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    assert call("protect", "in", *QUICK)[0] == 0
    one_line(
        call("protect", "in", *QUICK, "--eps", "4/255"), 2, "in.protected.report.jsonl: belongs to", "(eps); choose"
    )
    one_line(call("protect", "in", *QUICK, "--report", "in/a.png"), 2, "in/a.png: a report is a .jsonl or a .parquet")
    assert images.read(tmp_path / "in" / "a.png").pixels.shape == (36, 40, 3)


def test_ctrl_c(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / "in" / f"{name}.png")
    real = local.save

    def stopped(picture: images.Picture, pixels: images.Pixels, out: Path, **options: Any) -> object:
        if out.name != "a.png.png":
            raise KeyboardInterrupt
        return real(picture, pixels, out, **options)

    with monkeypatch.context() as patch:
        patch.setattr(local, "save", stopped)
        one_line(call("protect", "in", *QUICK), 130, "stopped; finished files are kept, the same command goes on")
    assert [path.name for path in (tmp_path / "in.protected").iterdir()] == ["a.png.png"]
    code, out, _ = call("protect", "in", *QUICK)
    assert code == 0
    assert "2 done, 1 skipped" in out


def test_ctrl_c_among_several_files(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(picture(tmp_path / f"{name}.png").name) for name in ("a", "b", "c")]
    real = local.save

    def stopped(picture: images.Picture, pixels: images.Pixels, out: Path, **options: Any) -> object:
        if not out.name.startswith("a"):
            raise KeyboardInterrupt
        return real(picture, pixels, out, **options)

    with monkeypatch.context() as patch:
        patch.setattr(local, "save", stopped)
        one_line(call("protect", *names, "-o", "out", *QUICK), 130, "kept, the same command goes on from there\n")
        one_line(call("protect", *names, *QUICK), 130, "stopped; finished files are kept\n")  # no report
    code, out, err = call("protect", *names, "-o", "out", *QUICK)
    assert (code, err) == (0, "")
    assert "2 done, 1 skipped" in out
    assert "report: out.report.jsonl" in out
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_ctrl_c_in_other_commands(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Verifier, "compare", stopped)
    monkeypatch.setattr("mspd.training.train", stopped)
    a = picture(tmp_path / "a.png")
    one_line(call("verify", a, a, *QUICK), 130, "stopped; finished files are kept\n")
    command = ("train", "rn20-cifar10", "--data", tmp_path, "--out", "m.safetensors")
    one_line(call(*command), 130, "kept, the same command goes on from there\n")


def test_ctrl_c_while_the_package_is_imported(tmp_path: Path) -> None:
    """The command that pyproject.toml names, with a torch whose import is interrupted and swallows what that raises."""
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = scripts["scripts"]["mspd"].partition(":")
    lines = (
        "import os, signal, time\ntry:\n  os.kill(os.getpid(), signal.SIGINT)\n  time.sleep(9)\nexcept BaseException: 1"
    )
    (tmp_path / "torch.py").write_text(lines)
    code = (  # of what a shell starts in the background Ctrl-C is ignored, also where these tests run there
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"sys.path.insert(0, {str(tmp_path)!r}); from {module} import {function}; {function}()"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    one_line((done.returncode, done.stdout, done.stderr), 130, "mspd: stopped\n")


def test_ctrl_c_while_writing(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    one_line(call("protect", picture(tmp_path / "a.png"), *QUICK), 130, "stopped")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


def test_stdout_that_is_full(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    one_line(call("presets"), 1, "No space left on device")


# ---------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--preset", "phot"), ("unknown preset 'phot'", "choose one of cifar10, photo")),
        (("--backbone", "resnet50"), ("unknown model 'resnet50'", "prn18-photo", ".safetensors file")),
        (("--format", "gif"), ("unknown format 'gif'", "use png, tif, jpg")),
        (("--device", "gpu"), ("unknown device 'gpu'", "use auto, cpu, cuda or mps")),
        (("--device", "cuda:99"), ("device 'cuda:99'", "use auto or cpu")),
        (("--device", "meta"), ("device 'meta'", "use auto, cpu, cuda or mps")),
        (("--eps", "0"), ("eps is 0", "must be positive", "8/255")),
        (("--eps", "-8/255"), ("eps is -0.03", "must be positive")),
        (("--eps", "8"), ("eps is 8", "did you mean 8/255?")),
        (("--eps", "nan"), ("eps is nan", "must be positive")),
        (("--eps", "inf"), ("eps is inf", "must be positive")),
        (("--eps", "0.5/255"), ("eps is 0.00196", "at least 1/255")),
        (("--eps", "8/0"), ("eps is '8/0'", "for example 8/255")),
        (("--eps", "eight"), ("eps is 'eight'", "for example 8/255")),
        (("--eps", ""), ("eps is ''", "for example 8/255")),
        (("--n-samples", "0"), ("--n-samples", "mspd protect --help")),
        (("--n-samples", "many"), ("--n-samples", "mspd protect --help")),
        (("--quality", "101"), ("--quality", "mspd protect --help")),
        (("--seed", "-1"), ("--seed", "mspd protect --help")),
        (("--seed", str(2**64)), ("--seed", "mspd protect --help")),
        (("--workers", "0"), ("--workers", "mspd protect --help")),
        (("--engine", "dask"), ("unknown engine 'dask'", "use local or ray")),
        (("--on-error", "skip"), ("on_error is 'skip'", "use row or stop")),
        (("--strength", "3"), ("--strength", "mspd protect --help")),
        (("--eps",), ("--eps", "--help")),
        (
            ("--backbone", "prn18-photo"),
            ("backbone prn18-photo", "100 classes, the classifier has 10", "choose one"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_option(call: Call, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    picture(tmp_path / "a.png")
    one_line(call("protect", "a.png", *QUICK, *arguments), 2, *parts)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("-o", "b.jpg", "--format", "webp"), ("b.jpg: its name says another format than 'webp'", "leave one")),
        (("-o", "b.png", "--quality", "90"), ("--quality is of jpg and webp, the output is PNG", "--format jpg")),
        (("--quality", "90"), ("--quality is of jpg and webp, the output is PNG", "--format jpg")),
        (("-o", "b.bmp", "--history"), ("--history is a line in XMP, the output is BMP", "write another format")),
        (("--format", "bmp", "--history"), ("--history is a line in XMP, the output is BMP", "write another format")),
        (("--report", "memory://x.jsonl"), ("--report is 'memory://x.jsonl'", "a file of this computer")),
        (("--report", "x.csv"), ("x.csv: a report is a .jsonl or a .parquet file",)),
    ],
)
def test_options_that_would_mean_nothing(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    picture(tmp_path / "a.png")
    one_line(call("protect", "a.png", *QUICK, *arguments), 2, *parts)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


def test_format_of_the_name(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert call("protect", "a.png", *QUICK, "-o", "b.jpeg", "--format", "jpg", "--quality", "90")[0] == 0
    assert call("protect", "a.png", *QUICK, "--format", "webp", "--quality", "90")[0] == 0
    kinds = {}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            kinds[path.name] = image.format
    assert kinds == {"a.png": "PNG", "b.jpeg": "JPEG", "a.protected.webp": "WEBP"}


def test_report_that_cannot_be_opened(call: Call, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    report = source / "r.jsonl"
    one_line(call("protect", source, *QUICK, "--report", report), 1, f"{report}: the report cannot", "another --report")


def test_an_empty_name_is_not_the_current_folder(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for arguments in (("",), ("a.png", ""), ("a.png", "-o", "")):
        one_line(call("protect", *QUICK, *arguments), 2, "a name is empty; for the current folder write .")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


def test_wrong_command(call: Call) -> None:
    one_line(call("protekt", "a.png"), 2, "protekt", "mspd --help")
    one_line(call("--version-of-what"), 2, "--version-of-what", "mspd --help")
    one_line(call("protect"), 2, "pictures", "mspd protect --help")
    one_line(call("verify", "a.png"), 2, "protected", "mspd verify --help")
    one_line(call("models", "too", "many"), 2, "too", "mspd models --help")


def test_backbone_of_the_other_preset(call: Call, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    result = call("protect", "a.png", "--backbone", "prn18-cifar10")
    one_line(result, 2, "backbone prn18-cifar10", "10 classes, the classifier has 100", "effnet-lite0-photo")


# ---------------------------------------------------------------- weight files


@pytest.fixture
def network(tiny_weights: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a weight file that works, to be damaged."""
    path = tmp_path / "mine.safetensors"
    shutil.copy(tiny_weights["target"], path)
    shutil.copy(tiny_weights["target"].with_suffix(".json"), path.with_suffix(".json"))
    return path


def card(change: dict[str, object]) -> Callable[[Path], object]:
    """Change the card's fields; None removes one."""

    def apply(path: Path) -> None:
        file = path.with_suffix(".json")
        content = {**json.loads(file.read_text()), **change}
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return apply


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def honest(data: bytes) -> Callable[[Path], object]:
    """Other bytes, and a card whose checksum agrees."""

    def apply(path: Path) -> None:
        import hashlib

        path.write_bytes(data)
        card({"sha256": hashlib.sha256(data).hexdigest()})(path)

    return apply


def pickled(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


def old_pickled(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


def without_card(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        path.with_suffix(".json").unlink()
        make(path)

    return apply


PAGE = b"\n<!DOCTYPE html><html><body>404</body></html>"

DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "flipped": (flip, ("mine.safetensors: sha256 differs", "copy or install it again")),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:1000]), ("mine.safetensors: sha256 differs",)),
    "empty": (lambda p: p.write_bytes(b""), ("mine.safetensors: sha256 differs",)),
    "page": (lambda p: p.write_bytes(PAGE), ("mine.safetensors: this is a web page", "fetch the file again")),
    "pickle": (pickled, ("mine.safetensors: a pickle can run code", "convert it to safetensors")),
    "old pickle": (old_pickled, ("mine.safetensors: a pickle can run code", "convert it to safetensors")),
    "page without card": (without_card(lambda p: p.write_bytes(PAGE)), ("mine.safetensors: this is a web page",)),
    "pickle without card": (without_card(pickled), ("mine.safetensors: a pickle can run code",)),
    "no file": (lambda p: p.unlink(), ("mine.safetensors: no such weight file",)),
    "no card": (without_card(lambda p: None), ("mine.safetensors: its card mine.json is missing", "keep both")),
    "card cut": (lambda p: p.with_suffix(".json").write_text('{"arch'), ("mine.json: not a model card",)),
    "card is bytes": (lambda p: p.with_suffix(".json").write_bytes(b"\xff\xfe"), ("mine.json: not a model card",)),
    "card is a list": (lambda p: p.with_suffix(".json").write_text("[1]"), ("mine.json: not a model card",)),
    "card is deep": (lambda p: p.with_suffix(".json").write_text("[" * 100_000), ("mine.json: not a model card",)),
    "no checksum": (card({"sha256": None}), ("mine.json: 'sha256' is missing",)),
    "no classes": (card({"classes": None}), ("mine.json: 'classes' is missing",)),
    "no architecture": (card({"architecture": None}), ("mine.json: 'architecture' is missing",)),
    "arguments are text": (card({"arguments": "no"}), ("mine.json: 'arguments' is missing or malformed",)),
    "architecture": (card({"architecture": "vit_b16"}), ("unknown architecture 'vit_b16'", "wide_resnet")),
    "unknown argument": (card({"arguments": {"num_classes": 10, "nope": 1}}), ("wide_resnet", "nope")),
    "other argument": (card({"arguments": {"num_classes": 10, "depth": 16}}), ("mine.safetensors: not the weights",)),
    "senseless argument": (card({"arguments": {"num_classes": -1}}), ("mine.safetensors: not the weights",)),
    "other statistics": (card({"arguments": {"num_classes": 10, "stats": "x"}}), ("not the weights that its card",)),
    "not safetensors": (honest(b"\x10\0\0\0\0\0\0\0 not JSON......."), ("mine.safetensors: not the weights",)),
    "too short": (honest(b"abc"), ("mine.safetensors: not the weights",)),
    "classes": (card({"classes": ["a"] * 10}), ("class 0 is 'a', the classifier's is 'airplane'",)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_weights(call: Call, tmp_path: Path, network: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    damage, parts = DAMAGE[name]
    damage(network)
    before = {path.name for path in tmp_path.iterdir()}
    result = call("protect", "a.png", *QUICK, "--backbone", "mine.safetensors")
    one_line(result, 2 if name == "classes" else 1, *parts)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_own_weights(call: Call, tmp_path: Path, network: Path) -> None:
    picture(tmp_path / "a.png")
    assert call("protect", "a.png", *QUICK, "--backbone", network)[0] == 0
    one_line(call("protect", "a.png", "--backbone", network), 2, "mine.safetensors: 10 classes, the classifier has 100")


# ---------------------------------------------------------------- verify, train


def test_verify_needs_a_pair(call: Call, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", size=(40, 37))
    one_line(call("verify", a, b, *QUICK), 1, "differ in size (40 x 36 and 40 x 37 pixels)", "its own copy")
    one_line(call("verify", a, tmp_path / "c.png", *QUICK), 1, "c.png: no such file")
    one_line(call("verify", a, a, "--preset", "x"), 2, "unknown preset 'x'")
    monster = picture(tmp_path / "long.png", size=(65_501, 1))
    one_line(call("verify", monster, monster, *QUICK), 1, "long.png: longer than", "smaller copy")


def test_train_says_what_is_missing(call: Call, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    out = ("--out", "m.safetensors")
    one_line(call("train", "rn20-cifar10", *out), 2, "--data DIR", "--out FILE.safetensors")
    one_line(call("train", "rn20-cifar10", "--data", data), 2, "--data DIR", "--out FILE.safetensors")
    one_line(call("train", "rn20", "--data", data, *out), 2, "unknown recipe 'rn20'", "rn20-cifar10")
    one_line(call("train", "rn20-cifar10", "--data", data, "--out", "m.pt"), 2, "m.pt: ", "must end in .safetensors")
    one_line(call("train", "rn20-cifar10", "--data", data, *out), 2, "data: no train set here", "a sub-folder a class")
    one_line(call("train", "rn20-cifar10", "--data", "gone", *out), 2, "gone: no train set here")
    for device, remedy in (("gpu", "use auto, cpu"), ("cuda:99", "use auto or cpu"), ("meta", "use auto, cpu")):
        line = f"device '{device}'"
        one_line(call("train", "rn20-cifar10", "--data", data, *out, "--device", device), 2, line, remedy)
    one_line(call("train", "rn20-cifar10", "--data", data, *out, "--epochs", 0), 2, "--epochs", "mspd train --help")
    (data / "train").mkdir()
    one_line(call("train", "rn20-cifar10", "--data", data, *out), 2, "data: no pictures found")
    (data / "train" / "cat").mkdir()
    one_line(call("train", "rn20-cifar10", "--data", data, *out), 2, "train/cat: no pictures of this class; add some")
    (data / "train" / "cat" / "a.png").write_bytes(b"hello")
    one_line(call("train", "rn20-cifar10", "--data", data, *out), 1, "cat/a.png cannot be read as a picture")
    picture(data / "train" / "cat" / "a.png")
    one_line(call("train", "rn20-cifar10", "--data", data, *out), 2, "data: no test set here")
    (tmp_path / "m.safetensors").write_text("mine")
    one_line(call("train", "rn20-cifar10", "--data", data, *out), 1, "m.safetensors: already exists; choose another")
    (tmp_path / "n.json").write_text("mine")
    one_line(call("train", "rn20-cifar10", "--data", data, "-o", "n.safetensors"), 1, "n.json: already exists; choose")
    place = "m.safetensors/n.safetensors"
    one_line(call("train", "rn20-cifar10", "--data", data, "-o", place), 1, f"{place}: cannot be written", "another pl")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "m.safetensors", "n.json"}


def test_train_that_starts_from_a_stranger(call: Call, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            picture(tmp_path / "data" / split / name / "a.png")
    command = ("train", "rn20-cifar10", "--data", "data", "-o", "m.safetensors", "--start")
    one_line(call(*command, "prn18-cifar10"), 2, "start prn18-cifar10: not the recipe's resnet20", "or from none")
    one_line(call(*command, "robustbench:Nobody"), 2, "unknown model 'robustbench:Nobody'", "Wong2020Fast")
    one_line(call(*command, "gone.safetensors"), 1, "gone.safetensors: no such weight file")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_train_that_starts_from_a_function_in_this_folder(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            picture(tmp_path / "data" / split / name / "a.png")
    (tmp_path / "own_weights.py").write_text("def load(model):\n    raise ValueError('found')\n")
    command = ("train", "rn20-cifar10", "--data", "data", "-o", "m.safetensors", "--start", "own_weights:load")
    one_line(call(*command), 2, "start own_weights:load: no weights of a resnet20 (ValueError: found)")


def test_train_on_broken_parquet(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "train.parquet").write_bytes(b"hello")
    command = ("train", "rn20-cifar10", "--data", tmp_path, "--out", "m.safetensors")
    one_line(call(*command), 2, "train.parquet: not a readable parquet file")


def test_resume_uses_what_is_written(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's version belongs to its settings: a later mspd with another report does not mix the two."""
    picture(tmp_path / "in" / "a.png")
    assert call("protect", "in", *QUICK)[0] == 0
    monkeypatch.setattr(runner, "VERSION", runner.VERSION + 1)
    one_line(call("protect", "in", *QUICK), 2, "(version); choose another")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "active"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_do_not_wait_long_in_a_busy_loop(
    chosen: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set before PyTorch is imported, which reads it then."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    code = (
        "import os, sys, types\n"
        "import mspd_command\n"
        "assert 'torch' not in sys.modules\n"
        "cli = types.ModuleType('mspd.cli')\n"
        "cli.main = lambda: print(os.environ.get('GOMP_SPINCOUNT'))\n"
        "sys.modules |= {'mspd': types.ModuleType('mspd'), 'mspd.cli': cli}\n"
        "mspd_command.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(expected), done.stderr
