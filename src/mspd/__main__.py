"""`python -m mspd` is the command line."""

from mspd.cli import main

main()
