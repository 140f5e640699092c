"""Folder runs: one row a file, resumable after any kill, nothing of a stranger ever touched."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mspd.batch.local as local
from mspd import Protector, images
from mspd.atomic import temporary_beside
from mspd.batch import Plan, beside, plan, run
from mspd.batch.places import Spot
from mspd.errors import ImageError, MspdError, UsageError
from mspd.protector import Protection

ROW = {"id", "status", *Protection.__annotations__, "stamp"}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (33, 40), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


@pytest.fixture(scope="module")
def protector(tiny: str) -> Protector:
    return Protector(tiny)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in a tree, a broken one and a text file."""
    root = tmp_path / "in"
    picture(root / "a.png", 1)
    picture(root / "deep" / "b.JPG", 2)
    picture(root / "deep" / "er" / "c d é.bmp", 3, mode="L")
    (root / "bad.png").write_bytes(b"not a picture")
    (root / "notes.txt").write_text("no picture")
    return root


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    seen: list[str] = []
    real = local.load

    def counted(source: Spot) -> images.Picture:
        seen.append(Path(str(source)).name)
        return real(source)

    monkeypatch.setattr(local, "load", counted)
    return seen


def go(
    protector: Protector, source: Path, out: Path | None, report: Path | None = None, seed: int = 0
) -> dict[str, dict[str, object]]:
    return {row["id"]: row for row in run(protector, plan([source], out), report=report, seed=seed)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(report: Path) -> list[dict[str, object]]:
    """The rows of a report, read as strictly as any JSON reader may."""

    def strict(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=strict) for line in report.read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------- what a run does


def test_tree_is_kept_and_a_bad_file_is_a_row(protector: Protector, folder: Path, tmp_path: Path) -> None:
    before = files(folder)
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    rows = go(protector, folder, out, report)
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.png": "done", "bad.png": "failed", "deep/b.JPG": "done", "deep/er/c d é.bmp": "done",
    }  # fmt: skip
    assert str(folder / "bad.png") in str(rows["bad.png"]["error"])
    assert set(files(out)) == {"a.png.png", "deep/b.JPG.png", "deep/er/c d é.bmp.png"}
    assert files(folder) == before
    for name in ("a.png", "deep/b.JPG", "deep/er/c d é.bmp"):
        original, copy = images.read(folder / name).pixels, images.read(out / (name + ".png")).pixels
        moved = np.abs(original.astype(int) - copy)
        assert moved.max() <= 8
        assert moved.any()


def test_no_picture_of_a_folder_is_left_out(protector: Protector, tmp_path: Path) -> None:
    root, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "r.jsonl"
    plain = picture(root / "a.jpg", 1)
    plain.rename(root / "a.JFIF")
    for name in ("b.avif", "c.gif"):
        picture(root / name, 2)
    (root / "d.heic").write_bytes(b"\0\0\0\x14ftypheic\0\0\0\0heic" + bytes(99))
    (root / "e.mp4").write_bytes(b"a film")
    rows = go(protector, root, out, report)
    ends = {"a.JFIF": "done", "b.avif": "done", "c.gif": "done", "d.heic": "failed"}
    assert {name: row["status"] for name, row in rows.items()} == ends
    assert str(rows["d.heic"]["error"]).startswith(f"{root / 'd.heic'}: not a readable")
    assert str(rows["d.heic"]["error"]).endswith("convert it to PNG or JPEG")
    assert set(files(out)) == {"a.JFIF.png", "b.avif.png", "c.gif.png"}
    for name in ("a.JFIF", "b.avif", "c.gif"):
        moved = images.read(root / name).pixels.astype(int) - images.read(out / (name + ".png")).pixels
        assert 0 < np.abs(moved).max() <= 8
    (root / "d.heic").unlink()  # converted
    picture(root / "d.png", 4)
    assert [row["status"] for row in go(protector, root, out, report).values()] == ["skipped"] * 3 + ["done"]


