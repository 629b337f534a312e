"""``python -m hedgeserve`` is ``hedgeserve``."""

from hedgeserve.cli import main

main(prog_name="hedgeserve")
