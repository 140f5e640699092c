"""Protect many pictures, resumable after a kill: what the report says is done is skipped, an engine does the rest."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from mspd.batch import local
from mspd.batch.local import Known, Options
from mspd.batch.places import absolute, exists, fingerprint, newer
from mspd.batch.plan import Job
from mspd.batch.report import Journal, Row
from mspd.errors import UsageError
from mspd.guard import check_seed
from mspd.protector import Protector

#: of what a report means; one of another version does not go on
VERSION = 1


def run(
    protector: Protector,
    jobs: Iterable[Job],
    *,
    report: Path | None,
    seed: int,
    quality: int = 95,
    workers: int | None = None,
    on_error: str = "row",
    engine: str = "local",
    strip_gps: bool = False,
    history: bool = False,
) -> Iterator[Row]:
    """Protect each job, yielding its row: id, status ("done", "failed" or "skipped") and the fields of `Protection` or
    the error. `jobs` may be walked more than once; rows come in its order (from Ray: as they are ready).

    With a report (.jsonl, or .parquet), rows are kept as they come and pictures that are done are skipped; the settings
    of an existing report must be the same, and no other run may be writing it (UsageError). A report that cannot be
    written ends the run (ImageError).

    workers: threads that read, and as many that write; with engine "ray", processes that compute. on_error: "row" goes
    on after a failed picture, "stop" ends the run after its row. strip_gps, history: see `provenance.without_gps` and
    `with_history`. A row has a "note" where the original's content credentials, its video, a part of its XMP, or
    EXIF or XMP that may hold a place, are not in the copy, no history line could be added, or the picture is called
    like a copy.
    """
    check_seed(seed)
    if on_error not in ("row", "stop"):
        raise UsageError(f"on_error is {on_error!r}: use row or stop")
    if engine == "ray":
        from mspd.batch.ray import protect as chosen
    elif engine == "local":
        chosen = local.protect
    else:
        raise UsageError(f"unknown engine {engine!r}: use local or ray")
    options = Options(seed, quality, workers, strip_gps, history)
    settings = {key: value for key, value in asdict(options).items() if key != "workers" and value is not False}
    log = Journal(report, {**protector.identity(), **settings, "version": VERSION})
    try:
        if log.unfinished:
            local.sweep(job for job in jobs if log.unfinished & {job.id, job.other})
        rows = chosen(protector, jobs, lambda job: _look(job, log), log.append, options)
        try:
            for row in rows:
                log.passed(row["id"])
                yield row
                if row["status"] == "failed" and on_error == "stop":
                    break
        finally:
            rows.close()
        log.finish()
    finally:
        log.close()


def _look(job: Job, log: Journal) -> Known:
    """What the report knows of a job; one that it does not know is noted as started."""
    row = log.get(job.id) or log.get(job.other)
    status = row.get("status")
    try:
        if status == "done" and exists(job.output):
            if row["source"] != absolute(job.source) or row["output"] != absolute(job.output) or _changed(job, row):
                return Known(started=True)  # moved, changed, or another of that name: the same bytes will tell
            return Known({**row, "id": job.id, "status": "skipped"})
    except local.FAILURES as error:
        return Known(local.failed(job, error))  # not on record, where it is still done
    if status != "started":
        log.append({"id": job.id, "status": "started"})
    return Known(started=status is not None)


def _changed(job: Job, row: Row) -> bool:
    """Whether another original lies there than that of the row; rows of older reports have no stamp."""
    return row["stamp"] != fingerprint(job.source) if "stamp" in row else newer(job.source, job.output)
