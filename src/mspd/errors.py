"""What can go wrong, as a small tree.

    MspdError                 base: anything the command line prints as one line (exit code 1)
    |-- UsageError            the call itself is wrong: an option, a name, a budget (exit code 2)
    |-- InputError            a tensor or a model breaks the contract: range, shape, dtype, logits
    |-- ImageError            a picture cannot be read, kept right or written
    +-- WeightsError          a weight file is missing, corrupted or not ours

Every message is one line that names the thing and the remedy.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MspdError(Exception):
    """Base of all errors raised on purpose by mspd."""


class UsageError(MspdError):
    """A wrong option, name or budget; the command line exits with 2."""


class InputError(MspdError):
    """A tensor or model outside the contract (see :mod:`mspd.guard`)."""


class ImageError(MspdError):
    """A picture that cannot be read, kept right, or written within its budget."""


class WeightsError(MspdError):
    """A weight file that is missing, corrupted, or of another format."""


def first_line(error: Exception) -> str:
    """What foreign code raised, in a line: its message's first, or what it is."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


@contextmanager
def memory_errors() -> Iterator[None]:
    """Where PyTorch says that the memory is used up, on a CPU by a plain RuntimeError, it becomes a MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("can't allocate memory", "out of memory")):
            raise
        raise MemoryError(first_line(error)) from error


def printable(name: object) -> str:
    """A path or name on one line, whatever is in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
