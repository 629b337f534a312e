"""What failover must cope with, in the demo engine: text that hurts, JSON, tools, thoughts, faults on request."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.engines.demo_server.document import Document
from hedgeserve.engines.demo_server.markup import Splitter, split
from hedgeserve.engines.demo_server.phrases import TOPICS
from hedgeserve.engines.demo_server.tokens import EOS, IDS, VOCABULARY, decode
from tests.demo_process import DemoProcess, demo_process

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
RING = {
    "type": "function",
    "function": {
        "name": "ring",
        "parameters": {"type": "object", "properties": {"bell": {"type": "string"}, "times": {"type": "integer"}}},
    },
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "東京"]}}},
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {
    "type": "object",
    "properties": {"bell": {"type": "string"}, "sizes": {"type": "array", "items": {"$ref": "#/$defs/size"}}},
    "$defs": {"size": {"enum": [3, 4]}},
}
FORMATS: list[dict[str, Any]] = [
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "bell", "schema": SCHEMA}},
]


@pytest.fixture(scope="module")
def engine() -> Iterator[DemoProcess]:
    """A server that parses tool calls and obeys requests for faults."""
    with demo_process("--enable-auto-tool-choice", "--obey-faults", "--max-model-len", "1024") as process:
        yield process


@pytest.fixture(scope="module")
def twin() -> Iterator[DemoProcess]:
    """Another server of the same words, with no option at all."""
    with demo_process("--max-model-len", "1024") as process:
        yield process


def chat(text: str = "Tell me of the sea", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def choices_of(events: list[Any], index: int = 0) -> list[dict[str, Any]]:
    """The choices of that index in a stream's chunks, without the role's."""
    every = [choice for event in events[:-1] for choice in event["choices"]]
    return [choice for choice in every if choice["index"] == index and "role" not in choice.get("delta", {})]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def content_of(events: list[Any], index: int = 0, key: str = "content") -> str:
    """What a stream says under that key of its deltas."""
    return "".join(choice["delta"].get(key) or "" for choice in choices_of(events, index))


def known(engine: DemoProcess, body: dict[str, Any]) -> tuple[list[int], list[int], dict[str, Any]]:
    """The prompt's ids, the answer's ids and the choice of a chat in one piece."""
    whole = engine.ask(CHAT, {**body, "return_token_ids": True}).json
    return whole["prompt_token_ids"], whole["choices"][0]["token_ids"], whole["choices"][0]


def go_on(engine: DemoProcess, ids: list[int], tokens: int, **fields: Any) -> dict[str, Any]:
    """The choice of a raw continuation."""
    body = {"prompt": ids, "max_tokens": tokens, "return_token_ids": True, **fields}
    choice: dict[str, Any] = engine.ask(TEXT, body).json["choices"][0]
    return choice


# --- Text that hurts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS)
def test_a_word_of_the_prompt_steers_the_story_and_any_cut_is_continued(
    engine: DemoProcess, twin: DemoProcess, topic: str
) -> None:
    """Emoji with joiners, CJK, Devanagari, combining marks, line ends: all exact by ids, wherever the cut is."""
    body = chat(f"Show me {topic} please", max_tokens=70, ignore_eos=True)
    prompt, ids, choice = known(engine, body)
    assert choice["message"]["content"] != known(engine, chat("Show me please"))[2]["message"]["content"]
    for cut in range(1, len(ids)):
        rest = go_on(twin, prompt + ids[:cut], len(ids) - cut, ignore_eos=True)
        assert rest["token_ids"] == ids[cut:], f"cut after {cut}"


def test_the_hurting_characters_are_there(engine: DemoProcess) -> None:
    """Joined emoji, a skin tone, a rare ideograph, Devanagari signs, combining marks, line ends."""
    texts = "".join(
        known(engine, chat(f"{topic} {number}", max_tokens=150, ignore_eos=True))[2]["message"]["content"]
        for topic in TOPICS
        for number in range(4)
    )
    for piece in ("\u200d", "🏽", "\U00020bb7", "\u094d", "\u0302", "\n\n", "\r\n", "\t", "    "):
        assert piece in texts, repr(piece)


def test_tokens_end_one_character_and_begin_another() -> None:
    """Such tokens give no place to cut at between two characters, which is what makes them dangerous."""
    both = [token for token in VOCABULARY if 0x80 <= token[0] < 0xC0 and token.decode("utf-8", "ignore") == ""]
    assert any(any(byte >= 0xC0 for byte in token) for token in both)


# --- JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_a_json_answer_is_a_document_and_the_same_again(
    engine: DemoProcess, twin: DemoProcess, form: dict[str, Any]
) -> None:
    """A valid document, finish_reason stop, the same on both servers, streamed or not."""
    body = chat("As JSON", response_format=form)
    whole = engine.ask(CHAT, body).json["choices"][0]
    document = json.loads(whole["message"]["content"])
    assert whole["finish_reason"] == "stop"
    assert set(document) == ({"bell", "sizes"} if form is FORMATS[1] else {"name", "count", "tags", "ready"})
    assert form is FORMATS[0] or set(document["sizes"]) <= {3, 4}
    assert content_of(twin.ask(CHAT, {**body, "stream": True}).events) == whole["message"]["content"]


def test_a_continued_document_begins_anew_as_with_vllms_grammar(engine: DemoProcess, twin: DemoProcess) -> None:
    """Continued with the format, a second document is nested into the first; without it, words follow."""
    prompt, ids, choice = known(engine, chat("As JSON", response_format=FORMATS[0]))
    for cut in range(1, len(ids) - 1):
        again = go_on(twin, prompt + ids[:cut], 200, response_format=FORMATS[0], temperature=0)
        sent = decode(ids[:cut]).decode("utf-8", "replace")
        assert "{" in again["text"]
        assert not is_json(sent + again["text"])
        assert go_on(twin, prompt + ids[:cut], len(ids) - cut)["token_ids"] != ids[cut:]
    assert json.loads(choice["message"]["content"])


def test_structured_outputs_know_choices_and_schemas(engine: DemoProcess) -> None:
    """One of the choices, word for word; a schema as text."""
    fields: dict[str, Any] = {"structured_outputs": {"choice": ["big", "small"]}}
    assert engine.ask(CHAT, chat(**fields)).json["choices"][0]["message"]["content"] in ("big", "small")
    fields = {"structured_outputs": {"json": json.dumps(SCHEMA)}}
    assert set(json.loads(engine.ask(CHAT, chat(**fields)).json["choices"][0]["message"]["content"])) == {
        "bell",
        "sizes",
    }


KEYS = ["type", "enum", "anyOf", "properties", "items", "minItems", "$ref", "minimum", "maxLength"]
SCHEMAS = st.recursive(
    st.none() | st.floats() | st.sampled_from(["object", "array", "integer", "string", "#"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@given(SCHEMAS, st.integers(0, 2**64))
def test_no_schema_is_too_odd_for_a_document(schema: object, dice: int) -> None:
    """Whatever is given as a schema, some document comes out, and JSON can be made of it."""
    assert json.dumps(Document(dice).of(schema)) is not None


# --- Tools -------------------------------------------------------------------------------------------------------


def calls_of(events: list[Any]) -> list[tuple[str, str]]:
    """Names and arguments of a streamed answer's calls, put together as a client does."""
    calls: list[list[str]] = []
    for choice in choices_of(events):
        for delta in choice["delta"].get("tool_calls", []):
            if "id" in delta:
                assert delta["id"].startswith("chatcmpl-tool-")
                assert (delta["type"], delta["index"]) == ("function", len(calls))
                calls.append([delta["function"]["name"], ""])
            calls[delta["index"]][1] += delta["function"].get("arguments", "")
    return [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_tools_are_called_in_pieces_and_whole(engine: DemoProcess, choice: object) -> None:
    """Name first, then the arguments; finish_reason tool_calls, but stop where the function was named."""
    for number in range(12):
        body = chat(f"Call {number}", tools=[RING, WEATHER], tool_choice=choice)
        events = engine.ask(CHAT, {**body, "stream": True}).events
        whole = engine.ask(CHAT, body).json["choices"][0]
        told = [
            (call["function"]["name"], call["function"]["arguments"]) for call in whole["message"]["tool_calls"]
        ]
        assert calls_of(events) == told
        assert all(json.loads(arguments) for _, arguments in told)
        assert choices_of(events)[-1]["finish_reason"] == whole["finish_reason"]
        assert whole["finish_reason"] == ("stop" if choice is NAMED else "tool_calls")
        assert choice is not NAMED or [name for name, _ in told] == ["weather"]
        assert content_of(events) == (whole["message"]["content"] or "")


def test_auto_may_say_something_first_call_two_or_only_talk(engine: DemoProcess) -> None:
    """Among some prompts: content before a call, two calls at once; and the word talk makes it talk."""
    wholes = [
        engine.ask(CHAT, chat(f"Call {number}", tools=[RING, WEATHER])).json["choices"][0] for number in range(30)
    ]
    assert {bool(whole["message"]["content"]) for whole in wholes} == {True, False}
    assert {len(whole["message"]["tool_calls"]) for whole in wholes} == {1, 2}
    talk = engine.ask(CHAT, chat("Let us talk", tools=[RING])).json["choices"][0]
    assert (talk["finish_reason"], "tool_calls" in talk["message"]) == ("stop", False)


def test_ids_of_a_call_come_with_empty_deltas(engine: DemoProcess) -> None:
    """With return_token_ids each id is told, those of the hidden marks with an empty delta; without, none is."""
    body = chat("Call", tools=[RING], tool_choice="required", stream=True)
    hidden = choices_of(engine.ask(CHAT, {**body, "return_token_ids": True}).events)
    assert hidden[0]["delta"] == {}
    assert sum(len(choice["token_ids"]) for choice in hidden) == len(hidden)
    assert hidden[-1]["token_ids"] == [EOS]
    shown = choices_of(engine.ask(CHAT, body).events)
    for choice in (*hidden, *shown):
        for call in choice["delta"].get("tool_calls", []):
            call.pop("id", None)  # another one each time
    assert [choice["delta"] for choice in shown] == [
        choice["delta"] for choice in hidden if choice["delta"] or choice["finish_reason"]
    ]


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_a_raw_continuation_of_a_call_is_raw_text(engine: DemoProcess, twin: DemoProcess, choice: object) -> None:
    """The ids go on exactly, but as text between marks, and the end is stop: no answer for a chat's client."""
    prompt, ids, _ = known(engine, chat("Call 7", tools=[RING, WEATHER], tool_choice=choice, temperature=0))
    raw = decode(ids, skip_special=True).decode()
    assert "<tool_call>\n" in raw
    for cut in range(1, len(ids)):
        rest = go_on(twin, prompt + ids[:cut], 300)
        if choice == "auto":
            assert rest["token_ids"] == ids[cut:], f"cut after {cut}"
        assert rest["finish_reason"] == "stop"
        assert rest["text"].endswith("</tool_call>") or cut > len(ids) - 3


def test_no_call_is_told_where_the_tokens_run_out_in_its_name(engine: DemoProcess) -> None:
    """Cut short by max_tokens, a call is content in an answer in one piece and nothing in a stream."""
    body = chat("Call", tools=[RING], tool_choice="required", max_tokens=4)
    whole = engine.ask(CHAT, body).json["choices"][0]
    assert whole["message"]["content"].startswith("<tool_call>")
    assert (whole["finish_reason"], "tool_calls" in whole["message"]) == ("length", False)
    events = engine.ask(CHAT, {**body, "stream": True}).events
    assert [choice["delta"] for choice in choices_of(events)] == [{}]


@given(st.data())
def test_calls_come_out_the_same_however_the_text_is_cut(data: st.DataObject) -> None:
    """Bit by bit or at once, a client puts together the same calls and the same content."""
    text = 'So <b>: <tool_call>\n{"name": "f", "arguments": {"a": {"b": "}}"}}}\n</tool_call>\n'
    text += '<tool_call>{"name":"g","arguments":{}}</tool_call>'
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    splitter = Splitter(reasoning=False, calls=True)
    content, calls = "", [["", ""], ["", ""]]
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        delta = splitter.feed(text[begin:end]) or {}
        content += delta.get("content") or ""
        for call in delta.get("tool_calls", []):
            calls[call["index"]][0] += call["function"].get("name", "")
            calls[call["index"]][1] += call["function"].get("arguments", "")
    _, whole, told = split(text, reasoning=False, calls=True)
    assert content == whole == "So <b>: "
    assert calls == [[call["function"]["name"], call["function"]["arguments"]] for call in told]


# --- Thoughts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thinker() -> Iterator[DemoProcess]:
    """A server whose chats begin with thoughts."""
    with demo_process("--reasoning", "--enable-auto-tool-choice", "--max-model-len", "1024") as process:
        yield process


def test_thoughts_are_told_apart_and_their_marks_not_at_all(thinker: DemoProcess) -> None:
    """As reasoning, before the content, in pieces and whole; the sums tell how many tokens they took."""
    body = chat("Think")
    whole = thinker.ask(CHAT, body).json
    message = whole["choices"][0]["message"]
    events = thinker.ask(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}}).events
    assert content_of(events, key="reasoning") == message["reasoning"] != ""
    assert content_of(events) == message["content"]
    assert message["content"].startswith("Demo engine: ")
    assert not any(mark in json.dumps(events) for mark in ("<think>", "</think>"))
    with_ids = choices_of(thinker.ask(CHAT, {**body, "stream": True, "return_token_ids": True}).events)
    marks = [IDS[b"<think>"], IDS[b"</think>"]]
    assert [part["delta"] for part in with_ids if set(part["token_ids"]) & set(marks)] == [{}, {}]
    for usage in (whole["usage"], events[-2]["usage"]):
        assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_a_raw_continuation_of_thoughts_shows_their_marks(thinker: DemoProcess) -> None:
    """The ids go on exactly, but what a chat's client must not see is in the text."""
    prompt, ids, _ = known(thinker, chat("Think"))
    for cut in range(1, len(ids)):
        assert go_on(thinker, prompt + ids[:cut], len(ids) - cut)["token_ids"] == ids[cut:], f"cut after {cut}"
    assert "</think>Demo engine:" in go_on(thinker, prompt + ids[:1], 200)["text"]


