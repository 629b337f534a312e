"""The built-in catalogue and the offers made of it: sane figures, and a reason for all that is not offered."""

import csv
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.drivers.catalogue import (
    find_type,
    kinds_of,
    near_types,
    regions_of,
    throughput_of,
    types_of,
    unknown_words,
    zones_of,
)
from hedgeserve.drivers.catalogue_table import READ_ON, TYPES, ZONES
from hedgeserve.drivers.offers import (
    ASSUMED_AT,
    PriceSource,
    catalogue_offers,
    offers_of,
    quotes_of,
    without_price,
)
from hedgeserve.poolspec import REMOTE, PoolSpec
from hedgeserve.replica import Market
from hedgeserve.spec import Cloud

_DATA = os.environ.get("HEDGESERVE_DATA", Path(__file__).parents[2] / "shared" / "data")
_RECORDED = Path(_DATA) / "catalog" / "gpu_catalog.csv"
_NOW = datetime(2026, 9, 1, tzinfo=UTC)


def _pool(cloud: str = "aws", **rest: Any) -> PoolSpec:
    return PoolSpec.model_validate({"cloud": cloud, **rest})


# The figures


def test_every_name_stands_once() -> None:
    names = Counter((row.cloud, row.name) for row in TYPES)
    assert not [name for name, count in names.items() if count > 1]


def test_figures_are_sane() -> None:
    for row in TYPES:
        assert row.cloud in REMOTE
        assert row.gpus in (1, 2, 4, 8, 16)
        assert 16 <= row.gpu_gib <= 288
        assert row.vcpus >= 4
        assert row.memory_gib >= 16
        for price in (row.on_demand_usd_per_hour, row.spot_usd_per_hour):
            assert price is None or 0.05 < price < 200


def test_spot_costs_less_than_on_demand() -> None:
    for row in TYPES:
        if row.spot_usd_per_hour is not None and row.on_demand_usd_per_hour is not None:
            assert row.spot_usd_per_hour < row.on_demand_usd_per_hour, row.name


def test_more_of_the_same_gpu_cost_more_and_not_out_of_proportion() -> None:
    for row in TYPES:
        alone = [
            one.on_demand_usd_per_hour / one.gpus
            for one in TYPES
            if (one.cloud, one.gpu) == (row.cloud, row.gpu) and one.on_demand_usd_per_hour is not None
        ]
        if row.on_demand_usd_per_hour is not None:
            assert row.on_demand_usd_per_hour / row.gpus < 10 * min(alone), row.name


def test_every_price_has_a_date_and_every_region_a_zone() -> None:
    assert set(READ_ON) == {(cloud, market) for cloud in REMOTE for market in (Market.SPOT, Market.ON_DEMAND)}
    assert all(marks for regions in ZONES.values() for marks in regions.values())


@pytest.mark.skipif(not _RECORDED.exists(), reason="the table of recorded prices is not on this machine")
def test_the_figures_agree_with_recorded_ones() -> None:
    recorded: dict[tuple[str, str], list[dict[str, str]]] = {}
    with _RECORDED.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            recorded.setdefault((line["cloud"], line["instance_type"]), []).append(line)
    compared = 0
    for row in TYPES:
        lines = recorded.get((row.cloud, row.name), [])
        for line in lines[:1]:
            assert (row.gpus, row.vcpus) == (int(line["gpu_count"]), int(line["vcpu"])), row.name
            assert row.memory_gib == pytest.approx(float(line["mem_gib"]), rel=0.02), row.name
            assert row.gpu_gib == pytest.approx(float(line["gpu_mem_gib"]), rel=0.1), row.name
        prices = [float(line["price"]) for line in lines if line["price"]]
        if row.on_demand_usd_per_hour is not None and prices:
            compared += 1
            assert row.on_demand_usd_per_hour == pytest.approx(min(prices), rel=0.05), row.name
        spot = [float(line["spot_price"]) for line in lines if line["spot_price"]]
        if row.spot_usd_per_hour is not None and spot:
            assert 0.5 * min(spot) <= row.spot_usd_per_hour <= 1.01 * max(spot), row.name
    assert compared > 50


# What a pool means by it


def test_a_kind_of_gpu_stands_for_all_its_machines_and_named_ones_come_first() -> None:
    pool = _pool(zones=["us-east-1/us-east-1a"], gpu=["L4:1", "t4:4"], instance_types=["x9.huge"])
    found = types_of(pool)
    assert found[0] == "x9.huge"
    assert set(found) > {"g6.xlarge", "gr6.4xlarge", "g4dn.12xlarge"}
    assert "g6.12xlarge" not in found


def test_regions_stand_for_all_their_zones() -> None:
    assert zones_of(_pool("gcp", regions=["us-east1"], gpu="L4")) == tuple(
        f"us-east1/us-east1-{letter}" for letter in "bcd"
    )
    assert zones_of(_pool("azure", zones=["eastus/2"], regions=["eastus", "westus"], gpu="T4")) == (
        "eastus/2",
        "eastus/1",
        "eastus/3",
        "westus/none",
    )
    pool = _pool(zones=["us-east-2/us-east-2c"], regions=["us-west-2"], gpu="L4")
    assert regions_of(pool) == ("us-east-2", "us-west-2")


