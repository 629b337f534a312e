"""The demo engine, as a real process: vLLM's wire format, and texts that continue exactly from any cut."""

import asyncio
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.engines.demo import PACKAGE
from hedgeserve.engines.demo_server import WHAT_I_AM
from hedgeserve.engines.demo_server.generation import Generation
from hedgeserve.engines.demo_server.job import read_job
from hedgeserve.engines.demo_server.tokens import EOS, VOCABULARY, decode, encode
from tests.demo_process import DEMO_SERVER, HOME, Answer, DemoProcess, demo_process

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def engine() -> Iterator[DemoProcess]:
    with demo_process("--model", "demo", "--alias", "other", "--max-model-len", "1024") as process:
        yield process


@pytest.fixture(scope="module")
def twin() -> Iterator[DemoProcess]:
    """A second server of the same make."""
    with demo_process("--model", "demo", "--max-model-len", "1024") as process:
        yield process


@pytest.fixture(scope="module")
def paced() -> Iterator[DemoProcess]:
    """A server that writes 50 tokens per second."""
    with demo_process("--tokens-per-second", "50", "--max-model-len", "100000") as process:
        yield process


def chat(text: str = "Tell me of the sea", **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}


def completion(prompt: object = "Once upon a time", **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, **fields}


def ids_of(events: list[Any]) -> list[int]:
    return [
        number for event in events[:-1] for choice in event["choices"] for number in choice.get("token_ids") or []
    ]


def texts_of(events: list[Any]) -> list[str]:
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    return [choice["text"] if "text" in choice else choice["delta"]["content"] for choice in choices]


# --- What it says of itself --------------------------------------------------------------------------------------


def test_it_says_what_it_is_in_log_version_and_texts(engine: DemoProcess) -> None:
    """Nobody may take it for a language model: log, version, owner and answers say that it is a demo."""
    assert WHAT_I_AM in engine.log.read_text().splitlines()[0]
    assert engine.ask("/version").json["description"] == WHAT_I_AM
    assert engine.ask("/v1/models").json["data"][0]["owned_by"] == "hedgeserve-demo-engine"
    assert engine.ask(CHAT, chat()).json["choices"][0]["message"]["content"].startswith("Demo engine: ")


def test_help_says_what_it_is() -> None:
    """Started by hand where HedgeServe is installed, its --help begins with what it is."""
    argv = [sys.executable, "-m", "hedgeserve.engines.demo_server", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert WHAT_I_AM in " ".join(done.stdout.split())


def test_its_package_runs_alone_on_a_machine_without_hedgeserve(tmp_path: Path) -> None:
    """Copied elsewhere and started without any installed package, it serves."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    with demo_process(home=tmp_path) as process:
        assert process.ask("/health").status == 200


# --- The wire ----------------------------------------------------------------------------------------------------


def test_chat_stream_is_vllms_chunk_by_chunk(engine: DemoProcess) -> None:
    """A role chunk with the prompt's ids, a chunk for each token, the finish, the sums, [DONE]."""
    options = {"include_usage": True}
    body = chat(stream=True, max_tokens=2, return_token_ids=True, stream_options=options)
    answer = engine.ask(CHAT, body, headers={"X-Request-Id": "my-1"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    role, first, last, usage, done = answer.events
    prompt = role["prompt_token_ids"]
    head = {
        "id": "chatcmpl-my-1",
        "object": "chat.completion.chunk",
        "created": role["created"],
        "model": "demo",
    }
    delta: dict[str, Any] = {"role": "assistant", "content": ""}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    assert role == {**head, "choices": [choice], "prompt_token_ids": prompt, "prompt_text": None}
    ids = [first["choices"][0]["token_ids"][0], last["choices"][0]["token_ids"][0]]
    choice = {**choice, "delta": {"content": "Demo"}, "token_ids": ids[:1]}
    assert first == {**head, "choices": [choice]}
    choice = {**choice, "delta": {"content": " engine"}, "finish_reason": "length", "stop_reason": None}
    assert last == {**head, "choices": [{**choice, "token_ids": ids[1:]}]}
    sums = {"prompt_tokens": len(prompt), "total_tokens": len(prompt) + 2, "completion_tokens": 2}
    assert usage == {**head, "choices": [], "usage": sums, "system_fingerprint": usage["system_fingerprint"]}
    assert done == "[DONE]"


def test_without_usage_the_last_chunk_carries_the_fingerprint(engine: DemoProcess) -> None:
    """The system_fingerprint rides on the last chunk, and ids that nobody asked for are null."""
    events = engine.ask(CHAT, chat(stream=True, max_tokens=2)).events
    assert [("system_fingerprint" in event) for event in events[:-1]] == [False, False, True]
    assert [event["choices"][0].get("token_ids") for event in events[:-1]] == [None, None, None]


def test_completion_stream_has_the_prompts_ids_in_its_first_choice(engine: DemoProcess) -> None:
    """For /v1/completions vLLM puts the prompt's ids into the choice, not beside it."""
    events = engine.ask(TEXT, completion([300, 301], stream=True, max_tokens=3, return_token_ids=True)).events
    assert events[0]["id"].startswith("cmpl-")
    assert [event["choices"][0]["prompt_token_ids"] for event in events[:-1]] == [[300, 301], None, None]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None, None, "length"]


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat(max_tokens=9)), (TEXT, completion(max_tokens=9))])
def test_streamed_and_whole_answers_agree(engine: DemoProcess, path: str, body: dict[str, Any]) -> None:
    """The same request gives the same text, ids, end and sums in one piece and in chunks."""
    body = {**body, "return_token_ids": True}
    whole = engine.ask(path, body).json
    events = engine.ask(path, {**body, "stream": True, "stream_options": {"include_usage": True}}).events
    choice = whole["choices"][0]
    assert "".join(texts_of(events)) == (choice["text"] if path == TEXT else choice["message"]["content"])
    assert ids_of(events) == choice["token_ids"]
    assert events[-3]["choices"][0]["finish_reason"] == choice["finish_reason"] == "length"
    assert events[-2]["usage"].items() <= whole["usage"].items()


