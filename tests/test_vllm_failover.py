"""Streams of a real vLLM that are cut after every event, and go on at another one: no client can tell.

Two servers with the same weights; between the balancer and the first of them stands a wire that breaks where a
request says so. Each answer is compared with its twin, which the second server gives when it is left alone.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from hedgeserve.proxy.breaker import Breaker
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.demo_process import DemoProcess
from tests.streams import Told, read
from tests.upstreams import House, open_house, until
from tests.vllm_process import KEY, NEEDS_VLLM, make_model, vllm_process
from tests.vllm_rows import CHAT, TEXT

pytestmark = NEEDS_VLLM

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
AT_ONCE = 6
USAGE = {"stream_options": {"include_usage": True}}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "s",
        "schema": {
            "type": "object",
            "properties": {"a": {"enum": ["x", "y"]}, "b": {"enum": ["z"]}},
            "required": ["a", "b"],
        },
    },
}
NUMBER = {"type": "object", "properties": {"n": {"enum": ["one", "two"]}}, "required": ["n"]}
TOOLS = [{"type": "function", "function": {"name": "ring", "parameters": NUMBER}}]


def chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": messages, "stream": True, "temperature": 0, "max_tokens": 24, **fields}


def completion(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": prompt, "stream": True, "temperature": 0, "max_tokens": 24, **fields}


BY_IDS = {
    "English": (CHAT, chat("Say something about foxes.", **USAGE)),
    "emoji": (CHAT, chat("Show emoji.", **USAGE)),
    "Chinese": (CHAT, chat("Speak Chinese.", **USAGE)),
    "Hindi": (CHAT, chat("Speak Hindi and Korean.", **USAGE)),
    "code": (TEXT, completion("def f(", **USAGE)),
    "a prompt in Japanese": (TEXT, completion("日本語", **USAGE)),
    "ids as the prompt": (TEXT, completion([40, 50, 60], **USAGE)),
    "the client's own ids": (TEXT, completion("Spot machines are", return_token_ids=True)),
    "least tokens": (CHAT, chat("Be brief.", min_tokens=20, **USAGE)),
    "no end of text": (CHAT, chat("Go on.", ignore_eos=True, max_tokens=40, **USAGE)),
    "bias": (TEXT, completion("Hello", logit_bias={"42": 3.0}, repetition_penalty=1.3, **USAGE)),
    "continuous usage": (
        TEXT,
        completion("Hi", stream_options={"include_usage": True, "continuous_usage_stats": True}),
    ),
}
BY_REPLAY = {
    "a schema": (CHAT, chat("Give JSON.", response_format=SCHEMA, **USAGE)),
    "a choice": (CHAT, chat("Choose.", structured_outputs={"choice": ["harbour", "lighthouse"]})),
    "a tool": (CHAT, chat("Ring.", tools=TOOLS, tool_choice="required", max_tokens=60, **USAGE)),
    "penalties": (CHAT, chat("Repeat.", presence_penalty=1.5, frequency_penalty=0.5, **USAGE)),
    "a seed": (CHAT, chat("Emoji.", seed=7, temperature=0.9, **USAGE)),
    "two choices": (CHAT, chat("Emoji.", n=2, seed=7, temperature=0.9, max_tokens=12)),
    "two prompts": (TEXT, completion(["The quick", "emoji"], max_tokens=12)),
    "log-probabilities": (CHAT, chat("Hello.", logprobs=True, top_logprobs=1, max_tokens=12)),
    "log-probabilities of a completion": (TEXT, completion("Hello", logprobs=1, max_tokens=12)),
}


@pytest.fixture(autouse=True)
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server is asked first again and again, however often it fails: each place is really cut at."""
    monkeypatch.setattr(Breaker, "failed", lambda self, now_s: 0.0)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DemoProcess, DemoProcess]]:
    """Two vLLMs with the same weights."""
    model = make_model(tmp_path_factory.mktemp("model"))
    with (
        vllm_process(model, tmp_path_factory.mktemp("first")) as first,
        vllm_process(model, tmp_path_factory.mktemp("second")) as second,
    ):
        yield first, second


