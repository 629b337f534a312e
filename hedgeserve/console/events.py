"""``hedgeserve events``: what happened and why, of a service that runs or from the journal of a stopped one."""

import json
from collections.abc import Mapping
from typing import Any

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.errors import NotRunningError


def show_events(client: AdminClient, *, limit: int, replica: str | None, follow: bool, as_json: bool) -> None:
    """Print the newest ``limit`` events, oldest first; with ``follow`` then each new one, until Ctrl-C or its end.

    Raises:
        NotRunningError: New ones were to follow, and no service runs there; what its journal says is printed.
        StateDirectoryError: No service runs there, and there is no journal that can be read.
    """
    printed = 0
    try:
        for event in client.events(limit=limit, replica=replica, follow=follow):
            _print(event, as_json=as_json)
            printed += 1
    except KeyboardInterrupt:
        if not follow:
            raise
    except NotRunningError:
        from hedgeserve.console.stopped import say_stopped
        from hedgeserve.tables.events import events_in  # only here: it needs SQLite

        found = events_in(client.directory / "journal.db", limit=limit, replica=replica)
        say_stopped(client.directory)
        for stored in found:
            _print(stored.document(), as_json=as_json)
            printed += 1
        if follow:
            raise NotRunningError(
                f"there is nothing to follow: no service runs with the state directory {client.directory}"
            ) from None
    if not printed and replica is not None:
        click.echo(f"No event is about {replica}; `hedgeserve explain {replica}` may know it.", err=True)


def _print(event: Mapping[str, Any], *, as_json: bool) -> None:
    click.echo(json.dumps(event) if as_json else line_of(event))


def line_of(event: Mapping[str, Any]) -> str:
    """An event as a line to read, which does nothing to a terminal."""
    who = event["replica"] or event["zone"] or "-"
    return f"{event['at'][:19]}Z  {event['kind']:<10}  {who}  {_plain(event['message'])}"


def _plain(text: str) -> str:
    """The text without characters that would do something to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