def test_continuous_usage_counts_up(engine: DemoProcess) -> None:
    """continuous_usage_stats puts the sums so far into every chunk."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = engine.ask(CHAT, chat(stream=True, max_tokens=3, stream_options=options)).events
    assert [event["usage"]["completion_tokens"] for event in events[:-1]] == [0, 1, 2, 3, 3]


def test_echo_repeats_the_prompt_unless_ids_are_asked_for(engine: DemoProcess) -> None:
    """echo puts the prompt first; together with return_token_ids vLLM leaves it out, and so do we."""
    plain, echoed, with_ids = (
        engine.ask(TEXT, completion(max_tokens=4, **fields)).json["choices"][0]["text"]
        for fields in ({}, {"echo": True}, {"echo": True, "return_token_ids": True})
    )
    assert echoed == "Once upon a time" + plain
    assert with_ids == plain
    events = engine.ask(TEXT, completion(max_tokens=4, echo=True, stream=True)).events
    assert "".join(texts_of(events)) == echoed


def test_every_name_of_the_model_is_listed_and_answered(engine: DemoProcess) -> None:
    """/v1/models lists id and aliases with the context's length; an alias is answered under the id."""
    models = engine.ask("/v1/models").json["data"]
    assert [(model["id"], model["max_model_len"]) for model in models] == [("demo", 1024), ("other", 1024)]
    assert engine.ask(TEXT, {**completion(), "model": "other"}).json["model"] == "demo"


def test_tokenize_and_detokenize_undo_each_other(engine: DemoProcess) -> None:
    """Text to ids and back; a chat's ids come back with its special tokens."""
    ids = engine.ask("/tokenize", {"prompt": "Tell the lighthouse 灯 🌊"}).json
    assert ids["count"] == len(ids["tokens"])
    assert engine.ask("/detokenize", {"tokens": ids["tokens"]}).json == {"prompt": "Tell the lighthouse 灯 🌊"}
    ids = engine.ask("/tokenize", {"messages": chat("Hi")["messages"]}).json
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert engine.ask("/detokenize", {"tokens": ids["tokens"]}).json == {"prompt": text}
    assert engine.ask(CHAT, chat("Hi", max_tokens=1, return_prompt_text=True)).json["prompt_text"] == text


def test_load_of_the_engine_comes_with_an_answer_that_asks_for_it(engine: DemoProcess) -> None:
    """The endpoint-load-metrics header, in both of vLLM's formats, and only on request."""
    answers = [
        engine.ask(TEXT, completion(), headers={"endpoint-load-metrics-format": form}).headers
        for form in ("json", "text", "")
    ]
    name, _, value = answers[0]["endpoint-load-metrics"].partition(" ")
    assert name == "JSON"
    assert json.loads(value)["named_metrics"] == {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}
    assert answers[1]["endpoint-load-metrics"].startswith("TEXT named_metrics.num_requests_waiting=0.0")
    assert "endpoint-load-metrics" not in answers[2]


