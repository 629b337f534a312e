"""What can be said of a cloud before money is spent there: findings, and the common half of how they are come by.

A cloud's own half looks at permissions, quotas, images and what is offered where; it changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from hedgeserve.drivers.catalogue import find_type, types_of, zones_of
from hedgeserve.errors import CloudError
from hedgeserve.replica import Market

if TYPE_CHECKING:
    from hedgeserve.drivers.remote import RemoteDriver

T = TypeVar("T")

_STEP_S = 30.0


class Verdict(StrEnum):
    """How bad it is. ``UNKNOWN``: it could not be looked at, which says nothing."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: which, how it is, and in a sentence what was seen and what to do."""

    subject: str
    verdict: Verdict
    message: str


class Examination:
    """Gathers findings; no step of it may take longer than half a minute or end the others."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def ok(self, subject: str, message: str) -> None:
        """All is well with it."""
        self.findings.append(Finding(subject, Verdict.OK, message))

    def unknown(self, subject: str, message: str) -> None:
        """It could not be looked at."""
        self.findings.append(Finding(subject, Verdict.UNKNOWN, message))

    def warn(self, subject: str, message: str) -> None:
        """It will do, but a person should know."""
        self.findings.append(Finding(subject, Verdict.WARNING, message))

    def fail(self, subject: str, message: str) -> None:
        """Nothing can be served, or launched there, before it is mended."""
        self.findings.append(Finding(subject, Verdict.FAILURE, message))

    async def step(
        self, subject: str, work: Awaitable[T], *, else_: Callable[[str, str], None] | None = None
    ) -> T | None:
        """The result of one question; None where it failed, which ``else_`` is told (else it is a failure)."""
        try:
            async with asyncio.timeout(_STEP_S):
                return await work
        except TimeoutError:
            (else_ or self.fail)(subject, f"no answer within {_STEP_S:.0f} s; is a firewall or a proxy between?")
        except CloudError as error:
            (else_ or self.fail)(subject, str(error))
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the pools may launch of one type in one region: in these zones and markets."""

    region: str
    instance_type: str
    zones: tuple[str, ...]
    markets: tuple[Market, ...]

    @property
    def vcpus(self) -> int | None:
        """By the catalogue; None where it does not know the type."""
        return self._row.vcpus if self._row else None

    @property
    def gpu(self) -> str:
        """The kind of its GPUs by the catalogue, empty where it does not know the type."""
        return self._row.gpu if self._row else ""

    @property
    def gpus(self) -> int:
        """How many it has, 0 where the catalogue does not know the type."""
        return self._row.gpus if self._row else 0

    @property
    def _row(self) -> Any:
        rows = (find_type(cloud, self.instance_type) for cloud in ("aws", "gcp", "azure"))
        return next((row for row in rows if row is not None), None)


def wanted_in(driver: "RemoteDriver[Any]", region: str) -> list[Wanted]:
    """What the driver's pools may launch in a region; zones without the region before them."""
    found: dict[str, tuple[dict[str, None], dict[Market, None]]] = {}
    for pool in driver.pools:
        zones = [zone.partition("/")[2] for zone in zones_of(pool) if zone.partition("/")[0] == region]
        for name in types_of(pool) if zones else ():
            known = found.setdefault(name, ({}, {}))
            known[0].update(dict.fromkeys(zones))
            known[1].update(dict.fromkeys(Market(market) for market in pool.markets))
    return [Wanted(region, name, tuple(zones), tuple(markets)) for name, (zones, markets) in found.items()]


def judge_quota(
    examination: Examination,
    subject: str,
    *,
    limit: float,
    used: float | None,
    one: float,
    most: int,
    unit: str,
    advice: str,
) -> None:
    """Whether a quota lets one replica start, and as many as the service may want."""
    left = limit - (used or 0.0)
    told = f"{left:g} of {limit:g} {unit} are free" if used is not None else f"{limit:g} {unit}"
    if left < one:
        examination.fail(subject, f"{told}, and one replica needs {one:g}; {advice}")
    elif left < one * most:
        examination.warn(subject, f"{told}: {int(left // one)} replicas, and up to {most} may be wanted; {advice}")
    else:
        examination.ok(subject, f"{told}, enough for {most} replicas of {one:g}")


async def examine(driver: "RemoteDriver[Any]") -> list[Finding]:
    """Everything that can be known of a cloud from here; the login first, for without it there is nothing more."""
    found, cloud = Examination(), driver.cloud
    login = await found.step(f"{cloud} login", driver.ask(driver.regions[0], lambda _: True, "log in"))
    machines = await found.step(f"{cloud} API", driver.list()) if login else None
    if machines is None:
        return found.findings
    found.ok(f"{cloud} login", "the credentials are taken")
    found.ok(f"{cloud} API", f"it lists {len(machines)} VM{'' if len(machines) == 1 else 's'} of this service")
    if (left := await found.step(f"{cloud} leftovers", driver.leftovers(), else_=found.warn)) is not None:
        found.ok(f"{cloud} leftovers", f"{len(left)} other things bear HedgeServe's tag")
    for region in driver.regions:
        await driver.inspect(region, found)
        types = [one.instance_type for one in wanted_in(driver, region)]
        prices = await found.step(f"{cloud} {region} prices", driver.prices(region, types), else_=found.warn)
        if prices:
            found.ok(f"{cloud} {region} prices", f"{len(prices)} live prices")
        elif prices is not None:
            found.warn(f"{cloud} {region} prices", "none are told; those of the catalogue stand")
    return found.findings


def most_replicas(driver: "RemoteDriver[Any]") -> int:
    """As many replicas as the service may ever want at a time."""
    return int(driver.spec.replicas.highest + driver.spec.hedge.overprovision)


Offered = Mapping[str, Sequence[str]]


def judge_offered(examination: Examination, cloud: str, one: Wanted, offered: Sequence[str] | None) -> None:
    """One line a zone: whether the type is to be had there at all."""
    if offered is None:
        return
    for zone in one.zones:
        subject = f"{cloud} {one.region} {zone} {one.instance_type}"
        if zone in offered:
            examination.ok(subject, "offered")
        else:
            there = f"; it is in {', '.join(sorted(offered))}" if offered else " nor anywhere in the region"
            examination.fail(subject, f"not offered in this zone{there}; take another zone or type")
