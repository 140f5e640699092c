"""Where pictures lie: files of this machine, addresses (`s3://bucket/a.png`, by fsspec) and members of tar shards.

Nothing is overwritten, and everything appears under its name only when whole: a file and a shard by a link to a
finished temporary file, which fails where another process was quicker; an object at an address by a single put after a
look whether one is there, so that there of two runs at once the later one wins.
"""

import io
import math
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from mspd import images
from mspd.atomic import publish, temporary_beside
from mspd.errors import ImageError, MspdError, UsageError, first_line, printable
from mspd.extras import library
from mspd.locks import lock

#: what addresses, Parquet and Ray need
SCALE = "'mspd[scale]'"


@dataclass(frozen=True)
class Address:
    """Something that fsspec reaches, by its URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self.url.rstrip('/')}/{name}")


@dataclass(frozen=True)
class Member:
    """A file in a tar shard; where its bytes lie there, when it is one to be read."""

    shard: Path | Address
    name: str
    offset: int = 0
    size: int = 0
    mtime: float = 0
    stamp: str = ""  # of the shard, when this was found in it
    siblings: tuple["Member", ...] = ()  # the other files of a picture's sample

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


Place = Path | Address
Spot = Path | Address | Member


def place(text: str | Path) -> Place:
    """What a word of the command line names: an address when it has a `://`, a path otherwise. UsageError for an empty
    word, a script's variable that is not set: as a path it would be the current folder."""
    if text == "":
        raise UsageError("a name is empty; for the current folder write .")
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    return Path(text.removeprefix("file://")) if text.startswith("file://") else Address(text)


def absolute(where: Spot) -> str:
    """The name of a place from wherever one stands."""
    if isinstance(where, Member):
        return f"{absolute(where.shard)}/{where.name}"
    return os.path.abspath(where) if isinstance(where, Path) else where.url


@contextmanager
def _one_line(where: object) -> Iterator[None]:
    """Turn what a store raises, which may be anything, into one ImageError."""
    try:
        yield
    except MspdError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{where}: no such file or folder; check the address") from error
    except FileExistsError as error:
        raise ImageError(f"{where}: already exists; choose another output or remove it first") from error
    except Exception as error:
        said = getattr(error, "strerror", None) or first_line(error)
        raise ImageError(f"{where}: {said}; check the address and your access to it") from error


def store_of(address: Address) -> tuple[Any, str]:
    """The fsspec file system of an address and the path in it. UsageError when its driver is not installed, or raises
    anything."""
    fsspec = library("fsspec", SCALE)
    try:
        fs, path = fsspec.core.url_to_fs(address.url)
    except Exception as error:
        raise UsageError(f"{address}: {first_line(error)}") from error
    return fs, path


# ---------------------------------------------------------------- looking

#: what stores call the mark, or else the time, of an object's content
_MARKS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "last_modified", "updated", "created")


def is_folder(where: Place) -> bool:
    if isinstance(where, Path):
        return where.is_dir()
    with _one_line(where):
        fs, path = store_of(where)
        return bool(fs.isdir(path))


def exists(where: Spot) -> bool:
    """Whether something is there; of a shard's member, whether the shard is."""
    if isinstance(where, Path):
        return where.exists()
    if isinstance(where, Member):
        return exists(where.shard)
    with _one_line(where):
        fs, path = store_of(where)
        return bool(fs.exists(path))


def fingerprint(where: Spot) -> str:
    """What another content in the same place would change, for the price of a look: size and times of a file (nobody
    can set the change time; inodes may differ between machines), or size and mark of an object; of a shard's member,
    its shard's when it was walked. "" for a file that is not there."""
    if isinstance(where, Member):
        return where.stamp
    if isinstance(where, Path):
        with suppress(OSError):
            found = where.stat()
            return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
        return ""
    with _one_line(where):
        fs, path = store_of(where)
        fs.invalidate_cache(path)  # what an earlier listing said
        info = fs.info(path)
        return f"{info.get('size')}-{next((info[mark] for mark in _MARKS if mark in info), '')}"


def newer(one: Spot, other: Spot) -> bool:
    """Whether a file was changed, or put there, after another was written; False where one of them is no file of this
    machine, or is gone."""
    if not isinstance(one, Path) or not isinstance(other, Path):
        return False
    with suppress(OSError):
        changed = one.stat()  # a file put in another's place may bring an old time of its content
        return max(changed.st_mtime, changed.st_ctime) > other.stat().st_mtime
    return False


def listing(folder: Place) -> list[tuple[str, bool]]:
    """Names of the files and folders in a folder, in order, and whether each is a folder. Links to folders are left
    out; those to nothing are not, for somebody should be told."""
    if isinstance(folder, Path):
        try:
            with os.scandir(folder) as entries:
                kinds = ((e.name, e.is_dir(follow_symlinks=False), _is_file(e)) for e in entries)
                return sorted((name, is_dir) for name, is_dir, is_file in kinds if is_dir or is_file)
        except OSError as error:
            raise ImageError(
                f"{folder}: cannot be listed ({error.strerror or error}); check your access to it"
            ) from error
    with _one_line(folder):
        fs, path = store_of(folder)
        found = [  # without S3's mark of an empty folder, and pipes and devices, which would be read for ever
            e for e in fs.ls(path, detail=True) if e["name"] != path and e["type"] != "other"
        ]
        return sorted((Address(e["name"]).name, e["type"] == "directory") for e in found)


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())
    except OSError:  # a link to itself
        return entry.is_symlink()


