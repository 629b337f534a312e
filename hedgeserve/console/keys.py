"""``hedgeserve keys``: issues, lists and revokes API keys, through the service where it runs, else in its state
directory.

A key is made here and shown here, once: the service is told its hash, and nothing that would let anybody in.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.errors import NotRunningError
from hedgeserve.keyring import KeyFile, make_key
from hedgeserve.units import format_duration

_FIRST = "From now on every request needs a key: an issued one, or one that model.toml names."
_STILL_ASKED = "and every request still needs one: `hedgeserve keys add NAME` issues one."


def add_key(
    client: AdminClient,
    name: str,
    *,
    lasts_s: float | None,
    requests_per_second: float | None,
    tokens_per_minute: int | None,
    concurrency: int | None,
    agreed: Callable[[str], bool],
    as_json: bool,
) -> None:
    """Issue a key and print it, once; the first of a service that runs only where that is ``agreed``.

    Raises:
        ValueError: The name cannot be one, or the time is too long.
        HedgeServeError: There is a key of that name, or it cannot be kept.
    """
    issued, key = make_key(
        name,
        datetime.now(UTC).replace(microsecond=0),
        lasts_s=lasts_s,
        requests_per_second=requests_per_second,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
    )
    try:
        _, asked_before = client.keys()
        if not asked_before:
            agreed(f"{_FIRST} This holds at once, for whoever asks the service now. Issue it?")
    except NotRunningError:
        asked_before = KeyFile(client.directory).read() is not None
    try:
        client.add_key(issued.to_json())
        standing = "it is good at once"
    except NotRunningError:
        KeyFile(client.directory).add(issued)
        standing = "it is good as soon as the service runs"
    if as_json:
        shown = {field: value for field, value in issued.to_json().items() if field != "sha256"}
        click.echo(json.dumps(shown | {"key": key}))
        return
    until = f" until {issued.expires_at:%Y-%m-%d %H:%M} UTC" if issued.expires_at else ""
    if not asked_before:
        click.echo(_FIRST, err=True)
    click.echo(
        f'The key of "{name}"{until}; {standing}. It is shown this once, and kept only as a hash:', err=True
    )
    click.echo(key)


def list_keys(client: AdminClient, *, as_json: bool) -> None:
    """Print the issued keys, without what would let anybody in.

    Raises:
        HedgeServeError: They cannot be read.
    """
    keys, asked = _listed(client)
    if as_json:
        click.echo(json.dumps(keys))
        return
    if not keys and asked:
        click.echo(f"All keys that were issued are revoked, {_STILL_ASKED}", err=True)
        _say_the_way_back(client)
        return
    if not keys:
        click.echo("No key was issued; `hedgeserve keys add NAME` issues one.", err=True)
        return
    now = datetime.now(UTC)
    rows = [("name", "id", "created", "expires", "last used", "limits"), *(_row(key, now) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def revoke_key(client: AdminClient, name: str, *, as_json: bool) -> None:
    """Let in nobody with this key any more.

    Raises:
        HedgeServeError: There is none of this name or id, or the file cannot be written.
    """
    try:
        client.revoke_key(name)
    except NotRunningError:
        KeyFile(client.directory).revoke(name)
    left, _ = _listed(client)
    if as_json:
        click.echo(json.dumps(left))
    on = "Every request goes on to need one." if left else f"It was the last one, {_STILL_ASKED}"
    click.echo(
        f'Nobody is let in with the key of "{name}" any more; what is being answered is answered. {on}', err=True
    )
    if not left:
        _say_the_way_back(client)


def _say_the_way_back(client: AdminClient) -> None:
    click.echo(
        f"To let in whoever asks again, stop the service, delete {KeyFile(client.directory).path}, and start it.",
        err=True,
    )


def _listed(client: AdminClient) -> tuple[list[dict[str, Any]], bool]:
    """All issued keys, and whether there ever was one, as the service or its state directory tells."""
    try:
        return client.keys()
    except NotRunningError:
        file = KeyFile(client.directory)
        used, kept = file.used(), file.read()
        keys = [
            {field: value for field, value in key.to_json().items() if field != "sha256"}
            | {"last_used_at": used[key.id].isoformat(timespec="seconds") if key.id in used else None}
            for key in kept or ()
        ]
        return keys, kept is not None


def _row(key: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    expires = "never"
    if key["expires_at"]:
        at = datetime.fromisoformat(key["expires_at"])
        expires = f"{at:%Y-%m-%d}" if at > now else f"{at:%Y-%m-%d} (expired)"
    used = "never"
    if key["last_used_at"]:
        age_s = (now - datetime.fromisoformat(key["last_used_at"])).total_seconds()
        used = f"{_coarse(age_s)} ago" if age_s >= 60 else "less than 1m ago"  # it is known to the minute
    limits = [
        f"{key[field]:g} {unit}"
        for field, unit in (
            ("requests_per_second", "requests/s"),
            ("tokens_per_minute", "tokens/min"),
            ("concurrency", "at once"),
        )
        if key[field] is not None
    ]
    created = f"{datetime.fromisoformat(key['created_at']):%Y-%m-%d}"
    return key["name"], key["id"], created, expires, used, ", ".join(limits) or "those of [limits]"


def _coarse(seconds: float) -> str:
    for unit_s in (86400.0, 3600.0, 60.0):
        if seconds >= unit_s:
            return format_duration(seconds // unit_s * unit_s)
    return format_duration(seconds)
