"""How requests travel to the engines: by TLS to those that the service vouches for, and to nobody else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from hedgeserve.core import Service
from hedgeserve.errors import SpecError
from hedgeserve.machines.authority import Authority, EngineTls
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.conftest import replicas, small_spec
from tests.tls import server_context
from tests.upstreams import House, open_house

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def engine(tls: EngineTls, directory: Path) -> AsyncIterator[tuple[str, list[str]]]:
    """The URL of a server that shows this certificate, and the requests that it was told."""
    told: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        told.append(request.headers.get("Authorization", ""))
        return web.json_response({"choices": [{"finish_reason": "stop"}]})

    app = web.Application()
    app.add_routes([web.post(CHAT, answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(tls, directory))
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", told
    finally:
        await runner.cleanup()


def target(url: str, *, own_tls: bool = True) -> RouteTarget:
    return RouteTarget(
        id=ReplicaId("small-1"),
        url=url,
        zone=ZoneId("aws/us-east-1/us-east-1a"),
        market=Market.SPOT,
        api_key="the-engines-key",
        own_tls=own_tls,
    )


async def ask(house: House) -> int:
    async with house.http.post(house.balancer.url + CHAT, json={"model": "demo"}) as response:
        await response.read()
        return response.status


async def test_an_engine_with_a_certificate_of_the_service_is_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        engine(await authority.issue("small-1", "127.0.0.1"), tmp_path) as (url, told),
        open_house(own_trust=authority.trust) as house,
    ):
        house.show(target(url))
        assert await ask(house) == 200
        assert told == ["Bearer the-engines-key"]


@pytest.mark.parametrize("impostor", ["another authority", "another VM of ours"])
async def test_an_impostor_at_the_engines_address_learns_nothing(tmp_path: Path, impostor: str) -> None:
    """Neither the request nor the key: whoever has got the address of a VM that is gone is not spoken to."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    strange = impostor == "another authority"
    tls = await (theirs.issue("small-1", "127.0.0.1") if strange else ours.issue("small-2", "127.0.0.1"))
    limits = {"max_attempts": 1, "max_queue": 0}
    async with (
        engine(tls, tmp_path) as (url, told),
        open_house(own_trust=ours.trust, limits=limits) as house,
    ):
        house.show(target(url))
        assert await ask(house) >= 500
        assert told == []


async def test_a_server_that_is_not_ours_is_not_believed_for_our_authority(tmp_path: Path) -> None:
    """Servers of static pools are verified with the system's authorities, whatever ours says."""
    authority = Authority(tmp_path)
    limits = {"max_attempts": 1, "max_queue": 0}
    async with (
        engine(await authority.issue("small-1", "127.0.0.1"), tmp_path) as (url, told),
        open_house(own_trust=authority.trust, limits=limits) as house,
    ):
        house.show(target(url, own_tls=False))
        assert await ask(house) >= 500
        assert told == []


async def test_a_whole_service_serves_by_tls(short_dir: Path) -> None:
    """Certificates made, carried to the VM over SSH, shown by the engine and verified by probes and balancer."""
    spec = small_spec(short_dir, service='transport = "tls"')
    async with Service(spec, environ={}) as service, aiohttp.ClientSession() as session:
        await service.wait_ready()
        assert service._fleet.snapshot().targets[0].url.startswith("https://")
        body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with session.post(service.url + CHAT, json=body) as response:
            assert response.status == 200
            assert (await response.text()).rstrip().endswith("data: [DONE]")
        assert len(replicas(service, "ready")) == 1


def test_an_engine_that_has_no_tls_is_refused_before_anything_is_launched(short_dir: Path) -> None:
    spec = small_spec(short_dir, service='transport = "tls"')
    command = {"engine": "command", "command": ["serve", "{port}"], "args": []}
    spec = spec.model_copy(update={"model": spec.model.model_copy(update=command)})
    with pytest.raises(SpecError, match="transport"):
        Service(spec, environ={})
