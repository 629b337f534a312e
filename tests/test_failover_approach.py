"""How a request is asked for, so that its answer survives its replica; and that clients' bytes stay theirs."""

import json
from typing import Any

import pytest

from hedgeserve.proxy.failover import Approach, FailoverPolicy, Way, approach
from hedgeserve.proxy.routes import FORWARDED

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def chosen(path: str = CHAT, policy: FailoverPolicy | None = None, **fields: Any) -> Approach:
    given = {"model": "m", "stream": True, **fields}
    given.setdefault("messages" if path == CHAT else "prompt", [] if path == CHAT else "p")
    return approach(
        FORWARDED[path], given, json.dumps(given).encode(), policy or FailoverPolicy(), dice=lambda: 0.5
    )


PLAIN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {}),
    (CHAT, {"temperature": 0.7, "top_p": 0.9, "max_tokens": 5, "user": "u", "unheard_of": {"x": 1}}),
    (CHAT, {"temperature": 0, "seed": 1, "stop": ["a", "b"]}),
    (CHAT, {"tools": [{}], "tool_choice": "none", "n": 1, "presence_penalty": 0, "logprobs": False}),
    (CHAT, {"response_format": {"type": "text"}, "chat_template_kwargs": {"enable_thinking": False}}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}),
    (COMPLETIONS, {"prompt": [1, 2, 3], "logit_bias": {"1": 2}, "bad_words": [], "repetition_penalty": 1.2}),
]


@pytest.mark.parametrize(("path", "fields"), PLAIN)
def test_plain_text_is_continued_by_its_ids(path: str, fields: dict[str, Any]) -> None:
    """They are asked for by a key at the end of the client's own bytes."""
    way = chosen(path, **fields)
    assert way.way is Way.CONTINUE
    assert way.body.endswith(b',"return_token_ids":true}')
    given = {"model": "m", "stream": True, **fields}
    given.setdefault("messages" if path == CHAT else "prompt", [] if path == CHAT else "p")
    assert way.body.startswith(json.dumps(given).encode()[:-1])
    assert way.asks_ids


STATEFUL: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"presence_penalty": 0.5}),
    (CHAT, {"frequency_penalty": -1}),
    (CHAT, {"n": 2}),
    (CHAT, {"tools": [{}]}),
    (CHAT, {"logprobs": True}),
    (CHAT, {"response_format": {"type": "json_object"}}),
    (CHAT, {"structured_outputs": {"choice": ["a"]}}),
    (CHAT, {"guided_regex": "a+"}),
    (CHAT, {"reasoning_effort": "low"}),
    (CHAT, {"chat_template_kwargs": {"enable_thinking": True}}),
    (CHAT, {"include_reasoning": False}),
    (CHAT, {"thinking_token_budget": 5}),
    (CHAT, {"repetition_detection": {}}),
    (CHAT, {"bad_words": ["two tokens"]}),
    (CHAT, {"vllm_xargs": {"count": 1}}),
    (CHAT, {"kv_transfer_params": {"do_remote_prefill": True}}),
    (CHAT, {"ec_transfer_params": {"x": 1}}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
    (COMPLETIONS, {"prompt": ["a", "b"]}),
    (COMPLETIONS, {"prompt": [[1, 2], [3]]}),
    (COMPLETIONS, {"echo": True}),
    (COMPLETIONS, {"logprobs": 0}),
    (COMPLETIONS, {"prompt_logprobs": 1}),
    (COMPLETIONS, {"suffix": "end"}),
    (COMPLETIONS, {"use_beam_search": True}),
]


@pytest.mark.parametrize(("path", "fields"), STATEFUL)
def test_what_has_a_state_beside_its_ids_is_repeated(path: str, fields: dict[str, Any]) -> None:
    """As it is where it is deterministic; with a seed of ours where it is sampled; not at all without one."""
    greedy = chosen(path, temperature=0, **fields)
    assert (greedy.way, greedy.repeatable, greedy.asks_ids) == (Way.REPLAY, True, False)
    assert b"seed" not in greedy.body
    seeded = chosen(path, temperature=1, seed=3, **fields)
    assert seeded.way is Way.REPLAY
    assert json.loads(seeded.body)["seed"] == 3
    sampled = chosen(path, **fields)
    assert sampled.way is Way.REPLAY
    assert json.loads(sampled.body)["seed"] == 2**30
    unseeded = chosen(path, FailoverPolicy(seed=False), **fields)
    assert unseeded.way is Way.NONE
    assert "seed" not in json.loads(unseeded.body)
    assert unseeded.why


