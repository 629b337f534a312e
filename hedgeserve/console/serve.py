"""``hedgeserve serve``: runs a service in this process, tells the terminal about it, and stops on Ctrl-C."""

import asyncio
import faulthandler
import gc
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click
import structlog

from hedgeserve.console.log import Steady, configure_logging
from hedgeserve.console.openfiles import raise_open_files_limit
from hedgeserve.console.supervised import Supervision
from hedgeserve.core import Service
from hedgeserve.redaction import learn, learn_environment
from hedgeserve.spec import Spec
from hedgeserve.systemd.notify import Notifier, take_notifier
from hedgeserve.systemd.sockets import take_sockets
from hedgeserve.units import format_duration

if TYPE_CHECKING:
    from hedgeserve.console.live import Screen


def serve_spec(
    spec: Spec,
    api_keys: frozenset[str],
    environ: Mapping[str, str],
    *,
    transcript: Path | None,
    log_format: str,
    log_level: str | None,
) -> bool:
    """Serve until a signal or ``hedgeserve down``: with a live status on a terminal, else with log lines.

    What a service manager has handed over is taken out of the process's environment. Returns whether somebody
    holds our sockets who should let go of them, since the service was taken down: the next client would start it
    again.
    """
    notifier, inherited = take_notifier(os.environ), take_sockets(os.environ)
    service = partial(
        Service,
        spec,
        api_keys=api_keys,
        environ=environ,
        transcript=transcript,
        sockets=inherited.endpoint,
        admin_sockets=inherited.admin,
    )
    learn_environment(environ, also=spec.model.secret_env)
    learn(*api_keys)
    raise_open_files_limit()
    if notifier:
        faulthandler.enable()  # a watchdog that ends us should leave in the journal where the loop hung
    live = (
        log_format == "auto" and sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    )
    level = log_level or ("error" if live else "info")
    if live:
        from hedgeserve.console.live import Screen  # who draws nothing need not have what draws

        screen = Screen()
        configure_logging(cast(TextIO, screen), as_json=False, level=level)
        taken_down = _run(_serve(service, spec, bool(api_keys), _talk, screen, notifier))
    else:
        # Off a terminal lines are for programs; somebody who keeps one of the two streams on it reads them.
        as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
        configure_logging(sys.stderr, as_json=as_json, level=level)
        # Whoever reads JSON from stderr should not meet another line there.
        say = structlog.get_logger("hedgeserve.cli").info if as_json else _talk
        taken_down = _run(_serve(service, spec, bool(api_keys), say, None, notifier))
    return taken_down and bool(inherited.endpoint)


def _run(main: Coroutine[Any, Any, bool]) -> bool:
    """Run it on uvloop, where a streamed token costs half as much, or on asyncio's own loop if that is missing."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def _settle() -> None:
    """What is there by now stays: the garbage collector need not look through it all again and again, a tenth of a
    second each time, with every stream waiting for it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(150_000, 20, 20)


def _talk(message: str) -> None:
    click.echo(message, file=cast(TextIO, Steady(sys.stderr)))


async def _serve(
    make: Callable[[], Service],
    spec: Spec,
    keys: bool,
    say: Callable[[str], None],
    screen: "Screen | None",
    notifier: Notifier,
) -> bool:
    """Returns whether the service was taken down, with all of its VMs."""
    service = make()
    stopper = _Stopper(service, spec.timeouts.drain, say)
    async with AsyncExitStack() as stack:
        stack.enter_context(stopper)
        manager = await stack.enter_async_context(Supervision(notifier, service))
        picture = None
        if screen is not None:
            # Entered before the service, so that the picture goes on while the service drains.
            picture = await stack.enter_async_context(screen.picture_of(service))
        async with service:
            _settle()
            welcome = _welcome(service.url, spec, given=keys, issued=service.asks_for_keys) + _way_to_dashboard(
                service
            )
            click.echo(welcome, file=cast(TextIO, Steady(sys.stdout)))
            stopper.started = True
            stopper.reloading = manager.reloading
            if picture is not None:
                picture.begin()
            manager.serving()
            await service.run_until_stopped()
            manager.stopping()
    say(f"{service.farewell or 'HedgeServe has stopped'}.")
    return service.taken_down


