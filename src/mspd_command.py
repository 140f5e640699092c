"""The command `mspd`. It is outside the package, whose import takes seconds, to end quietly on a Ctrl-C meanwhile."""

import sys


def main() -> None:
    try:
        from mspd.cli import main as run
    except KeyboardInterrupt:
        print("mspd: stopped", file=sys.stderr)
        sys.exit(130)
    run()
