"""``hedgeserve down``: ends a service and all of its VMs, whether or not its controller still runs."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hedgeserve.console.admin import AdminClient
from hedgeserve.errors import HedgeServeError, NotRunningError, StateDirectoryError, StateLockedError

if TYPE_CHECKING:
    from hedgeserve.statedir import StateDirectory
    from hedgeserve.tables.events import Event
    from hedgeserve.tables.replicas import StoredReplica

_LOOK_EVERY_S = 0.3
_LET_GO_S = 15.0
_EVENTS_OF_A_TAKE_DOWN = 10_000


class _Telling:
    """What is printed: a line at a time, or with ``as_json`` one object at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._vms: list[dict[str, Any]] = []
        self._proof: list[str] = []

    def vm(self, replica: str, zone: str, market: str, state: str, usd_per_hour: float) -> None:
        """One that goes."""
        self._vms.append(
            {"id": replica, "zone": zone, "market": market, "state": state, "usd_per_hour": usd_per_hour}
        )
        if not self._as_json:
            click.echo(f"{replica}  {zone}  {market.replace('_', '-')}  {state}  {usd_per_hour:.2f} USD/h")

    def proof(self, sentence: str) -> None:
        """What a cloud lists in one place, afterwards."""
        self._proof.append(sentence)
        if not self._as_json:
            click.echo(sentence)

    def end(self, service: str, *, done: bool) -> None:
        """Nothing follows; ``done``: nothing is left."""
        if self._as_json:
            usd_per_hour = round(sum(vm["usd_per_hour"] for vm in self._vms), 4)
            told = {"service": service, "vms": self._vms, "usd_per_hour": usd_per_hour, "proof": self._proof}
            click.echo(json.dumps(told | {"done": done}))


def show_what_goes(client: AdminClient, model: str | None, *, as_json: bool) -> None:
    """Say what a take-down would end, and change nothing.

    Raises:
        NotRunningError: No controller runs, and without a model file nobody knows which service is meant.
    """
    telling = _Telling(as_json=as_json)
    try:
        status = client.status()
    except NotRunningError:
        if model is None:
            raise
        service, left = asyncio.run(_left_by_an_earlier_run(client, model))
        for replica in left:
            offer = replica.offer
            telling.vm(replica.id, offer.zone, offer.market, replica.state, offer.usd_per_hour)
        telling.end(service, done=False)
        usd_per_hour = sum(replica.offer.usd_per_hour for replica in left)
        click.echo(
            f"{service} does not run. Its journal holds {_vms(len(left))}, {usd_per_hour:.2f} USD/h in all; "
            "`down` would terminate them, any other that its clouds list under its name, and take away what "
            "they used. Nothing was changed.",
            err=True,
        )
        return
    mine = [one for one in status["replicas"] if one["market"] != "external"]
    for one in mine:
        telling.vm(one["id"], one["zone"], one["market"], one["state"], one["usd_per_hour"])
    telling.end(status["service"], done=False)
    rest = status["standing"]["rest"]
    click.echo(
        f"{status['service']} runs{f', {rest}' if rest != 'awake' else ''}. `down` would stop it, terminate "
        f"{_vms(len(mine))}, {status['usd_per_hour']:.2f} USD/h in all, and take away what they used. "
        "Nothing was changed.",
        err=True,
    )


async def _left_by_an_earlier_run(client: AdminClient, model: str) -> "tuple[str, list[StoredReplica]]":
    from hedgeserve.specfile import load_spec

    name = load_spec(model, surroundings=False).service.name
    if not (client.directory / "journal.db").exists():
        return name, []
    left, _ = await _journalled(client, name)
    return name, left


def take_down(client: AdminClient, model: str | None, *, agreed: Callable[[str], bool], as_json: bool) -> None:
    """Show what will end and what it costs now, ask, and see it through.

    Raises:
        NotRunningError: No controller runs, and without a model file nobody knows the clouds to ask.
    """
    telling = _Telling(as_json=as_json)
    try:
        status = client.status()
    except NotRunningError:
        if model is None:
            raise
        _reap(client, model, agreed, telling)
        return
    mine = [one for one in status["replicas"] if one["market"] != "external"]
    for one in mine:
        telling.vm(one["id"], one["zone"], one["market"], one["state"], one["usd_per_hour"])
    usd_per_hour = status["usd_per_hour"]
    agreed(f"Stop {status['service']} and terminate {_vms(len(mine))}, {usd_per_hour:.2f} USD/h in all?")
    before = [event["id"] for event in client.events(limit=1)]
    file = model or str(client.spec()["file"])
    client.down()
    click.echo("Running requests finish, then the VMs go, and then what they used.", err=True)
    started_s, told = time.monotonic(), ""
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            left = [one for one in client.status()["replicas"] if one["market"] != "external"]
        except NotRunningError:
            break
        now = f"{_vms(len(left))} left after {time.monotonic() - started_s:.0f} s"
        if sys.stderr.isatty() and now != told:
            click.echo(f"\r{now} ", nl=False, err=True)
            told = now
    if told:
        click.echo(err=True)
    stayed, heard = asyncio.run(_journalled(client, status["service"], after=max(before, default=0)))
    if stayed:
        _ask_the_clouds(client, file, status["service"], stayed, telling)
    else:
        for event in heard:
            if event.kind == "cleared":
                telling.proof(event.message)
    troubles = [] if stayed else [event.message for event in heard if _tells_of_more(event)]
    telling.end(status["service"], done=not troubles)
    if troubles:
        raise HedgeServeError(f"{'; '.join(troubles)}; run `hedgeserve down MODEL.toml`")
    click.echo(f"Done: {status['service']} has stopped; {usd_per_hour:.2f} USD/h are no longer spent.", err=True)


