"""Chance in the demo engine, and what a cut does to it: seeds, penalties, several choices, log-probabilities."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.engines.demo_server.sampling import Repetition
from hedgeserve.engines.demo_server.tokens import decode
from tests.demo_process import DemoProcess, demo_process
from tests.test_demo_features import chat, choices_of, content_of, go_on, known

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def engine() -> Iterator[DemoProcess]:
    with demo_process("--max-model-len", "1024") as process:
        yield process


@pytest.fixture(scope="module")
def twin() -> Iterator[DemoProcess]:
    """A second server of the same make."""
    with demo_process("--max-model-len", "1024") as process:
        yield process


# What a request says that lets its state begin with its output.
STATES: list[dict[str, Any]] = [
    {"seed": 7},
    {"presence_penalty": 2},
    {"frequency_penalty": 1.5},
    {"presence_penalty": -2},
]


@pytest.mark.parametrize("fields", STATES)
def test_the_same_again_from_the_start_and_something_else_from_a_cut(
    engine: DemoProcess, twin: DemoProcess, fields: dict[str, Any]
) -> None:
    """Throws and counts begin with a request's output: a replay is exact, a continuation is not."""
    body = chat("State", max_tokens=60, ignore_eos=True, **fields)
    prompt, ids, choice = known(engine, body)
    assert known(twin, body)[2] == choice
    assert known(engine, chat("State", max_tokens=60, ignore_eos=True))[1] != ids
    cuts = range(10, 50)
    rests = [go_on(twin, prompt + ids[:cut], 60 - cut, ignore_eos=True, **fields)["token_ids"] for cut in cuts]
    differing = sum(rest != ids[cut:] for cut, rest in zip(cuts, rests, strict=True))
    assert differing > len(cuts) / 2


def test_a_penalty_counts_the_answer_and_not_the_prompt(engine: DemoProcess) -> None:
    """A frequency penalty makes an answer's words more various; a prompt full of words changes nothing by it."""
    plain, penalised = (
        known(engine, chat("Penalty", max_tokens=300, ignore_eos=True, **fields))[1]
        for fields in ({}, {"frequency_penalty": 2})
    )
    assert len(set(penalised)) > len(set(plain))
    words = chat("the one every some this that each another the one every some")["messages"]
    one, other = (
        engine.ask(CHAT, {"messages": words, "max_tokens": 5, "presence_penalty": penalty}).json["choices"]
        for penalty in (0, 0.1)
    )
    assert one == other


def test_going_in_circles_ends_an_answer_that_asked_for_it(engine: DemoProcess) -> None:
    """repetition_detection: three times la is enough, with vLLM's words for it; a continuation counts anew."""
    detection = {"max_pattern_size": 4, "min_pattern_size": 1, "min_count": 3}
    prompt, ids, choice = known(engine, chat("Sing a chorus", max_tokens=300, repetition_detection=detection))
    assert (choice["finish_reason"], choice["stop_reason"]) == ("repetition", "repetition_detected")
    assert decode(ids[-3:]) in (b" la" * 3, b" tock tick tock", b" tick tock tick")
    rest = go_on(engine, prompt + ids[:-1], 1, repetition_detection=detection)
    assert rest["finish_reason"] == "length"


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 3), st.integers(2, 4))
def test_a_row_is_found_exactly_where_there_is_one(ids: list[int], most: int, times: int) -> None:
    """Compared with the definition: some pattern, so many times in a row, at the end."""
    rows = (ids[-size:] * times == ids[-size * times :] for size in range(1, most + 1) if size * times <= len(ids))
    assert Repetition(1, most, times).found(ids) == any(rows)


def test_without_a_seed_answers_stay_the_same_unless_they_are_to_be_sampled() -> None:
    """--sample: other words each time for a sampled request, the same for temperature 0 and for a seed."""
    with demo_process("--sample") as process:
        for fields, differs in (({"temperature": 1}, True), ({"temperature": 0}, False), ({"seed": 5}, False)):
            answers = [process.ask(CHAT, chat("Dice", max_tokens=60, **fields)).json["choices"] for _ in range(2)]
            assert (answers[0] != answers[1]) == differs