def matches(pattern: Address) -> list[Place]:
    """The addresses that a pattern with `*` stands for, in order."""
    with _one_line(pattern):
        fs, path = store_of(pattern)
        return [place(fs.unstrip_protocol(name)) for name in sorted(fs.glob(path))]


def members(shard: Place) -> Iterator[Member]:
    """The files in a tar, in its order; ImageError for what is not a plain (uncompressed) tar, and at the end of one
    that is cut short."""
    stamp = fingerprint(shard)
    with _one_line(shard), _open(shard) as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
        except tarfile.TarError as error:
            raise ImageError(f"{shard}: not a plain tar file ({error}); uncompress it or get a fresh copy") from error
        cut = f"{shard}: damaged or cut short; get a fresh copy of it"
        last = -1
        try:
            for entry in tar:
                if entry.size < 0 or entry.offset <= last:  # would be read again and again
                    raise ImageError(cut)
                last = entry.offset
                if entry.islnk() or entry.issym() or entry.issparse():
                    raise ImageError(
                        f"{shard}: holds a link or a sparse file ({printable(entry.name)}); pack it again with tar's "
                        "--dereference --hard-dereference and without --sparse"
                    )
                if entry.isfile():
                    mtime = entry.mtime if math.isfinite(entry.mtime) else 0
                    yield Member(shard, entry.name, entry.offset_data, entry.size, mtime, stamp)
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        except tarfile.TarError as error:
            raise ImageError(cut) from error
        file.seek(tar.offset)
        end = file.read(tarfile.RECORDSIZE + tarfile.BLOCKSIZE)  # a whole tar ends with zeros, up to a whole record
        if end[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
            raise ImageError(cut)
        if end.strip(b"\0"):
            raise ImageError(f"{shard}: more stands behind its end mark; give each tar of those put together by itself")


def _open(where: Place) -> IO[bytes]:
    if isinstance(where, Path):
        return where.open("rb")
    fs, path = store_of(where)
    file: IO[bytes] = fs.open(path, "rb")
    return file


# ---------------------------------------------------------------- reading


def load(where: Spot) -> images.Picture:
    """Decode the picture that lies there; ImageError when that is not possible."""
    return images.read(where) if isinstance(where, Path) else images.decode(content(where), str(where))


def content(where: Spot) -> bytes:
    """The bytes that lie there."""
    with _one_line(where):
        if not isinstance(where, Member):
            with _open(where) as file:
                return file.read()
        with _open(where.shard) as file:
            file.seek(where.offset)
            data = file.read(where.size)
        if len(data) < where.size:
            raise ImageError(f"{where}: cut short; get a fresh copy of the shard")
        return data


@lru_cache(maxsize=1)
def _index(shard: Place) -> dict[str, Member]:
    return {member.name: member for member in members(shard)}


def written(output: Spot) -> bytes | None:
    """What lies at an output; None when it is a member that its shard does not have."""
    if isinstance(output, Member):
        found = _index(output.shard).get(output.name)
        return None if found is None else content(found)
    return content(output)


# ---------------------------------------------------------------- writing


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ImageError(f"{folder}: is a file or in one, not a folder; choose another output") from error
    except PermissionError as error:
        raise ImageError(
            f"{folder}: no permission to make it; change the access rights or choose another output"
        ) from error


def save(picture: images.Picture, pixels: images.Pixels, out: Place, *, eps: float, quality: int = 95) -> images.Check:
    """`images.save`, to addresses too; folders are made."""
    if isinstance(out, Path):
        _make_folder(out.parent)
        return images.save(picture, pixels, out, eps=eps, quality=quality)
    data, check = images.encode(picture, pixels, str(out), eps=eps, quality=quality)
    _put(out, lambda fs, path: fs.pipe_file(path, data))
    return check


def _put(out: Address, put: Callable[[Any, str], object]) -> None:
    """Have `put` write an object where there is none yet, whole or not at all."""
    with _one_line(out):
        fs, path = store_of(out)
        if fs.exists(path):
            raise FileExistsError(path)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            put(fs, path)
        except BaseException:
            with suppress(Exception):
                fs.rm_file(path)  # a store of plain files keeps the part that was written
            raise


def draft(out: Place) -> Path:
    """What a shard's temporary file lies beside: the shard, or for an address a name where temporary files are."""
    return out if isinstance(out, Path) else Path(tempfile.gettempdir(), out.url.replace("/", "-"))


class Shard:
    """A tar being written; it appears at `out` when `finish` returns, and never when it is only `drop`ped."""

    def __init__(self, out: Place) -> None:
        self.out = out
        _make_folder(draft(out).parent)
        self.path = temporary_beside(draft(out))
        mode = 0o666 if isinstance(out, Path) else 0o600
        self.file = open(self.path, "xb", opener=lambda path, flags: os.open(path, flags, mode))  # noqa: SIM115
        with suppress(OSError):  # where there are no locks, it does without
            lock(self.file)
        self.tar = tarfile.open(fileobj=self.file, mode="w")  # noqa: SIM115

    def add(self, name: str, data: bytes, mtime: float) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(data), mtime
        self.tar.addfile(entry, io.BytesIO(data))

    def finish(self) -> None:
        self.tar.close()
        self.file.flush()
        if isinstance(self.out, Path):
            publish(self.path, self.out)
        else:
            _put(self.out, lambda fs, path: fs.put_file(str(self.path), path))

    def drop(self) -> None:
        """Let go of the temporary file."""
        with suppress(OSError):  # the disk may be full
            self.file.close()
        with suppress(OSError):
            self.path.unlink()


def key_of(name: str) -> str:
    """The key of the WebDataset sample that a file of a shard belongs to: its path up to the first dot of its name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.partition(".")[0] or last)