def test_token_counters_move_by_what_usage_says(twin: DemoProcess) -> None:
    """The metrics count the same tokens as the answers."""
    before = [twin.metric(name) for name in ("prompt_tokens_total", "generation_tokens_total")]
    finished = twin.metric("request_success_total")
    usage = twin.ask(CHAT, chat(max_tokens=11)).json["usage"]
    after = [twin.metric(name) for name in ("prompt_tokens_total", "generation_tokens_total")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [usage["prompt_tokens"], 11]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert twin.metric("request_success_total") == finished + 1


# --- The tokens --------------------------------------------------------------------------------------------------


@given(st.text())
def test_any_text_survives_its_tokens(text: str) -> None:
    """Decoding what was encoded gives the text back, whatever it is."""
    assert decode(encode(text)) == text.encode()


@given(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30), st.integers(1, 40))
def test_what_is_told_is_a_prefix_of_what_the_ids_say(prompt: list[int], tokens: int) -> None:
    """After any prompt, even one that ends inside a character, text is only ever held back, never wrong."""
    body = {"prompt": prompt or [300], "max_tokens": tokens, "ignore_eos": True}
    job = read_job(body, chat=False, max_model_len=1024, seed=0)
    piece = Generation(job, job.shares[0]).step(tokens)
    assert len(piece.ids) == tokens
    before = decode(job.prompt, skip_special=True)
    mid_character = before.decode("utf-8", "replace").endswith("\ufffd")
    data = (before if mid_character else b"") + decode(piece.ids, skip_special=True)
    assert data.decode("utf-8", "replace").startswith(piece.text)


def test_same_request_same_answer_on_every_server_of_that_seed(engine: DemoProcess, twin: DemoProcess) -> None:
    """Nothing but ids and seed decides: not the server, not the time, not temperature."""
    bodies = [chat(), chat(temperature=0), chat(temperature=1.5, top_p=0.5)]
    answers = [server.ask(CHAT, body).json["choices"] for server in (engine, twin) for body in bodies]
    assert all(answer == answers[0] for answer in answers)
    assert engine.ask(CHAT, chat("Tell me of the hills")).json["choices"] != answers[0]


def test_a_requests_seed_counts_only_when_it_samples(engine: DemoProcess) -> None:
    """As with vLLM, temperature 0 makes the seed meaningless."""
    plain, greedy, sampled, again = (
        engine.ask(CHAT, chat(max_tokens=30, **fields)).json["choices"]
        for fields in ({}, {"seed": 7, "temperature": 0}, {"seed": 7}, {"seed": 7})
    )
    assert plain == greedy
    assert sampled == again != plain


def test_another_server_seed_is_another_model(engine: DemoProcess) -> None:
    """Servers with different seeds differ in text and in fingerprint, as different weights would."""
    with demo_process("--seed", "1") as other:
        mine, theirs = (server.ask(CHAT, chat(max_tokens=40)).json for server in (engine, other))
    assert mine["choices"] != theirs["choices"]
    assert mine["system_fingerprint"] != theirs["system_fingerprint"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat("Tell me of the lighthouse 🌊", max_tokens=90, ignore_eos=True)),
        (TEXT, completion("An odd prompt with unknown words:", max_tokens=90, ignore_eos=True)),
        (CHAT, chat("Sample", max_tokens=60, ignore_eos=True, temperature=0.7)),
    ],
)
def test_a_cut_anywhere_is_continued_by_ids_exactly(
    engine: DemoProcess, twin: DemoProcess, path: str, body: dict[str, Any]
) -> None:
    """Cut after every single token, the other server goes on with exactly the ids that would have come."""
    events = engine.ask(path, {**body, "stream": True, "return_token_ids": True}).events
    place = events[0] if path == CHAT else events[0]["choices"][0]
    prompt, ids = place["prompt_token_ids"], ids_of(events)
    sampling = {name: body[name] for name in ("ignore_eos", "temperature") if name in body}
    for cut in range(1, len(ids)):
        rest = completion(prompt + ids[:cut], max_tokens=len(ids) - cut, return_token_ids=True, **sampling)
        assert twin.ask(TEXT, rest).json["choices"][0]["token_ids"] == ids[cut:], f"cut after {cut}"


def character_cuts(ids: list[int]) -> list[int]:
    """Where a sequence of ids may be cut without cutting a character."""
    cuts = range(1, len(ids))
    return [cut for cut in cuts if not decode(ids[:cut]).decode("utf-8", "replace").endswith("\ufffd")]


