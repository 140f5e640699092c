"""Many pictures on one machine: one row a picture, a bad file is a row and not a crash.

Reader threads decode ahead, this thread computes pictures of one size together, writer threads encode and check. What
is decoded and not yet written is bounded, so memory does not grow with the number of files; and since the networks run
in one fixed shape, a picture's bytes do not depend on what it is computed with.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePath
from threading import Condition, Thread

import torch
from torch import Tensor

from mspd import atomic, images
from mspd.batch.places import Member, Place, Shard, absolute, content, draft, exists, fingerprint, load, save, written
from mspd.batch.plan import Job
from mspd.batch.report import Row
from mspd.errors import ImageError, MspdError
from mspd.images.refusals import NO_MEMORY, reason
from mspd.protector import Perturbation, Protector
from mspd.provenance import carries_credentials, with_history, without_gps

#: between reading and writing there are never more pictures (two full batches where that is more), nor (but for one
#: picture a reader) more pixels
MOST, MOST_PIXELS = 128, 100_000_000
#: what makes a failed row; anything else is an error of our own and ends the run
FAILURES = (MspdError, OSError, MemoryError)


@dataclass(frozen=True)
class Known:
    """What an earlier run left of a job: its row when there is nothing to do (or no way to tell), or that it was
    started."""

    row: Row | None = None
    started: bool = False


Look = Callable[[Job], Known]
Record = Callable[[Row], None]


@dataclass(frozen=True)
class Options:
    seed: int
    quality: int = 95
    workers: int | None = None
    strip_gps: bool = False
    history: bool = False


def sweep(jobs: Iterable[Job]) -> None:
    """Remove temporary files that a killed process left beside the outputs of these jobs."""
    outputs = (draft(job.output.shard) if isinstance(job.output, Member) else job.output for job in jobs)
    atomic.sweep(output for output in outputs if isinstance(output, Path))


# ---------------------------------------------------------------- the stages


@dataclass(eq=False)
class _Item:
    """A job on its way; `row` ends it, `error` ends the run."""

    job: Job
    ready: bool = False  # read
    known: bool = False  # its row is an earlier run's
    again: bool = False  # the output is there and must be the same
    picture: images.Picture | None = None
    view: Tensor = field(default_factory=lambda: torch.empty(0))
    pixels: int = 0
    stamp: str = ""  # of the original, before it was read
    data: bytes = b""  # of a shard's member
    notes: list[str] = field(default_factory=list)
    row: Row | None = None
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.row is not None or self.error is not None


def failed(job: Job, error: Exception) -> Row:
    return {"id": job.id, "status": "failed", "error": _line(error, job.source, job.output)}


def _line(error: Exception, source: object, output: object) -> str:
    if isinstance(error, MspdError):
        return str(error)
    if isinstance(error, OSError):
        return f"{output}: {reason(error)}"
    return f"{source}: {NO_MEMORY}"


def protect(
    protector: Protector, jobs: Iterable[Job], look: Look, record: Record, options: Options
) -> Generator[Row, None, None]:
    """The rows of the jobs, in order. `look` tells what there is to do; every new row goes to `record` first, that of
    a shard's member once the shard is there."""
    items = _Pipeline(protector, jobs, look, record, options).items()
    try:
        for shard, group in groupby(items, _new_shard):
            if shard is None:
                yield from (item.row for item in group if item.row is not None)
                continue
            for row in _write_shard(shard, group):
                record(row)
                yield row
    finally:
        items.close()


def _new_shard(item: _Item) -> Place | None:
    """The shard that an item's result is to be written into."""
    output = item.job.output
    return output.shard if isinstance(output, Member) and not (item.known or item.again) else None


def _write_shard(out: Place, items: Iterator[_Item]) -> list[Row]:
    """Write the samples of one shard that did not fail; the rows of all."""
    rows: list[Row] = []
    error: Exception | None = None
    shard: Shard | None = None
    try:
        for item in items:
            assert item.row is not None
            rows.append(item.row)
            source, output = item.job.source, item.job.output
            if error is not None or item.row["status"] != "done":
                continue
            assert isinstance(source, Member)
            assert isinstance(output, Member)
            try:
                shard = shard or Shard(out)
                shard.add(output.name, item.data, source.mtime)
                for other in source.siblings:
                    shard.add(other.name, content(other), other.mtime)
                walked = source
            except FAILURES as failure:
                error = failure
        try:
            if shard is not None and error is None:
                if fingerprint(walked.shard) != walked.stamp:
                    raise ImageError(f"{walked.shard}: changed while it was read; give the same command again")
                shard.finish()
        except FAILURES as failure:
            error = failure
    finally:
        if shard is not None:
            shard.drop()
    if error is None:
        return rows
    why = _line(error, out, out)
    return [row if row["status"] == "failed" else {"id": row["id"], "status": "failed", "error": why} for row in rows]


