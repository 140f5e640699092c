"""A file appears under its name whole and written through to the disk, or not at all."""

import os
import secrets
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from mspd.locks import lock

_PREFIX = len(".mspd-01234567-")


def temporary_beside(out: Path) -> Path:
    """A name that no file has, in the folder of `out`, for what is to become `out`."""
    return out.parent / f"{_prefix(out)}{secrets.token_hex(8)}.tmp"


def sweep(outs: Iterable[Path]) -> None:
    """Remove what killed processes left of their attempts at these files, and nothing of any other; what a living one
    has locked stays."""
    prefixes = defaultdict[Path, set[str]](set)
    for out in outs:
        prefixes[out.parent].add(_prefix(out))
    for folder, known in prefixes.items():
        for leftover in folder.glob(".mspd-*.tmp"):
            if leftover.name[:_PREFIX] in known and _free(leftover):
                with suppress(OSError):
                    leftover.unlink()


@contextmanager
def alone(out: Path) -> Iterator[bool]:
    """Keep other processes from making `out` meanwhile; False when one is at it. OSError where no file can be."""
    holder = out.parent / f"{_prefix(out)}lock.tmp"
    with holder.open("ab") as file:
        try:
            free = lock(file)
        except OSError:  # no locks here
            free = True
        try:
            yield free
        finally:
            if free:
                with suppress(OSError):
                    holder.unlink()


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet; OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), "wb") as file:
        file.write(data)


def through(path: Path) -> None:
    """Write what the system still holds of a file to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def publish(temporary: Path, out: Path) -> None:
    """Give the finished file its name; FileExistsError if another file took the name meanwhile."""
    through(temporary)
    try:
        os.link(temporary, out)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: claim the name first, then replace the claim
        os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise


def write(out: Path, data: bytes) -> None:
    """Write or replace the file `out`, whose access rights stay; OSError, with what was there before untouched."""
    temporary = temporary_beside(out)
    try:
        write_new(temporary, data)
        replace(temporary, out)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace(temporary: Path, out: Path) -> None:
    """Put the finished file in the place of `out`, if there is one."""
    through(temporary)
    with suppress(FileNotFoundError):
        temporary.chmod(stat.S_IMODE(out.stat().st_mode))
    os.replace(temporary, out)


def _free(path: Path) -> bool:
    try:
        with path.open("ab", buffering=0) as file:
            return lock(file)
    except OSError:  # no locks here
        return True


def _prefix(out: Path) -> str:
    return f".mspd-{blake2b(os.fsencode(out.name), digest_size=4).hexdigest()}-"
