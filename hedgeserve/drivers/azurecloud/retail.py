"""Azure's retail prices, which it tells everybody without a login; prices are those of a region, not of a zone."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import aiohttp

from hedgeserve.errors import CloudError
from hedgeserve.replica import Market

PRICES_URL = "https://prices.azure.com/api/retail/prices"

_TIMEOUT_S = 30.0
_TYPES_A_QUERY = 10
_MOST_PAGES = 20
_MOST_BYTES = 8 * 2**20

TypePrices = dict[tuple[str, Market], float]
"""By instance type and market, USD per hour."""


async def read_prices(url: str, region: str, types: Sequence[str]) -> TypePrices:
    """What these types cost in this region with Linux, as far as the list has them.

    Raises:
        CloudError: The list cannot be read.
    """
    items: list[Mapping[str, Any]] = []
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
            rest = iter(types)
            while some := list(islice(rest, _TYPES_A_QUERY)):
                items += await _items(session, url, region, some)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise CloudError(f"Azure could not tell the prices of {region}: {why}") from None
    return pick(items, datetime.now(UTC))


def pick(items: Iterable[Mapping[str, Any]], now: datetime) -> TypePrices:
    """The hourly prices of Linux VMs among these rows; of several, the one that came into force last."""
    found: dict[tuple[str, Market], tuple[str, float]] = {}
    for item in items:
        text = f"{item.get('skuName', '')} {item.get('meterName', '')} {item.get('productName', '')}".lower()
        since, price = str(item.get("effectiveStartDate", "")), item.get("retailPrice")
        if (
            any(word in text for word in ("low priority", "windows", "cloud services", "cloudservices"))
            or item.get("type") != "Consumption"
            or item.get("unitOfMeasure") != "1 Hour"
            or item.get("currencyCode") != "USD"
            or since > now.strftime("%Y-%m-%dT%H:%M:%SZ")
            or not isinstance(price, int | float)
            or price <= 0
        ):
            continue
        key = (str(item.get("armSkuName")), Market.SPOT if "spot" in text else Market.ON_DEMAND)
        if key not in found or since >= found[key][0]:
            found[key] = (since, float(price))
    return {key: price for key, (_, price) in found.items()}


async def _items(
    session: aiohttp.ClientSession, url: str, region: str, types: Sequence[str]
) -> list[Mapping[str, Any]]:
    names = " or ".join(f"armSkuName eq '{name}'" for name in types)
    # Values are compared with their case in the newer versions of this API.
    wanted = (
        f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
        f"and armRegionName eq '{region}' and ({names})"
    )
    found: list[Mapping[str, Any]] = []
    params: dict[str, str] | None = {"$filter": wanted}  # in USD, unless asked for something else
    for _ in range(_MOST_PAGES):
        page = await _page(session, url, params)
        found += page.get("Items") or ()
        if not (more := page.get("NextPageLink")):
            break
        url, params = str(more), None
    return found


async def _page(session: aiohttp.ClientSession, url: str, params: Mapping[str, str] | None) -> Mapping[str, Any]:
    async with session.get(url, params=params) as answer:
        answer.raise_for_status()
        if (answer.content_length or 0) > _MOST_BYTES:
            raise ValueError("the answer is too large")
        page = await answer.json()
    if not isinstance(page, dict):
        raise ValueError("the answer is not an object")
    return page
