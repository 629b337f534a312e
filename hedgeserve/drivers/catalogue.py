"""The built-in catalogue: which GPUs an instance type has, where it is to be had, and what it cost on a day.

Compact on purpose: one reference price per type and market, for people to plan by. Live prices come from the
clouds, and an offer whose ``read_at`` is the catalogue's date has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Cloud, PoolSpec

CATALOGUE_DATE = datetime(2026, 8, 3, tzinfo=UTC)
"""When the youngest of the prices was read; see the table's own sources."""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One row: prices in USD per hour on Linux, in the cloud's cheapest large region; None where unknown."""

    cloud: Cloud
    name: str
    gpu: str
    gpus: int
    gpu_gib: int
    vcpus: int
    memory_gib: int
    on_demand_usd_per_hour: float | None
    spot_usd_per_hour: float | None


TYPES: Sequence[InstanceType] = (
    InstanceType(Cloud.AWS, "g6.xlarge", "L4", 1, 24, 4, 16, 0.8048, 0.34),
    InstanceType(Cloud.GCP, "g2-standard-4", "L4", 1, 24, 4, 16, 0.7068, 0.28),
    InstanceType(Cloud.AZURE, "Standard_NC24ads_A100_v4", "A100-80GB", 1, 80, 24, 220, 3.673, 1.3),
)

ZONES: Mapping[Cloud, Mapping[str, str]] = {
    Cloud.AWS: {"us-east-1": "abcdef", "us-west-2": "abcd"},
    Cloud.GCP: {"us-central1": "abcf", "us-east1": "bcd"},
    Cloud.AZURE: {"eastus": "123"},
}
"""Letters (or numbers) of the zones of each region."""


def find_type(cloud: str, name: str) -> InstanceType | None:
    """The row of this instance type; None where the catalogue does not know it."""
    return next((row for row in TYPES if row.cloud == cloud and row.name == name), None)


def types_of(pool: PoolSpec) -> tuple[str, ...]:
    """The instance types of a pool: those that it names, then those with a ``gpu`` that it names, in that order."""
    wanted = [(kind.partition(":")[0].upper(), int(kind.partition(":")[2] or 1)) for kind in pool.gpu]
    fitting = [row.name for want in wanted for row in TYPES if row.cloud is pool.cloud and _has(row, want)]
    return tuple(dict.fromkeys([*pool.instance_types, *fitting]))


def zones_of(pool: PoolSpec) -> tuple[str, ...]:
    """The zones of a pool, as ``region/zone``: those that it names, then all known ones of its regions."""
    known = ZONES.get(pool.cloud, {})
    found = [_zone(pool.cloud, region, mark) for region in pool.regions for mark in known.get(region, "")]
    return tuple(dict.fromkeys([*pool.zones, *found]))


def regions_of(pool: PoolSpec) -> tuple[str, ...]:
    """The regions of a pool's zones."""
    return tuple(dict.fromkeys([zone.partition("/")[0] for zone in zones_of(pool)]))


def throughput_of(pool: PoolSpec, name: str) -> float:
    """What the pool says of a type, or of its kind of GPU; 1 where it says nothing."""
    if name in pool.throughput:
        return pool.throughput[name]
    row = find_type(pool.cloud, name)
    kinds = [
        kind
        for kind in pool.throughput
        if row is not None and _has(row, (kind.partition(":")[0].upper(), int(kind.partition(":")[2] or 1)))
    ]
    return pool.throughput[kinds[0]] if kinds else 1.0


def catalogue_offers(pool: PoolSpec) -> list[Offer]:
    """Every zone, type and market of the pool at its catalogue price; a type of unknown price is left out."""
    offers = []
    for name in types_of(pool):
        row = find_type(pool.cloud, name)
        prices = (
            {}
            if row is None
            else {Market.SPOT: row.spot_usd_per_hour, Market.ON_DEMAND: row.on_demand_usd_per_hour}
        )
        for zone in zones_of(pool):
            for market in pool.markets:
                usd_per_hour = prices.get(market)
                if usd_per_hour is not None:
                    place = ZoneId(f"{pool.cloud}/{zone}")
                    offers.append(
                        Offer(place, name, market, usd_per_hour, CATALOGUE_DATE, throughput_of(pool, name))
                    )
    return offers


def _has(row: InstanceType, want: tuple[str, int]) -> bool:
    return (row.gpu.upper(), row.gpus) == want


def _zone(cloud: Cloud, region: str, mark: str) -> str:
    return {Cloud.AWS: f"{region}/{region}{mark}", Cloud.GCP: f"{region}/{region}-{mark}"}.get(
        cloud, f"{region}/{mark}"
    )
