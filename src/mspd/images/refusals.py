"""How a refusal is worded: one `ImageError`, one line, the file's name, what is wrong, what to do."""

import errno
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from PIL import Image, UnidentifiedImageError

from mspd.errors import ImageError, MspdError, printable

REASONS = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.ENOTDIR: "its folder is not a folder; check the path",
    errno.EISDIR: "is a folder; name a picture in it",
    errno.EACCES: "no permission; change the access rights or choose another place",
    errno.EPERM: "no permission; change the access rights or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "too large for this file system; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EEXIST: "already exists; choose another name or remove it first",
}
EMPTY = "empty file; get a fresh copy of it"
BAD_NAME = "not a valid file name; check the path"
NO_MEMORY = "too large for the memory; scale it down"
_DAMAGED = "damaged or cut short; get a fresh copy of it"
_UNKNOWN = "not a readable 8-bit PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture; convert it to PNG or JPEG"
DEEP = "more than 8 bits per channel; convert it to 8 bits"
HDR = "an HDR picture (gain map or HDR transfer function), which would be lost; export it as plain 8-bit SDR"


def refuse(path: str | Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    """Raise the ImageError about `path`."""
    raise ImageError(f"{printable(path)}: {reason}") from cause


def reason(error: OSError) -> str:
    """What the file system did not like, and what to do."""
    unknown = f"{error.strerror or 'input/output error'}; try again or choose another place"
    return REASONS.get(error.errno or 0, unknown)


def too_many(limit: int) -> str:
    return f"more pixels than the limit of {limit / 1e6:.0f} million; scale it down"


class _Inside(threading.local):
    """What the filter below asks about a warning's text: "yes" in the threads that are in `one_line` just now."""

    depth = 0

    def match(self, text: str) -> bool:
        return self.depth > 0

    def __reduce__(self) -> str:  # others pickle the process's filters, to give their workers the same
        return "_INSIDE"


_INSIDE = _Inside()
#: `warnings.catch_warnings` would not do: it swaps the filters of the whole process, and of two threads that do so the
#: later one puts the earlier one's back for good
_FILTER = ("ignore", _INSIDE, Warning, None, 0)


@contextmanager
def no_warnings() -> Iterator[None]:
    """No warning of this thread gets out; other threads, and this one afterwards, warn as before."""
    filters: list[object] = warnings.filters  # type: ignore[assignment]
    if filters[:1] != [_FILTER]:
        with suppress(ValueError):
            filters.remove(_FILTER)
        filters.insert(0, _FILTER)
    _INSIDE.depth += 1
    try:
        yield
    finally:
        _INSIDE.depth -= 1


@contextmanager
def one_line(path: str | Path) -> Iterator[None]:
    """Turn whatever Pillow and the file system raise into one ImageError about `path`; let no warning out."""
    try:
        with no_warnings():
            yield
    except MspdError:
        raise
    except UnidentifiedImageError as error:
        refuse(path, _UNKNOWN, error)
    except Image.DecompressionBombError as error:
        refuse(path, too_many(2 * (Image.MAX_IMAGE_PIXELS or 0)), error)
    except MemoryError as error:
        refuse(path, NO_MEMORY, error)
    except OSError as error:
        if error.errno is not None:
            refuse(path, reason(error), error)
        refuse(path, _DAMAGED, error)
    except Exception as error:
        refuse(path, _DAMAGED, error)
