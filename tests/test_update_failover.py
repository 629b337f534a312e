"""Cut streams in the middle of an update: only a replica of the version that began one may go on with it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from hedgeserve.proxy.routing import Wants
from hedgeserve.replica import Market, ReplicaId, RouteTarget, RoutingSnapshot, ZoneId
from hedgeserve.spec import ModelSpec
from tests.demo_process import DemoProcess, demo_process
from tests.test_pool import PoolStory
from tests.upstreams import House, make_spec, open_house

BODY = {"model": "demo", "prompt": "A fox", "max_tokens": 12, "stream": True, "temperature": 0}


@pytest.fixture(scope="module")
def frail() -> Iterator[DemoProcess]:
    with demo_process("--obey-faults") as process:
        yield process


@pytest.fixture(scope="module")
def sound() -> Iterator[DemoProcess]:
    with demo_process() as process:
        yield process


@pytest.fixture(scope="module")
def slow() -> Iterator[DemoProcess]:
    with demo_process("--tokens-per-second", "20") as process:
        yield process


def target(name: str, engine: DemoProcess, **changes: Any) -> RouteTarget:
    return RouteTarget(ReplicaId(name), engine.url, ZoneId("local/east/a"), Market.SPOT, **changes)


@asynccontextmanager
async def asked(house: House, fault: str = "cut=4", **changes: Any) -> AsyncIterator[tuple[int, bytes, str]]:
    """One request whose first replica fails as it says; status, answer, and how often it was taken up again."""
    headers = {"X-Demo-Fault": fault} if fault else {}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{house.balancer.url}/v1/completions", json={**BODY, **changes}, headers=headers) as response,
    ):
        yield response.status, await response.read(), response.headers.get("X-HedgeServe-Attempts", "")


async def test_a_cut_stream_goes_on_with_its_own_version_though_that_accepts_nothing_new(
    frail: DemoProcess, sound: DemoProcess
) -> None:
    """The old set waits beside the new one: what it has begun it may finish, on another of its replicas."""
    async with open_house() as house:
        house.show(
            target("old-1", frail, version=1),
            target("old-2", sound, version=1, accepting=False, resumes=True),
            target("new-1", sound, version=2, preferred=False),
        )
        async with asked(house) as (status, answer, _):
            assert status == 200
            assert answer.endswith(b"data: [DONE]\n\n")
            assert b'"error"' not in answer


async def test_a_cut_stream_ends_honestly_where_only_another_version_is_left(
    slow: DemoProcess, sound: DemoProcess
) -> None:
    """Another model would go on in other words: the client is told, and not deceived."""
    async with open_house() as house, aiohttp.ClientSession() as http:
        old = target("old-1", slow, version=1)
        new = target("new-1", sound, version=2, preferred=False)
        house.show(old, new)
        url = f"{house.balancer.url}/v1/completions"
        async with http.post(url, json={**BODY, "max_tokens": 200}) as response:
            told = await response.content.readline()
            house.show(new)  # the cloud has taken the last one back
            told += await response.content.read()
        assert b"no other replica runs the version that began it" in told
        assert b"[DONE]" not in told


async def test_what_has_not_sent_a_byte_is_asked_again_of_any_version(
    frail: DemoProcess, sound: DemoProcess
) -> None:
    """Nothing was promised yet."""
    async with open_house() as house:
        house.show(target("old-1", frail, version=1), target("new-1", sound, version=2, preferred=False))
        async with asked(house, fault="http500") as (status, answer, _):
            assert status == 200
            assert answer.endswith(b"data: [DONE]\n\n")


async def test_where_one_version_runs_other_peoples_servers_go_on_too(
    frail: DemoProcess, sound: DemoProcess
) -> None:
    """As before there were versions: they are taken to run the same."""
    async with open_house() as house:
        house.show(target("ours", frail, version=3), target("theirs", sound, version=0, preferred=False))
        async with asked(house) as (_, answer, _):
            assert answer.endswith(b"data: [DONE]\n\n")


async def test_a_long_answer_in_one_piece_begins_anew_on_another_version(
    frail: DemoProcess, sound: DemoProcess
) -> None:
    """Its client has not seen a byte of it."""
    async with open_house(failover={"collect_above": 0}) as house:
        house.show(target("old-1", frail, version=1), target("new-1", sound, version=2, preferred=False))
        async with asked(house, stream=False) as (status, answer, _):
            assert status == 200
            assert b'"finish_reason"' in answer


async def test_each_version_is_asked_by_the_names_that_it_knows(frail: DemoProcess, sound: DemoProcess) -> None:
    """And a name whose version is gone is refused at once, not kept waiting."""
    async with open_house() as house:
        spec = make_spec()
        old = ModelSpec.model_validate({"id": "old", "aliases": ["demo"], "engine": "demo"})
        new = ModelSpec.model_validate({"id": "new", "aliases": ["demo"], "engine": "demo"})
        house.balancer.adopt(spec, {1: old, 2: new})
        house.show(target("new-1", sound, version=2))
        async with asked(house, fault="", model="old") as (status, answer, _):
            assert status == 503
            assert b"An update has replaced the last replica" in answer
        async with asked(house, fault="") as (status, _, _):
            assert status == 200
        async with aiohttp.ClientSession() as http, http.get(f"{house.balancer.url}/v1/models") as response:
            assert [one["id"] for one in (await response.json())["data"]] == ["new", "demo", "old"]
        house.balancer.adopt(spec, {2: new})
        async with asked(house, fault="", model="old") as (status, _, _):
            assert status == 404


async def test_other_bounds_hold_for_the_next_request_of_a_connection_that_stays(sound: DemoProcess) -> None:
    """The very same head as before is judged anew, and nothing is closed for it."""
    async with open_house() as house, aiohttp.ClientSession() as http:
        house.show(target("r", sound, version=1))
        url = f"{house.balancer.url}/v1/completions"
        body = {**BODY, "stream": False, "prompt": "x" * 3000}
        for _ in range(2):
            async with http.post(url, json=body) as response:
                assert response.status == 200
        model = ModelSpec.model_validate({"id": "demo", "engine": "demo"})
        house.balancer.adopt(make_spec(limits={"max_body": "1 KiB"}), {1: model})
        async with http.post(url, json=body) as response:
            assert response.status == 413
        async with http.post(url, json={**body, "prompt": "A fox"}) as response:
            assert response.status == 200


def test_what_replicas_say_of_themselves_is_counted_by_version() -> None:
    """Answers, refusals, failures by their own word; not what dies with a VM, nor under a notice."""
    story = PoolStory()
    old = RouteTarget(ReplicaId("old"), "http://o", ZoneId("local/east/a"), Market.SPOT, version=1)
    new = RouteTarget(ReplicaId("new"), "http://n", ZoneId("local/east/a"), Market.SPOT, version=2)
    noticed = RouteTarget(
        ReplicaId("gone"), "http://g", ZoneId("local/east/a"), Market.SPOT, preferred=False, version=2
    )
    story.show(old, new, noticed)
    leases = {}
    for _ in range(3):
        lease = story.pool.take(Wants())
        if lease is not None:
            leases[lease.target.id] = lease
    leases[ReplicaId("old")].worked()
    leases[ReplicaId("old")].worked(refused=True)
    leases[ReplicaId("new")].failed(by_word=True)
    leases[ReplicaId("new")].failed()
    for one in story.pool.incarnations:
        if one.target.id == "gone":
            lease = story.pool.take(Wants(avoid=["old", "new"]))
            assert lease is not None
            lease.failed(by_word=True)
    counts = {version: (one.served, one.refused, one.failed) for version, one in story.pool.tallies.items()}
    assert counts == {1: (1, 1, 0), 2: (0, 0, 1)}


def test_a_bound_version_may_come_while_it_is_on_its_way_up() -> None:
    """The pool knows what the snapshot says of replicas that start."""
    story = PoolStory()
    story.version += 1
    new = RouteTarget(ReplicaId("new"), "http://n", ZoneId("local/east/a"), Market.SPOT, version=2)
    story.pool.update(RoutingSnapshot(story.version, (new,), coming=frozenset({1})))
    assert story.pool.bound_to(1) == {1}
    assert story.pool.bound_to(2) is None
    assert story.pool.may_have(frozenset({1}), resuming=False)
    story.show(new)
    assert not story.pool.may_have(frozenset({1}), resuming=True)
