"""``hedgeserve check``: what is wrong with a model file, or in a line what it says."""

import asyncio
import json
from datetime import UTC, datetime

import click

from hedgeserve.budgets import no_room
from hedgeserve.console.offers import look_at_offers
from hedgeserve.core import Service
from hedgeserve.drivers.catalogue import remarks_on, zones_of
from hedgeserve.errors import SpecError
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import load_spec


def check_model(model: str, *, as_json: bool) -> bool:
    """Say whether the file could be served; false where it could not and JSON has said so.

    Raises:
        SpecError: It could not, and the mistakes are to be told as messages.
    """
    try:
        spec = load_spec(model)
        Service(spec)  # starts nothing, and refuses what could not be started
    except SpecError as error:
        if not as_json:
            raise
        print_problems(error, model)
        return False
    for remark in [*remarks_on(spec.pools), *_no_room(spec)]:
        click.echo(f"{model}: {remark}", err=True)
    if as_json:
        click.echo(json.dumps({"ok": True, "file": model, "problems": []}))
    else:
        click.echo(f"{model} is good: {_in_words(spec)}")
    return True


def print_problems(error: SpecError, model: str) -> None:
    """Write the mistakes of a model file as one JSON object."""
    problems = [
        {"line": problem.line, "key": problem.key, "message": problem.message, "hint": problem.hint}
        for problem in error.problems
    ]
    click.echo(json.dumps({"ok": False, "file": model, "problems": problems}))


def _no_room(spec: Spec) -> list[str]:
    """That the caps leave no room for any VM, where the file itself tells all prices; no cloud is asked."""
    if not spec.budget.any or spec.clouds() - {Cloud.LOCAL, Cloud.STATIC} or Cloud.LOCAL not in spec.clouds():
        return []
    quotes, _ = asyncio.run(look_at_offers(spec))
    told = no_room(spec, [quote.offer for quote in quotes if quote.offer is not None], datetime.now(UTC))
    return [f"nothing can be launched now: {told}"] if told else []


def _in_words(spec: Spec) -> str:
    low, high = spec.replicas.lowest, spec.replicas.highest
    replicas = f"{low} to {high} replicas" if low != high else f"{low} replica{'s' * (low != 1)}"
    clouds = ", ".join(sorted(spec.clouds()))
    zones = len({(pool.cloud, zone) for pool in spec.pools for zone in zones_of(pool)})
    servers = sum(len(pool.urls) for pool in spec.pools)
    places = [f"{zones} zone{'s' * (zones != 1)}"] * bool(zones)
    places += [f"{servers} server{'s' * (servers != 1)} of others"] * bool(servers)
    return (
        f"{spec.service.name} serves {spec.model.id} ({spec.model.engine}) on {spec.service.listen}, "
        f"{replicas} on {' and '.join(places)} ({clouds})"
    )
