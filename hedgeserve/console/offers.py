"""``hedgeserve offers``: what the pools allow, where, and for how much."""

import asyncio
import json
import os
from datetime import UTC, datetime
from typing import Any

import click

from hedgeserve.console.clouds import aligned, drivers_apart
from hedgeserve.drivers.base import Driver
from hedgeserve.drivers.catalogue import remarks_on, types_of
from hedgeserve.drivers.offers import PriceKey, PriceSource, Quote, quotes_of
from hedgeserve.drivers.remote import RemoteDriver
from hedgeserve.errors import CloudError
from hedgeserve.poolspec import REMOTE
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import load_spec
from hedgeserve.statedir import resolve_state_dir

_NUMBERS = frozenset({4, 5})


def show_offers(model: str, *, as_json: bool) -> None:
    """Print every machine, zone and market that the pools name, the cheapest for its work first.

    What is not offered is printed too, with the reason. A cloud that does not tell its prices is named on stderr,
    and the catalogue's are printed for it.
    """
    spec = load_spec(model, surroundings=False)
    quotes, remarks = asyncio.run(look_at_offers(spec))
    for remark in [*remarks, *remarks_on(spec.pools)]:
        click.echo(remark, err=True)
    quotes.sort(key=lambda quote: (quote.offer is None, _usd_per_work(quote), quote.zone, quote.instance_type))
    if as_json:
        click.echo(json.dumps([_document(quote) for quote in quotes]))
        return
    if not quotes:
        click.echo(f"{model} has no pool that launches anything.", err=True)
        return
    rows = [["zone", "type", "GPU", "market", "USD/h", "USD/h per throughput", "price", ""]]
    for line in aligned([*rows, *(_row(quote) for quote in quotes)], _NUMBERS):
        click.echo(line)


async def look_at_offers(spec: Spec) -> tuple[list[Quote], list[str]]:
    """The quotes of all clouds, and a sentence for each that could not be asked."""
    quotes: list[Quote] = []
    remarks: list[str] = []
    state_dir = resolve_state_dir(spec.service.name, spec.service.state_dir, os.environ)
    async with drivers_apart(spec, state_dir, os.environ) as drivers:
        for cloud, driver in drivers.items():
            live: dict[PriceKey, tuple[float, datetime]] = {}
            try:
                if isinstance(driver, CloudError):
                    raise driver
                if Cloud(cloud) not in REMOTE:
                    quotes += _of_local(driver)
                    continue
                live = await _live(driver, spec)
                if not live:
                    remarks.append(f"{cloud} told no live price; what follows of it is from the catalogue")
            except CloudError as error:
                remarks.append(f"{cloud} told no live price; what follows of it is from the catalogue: {error}")
            quotes += quotes_of([pool for pool in spec.pools if pool.cloud == cloud], live)
    if Cloud.STATIC in spec.clouds():
        remarks.append("static: nothing is launched there")
    return quotes, remarks


async def _live(driver: Driver, spec: Spec) -> dict[PriceKey, tuple[float, datetime]]:
    """The prices that a cloud tells now; a region that fails fails all, since most do so for one reason."""
    assert isinstance(driver, RemoteDriver)
    types = tuple(dict.fromkeys(name for pool in driver.pools for name in types_of(pool)))
    live: dict[PriceKey, tuple[float, datetime]] = {}
    for region in driver.regions:
        try:
            async with asyncio.timeout(spec.timeouts.cloud_call):
                told = await driver.prices(region, types)
        except TimeoutError:
            raise CloudError(f"no answer about {region} within {spec.timeouts.cloud_call:g} s") from None
        now = datetime.now(UTC)
        live |= {key: (usd_per_hour, now) for key, usd_per_hour in told.items()}
    return live


def _of_local(driver: Driver) -> list[Quote]:
    from hedgeserve.drivers.local import LocalDriver

    assert isinstance(driver, LocalDriver)
    return [*driver.quotes()]


def _usd_per_work(quote: Quote) -> float:
    return float("inf") if quote.usd_per_hour is None else quote.usd_per_hour / quote.throughput


def _row(quote: Quote) -> list[str]:
    known = quote.usd_per_hour is not None
    return [
        quote.zone,
        quote.instance_type,
        quote.gpu or "-",
        "on-demand" if quote.market == "on_demand" else quote.market,
        f"{quote.usd_per_hour:.4f}" if known else "-",
        f"{_usd_per_work(quote):.4f}" if known else "-",
        _age(quote),
        f"not offered: {quote.why_not}" if quote.why_not else "",
    ]


def _age(quote: Quote) -> str:
    match quote.source:
        case PriceSource.LIVE:
            return "live"
        case PriceSource.CATALOGUE:
            assert quote.read_at is not None
            return f"catalogue of {quote.read_at:%Y-%m-%d}, stale"
        case other:
            return str(other)


def _document(quote: Quote) -> dict[str, Any]:
    return {
        "zone": quote.zone,
        "instance_type": quote.instance_type,
        "gpu": quote.gpu or None,
        "market": str(quote.market),
        "usd_per_hour": quote.usd_per_hour,
        "throughput": quote.throughput,
        "price": str(quote.source),
        "read_at": quote.read_at.isoformat(timespec="seconds") if quote.read_at is not None else None,
        "offered": quote.offer is not None,
        "why_not": quote.why_not or None,
    }