# --- Several choices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"seed": 11}])
def test_choices_differ_and_come_in_turn(engine: DemoProcess, fields: dict[str, Any]) -> None:
    """n=3: a role for each, chunks in turn, each its own story, summed up; the first is the one that n=1 gives."""
    body = chat("Several", n=3, max_tokens=30, ignore_eos=True, return_token_ids=True, **fields)
    whole = engine.ask(CHAT, body).json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in whole["choices"]}) == 3
    assert whole["usage"]["completion_tokens"] == 90
    assert engine.ask(CHAT, {**body, "n": 1}).json["choices"][0] == whole["choices"][0]
    events = engine.ask(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}}).events
    assert [event["choices"][0]["index"] for event in events[:9]] == [0, 1, 2] * 3
    assert [event["choices"][0]["delta"].get("role") for event in events[:4]] == ["assistant"] * 3 + [None]
    for index, choice in enumerate(whole["choices"]):
        assert content_of(events, index) == choice["message"]["content"]
        assert choices_of(events, index)[-1]["finish_reason"] == "length"
    assert events[-2]["usage"]["completion_tokens"] == 90


def test_prompts_in_a_list_are_answered_one_by_one(engine: DemoProcess) -> None:
    """Each prompt has its choices, with the ids and the text that it has alone; the sums are of all."""
    prompts = ["Once upon a time", "The river"]
    alone = [engine.ask(TEXT, {"prompt": one, "max_tokens": 12, "return_token_ids": True}).json for one in prompts]
    body = {"prompt": prompts, "max_tokens": 12, "return_token_ids": True}
    whole = engine.ask(TEXT, body).json
    assert whole["choices"] == [{**one["choices"][0], "index": index} for index, one in enumerate(alone)]
    assert whole["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    events = engine.ask(TEXT, {**body, "stream": True}).events
    for index, one in enumerate(alone):
        parts = choices_of(events, index)
        assert "".join(part["text"] for part in parts) == one["choices"][0]["text"]
        assert parts[0]["prompt_token_ids"] == one["choices"][0]["prompt_token_ids"]
    ids = {"prompt": [choice["prompt_token_ids"] for choice in whole["choices"]], "n": 2}
    told = engine.ask(TEXT, {**body, **ids}).json["choices"]
    assert [choice["index"] for choice in told] == [0, 1, 2, 3]
    assert [told[0]["text"], told[2]["text"]] == [choice["text"] for choice in whole["choices"]]


# --- Log-probabilities -------------------------------------------------------------------------------------------


def test_log_probabilities_of_a_completion_follow_the_text(engine: DemoProcess) -> None:
    """Tokens make up the text, offsets point into it, and the token taken is the likeliest."""
    body = {"prompt": "emoji: The", "max_tokens": 40, "logprobs": 3, "ignore_eos": True}
    choice = engine.ask(TEXT, body).json["choices"][0]
    told = choice["logprobs"]
    assert "".join(told["tokens"]).startswith(choice["text"])
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert choice["text"][offset : offset + len(token)] in (token, "")
    assert all(value <= 0 and math.isfinite(value) for value in told["token_logprobs"])
    # Tokens inside a character all have the empty text, and only one of them has room under it.
    for token, value, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert not token or value == top[token] == max(top.values())
    events = engine.ask(TEXT, {**body, "stream": True}).events
    for key in told:
        assert [item for part in choices_of(events) for item in part["logprobs"][key]] == told[key]


def test_text_offsets_begin_anew_in_a_continuation(engine: DemoProcess, twin: DemoProcess) -> None:
    """The values go on exactly, the offsets from 0: whoever joins must add."""
    body = {"prompt": "The sea", "max_tokens": 30, "logprobs": 1, "return_token_ids": True, "ignore_eos": True}
    choice = engine.ask(TEXT, body).json["choices"][0]
    prompt, ids = choice["prompt_token_ids"], choice["token_ids"]
    cut = next(cut for cut in range(10, 30) if "\ufffd" not in decode(ids[:cut]).decode("utf-8", "replace"))
    rest = go_on(twin, prompt + ids[:cut], 30 - cut, logprobs=1, ignore_eos=True)
    assert rest["logprobs"]["token_logprobs"] == choice["logprobs"]["token_logprobs"][cut:]
    assert rest["logprobs"]["text_offset"][0] == 0 < choice["logprobs"]["text_offset"][cut]


def test_log_probabilities_of_a_chat_are_a_list_of_contents(engine: DemoProcess) -> None:
    """One for each token, in pieces and whole, with as many likeliest ones as asked, and the text's bytes."""
    body = chat("Likely", max_tokens=30, logprobs=True, top_logprobs=2)
    choice = engine.ask(CHAT, body).json["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 30
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == choice["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    events = engine.ask(CHAT, {**body, "stream": True}).events
    assert [entry for part in choices_of(events) for entry in part["logprobs"]["content"]] == content
    plain = engine.ask(CHAT, chat("Likely", max_tokens=3, logprobs=True)).json["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in plain] == [[], [], []]
