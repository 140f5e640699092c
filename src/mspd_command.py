"""The command `mspd`. It is outside the package, whose import takes seconds, to end quietly on a Ctrl-C meanwhile."""

import os
import signal
from typing import Any


def main() -> None:
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:  # compiled parts of what is imported swallow a KeyboardInterrupt, or abort
        signal.signal(signal.SIGINT, _stop)
    from mspd.cli import main as run

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _stop(*_: Any) -> None:
    os.write(2, b"mspd: stopped\n")
    os._exit(130)
