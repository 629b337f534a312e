"""``hedgeserve logs``: the end of a replica's engine log, or what the journal of a stopped service has of it."""

import shlex

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.events import line_of
from hedgeserve.errors import NotRunningError

_MOST_EVENTS = 20


def print_log(client: AdminClient, replica: str, lines: int) -> None:
    """Print the last ``lines`` of the engine log; where no service runs, the replica's last events instead.

    The log is on the VM, and only the service has a way in. The engine's last words stand in the events.

    Raises:
        NotRunningError: No service runs there; what its journal has is printed before, and what to do is said.
        StateDirectoryError: No service runs there, and there is no journal that can be read.
    """
    try:
        text = client.logs(replica, lines)
    except NotRunningError:
        _print_remains(client, replica)
    else:
        click.echo(text, nl=bool(text) and not text.endswith("\n"))


def _print_remains(client: AdminClient, replica: str) -> None:
    from hedgeserve.console.stopped import say_stopped
    from hedgeserve.tables.events import events_in  # only here: it needs SQLite

    found = events_in(client.directory / "journal.db", limit=_MOST_EVENTS, replica=replica)
    if not found:
        events = f"hedgeserve events --state-dir {shlex.quote(str(client.directory))}"
        raise NotRunningError(
            f"no service runs with the state directory {client.directory}, and its journal has no event of a "
            f"replica {replica}; `{events}` shows which it has"
        )
    say_stopped(client.directory)
    for event in found:
        click.echo(line_of(event.document()))
    if any(event.kind == "gone" for event in found):
        raise NotRunningError(
            f"the engine log of {replica} went with its VM; above is what the journal has, with the "
            "engine's last words where there were any"
        )
    raise NotRunningError(
        f"the engine log of {replica} is on its VM, and only a running service can read it: start the service "
        f"again with `hedgeserve serve`, which takes up what still runs, then ask for `hedgeserve logs {replica}`"
    )
