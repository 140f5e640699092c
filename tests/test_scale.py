"""Many files: addresses, tar shards, Parquet, batches and bounds of the pipeline, the lock, and what kills leave."""

import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import mspd.batch.local as local
import mspd.batch.places as places
import mspd.batch.runner as runner
from mspd import Protector, images
from mspd.atomic import temporary_beside
from mspd.batch import Job, Plan, plan, run
from mspd.batch.report import Journal
from mspd.errors import ImageError, UsageError
from mspd.protector import Perturbation

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "files.py"


def png(seed: int, size: tuple[int, int] = (20, 20)) -> bytes:
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(root: Path, n: int) -> Path:
    root.mkdir(parents=True)
    for seed in range(n):
        (root / f"{seed:02d}.png").write_bytes(png(seed, (20 + seed % 3, 20)))
    return root


def tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for name, data in files.items() if isinstance(files, dict) else files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1000
            out.addfile(entry, io.BytesIO(data))
    return path


def untar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as file:
        return {entry.name: file.extractfile(entry).read() for entry in file}  # type: ignore[union-attr]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def statuses(rows: Any) -> dict[str, str]:
    return {row["id"]: row["status"] for row in rows}


@pytest.fixture(scope="module")
def protector(tiny: str) -> Protector:
    return Protector(tiny)


def protected(protector: Protector, data: bytes) -> bytes:
    """What the file of a picture must be: computed alone."""
    picture = images.decode(data, "x.png")
    pixels, _, _ = protector.protect_pixels(picture.pixels)
    return images.encode(picture, pixels, "y.png", eps=protector.settings.eps)[0]


# ---------------------------------------------------------------- the pipeline


def test_batches_and_workers_do_not_change_bytes(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path / "in", 24)
    sizes: list[int] = []
    real = Protector.perturb

    def counted(self: Protector, x: Tensor, *, seed: int = 0) -> list[Perturbation]:
        sizes.append(len(x))
        return real(self, x, seed=seed)

    monkeypatch.setattr(Protector, "perturb", counted)
    for workers in (1, 3):
        rows = list(run(protector, plan([root], tmp_path / f"out{workers}"), report=None, seed=0, workers=workers))
        assert [row["id"] for row in rows] == sorted(path.name for path in root.iterdir())
    assert sum(sizes) == 48
    assert max(sizes) > 1
    monkeypatch.undo()
    expected = {path.name + ".png": protected(protector, path.read_bytes()) for path in root.iterdir()}
    assert files(tmp_path / "out1") == files(tmp_path / "out3") == expected


def test_little_is_read_ahead_of_a_slow_reader_of_rows(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path / "in", 20)
    read: list[places.Spot] = []
    real = local.load
    monkeypatch.setattr(local, "load", lambda source: (read.append(source), real(source))[1])
    monkeypatch.setattr(local, "MOST", 4)
    monkeypatch.setattr(Protector, "at_once", lambda *_: 2)
    for yielded, _ in enumerate(run(protector, plan([root], tmp_path / "out"), report=None, seed=0)):
        assert len(read) - yielded <= 4
    assert len(read) == 20
    read.clear()
    monkeypatch.setattr(local, "MOST_PIXELS", 1)  # then each picture waits until the one before is written
    rows = run(protector, plan([root], tmp_path / "out2"), report=None, seed=0, workers=1)
    assert [row["status"] for row in rows] == ["done"] * 20


def test_one_bad_picture_does_not_fail_those_computed_with_it(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path / "in", 6)
    bad = protector.view(images.read(root / "03.png").pixels)
    real = Protector.perturb

    def picky(self: Protector, x: Tensor, *, seed: int = 0) -> list[Perturbation]:
        if any(one.shape == bad.shape[1:] and bool((one == bad[0]).all()) for one in x):
            raise ImageError("no")
        return real(self, x, seed=seed)

    monkeypatch.setattr(Protector, "perturb", picky)
    found = statuses(run(protector, plan([root], tmp_path / "out"), report=None, seed=0))
    assert found == {f"{i:02d}.png": "failed" if i == 3 else "done" for i in range(6)}