class Wire:
    """Passes bytes on to a server; an answer whose request has ``x-cut: N`` breaks off behind its N-th event."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self.url = ""

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(size[1])) if size else b""
                server_writer.write(head + body)
                cut = re.search(rb"x-cut: (\d+)", head, re.IGNORECASE)
                if not await self._answer(server_reader, writer, int(cut[1]) if cut else None):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            server_writer.transport.abort()
            writer.transport.abort()

    async def _answer(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: int | None) -> bool:
        """One answer; False where it was cut."""
        head = await server.readuntil(b"\r\n\r\n")
        writer.write(head)
        if size := re.search(rb"content-length: (\d+)", head, re.IGNORECASE):
            writer.write(await server.readexactly(int(size[1])))
            return True
        events = 0
        while True:
            line = await server.readuntil(b"\r\n")
            chunk = await server.readexactly(int(line, 16) + 2)
            events += chunk.count(b"data: ")
            writer.write(line + chunk)
            await writer.drain()
            if chunk == b"\r\n":
                return True
            if cut is not None and events >= cut:
                return False


@asynccontextmanager
async def behind_a_wire(servers: tuple[DemoProcess, DemoProcess], **tables: Any) -> AsyncIterator[House]:
    """A balancer that asks the first server, over a wire that may break, and the second where it must."""
    wire = Wire(servers[0].url)
    listener = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()[:2]
    try:
        async with open_house(
            model={"id": "tiny", "aliases": [], "engine": "vllm"},
            timeouts={"first_byte": "60s", "stall": "60s", "total": "120s"},
            **tables,
        ) as house:
            house.show(target("first", f"http://{host}:{port}"), target("second", servers[1].url, preferred=False))
            yield house
    finally:
        listener.close()


def target(name: str, url: str, **changes: Any) -> RouteTarget:
    return RouteTarget(ReplicaId(name), url, ZoneId("local/east/a"), Market.SPOT, api_key=KEY, **changes)


async def ask(http: aiohttp.ClientSession, url: str, body: dict[str, Any], cut: int | None = None) -> bytes:
    headers = AUTHORIZED if cut is None else {"X-Cut": str(cut)}
    async with http.post(url, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def hold_to_its_twin(
    house: House, servers: tuple[DemoProcess, DemoProcess], path: str, body: dict[str, Any]
) -> list[tuple[Told, Told]]:
    """Ask once for each place to cut at; returns the answers and the twin."""
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as http:
        uncut = await ask(http, servers[1].url + path, body)
        twin = read(uncut)
        places = range(1, uncut.count(b"data: "))
        answers = await asyncio.gather(*(ask(http, house.balancer.url + path, body, place) for place in places))
    told = [(read(answer), twin) for answer in answers]
    # vLLM may put several tokens into an event when it is busy: then there are fewer of them than the twin had.
    assert house.count("resumptions_total", result="ok") >= len(places) // 2
    print(f"{len(told)} cuts")
    return told


@pytest.mark.parametrize("case", [*BY_IDS, *BY_REPLAY])
async def test_a_stream_goes_on_wherever_it_is_cut(case: str, servers: tuple[DemoProcess, DemoProcess]) -> None:
    """Text, ids, calls, usage, finish reason: equal to the twin's behind every single event."""
    path, body = (BY_IDS | BY_REPLAY)[case]
    async with behind_a_wire(servers) as house:
        pairs = await hold_to_its_twin(house, servers, path, body)
        assert len(pairs) > 1
        for place, (told, twin) in enumerate(pairs, start=1):
            assert told.same == twin.same, f"cut behind event {place}"
            assert len(told.names) == 1


