"""The offers of the clouds, read again now and then: what is told before a price changes, and only then."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from hedgeserve.drivers.base import Driver
from hedgeserve.errors import CloudError
from hedgeserve.machines.offerings import Offerings
from hedgeserve.metrics import Metrics
from hedgeserve.replica import Offer
from tests.conftest import small_spec
from tests.zoneworld import A, B, offer


class Cloud:
    """One whose offers are set by hand."""

    cloud = "local"

    def __init__(self, offers: Iterable[Offer]) -> None:
        self.told: tuple[Offer, ...] | None = tuple(offers)

    async def offers(self) -> Sequence[Offer]:
        if self.told is None:
            raise CloudError("no answer")
        return self.told


async def test_seconds_are_charged_before_a_price_changes_and_not_because_it_was_read(tmp_path: Path) -> None:
    """A line of the ledger for each look at the prices would double it."""
    cloud, charged = Cloud([offer(A), offer(B)]), list[tuple[Offer, ...]]()

    async def charge() -> None:
        charged.append(offerings.all())

    offerings = Offerings(small_spec(tmp_path), {"local": cast(Driver, cloud)}, Metrics(), changing=charge)
    await offerings.refresh("local")
    first, charged[:] = offerings.all(), []
    cloud.told = tuple(replace(one) for one in reversed(first))
    await offerings.refresh("local")
    assert charged == []
    before = offerings.all()
    cloud.told = (replace(first[0], usd_per_hour=0.7), first[1])
    await offerings.refresh("local")
    assert charged == [before]
    assert offerings.all() == cloud.told


async def test_what_was_known_stands_where_a_cloud_does_not_answer(tmp_path: Path) -> None:
    """And an offer from the journal is compared by what is offered now."""
    cloud = Cloud([replace(offer(A), throughput=2.0)])

    async def charge() -> None:
        return

    offerings = Offerings(small_spec(tmp_path), {"local": cast(Driver, cloud)}, Metrics(), changing=charge)
    await offerings.refresh("local")
    cloud.told = None
    with pytest.raises(CloudError, match="no answer"):
        await offerings.refresh("local")
    assert [one.throughput for one in offerings.all()] == [2.0]
    assert offerings.compared(offer(A)).throughput == 2.0
    assert offerings.compared(offer(B)) == offer(B)
