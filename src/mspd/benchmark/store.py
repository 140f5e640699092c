"""The folder of a benchmark: settings, rows, times and pictures, whole after any kill.

settings.json    what the rows belong to; a run with other settings in the same folder is refused, but the axes may
                 grow by names that are new, and the images by more of them behind
rows.jsonl       one row an image and cell, in a fixed order: the same bytes whether or not the run was broken
times.jsonl      seconds of each piece of images: all that differs from run to run
defended/        the defended pictures as PNG files; what is scored is read back from here
treated/         the same after a treatment
adversarial/     the attacked pictures, on request
summary.json     written at the end, summary.md too
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import astuple, fields
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import torch
from torch import Tensor

from mspd import atomic, images
from mspd.benchmark.grid import Cell
from mspd.errors import ImageError, UsageError
from mspd.locks import lock

Row = dict[str, Any]
AXES = tuple(field.name for field in fields(Cell))
#: the settings that are tables of names, to which a later run may add
GROWING = ("defenses", "backbones", "treatments", "surrogates", "targets", "attacks")


def cell_of(row: Row) -> Cell:
    return Cell(*(row[axis] for axis in AXES))


class Store:
    """Opens `out`, new or of an earlier run with the same settings; UsageError for anything else in it. `settings` are
    those of all runs in it."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out = out
        path = out / "settings.json"
        self.settings = settings
        try:
            if not path.exists() and out.exists() and any(map(_foreign, out.iterdir())):
                raise UsageError(f"{out}: is not empty and not a benchmark's folder; choose another one")
            if path.exists():
                _compared(path, settings)  # nothing is written into a stranger's folder
            out.mkdir(parents=True, exist_ok=True)
            with ExitStack() as unless_opened:
                self._rows = unless_opened.enter_context(_held(out))
                self.rows: list[Row] = []
                if path.exists():
                    earlier, changed = _compared(path, settings)
                    self.rows = _mended(out / "rows.jsonl")
                    if changed and (self.rows or (out / "defended").exists()):
                        names = ", ".join(changed)
                        line = f"{out}: belongs to a run with other settings ({names}); choose another folder"
                        raise UsageError(line)
                    if not changed:
                        self.settings = {key: _grown(earlier[key], value) for key, value in settings.items()}
                    _mended(out / "times.jsonl")
                write(path, json.dumps(self.settings, indent=1) + "\n")
                for leftover in out.rglob(".mspd-*.tmp"):
                    leftover.unlink()
                self._times = (out / "times.jsonl").open("ab", buffering=0)
                unless_opened.pop_all()
        except OSError as error:
            raise ImageError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error
        self.done = {(cell_of(row), row["id"]) for row in self.rows}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        self._times.close()

    def missing(self, cell: Cell, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if (cell, i) not in self.done]

    def append(self, cell: Cell, rows: list[Row], times: Row) -> None:
        """Write the rows of a piece and what it took; on disk when this returns."""
        self._append(self._rows, rows)
        self._append(self._times, [times])
        self.rows += rows
        self.done |= {(cell, row["id"]) for row in rows}

    def _append(self, file: FileIO, rows: list[Row]) -> None:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{self.out}: cannot be written ({reason}); the same call goes on from here") from error

    # ------------------------------------------------------------ pictures

    def defended(self, cell: Cell, index: int) -> Path:
        return defended_place(self.out, cell, index)

    def treated(self, cell: Cell, index: int) -> Path:
        return treated_place(self.out, cell, index)

    def adversarial(self, cell: Cell, index: int) -> Path:
        return _place(self.out / "adversarial", astuple(cell), index)


def defended_place(out: Path, cell: Cell, index: int) -> Path:
    """The file of picture `index` after the cell's defence."""
    return _place(out / "defended", (cell.defense, cell.backbone), index)


def treated_place(out: Path, cell: Cell, index: int) -> Path:
    """The same after the cell's treatment."""
    return _place(out / "treated", (cell.defense, cell.backbone, cell.treatment), index)


def save_png(x: Tensor, reference: Tensor, path: Path, eps: float) -> None:
    """Write one image x (1, 3, H, W) as PNG, checked against the budget `eps` around `reference` (8-bit)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = images.Picture(Path("original"), images.to_pixels(reference), None, "PNG", None, None, None, None)
    images.save(picture, images.to_pixels(x), path, eps=min(eps, 1.0))


def read_png(paths: Iterable[Path]) -> Tensor:
    return torch.cat([images.to_tensor(images.read(path).pixels) for path in paths])


def write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    atomic.write(path, text.encode())


def _foreign(path: Path) -> bool:
    """Whether a file of a folder without settings is not what a run leaves that was killed as it began."""
    return not path.match(".mspd-*.tmp") and (path.name != "rows.jsonl" or path.stat().st_size > 0)


def _held(out: Path) -> FileIO:
    """The rows of a folder, open for more and kept from other processes."""
    file = (out / "rows.jsonl").open("ab", buffering=0)
    if not lock(file):
        file.close()
        raise UsageError(f"{out}: another run is writing here; wait for it or choose another folder")
    return file


def _place(folder: Path, names: Iterable[str], index: int) -> Path:
    """A picture's file, in a sub-folder for each name; different names give different folders."""
    return folder.joinpath(*map(_quoted, names), f"{index:05d}.png")


def _quoted(name: str) -> str:
    """A name as that of a folder; "", "." and ".." are none."""
    return quote(name, safe=" ,@+") if name.strip(".") else "%2E" * len(name) or "%00"


def _compared(path: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings in the file, and which of ours are not theirs; UsageError when it is not a benchmark's."""
    new = json.loads(json.dumps(settings))
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        old = None
    kinds = (*GROWING, "images")
    if not isinstance(old, dict) or old.keys() != new.keys() or any(type(old[k]) is not type(new[k]) for k in kinds):
        raise UsageError(f"{path}: not the settings of such a benchmark; choose another folder")
    return old, [key for key in new if _differ(key, old[key], new[key])]


def _differ(key: str, old: Any, new: Any) -> bool:
    if key in GROWING:
        return any(old.get(name, new[name]) != new[name] for name in new)
    if key == "images":
        return any(a != b for a, b in zip(old, new, strict=False))
    return bool(old != new)


def _grown(old: Any, new: Any) -> Any:
    """A setting of both runs, where it does not differ: the names of both, or the longer list."""
    if isinstance(new, dict):
        return {**old, **new}
    return max(old, new, key=len) if isinstance(new, list) else new


def in_short(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with one checksum for all images."""
    images = settings["images"]
    checksum = hashlib.sha256("".join(images).encode()).hexdigest()
    return {**settings, "images": {"n": len(images), "sha256": checksum}}


def read_lines(path: Path) -> list[Row]:
    """The rows of a file, but for a last line that is not whole: another process may be writing it."""
    return _rows(path, _whole(path))


def _mended(path: Path) -> list[Row]:
    """The rows of a file that only we write; a last line cut off by a kill is dropped from it."""
    data = _whole(path)
    rows = _rows(path, data)
    if path.exists():
        os.truncate(path, len(data))
    return rows


def _whole(path: Path) -> bytes:
    """A file's whole lines; none where it is not there."""
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def _rows(path: Path, data: bytes) -> list[Row]:
    try:
        return [json.loads(line) for line in data.splitlines()]
    except ValueError as error:
        raise UsageError(f"{path}: damaged; remove its folder and start again") from error