class _Pipeline:
    """Readers, the computing thread (the caller of `items`) and writers, all waiting on one condition."""

    def __init__(self, protector: Protector, jobs: Iterable[Job], look: Look, record: Record, options: Options) -> None:
        self.protector, self.jobs, self.look, self.record, self.options = protector, iter(jobs), look, record, options
        self.changed = Condition()
        self.read: deque[_Item] = deque()  # being read or ready, in order
        self.most = MOST
        self.count = self.pixels = 0  # pictures taken and not yet yielded; pixels read and not yet written
        self.stopped = False
        self.broken: BaseException | None = None  # the walk of the jobs
        self.workers = options.workers or min(8, os.cpu_count() or 1)
        self.reading = self.workers

    def items(self) -> Generator[_Item, None, None]:
        """Every job's item when it is over, in order."""
        readers = [Thread(target=self._read_on, daemon=True) for _ in range(self.workers)]
        for reader in readers:
            reader.start()
        writers = ThreadPoolExecutor(self.workers)
        pending: deque[_Item] = deque()
        groups: dict[tuple[int, ...], list[_Item]] = {}  # read, by the size of the view

        def front() -> bool:
            return bool(self.read) and self.read[0].ready

        try:
            while self.reading or self.read or pending:
                with self.changed:
                    if self.broken is not None:
                        raise self.broken
                    self.changed.wait_for(
                        lambda: front() or groups or (pending[0].over if pending else not (self.reading or self.read))
                    )
                    item = self.read.popleft() if front() else None
                group = None
                if item is not None:
                    pending.append(item)
                    if not item.over:
                        shape = tuple(item.view.shape)
                        groups.setdefault(shape, []).append(item)
                        full = self.protector.at_once(item.view)
                        self.most = max(self.most, 2 * full)
                        if len(groups[shape]) >= full:
                            group = groups.pop(shape)
                elif groups:  # nothing more to read at the moment: the oldest
                    group = groups.pop(next(iter(groups)))
                for one, perturbation in self._compute(group or []):
                    writers.submit(self._write, one, perturbation)
                while pending and pending[0].over:
                    finished = pending.popleft()
                    if finished.error is not None:
                        raise finished.error
                    yield finished
                    with self.changed:
                        self.count -= 1
                        self.changed.notify_all()
            if self.broken is not None:
                raise self.broken
        finally:
            with self.changed:
                self.stopped = True
                self.changed.notify_all()
            writers.shutdown(cancel_futures=True)
            for reader in readers:
                reader.join()

    # ------------------------------------------------------------ reading

    def _read_on(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopped or (self.count < self.most and self.pixels < MOST_PIXELS))
                job = None
                if not self.stopped and self.broken is None:
                    try:
                        job = next(self.jobs, None)
                    except BaseException as error:
                        self.broken = error
                if job is None:
                    self.reading -= 1
                    self.changed.notify_all()
                    return
                item = _Item(job)
                self.read.append(item)
                self.count += 1
            try:
                self._read_one(item)
            except BaseException as error:
                item.error = error
            with self.changed:
                item.ready = True
                if not item.over:
                    self.pixels += item.pixels
                self.changed.notify_all()

    def _read_one(self, item: _Item) -> None:
        job = item.job
        task = self.look(job)
        if task.row is not None:
            item.known, item.row = True, task.row
            return
        try:
            if job.problem:
                raise ImageError(job.problem)
            item.again = exists(job.output)
            if item.again and (not task.started or _same(job)):
                raise _taken(job)
            item.stamp = fingerprint(job.source)
            picture = load(job.source)
            self._take(item, picture)
            item.pixels = picture.pixels[:, :, 0].size
            item.view = self.protector.view(picture.pixels)
        except FAILURES as error:
            self._end(item, failed(job, error))

    def _take(self, item: _Item, picture: images.Picture) -> None:
        if self.options.strip_gps:
            before, picture = picture, without_gps(picture)
            lost = [name for name in ("exif", "xmp") if getattr(before, name) and getattr(picture, name) is None]
            if lost:
                names = " and ".join(lost).upper()
                item.notes.append(f"the original's {names} cannot be read, may say where it was taken, and is left out")
        item.picture = with_history(picture) if self.options.history else picture
        if self.options.history and item.picture is picture:
            item.notes.append("no history line: the original's XMP cannot be read, and is in the copy as it is")

    # ------------------------------------------------------------ computing

    def _compute(self, items: list[_Item]) -> Iterator[tuple[_Item, Perturbation]]:
        """The perturbations of items of one size; when they fail together, of each alone."""
        try:
            found = self.protector.perturb(torch.cat([i.view for i in items]), seed=self.options.seed) if items else []
            yield from zip(items, found, strict=True)
        except FAILURES as error:
            if len(items) > 1:
                for item in items:
                    yield from self._compute([item])
                return
            self._end(items[0], failed(items[0].job, error))
            self._release(items[0])

    # ------------------------------------------------------------ writing

    def _write(self, item: _Item, perturbation: Perturbation) -> None:
        try:
            try:
                row = self._write_one(item, perturbation)
            except FAILURES as error:
                row = failed(item.job, error)
            self._end(item, row)
        except BaseException as error:
            item.error = error
        self._release(item)

    def _write_one(self, item: _Item, perturbation: Perturbation) -> Row:
        job, picture, seed = item.job, item.picture, self.options.seed
        assert picture is not None
        pixels = self.protector.apply(picture.pixels, perturbation)
        eps, quality = self.protector.settings.eps, self.options.quality
        if item.again or isinstance(job.output, Member):
            item.data, check = images.encode(picture, pixels, str(job.output), eps=eps, quality=quality)
            if item.again:
                _check_copy(item)
        else:
            check = save(picture, pixels, job.output, eps=eps, quality=quality)
        done = self.protector.protection(absolute(job.source), absolute(job.output), perturbation, check, seed)
        row = {"id": job.id, "status": "done", **done.row(), "stamp": item.stamp}
        notes = [*item.notes, *picture.lost]
        if picture.credentials:
            remedy = ": 'mspd sign' adds them" if carries_credentials(str(job.output)) else ", whose format has none"
            notes.append(f"the original's content credentials are not in the copy{remedy}")
        if PurePath(job.id).stem.endswith(".protected"):
            notes.append("called like a copy that mspd wrote, and now protected once more; keep copies elsewhere")
        return {**row, "note": "; ".join(notes)} if notes else row

    def _end(self, item: _Item, row: Row) -> None:
        """The row of an item, on record; but that of a member of a shard still to be written is not yet."""
        if item.again or not isinstance(item.job.output, Member):
            self.record(row)
        item.row = row

    def _release(self, item: _Item) -> None:
        item.picture, item.view = None, torch.empty(0)
        with self.changed:
            self.pixels -= item.pixels
            self.changed.notify_all()


