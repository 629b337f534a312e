"""Engines and clients may say anything: failover understands it or leaves it alone, and never stumbles."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.proxy.boundary import Boundary
from hedgeserve.proxy.failover import Call, FailoverPolicy, Finished, GiveUp, Resume, Telling, approach
from hedgeserve.proxy.record import Record
from hedgeserve.proxy.replaying import Replayed
from hedgeserve.proxy.resumed import Resumed
from hedgeserve.proxy.routes import FORWARDED
from hedgeserve.proxy.wrapping import Wrapping

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["stop", "a"])
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def tables(*keys: str, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    free: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(keys, values)
    return st.fixed_dictionaries({}, optional={**free, **fixed})


functions = tables("name", "arguments")
tool_calls = st.lists(tables("index", "id", "type", function=functions | values), max_size=2)
deltas = tables("role", "content", "reasoning", "refusal", tool_calls=tool_calls | values)
logprobs = tables("content", "tokens", "token_logprobs")
choices = tables(
    "index",
    "text",
    "finish_reason",
    "stop_reason",
    "token_ids",
    "prompt_token_ids",
    delta=deltas | values,
    logprobs=logprobs | values,
)
events = tables(
    "id",
    "created",
    "model",
    "usage",
    "system_fingerprint",
    "prompt_token_ids",
    "error",
    choices=st.lists(choices | values, max_size=2) | values,
)
streams = st.lists(events | values, max_size=6).map(
    lambda told: b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in told) + b"data: [DONE]\n\n"
)
requests = tables(
    "model",
    "temperature",
    "seed",
    "n",
    "best_of",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "prompt",
    "messages",
    "tools",
    "tool_choice",
    "stream_options",
    "return_token_ids",
    "logprobs",
    "echo",
    "suffix",
    "response_format",
    "chat_template_kwargs",
    "reasoning",
    "include_reasoning",
    "presence_penalty",
    stream=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/messages"]),
    requests,
    streams,
    streams,
    st.text(),
)
def test_whatever_is_asked_and_answered_there_is_a_next_step(
    path: str, fields: dict[str, Any], first: bytes, second: bytes, told: str
) -> None:
    """A value of the wrong type is the engine's to refuse."""
    route = FORWARDED[path]
    policy = FailoverPolicy()
    body = json.dumps(fields).encode()
    way = approach(route, fields, body, policy, dice=lambda: 0.1)
    telling = Telling(route, body, way, policy, keep=lambda _: True)
    stream = telling.first()
    stream.feed(first)
    stream.close()
    for _ in range(3):
        recovery = telling.recover()
        if isinstance(recovery, GiveUp):
            assert recovery.why
            break
        step = recovery.start()
        for _ in range(200):
            if not isinstance(step, Call):
                break
            step = recovery.got(200, json.dumps({"prompt": told, "max_model_len": 99}).encode())
        assert not isinstance(step, Call)
        if isinstance(step, Finished | GiveUp):
            break
        assert isinstance(step, Resume)
        step.stream.feed(second)
        step.stream.close()
    if way.collect:
        json.loads(telling.whole())
    telling.close()


@settings(max_examples=150, deadline=None)
@given(streams)
def test_streams_that_go_on_take_anything(stream: bytes) -> None:
    """What cannot be understood does not reach the client, or ends the answer honestly."""
    record = Record(text=True, ids=True, needed=False, limit_bytes=2**20, keep=lambda _: True)
    wrapping = Wrapping(record, {}, chat=True, collect=False)
    wrapping.chunk("a", [4, 5], completion=2)
    Replayed(record, hide_ids=True, choices=1).feed(stream)
    Resumed(record, wrapping, Boundary(1, "a", "p")).feed(stream)