def test_rows_of_the_report(protector: Protector, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    go(protector, folder, tmp_path / "out", report)
    first, *rows = lines(report)
    settings = first.pop("settings")
    assert first == {}
    assert isinstance(settings, dict)
    assert settings["seed"] == 0
    assert settings["eps"] == 8 / 255
    assert len(settings["weights"]) == 2
    ends = {"a.png": "done", "bad.png": "failed", "deep/b.JPG": "done", "deep/er/c d é.bmp": "done"}
    for name, end in ends.items():
        assert [row["status"] for row in rows if row["id"] == name] == ["started", end]
    assert len(rows) == 8
    for row in rows:
        expected = {"started": {"id", "status"}, "failed": {"id", "status", "error"}, "done": ROW}
        assert set(row) == expected[str(row["status"])]


def test_one_file_and_several(protector: Protector, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.jpeg", 2)
    assert [job.output for job in plan([a], None)] == [tmp_path / "a.protected.png"]
    assert [job.output for job in plan([a, b], None, suffix=".webp")] == [
        tmp_path / "a.protected.webp", tmp_path / "b.protected.webp",
    ]  # fmt: skip
    assert [job.output for job in plan([a], tmp_path / "x.tif")] == [tmp_path / "x.tif"]
    assert [job.output for job in plan([a], tmp_path / "x")] == [tmp_path / "x" / "a.png.png"]
    both = [tmp_path / "x.d" / "a.png.png", tmp_path / "x.d" / "b.jpeg.png"]
    assert [job.output for job in plan([a, b], tmp_path / "x.d")] == both
    assert next(iter(plan([tmp_path], None))).output == tmp_path.with_name(tmp_path.name + ".protected") / "a.png.png"


def test_folder_named_by_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "in" / "sub" / "a.png")
    monkeypatch.chdir(tmp_path / "in")
    assert next(iter(plan([Path(".")], None))).output == tmp_path / "in.protected" / "sub" / "a.png.png"
    monkeypatch.chdir(tmp_path / "in" / "sub")
    assert next(iter(plan([Path("..")], None))).output == tmp_path / "in.protected" / "sub" / "a.png.png"
    assert beside(Path("."), ".report.jsonl") == tmp_path / "in" / "sub.report.jsonl"


def test_two_folders_with_the_same_names_are_two_jobs(protector: Protector, tmp_path: Path, calls: list[str]) -> None:
    for name in ("one", "two"):
        picture(tmp_path / name / "a.png", len(name))
    report = tmp_path / "r.jsonl"
    jobs = plan([tmp_path / "one", tmp_path / "two"], None)
    assert len({job.id for job in jobs}) == 2
    for status, computed in (("done", 2), ("skipped", 2)):
        assert [row["status"] for row in run(protector, jobs, report=report, seed=0)] == [status] * 2
        assert len(calls) == computed


def test_several_files_have_a_report_beside_their_folder(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    assert plan([a, b], tmp_path / "out").report == tmp_path / "out.report.jsonl"
    assert plan([a, b], None).report is plan([a], tmp_path / "out").report is None
    assert plan([tmp_path], None).report == tmp_path.with_name(tmp_path.name + ".protected.report.jsonl")


def test_same_name_from_another_folder_is_another_picture(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "out" / "a.png.png"
    for folder, ends in (("one", ["done", "done"]), ("two", ["failed", "done"])):
        picture(tmp_path / folder / "a.png", len(folder) + ord(folder[0]))
        picture(tmp_path / folder / f"{folder}.png", 3)
        monkeypatch.chdir(tmp_path / folder)
        jobs = plan(["a.png", f"{folder}.png"], "../out")
        rows = list(run(protector, jobs, report=jobs.report, seed=0))
        assert [row["status"] for row in rows] == ends
    why = "already exists, and is not the copy of a.png as it is now"
    assert rows[0]["error"] == f"../out/a.png.png: {why}; choose another output or remove it first"
    moved = np.abs(images.read(copy).pixels.astype(int) - images.read(tmp_path / "one" / "a.png").pixels)
    assert moved.max() <= 8


def test_moved_folder_is_computed_again_and_accepted(
    protector: Protector, folder: Path, tmp_path: Path, calls: list[str]
) -> None:
    (folder / "bad.png").unlink()
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    go(protector, folder, out, report)
    before = files(out)
    elsewhere = folder.rename(tmp_path / "elsewhere")
    for status, computed in (("done", 6), ("skipped", 6)):
        rows = go(protector, elsewhere, out, report)
        assert {row["status"] for row in rows.values()} == {status}
        assert len(calls) == computed
    assert files(out) == before


def test_two_sources_of_one_output(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png")
    picture(tmp_path / "b" / "x.png")
    line = r"two files would be written to .*out.x\.png\.png: name each picture once, or call once for each folder"
    with pytest.raises(UsageError, match=line):
        plan([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(UsageError, match=r"x\.protected\.png: .* only with -o FOLDER"):
        plan([picture(tmp_path / "x.png"), picture(tmp_path / "x.jpg")], None)


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    a = picture(tmp_path / "in" / "a.png")
    with pytest.raises(UsageError, match="is a file; give a folder"):
        plan([tmp_path / "in"], a)
    with pytest.raises(UsageError, match=r"z\.png: is a picture's name; give a folder"):
        plan([tmp_path / "in"], tmp_path / "z.png")
    with pytest.raises(UsageError, match=r"unknown picture format '\.gif'"):
        plan([a], tmp_path / "a.gif")
    with pytest.raises(UsageError, match="is the output folder, too"):
        plan([tmp_path / "in"], tmp_path / "in" / ".." / "in")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no pictures in this folder"):
        plan([tmp_path / "empty"], None)


def test_output_folder_inside_the_input(
    protector: Protector, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    picture(root / "a.png", 1)
    monkeypatch.chdir(tmp_path)
    for source, out in ((Path("in"), Path("in/out")), (root, Path("in/out")), (Path("in"), root / "out")):
        rows = go(protector, source, out, tmp_path / "r.jsonl")
        assert list(rows) == ["a.png"]
    assert calls == ["a.png"]
    assert set(files(root)) == {"a.png", "out/a.png.png"}
    picture(root / "out" / "deep" / "b.png", 2)  # no copy: left out without a word it would be published as it is
    with pytest.raises(UsageError, match=r"deep/b.png: lies where the copies go and would not be protected"):
        plan([root], root / "out")
    (root / "out" / "deep" / "b.png").unlink()
    # The output folder around the input is no reason to leave the input out.
    assert [job.id for job in plan([root], tmp_path)] == ["a.png", "out/a.png.png"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_symbolic_links(protector: Protector, tmp_path: Path) -> None:
    root = tmp_path / "in"
    original = picture(tmp_path / "elsewhere" / "o.png", 1)
    root.mkdir()
    (root / "link.png").symlink_to(original)
    (root / "broken.png").symlink_to(tmp_path / "nothing.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "loop").symlink_to(root, target_is_directory=True)
    rows = go(protector, root, tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "broken.png": "failed", "link.png": "done", "self.png": "failed",
    }  # fmt: skip
    assert "no such file" in rows["broken.png"]["error"]
    assert set(files(tmp_path / "out")) == {"link.png.png"}
    # A broken link at an output is somebody's, too.
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2" / "link.png.png").symlink_to(tmp_path / "nothing.png")
    assert go(protector, root, tmp_path / "out2")["link.png"]["status"] == "failed"
    assert not (tmp_path / "nothing.png").exists()


ODD = ["-x.png", " a  b .png", "ünï código 猫.png", "[bold]x[-].PNG", "a\tb\n.png", "%s {0} $HOME.jpeg", "UPPER.TIFF"]


def test_odd_names(protector: Protector, tmp_path: Path, calls: list[str]) -> None:
    root = tmp_path / "in"
    for seed, name in enumerate(ODD):
        picture(root / name, seed)
    names = set(ODD)
    if sys.platform == "linux":
        raw = os.fsdecode(b"\xff\xfe.png")  # not UTF-8
        picture(root / "plain.png", 99).rename(root / raw)
        names.add(raw)
    report = tmp_path / "r.jsonl"
    rows = go(protector, root, tmp_path / "out", report)
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(names, "done")
    assert set(files(tmp_path / "out")) == {name + ".png" for name in names}
    rows = go(protector, root, tmp_path / "out", report)
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(names, "skipped")
    assert len(calls) == len(names)


# ---------------------------------------------------------------- resuming


def test_second_run_computes_nothing_and_tries_failures_again(
    protector: Protector, folder: Path, tmp_path: Path, calls: list[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    first = go(protector, folder, out, report)
    before = files(out)
    calls.clear()
    second = go(protector, folder, out, report)
    assert {name: row["status"] for name, row in second.items()} == {
        name: "failed" if name == "bad.png" else "skipped" for name in first
    }
    assert {**second["a.png"], "status": "done"} == first["a.png"]
    assert calls == ["bad.png"]
    assert files(out) == before
    (folder / "bad.png").unlink()
    picture(folder / "bad.png", 5)
    assert go(protector, folder, out, report)["bad.png"]["status"] == "done"
    assert calls == ["bad.png", "bad.png"]
    # An output that was deleted is made again.
    (out / "a.png.png").unlink()
    assert go(protector, folder, out, report)["a.png"]["status"] == "done"
    assert files(out)["a.png.png"] == before["a.png.png"]


def test_original_that_was_changed_is_not_taken_for_done(
    protector: Protector, folder: Path, tmp_path: Path, calls: list[str]
) -> None:
    rows = go(protector, folder, tmp_path / "out", tmp_path / "r.jsonl")
    name = next(name for name, row in rows.items() if row["status"] == "done")
    copy = Path(rows[name]["output"])
    before, later = copy.read_bytes(), copy.stat().st_mtime + 10
    os.utime(folder / name, (later, later))  # only touched: the same bytes tell that it is done
    assert go(protector, folder, tmp_path / "out", tmp_path / "r.jsonl")[name]["status"] == "done"
    original, old = (folder / name).rename(tmp_path / "original"), copy.stat().st_mtime - 10
    picture(folder / name, 77)
    os.utime(folder / name, (old, old))  # put there with the time of its content, as a copying tool does
    for _ in range(2):
        row = go(protector, folder, tmp_path / "out", tmp_path / "r.jsonl")[name]
        assert "is not the copy of" in row["error"]
        assert copy.read_bytes() == before
    (folder / name).rename(tmp_path / "other")
    original.rename(folder / name)  # put back: the same bytes tell again
    assert go(protector, folder, tmp_path / "out", tmp_path / "r.jsonl")[name]["status"] == "done"
    (tmp_path / "other").rename(folder / name)
    copy.unlink()
    assert go(protector, folder, tmp_path / "out", tmp_path / "r.jsonl")[name]["status"] == "done"
    assert copy.read_bytes() != before


def test_other_originals_older_than_the_run_are_not_taken_for_done(protector: Protector, tmp_path: Path) -> None:
    """A link that leads to another folder, and a folder in the place of one that was renamed."""
    for seed, name in enumerate(("one", "two")):
        picture(tmp_path / name / "a.png", seed)
    link, out = tmp_path / "link", tmp_path / "out"
    for target in ("one", "two"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target, target_is_directory=True)
        row = go(protector, link, out, tmp_path / "link.jsonl")["a.png"]
    assert "is not the copy of" in str(row["error"])
    go(protector, tmp_path / "one", tmp_path / "out1", tmp_path / "one.jsonl")
    (tmp_path / "one").rename(tmp_path / "away")
    (tmp_path / "two").rename(tmp_path / "one")
    row = go(protector, tmp_path / "one", tmp_path / "out1", tmp_path / "one.jsonl")["a.png"]
    assert "is not the copy of" in str(row["error"])


def test_report_without_stamps(protector: Protector, folder: Path, tmp_path: Path) -> None:
    """Of an older mspd: the times of original and copy tell."""
    report = tmp_path / "r.jsonl"
    go(protector, folder, tmp_path / "out", report)
    rows = [{key: value for key, value in row.items() if key != "stamp"} for row in lines(report)]
    report.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert go(protector, folder, tmp_path / "out", report)["a.png"]["status"] == "skipped"
    later = (tmp_path / "out" / "a.png.png").stat().st_mtime + 10
    os.utime(folder / "a.png", (later, later))
    assert go(protector, folder, tmp_path / "out", report)["a.png"]["status"] == "done"
    assert go(protector, folder, tmp_path / "out", report)["a.png"]["status"] == "skipped"


def test_other_settings_on_the_same_report(protector: Protector, folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    go(protector, folder, out, report)
    before = report.read_bytes()
    with pytest.raises(UsageError, match=r"r\.jsonl: belongs to a run with other settings \(seed\)"):
        go(protector, folder, out, report, seed=1)
    other = Protector(protector.settings, eps=4 / 255, backbone=protector.settings.targets[0])
    with pytest.raises(UsageError, match=r"\(eps, weights\); choose another"):
        go(other, folder, out, report)
    assert report.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_row_cut_off_by_a_kill(protector: Protector, folder: Path, tmp_path: Path, calls: list[str], cut: int) -> None:
    (folder / "bad.png").unlink()
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    go(protector, folder, out, report)
    before, whole = files(out), report.read_bytes()
    last = lines(report)[-1]["id"]  # of whichever was written last
    report.write_bytes(whole[:-cut])
    calls.clear()
    rows = go(protector, folder, out, report)
    assert {name: row["status"] for name, row in rows.items()} == {**dict.fromkeys(rows, "skipped"), last: "done"}
    assert rows["deep/er/c d é.bmp"]["output"] == str(out / "deep/er/c d é.bmp.png")
    assert calls == [Path(last).name]
    assert files(out) == before
    assert lines(report)[-1]["status"] == "done"


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_kill_within_the_first_row(protector: Protector, folder: Path, tmp_path: Path, cut: int) -> None:
    report = tmp_path / "r.jsonl"
    go(protector, folder, tmp_path / "out", report)
    whole = report.read_bytes()
    report.write_bytes(whole.splitlines()[0][:cut])
    go(protector, folder, tmp_path / "other", report)
    assert len(lines(report)) == len(whole.splitlines())


def test_kill_between_output_and_its_row(
    protector: Protector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.png").unlink()
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    real = local.save

    def killed(picture: images.Picture, pixels: images.Pixels, target: Path, **options: Any) -> None:
        real(picture, pixels, target, **options)
        temporary_beside(target).write_bytes(b"cut")
        temporary_beside(target.with_name("other.png")).write_bytes(b"of another run")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            go(protector, folder, out, report)
    before = files(out)
    assert "a.png.png" in before
    assert {row["status"] for row in lines(report)[1:]} == {"started"}
    rows = go(protector, folder, out, report)
    assert {row["status"] for row in rows.values()} == {"done"}
    assert rows["a.png"]["output"] == str(out / "a.png.png")
    assert files(out)["a.png.png"] == before["a.png.png"]
    left = [path.read_bytes() for path in out.rglob(".mspd-*")]
    assert left
    assert set(left) == {b"of another run"}


def test_stranger_at_the_output_of_a_killed_job(protector: Protector, folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    go(protector, folder, out, report)
    report.write_bytes(b"".join(report.read_bytes().splitlines(keepends=True)[:2]))  # a.png started
    stranger = picture(out / "a.png.png", 77).read_bytes()
    row = go(protector, folder, out, report)["a.png"]
    assert row["status"] == "failed"
    assert "already exists" in str(row["error"])
    assert (out / "a.png.png").read_bytes() == stranger
    assert not list(out.rglob(".mspd-*"))


def test_strangers_file_is_never_overwritten(protector: Protector, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stranger = out / "a.png.png"
    stranger.parent.mkdir()
    stranger.write_text("mine")
    rows = go(protector, folder, out, tmp_path / "r.jsonl")
    assert rows["a.png"]["error"] == f"{stranger}: already exists; choose another output or remove it first"
    assert rows["deep/b.JPG"]["status"] == "done"
    assert stranger.read_text() == "mine"
    row = next(run(protector, plan([folder / "a.png"], folder / "a.png"), report=None, seed=0))
    assert "is the original itself" in row["error"]


STRANGERS = [
    b"hello", b"hello\n", b"one\ntwo\n", b"\x89PNG\r\n\x1a\n\0\0", b'{"a": 1}', b'{"a": 1}\n', b"[1, 2]\n", b"3\n",
    b'{"settings": 3}\n', b'{"settings": {}}\n[]\n', b'{"settings": {}}\n\nnot JSON\n', b"\n", b"\xff\xfe\0",
]  # fmt: skip


@pytest.mark.parametrize("content", STRANGERS, ids=range(len(STRANGERS)))
def test_file_that_is_no_report(protector: Protector, folder: Path, tmp_path: Path, content: bytes) -> None:
    report = tmp_path / "mine.jsonl"
    report.write_bytes(content)
    with pytest.raises(
        UsageError, match=r"mine\.jsonl: (not a report of mspd; choose another file|belongs to)"
    ) as caught:
        go(protector, folder, tmp_path / "out", report)
    assert "\n" not in str(caught.value)
    assert report.read_bytes() == content
    assert not (tmp_path / "out").exists()


def test_report_that_cannot_be_written(protector: Protector, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match="not a report"):
        go(protector, folder, tmp_path / "out", tmp_path / "folder.jsonl")
    with pytest.raises(UsageError, match=r"r\.csv: a report is a \.jsonl or a \.parquet file"):
        go(protector, folder, tmp_path / "out", tmp_path / "r.csv")
    with pytest.raises(ImageError, match="the report cannot be written"):
        go(protector, folder, tmp_path / "out", folder / "a.png" / "r.jsonl")


def test_report_on_a_full_disk_stays_readable(protector: Protector, tmp_path: Path) -> None:
    """A real limit of file size, hit in the middle of a row: the row goes, the run stops, and later goes on."""
    resource = pytest.importorskip("resource")
    root, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "r.jsonl"
    for seed in range(6):
        picture(root / f"{seed}.png", seed, (9, 9))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(ImageError, match=r"r\.jsonl: the report cannot be written .*goes on from here"):
            go(protector, root, out, report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    rows = lines(report)
    assert 0 < sum(row.get("status") == "done" for row in rows) < 6
    statuses = [row["status"] for row in go(protector, root, out, report).values()]
    assert set(statuses) == {"skipped", "done"}
    assert len(files(out)) == 6
    assert not list(out.rglob(".mspd-*"))


def test_picture_too_large_for_the_memory(
    protector: Protector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Protector.defend
    a = protector.view(images.read(folder / "a.png").pixels)

    def hungry(self: Protector, x: Tensor, y: Tensor, seed: int) -> Tensor:
        if any(torch.equal(one, a[0]) for one in x):
            torch.empty(1 << 55)  # PyTorch raises a RuntimeError
        return real(self, x, y, seed)

    monkeypatch.setattr(Protector, "defend", hungry)
    rows = go(protector, folder, tmp_path / "out", tmp_path / "r.jsonl")
    assert rows["a.png"]["error"] == f"{folder / 'a.png'}: too large for the memory; scale it down"
    assert rows["deep/b.JPG"]["status"] == "done"


def test_error_of_our_own_making_is_not_hidden(
    protector: Protector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    for place, name in ((local, "load"), (Protector, "perturb"), (local, "save"), (Plan, "__iter__")):
        jobs = plan([folder], tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, wrong)
            with pytest.raises(ZeroDivisionError):
                list(run(protector, jobs, report=tmp_path / f"{name}.jsonl", seed=0))
    assert not issubclass(ZeroDivisionError, MspdError)


def test_a_report_does_not_vouch_for_another_output(protector: Protector, folder: Path, tmp_path: Path) -> None:
    """A stranger's file at another run's output is not what the report says is done."""
    report = tmp_path / "r.jsonl"
    go(protector, folder, tmp_path / "out", report)
    source = next(path for path in folder.iterdir() if path.suffix == ".png" and path.name != "bad.png")
    foreign = tmp_path / "out2" / (source.name + ".png")
    foreign.parent.mkdir()
    foreign.write_bytes(source.read_bytes())
    rows = go(protector, folder, tmp_path / "out2", report)
    assert rows[source.name]["status"] == "failed"
    assert "already exists" in rows[source.name]["error"]
    assert foreign.read_bytes() == source.read_bytes()


def test_a_report_does_not_vouch_for_a_file_in_another_working_folder(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, found = picture(tmp_path / "in" / "a.png"), []
    for folder in ("one", "two"):
        (tmp_path / folder / "out").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / folder)
        if folder == "two":
            Path("out", "a.png.png").write_bytes(original.read_bytes())
        found.append(go(protector, original.parent, Path("out"), tmp_path / "r.jsonl")["a.png"])
    assert found[0]["output"] == str(tmp_path / "one" / "out" / "a.png.png")
    assert found[1]["error"] == (
        f"out/a.png.png: already exists, and is not the copy of {original} as it is now; choose another output or "
        "remove it first"
    )


def test_folders_and_outputs_without_access_are_rows(
    protector: Protector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.png").unlink()
    jobs, report = plan([folder], tmp_path / "out"), tmp_path / "r.jsonl"
    closed, scan, look = folder / "deep" / "er", os.scandir, Path.exists

    def scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    def exists(path: Path) -> bool:
        if path.name == "a.png.png":
            raise PermissionError(13, "Permission denied")
        return look(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        rows = {row["id"]: row for row in run(protector, jobs, report=report, seed=0)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.png": "done",
        "deep/b.JPG": "done",
        "deep/er": "failed",
    }
    assert rows["deep/er"]["error"] == f"{closed}: cannot be listed (Permission denied); check your access to it"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", exists)
        rows = {row["id"]: row for row in run(protector, jobs, report=report, seed=0)}
    ends = {"a.png": "failed", "deep/b.JPG": "skipped", "deep/er/c d é.bmp": "done"}
    assert {name: row["status"] for name, row in rows.items()} == ends
    assert (
        rows["a.png"]["error"]
        == f"{tmp_path / 'out' / 'a.png.png'}: no permission; change the access rights or choose another place"
    )
    assert {row["status"] for row in run(protector, jobs, report=report, seed=0)} == {"skipped"}
