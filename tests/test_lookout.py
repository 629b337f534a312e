"""Replicas that fall silent, and replicas that will be taken away: their streams go on elsewhere, unbroken."""

import asyncio
import os
import signal
from collections.abc import Iterator

import aiohttp
import pytest

from tests.demo_process import DemoProcess, demo_process
from tests.streams import CHAT, chat, read
from tests.test_failover_demo import ask, target
from tests.upstreams import House, open_house, until

USAGE = {"stream_options": {"include_usage": True}}
LONG = chat("Show emoji and Chinese.", max_tokens=90, ignore_eos=True, **USAGE)
SHORT = chat("Show emoji.", max_tokens=12, ignore_eos=True, **USAGE)


@pytest.fixture
def first() -> Iterator[DemoProcess]:
    with demo_process("--tokens-per-second", "60") as process:
        yield process
        os.kill(process.process.pid, signal.SIGCONT)


@pytest.fixture
def second() -> Iterator[DemoProcess]:
    with demo_process("--tokens-per-second", "400") as process:
        yield process


def show(house: House, first: DemoProcess, second: DemoProcess, *, ends_in_s: float | None = None) -> None:
    """Both are ready; the first is taken away after so long, or is the one that is asked first."""
    if ends_in_s is None:
        house.show(target("first", first), target("second", second, preferred=False))
    else:
        ends_at_s = asyncio.get_running_loop().time() + ends_in_s
        house.show(target("first", first, preferred=False, ends_at_s=ends_at_s), target("second", second))


async def test_streams_of_a_replica_that_falls_silent_go_on_elsewhere(
    first: DemoProcess, second: DemoProcess
) -> None:
    """Its machine is frozen: no farewell, no error, and connections to it even succeed."""
    silenced = list[str]()
    async with (
        open_house(
            failover={"silence": "300ms"}, timeouts={"connect": "300ms"}, on_silence=silenced.append
        ) as house,
        aiohttp.ClientSession() as http,
    ):
        _, uncut, _ = await ask(http, second.url + CHAT, LONG)
        show(house, first, second)
        streams = [asyncio.create_task(ask(http, house.balancer.url + CHAT, LONG)) for _ in range(20)]
        await until(lambda: first.metric("generation_tokens_total") > 100)
        os.kill(first.process.pid, signal.SIGSTOP)
        for status, answer, _ in await asyncio.gather(*streams):
            assert status == 200
            assert read(answer).same == read(uncut).same
        assert silenced == ["first"]
        assert house.count("resumptions_total", way="continue", result="ok") == 20


async def test_new_requests_do_not_hide_the_silence(first: DemoProcess, second: DemoProcess) -> None:
    """They go out on connections that were in use before and are as dead as the replica: no sign of life."""
    silenced = list[str]()
    async with (
        open_house(
            failover={"silence": "300ms"}, timeouts={"connect": "300ms"}, on_silence=silenced.append
        ) as house,
        aiohttp.ClientSession() as http,
    ):
        twin = read((await ask(http, second.url + CHAT, SHORT))[1]).same
        show(house, first, second)
        url = house.balancer.url + CHAT
        await asyncio.gather(*(ask(http, url, SHORT) for _ in range(30)))  # leaves thirty connections
        os.kill(first.process.pid, signal.SIGSTOP)
        streams = list[asyncio.Task[tuple[int, bytes, dict[str, str]]]]()
        while not silenced and len(streams) < 30:
            streams.append(asyncio.create_task(ask(http, url, SHORT)))
            await asyncio.wait(streams, timeout=0.1)
        assert silenced == ["first"]
        for _, answer, _ in await asyncio.gather(*streams):
            assert read(answer).same == twin


