"""Answers of a real vLLM, cut after every event and gone on with by another one: nothing of it can be seen.

Two servers with the same weights, a real balancer, and a proxy that breaks the first one's answers. Each answer is
compared with its twin, which the second server gives when it is asked directly and left alone. The tiny model
writes noise: characters come in pieces, ids are not those that its text would have, and nothing is likely.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests import vllm_server
from tests.cutting import Cut, CuttingProxy, cutting_proxy
from tests.demo_process import DemoProcess
from tests.streams import Told, read
from tests.upstreams import House, open_house
from tests.vllm_rows import CHAT, FORMAT, NAMED, TEXT, TOOL, kinds

pytestmark = [
    pytest.mark.vllm,
    # Loading takes minutes on two cores, and the first test waits for it.
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        "HEDGESERVE_VLLM_PYTHON" not in os.environ,
        reason="set HEDGESERVE_VLLM_PYTHON to the interpreter of an environment with vLLM",
    ),
]

AT_ONCE = 16
SPARE = 8
"""More replicas than cuts: each cut makes the balancer shun one for a while, and the next must be asked first."""


class Servers(NamedTuple):
    """Real vLLM servers with the same weights."""

    model: Path
    frail: DemoProcess
    sound: DemoProcess
    coarse: DemoProcess
    """One that puts three tokens into an event."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All that the tests need, loaded once and at once."""
    model = vllm_server.make_model(tmp_path_factory.mktemp("model"))
    options = ((), (), ("--stream-interval", "3"))
    with vllm_server.vllm_servers(model, tmp_path_factory.mktemp("work"), *options) as started:
        yield Servers(model, *started)


class Place(NamedTuple):
    """A balancer, and the proxy before all of its replicas."""

    house: House
    proxy: CuttingProxy
    sound: DemoProcess
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.house.balancer.url


@asynccontextmanager
async def place(servers: Servers, *, coarse: bool = False, **tables: Any) -> AsyncIterator[Place]:
    """A balancer whose replicas are all behind the proxy."""
    frail = servers.coarse if coarse else servers.frail
    patience = dict.fromkeys(("first_byte", "stall", "queue"), "60s") | {"total": "120s"}
    tables["timeouts"] = {**patience, **tables.get("timeouts", {})}
    tables.setdefault("model", {"id": "tiny", "aliases": []})
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with (
        cutting_proxy(frail.url, servers.sound.url) as proxy,
        open_house(**tables) as house,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=150)) as http,
    ):
        yield Place(house, proxy, servers.sound, http)


def show(at: Place, count: int) -> None:
    """Show so many replicas."""
    zone = ZoneId("local/east/a")
    targets = [RouteTarget(ReplicaId(f"r{number}"), at.proxy.url, zone, Market.SPOT) for number in range(count)]
    at.house.show(*targets)


async def ask(at: Place, path: str, body: dict[str, Any], cut: str = "") -> tuple[int, bytes]:
    """Ask through the balancer, to be cut as is said; the sound server itself where nothing is."""
    url = at.url if cut else at.sound.url
    async with at.http.post(url + path, json=body, headers={"x-cut": cut} if cut else {}) as response:
        return response.status, await response.read()