def test_throughput_is_told_by_type_before_kind() -> None:
    pool = _pool(
        regions=["us-east-1"],
        gpu=["L4:1", "A10G:1"],
        instance_types=["g5.2xlarge"],
        throughput={"A10G:1": 1.3, "g5.2xlarge": 1.5},
    )
    assert [throughput_of(pool, name) for name in ("g6.xlarge", "g5.xlarge", "g5.2xlarge")] == [1.0, 1.3, 1.5]


def test_kinds_are_words_that_a_pool_takes() -> None:
    for cloud in REMOTE:
        for kind in kinds_of(cloud):
            zone = {Cloud.AWS: "us-east-1/us-east-1a", Cloud.GCP: "us-east1/us-east1-b", Cloud.AZURE: "eastus/1"}
            assert types_of(_pool(cloud.value, zones=[zone[cloud]], gpu=kind))


# Offers


def test_a_live_price_stands_above_the_catalogue() -> None:
    pool = _pool(zones=["us-east-1/us-east-1a", "us-east-1/us-east-1b"], instance_types=["g6.xlarge"])
    live = {("us-east-1/us-east-1a", "g6.xlarge", Market.SPOT): (0.2, _NOW)}
    offers = {(offer.zone[-1], offer.market): offer for offer in offers_of([pool], live)}
    assert (offers["a", Market.SPOT].usd_per_hour, offers["a", Market.SPOT].read_at) == (0.2, _NOW)
    row = find_type("aws", "g6.xlarge")
    assert row is not None
    assert offers["b", Market.SPOT].usd_per_hour == row.spot_usd_per_hour
    assert offers["b", Market.SPOT].read_at == READ_ON[Cloud.AWS, Market.SPOT]


def test_what_costs_more_than_allowed_is_quoted_and_not_offered() -> None:
    pool = _pool(zones=["us-east-1/us-east-1a"], instance_types=["g6.xlarge"], max_usd_per_hour="0.50 USD/h")
    quotes = {quote.market: quote for quote in quotes_of([pool], {})}
    assert quotes[Market.ON_DEMAND].capped
    assert "max_usd_per_hour of 0.50" in quotes[Market.ON_DEMAND].why_not
    assert [offer.market for offer in catalogue_offers(pool)] == [Market.SPOT]


def test_spot_whose_price_nobody_tells_is_offered_at_the_price_of_on_demand() -> None:
    pool = _pool("azure", zones=["eastus/1"], gpu="A100-80GB:1", markets=["spot"])
    (offer,) = catalogue_offers(pool)
    assert (offer.usd_per_hour, offer.read_at) == (3.673, ASSUMED_AT)
    assert [quote.source for quote in quotes_of([pool], {})] == [PriceSource.ASSUMED]
    limited = pool.model_copy(update={"max_usd_per_hour": 2.0})
    assert [offer.usd_per_hour for offer in catalogue_offers(limited)] == [2.0]


def test_a_type_that_nobody_prices_is_offered_for_the_limit_and_without_one_not_at_all() -> None:
    pool = _pool(zones=["us-east-1/us-east-1a"], instance_types=["x9.huge"], markets=["spot"])
    assert catalogue_offers(pool) == ()
    (quote,) = quotes_of([pool], {})
    assert "not known" in quote.why_not
    assert without_price([quote]) == {"x9.huge": (Market.SPOT,)}
    limited = pool.model_copy(update={"max_usd_per_hour": 2.0})
    assert [offer.usd_per_hour for offer in catalogue_offers(limited)] == [2.0]
    live = {("us-east-1/us-east-1a", "x9.huge", Market.SPOT): (1.2, _NOW)}
    assert [offer.usd_per_hour for offer in offers_of([pool], live)] == [1.2]
    assert without_price(quotes_of([pool], live)) == {}


def test_a_machine_that_two_pools_name_is_offered_once_by_the_one_that_allows_it() -> None:
    tight = _pool(zones=["us-east-1/us-east-1a"], instance_types=["g6.xlarge"], max_usd_per_hour="0.01 USD/h")
    free = _pool(zones=["us-east-1/us-east-1a"], instance_types=["g6.xlarge"])
    assert len(offers_of([tight, free], {})) == 2
    assert len(quotes_of([tight, free], {})) == 2


# Words that the catalogue does not know


def test_an_unknown_gpu_is_told_with_what_there_is() -> None:
    (found,) = unknown_words(_pool(regions=["us-east-1"], gpu="A100:8"))
    assert found.path == ("gpu", 0)
    assert "A100-40GB:8, A100-80GB:8" in found.hint
    (found,) = unknown_words(_pool(regions=["us-east-1"], gpu=["L4:1", "L5:1"]))
    assert (found.path, "L4:1" in found.hint) == (("gpu", 1), True)


def test_an_unknown_region_is_told_with_the_one_that_was_meant() -> None:
    (found,) = unknown_words(_pool("gcp", regions=["us-centrall"], gpu="L4"))
    assert found.path == ("regions", 0)
    assert 'did you mean "us-central1"?' in found.hint
    assert not list(unknown_words(_pool("local", zones=["east/a"])))


def test_near_types() -> None:
    assert near_types(Cloud.AWS, "g6.xlrage")[0] == "g6.xlarge"
    assert near_types(Cloud.AZURE, "NC24ads_A100_v4")[0] == "Standard_NC24ads_A100_v4"
