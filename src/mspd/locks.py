"""One process at a time writes a file."""

import sys
from typing import BinaryIO


def lock(file: BinaryIO) -> bool:
    """Keep other processes from this file until it is closed; False when one of them has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            at = file.tell()
            file.seek(2**40)  # locked bytes cannot be read by others: take one beyond the end
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                file.seek(at)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
