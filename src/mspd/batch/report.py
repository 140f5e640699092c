"""The report of a run: JSON Lines, one row a picture, whole after any kill; or Parquet, made of them at the end.

The first row holds the settings; a run with other settings on the same report is refused. A picture's row is written as
"started" before its output can appear (which is atomic) and as "done" or "failed" after, so that a resumed run can tell
its own finished output from a stranger's file of the same name. The last row of a picture counts. The report holds the
seed and the labels: it is private.
"""

import json
import os
from array import array
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mspd import atomic
from mspd.batch.places import SCALE
from mspd.errors import ImageError, UsageError
from mspd.extras import library
from mspd.locks import lock
from mspd.protector import Protection

Row = dict[str, Any]
_PARQUET_ROWS = 10_000  # of a row group


class Journal:
    """The rows of a run on disk, each written whole or not at all. Without a path nothing is kept.

    Of a row known from an earlier run 16 bytes are kept in memory: a digest of its id and its place in the file; with
    Parquet, of one that this run has passed, 8.
    """

    def __init__(self, path: Path | None, settings: Row) -> None:
        self.path = path
        self.file: FileIO | None = None
        self.unfinished: set[str] = set()
        self._lock = Lock()
        self._parquet = path is not None and path.suffix == ".parquet"
        self._passed = array("Q")
        self._digests, self._offsets = np.empty(0, np.uint64), np.empty(0, np.uint64)
        if path is None:
            return
        if path.suffix not in (".jsonl", ".parquet"):
            raise UsageError(f"{path}: a report is a .jsonl or a .parquet file")
        self.settings = settings
        self.journal = path
        if self._parquet:
            library("pyarrow.parquet", SCALE)
            self.journal = path.with_name(path.name + ".jsonl")
            if path.exists() and not self.journal.exists():
                raise UsageError(f"{path}: not a report that can go on (its {self.journal.name} is gone)")
        first = _encode({"settings": settings})
        try:
            if self.journal.exists() and not self.journal.is_file():
                raise UsageError(f"{path}: not a report of mspd; choose another file")
            new = not self.journal.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.journal.open("ab", buffering=0)
            if not lock(self.file):
                raise UsageError(f"{path}: another run is writing this report; wait for it or choose another --report")
            if not new:
                self._read(first)
            if self.file.seek(0, os.SEEK_END) == 0:
                self._write(first)
        except OSError as error:
            self.close()
            raise self._error(error, "choose another --report") from error
        except (UsageError, ImageError):
            self.close()
            raise

    def get(self, name: str) -> Row:
        """The last row of a picture in the report as it was found; empty when there is none."""
        if not len(self._digests):
            return {}
        digest = _digest(name)
        left, right = (np.searchsorted(self._digests, digest, side) for side in ("left", "right"))
        with self.journal.open("rb") as file:
            for offset in self._offsets[left:right][::-1]:
                file.seek(int(offset))
                row: Row = json.loads(file.readline())
                if row["id"] == name:
                    return row
        return {}

    def append(self, row: Row) -> None:
        with self._lock:
            self._write(_encode(row))

    def passed(self, name: str) -> None:
        """The run is over with a picture: a Parquet file has the rows in the order of these calls."""
        if self._parquet:
            self._passed.append(_digest(name))

    def finish(self) -> None:
        """Write the Parquet file, when that is what the report is."""
        if self.path is not None and self._parquet:
            try:
                self._to_parquet(self.path)
            except OSError as error:
                raise self._error(error) from error

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _write(self, line: bytes) -> None:
        if self.file is None:
            return
        end = self.file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(end)
            raise self._error(error) from error

    def _error(self, error: OSError, remedy: str = "the same command goes on from here") -> ImageError:
        return ImageError(f"{self.path}: the report cannot be written ({error.strerror or error}); {remedy}")

    def _read(self, first: bytes) -> None:
        """Index an existing journal, which must begin with the line `first`; a last line cut off by a kill is dropped
        from the file."""
        stranger = UsageError(f"{self.path}: not a report of mspd; choose another file")
        new = json.loads(first)["settings"]
        digests, offsets, whole = array("Q"), array("Q"), 0
        try:
            for line in _lines(self.journal):
                if not line.endswith(b"\n"):
                    if whole == 0 and not first.startswith(line):
                        raise stranger
                    break
                row = json.loads(line)
                if whole == 0:
                    if row.keys() != {"settings"}:
                        raise stranger
                    old = row["settings"]
                    changed = [key for key in {**new, **old} if old.get(key) != new.get(key)]
                else:
                    digests.append(_digest(row["id"]))
                    offsets.append(whole)
                    if row["status"] == "started":
                        self.unfinished.add(row["id"])
                    else:
                        self.unfinished.discard(row["id"])
                whole += len(line)
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise stranger from error
        if whole and changed:
            names = ", ".join(changed)
            raise UsageError(
                f"{self.path}: belongs to a run with other settings ({names}); choose another --report or --out"
            )
        os.truncate(self.journal, whole)
        order = np.argsort(np.array(digests, np.uint64), kind="stable")
        self._digests, self._offsets = np.array(digests, np.uint64)[order], np.array(offsets, np.uint64)[order]

    def _to_parquet(self, path: Path) -> None:
        pa, pq = library("pyarrow", SCALE), library("pyarrow.parquet", SCALE)
        kinds = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
        columns = {"id": pa.string(), "status": pa.string(), "error": pa.string()}
        columns |= {name: kinds[kind] for name, kind in Protection.__annotations__.items()}
        columns |= {"stamp": pa.string(), "note": pa.string()}
        schema = pa.schema(columns, metadata={"mspd": json.dumps(self.settings)})
        atomic.sweep([path])
        temporary = atomic.temporary_beside(path)
        try:
            with pq.ParquetWriter(temporary, schema) as writer:
                rows: list[Row] = []
                for row in self._last_rows():
                    rows.append({key: _text(value) for key, value in row.items()})
                    if len(rows) == _PARQUET_ROWS:
                        writer.write_table(pa.Table.from_pylist(rows, schema))
                        rows = []
                writer.write_table(pa.Table.from_pylist(rows, schema))
            atomic.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _last_rows(self) -> Iterator[Row]:
        """The last row of each picture in the journal: those that this run has passed, in that order (the journal's is
        that in which readers and writers were ready), then those of earlier runs."""
        digests, offsets, at = array("Q"), array("Q"), 0
        for line in _lines(self.journal):
            if at:
                digests.append(_digest(json.loads(line)["id"]))
                offsets.append(at)
            at += len(line)
        values, first, which = np.unique(np.array(digests, np.uint64), return_index=True, return_inverse=True)
        last = np.zeros(len(values), np.uint64)
        np.maximum.at(last, which, np.array(offsets, np.uint64))
        passed = np.array(self._passed, np.uint64)
        known = np.isin(passed, values)
        rank = first + len(passed)
        rank[np.searchsorted(values, passed[known])] = np.flatnonzero(known)
        with self.journal.open("rb") as file:
            for offset in last[np.argsort(rank)]:
                file.seek(int(offset))
                yield json.loads(file.readline())


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _encode(row: Row) -> bytes:
    # a name that is not UTF-8 has lone surrogates; escaped (\udcff) they come back from JSON the same
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _text(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
