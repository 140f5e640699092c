"""The command `mspd`. It is outside the package, whose import takes seconds, to end quietly on a Ctrl-C meanwhile, and
to set what PyTorch reads as it is imported."""

import os
import signal
from typing import Any


def main() -> None:
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:  # compiled parts of what is imported swallow a KeyboardInterrupt, or abort
        signal.signal(signal.SIGINT, _stop)
    _wait_briefly()
    from mspd.cli import main as run

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _wait_briefly() -> None:
    """Let PyTorch's threads wait for each other in a busy loop for a short while only, unless the user chose otherwise.

    On two cores with two other programs `mspd verify` took over 240 s with GNU OpenMP's 300,000 rounds, 30 s with
    1,000; with the cores to itself 13 s and 14 s.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _stop(*_: Any) -> None:
    os.write(2, b"mspd: stopped\n")
    os._exit(130)