def test_thoughts_can_be_hidden_and_with_them_all_ids(thinker: DemoProcess) -> None:
    """include_reasoning false: no reasoning, and no ids that would give it away."""
    body = chat("Think", include_reasoning=False, return_token_ids=True)
    choice = thinker.ask(CHAT, body).json["choices"][0]
    assert (choice["message"]["reasoning"], choice["token_ids"]) == (None, None)
    events = thinker.ask(CHAT, {**body, "stream": True}).events
    assert content_of(events) == choice["message"]["content"]
    assert all(part["token_ids"] is None and not part["delta"].get("reasoning") for part in choices_of(events))


def test_json_and_calls_come_after_the_thoughts(thinker: DemoProcess) -> None:
    """A demanded form is demanded of the answer and not of the thoughts."""
    whole = thinker.ask(CHAT, chat("Think", response_format=FORMATS[0])).json["choices"][0]["message"]
    assert whole["reasoning"]
    assert is_json(whole["content"])
    whole = thinker.ask(CHAT, chat("Think", tools=[RING], tool_choice="required")).json["choices"][0]["message"]
    assert whole["reasoning"]
    assert [call["function"]["name"] for call in whole["tool_calls"]] == ["ring"]


# --- Faults that a request asks for ------------------------------------------------------------------------------


