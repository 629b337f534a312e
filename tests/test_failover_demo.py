"""Streams that are cut at every place, through a real balancer and real demo engines: nothing of it can be seen.

Each answer is compared with its twin, which the second engine gives when it is asked directly and left alone.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.demo_process import DemoProcess, demo_process
from tests.upstreams import CHAT, House, open_house

TEXT = "/v1/completions"
AT_ONCE = 24


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


@dataclass
class Told:
    """What a client makes of a stream, as the openai client would."""

    texts: dict[int, str] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    calls: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    ids: dict[int, list[int]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    names: set[tuple[str, int]] = field(default_factory=set)
    roles: int = 0
    done: int = 0
    tokens: int = 0

    @property
    def same(self) -> tuple[Any, ...]:
        """What must be equal to the twin's: all but ids and times of the answer itself."""
        calls = {place: call[1:] for place, call in self.calls.items()}
        return self.texts, self.finish, calls, self.usage, self.ids, self.errors, self.roles, self.done


def read(body: bytes) -> Told:
    """Read a whole stream."""
    told = Told()
    for line in body.decode().split("\n"):
        if not line.startswith("data: "):
            assert line == "", line
            continue
        if line == "data: [DONE]":
            told.done += 1
            continue
        event = json.loads(line[6:])
        if "error" in event:
            told.errors.append(event["error"]["message"])
            continue
        told.names.add((event["id"], event["created"]))
        told.usage = event.get("usage") or told.usage
        for choice in event["choices"]:
            index = choice["index"]
            delta = choice.get("delta", choice)
            text = (delta.get("content") if "delta" in choice else choice.get("text")) or ""
            told.texts[index] = told.texts.get(index, "") + text + (delta.get("reasoning") or "")
            told.roles += delta.get("role") is not None
            told.ids.setdefault(index, []).extend(choice.get("token_ids") or [])
            for call in delta.get("tool_calls") or ():
                known = told.calls.setdefault((index, call["index"]), [call.get("id") or "", "", ""])
                known[1] += call["function"].get("name") or ""
                known[2] += call["function"].get("arguments") or ""
            if choice.get("finish_reason"):
                told.finish[index] = choice["finish_reason"]
    return told


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


def chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "demo", "messages": messages, "stream": True, "temperature": 0, "max_tokens": 40, **fields}


def completion(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, "stream": True, "temperature": 0, "max_tokens": 40, **fields}


USAGE = {"stream_options": {"include_usage": True}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
BY_IDS = {
    "plain": (CHAT, chat("Tell me of foxes.", **USAGE)),
    "emoji": (CHAT, chat("Show emoji, many emoji.", **USAGE)),
    "Chinese": (CHAT, chat("Speak Chinese.", **USAGE)),
    "Hindi": (CHAT, chat("Speak Hindi and Korean.")),
    "a long prompt": (CHAT, chat("hello demo " * 40, **USAGE)),
    "sampled": (CHAT, chat("Anything?", temperature=0.8, **USAGE)),
    "completion": (TEXT, completion("The quick brown", **USAGE)),
    "completion in Chinese": (TEXT, completion("你好，Chinese emoji", **USAGE)),
    "ids as the prompt": (TEXT, completion([10, 11, 300, 301], **USAGE)),
    "the client's own ids": (TEXT, completion("emoji Hindi", return_token_ids=True)),
    "stop strings": (CHAT, chat("Tell me of foxes.", stop=["the harbour", " window", "song "], **USAGE)),
    "stop strings that are kept": (
        CHAT,
        chat("emoji foxes.", stop=[" the", "ri"], include_stop_str_in_output=True),
    ),
    "least tokens": (CHAT, chat("Be brief.", min_tokens=30, **USAGE)),
    "continuous usage": (
        TEXT,
        completion("emoji", stream_options={"include_usage": True, "continuous_usage_stats": True}),
    ),
}
BY_REPLAY = {
    "JSON": (CHAT, chat("Give JSON.", response_format={"type": "json_object"}, **USAGE)),
    "a schema": (CHAT, chat("Give JSON.", response_format=SCHEMA)),
    "a tool": (CHAT, chat("Weather?", tools=TOOLS, tool_choice="required", **USAGE)),
    "penalties": (CHAT, chat("Repeat.", presence_penalty=1.5, frequency_penalty=0.5, **USAGE)),
    "a seed": (CHAT, chat("Emoji.", seed=7, temperature=0.9, **USAGE)),
    "two choices": (CHAT, chat("Emoji.", n=2, seed=7, temperature=0.9, max_tokens=20)),
    "two prompts": (TEXT, completion(["The quick", "emoji emoji"], max_tokens=20)),
    "log-probabilities": (CHAT, chat("Hello.", logprobs=True, top_logprobs=1, max_tokens=16)),
}


async def hold_to_its_twin(
    house: House, frail: DemoProcess, sound: DemoProcess, path: str, body: dict[str, Any], kind: str
) -> int:
    """Ask once for each place to cut at; returns how many places there were.

    In batches: an engine that has been seen to fail is asked last for a while, and would not be cut any more. One
    that has been away is a new one.
    """
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http:
        _, uncut, _ = await ask(http, sound.url + path, body)
        twin = read(uncut)
        assert twin.finish, uncut
        places = range(1, uncut.count(b"data: "))
        answers = list[tuple[int, bytes, dict[str, str]]]()
        for first in range(0, len(places), AT_ONCE):
            house.show()
            house.show(target("frail", frail), target("sound", sound, preferred=False))
            answers += await asyncio.gather(
                *(
                    ask(http, house.balancer.url + path, body, f"{kind}={place}")
                    for place in places[first : first + AT_ONCE]
                )
            )
    for place, (status, answer, _) in zip(places, answers, strict=True):
        assert status == 200
        told = read(answer)
        assert told.same == twin.same, f"cut after {place} tokens"
        assert len(told.names) == 1
    return len(places)


@pytest.mark.parametrize("case", BY_IDS)
async def test_a_stream_is_continued_by_ids_wherever_it_is_cut(
    case: str, frail: DemoProcess, sound: DemoProcess
) -> None:
    """Text, ids, usage, finish reason, one id, one role: equal to the twin's after every single token."""
    path, body = BY_IDS[case]
    async with two_engines(frail, sound) as house:
        places = await hold_to_its_twin(house, frail, sound, path, body, "cut")
        assert house.count("resumptions_total", way="continue", result="ok") > max(5, places - AT_ONCE)


@pytest.mark.parametrize("case", BY_REPLAY)
async def test_what_cannot_be_continued_is_repeated_and_swallowed(
    case: str, frail: DemoProcess, sound: DemoProcess
) -> None:
    """JSON, tools, penalties, seeds, several choices: a state beside the ids makes a continuation wrong."""
    path, body = BY_REPLAY[case]
    async with two_engines(frail, sound) as house:
        assert await hold_to_its_twin(house, frail, sound, path, body, "cut") > 2
        assert house.count("resumptions_total", way="replay", result="ok") > 1


@pytest.mark.parametrize("kind", ["abort", "error", "stall"])
async def test_every_way_to_fail_is_a_cut(kind: str, frail: DemoProcess, sound: DemoProcess) -> None:
    """An abort, an error in the stream, silence: none of them reaches the client."""
    timeouts = {"stall": "400ms"}
    async with two_engines(frail, sound, timeouts=timeouts) as house:
        assert await hold_to_its_twin(house, frail, sound, CHAT, chat("Show emoji.", **USAGE), kind) > 5


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