def refusal(job: Job, known: Known) -> Row | None:
    """The row of a job with a problem, or at whose output there is something that no earlier run made."""
    try:
        if job.problem:
            raise ImageError(job.problem)
        if not known.started and exists(job.output):
            raise _taken(job)
    except FAILURES as error:
        return failed(job, error)
    return None


def _check_copy(item: _Item) -> None:
    """ImageError unless what would be written, with the other files of its sample, is what lies at the output: then an
    earlier run was killed before it noted so, or the original is only in another place."""
    source, output = item.job.source, item.job.output
    found = written(output)
    if found is None:
        raise _taken(item.job, f"already exists without the copy of {source}")
    same = found == item.data
    if isinstance(source, Member) and isinstance(output, Member):
        same &= all(content(other) == written(Member(output.shard, other.name)) for other in source.siblings)
    if not same:
        raise _taken(item.job, f"already exists, and is not the copy of {source} as it is now")


def _taken(job: Job, why: str = "already exists") -> ImageError:
    if _same(job):
        return ImageError(f"{job.output}: is the original itself; choose another output")
    output = job.output.shard if isinstance(job.output, Member) else job.output
    return ImageError(f"{output}: {why}; choose another output or remove it first")


def _same(job: Job) -> bool:
    if isinstance(job.output, Path) and isinstance(job.source, Path):
        return job.source.exists() and job.output.samefile(job.source)
    return job.output == job.source