async def test_nothing_is_sent_to_a_silent_replica_until_it_answers(
    first: DemoProcess, second: DemoProcess
) -> None:
    """However long it is silent, requests go elsewhere at once; when it is back it is asked again."""
    silenced = list[str]()
    async with (
        open_house(
            failover={"silence": "200ms"}, timeouts={"connect": "200ms"}, on_silence=silenced.append
        ) as house,
        aiohttp.ClientSession() as http,
    ):
        show(house, first, second)
        url = house.balancer.url + CHAT
        os.kill(first.process.pid, signal.SIGSTOP)
        _, _, headers = await ask(http, url, SHORT)
        assert (headers["x-hedgeserve-attempts"], silenced) == ("2", ["first"])
        until_s = asyncio.get_running_loop().time() + 2.0
        while asyncio.get_running_loop().time() < until_s:
            _, _, headers = await ask(http, url, SHORT)
            assert (headers["x-hedgeserve-attempts"], headers["x-hedgeserve-replica"]) == ("1", "second")
        os.kill(first.process.pid, signal.SIGCONT)
        while headers["x-hedgeserve-replica"] != "first":
            _, _, headers = await ask(http, url, SHORT)
        assert silenced == ["first"]


async def test_a_replica_that_thinks_for_long_is_left_alone(first: DemoProcess, second: DemoProcess) -> None:
    """No stream of it says anything for longer than `failover.silence`, but it answers when it is asked."""
    silenced = list[str]()
    async with (
        open_house(failover={"silence": "100ms"}, on_silence=silenced.append) as house,
        aiohttp.ClientSession() as http,
        aiohttp.ClientSession() as slow,
    ):
        with demo_process("--tokens-per-second", "3") as thinker:
            house.show(target("thinker", thinker), target("second", second, preferred=False))
            body = {**SHORT, "max_tokens": 3, "min_tokens": 3}
            _, answer, headers = await ask(slow, house.balancer.url + CHAT, body)
            _, uncut, _ = await ask(http, second.url + CHAT, body)
            assert read(answer).same == read(uncut).same
            assert headers["x-hedgeserve-replica"] == "thinker"
    assert silenced == []


async def test_streams_that_would_not_end_in_time_leave_before_the_end(
    first: DemoProcess, second: DemoProcess
) -> None:
    """A notice comes: what ends in time ends where it is, the rest moves, and no client can tell."""
    async with open_house(failover={"move_margin": "200ms"}) as house, aiohttp.ClientSession() as http:
        twins = {id(body): read((await ask(http, second.url + CHAT, body))[1]).same for body in (LONG, SHORT)}
        show(house, first, second)
        bodies = [LONG, SHORT, LONG, SHORT, LONG]
        streams = [asyncio.create_task(ask(http, house.balancer.url + CHAT, body)) for body in bodies]
        await until(lambda: first.metric("generation_tokens_total") > 20)
        show(house, first, second, ends_in_s=1.0)
        answers = await asyncio.gather(*streams)
        for body, (_, answer, _) in zip(bodies, answers, strict=True):
            assert read(answer).same == twins[id(body)]
        assert house.count("streams_moved_total") == 3
        assert house.count("upstream_failures_total", phase="moved") == 3
        assert house.count("upstream_failures_total") == 3


async def test_nobody_moves_where_there_is_nowhere_to_go(first: DemoProcess, second: DemoProcess) -> None:
    """The only replica is under notice: its streams stay, and go on when another one comes."""
    async with open_house(failover={"move_margin": "200ms"}) as house, aiohttp.ClientSession() as http:
        _, uncut, _ = await ask(http, second.url + CHAT, LONG)
        house.show(target("first", first))
        stream = asyncio.create_task(ask(http, house.balancer.url + CHAT, LONG))
        await until(lambda: first.metric("generation_tokens_total") > 5)
        ends_at_s = asyncio.get_running_loop().time() + 0.5
        house.show(target("first", first, preferred=False, ends_at_s=ends_at_s))
        await until(lambda: asyncio.get_running_loop().time() > ends_at_s)
        house.show()  # the VM is gone
        await until(lambda: house.balancer.load().queued == 1)
        assert house.count("streams_moved_total") == 0
        house.show(target("second", second))
        _, answer, _ = await stream
        assert read(answer).same == read(uncut).same
