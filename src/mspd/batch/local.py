"""Protect many files: one row of the report a file, resumable after a kill, a bad file is a row and not a crash.

The report is JSON Lines. Its first row holds the settings; a run with other settings on the same report is refused.
A file's row is written as "started" just before its output appears (which is atomic) and as "done" after, so that a
resumed run can tell its own finished output from a stranger's file of the same name.
"""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from mspd import images
from mspd.errors import ImageError, MspdError, UsageError
from mspd.protector import Protector

VERSION = 1


@dataclass(frozen=True)
class Job:
    """One file: its name in the report, where it is, where its protected copy goes."""

    id: str
    source: Path
    output: Path


def beside(folder: Path, ending: str) -> Path:
    """The folder's own path with `ending` added to its name."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.parent / (named.name + ending)


def plan(sources: Sequence[Path], out: Path | None, *, suffix: str = ".png") -> list[Job]:
    """The jobs of a call: files as they are, folders walked. UsageError for a folder without pictures, for an output
    that cannot be, and for two files that would get the same one.

    One file goes to `out`, or beside itself as NAME.protected.png; several files and folders go into the folder `out`
    (a folder's default is FOLDER.protected), keeping the tree.
    """
    jobs: list[Job] = []
    single = len(sources) == 1 and not sources[0].is_dir()
    if not single and out is not None and out.is_file():
        raise UsageError(f"{out}: is a file; give a folder for the copies of several pictures")
    for source in sources:
        if source.is_dir():
            root = out or beside(source, ".protected")
            for path in _pictures(source, root):
                relative = path.relative_to(source)
                name = relative if len(sources) == 1 else path
                jobs.append(Job(str(name), path, root / relative.with_name(relative.name + suffix)))
        elif out is None:
            jobs.append(Job(str(source), source, source.with_name(source.stem + ".protected" + suffix)))
        elif single and out.suffix and not out.is_dir():
            if not images.is_picture(out):
                known = ", ".join(images.SUFFIXES)
                raise UsageError(f"{out}: unknown picture format {out.suffix!r}; use one of {known}")
            jobs.append(Job(str(source), source, out))
        else:
            jobs.append(Job(str(source), source, out / (source.name + suffix)))
    outputs = [job.output for job in jobs]
    doubled = next((o for o in outputs if outputs.count(o) > 1), None) if len(set(outputs)) < len(outputs) else None
    if doubled is not None:
        raise UsageError(f"two files would be written to {doubled}: protect them in separate runs")
    return jobs


def _pictures(folder: Path, root: Path) -> list[Path]:
    """The pictures of a folder in order, without those in `root`, where protected copies go."""
    here, there = folder.resolve(), root.resolve()
    if here == there:
        raise UsageError(f"{folder}: is the output folder, too; choose another one")
    found = sorted(p for p in folder.rglob("*") if p.is_file() and images.is_picture(p))
    if there.is_relative_to(here):
        found = [p for p in found if not (here / p.relative_to(folder)).is_relative_to(there)]
    if not found:
        raise UsageError(f"{folder}: no pictures in this folder (looking for {', '.join(images.SUFFIXES)})")
    return found


def run(
    protector: Protector, jobs: Sequence[Job], *, report: Path | None, seed: int, quality: int = 95
) -> Iterator[dict[str, Any]]:
    """Protect each job, yielding its row: id, status ("done", "failed" or "skipped") and the fields of `Protection` or
    the error. With a report, rows are appended as they come and files that are done are skipped; the settings of an
    existing report must be the same (UsageError). A report that cannot be written ends the run (ImageError).
    """
    settings = {**protector.identity(), "seed": seed, "quality": quality, "version": VERSION}
    log = _Report(report, settings)
    try:
        for job in jobs:
            row = log.rows.get(job.id, {})
            if row.get("status") == "done" and job.output.exists():
                yield {**row, "status": "skipped"}
                continue
            try:
                row = _protect(protector, job, log, row.get("status") == "started", seed, quality)
            except (MspdError, OSError, MemoryError, torch.OutOfMemoryError) as error:
                row = {"id": job.id, "status": "failed", "error": _line(job, error)}
            log.append(row)
            yield row
    finally:
        log.close()


def _line(job: Job, error: Exception) -> str:
    if isinstance(error, MspdError):
        return str(error)
    if isinstance(error, OSError):
        return f"{job.output}: {error.strerror or error}"
    return f"{job.source}: too large for the memory; scale it down"


def _protect(protector: Protector, job: Job, log: "_Report", killed: bool, seed: int, quality: int) -> dict[str, Any]:
    """The "done" row of one job. `killed`: an earlier run was stopped within this job."""
    if not job.source.exists():
        raise ImageError(f"{job.source}: no such file or folder; check the path")
    if killed:
        for leftover in job.output.parent.glob(".mspd-*"):
            leftover.unlink()
    if not job.output.exists():
        job.output.parent.mkdir(parents=True, exist_ok=True)
        log.append({"id": job.id, "status": "started"})
        done = protector.protect_file(job.source, job.output, seed=seed, quality=quality)
        return {"id": job.id, "status": "done", **done.row()}
    if job.output.samefile(job.source):
        raise ImageError(f"{job.output}: is the original itself; choose another output")
    if killed:  # between the file and its "done" row? Then the same bytes come out again
        again = job.output.with_name(f".mspd-{secrets.token_hex(8)}{job.output.suffix}")
        try:
            done = protector.protect_file(job.source, again, seed=seed, quality=quality)
            if again.read_bytes() == job.output.read_bytes():
                return {"id": job.id, "status": "done", **done.row(), "output": str(job.output)}
        finally:
            again.unlink(missing_ok=True)
    raise ImageError(f"{job.output}: already exists; choose another output or remove it first")


class _Report:
    """The rows of a run on disk, each written whole or not at all; `rows` has the last one of each id so far. Without
    a path nothing is kept."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.file: FileIO | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        first = _encode({"settings": settings})
        try:
            if path.exists():
                if not path.is_file():
                    raise UsageError(f"{path}: not a report of mspd; choose another file")
                self.rows = _known(path, first)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._error(error) from error
        if self.file.tell() == 0:
            try:
                self._write(first)
            except ImageError:
                self.close()
                raise

    def append(self, row: dict[str, Any]) -> None:
        self._write(_encode(row))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _write(self, line: bytes) -> None:
        if self.file is None:
            return
        end = self.file.tell()
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(end)
            raise self._error(error) from error

    def _error(self, error: OSError) -> ImageError:
        reason = error.strerror or error
        return ImageError(f"{self.path}: the report cannot be written ({reason}); the same command goes on from here")


def _encode(row: dict[str, Any]) -> bytes:
    # a name that is not UTF-8 has lone surrogates; escaped (\udcff) they come back from JSON the same
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _known(path: Path, first: bytes) -> dict[str, dict[str, Any]]:
    """The last row of each id in an existing report; a last line cut off by a kill is dropped from the file. `first`
    is the line that it must begin with."""
    stranger = UsageError(f"{path}: not a report of mspd; choose another file")
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == 0 and not first.startswith(data):
        raise stranger
    try:
        rows = [json.loads(line) for line in data[:whole].splitlines()]
        if rows and rows[0].keys() != {"settings"}:
            raise stranger
        old: dict[str, Any] = rows[0]["settings"] if rows else {}
        new = json.loads(first)["settings"]
        changed = [key for key in {**new, **old} if rows and old.get(key) != new.get(key)]
        known = {row["id"]: row for row in rows[1:]}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise stranger from error
    if changed:
        names = ", ".join(changed)
        raise UsageError(f"{path}: belongs to a run with other settings ({names}); choose another --report or --out")
    os.truncate(path, whole)
    return known
