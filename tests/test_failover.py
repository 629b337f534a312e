"""Answers that lose their replica anywhere in them: the client cannot tell."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.proxy.failover import (
    Approach,
    Call,
    FailoverPolicy,
    Finished,
    GiveUp,
    Resume,
    Stream,
    Telling,
    Way,
    approach,
)
from hedgeserve.proxy.routes import FORWARDED
from tests.smallmodel import SmallModel, encode

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
POLICY = FailoverPolicy()


def request(prompt: str | list[int] = "Say", *, chat: bool = True, **more: Any) -> tuple[str, dict[str, Any]]:
    fields: dict[str, Any] = {"model": "small", "temperature": 0, "stream": True}
    if chat:
        return CHAT, {**fields, "messages": [{"role": "user", "content": prompt}], **more}
    return COMPLETIONS, {**fields, "prompt": prompt, **more}


@dataclass
class Client:
    """What a client makes of a stream."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: list[tuple[str, Any]] = field(default_factory=list)
    usage: Any = None
    heads: set[tuple[str, int, str, str]] = field(default_factory=set)
    roles: int = 0
    done: int = 0
    prompts: int = 0
    fingerprints: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, stream: bytes) -> "Client":
        client = cls()
        assert not stream or stream.endswith(b"\n\n")
        for event in stream.split(b"\n\n")[:-1]:
            data = event.removeprefix(b"data: ")
            assert not client.done, "something comes after [DONE]"
            if data == b"[DONE]":
                client.done += 1
                continue
            client._take(json.loads(data))
        return client

    def must_equal(self, whole: "Client") -> None:
        """All but the id and time, and the fingerprint where the end had to be said by us."""
        assert len(self.heads) == 1
        assert self.fingerprints <= whole.fingerprints
        assert replace(self, heads=whole.heads, fingerprints=whole.fingerprints) == whole

    def _take(self, event: dict[str, Any]) -> None:
        self.heads.add((event["id"], event["created"], event["model"], event["object"]))
        self.usage = event.get("usage") or self.usage
        self.prompts += bool(event.get("prompt_token_ids"))
        if event.get("system_fingerprint"):
            self.fingerprints.add(event["system_fingerprint"])
        for choice in event["choices"]:
            delta = choice.get("delta")
            self.roles += delta is not None and "role" in delta
            self.text += choice["text"] if delta is None else delta.get("content", "")
            self.ids += choice.get("token_ids") or []
            self.prompts += bool(choice.get("prompt_token_ids"))
            if choice["finish_reason"]:
                self.finish.append((choice["finish_reason"], choice.get("stop_reason")))


@dataclass
class Told:
    """What became of one telling."""

    out: bytes
    telling: Telling
    way: Approach
    gave_up: str = ""
    calls: int = 0

    @property
    def client(self) -> Client:
        return Client.of(self.out)


def tell(
    model: SmallModel,
    path: str,
    fields: dict[str, Any],
    cuts: Iterable[int] = (),
    *,
    policy: FailoverPolicy = POLICY,
    slices: Callable[[bytes], list[bytes]] = lambda data: [data],
    keep: Callable[[int], bool] = lambda _: True,
    detokenize: bool = True,
) -> Told:
    """Play the balancer: each attempt is cut after so many events, the last one is not."""
    body = json.dumps(fields).encode()
    route = FORWARDED[path]
    way = approach(route, fields, body, policy, dice=lambda: 0.25)
    telling = Telling(route, fields, way, policy, keep=keep)
    told = Told(b"", telling, way)
    remaining = list(cuts)

    def play(stream: Stream, events: Sequence[bytes]) -> bool:
        cut = remaining.pop(0) if remaining else None
        for piece in slices(b"".join(events if cut is None else events[:cut])):
            told.out += stream.feed(piece)
        if cut is None:
            told.out += stream.close()
        return stream.complete and stream.done and not stream.failure

    if play(telling.first(), model.answer(path, way.body)):
        return told
    for _ in range(20):
        if not telling.begun and not way.collect:
            if play(telling.first(), model.answer(path, way.body)):
                return told
            continue
        recovery = telling.recover()
        if isinstance(recovery, GiveUp):
            told.gave_up = recovery.why
            return told
        step = recovery.start()
        while isinstance(step, Call):
            told.calls += 1
            assert step.path == "/detokenize"
            step = recovery.got(200, model.detokenize(step.body)) if detokenize else recovery.got(404, b"")
        if isinstance(step, GiveUp):
            told.gave_up = step.why
            return told
        if isinstance(step, Finished):
            told.out += step.payload
            return told
        assert isinstance(step, Resume)
        if play(step.stream, model.answer(step.path, step.body)):
            return told
    raise AssertionError("no end")


REQUESTS = [
    request("Hi"),
    request("Rocket", max_tokens=33),
    request("日本", max_completion_tokens=20, max_tokens=5),
    request("Hi", chat=False, max_tokens=50),
    request("Other", chat=False),
    request(encode("by ids"), chat=False, max_tokens=30),
    request("usage", stream_options={"include_usage": True}),
    request("running usage", stream_options={"include_usage": True, "continuous_usage_stats": True}),
    request("running", chat=False, max_tokens=30, stream_options={"include_usage": True}),
    request("ids", return_token_ids=True, stream_options={"include_usage": True}),
    request("ids", chat=False, return_token_ids=True, max_tokens=40),
    request("least", min_tokens=25, max_tokens=45),
    request("truncated", chat=False, truncate_prompt_tokens=4, max_tokens=30),
    request(encode("half 🚀")[:-2], chat=False, max_tokens=30),
    *(
        request(prompt, chat=chat, stop=stop, include_stop_str_in_output=kept, max_tokens=60, return_token_ids=ids)
        for prompt, chat, stop, kept, ids in [
            ("one", True, ["moon"], False, False),
            ("two", True, ["stop", "fox fox fox fox fox"], False, True),
            ("three", False, "e.", False, False),
            ("four", False, ["the of", "\n\n", "a:"], True, False),
            ("five", True, ["=====", "ad"], True, True),
            ("six", True, ["海"], False, False),
        ]
    ),
]


def sizes(seed: int) -> Callable[[], int]:
    dice = random.Random(seed)
    return lambda: dice.choice((1, 1, 1, 2, 3, 7))


@pytest.mark.parametrize("weird", [False, True])
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_a_cut_anywhere_leaves_no_trace(number: int, chunks: int, weird: bool) -> None:
    """Text, ids, sums and finish are those of the answer that was not cut, under one id, with one role and end."""
    path, fields = REQUESTS[number]
    grain = lambda: sizes(chunks) if chunks else lambda: 1  # noqa: E731
    model = SmallModel(weird=weird, sizes=grain())
    events = model.answer(path, json.dumps(fields).encode())
    whole = Client.of(b"".join(events))
    for cut in range(len(events)):
        model.sizes = grain()
        told = tell(model, path, fields, [cut])
        assert told.gave_up == "", cut
        assert told.way.way is Way.CONTINUE
        told.client.must_equal(whole)
    assert {asked for asked, _ in model.asked} <= {path, COMPLETIONS, "/detokenize"}