def test_text_joins_exactly_at_every_cut_between_characters(engine: DemoProcess, twin: DemoProcess) -> None:
    """Between characters, text so far and text of the continuation are the uninterrupted text."""
    body = chat("Join", max_tokens=80, ignore_eos=True, return_token_ids=True)
    whole = engine.ask(CHAT, body).json
    prompt, choice = whole["prompt_token_ids"], whole["choices"][0]
    ids, text = choice["token_ids"], choice["message"]["content"]
    cuts = character_cuts(ids)
    assert 0 < len(cuts) < len(ids) - 1, "the text must have characters of several tokens for this test"
    for cut in cuts:
        rest = completion(prompt + ids[:cut], max_tokens=len(ids) - cut, ignore_eos=True)
        sent = decode(ids[:cut], skip_special=True).decode()
        assert sent + twin.ask(TEXT, rest).json["choices"][0]["text"] == text, f"cut after {cut}"


def test_a_prompt_that_ends_inside_a_character_comes_out_again(engine: DemoProcess, twin: DemoProcess) -> None:
    """vLLM's quirk, kept: whoever continues there sees the whole prompt in the first text, and must guard."""
    whole = engine.ask(CHAT, chat("Leak", max_tokens=80, ignore_eos=True, return_token_ids=True)).json
    prompt, ids = whole["prompt_token_ids"], whole["choices"][0]["token_ids"]
    cut = min(set(range(1, len(ids) - 4)) - set(character_cuts(ids)))
    rest = completion(prompt + ids[:cut], max_tokens=8, ignore_eos=True)
    assert twin.ask(TEXT, rest).json["choices"][0]["text"].startswith("user\nLeak\nassistant\nDemo engine: ")


def test_no_chunk_ends_inside_a_character(engine: DemoProcess) -> None:
    """Ids of an unfinished character come with empty text; the text follows with the id that completes it."""
    events = engine.ask(
        CHAT, chat("Hold", max_tokens=120, ignore_eos=True, stream=True, return_token_ids=True)
    ).events
    texts = texts_of(events)
    assert "" in texts[1:]
    assert "\ufffd" not in "".join(texts)


# --- Where an answer ends ----------------------------------------------------------------------------------------