def _ask_the_clouds(
    client: AdminClient, file: str, service: str, stayed: "Sequence[StoredReplica]", telling: _Telling
) -> None:
    """See the end through that the service came to: on a full disk its journal is late, its clouds are not.

    Raises:
        HedgeServeError: VMs are left, or nobody knows; or none is, and the journal could not be told.
    """
    click.echo(
        f"{service} has stopped, and its journal still holds {_vms(len(stayed))}: its clouds are asked.", err=True
    )
    try:
        _reap_by_file(client, file, service, telling)
    except StateDirectoryError:
        telling.end(service, done=False)
        raise
    except HedgeServeError as error:
        telling.end(service, done=False)
        names = ", ".join(replica.id for replica in stayed)
        raise HedgeServeError(
            f"{_vms(len(stayed))} may still run, {names}: {error} (`hedgeserve down {file}`)"
        ) from None


def _tells_of_more(event: "Event") -> bool:
    """Whether an event of the take-down says that something is left."""
    if event.kind == "cleared" and event.data is not None:
        return bool(event.data.get("vms") or event.data.get("others"))
    return event.kind == "trouble" and event.replica is None


def _reap(client: AdminClient, model: str, agreed: Callable[[str], bool], telling: _Telling) -> None:
    from hedgeserve.specfile import load_spec

    if not (client.directory / "journal.db").exists():
        raise HedgeServeError(
            f"no service runs with the state directory {client.directory}, nor has one ever run there; "
            f"`hedgeserve orphans {model}` shows what its clouds list nevertheless"
        )
    service = load_spec(model, surroundings=False).service.name
    left, _ = asyncio.run(_journalled(client, service))
    for replica in left:
        offer = replica.offer
        telling.vm(replica.id, offer.zone, offer.market, replica.state, offer.usd_per_hour)
    usd_per_hour = sum(replica.offer.usd_per_hour for replica in left)
    agreed(
        f"No controller runs. Terminate {_vms(len(left))} that an earlier run left, {usd_per_hour:.2f} USD/h in "
        "all, any other that its clouds list, and what they used?"
    )
    ended = _reap_by_file(client, model, service, telling)
    telling.end(service, done=True)
    click.echo(f"Done: {_vms(len(ended))} terminated.", err=True)


def _reap_by_file(client: AdminClient, model: str, service: str, telling: _Telling) -> list[str]:
    """End all that this service has in the clouds that its file names; the ids of the VMs that were terminated."""
    from hedgeserve.console.log import configure_logging
    from hedgeserve.specfile import load_spec
    from hedgeserve.takedown import reap

    configure_logging(sys.stderr, as_json=False, level="warning")  # stdout is for data
    environ = {**os.environ, "HEDGESERVE_SERVICE_STATE_DIR": str(client.directory)}
    spec = load_spec(model, environ, surroundings=False)
    if spec.service.name != service:
        raise HedgeServeError(f"{model} is of {spec.service.name} by now, and not of {service}")
    return asyncio.run(reap(spec, environ=environ, tell=telling.proof))


async def _journalled(
    client: AdminClient, service: str, *, after: int = 0
) -> "tuple[list[StoredReplica], Sequence[Event]]":
    """The replicas with a VM that the journal of a stopped service still counts as alive; its last events."""
    from hedgeserve.store import Store

    directory = await _hold(client.directory, service)
    try:
        store = await Store.open(directory.journal)
        try:
            alive = [one for one in await store.alive_replicas(service) if one.offer.market != "external"]
            return alive, await store.events(after=after, limit=_EVENTS_OF_A_TAKE_DOWN)
        finally:
            await store.close()
    finally:
        directory.close()


async def _hold(path: Path, service: str) -> "StateDirectory":
    """The state directory, held, so that no controller starts meanwhile; waits for one that is just ending."""
    from hedgeserve.statedir import StateDirectory

    deadline_s = time.monotonic() + _LET_GO_S
    while True:
        try:
            return await asyncio.to_thread(StateDirectory.open, path, service=service)
        except StateLockedError:
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(_LOOK_EVERY_S)


def _vms(count: int) -> str:
    return f"{count} VM{'s' * (count != 1)}"
