"""``hedgeserve pause`` and ``hedgeserve resume``: no VMs for a while, and then again."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.units import format_duration

_LOOK_EVERY_S = 0.3
_TARGET_WITHIN_S = 3.0


def pause_service(
    client: AdminClient,
    *,
    for_s: float | None,
    drain_s: float | None,
    agreed: Callable[[str], bool],
    as_json: bool,
) -> None:
    """Show what will end and what it costs now, ask, pause, and return once no VM is left."""
    status = client.status()
    mine = _vms_of(status)
    if not as_json:
        for one in mine:
            click.echo(
                f"{one['id']}  {one['zone']}  {one['market'].replace('_', '-')}  {one['state']}  "
                f"{one['usd_per_hour']:.2f} USD/h"
            )
    how_long = "until `hedgeserve resume`" if for_s is None else f"for {format_duration(for_s)}"
    usd_per_hour = status["usd_per_hour"]
    agreed(
        f"Pause {status['service']} {how_long}: terminate {_count(len(mine))}, {usd_per_hour:.2f} USD/h in all, "
        "and answer requests with 503?"
    )
    standing = client.pause(for_s=for_s, drain_s=drain_s)
    click.echo("Paused: new requests are answered 503. Running ones finish, then the VMs go.", err=True)
    while left := _vms_of(client.status()):
        _progress(f"{_count(len(left))} left")
        time.sleep(_LOOK_EVERY_S)
    _progress(None)
    if as_json:
        click.echo(json.dumps(standing))
    click.echo(f"Done: no VM is left; {usd_per_hour:.2f} USD/h are no longer spent.", err=True)


def resume_service(client: AdminClient, *, wait: bool, as_json: bool) -> None:
    """Resume; with ``wait``, return once a replica is ready."""
    standing = client.resume()
    if as_json:
        click.echo(json.dumps(standing))
    if standing["was"] == "awake":
        click.echo("It was neither paused nor asleep; nothing has changed.", err=True)
    else:
        why = f" ({standing['why']})" if standing["why"] else ""
        click.echo(f"Resumed: requests are taken, and replicas launched{why}.", err=True)
    started_s = time.monotonic()
    while wait:
        status = client.status()
        if status["ready"] > 0:
            _progress(None)
            click.echo(f"Ready after {format_duration(round(time.monotonic() - started_s, 1))}.", err=True)
            return
        idle = status["target"] == 0 and status["standing"]["rest"] == "awake" and not status["replicas"]
        if idle and time.monotonic() - started_s > _TARGET_WITHIN_S:
            _progress(None)
            click.echo("No replica is wanted until a request comes (`replicas.min` is 0).", err=True)
            return
        _progress(
            f"waiting for a replica: {', '.join(sorted(one['state'] for one in status['replicas'])) or 'none'}"
        )
        time.sleep(_LOOK_EVERY_S)


def _vms_of(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in status["replicas"] if one["market"] != "external"]


def _count(vms: int) -> str:
    return f"{vms} VM{'s' * (vms != 1)}"


def _progress(text: str | None) -> None:
    """One line on a terminal that is written over; None ends it."""
    if sys.stderr.isatty():
        click.echo("\r\033[K" if text is None else f"\r\033[K{text} ", nl=False, err=True)