def fault(text: str) -> dict[str, str]:
    return {"x-demo-fault": text}


def test_a_request_asks_for_its_own_fault(engine: DemoProcess) -> None:
    """abort and error after so many tokens, and no other request is struck."""
    body = chat("Fault", stream=True, return_token_ids=True)
    ends = choices_of(engine.ask(CHAT, body, headers=fault("abort=7")).events)
    assert sum(len(choice["token_ids"]) for choice in ends) == 7
    assert ends[-1]["finish_reason"] == "abort"
    events = engine.ask(CHAT, body, headers=fault("error=7")).events
    assert sum(len(choice["token_ids"]) for choice in choices_of([*events[:-2], "end"])) == 7
    assert events[-2]["error"]["code"] == 500
    assert engine.ask(CHAT, {**body, "stream": False}, headers=fault("error=7")).status == 500
    assert choices_of(engine.ask(CHAT, body).events)[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_a_request_asks_to_be_cut(engine: DemoProcess, tokens: int) -> None:
    """Exactly so many tokens come, and then the connection ends without an end of the answer."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        engine.ask(CHAT, chat("Fault", stream=True), headers=fault(f"cut={tokens}"))
    assert caught.value.partial.count(b'"finish_reason":null') == (tokens + 1 if tokens else 0)


def test_a_request_asks_for_an_error_before_the_first_byte(engine: DemoProcess) -> None:
    """http500 and its like are an answer of that status."""
    for status in (500, 503, 429):
        answer = engine.ask(CHAT, chat(stream=True), headers=fault(f"http{status}"))
        assert (answer.status, answer.json["error"]["code"]) == (status, status)


def test_a_fault_that_does_not_exist_is_refused(engine: DemoProcess) -> None:
    """400, and the message lists the faults there are."""
    for text in ("explode=3", "cut=x", "http200", ""):
        answer = engine.ask(CHAT, chat(), headers=fault(text))
        assert answer.status == 400
        assert "write one of abort=N" in answer.json["error"]["message"]


def test_without_the_option_the_header_is_ignored(twin: DemoProcess) -> None:
    """A client cannot break a server that was not told to obey."""
    assert twin.ask(CHAT, chat(), headers=fault("http500")).status == 200


@pytest.mark.parametrize("name", ["stall", "vanish"])
def test_a_silent_answer_keeps_its_connection(name: str) -> None:
    """After three tokens no byte comes; a stalled request ends when its client leaves, a vanished one does not."""
    with demo_process("--obey-faults") as process:
        address = urlsplit(process.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        headers = {"Content-Type": "application/json", **fault(f"{name}=3")}
        connection.request("POST", CHAT, json.dumps(chat(stream=True)), headers)
        response = connection.getresponse()
        lines = [response.readline() for _ in range(8)]
        assert b'"content":":"' in lines[6]
        assert connection.sock is not None
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            response.readline()
        response.close()
        connection.close()
        if name == "stall":
            process.wait_metric("num_requests_running", 0)
        else:
            assert process.ask(CHAT, chat()).status == 200
            assert process.metric("num_requests_running") == 1


async def test_five_hundred_streams_at_once_all_get_through() -> None:
    """512 clients at a time, each its whole answer, cut or not as each asked."""
    with demo_process("--obey-faults", "--max-num-seqs", "1024", "--tokens-per-second", "20") as process:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(process.url, connector=connector) as session:

            async def stream(number: int) -> int:
                body = chat(f"emoji {number}", stream=True, max_tokens=20, ignore_eos=True)
                headers = fault("cut=9") if number % 4 == 0 else {}
                data = b""
                try:
                    async with session.post(CHAT, json=body, headers=headers) as response:
                        async for part in response.content.iter_any():
                            data += part
                except aiohttp.ClientPayloadError:
                    assert number % 4 == 0
                return data.count(b'"token_ids"')

            counts = await asyncio.gather(*(stream(number) for number in range(512)))
    assert all(1 <= count <= (9 if number % 4 == 0 else 20) + 1 for number, count in enumerate(counts))
    assert sum(counts) > 512 * 8
