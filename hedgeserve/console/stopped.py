"""What is said where no service runs: what it may have left running comes before what it was asked."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click


def left_running(directories: Iterable[Path]) -> str:
    """Sentences about what the services of these state directories may have left running; often there are none."""
    from hedgeserve.remains import remains_in  # only here: it needs SQLite

    now = datetime.now(UTC)
    found = [str(remains) for directory in directories if (remains := remains_in(directory, now)) is not None]
    return "; ".join(found)


def say_stopped(directory: Path) -> None:
    """Say that what follows is a journal's word, and whether money may still be spent."""
    told = left_running([directory])
    click.echo("No service runs there; this is what its journal says.", err=True)
    if told:
        click.echo(f"{told}.", err=True)
