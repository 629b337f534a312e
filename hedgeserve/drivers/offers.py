"""What the pools of a cloud allow and what each of it costs: live prices over the catalogue's. Pure.

A price is, in this order: what the cloud told lately; the catalogue's; of a spot VM whose price nobody tells, the
catalogue's on-demand price, which spot does not exceed; the pool's ``max_usd_per_hour``, since who names a machine
and a limit says what he would pay for it. A machine of which none is known is not offered, and its quote says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from hedgeserve.drivers.catalogue import find_type, throughput_of, types_of, zones_of
from hedgeserve.drivers.catalogue_table import READ_ON, InstanceType
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import PoolSpec

PriceKey = tuple[str, str, Market]
"""Zone as ``region/zone``, instance type, market."""
LivePrices = Mapping[PriceKey, tuple[float, datetime]]
"""USD per hour, and when the cloud told it."""

ASSUMED_AT = datetime.fromtimestamp(0, UTC)
"""Stands for the time at which an assumed price was read: never."""


class PriceSource(StrEnum):
    """Where a price comes from; closed."""

    LIVE = "live"
    CATALOGUE = "catalogue"  # stale: it was so on the catalogue's date
    ASSUMED = "assumed"  # the on-demand price for spot, or the pool's limit
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Quote:
    """A machine that a pool names, in one of its zones and markets, and what it costs as far as is known."""

    zone: ZoneId
    instance_type: str
    gpu: str
    market: Market
    throughput: float
    source: PriceSource
    usd_per_hour: float | None
    read_at: datetime | None
    limit_usd_per_hour: float | None

    @property
    def capped(self) -> bool:
        """Whether it costs more than its pool allows."""
        return (
            self.usd_per_hour is not None
            and self.limit_usd_per_hour is not None
            and self.usd_per_hour > self.limit_usd_per_hour
        )

    @property
    def offer(self) -> Offer | None:
        """The offer that may be launched; None where its price is unknown or too high."""
        if self.usd_per_hour is None or self.capped:
            return None
        read_at = self.read_at or ASSUMED_AT
        return Offer(self.zone, self.instance_type, self.market, self.usd_per_hour, read_at, self.throughput)

    @property
    def why_not(self) -> str:
        """Why it is not offered, as a sentence; empty where it is."""
        if self.capped:
            return f"it costs more than the pool's max_usd_per_hour of {self.limit_usd_per_hour:.2f} USD/h"
        if self.usd_per_hour is None:
            return "its price is not known; max_usd_per_hour in its pool would be taken for it"
        return ""


def quotes_of(pools: Iterable[PoolSpec], live: LivePrices) -> tuple[Quote, ...]:
    """Every machine, zone and market of these pools; of one that several pools name, the first that offers it."""
    found: dict[tuple[ZoneId, str, Market], Quote] = {}
    for pool in pools:
        zones = zones_of(pool)
        for name in types_of(pool):
            row, throughput = find_type(pool.cloud, name), throughput_of(pool, name)
            gpu = f"{row.gpu}:{row.gpus}" if row is not None else ""
            for zone in zones:
                for market in pool.markets:
                    place = ZoneId(f"{pool.cloud}/{zone}")
                    source, usd_per_hour, read_at = _price(pool, row, market, live.get((zone, name, market)))
                    quote = Quote(
                        place, name, gpu, market, throughput, source, usd_per_hour, read_at, pool.max_usd_per_hour
                    )
                    known = found.get((place, name, market))
                    if known is None or (known.offer is None and quote.offer is not None):
                        found[place, name, market] = quote
    return tuple(found.values())


def offers_of(pools: Iterable[PoolSpec], live: LivePrices) -> tuple[Offer, ...]:
    """What may be launched: the quotes with a price that their pool allows."""
    return tuple(offer for quote in quotes_of(pools, live) if (offer := quote.offer) is not None)


def withheld_of(quotes: Iterable[Quote]) -> dict[ZoneId, list[str]]:
    """What is not offered, by zone, each in a sentence with its reason."""
    withheld: dict[ZoneId, list[str]] = {}
    for quote in quotes:
        if quote.why_not:
            market = "on-demand" if quote.market is Market.ON_DEMAND else str(quote.market)
            price = "" if quote.usd_per_hour is None else f" for {quote.usd_per_hour:.2f} USD/h"
            told = f"{market}: {quote.instance_type}{price} is not offered: {quote.why_not}"
            withheld.setdefault(quote.zone, []).append(told)
    return withheld


def catalogue_offers(pool: PoolSpec) -> Sequence[Offer]:
    """What may be launched from a pool while no cloud has told a price."""
    return offers_of([pool], {})


def without_price(quotes: Iterable[Quote]) -> dict[str, tuple[Market, ...]]:
    """The instance types that no zone offers in some market since nobody tells a price, with those markets."""
    priced: dict[tuple[str, Market], bool] = {}
    for quote in quotes:
        key = (quote.instance_type, quote.market)
        priced[key] = priced.get(key, False) or quote.usd_per_hour is not None
    missing: dict[str, tuple[Market, ...]] = {}
    for (name, market), known in priced.items():
        if not known:
            missing[name] = (*missing.get(name, ()), market)
    return missing


def _price(
    pool: PoolSpec, row: InstanceType | None, market: Market, live: tuple[float, datetime] | None
) -> tuple[PriceSource, float | None, datetime | None]:
    if live is not None:
        return PriceSource.LIVE, *live
    on_demand = row.on_demand_usd_per_hour if row is not None else None
    spot = row.spot_usd_per_hour if row is not None else None
    known = spot if market is Market.SPOT else on_demand
    if known is not None:
        return PriceSource.CATALOGUE, known, READ_ON[pool.cloud, market]
    bounds = [bound for bound in (on_demand, pool.max_usd_per_hour) if bound is not None]
    if bounds:
        return PriceSource.ASSUMED, min(bounds), None
    return PriceSource.UNKNOWN, None, None
