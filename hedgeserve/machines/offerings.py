"""What the clouds offer and for how much, read again now and then."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import structlog

from hedgeserve.drivers.base import Driver
from hedgeserve.errors import CloudError
from hedgeserve.metrics import Metrics
from hedgeserve.replica import Offer, ZoneId
from hedgeserve.spec import Spec

_log = structlog.get_logger("hedgeserve.fleet")

_REFRESH_S = (5.0, 15.0, 60.0)
"""Pauses between two looks at the prices, the last of them for ever: live ones come soon after the start."""


class Offerings:
    """The last known offers of each cloud; ``changing`` is awaited before new prices replace old ones."""

    def __init__(
        self,
        spec: Spec,
        drivers: Mapping[str, Driver],
        metrics: Metrics,
        *,
        changing: Callable[[], Awaitable[None]],
    ) -> None:
        self._spec, self._drivers, self._metrics, self._changing = spec, drivers, metrics, changing
        self._offers: dict[str, tuple[Offer, ...]] = {}

    def all(self) -> tuple[Offer, ...]:
        """What the pools allow, at the last known prices."""
        return tuple(offer for offers in self._offers.values() for offer in offers)

    def withheld(self) -> dict[ZoneId, list[str]]:
        """What the pools name and is not offered, by zone, each in a sentence with its reason."""
        found: dict[ZoneId, list[str]] = {}
        for driver in self._drivers.values():
            for zone, sentences in driver.withheld().items():
                found.setdefault(zone, []).extend(sentences)
        return found

    def compared(self, offer: Offer) -> Offer:
        """An offer from the journal, which holds what was paid and not what it is compared by."""
        same = (offer.zone, offer.instance_type, offer.market)
        known = (now for now in self.all() if (now.zone, now.instance_type, now.market) == same)
        return next((replace(offer, throughput=now.throughput) for now in known), offer)

    async def adopt(self, spec: Spec) -> None:
        """Have the drivers that it concerns go by this spec, and read their offers again.

        Raises:
            SpecError: A driver cannot go by it; it goes on as before, the others may not.
        """
        for driver in self._drivers.values():
            if _ground(spec, driver.cloud) != _ground(self._spec, driver.cloud):
                await driver.adopt(spec)
                await self._refresh_quietly(driver.cloud)
        self._spec = spec

    async def keep(self) -> None:
        """Read them again, for ever."""
        for pause_s in chain(_REFRESH_S, repeat(_REFRESH_S[-1])):
            await asyncio.sleep(pause_s)
            for cloud in self._drivers:
                await self._refresh_quietly(cloud)

    async def refresh(self, cloud: str) -> None:
        """Read those of one cloud.

        Raises:
            CloudError: It did not tell them, or not in time; the last ones stand.
        """
        try:
            async with asyncio.timeout(self._spec.timeouts.cloud_call):
                offers = tuple(await self._drivers[cloud].offers())
            if _prices(offers) != _prices(self._offers.get(cloud, ())):
                await self._changing()
            self._offers[cloud] = offers
            self._metrics.expect_places((offer.market, offer.zone) for offer in offers)
        except TimeoutError:
            raise CloudError(f"{cloud} did not tell its prices in time") from None

    async def _refresh_quietly(self, cloud: str) -> None:
        try:
            await self.refresh(cloud)
        except CloudError as error:
            _log.warning("prices could not be read; the last ones stand", cloud=cloud, error=str(error))


def _prices(offers: tuple[Offer, ...]) -> set[tuple[object, ...]]:
    return {(one.zone, one.instance_type, one.market, one.usd_per_hour) for one in offers}


def _ground(spec: Spec, cloud: str) -> tuple[Any, ...]:
    """What a cloud's driver goes by."""
    return [pool for pool in spec.pools if pool.cloud == cloud], getattr(spec, cloud), spec.vm