def chat(text: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": [{"role": "user", "content": text}], **COMMON, **fields}


def completion(prompt: Any, **fields: Any) -> tuple[str, dict[str, Any]]:
    return TEXT, {"prompt": prompt, **COMMON, **fields}


def logprobs(body: bytes) -> dict[int, list[Any]]:
    """All that a stream tells of likelihoods, rounded: the last digits depend on who else is in the batch."""
    told: dict[int, list[Any]] = {}
    for event in events(body):
        for choice in event.get("choices", ()):
            given = choice.get("logprobs") or {}
            entries = given.get("content") or list(
                zip(*(given.get(key) or () for key in ("tokens", "token_logprobs", "text_offset")), strict=True)
            )
            told.setdefault(choice["index"], []).extend(rounded(entry) for entry in entries)
    return told


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def shapes(body: bytes) -> set[str]:
    """The kinds of its events; fingerprints aside, of which the only one may be lost (see below)."""
    told = events(body)
    for event in told:
        event.pop("system_fingerprint", None)
    return kinds(told)


def events(body: bytes) -> list[dict[str, Any]]:
    lines = body.decode().split("\n\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def cut_everywhere(
    at: Place, request: tuple[str, dict[str, Any]], kind: Cut = Cut.CLOSE, places: Sequence[int] | None = None
) -> tuple[bytes, list[bytes]]:
    """The twin, and the answers that were cut after every event (or at ``places``)."""
    path, body = request
    for _ in range(5):
        _, twin = await ask(at, path, body)
        assert read(twin).finish, twin
        # A busy machine may put many tokens into an event: then the twin lacks kinds of events that others have.
        if "stream_interval" in body or len(re.findall(rb'"finish_reason":\s?null', twin)) > 1:
            break
    if places is None:
        # A busy machine may have put many tokens into an event just now.
        tokens = 0 if "stream_interval" in body else (read(twin).usage or {}).get("completion_tokens", 0)
        places = range(max(twin.count(b"data: "), tokens + 1))
    show(at, len(places) + SPARE)
    before = at.proxy.cut.total()
    answers = await asyncio.gather(
        *(ask(at, path, body, f"{before}-{number} {kind} {number}") for number in places)
    )
    cuts = at.proxy.cut.total() - before
    assert cuts == len(places), f"{cuts} cuts at {len(places)} places"
    assert {status for status, _ in answers} == {200}
    print(f"CUTS {len(places)} at {len(at.proxy.cut)} places")
    return twin, [answer for _, answer in answers]


def hold_to(twin: bytes, answers: Sequence[bytes]) -> list[Told]:
    """Each answer is equal to its twin."""
    expected, likely = read(twin), logprobs(twin)
    told = [read(answer) for answer in answers]
    wrong = {
        number: (each.same, expected.same)
        for number, (each, answer) in enumerate(zip(told, answers, strict=True))
        if each.same != expected.same or logprobs(answer) != likely
    }
    assert not wrong, (
        f"{len(wrong)} of {len(told)} differ, after events {list(wrong)}: {next(iter(wrong.values()))}"
    )
    assert all(len(each.names) == 1 for each in told)
    return told


COMMON = {"model": "tiny", "stream": True, "temperature": 0, "max_tokens": 32, "ignore_eos": True}
SUMS = {"stream_options": {"include_usage": True}}
ALL_SUMS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
PROMPTS = {
    "English": "The lighthouse keeper writes a letter",
    "emoji": "Ring 🌊🚀 the bells 👩‍👩‍👧‍👦",
    "Japanese": "灯台守は毎晩手紙を書く。",
    "Hindi": "नमस्ते दुनिया, घंटी",
    "code": "def bell(x):\n    return x - y",
    "JSON": '{"key": [1, 2, {"name": ',
    "Chinese": "雾很大的时候，钟声回答钟声",
    "Arabic": "الجرس يجيب الجرس",
}
PLAIN = {
    **{f"a chat in {name}": chat(text, **SUMS) for name, text in PROMPTS.items()},
    **{f"a completion in {name}": completion(text, **SUMS) for name, text in PROMPTS.items()},
    "ids as the prompt": completion([10, 11, 300, 301, 17], **SUMS),
    "ids that end inside a character": completion([10, 11, 172, 253], **SUMS),
    "without sums": chat("Ring"),
    "all sums of a completion": completion("Ring 🌊", **ALL_SUMS),
    "all sums of a chat": chat("Ring 🌊", **ALL_SUMS),
    "the client's own ids": completion("Ring 🌊 bells", return_token_ids=True, **SUMS),
    "the client's own ids of a chat": chat("Ring 🌊 bells", return_token_ids=True),
    "a completion of as many tokens as are usual": completion("Ring", max_tokens=None, **SUMS),
    "a bias": chat("Ring", logit_bias={"75": 3, "80": 4.5, "99": -100}, **SUMS),
    "allowed tokens": chat("Ring", allowed_token_ids=list(range(60, 130)), **SUMS),
    "a prompt that is cut short": completion(
        "Ring the bell. " * 30, truncate_prompt_tokens=50, truncation_side="left", **SUMS
    ),
    "a chat that is cut short": chat("Ring the bell. " * 30, truncate_prompt_tokens=50, **SUMS),
    "a prompt that is cached": completion("Ring the bell 🌊. " * 30, cache_salt="a", **SUMS),
    "the prompt shown": chat("Ring", return_prompt_text=True, user="somebody"),
    "a penalty on repetition": completion("The bell", repetition_penalty=1.3, **SUMS),
    "tokens that stop": chat("Ring", stop_token_ids=[2, 60, 61, 62, 63, 64, 65, 66], min_tokens=12, **SUMS),
    "an end": chat("Ring", ignore_eos=False, logit_bias={"2": 100}, min_tokens=21, **SUMS),
    "an end of a completion": completion("Ring", ignore_eos=False, logit_bias={"2": 100}, min_tokens=21, **SUMS),
    "special tokens shown": completion("Ring", logit_bias={"1": 9, "2": 9}, skip_special_tokens=False, **SUMS),
    "special tokens hidden": completion("Ring", logit_bias={"1": 9, "2": 9}, **SUMS),
    "special tokens hidden, a stop string": chat(
        "Ring 🌊", logit_bias={"1": 6, "0": 6}, max_tokens=60, stop=["never to be found"], **SUMS
    ),
    "no tools": chat("Ring", tools=[TOOL], tool_choice="none", **SUMS),
    "an answer that was begun by the client": chat(
        "Ring",
        messages=[{"role": "user", "content": "Ring"}, {"role": "assistant", "content": "The bell 🌊"}],
        add_generation_prompt=False,
        continue_final_message=True,
        **SUMS,
    ),
    "four tokens in an event": chat("Ring 🌊", stream_interval=4, max_tokens=60, **SUMS),
    "five tokens in an event, and their ids": completion(
        "Ring 🌊", stream_interval=5, max_tokens=60, return_token_ids=True, **SUMS
    ),
}
FAR = "Ring the bell 🌊 and wave a lantern at nobody. " * 60
REPLAYED = {
    "a schema": chat("Ring", response_format=FORMAT, max_tokens=200, ignore_eos=False, **SUMS),
    "any JSON": chat("Ring", response_format={"type": "json_object"}, ignore_eos=False, max_tokens=40),
    "one of two words": completion(
        "Ring", structured_outputs={"choice": ["a big bell", "small"]}, ignore_eos=False
    ),
    "a pattern": completion("Ring", structured_outputs={"regex": "(bell|🌊)+"}, ignore_eos=False, **SUMS),
    "a tool": chat("Ring", tools=[TOOL], tool_choice="required", max_tokens=200, ignore_eos=False, **SUMS),
    "a tool by name": chat("Ring", tools=[TOOL], tool_choice=NAMED, max_tokens=200, ignore_eos=False),
    "a tool that may be": chat("Ring 🌊", tools=[TOOL], **SUMS),
    "a tool with ids": chat(
        "Ring", tools=[TOOL], tool_choice="required", max_tokens=200, ignore_eos=False, return_token_ids=True
    ),
    "a call cut short": chat("Ring", tools=[TOOL], tool_choice="required", max_tokens=9, ignore_eos=False),
    "a seed": chat("Ring 🌊", seed=7, temperature=1, **SUMS),
    "a seed of a completion": completion("Ring 🌊", seed=8, temperature=0.7, top_p=0.9, top_k=50, **SUMS),
    "a seed and ids": completion("Ring 🌊", seed=9, temperature=1, return_token_ids=True, **SUMS),
    "bad words": chat("Ring", bad_words=["e", " the", "1"], **SUMS),
    "penalties": chat("Ring", presence_penalty=1.5, frequency_penalty=0.5, **SUMS),
    "two choices": chat("Ring", n=2, seed=7, temperature=0.9, max_tokens=20, **SUMS),
    "two choices of a completion": completion("Ring", n=2, seed=7, temperature=0.9, max_tokens=20),
    "two choices with tools": chat(
        "Ring",
        n=2,
        seed=27,
        temperature=1,
        tools=[TOOL],
        tool_choice="required",
        max_tokens=200,
        ignore_eos=False,
        **SUMS,
    ),  # each of which ends by itself: of a call that max_tokens cuts short, see below
    "two choices and their ids": completion(
        "Ring 🌊", n=2, seed=5, temperature=1, return_token_ids=True, max_tokens=20, **ALL_SUMS
    ),
    "two prompts": completion(["The bell 🌊", "灯台守"], max_tokens=20, **SUMS),
    "two prompts of ids": completion([[10, 11], [12, 13, 14]], max_tokens=20, return_token_ids=True),
    "log-probabilities": chat("Ring", logprobs=True, top_logprobs=2, max_tokens=20, **SUMS),
    "log-probabilities of a completion": completion("Ring", logprobs=2, max_tokens=20, **SUMS),
    "log-probabilities of ids": completion("Ring 🌊", logprobs=1, return_tokens_as_token_ids=True, **SUMS),
    "four likely tokens in an event": completion(
        "Ring 🌊", stream_interval=4, logprobs=1, seed=4, temperature=1, **SUMS
    ),
    "an echo": completion("Ring 🌊", echo=True, max_tokens=20, **SUMS),
    "going in circles": completion(
        "chorus",
        max_tokens=60,
        repetition_detection={"max_pattern_size": 2, "min_pattern_size": 1, "min_count": 2},
    ),
}
COLLECTED = {
    **{
        case: PLAIN[case]
        for case in ("a chat in emoji", "a completion in Hindi", "an end", "the client's own ids")
    },
    **{case: PLAIN[case] for case in ("the client's own ids of a chat", "ids that end inside a character")},
    **{case: REPLAYED[case] for case in ("a schema", "a seed", "penalties", "two choices")},
    "two prompts, two choices": completion(["Ring", "🌊"], n=2, seed=3, temperature=1, max_tokens=12),
    "a stop string": chat("Ring", stop=["t"], ignore_eos=False),
    "a stop string that is kept": completion(PROMPTS["English"], stop=["9 e"], include_stop_str_in_output=True),
}


@pytest.mark.parametrize("case", PLAIN)
async def test_a_plain_answer_goes_on_by_its_ids_wherever_it_is_cut(case: str, servers: Servers) -> None:
    """Text, ids, sums, finish reason, one id, one role: equal to the twin's after every single event."""
    async with place(servers) as at:
        twin, answers = await cut_everywhere(at, PLAIN[case])
        hold_to(twin, answers)
        for answer in answers:
            assert shapes(answer) <= shapes(twin), (answer, twin)
        assert at.house.count("resumptions_total", way="continue", result="ok") > 0


@pytest.mark.parametrize("case", REPLAYED)
async def test_what_cannot_be_continued_is_repeated_and_swallowed(case: str, servers: Servers) -> None:
    """Grammars, tools, penalties, seeds, several choices, likelihoods: told from the start, and joined unseen."""
    async with place(servers) as at:
        hold_to(*await cut_everywhere(at, REPLAYED[case]))
        assert at.house.count("resumptions_total", way="replay", result="ok") > 0


async def test_a_call_that_is_cut_short_is_told_as_its_engine_batches(servers: Servers) -> None:
    """What docs/failover.md says of such calls, of vLLM alone: with the same tokens, only fewer events of them."""
    async with place(servers) as at:
        path, body = chat("Ring", tools=[TOOL], tool_choice="required", ignore_eos=False, seed=5, temperature=1)
        told = set[str]()
        for interval in [64] + [1] * 20:
            _, answer = await ask(at, path, {**body, "stream_interval": interval})
            told |= {call[2] for call in read(answer).calls.values()}
        assert told == {"", "{}"}


@pytest.mark.parametrize("kind", list(Cut))
@pytest.mark.parametrize("case", ["a chat in emoji", "a completion in Hindi"])
async def test_every_way_to_fail_is_a_cut(case: str, kind: Cut, servers: Servers) -> None:
    """Closed, reset, half an event, silence, a clean end too early, an error: none of them reaches the client."""
    timeouts = {"stall": "3s"} if kind is Cut.SILENCE else {}
    async with place(servers, timeouts=timeouts) as at:
        places = range(1, 30, 2) if kind is Cut.SILENCE else None
        hold_to(*await cut_everywhere(at, PLAIN[case], kind, places))


@pytest.mark.parametrize("case", [*list(PLAIN)[:12], "the client's own ids", "an end"])
async def test_several_tokens_in_an_event_are_cut_between_events(case: str, servers: Servers) -> None:
    """An event of three tokens may end inside a character: what was held back of it comes again."""
    async with place(servers, coarse=True) as at:
        path, body = PLAIN[case]
        hold_to(*await cut_everywhere(at, (path, {**body, "max_tokens": 60})))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("request_of", [chat, completion])
@pytest.mark.parametrize("name", ["English", "emoji", "Japanese"])
async def test_a_stop_string_across_the_cut_ends_the_answer(
    name: str, request_of: Any, keep: bool, servers: Servers
) -> None:
    """Of the twin's own text, so that it comes: half of it was generated before the cut, half of it behind."""
    async with place(servers) as at:
        path, body = request_of(PROMPTS[name], **SUMS)
        _, uncut = await ask(at, path, body)
        text = read(uncut).texts[0]
        for start, length in ((12, 2), (20, 4), (18, 9)):
            stop = ["never to be found", text[start : start + length]]
            more = {**body, "stop": stop, "include_stop_str_in_output": keep}
            twin, answers = await cut_everywhere(at, (path, more))
            assert read(twin).finish == {0: "stop"}
            hold_to(twin, answers)


@pytest.mark.parametrize("name", ["English", "emoji", "code"])
async def test_a_bad_word_across_the_cut_is_not_written(name: str, servers: Servers) -> None:
    """Its first token was generated before the cut: the ban on the second is known only to who generated both."""
    async with place(servers) as at:
        path, body = completion(PROMPTS[name], **SUMS)
        for word in await own_words(at, PROMPTS[name]):
            twin, answers = await cut_everywhere(at, (path, {**body, "bad_words": [word]}))
            hold_to(twin, answers)


async def own_words(at: Place, prompt: str) -> list[str]:
    """Some of what is written after a prompt that is two tokens and would be read as the same two."""
    _, uncut = await ask(at, *completion(prompt, return_token_ids=True))
    ids = read(uncut).ids[0]
    words = []
    for pair in pairwise(ids[2:-1]):
        word = at.sound.ask("/detokenize", {"tokens": pair}).json["prompt"]
        again = at.sound.ask("/tokenize", {"prompt": word}).json["tokens"]
        if tuple(again) == pair and "\ufffd" not in word:
            words.append(word)
    assert words
    return words[:3]


async def test_stop_strings_count_only_after_the_least_tokens(servers: Servers) -> None:
    """With min_tokens a stop string that comes too early is plain text, on whichever side of the cut."""
    async with place(servers) as at:
        path, body = chat("Ring", **SUMS)
        text = read((await ask(at, path, body))[1]).texts[0]
        more = {**body, "stop": [text[5:8], text[-6:-3]], "min_tokens": 16}
        hold_to(*await cut_everywhere(at, (path, more)))


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_to_the_end_of_the_context_ends_there(field: str, servers: Servers) -> None:
    """Nobody has said how many tokens: what is left of the context is asked of the replica that goes on."""
    async with place(servers) as at:
        path, body = chat(FAR, **SUMS)
        del body["max_tokens"]
        tokens = at.sound.ask("/tokenize", {"messages": body["messages"]}).json["count"]
        body["messages"] = [{"role": "user", "content": FAR[: len(FAR) * 980 // tokens]}]
        body[field] = None
        twin, answers = await cut_everywhere(at, (path, body))
        told = read(twin)
        assert told.usage is not None
        assert (told.finish, told.usage["total_tokens"]) == ({0: "length"}, 1024)
        hold_to(twin, answers)


@pytest.mark.parametrize("fields", [{}, {"stop": ["a", "e"], "ignore_eos": False}, {"return_token_ids": True}])
@pytest.mark.parametrize("request_of", [chat, completion])
async def test_a_sampled_answer_keeps_its_form(request_of: Any, fields: dict[str, Any], servers: Servers) -> None:
    """Without a seed no twin exists: one role, one end, and exactly as many tokens as were asked for."""
    async with place(servers) as at:
        path, body = request_of("Ring 🌊", temperature=1, **SUMS, **fields)
        _, answers = await cut_everywhere(at, (path, body), places=range(2, 12 if fields.get("stop") else 30, 2))
        for told in map(read, answers):
            assert (told.errors, told.done, len(told.names)) == ([], 1, 1)
            assert told.roles == (path == CHAT)
            assert told.usage is not None
            if fields.get("stop"):
                assert told.finish == {0: "stop"}
                assert not any(stop in told.texts[0] for stop in fields["stop"])
            else:
                assert (told.finish, told.usage["completion_tokens"]) == ({0: "length"}, 32)
            if fields.get("return_token_ids"):
                assert len(told.ids[0]) == 32


@pytest.mark.parametrize("fields", [{"response_format": FORMAT}, {"tools": [TOOL], "tool_choice": "required"}])
async def test_a_sampled_answer_of_a_grammar_is_drawn_again_alike(
    fields: dict[str, Any], servers: Servers
) -> None:
    """The balancer gives it a seed of its own, so that what was told comes again and is whole in the end."""
    async with place(servers) as at:
        request = chat("Ring 🌊", temperature=1, max_tokens=200, ignore_eos=False, **fields)
        _, answers = await cut_everywhere(at, request, places=range(1, 25, 2))
        for told in map(read, answers):
            assert (told.errors, told.done, len(told.names), told.roles) == ([], 1, 1, 1)
            if "tools" in fields:
                assert all(name == "ring" for _, name, _ in told.calls.values())
            elif told.finish == {0: "stop"}:
                assert json.loads(told.texts[0]) == {"bell": "big"}


@pytest.mark.parametrize("case", COLLECTED)
async def test_an_answer_in_one_piece_is_collected_over_the_cut(case: str, servers: Servers) -> None:
    """A long one is asked for as a stream, and is what vLLM would have said in one piece, key for key."""
    async with place(servers, failover={"collect_above": 8}) as at:
        path, body = COLLECTED[case]
        whole = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
        twin = json.loads((await ask(at, path, whole))[1])
        places = range(1, twin["usage"]["completion_tokens"])
        show(at, len(places) + SPARE)
        answers = await asyncio.gather(*(ask(at, path, whole, f"{number} close {number}") for number in places))
        assert at.proxy.cut.total() == len(places)
        for status, answer in answers:
            assert status == 200
            told = json.loads(answer)
            # vLLM says its fingerprint with the very last event: it is not known where that one was lost.
            assert told["system_fingerprint"] in (twin["system_fingerprint"], None)
            same = {key: told[key] for key in ("id", "created")}
            assert {**told, "system_fingerprint": twin["system_fingerprint"]} == {**twin, **same}


async def test_the_prompt_is_never_given_out_again(servers: Servers) -> None:
    """What vLLM does with ids that end inside a character would show a client the system prompt."""
    secret = "The password of the harbour is swordfish."
    async with place(servers) as at:
        path, body = chat("Ring 🌊 灯台 नमस्ते", max_tokens=60)
        body["messages"].insert(0, {"role": "system", "content": secret})
        twin, answers = await cut_everywhere(at, (path, body))
        assert not any(b"swordfish" in answer for answer in answers)
        hold_to(twin, answers)


async def test_a_server_that_is_killed_loses_nothing(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SIGKILL to all of its processes with streams of many kinds in flight: each is equal to its twin."""
    requests = [*list(PLAIN.values())[:16], *list(REPLAYED.values())[:14]]
    requests = [(path, {**body, "max_tokens": max(400, body["max_tokens"] or 0)}) for path, body in requests]
    with vllm_server.vllm_servers(servers.model, tmp_path_factory.mktemp("doomed"), ()) as [doomed]:
        async with place(servers) as at:
            twins = [await ask(at, path, body) for path, body in requests]
            zone = ZoneId("local/east/a")
            at.house.show(
                RouteTarget(ReplicaId("doomed"), doomed.url, zone, Market.SPOT),
                RouteTarget(ReplicaId("sound"), servers.sound.url, zone, Market.SPOT, preferred=False),
            )
            under_way, many = set[int](), asyncio.Event()

            async def follow(number: int, path: str, body: dict[str, Any]) -> bytes:
                told = b""
                async with at.http.post(at.url + path, json=body) as response:
                    assert response.status == 200
                    async for payload in response.content.iter_any():
                        told += payload
                        if told.count(b"data: ") > 5:
                            under_way.add(number)
                            if len(under_way) > 5:
                                many.set()
                return told

            answers = [asyncio.create_task(follow(number, *each)) for number, each in enumerate(requests)]
            await many.wait()
            vllm_server.kill(doomed)
            for (_, twin), answer in zip(twins, await asyncio.gather(*answers), strict=True):
                hold_to(twin, [answer])
            assert at.house.count("resumptions_total", result="ok") > 4
