"""Streams that are cut at every place, through a real balancer and real demo engines: nothing of it can be seen.

Each answer is compared with its twin, which the second engine gives when it is asked directly and left alone.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from hedgeserve.proxy.breaker import Breaker
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.demo_process import DemoProcess, demo_process
from tests.streams import BY_IDS, BY_REPLAY, CHAT, USAGE, chat, read
from tests.upstreams import House, open_house

AT_ONCE = 24
_EVENTS_OF_NO_TOKEN = 3


@pytest.fixture(scope="module")
def frail() -> Iterator[DemoProcess]:
    """An engine that fails as it is told to."""
    with demo_process("--obey-faults", "--enable-auto-tool-choice") as process:
        yield process


@pytest.fixture(scope="module")
def sound() -> Iterator[DemoProcess]:
    """An engine with the same weights that never fails."""
    with demo_process("--enable-auto-tool-choice") as process:
        yield process


@pytest.fixture(autouse=True)
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frail engine is asked first again and again, however often it fails: each place is really cut at."""
    monkeypatch.setattr(Breaker, "failed", lambda self, now_s: 0.0)


@asynccontextmanager
async def two_engines(frail: DemoProcess, sound: DemoProcess, **tables: Any) -> AsyncIterator[House]:
    """A balancer that asks the frail engine first, and the sound one when it must."""
    async with open_house(**tables) as house:
        house.show(target("frail", frail), target("sound", sound, preferred=False))
        yield house


def target(name: str, engine: DemoProcess, **changes: Any) -> RouteTarget:
    return RouteTarget(ReplicaId(name), engine.url, ZoneId("local/east/a"), Market.SPOT, **changes)


async def ask(
    http: aiohttp.ClientSession, url: str, body: dict[str, Any], fault: str = ""
) -> tuple[int, bytes, dict[str, str]]:
    headers = {"X-Demo-Fault": fault} if fault else {}
    async with http.post(url, json=body, headers=headers) as response:
        return response.status, await response.read(), {k.lower(): v for k, v in response.headers.items()}


async def hold_to_its_twin(house: House, sound: DemoProcess, path: str, body: dict[str, Any], kind: str) -> int:
    """Ask once for each place to cut at; returns how many places there were."""
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http:
        _, uncut, _ = await ask(http, sound.url + path, body)
        twin = read(uncut)
        assert twin.finish, uncut
        tokens = uncut.count(b"data: ")
        places = range(1, tokens)
        answers = await asyncio.gather(
            *(ask(http, house.balancer.url + path, body, f"{kind}={place}") for place in places)
        )
    for place, (status, answer, _) in zip(places, answers, strict=True):
        assert status == 200
        told = read(answer)
        assert told.same == twin.same, f"cut after {place} tokens"
        assert len(told.names) == 1
    # The fault strikes after so many tokens of each choice; the role, the usage and the end are events, too.
    cut = len(places) // len(twin.finish) - _EVENTS_OF_NO_TOKEN
    assert house.count("resumptions_total", result="ok") >= cut
    return len(places)


@pytest.mark.parametrize("case", BY_IDS)
async def test_a_stream_is_continued_by_ids_wherever_it_is_cut(
    case: str, frail: DemoProcess, sound: DemoProcess
) -> None:
    """Text, ids, usage, finish reason, one id, one role: equal to the twin's after every single token."""
    path, body = BY_IDS[case]
    async with two_engines(frail, sound) as house:
        assert await hold_to_its_twin(house, sound, path, body, "cut") > 5
        assert house.count("resumptions_total", way="continue") == house.count("resumptions_total")


@pytest.mark.parametrize("case", BY_REPLAY)
async def test_what_cannot_be_continued_is_repeated_and_swallowed(
    case: str, frail: DemoProcess, sound: DemoProcess
) -> None:
    """JSON, tools, penalties, seeds, several choices: a state beside the ids makes a continuation wrong."""
    path, body = BY_REPLAY[case]
    async with two_engines(frail, sound) as house:
        assert await hold_to_its_twin(house, sound, path, body, "cut") > 2


@pytest.mark.parametrize("kind", ["abort", "error", "stall"])
async def test_every_way_to_fail_is_a_cut(kind: str, frail: DemoProcess, sound: DemoProcess) -> None:
    """An abort, an error in the stream, silence: none of them reaches the client."""
    timeouts = {"stall": "400ms"}
    async with two_engines(frail, sound, timeouts=timeouts) as house:
        assert await hold_to_its_twin(house, sound, CHAT, chat("Show emoji.", **USAGE), kind) > 5


async def test_an_answer_in_one_piece_is_continued_too(frail: DemoProcess, sound: DemoProcess) -> None:
    """A long one is asked for as a stream: what a lost replica has generated is not generated again."""
    body = chat("Show emoji.", max_tokens=40)
    del body["stream"]
    async with two_engines(frail, sound, failover={"collect_above": 10}) as house, aiohttp.ClientSession() as http:
        _, uncut, _ = await ask(http, sound.url + CHAT, body)
        before = sound.metric("generation_tokens_total")
        status, answer, headers = await ask(http, house.balancer.url + CHAT, body, "cut=30")
        twin, told = json.loads(uncut), json.loads(answer)
        for key in ("object", "model", "usage", "choices"):
            assert told[key] == twin[key]
        assert set(told) == set(twin)
        assert (status, headers["x-hedgeserve-resumed"]) == (200, "1")
        assert sound.metric("generation_tokens_total") - before < 20


async def test_switched_off_a_cut_is_told(frail: DemoProcess, sound: DemoProcess) -> None:
    """With `failover.enabled = false` streams end with an honest error, and bodies pass untouched."""
    off = {"enabled": False}
    async with two_engines(frail, sound, failover=off) as house, aiohttp.ClientSession() as http:
        _, answer, _ = await ask(http, house.balancer.url + CHAT, chat("Hello."), "cut=5")
        told = read(answer)
        assert told.done == 0
        assert "failed in the middle" in told.errors[0]
