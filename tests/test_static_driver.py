"""Servers that somebody else runs."""

from datetime import UTC, datetime

import pytest

from hedgeserve.drivers.base import LaunchRequest
from hedgeserve.drivers.static import StaticDriver, StaticServer
from hedgeserve.errors import AuthError, UnsupportedError
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Cloud, PoolSpec

RACK = PoolSpec(cloud=Cloud.STATIC, urls=["http://10.0.0.5:8000/", "http://10.0.0.6:8000"])
PROVIDER = PoolSpec(cloud=Cloud.STATIC, urls=["https://llm.example"], api_key_env="PROVIDER_KEY")
SPOT = PoolSpec(cloud=Cloud.LOCAL, zones=["east/a"])


def test_each_server_has_a_zone_of_its_own_and_its_pools_key() -> None:
    """Two pools beside one of another cloud: three servers, each a failure domain."""
    driver = StaticDriver([RACK, SPOT, PROVIDER], {"PROVIDER_KEY": "k1"})
    assert driver.servers() == (
        StaticServer("http://10.0.0.5:8000", ZoneId("static/0/10.0.0.5:8000")),
        StaticServer("http://10.0.0.6:8000", ZoneId("static/0/10.0.0.6:8000")),
        StaticServer("https://llm.example", ZoneId("static/1/llm.example"), "k1"),
    )


def test_a_server_that_is_named_twice_is_one_server() -> None:
    """The same URL with and without a slash, in two pools, is counted once."""
    again = PoolSpec(cloud=Cloud.STATIC, urls=["http://10.0.0.6:8000/"])
    assert len(StaticDriver([RACK, again], {}).servers()) == 2


def test_the_key_is_in_no_printout() -> None:
    """A server may be logged as it is."""
    driver = StaticDriver([PROVIDER], {"PROVIDER_KEY": "very-secret"})
    assert "very-secret" not in repr(driver.servers())


@pytest.mark.parametrize("environ", [{}, {"PROVIDER_KEY": " "}])
def test_a_key_that_is_not_set_is_refused_at_once(environ: dict[str, str]) -> None:
    """Better than a server that answers 401 to everything: the variable is named."""
    with pytest.raises(AuthError, match=r"PROVIDER_KEY, which is not set; export the key of https://llm\.example"):
        StaticDriver([PROVIDER], environ)


async def test_nothing_is_offered_launched_listed_or_terminated() -> None:
    """They are somebody else's."""
    driver = StaticDriver([RACK], {})
    offer = Offer(ZoneId("static/0/10.0.0.5:8000"), "static", Market.EXTERNAL, 0.0, datetime.now(UTC))
    request = LaunchRequest(name="s-1", token="t", offer=offer, tags={}, authorized_key="", host_key="")
    assert await driver.offers() == ()
    assert await driver.list() == ()
    with pytest.raises(UnsupportedError, match="cannot launch s-1"):
        await driver.launch(request)
    with pytest.raises(UnsupportedError, match="remove its URL from the pool"):
        await driver.terminate("10.0.0.5:8000")
