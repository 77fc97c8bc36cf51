"""`python -m decalog` is the `decalog` command."""

from decalog.cli import main

main()