def _welcome(url: str, spec: Spec, *, given: bool, issued: bool) -> str:
    """The endpoint, and a line that can be pasted; the key itself is never shown."""
    body = {
        "model": spec.model.id,
        "stream": True,
        "messages": [{"role": "user", "content": "What is a spot VM?"}],
    }
    curl = f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'"
    hint = ""
    if given or issued:
        curl += ' -H "Authorization: Bearer $KEY"'
        where = f"of the keys in {spec.service.api_keys_file or '$' + spec.service.api_keys_env}"
        hint = f"\n(KEY is one {where if given else 'that `hedgeserve keys add` has shown'})"
    curl += f" -d {shlex.quote(json.dumps(body))}"
    return f"HedgeServe serves {spec.model.id} at {url}/v1\nTry it:\n  {curl}{hint}\n"


def _way_to_dashboard(service: Service) -> str:
    """Where it is; with a way in only for a person who reads it now, for logs may be read by others, and later."""
    if not service.dashboard_url:
        return ""
    if sys.stdout.isatty():
        link = service.dashboard_link()
        return f"The dashboard (this link signs one browser in; `hedgeserve ui` gives more):\n  {link}\n"
    return f"The dashboard is at {service.dashboard_url}; `hedgeserve ui` prints a link that signs a browser in.\n"


def _has_terminal() -> bool:
    """Whether stdin is a terminal that is still there."""
    try:
        return sys.stdin is not None and os.isatty(sys.stdin.fileno())
    except (OSError, ValueError):
        return False


class _Stopper:
    """Ctrl-C and the signals of service managers, as requests to stop; the old handlers come back at the end."""

    def __init__(self, service: Service, drain_s: float, say: Callable[[str], None]) -> None:
        self._service = service
        self._say = say
        self._drain_s = drain_s
        self._asked = False
        self._reload: asyncio.Task[None] | None = None
        self.started = False
        self.reloading: Callable[[], AbstractContextManager[None]] = nullcontext

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        loop.add_signal_handler(signal.SIGINT, self._ask, True)
        loop.add_signal_handler(signal.SIGTERM, self._ask, False)
        self._had_terminal = _has_terminal()
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def __exit__(self, *exc_info: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def _hang_up(self) -> None:
        """A terminal that was closed is a wish to stop; else SIGHUP is the wish to read model.toml again."""
        if self._had_terminal and not _has_terminal():
            self._ask(False)
        elif self.started and not self._asked:
            self._reload = asyncio.create_task(self._reload_after(self._reload), name="reload")

    async def _reload_after(self, before: "asyncio.Task[None] | None") -> None:
        """One after the other: each signal is a wish of its own."""
        if before is not None:
            await asyncio.wait([before])
        try:
            with self.reloading():
                applied = await self._service.reload()
            file = self._service.updates.file.name
            self._say(f"{file} is applied." if applied else f"{file} was not applied; the log says why.")
        except Exception:  # the service goes on, and the next wish may be granted
            structlog.get_logger("hedgeserve.cli").exception(
                "reloading model.toml failed through a mistake of ours"
            )

    def _ask(self, may_hurry: bool) -> None:
        if not self._asked:
            self._asked = True
            self._service.request_stop()
            patience = format_duration(self._drain_s)
            self._say(
                f"Stopping: running requests may finish (at most {patience}). Press Ctrl-C again to stop at once."
            )
            if self.started:
                self._say_what_stays()
        elif may_hurry:
            self._service.request_stop(now=True)
            self._say("Stopping at once.")
            if not self.started and self._task is not None:
                self._task.cancel()

    def _say_what_stays(self) -> None:
        vms, usd_per_hour = self._service.keeps()
        if vms:
            self._say(
                f"{vms} VM{'s' * (vms != 1)} will keep running and cost {usd_per_hour:.2f} USD/h, as "
                "service.on_exit says; `hedgeserve down` would end them."
            )
