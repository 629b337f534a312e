"""Servers that somebody else runs: offered by no cloud, launched and terminated by nobody here."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hedgeserve.drivers.base import LaunchRequest, Leftover, Machine
from hedgeserve.errors import AuthError, UnsupportedError
from hedgeserve.replica import Offer, ZoneId
from hedgeserve.spec import Cloud, PoolSpec


@dataclass(frozen=True, slots=True)
class StaticServer:
    """One server: its base URL without a slash at the end, a zone of its own, and the key that it asks for."""

    url: str
    zone: ZoneId
    api_key: str | None = field(default=None, repr=False)


def static_places(pools: Sequence[PoolSpec]) -> dict[str, tuple[ZoneId, PoolSpec]]:
    """Each server that these pools name, by its base URL: its zone, and the pool that names it first."""
    places: dict[str, tuple[ZoneId, PoolSpec]] = {}
    for number, pool in enumerate(pool for pool in pools if pool.cloud is Cloud.STATIC):
        for url in (url.rstrip("/") for url in pool.urls):
            # A server that is named twice is still one server.
            places.setdefault(url, (ZoneId(f"static/{number}/{urlsplit(url).netloc}"), pool))
    return places


class StaticDriver:
    """The cloud ``static``: tells of servers, and refuses everything else.

    Raises:
        AuthError: A pool names a variable for its key that ``environ`` lacks.
    """

    cloud = "static"
    poll_s = 60.0

    def __init__(self, pools: Sequence[PoolSpec], environ: Mapping[str, str]) -> None:
        keys = {id(pool): _key(pool, environ) for pool in pools if pool.cloud is Cloud.STATIC}
        self._servers = tuple(
            StaticServer(url, zone, keys[id(pool)]) for url, (zone, pool) in static_places(pools).items()
        )

    def servers(self) -> tuple[StaticServer, ...]:
        """Every server that the pools name, each once, in their order."""
        return self._servers

    async def offers(self) -> Sequence[Offer]:
        """Nothing: there is nothing to launch."""
        return ()

    def withheld(self) -> Mapping[ZoneId, Sequence[str]]:
        """Nothing."""
        return {}

    async def launch(self, request: LaunchRequest) -> Machine:
        """Refuse, with ``UnsupportedError``."""
        raise UnsupportedError(f"cannot launch {request.name}: servers of static pools are run by somebody else")

    async def list(self) -> Sequence[Machine]:
        """Nothing: these servers are not VMs of ours."""
        return ()

    async def terminate(self, machine_id: str) -> None:
        """Refuse, with ``UnsupportedError``."""
        raise UnsupportedError(
            f"cannot terminate {machine_id}: servers of static pools are run by somebody else; "
            "remove its URL from the pool"
        )

    async def everyone(self) -> Sequence[Machine]:
        """Nothing."""
        return ()

    async def leftovers(self) -> Sequence[Leftover]:
        """Nothing."""
        return ()

    async def clear(self, leftover: Leftover) -> None:
        """Nothing of ours is there."""

    async def run(self) -> None:
        """Wait to be cancelled."""
        await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        """Nothing is held."""


def _key(pool: PoolSpec, environ: Mapping[str, str]) -> str | None:
    if not pool.api_key_env:
        return None
    key = environ.get(pool.api_key_env, "").strip()
    if not key:
        raise AuthError(
            f"pools.api_key_env names {pool.api_key_env}, which is not set; export the key of "
            f"{', '.join(pool.urls)} in it, or remove api_key_env"
        )
    return key
