"""`python -m surplus`: the same as the command `surplus`."""

from surplus.cli import main

main()
