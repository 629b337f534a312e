"""``hedgeserve orphans``: what bears HedgeServe's tags in the clouds and belongs to no service known here."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hedgeserve.console.clouds import aligned, drivers_apart
from hedgeserve.console.stopped import left_running
from hedgeserve.console.which import answers
from hedgeserve.drivers.base import Driver, Leftover, Machine
from hedgeserve.drivers.catalogue import find_type
from hedgeserve.drivers.clearance import Clearance, key_of, name_of
from hedgeserve.drivers.orphans import Finding, Known, orphans_among
from hedgeserve.drivers.tags import OWNER, SERVICE, tags_for
from hedgeserve.errors import CloudError
from hedgeserve.poolspec import REMOTE
from hedgeserve.replica import Market
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import load_spec
from hedgeserve.statedir import resolve_state_dir
from hedgeserve.store import vms_in


def show_orphans(
    model: str, *, service: str | None, remove: bool, as_json: bool, agreed: Callable[[str], bool]
) -> None:
    """Print what no journal of this machine owns; with ``remove`` ask, and take away what may go.

    With ``service`` only what bears that name is looked at, and it may go even if no journal here knows it.

    Raises:
        CloudError: A cloud could not be asked, or did not let go of something; the others have been seen to.
    """
    spec = load_spec(model, surroundings=False)
    troubles = asyncio.run(_see_to(spec, service, remove, as_json, agreed))
    if troubles:
        raise CloudError("; ".join(troubles))


async def _see_to(
    spec: Spec, claimed: str | None, remove: bool, as_json: bool, agreed: Callable[[str], bool]
) -> list[str]:
    state_dir = resolve_state_dir(spec.service.name, spec.service.state_dir, os.environ)
    found: list[tuple[Driver, list[Finding]]] = []
    stopped: dict[Path, None] = {}
    troubles: list[str] = []
    async with drivers_apart(spec, state_dir, os.environ) as drivers:
        for cloud, driver in drivers.items():
            try:
                if isinstance(driver, CloudError):
                    raise driver
                findings_there, stopped_there = await _look(driver, spec, claimed)
                found.append((driver, findings_there))
                stopped |= dict.fromkeys(stopped_there)
            except CloudError as error:
                troubles.append(f"{cloud} could not be asked: {error}")
        findings = [(driver.cloud, finding) for driver, some in found for finding in some]
        if as_json:
            click.echo(json.dumps([_document(cloud, finding, claimed) for cloud, finding in findings]))
        else:
            _print(findings, spec, claimed)
        if left := await asyncio.to_thread(left_running, stopped):
            click.echo(f"Not counted, though their service does not run: {left}.", err=True)
        if remove:
            going = [(driver, [one for one in some if _may_go(one, claimed)]) for driver, some in found]
            if any(some for _, some in going):
                agreed(_question([one for _, some in going for one in some]))
            for driver, some in going:
                if some:
                    try:
                        await _remove(driver, some, spec)
                    except CloudError as error:
                        troubles.append(str(error))
    return troubles


async def _look(driver: Driver, spec: Spec, claimed: str | None) -> tuple[list[Finding], list[Path]]:
    """What one cloud lists and no journal owns; the state directories of those with VMs there that do not run."""
    # The cloud before the journals: an intent is written down first, so what is listed is in its journal by then.
    limit_s = spec.timeouts.cloud_call
    try:
        async with asyncio.timeout(limit_s):
            machines = list(await driver.everyone())
        async with asyncio.timeout(limit_s):
            leftovers = list(await driver.leftovers())
    except TimeoutError:
        raise CloudError(f"no answer within {limit_s:g} s") from None
    services = {machine.tags.get(SERVICE, "") for machine in machines} | {one.service for one in leftovers}
    known = await asyncio.to_thread(_journals, services - {""}, spec)
    found = orphans_among(machines, leftovers, known, host=tags_for("", 0)[OWNER], now=datetime.now(UTC))
    idle = {machine.tags.get(SERVICE, "") for machine in machines} & {
        service for service, one in known.items() if not one.running
    }
    stopped = [_directory(service, spec) for service in sorted(idle)]
    return [finding for finding in found if claimed in (None, finding.service)], stopped


def _directory(service: str, spec: Spec) -> Path:
    """The state directory of a service, going by where it is kept where none is set."""
    return resolve_state_dir(service, spec.service.state_dir if service == spec.service.name else "", os.environ)


def _journals(services: set[str], spec: Spec) -> dict[str, Known]:
    """What this machine knows of these services, going by the state directory that each has where none is set."""
    known: dict[str, Known] = {}
    for service in sorted(services):
        directory = _directory(service, spec)
        vms = vms_in(directory / "journal.db", service)
        if vms is not None:
            known[service] = Known(vms, running=answers(directory))
    return known


async def _remove(driver: Driver, findings: Sequence[Finding], spec: Spec) -> None:
    vms = [one.thing.id for one in findings if isinstance(one.thing, Machine)]
    things = [key_of(one.thing) for one in findings if isinstance(one.thing, Leftover)]
    clearance = Clearance(driver, "", call_timeout_s=spec.timeouts.cloud_call, only=(vms, things))
    if vms:
        for vm in await clearance.end_vms():
            click.echo(f"terminated {vm}", err=True)
    if things:
        for leftover in await clearance.clear_rest():
            click.echo(f"removed {driver.cloud} {name_of(leftover)}", err=True)


def _print(findings: list[tuple[str, Finding]], spec: Spec, claimed: str | None) -> None:
    asked = ", ".join(sorted(spec.clouds() - {Cloud.STATIC}))
    if not findings:
        click.echo(f"Nothing in {asked or 'any cloud'} is without a service.", err=True)
        return
    rows = [_row(cloud, finding) for cloud, finding in findings]
    for line in aligned([["cloud", "region", "what", "service", "owner", "USD/h", "why"], *rows], frozenset({5})):
        click.echo(line)
    strangers = sorted({one.service for _, one in findings if not _may_go(one, claimed)})
    if strangers:
        click.echo(
            f"A controller elsewhere may need what belongs to {', '.join(strangers)}: --remove takes it away only "
            "with --service NAME.",
            err=True,
        )


def _row(cloud: str, finding: Finding) -> list[str]:
    thing, usd_per_hour = finding.thing, _usd_per_hour(cloud, finding)
    if isinstance(thing, Machine):
        region, what = thing.zone.split("/")[1], f"VM {thing.id} ({thing.name}), {thing.state}"
    else:
        region, what = thing.region, f"{thing.kind} {thing.name or thing.id}"
    price = "-" if usd_per_hour is None else f"{usd_per_hour:.2f}"
    return [cloud, region, what, finding.service or "-", finding.owner or "-", price, finding.why]


def _document(cloud: str, finding: Finding, claimed: str | None) -> dict[str, Any]:
    thing = finding.thing
    is_vm = isinstance(thing, Machine)
    return {
        "cloud": cloud,
        "region": thing.zone.split("/")[1] if isinstance(thing, Machine) else thing.region,
        "kind": "vm" if isinstance(thing, Machine) else thing.kind,
        "id": thing.id,
        "name": thing.name,
        "service": finding.service,
        "owner": finding.owner or None,
        "usd_per_hour": _usd_per_hour(cloud, finding) if is_vm else None,
        "removable": _may_go(finding, claimed),
        "why": finding.why,
    }


def _may_go(finding: Finding, claimed: str | None) -> bool:
    return finding.ours or (claimed is not None and finding.service == claimed)


def _question(going: Sequence[Finding]) -> str:
    vms = [one for one in going if isinstance(one.thing, Machine)]
    others = len(going) - len(vms)
    usd_per_hour = sum(_usd_per_hour(_cloud_of(one), one) or 0.0 for one in vms)
    spent = f", about {usd_per_hour:.2f} USD/h in all," if usd_per_hour else ""
    return (
        f"Terminate {len(vms)} VM{'s' * (len(vms) != 1)}{spent} and remove {others} other "
        f"thing{'s' * (others != 1)}?"
    )


def _cloud_of(finding: Finding) -> str:
    thing = finding.thing
    return thing.zone.split("/")[0] if isinstance(thing, Machine) else thing.cloud


def _usd_per_hour(cloud: str, finding: Finding) -> float | None:
    """What a VM costs by the catalogue."""
    thing = finding.thing
    if not isinstance(thing, Machine) or Cloud(cloud) not in REMOTE:
        return None
    row = find_type(cloud, thing.instance_type)
    if row is None:
        return None
    return row.spot_usd_per_hour if thing.market is Market.SPOT else row.on_demand_usd_per_hour