def test_on_error_stop(protector: Protector, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", 6)
    (root / "02.png").write_bytes(b"broken")
    jobs, report = plan([root], tmp_path / "out"), tmp_path / "r.jsonl"
    rows = list(run(protector, jobs, report=report, seed=0, on_error="stop"))
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    (root / "02.png").write_bytes(png(2))
    assert set(statuses(run(protector, jobs, report=report, seed=0, on_error="stop")).values()) == {"done", "skipped"}
    assert len(files(tmp_path / "out")) == 6
    with pytest.raises(UsageError, match="use row or stop"):
        next(run(protector, jobs, report=None, seed=0, on_error="skip"))
    with pytest.raises(UsageError, match="use local or ray"):
        next(run(protector, jobs, report=None, seed=0, engine="dask"))


def test_published_pictures_tell_nothing(protector: Protector, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "in", 1)
    row = next(run(protector, plan([root], tmp_path / "out"), report=None, seed=12345))
    with Image.open(row["output"]) as image:
        assert image.info == {}
    assert b"tEXt" not in Path(row["output"]).read_bytes()
    tar(tmp_path / "s.tar", {"a.png": png(0)})
    list(run(protector, plan([tmp_path / "s.tar"], None), report=tmp_path / "s.jsonl", seed=12345))
    published = (tmp_path / "s.protected.tar").read_bytes()
    for private in (b"12345", row["label"].encode(), protector.settings.backbone.encode()):
        assert private not in published


# ---------------------------------------------------------------- the report


def test_two_runs_on_one_report(protector: Protector, tmp_path: Path) -> None:
    jobs, report = plan([folder_of(tmp_path / "in", 3)], tmp_path / "out"), tmp_path / "r.jsonl"
    first = run(protector, jobs, report=report, seed=0)
    next(first)
    with pytest.raises(UsageError, match=r"r\.jsonl: another run is writing this report; wait for it") as caught:
        next(run(protector, jobs, report=report, seed=0))
    assert "\n" not in str(caught.value)
    assert len(list(first)) == 2
    assert set(statuses(run(protector, jobs, report=report, seed=0)).values()) == {"skipped"}


def test_parquet_report_is_in_the_order_of_the_pictures(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the first two pictures are slow to be read, and are noted in the journal after the others."""
    parquet = pytest.importorskip("pyarrow.parquet")
    look = runner._look

    def slow(job: Job, log: Journal) -> Any:
        time.sleep(0.3 * (job.id < "02") + 0.3 * (job.id < "01"))
        return look(job, log)

    monkeypatch.setattr(runner, "_look", slow)
    jobs, report = plan([folder_of(tmp_path / "in", 4)], tmp_path / "out"), tmp_path / "r.parquet"
    ids = [row["id"] for row in run(protector, jobs, report=report, seed=3, workers=4)]
    journal = [json.loads(line).get("id") for line in (tmp_path / "r.parquet.jsonl").read_text().splitlines()]
    assert ids == ["00.png", "01.png", "02.png", "03.png"]
    assert list(dict.fromkeys(journal[1:])) != ids
    assert parquet.read_table(report)["id"].to_pylist() == ids


def test_parquet_report(protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    root = folder_of(tmp_path / "in", 4)
    (root / "01.png").write_bytes(b"broken")
    jobs, report = plan([root], tmp_path / "out"), tmp_path / "r.parquet"
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(parquet.ParquetWriter, "write_table", Mock(side_effect=full))
        with pytest.raises(ImageError, match="No space left"):
            list(run(protector, jobs, report=report, seed=3))
    temporary_beside(report).write_bytes(b"of a killed run")
    list(run(protector, jobs, report=report, seed=3))
    assert not list(tmp_path.glob(".mspd-*"))
    shutil.rmtree(tmp_path / "out")
    for left in tmp_path.glob("r.*"):
        left.unlink()
    rows = list(run(protector, jobs, report=report, seed=3))
    table = parquet.read_table(report)
    assert table["note"].to_pylist() == [None] * 4
    assert json.loads(table.schema.metadata[b"mspd"])["seed"] == 3
    kept = [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]
    assert kept == rows
    (root / "01.png").write_bytes(png(1))
    again = list(run(protector, jobs, report=report, seed=3))
    assert [row["status"] for row in again] == ["skipped", "done", "skipped", "skipped"]
    assert [row["status"] for row in parquet.read_table(report).to_pylist()] == ["done"] * 4
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        next(run(protector, jobs, report=report, seed=4))
    mine = tmp_path / "mine.parquet"
    mine.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"mine\.parquet: not a report that can go on"):
        next(run(protector, jobs, report=mine, seed=3))
    assert mine.read_bytes() == b"PAR1"


def test_a_long_report_is_searched_by_id(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = Journal(path, {"a": 1})
    for index in range(2000):
        first.append({"id": str(index), "status": "started"})
        if index != 1234:
            first.append({"id": str(index), "status": "done", "n": index})
    first.close()
    second = Journal(path, {"a": 1})
    assert second.unfinished == {"1234"}
    assert all(second.get(str(i)) == {"id": str(i), "status": "done", "n": i} for i in range(0, 1000, 97))
    assert second.get("1234") == {"id": "1234", "status": "started"}
    assert second.get("2000") == {}
    second.close()


# ---------------------------------------------------------------- addresses


@pytest.fixture
def memory() -> Any:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    fs.rm("/", recursive=True) if fs.ls("/") else None
    return fs


def test_addresses_in_and_out(
    protector: Protector, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a.png", "d/b.png", "d/e/c.png")):
        memory.pipe_file(f"/in/{name}", png(seed))
    memory.pipe_file("/in/bad.png", b"broken")
    memory.pipe_file("/in/notes.txt", b"text")
    jobs = plan(["memory://in"], "memory://out/")
    assert jobs.report == Path("out.report.jsonl")  # private: never beside what is published
    rows = {row["id"]: row for row in run(protector, jobs, report=jobs.report, seed=0)}
    assert statuses(rows.values()) == {"a.png": "done", "bad.png": "failed", "d/b.png": "done", "d/e/c.png": "done"}
    assert rows["bad.png"]["error"].startswith("memory://in/bad.png: not a readable")
    assert memory.find("/out") == ["/out/a.png.png", "/out/d/b.png.png", "/out/d/e/c.png.png"]
    assert memory.cat_file("/out/d/b.png.png") == protected(protector, png(1))
    assert statuses(run(protector, jobs, report=jobs.report, seed=0))["a.png"] == "skipped"
    memory.pipe_file("/out/d/b.png.png", b"a stranger's")
    rows = {row["id"]: row for row in run(protector, jobs, report=None, seed=0)}
    assert rows["d/b.png"]["error"].endswith("b.png.png: already exists; choose another output or remove it first")
    assert memory.cat_file("/out/d/b.png.png") == b"a stranger's"
    one = list(run(protector, plan(["memory://in/*/b.png"], tmp_path / "here"), report=None, seed=0))
    assert (tmp_path / "here" / "b.png.png").read_bytes() == protected(protector, png(1))
    assert len(one) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipe_in_a_folder_at_an_address_is_passed_over(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    os.mkfifo(folder_of(tmp_path / "in", 1) / "pipe.png")
    assert [job.id for job in plan([f"local://{tmp_path}/in"], tmp_path / "out")] == ["00.png"]


def test_shard_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(where: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(where))

    monkeypatch.setattr(places, "_open", refused)
    (job,) = plan([tar(tmp_path / "s.tar", {"a.png": png(0)})], tmp_path / "out.tar")
    assert job.problem == f"{tmp_path}/s.tar: Permission denied; check the address and your access to it"


def test_object_of_which_a_part_was_put_is_removed(
    protector: Protector, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then goes on."""
    jobs, put = plan([folder_of(tmp_path / "in", 1)], "memory://out"), type(memory).pipe_file

    def full(store: Any, path: str, data: bytes) -> None:
        put(store, path, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "pipe_file", full)
        (row,) = run(protector, jobs, report=tmp_path / "r.jsonl", seed=0)
    assert row["error"].startswith("memory://out/00.png.png: No space left on device; ")
    assert memory.find("/out") == []
    assert statuses(run(protector, jobs, report=tmp_path / "r.jsonl", seed=0)) == {"00.png": "done"}


def test_object_that_was_replaced_is_not_taken_for_done(protector: Protector, tmp_path: Path, memory: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        if seed or not found:
            memory.pipe_file("/in/a.png", png(seed))
        found += run(protector, plan(["memory://in"], tmp_path / "out"), report=tmp_path / "r.jsonl", seed=0)
    assert [row["status"] for row in found] == ["done", "skipped", "failed"]
    assert "is not the copy of" in found[2]["error"]


def test_addresses_that_lead_nowhere(protector: Protector, memory: Any, tmp_path: Path) -> None:
    row = next(run(protector, plan(["memory://no/a.png"], tmp_path / "b.png"), report=None, seed=0))
    assert row["error"] == "memory://no/a.png: no such file or folder; check the address"
    with pytest.raises(UsageError, match="matches nothing"):
        plan(["memory://no/*.png"], None)
    with pytest.raises(UsageError, match=r"^nosuch://a: "):
        plan(["nosuch://a"], None)
    with pytest.raises(UsageError, match=r"^nosuch://b/x: "):
        plan([folder_of(tmp_path / "in", 2)], "nosuch://b/x")
    found = plan([f"file://{tmp_path}/in/*.png"], tmp_path / "out")
    assert [job.source for job in found] == [tmp_path / "in" / "00.png", tmp_path / "in" / "01.png"]


def test_without_the_extra(protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = plan([folder_of(tmp_path / "in", 1)], tmp_path / "out")
    for name in ("ray", "pyarrow", "pyarrow.parquet", "fsspec"):
        monkeypatch.setitem(sys.modules, name, None)
    line = r"^this needs {}: pip install 'mspd\[scale\]'"
    with pytest.raises(UsageError, match=line.format("ray")):
        next(run(protector, jobs, report=None, seed=0, engine="ray"))
    with pytest.raises(UsageError, match=line.format("pyarrow")):
        next(run(protector, jobs, report=tmp_path / "r.parquet", seed=0))
    with pytest.raises(UsageError, match=line.format("fsspec")):
        plan(["s3://bucket/a.png"], None)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


# ---------------------------------------------------------------- shards

SAMPLES = {
    "k/0.cls": b"3", "k/0.png": png(0), "k/1.png": png(1), "k/1.json": b"{}", "k/2.jpg": b"broken", "k/2.cls": b"1",
    "k/3.png": png(3), "k/3.mask.png": png(9), "readme": b"hello",
}  # fmt: skip


def test_shards(protector: Protector, tmp_path: Path) -> None:
    for name in ("s0.tar", "s1.tar"):
        tar(tmp_path / name, SAMPLES)
    out, report = tmp_path / "out", tmp_path / "r.jsonl"
    jobs = plan([tmp_path / "s0.tar", tmp_path / "s1.tar"], out)
    rows = list(run(protector, jobs, report=report, seed=0))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "done"] * 2
    assert [row["id"] for row in rows[:4]] == [f"{tmp_path}/s0.tar/k/{n}" for n in ("0.png", "1.png", "2.jpg", "3.png")]
    kept = {"k/0.cls": b"3", "k/1.json": b"{}", "k/3.mask.png": png(9)}
    expected = kept | {
        f"k/{i}.png": protected(protector, png(i)) for i in (0, 1, 3)
    }  # and no sample without its picture
    assert untar(out / "s0.tar") == untar(out / "s1.tar") == expected
    before = files(out)
    again = list(run(protector, jobs, report=report, seed=0))
    assert [row["status"] for row in again] == ["skipped", "skipped", "failed", "skipped"] * 2
    assert files(out) == before
    other = list(run(protector, jobs, report=None, seed=0))
    assert {row["error"] for row in other} == {
        f"{out / name}: already exists; choose another output or remove it first" for name in ("s0.tar", "s1.tar")
    }


def test_shard_that_was_rewritten_is_not_taken_for_done(protector: Protector, tmp_path: Path) -> None:
    """Neither with another picture, nor with another file beside it; with the same files it is done."""
    source, report = tmp_path / "s.tar", tmp_path / "r.jsonl"
    found = []
    for samples in (SAMPLES, SAMPLES | {"k/1.png": png(8)}, SAMPLES | {"k/0.cls": b"4"}, SAMPLES, SAMPLES):
        if not found or samples != SAMPLES or found[-1][0] == "failed":
            tar(source, samples)
        rows = run(protector, plan([source], tmp_path / "out"), report=report, seed=0)
        found.append([row["status"] for row in rows if row["id"] != "s.tar/k/2.jpg"])
    assert found == [
        ["done"] * 3, ["done", "failed", "done"], ["failed", "done", "done"], ["done"] * 3, ["skipped"] * 3,
    ]  # fmt: skip


def test_what_failed_in_a_finished_shard_is_tried_again(protector: Protector, tmp_path: Path) -> None:
    source, out, report = tar(tmp_path / "s.tar", SAMPLES), tmp_path / "out", tmp_path / "r.jsonl"
    for suffix, ends in ((".png", ["done"] * 3), (".webp", ["failed"] * 3), (".png", ["done"] * 3)):
        rows = list(run(protector, plan([source], out, suffix=suffix), report=report, seed=0))
        assert [row["status"] for row in rows if row["id"] != "s.tar/k/2.jpg"] == ends
    tar(source, SAMPLES | {"k/2.jpg": png(2)})
    rows = list(run(protector, plan([source], out), report=report, seed=0))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "done"]
    why = f"already exists without the copy of {source}/k/2.jpg; choose another output or remove it first"
    assert rows[2]["error"] == f"{out / 's.tar'}: {why}"


def test_more_or_fewer_sources_with_the_report_of_before(protector: Protector, tmp_path: Path) -> None:
    folders = [folder_of(tmp_path / "one", 1), folder_of(tmp_path / "two", 2)]
    (tmp_path / "two" / "00.png").unlink()
    shards = [tar(tmp_path / "s.tar", SAMPLES), tar(tmp_path / "t.tar", {"a.png": png(0)})]
    for (first, second), count in ((folders, 1), (shards, 4)):
        jobs = [plan(sources, tmp_path / f"{first.name}.out") for sources in ([first], [first, second], [first])]
        rows = [list(run(protector, job, report=job.report, seed=0)) for job in jobs]
        assert [[row["id"] for row in call] for call in rows] == [[one.id for one in job] for job in jobs]
        found = [[row["status"] for row in call] for call in rows]
        assert found[0].count("done") == min(count, 3)
        assert found[1] == [status.replace("done", "skipped") for status in found[0]] + ["done"]
        assert found[2] == found[1][:-1]


def test_what_macos_puts_beside_files_is_passed_over(protector: Protector, tmp_path: Path) -> None:
    samples = {"._a.cls": b"x", "a.cls": b"1", "._a.png": b"x", "a.png": png(0), ".b.png": png(1)}
    source = tar(tmp_path / "s.tar", samples)
    rows = list(run(protector, plan([source], tmp_path / "out.tar"), report=None, seed=0))
    assert [row["status"] for row in rows] == ["done", "failed"]
    dot = "a picture whose name begins with a dot, and so has no key; give it another one"
    assert rows[1]["error"] == f"{source}/.b.png: {dot}"
    assert set(untar(tmp_path / "out.tar")) == {"a.cls", "a.png"}
    (folder_of(tmp_path / "in", 1) / "._00.png").write_bytes(b"x")
    assert [job.id for job in plan([tmp_path / "in"], None)] == ["00.png"]


def test_two_shards_of_one_name(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        tar(tmp_path / folder / "0.tar", {f"{folder}.png": png(0)})
    shards = [tmp_path / "train" / "0.tar", tmp_path / "val" / "0.tar"]
    with pytest.raises(
        UsageError, match=r"two files would be written to .*out/0\.tar: name each picture once, or call"
    ):
        plan(shards, tmp_path / "out")
    assert len(plan(shards, None)) == 2


def test_shard_that_is_replaced_while_it_is_read(
    protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = tar(tmp_path / "s.tar", SAMPLES), tar(tmp_path / "t.tar", {"k/9.png": png(9)})
    jobs, report, real = plan([source, other], tmp_path / "out"), tmp_path / "r.jsonl", local.load

    def replacing(where: places.Spot) -> images.Picture:
        if str(where) == f"{source}/k/1.png":
            tar(source, {**SAMPLES, "k/3.png": png(8)})
        return real(where)

    with monkeypatch.context() as patch:
        patch.setattr(local, "load", replacing)
        rows = list(run(protector, jobs, report=report, seed=0))
    assert [row["status"] for row in rows] == ["failed"] * 4 + ["done"]
    assert rows[0]["error"] == f"{source}: changed while it was read; give the same command again"
    assert set(files(tmp_path / "out")) == {"t.tar"}
    rows = list(run(protector, jobs, report=report, seed=0))
    assert [row["status"] for row in rows] == ["done", "done", "failed", "done", "skipped"]
    assert untar(tmp_path / "out" / "s.tar")["k/3.png"] == protected(protector, png(8))


def test_shard_alone(protector: Protector, tmp_path: Path, memory: Any) -> None:
    source = tar(tmp_path / "s.tar", SAMPLES)
    assert plan([source], None).root == tmp_path / "s.protected.tar"
    assert plan([source], tmp_path / "x.tar").report == tmp_path / "x.tar.report.jsonl"
    list(run(protector, plan([source], tmp_path / "x.tar"), report=None, seed=0))
    memory.pipe_file("/in/s.tar", source.read_bytes())
    rows = list(run(protector, plan(["memory://in/*.tar"], "memory://out"), report=None, seed=0))
    assert [row["id"] for row in rows] == ["s.tar/k/0.png", "s.tar/k/1.png", "s.tar/k/2.jpg", "s.tar/k/3.png"]
    assert memory.cat_file("/out/s.tar") == (tmp_path / "x.tar").read_bytes()


def test_no_picture_gets_into_a_shard_unprotected(protector: Protector, tmp_path: Path) -> None:
    heic = b"\0\0\0\x14ftypheic\0\0\0\0heic" + bytes(99)
    samples = {
        "a.png": png(0), "a.json": b"{}", "b.png": png(1), "b.jpg": png(2), "c.cls": b"1", "c.png": png(3),
        "c.AVIF": png(4), "d.heic": heic, "d.cls": b"2", "e.ppm": b"P6", "e.png": png(5), "f.gif": png(6),
    }  # fmt: skip
    source, report = tar(tmp_path / "s.tar", samples), tmp_path / "r.jsonl"
    jobs = plan([source], tmp_path / "out.tar")
    rows = {row["id"]: row for row in run(protector, jobs, report=report, seed=0)}
    ends = {"a.png": "done", "b.png": "failed", "c.png": "failed", "d.heic": "failed", "e.ppm": "failed"}
    assert statuses(rows.values()) == {f"s.tar/{name}": end for name, end in {**ends, "f.gif": "done"}.items()}
    assert rows["s.tar/b.png"]["error"] == f"{source}/b: several pictures (.png, .jpg) in one sample; keep one of them"
    assert "several pictures (.png, .AVIF)" in rows["s.tar/c.png"]["error"]
    assert rows["s.tar/d.heic"]["error"].startswith(f"{source}/d.heic: not a readable")
    kept = {"a.json": b"{}", "a.png": protected(protector, png(0)), "f.png": protected(protector, png(6))}
    assert untar(tmp_path / "out.tar") == kept
    again = statuses(run(protector, jobs, report=report, seed=0))
    assert again == {name: "skipped" if row["status"] == "done" else "failed" for name, row in rows.items()}
    assert untar(tmp_path / "out.tar") == kept


def test_a_shard_that_never_ends_or_holds_links(protector: Protector, tmp_path: Path) -> None:
    good = tar(tmp_path / "good.tar", {"a.png": png(0)})
    data = bytearray(good.read_bytes())
    for size in (-512, -1536):
        data[124:136] = b"\xff" * 4 + (size).to_bytes(8, "big", signed=True)
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        (tmp_path / f"{size}.tar").write_bytes(data)
    with tarfile.open(tmp_path / "link.tar", "w") as out:
        for name, kind in (("a.png", tarfile.REGTYPE), ("b.png", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, "a.png", len(png(0)) if kind == tarfile.REGTYPE else 0
            out.addfile(entry, io.BytesIO(png(0)))
    with tarfile.open(tmp_path / "time.tar", "w", format=tarfile.PAX_FORMAT) as out:
        for name, time in (("a.png", "nan"), ("b.png", "inf")):
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = len(png(0)), {"mtime": time}
            out.addfile(entry, io.BytesIO(png(0)))
    shards = [tmp_path / f"{name}.tar" for name in ("-512", "-1536", "link", "time", "good")]
    rows = list(run(protector, plan(shards, tmp_path / "out"), report=None, seed=0))
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "done", "done", "done"]
    assert rows[0]["error"].endswith("damaged or cut short; get a fresh copy of it")
    assert "holds a link or a sparse file (b.png); pack it again" in rows[2]["error"]
    with tarfile.open(tmp_path / "out" / "time.tar") as found:
        assert [entry.mtime for entry in found] == [0, 0]


def test_shards_that_were_put_together_are_refused(protector: Protector, tmp_path: Path) -> None:
    """Readers of tar stop at the first end mark: what stands behind it would silently be missing."""
    whole = (
        tar(tmp_path / "a.tar", {"a.png": png(0)}).read_bytes()
        + tar(tmp_path / "b.tar", {"b.png": png(1)}).read_bytes()
    )
    (tmp_path / "both.tar").write_bytes(whole)
    (row,) = run(protector, plan([tmp_path / "both.tar"], tmp_path / "out"), report=None, seed=0)
    assert row["error"].endswith("more stands behind its end mark; give each tar of those put together by itself")
    assert not (tmp_path / "out").exists()


def test_names_in_a_shard_that_lead_out_of_it_or_come_twice(protector: Protector, tmp_path: Path) -> None:
    names = ["a.png", "../../evil.png", "/evil.png", "b.png", "a.png", "c/../../evil.png"]
    source, report = tar(tmp_path / "s.tar", [(n, png(i)) for i, n in enumerate(names)]), tmp_path / "r.jsonl"
    jobs = plan([source], tmp_path / "out.tar")
    rows = list(run(protector, jobs, report=report, seed=0))
    assert [row["status"] for row in rows] == ["done", "failed", "failed", "done", "failed", "failed"]
    outside = "a name that leads out of the folder where the shard is unpacked; give it another one"
    assert rows[1]["error"] == f"{source}/../../evil: {outside}"
    assert rows[2]["error"].endswith(outside)
    assert rows[4]["error"] == f"{source}/a: a second sample of this name in the shard; give each one of its own"
    assert len({row["id"] for row in rows}) == 6
    assert untar(tmp_path / "out.tar") == {n: protected(protector, png(i)) for i, n in ((0, "a.png"), (3, "b.png"))}
    again = [row["status"] for row in run(protector, jobs, report=report, seed=0)]
    assert again == ["skipped", "failed", "failed", "skipped", "failed", "failed"]


def test_files_of_a_shard_that_lie_apart_from_their_picture(protector: Protector, tmp_path: Path) -> None:
    """As `tar cf x.tar *.png *.cls` writes them; and a picture that WebDataset does not see as one."""
    names = ["a.png", "b.png", "c.v2.png", "meta.txt", "b.cls"]
    samples = [(n, png(i) if n.endswith("png") else b"1") for i, n in enumerate(names)]
    source, other = tar(tmp_path / "s.tar", samples), tar(tmp_path / "t.tar", samples)
    rows = {row["id"]: row for row in run(protector, plan([source], tmp_path / "out.tar"), report=None, seed=0)}
    assert [row["status"] for row in rows.values()] == ["done", "done", "failed", "failed"]
    apart, two = (next(row["error"] for name, row in rows.items() if mark in name) for mark in ("b.cls", "c.v2"))
    assert apart == f"{source}/b: its picture lies elsewhere in the shard; put the files of a sample side by side"
    assert two == f"{source}/c: a picture of two endings (.v2.png); leave one"
    assert untar(tmp_path / "out.tar") == {n: protected(protector, png(i)) for i, n in enumerate(names[:2])}
    assert len(plan([source, other], tmp_path / "out")) == 8


@pytest.mark.parametrize(
    ("head", "beyond"), [(b"k/1.png", 530), (b"k/1.png", 100), (b"k/1.png", 0), (b"k/0.cls", 99), (b"k/0.cls", 0)]
)
def test_cut_shard_is_a_row_and_the_others_go_on(
    protector: Protector, tmp_path: Path, head: bytes, beyond: int
) -> None:
    for name in ("s0.tar", "s1.tar", "s2.tar"):
        tar(tmp_path / name, SAMPLES)
    sources, out, report = [tmp_path / f"s{i}.tar" for i in range(3)], tmp_path / "out", tmp_path / "r.jsonl"
    whole = sources[1].read_bytes()
    cut = whole[: whole.index(head) + beyond]
    sources[1].write_bytes(cut)
    jobs = plan(sources, out)
    rows = list(run(protector, jobs, report=report, seed=0))
    assert len(jobs) == len(rows) == 9
    (row,) = (row for row in rows if row["id"].startswith(str(sources[1])))
    assert (row["id"], row["status"]) == (str(sources[1]), "failed")
    line = "damaged or cut short; get a fresh copy of it" if len(cut) > 512 else "not a plain tar file"
    assert row["error"].startswith(f"{sources[1]}: {line}")
    assert set(files(out)) == {"s0.tar", "s2.tar"}
    sources[1].write_bytes(whole)
    again = list(run(protector, plan(sources, out), report=report, seed=0))
    assert [row["status"] for row in again] == [
        *("skipped", "skipped", "failed", "skipped"),
        *("done", "done", "failed", "done"),
        *("skipped", "skipped", "failed", "skipped"),
    ]
    assert untar(out / "s1.tar") == untar(out / "s0.tar")


@pytest.mark.parametrize("moment", ["while writing", "before its rows", "among its rows"])
def test_killed_shard(protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    tar(tmp_path / "s.tar", SAMPLES)
    jobs, report = plan([tmp_path / "s.tar"], tmp_path / "out"), tmp_path / "r.jsonl"
    list(run(protector, plan([tmp_path / "s.tar"], tmp_path / "unbroken"), report=None, seed=0))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    if moment == "among its rows":
        list(run(protector, jobs, report=report, seed=0))
        rows = report.read_bytes().splitlines(keepends=True)
        report.write_bytes(b"".join(rows[:-2]))
    else:
        place, name = (places.Shard, "finish") if moment == "while writing" else (local, "_write_shard")
        real = local._write_shard
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed if place is places.Shard else lambda *a: (real(*a), killed()))
            with pytest.raises(KeyboardInterrupt):
                list(run(protector, jobs, report=report, seed=0))
        assert (tmp_path / "out" / "s.tar").exists() == (moment == "before its rows")
    found = statuses(run(protector, jobs, report=report, seed=0))
    expected = {"k/0.png": "done", "k/1.png": "done", "k/2.jpg": "failed", "k/3.png": "done"}
    if moment == "among its rows":
        expected |= {"k/0.png": "skipped", "k/1.png": "skipped"}
    assert found == {f"s.tar/{name}": status for name, status in expected.items()}
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")
    assert set(statuses(run(protector, jobs, report=report, seed=0)).values()) == {"skipped", "failed"}


def test_shards_that_cannot_be(protector: Protector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped = tar(tmp_path / "z.tar", SAMPLES, "w:gz")
    rows = list(run(protector, plan([zipped, tmp_path / "gone.tar"], tmp_path / "x"), report=None, seed=0))
    assert [row["error"].split(" (")[0] for row in rows] == [
        f"{zipped}: not a plain tar file", f"{tmp_path / 'gone.tar'}: no such file or folder; check the address",
    ]  # fmt: skip
    source, none = tar(tmp_path / "s.tar", SAMPLES), tar(tmp_path / "none.tar", {"a.txt": b""})
    with pytest.raises(UsageError, match="no pictures in this shard"):
        plan([none], None)
    (tmp_path / "empty").mkdir()
    rows = list(run(protector, plan([none, source, tmp_path / "empty"], tmp_path / "some"), report=None, seed=0))
    assert rows[0]["error"].startswith(f"{none}: no pictures in this shard")
    assert rows[-1]["error"].startswith(f"{tmp_path / 'empty'}: no pictures in this folder")
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["s.tar"]
    with pytest.raises(UsageError, match="is the output, too"):
        plan([source], source)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.Shard, "add", full)
    rows = list(run(protector, plan([source], tmp_path / "out"), report=None, seed=0))
    assert {row["status"] for row in rows} == {"failed"}
    assert (
        rows[0]["error"] == f"{tmp_path / 'out' / 's.tar'}: the disk is full; free some space or choose another place"
    )
    assert files(tmp_path / "out") == {}


def test_shard_for_which_the_disk_is_too_full(protector: Protector, tmp_path: Path) -> None:
    """A real limit of file size, hit while a shard is written: its rows fail, the other is written."""
    resource = pytest.importorskip("resource")
    big = tar(tmp_path / "big.tar", {"a.png": png(0), "a.bin": bytes(300_000), "b.png": png(1)})
    small, out = tar(tmp_path / "small.tar", SAMPLES), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        rows = list(run(protector, plan([big, small], out), report=tmp_path / "r.jsonl", seed=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row["status"] for row in rows] == ["failed", "failed", "done", "done", "failed", "done"]
    assert (
        rows[0]["error"]
        == rows[1]["error"]
        == f"{out / 'big.tar'}: too large for this file system; choose another place"
    )
    assert [path.name for path in out.iterdir()] == ["small.tar"]


def test_shard_that_another_run_is_writing_is_not_swept_away(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run left is; for an address it lies where temporary files are."""
    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path))
    for out in (tmp_path / "s.tar", places.Address("memory://out/s.tar")):
        left = temporary_beside(places.draft(out))
        left.write_bytes(b"of a killed run")
        shard = places.Shard(out)
        shard.add("a.png", png(0), 0)
        local.sweep([Job("s.tar/a.png", tmp_path / "a.png", places.Member(out, "a.png"))])
        assert not left.exists()
        shard.finish()
        shard.drop()
    assert memory.cat_file("/out/s.tar") == (tmp_path / "s.tar").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


def test_plan_is_walked_anew_each_time(tmp_path: Path) -> None:
    jobs = plan([folder_of(tmp_path / "in", 3)], None)
    assert isinstance(jobs, Plan)
    assert len(jobs) == len(list(jobs)) == len(list(jobs)) == 3


# ---------------------------------------------------------------- kills


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_kills_at_random_moments() -> None:
    """The small version of benchmarks/files.py, which asserts all it says."""
    command = [sys.executable, str(BENCHMARK), "--preset", "tiny", "-n", "60", "--kills", "3"]
    command += ["--seed", str(random.SystemRandom().randrange(1000))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, (command, done.stderr)
    assert "3 kills: every file there once" in done.stdout