def test_sampling_with_a_seed_is_repeated() -> None:
    """The state of the client's generator is not in the ids."""
    assert chosen(temperature=1, seed=3).way is Way.REPLAY


def test_half_a_character_is_not_drawn_anew() -> None:
    """Its ids were told to a client who asked for them: where answers may be seeded, they are repeated instead."""
    assert chosen(temperature=1, return_token_ids=True).way is Way.REPLAY
    unseeded = FailoverPolicy(seed=False)
    assert chosen(CHAT, unseeded, temperature=1, return_token_ids=True).way is Way.CONTINUE
    assert chosen(temperature=1, stop="x").way is Way.CONTINUE


def test_without_token_ids_nothing_is_put_into_requests() -> None:
    """Engines that do not know the key may refuse it."""
    policy = FailoverPolicy(token_ids=False)
    greedy, sampled = chosen(policy=policy, temperature=0), chosen(policy=policy, temperature=1)
    assert (greedy.way, sampled.way) == (Way.REPLAY, Way.NONE)
    for way in (greedy, sampled):
        assert json.loads(way.body).keys() <= {"model", "stream", "messages", "temperature"}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/messages", "/tokenize"])
def test_other_routes_are_only_asked_for_anew(path: str) -> None:
    """Before anything has been told; their bytes are not touched."""
    fields = {"input": "x", "stream": True}
    body = json.dumps(fields).encode()
    way = approach(FORWARDED[path], fields, body, FailoverPolicy(), dice=lambda: 0.5)
    assert way.way is Way.NONE
    assert way.body is body


def test_switched_off_it_touches_nothing() -> None:
    """Not the request, and not the answer."""
    fields = {"model": "m", "messages": [], "stream": True}
    body = json.dumps(fields).encode()
    way = approach(FORWARDED[CHAT], fields, body, FailoverPolicy(enabled=False), dice=lambda: 0.5)
    assert way.way is Way.NONE
    assert way.body is body


def test_ids_that_the_client_asked_for_are_the_clients() -> None:
    """They are not asked for twice, and are not hidden."""
    way = chosen(return_token_ids=True, temperature=0)
    assert way.way is Way.CONTINUE
    assert not way.asks_ids
    assert json.loads(chosen(return_token_ids=False).body)["return_token_ids"] is True


@pytest.mark.parametrize("body", ["{}".encode("utf-16"), '{"stream": true}'.encode("utf-16-le")])
def test_a_body_in_another_encoding_is_left_alone(body: bytes) -> None:
    """JSON may come in UTF-16; bytes put into it would spoil it."""
    way = approach(FORWARDED[CHAT], {"stream": True}, body, FailoverPolicy(), dice=lambda: 0.5)
    assert way.way is Way.NONE
    assert way.body is body


def test_a_long_answer_in_one_piece_is_asked_for_as_a_stream() -> None:
    """So that half of it is not lost; a short one is simply asked for anew."""
    long, short = chosen(stream=False, max_tokens=257), chosen(stream=False, max_tokens=256)
    assert long.collect
    fields = json.loads(long.body)
    assert fields["stream"] is fields["stream_options"]["include_usage"] is fields["return_token_ids"] is True
    assert (short.collect, short.way, short.expects_tokens) == (False, Way.NONE, 256)
    assert chosen(stream=False).collect
    assert not chosen(COMPLETIONS, stream=False).collect  # 16 tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True},
        {"return_token_ids": True, "n": 2},
        {"tools": [{}]},
        {"stream_options": {}},
        {"reasoning_effort": "low"},
        {"audio": {}},
    ],
)
def test_what_a_stream_tells_otherwise_is_not_collected(fields: dict[str, Any]) -> None:
    """Its one piece would not be the engine's own."""
    given: dict[str, Any] = {key: value or {"a": 1} for key, value in fields.items()}
    way = chosen(CHAT, None, stream=False, temperature=0, **given)
    assert not way.collect
    assert way.way is Way.NONE


@pytest.mark.parametrize(
    ("path", "fields", "expects"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 5}, 5),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 9}, 9),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": None}, 5),
        (COMPLETIONS, {}, 16),
        (COMPLETIONS, {"max_tokens": None}, 16),
        ("/v1/responses", {"max_output_tokens": 7}, 7),
        ("/v1/messages", {"max_tokens": 7}, 7),
        ("/v1/embeddings", {}, 0),
    ],
)
def test_the_most_tokens_are_read_as_the_engine_reads_them(
    path: str, fields: dict[str, Any], expects: int | None
) -> None:
    """Each API has its key and its default."""
    assert chosen(path, **fields).expects_tokens == expects