async def test_stop_strings_are_found_across_the_cut(servers: tuple[DemoProcess, DemoProcess]) -> None:
    """Stop strings taken from the very text that the model writes, in its middle."""
    body = chat("Say something about foxes.", max_tokens=40, ignore_eos=True, **USAGE)
    async with aiohttp.ClientSession() as http:
        text = read(await ask(http, servers[1].url + CHAT, body)).texts[0]
    for keep in (False, True):
        middle = len(text) // 2
        stops = {**body, "stop": [text[middle : middle + 4], "never said"], "include_stop_str_in_output": keep}
        async with behind_a_wire(servers) as house:
            for place, (told, twin) in enumerate(await hold_to_its_twin(house, servers, CHAT, stops), start=1):
                assert told.same == twin.same, f"cut behind event {place}"


async def test_a_sampled_stream_goes_on_and_ends(servers: tuple[DemoProcess, DemoProcess]) -> None:
    """There is no twin; there is one whole answer of the length that was asked for."""
    body = chat("Anything?", temperature=0.8, ignore_eos=True, max_tokens=20, **USAGE)
    async with behind_a_wire(servers) as house:
        for told, _ in await hold_to_its_twin(house, servers, CHAT, body):
            assert (told.finish, told.errors, told.done) == ({0: "length"}, [], 1)
            assert told.usage is not None
            assert told.usage["completion_tokens"] == 20


async def test_an_answer_without_a_bound_goes_on_to_the_end_of_the_context(
    servers: tuple[DemoProcess, DemoProcess],
) -> None:
    """max_tokens is not said: what is left of the context is asked for."""
    body = chat("Go on for ever.", ignore_eos=True, **USAGE)
    del body["max_tokens"]
    async with behind_a_wire(servers) as house, aiohttp.ClientSession() as http:
        twin = read(await ask(http, servers[1].url + CHAT, body))
        told = read(await ask(http, house.balancer.url + CHAT, body, 300))
        assert told.same == twin.same
        assert told.finish == {0: "length"}


async def test_a_long_answer_in_one_piece_is_continued(servers: tuple[DemoProcess, DemoProcess]) -> None:
    """The client never asked for a stream."""
    body = chat("Show emoji.", max_tokens=60, ignore_eos=True)
    del body["stream"]
    async with behind_a_wire(servers, failover={"collect_above": 10}) as house, aiohttp.ClientSession() as http:
        async with http.post(servers[1].url + CHAT, json=body, headers=AUTHORIZED) as response:
            twin = await response.json()
        async with http.post(house.balancer.url + CHAT, json=body, headers={"X-Cut": "30"}) as response:
            told = await response.json()
            assert response.headers["x-hedgeserve-resumed"] == "1"
        for key in ("object", "model", "choices", "usage"):
            assert told[key] == twin[key]


async def test_a_server_that_is_killed_loses_no_stream(servers: tuple[DemoProcess, DemoProcess]) -> None:
    """kill -9, engine and all, with streams in their middle; the last of these tests, for the server is gone."""
    first, second = servers
    body = chat("Say something about foxes.", max_tokens=300, ignore_eos=True, **USAGE)
    async with (
        open_house(
            model={"id": "tiny", "aliases": [], "engine": "vllm"}, timeouts={"first_byte": "60s", "total": "120s"}
        ) as house,
        aiohttp.ClientSession() as http,
    ):
        twin = read(await ask(http, second.url + CHAT, body))
        house.show(target("first", first.url), target("second", second.url, preferred=False))
        streams = [asyncio.create_task(ask(http, house.balancer.url + CHAT, body)) for _ in range(6)]
        before = first.metric("generation_tokens_total")
        await until(lambda: first.metric("generation_tokens_total") > before + 200)
        os.killpg(first.process.pid, signal.SIGKILL)
        for answer in await asyncio.gather(*streams):
            assert read(answer).same == twin.same
        assert house.count("resumptions_total", way="continue", result="ok") == 6