def test_an_answer_ends_by_itself_with_the_end_token(engine: DemoProcess) -> None:
    """A natural end is finish_reason stop, no text, and the end-of-text id among the ids."""
    choice = engine.ask(CHAT, chat(stream=True, return_token_ids=True)).events[-2]["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] is None
    assert choice["delta"] == {"content": ""}
    assert choice["token_ids"] == [EOS]


def test_ignore_eos_goes_on_past_the_end_token(engine: DemoProcess) -> None:
    """With ignore_eos the end token is one id among others, and has no text."""
    ended = engine.ask(CHAT, chat(return_token_ids=True)).json["choices"][0]
    longer = engine.ask(CHAT, chat(return_token_ids=True, ignore_eos=True, max_tokens=400)).json["choices"][0]
    assert longer["token_ids"][: len(ended["token_ids"])] == ended["token_ids"]
    assert longer["message"]["content"].startswith(ended["message"]["content"])
    assert (len(longer["token_ids"]), longer["finish_reason"]) == (400, "length")


def test_min_tokens_puts_off_the_end(engine: DemoProcess) -> None:
    """No end token before min_tokens."""
    natural = engine.ask(CHAT, chat()).json["usage"]["completion_tokens"]
    longer = engine.ask(CHAT, chat(min_tokens=natural + 1, return_token_ids=True)).json["choices"][0]
    assert len(longer["token_ids"]) > natural
    assert EOS not in longer["token_ids"][:natural]


def test_completions_write_16_tokens_unless_told_otherwise(engine: DemoProcess) -> None:
    """/v1/completions has vLLM's default of 16, and null is the default: whoever continues must say how far."""
    for fields in ({}, {"max_tokens": None}):
        answer = engine.ask(TEXT, completion(ignore_eos=True, **fields)).json
        assert answer["usage"]["completion_tokens"] == 16
    usage = engine.ask(CHAT, chat(ignore_eos=True, max_tokens=None)).json["usage"]
    assert usage["total_tokens"] == 1024


def test_max_completion_tokens_wins_over_max_tokens(engine: DemoProcess) -> None:
    """The newer name of the chat's limit has precedence."""
    usage = engine.ask(CHAT, chat(max_tokens=9, max_completion_tokens=4)).json["usage"]
    assert usage["completion_tokens"] == 4


def test_an_answer_is_clipped_to_the_context(engine: DemoProcess) -> None:
    """A prompt that nearly fills the context leaves room for a few tokens and no error."""
    answer = engine.ask(TEXT, completion([300] * 1020, max_tokens=10)).json
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["choices"][0]["finish_reason"] == "length"


def plain_text(engine: DemoProcess, tokens: int) -> tuple[str, list[str]]:
    events = engine.ask(CHAT, chat("Stop", stream=True, max_tokens=tokens, ignore_eos=True)).events
    return "".join(texts_of(events)), texts_of(events)[1:]


@pytest.mark.parametrize("place", range(4, 16))
def test_a_stop_string_across_tokens_ends_the_answer_before_it(engine: DemoProcess, place: int) -> None:
    """Made of the end of one token and the beginning of the next, the stop string still stops, and never shows."""
    text, pieces = plain_text(engine, 40)
    edge = len("".join(pieces[:place]))
    stop = text[edge - 2 : edge + 2]
    body = chat("Stop", stop=[stop, "never"], ignore_eos=True, max_tokens=40)
    choice = engine.ask(CHAT, body).json["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert "".join(texts_of(engine.ask(CHAT, {**body, "stream": True}).events)) == text[: text.index(stop)]


def test_a_stop_string_can_be_kept(engine: DemoProcess) -> None:
    """include_stop_str_in_output leaves the stop string at the end of the text."""
    text, _ = plain_text(engine, 40)
    body = chat("Stop", stop=".", include_stop_str_in_output=True, max_tokens=40)
    assert engine.ask(CHAT, body).json["choices"][0]["message"]["content"] == text[: text.index(".") + 1]


def test_a_stop_token_ends_the_answer_and_is_named(engine: DemoProcess) -> None:
    """stop_token_ids end the answer; the id is the stop_reason and has no text."""
    ids = engine.ask(CHAT, chat(return_token_ids=True)).json["choices"][0]["token_ids"]
    choice = engine.ask(CHAT, chat(return_token_ids=True, stop_token_ids=[ids[5]])).json["choices"][0]
    first = ids.index(ids[5])
    assert choice["token_ids"] == ids[: first + 1]
    assert choice["stop_reason"] == ids[5]
    assert choice["message"]["content"].encode() == decode(ids[:first])


# --- Refusals ----------------------------------------------------------------------------------------------------

BAD_REQUESTS = [
    (TEXT, b"{nope", "JSON decode error"),
    (TEXT, b"", "Field required"),
    (TEXT, b"[1]", "valid dictionary"),
    (TEXT, {"model": "demo"}, "Either prompt or prompt_embeds must be provided"),
    (TEXT, completion(""), "Either prompt or prompt_embeds must be provided"),
    (TEXT, completion([]), "at least one prompt"),
    (TEXT, completion(["a", ""]), "prompt cannot be empty"),
    (TEXT, completion(["a", [1]]), "valid integer"),
    (TEXT, completion(7), "valid string"),
    (TEXT, completion([-1]), "greater than or equal to 0"),
    (TEXT, completion([99999]), "Token id 99999 is out of vocabulary"),
    (TEXT, completion(max_tokens=0), "max_tokens must be at least 1, got 0"),
    (TEXT, completion(max_tokens=5000), "max_tokens=5000 cannot be greater than max_model_len=1024"),
    (TEXT, completion(max_tokens="a"), "valid integer"),
    (TEXT, completion([300] * 1025), "maximum context length is 1024 tokens"),
    (TEXT, completion([300] * 1024), "max_tokens must be at least 1"),
    (TEXT, completion(temperature=-1), "temperature must be non-negative"),
    (TEXT, completion(temperature="hot"), "valid number"),
    (TEXT, completion(n=2, temperature=0), "n must be 1 when using greedy sampling"),
    (TEXT, completion(n=0), "n must be at least 1"),
    (TEXT, completion(min_tokens=99), "min_tokens must be less than or equal to max_tokens=16"),
    (TEXT, completion(stream_options={"include_usage": True}), "Stream options can only be defined"),
    (TEXT, completion(stop=["a"] * 5), "at most 4 items"),
    (TEXT, completion(stop=""), "empty string"),
    (TEXT, completion(stop_token_ids=[[1]]), "valid list"),
    (TEXT, completion(prompt_logprobs=1), "the demo engine has no prompt_logprobs"),
    (TEXT, completion(logprobs=21), "greater than max allowed: 20"),
    (TEXT, completion(logprobs=-2), "must be a positive value or -1"),
    (TEXT, completion(presence_penalty=3), "presence_penalty must be in [-2, 2]"),
    (TEXT, completion(repetition_detection={"max_pattern_size": 4}), "min_count must be >= 2"),
    (CHAT, {"model": "demo"}, "Field required"),
    (CHAT, {"messages": "x"}, "valid list"),
    (CHAT, {"messages": []}, "empty conversation"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages.0.role"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not a multimodal model"),
    (CHAT, chat(response_format={"type": "structural_tag"}), "has no response_format 'structural_tag'"),
    (CHAT, chat(response_format={"type": "json_schema"}), "'json_schema' field must be provided"),
    (CHAT, chat(structured_outputs={"regex": "a+"}), "the demo engine has no regex output"),
    (CHAT, chat(top_logprobs=2), "`logprobs` must be set to true"),
    (CHAT, chat(tools=[{"type": "function", "function": {"name": "f"}}]), "tool choice requires"),
    (CHAT, chat(tools=[{"type": "function"}]), "Field required"),
    (CHAT, chat(tools=[]), "must not be an empty array"),
    (CHAT, chat(tool_choice="required"), "`tools` must be set"),
    (CHAT, chat(stream="yes"), "valid boolean"),
    (CHAT, chat(continue_final_message=True), "not compatible"),
]


@pytest.mark.parametrize(("path", "body", "words"), BAD_REQUESTS)
def test_a_bad_request_is_a_400_in_vllms_words(engine: DemoProcess, path: str, body: object, words: str) -> None:
    """OpenAI's error body, with a message that names what is wrong."""
    answer = engine.ask(path, body)
    error = answer.json["error"]
    assert answer.status == error["code"] == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]


def test_an_unknown_model_is_a_404_that_names_the_known_ones(engine: DemoProcess) -> None:
    """The message lists what may be asked for."""
    answer = engine.ask(CHAT, {**chat(), "model": "nope"})
    message = "The model `nope` does not exist. Valid aliases: demo, other."
    assert answer.status == 404
    assert answer.json == {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}


def test_unknown_paths_and_methods_are_answered_as_fastapi_does(engine: DemoProcess) -> None:
    """404 and 405 have a detail and no error body."""
    assert (engine.ask("/nope").status, engine.ask("/nope").json) == (404, {"detail": "Not Found"})
    answer = engine.ask(CHAT)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_a_key_is_asked_for_on_v1_and_nowhere_else() -> None:
    """A wrong or missing key is 401 under /v1, and health and metrics stay open, as with vLLM."""
    with demo_process(api_key="secret") as process:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = process.ask(CHAT, chat(), headers=headers)
            assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})
        assert process.ask("/v1/models", headers={"Authorization": "Bearer secret"}).status == 200
        assert process.ask("/health").status == process.ask("/metrics").status == 200
        assert "secret" not in process.log.read_text()


