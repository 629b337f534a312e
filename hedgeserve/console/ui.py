"""``hedgeserve ui``: the dashboard's address with a way in, or the dashboard itself where the service has none.

Where model.toml names no address for the dashboard, this process shows it on a free port of this machine for as
long as it runs, and asks the service over its Unix socket.
"""

import asyncio
import html
import json
import os
import secrets
import signal
import webbrowser
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.errors import HedgeServeError
from hedgeserve.web.unixhttp import Answer, Request, error_answer

_LINK_LASTS_S = 3600.0


def show_dashboard(client: AdminClient, *, open_browser: bool, as_json: bool) -> None:
    """Print where the dashboard is, or show it until Ctrl-C; with ``open_browser`` start a browser there."""
    tell = partial(_tell, client.directory, open_browser=open_browser, as_json=as_json)
    if url := client.dashboard_link():
        tell(url)
    else:
        asyncio.run(_show(client, tell))


def _tell(directory: Path, url: str, *, open_browser: bool, as_json: bool) -> None:
    click.echo(json.dumps({"url": url}) if as_json else url)
    if open_browser and not webbrowser.open(_way_to(url, directory).as_uri()):
        click.echo("No browser could be started here; open the address above.", err=True)


def _way_to(url: str, directory: Path) -> Path:
    """A page that leads there, for its owner only: everybody can read what arguments a browser is started with."""
    path = directory / "dashboard.html"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        target = html.escape(url, quote=True)
        file.write(
            f'<!doctype html><meta charset="utf-8"><title>HedgeServe</title>'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">The dashboard</a>\n'
        )
    return path


async def _show(client: AdminClient, tell: "partial[None]") -> None:
    # An HTTP server, which no other verb needs.
    from hedgeserve.web.guard import Guard
    from hedgeserve.web.site import Site

    guard = Guard(secrets.token_urlsafe(32), service=client.directory.name, dice=secrets.token_urlsafe)
    site = Site(guard, partial(_forward, client))
    await site.start("127.0.0.1:0")
    try:
        enough, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, enough.set)
        await asyncio.to_thread(tell, site.link(lasts_s=_LINK_LASTS_S))
        click.echo("The dashboard is there until you press Ctrl-C.", err=True)
        await enough.wait()
    finally:
        await site.aclose()


async def _forward(client: AdminClient, request: Request) -> Answer:
    target = f"{request.path}?{urlencode(request.query)}" if request.query else request.path
    try:
        status, kind, content = await asyncio.to_thread(client.exchange, request.method, target, request.body)
    except HedgeServeError as error:
        return error_answer(503, str(error))
    return Answer(status, kind.partition(";")[0], content)
