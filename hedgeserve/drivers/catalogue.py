"""The built-in catalogue: which GPUs an instance type has, where it is to be had, and what it cost on a day.

Compact on purpose: one reference price per type and market, for people to plan by. Live prices come from the
clouds; :mod:`hedgeserve.drivers.offers` puts the two together. The figures are in
:mod:`hedgeserve.drivers.catalogue_table`.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from hedgeserve.drivers.catalogue_table import TYPES, ZONES, InstanceType
from hedgeserve.poolspec import REMOTE
from hedgeserve.spec import Cloud, PoolSpec
from hedgeserve.spectable import Conflict

_BY_NAME = {(row.cloud, row.name): row for row in TYPES}
_NEAR_ENOUGH = 0.6
_MOST_SHOWN = 6


def find_type(cloud: str, name: str) -> InstanceType | None:
    """The row of this instance type; None where the catalogue does not know it."""
    return _BY_NAME.get((Cloud(cloud), name))


def types_of(pool: PoolSpec) -> tuple[str, ...]:
    """The instance types of a pool: those that it names, then those with a ``gpu`` that it names, in order."""
    fitting = [row.name for kind in pool.gpu for row in TYPES if row.cloud is pool.cloud and _is_kind(row, kind)]
    return tuple(dict.fromkeys([*pool.instance_types, *fitting]))


def zones_of(pool: PoolSpec) -> tuple[str, ...]:
    """The zones of a pool, as ``region/zone``: those that it names, then all known ones of its regions."""
    known = ZONES.get(pool.cloud, {})
    found = [_zone(pool.cloud, region, mark) for region in pool.regions for mark in known.get(region, ())]
    return tuple(dict.fromkeys([*pool.zones, *found]))


def regions_of(pool: PoolSpec) -> tuple[str, ...]:
    """The regions of a pool's zones."""
    return tuple(dict.fromkeys([zone.partition("/")[0] for zone in zones_of(pool)]))


def throughput_of(pool: PoolSpec, name: str) -> float:
    """What the pool says of a type, or of its kind of GPU; 1 where it says nothing."""
    if name in pool.throughput:
        return pool.throughput[name]
    row = find_type(pool.cloud, name)
    return next(
        (factor for kind, factor in pool.throughput.items() if row is not None and _is_kind(row, kind)), 1.0
    )


def kinds_of(cloud: Cloud) -> tuple[str, ...]:
    """The kinds of GPU that a cloud's machines have, in the form of ``pools.gpu``: ``L4:1``."""
    return tuple(dict.fromkeys(f"{row.gpu}:{row.gpus}" for row in TYPES if row.cloud is cloud))


def unknown_words(pool: PoolSpec) -> Iterator[Conflict]:
    """What a pool names and the catalogue does not know, where nothing could be launched by that name.

    An unknown instance type is none of them: its cloud may well know it.
    """
    if pool.cloud not in REMOTE:
        return
    kinds, regions = kinds_of(pool.cloud), tuple(ZONES[pool.cloud])
    for index, kind in enumerate(pool.gpu):
        if not any(_is_kind(row, kind) for row in TYPES if row.cloud is pool.cloud):
            yield Conflict(
                ("gpu", index),
                f'no machine of {pool.cloud} with the GPU "{kind}" is in the catalogue',
                f"{_near_kinds(kind, kinds)}, or name machines in `instance_types`",
            )
    for index, region in enumerate(pool.regions):
        if region not in regions:
            near = get_close_matches(region, regions, 1, _NEAR_ENOUGH)
            meant = f'did you mean "{near[0]}"? ' if near else ""
            yield Conflict(
                ("regions", index),
                f'the catalogue knows no zones of the region "{region}" of {pool.cloud}',
                f"{meant}Or name its zones in `zones`" if near else "name its zones in `zones`",
            )


def remarks_on(pools: Iterable[PoolSpec]) -> list[str]:
    """A sentence for each instance type that the catalogue does not know, with what may have been meant."""
    remarks: dict[str, None] = {}
    for pool in pools:
        for name in pool.instance_types if pool.cloud in REMOTE else ():
            if find_type(pool.cloud, name) is None:
                near = near_types(pool.cloud, name)
                meant = f"; did you mean {near[0]}?" if near else ""
                remarks[f"{pool.cloud}: the catalogue does not know {name}, only the cloud may{meant}"] = None
    return list(remarks)


def near_types(cloud: Cloud, name: str) -> tuple[str, ...]:
    """Types of this cloud whose names are much like this one, the likest first."""
    return tuple(get_close_matches(name, [row.name for row in TYPES if row.cloud is cloud], 3, _NEAR_ENOUGH))


def _near_kinds(kind: str, kinds: tuple[str, ...]) -> str:
    gpu, _, number = kind.upper().partition(":")
    same = [known for known in kinds if known.partition(":")[0].startswith(gpu)]
    near = same or get_close_matches(f"{gpu}:{number or 1}", kinds, 3, _NEAR_ENOUGH)
    if not near:
        near = [known for known in kinds if known.endswith(f":{number or 1}")]
    return f"there are {', '.join(near[:_MOST_SHOWN])}" if near else f"there are {', '.join(kinds[:_MOST_SHOWN])}"


def _is_kind(row: InstanceType, kind: str) -> bool:
    gpu, _, number = kind.partition(":")
    return (row.gpu, row.gpus) == (gpu.upper(), int(number or 1))


def _zone(cloud: Cloud, region: str, mark: str) -> str:
    match cloud:
        case Cloud.AWS:
            return f"{region}/{region}{mark}"
        case Cloud.GCP:
            return f"{region}/{region}-{mark}"
        case _:
            return f"{region}/{mark}"