def test_nothing_is_answered_before_the_load_time_is_over() -> None:
    """/health says 503 with an empty body while it loads, then 200; requests are refused meanwhile."""
    with demo_process("--load-time", "500ms") as process:
        assert (process.ask("/health").status, process.ask("/health").body) == (503, b"")
        assert process.ask(CHAT, chat()).status == 503
        deadline_s = time.monotonic() + 10
        while process.ask("/health").status != 200:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert process.ask(CHAT, chat()).status == 200


# --- Connections -------------------------------------------------------------------------------------------------


def connect(engine: DemoProcess) -> http.client.HTTPConnection:
    address = urlsplit(engine.url)
    assert address.hostname
    return http.client.HTTPConnection(address.hostname, address.port, timeout=30)


def test_a_connection_is_kept_for_the_next_request(engine: DemoProcess) -> None:
    """Streams, errors and plain answers follow each other on one connection."""
    connection = connect(engine)
    try:
        connection.connect()
        kept = connection.sock
        for body, status in ((chat(stream=True), 200), (chat(n=0), 400), (chat(), 200)):
            connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == status
            response.read()
            assert connection.sock is kept
    finally:
        connection.close()


def test_a_chunked_request_body_is_understood(engine: DemoProcess) -> None:
    """A proxy that forwards a body of unknown length sends it in chunks."""
    connection = connect(engine)
    try:
        parts = iter([b'{"model": "demo", ', b'"prompt": "a"}'])
        connection.request("POST", TEXT, parts, {"Content-Type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def raw(engine: DemoProcess, request: bytes) -> bytes:
    """Send bytes, read until the server closes."""
    address = urlsplit(engine.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_http_1_0_gets_its_stream_without_chunks(engine: DemoProcess) -> None:
    """An old client's answer ends with the connection."""
    body = json.dumps(completion(stream=True)).encode()
    head = f"POST {TEXT} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = raw(engine, head.encode() + body)
    assert b"\r\n\r\ndata: {" in answer
    assert answer.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("head", [b"Content-Length: many", b"Transfer-Encoding: chunked\r\n\r\nzz"])
def test_a_body_of_senseless_length_is_refused(engine: DemoProcess, head: bytes) -> None:
    """400 and the connection is closed, since nobody knows where the next request would begin."""
    answer = raw(engine, b"POST /v1/completions HTTP/1.1\r\n" + head + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"Connection: close" in answer


def test_what_is_no_http_is_refused_in_a_line(engine: DemoProcess) -> None:
    """A TLS handshake, say: a sentence, no traceback in the log, and the server goes on."""
    assert raw(engine, b"\x16\x03\x01 nonsense\r\n\r\n").startswith(b"Bad ")
    assert "Traceback" not in engine.log.read_text()
    assert engine.ask("/health").status == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_answer(paced: DemoProcess, stream: bool) -> None:
    """The request runs no longer a moment after the client is gone, and does not count as finished."""
    finished = paced.metric("request_success_total")
    connection = connect(paced)
    body = chat(max_tokens=5000, ignore_eos=True, stream=stream)
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
    paced.wait_metric("num_requests_running", 1)
    connection.close()
    assert paced.wait_metric("num_requests_running", 0) < 2.0
    assert paced.metric("kv_cache_usage_perc") == 0
    assert paced.metric("request_success_total") == finished


def test_tokens_come_at_the_promised_pace(paced: DemoProcess) -> None:
    """25 tokens at 50 per second take half a second, and not less."""
    begun_s = time.monotonic()
    assert paced.ask(CHAT, chat(max_tokens=25, ignore_eos=True)).status == 200
    assert 0.49 < time.monotonic() - begun_s < 5


async def test_a_hundred_streams_at_once_all_get_through(paced: DemoProcess) -> None:
    """Every one of a hundred clients gets its whole answer, in about the time of one."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(paced.url, connector=connector) as session:

        async def stream(number: int) -> bytes:
            body = chat(f"Number {number}", stream=True, max_tokens=40, ignore_eos=True)
            async with session.post(CHAT, json=body) as response:
                return await response.read()

        begun_s = time.monotonic()
        answers = await asyncio.gather(*(stream(number) for number in range(100)))
        assert time.monotonic() - begun_s < 15
    assert all(Answer(200, {}, answer).events[-2]["choices"][0]["finish_reason"] == "length" for answer in answers)


def test_requests_beyond_the_limit_wait_their_turn() -> None:
    """With --max-num-seqs 1 the second request waits, is counted as waiting, and runs when the first is gone."""
    with demo_process("--max-num-seqs", "1", "--tokens-per-second", "50") as process:
        first, second = connect(process), connect(process)
        for connection, tokens in ((first, 4000), (second, 1)):
            body = json.dumps(chat(max_tokens=tokens, ignore_eos=True))
            connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
            process.wait_metric("num_requests_running", 1)
        process.wait_metric("num_requests_waiting", 1)
        first.close()
        assert second.getresponse().status == 200
        second.close()


def test_a_chunk_can_hold_several_tokens() -> None:
    """--stream-interval 5: the first token alone, then five in a chunk, and the same text as ever."""
    with demo_process("--stream-interval", "5") as process:
        body = chat(stream=True, return_token_ids=True, max_tokens=12, ignore_eos=True)
        events = process.ask(CHAT, body).events
        assert [len(event["choices"][0]["token_ids"]) for event in events[1:-1]] == [1, 5, 5, 1]
        whole = process.ask(CHAT, {**body, "stream": False}).json["choices"][0]
        assert "".join(texts_of(events)) == whole["message"]["content"]


# --- Faults ------------------------------------------------------------------------------------------------------


def test_abort_ends_a_stream_as_a_dying_vllm_does() -> None:
    """finish_reason "abort", then [DONE] and a clean end: a client that trusts [DONE] would be fooled."""
    with demo_process("--abort-after-tokens", "3") as process:
        events = process.ask(CHAT, chat(stream=True)).events
        assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * 4 + ["abort"]
        assert events[-1] == "[DONE]"
        whole = process.ask(CHAT, chat())
        assert (whole.status, whole.json["choices"][0]["finish_reason"]) == (200, "abort")
        assert process.ask(CHAT, chat(max_tokens=3)).json["choices"][0]["finish_reason"] == "length"


def test_error_puts_an_error_into_the_stream() -> None:
    """An in-band error and [DONE]; an answer in one piece is a 500."""
    with demo_process("--error-after-tokens", "3") as process:
        events = process.ask(CHAT, chat(stream=True)).events
        assert events[-2]["error"]["code"] == 500
        assert events[-1] == "[DONE]"
        assert process.ask(CHAT, chat()).status == 500


@pytest.mark.parametrize("stream", [True, False])
def test_cut_closes_the_connection_in_the_middle(stream: bool) -> None:
    """No end of the answer, only an end of the connection."""
    with demo_process("--cut-after-tokens", "3") as process, pytest.raises(http.client.HTTPException):
        process.ask(CHAT, chat(stream=stream))


def test_stall_falls_silent_and_keeps_the_connection() -> None:
    """After three tokens no byte comes, and the request goes on running until the client leaves."""
    with demo_process("--stall-after-tokens", "3") as process:
        connection = connect(process)
        body = json.dumps(chat(stream=True))
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        lines = [response.readline() for _ in range(8)]
        assert b'"content":":"' in lines[6]
        assert connection.sock is not None
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            response.readline()
        assert process.metric("num_requests_running") == 1
        response.close()
        connection.close()
        process.wait_metric("num_requests_running", 0)


def test_hang_accepts_and_never_answers() -> None:
    """Even /health gets no answer."""
    with demo_process("--hang") as process:
        connection = connect(process)
        connection.timeout = 0.3
        connection.request("GET", "/health")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()


def test_health_can_be_made_to_fail() -> None:
    """--health-status 500 while requests are still answered."""
    with demo_process("--health-status", "500") as process:
        assert process.ask("/health").status == 500
        assert process.ask(CHAT, chat()).status == 200


def test_it_dies_when_told_to() -> None:
    """--die-after ends it with exit code 1, as a crash would."""
    with demo_process("--die-after", "300ms") as process:
        assert process.process.wait(20) == 1


def test_sigterm_ends_it_at_once_with_streams_open(paced: DemoProcess) -> None:
    """Whatever is being answered, the process is gone within the second, with exit code 0."""
    with demo_process("--tokens-per-second", "10") as process:
        connection = connect(process)
        body = json.dumps(chat(stream=True, max_tokens=1000))
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        process.wait_metric("num_requests_running", 1)
        begun_s = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(20) == 0
        assert time.monotonic() - begun_s < 2
        connection.close()


def test_a_taken_address_is_one_clear_line(engine: DemoProcess) -> None:
    """The second server on an address says which one it could not have, and ends with 1."""
    address = urlsplit(engine.url)
    argv = [*DEMO_SERVER, "--host", str(address.hostname), "--port", str(address.port)]
    done = subprocess.run(argv, cwd=HOME, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert f"cannot listen on {address.netloc}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


# --- The official client -----------------------------------------------------------------------------------------


def test_the_openai_client_is_served(engine: DemoProcess) -> None:
    """Models, chat and completion, in one piece and streamed, through the official client."""
    with openai.OpenAI(base_url=engine.url + "/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["demo", "other"]
        messages: list[Any] = chat()["messages"]
        whole = client.chat.completions.create(model="demo", messages=messages, max_tokens=20)
        with client.chat.completions.create(model="demo", messages=messages, max_tokens=20, stream=True) as stream:
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == whole.choices[0].message.content
        assert client.completions.create(model="demo", prompt="The", max_tokens=3).usage is not None
        with pytest.raises(openai.NotFoundError, match="Valid aliases"):
            client.chat.completions.create(model="nope", messages=messages)


async def test_the_async_openai_client_is_served(engine: DemoProcess) -> None:
    """The same through the asynchronous client, with the sums at the end of the stream."""
    async with openai.AsyncOpenAI(base_url=engine.url + "/v1", api_key="none", max_retries=0) as client:
        messages: list[Any] = chat()["messages"]
        whole = await client.chat.completions.create(model="demo", messages=messages, max_tokens=20)
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="demo", messages=messages, max_tokens=20, stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 20
