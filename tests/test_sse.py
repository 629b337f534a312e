"""The scanner of streams and the judge of answers: whole events, real ends, whatever the cut of the bytes."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy import failover
from hedgeserve.proxy.sse import Scanner
from hedgeserve.proxy.verdict import Dialect, aborted


def event(data: object, end: bytes = b"\n\n") -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + end


def chunk(text: str = "", finish: str | None = None, index: int = 0) -> bytes:
    return event({"choices": [{"index": index, "text": text, "finish_reason": finish}]})


DONE = event(b"[DONE]")
ERROR = event({"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}})


def scan(*chunks: bytes, dialect: Dialect = Dialect.CHOICES, choices: int = 1) -> tuple[bytes, Scanner]:
    scanner = Scanner(dialect, choices=choices)
    out = b"".join([scanner.feed(each) for each in chunks])
    return out + scanner.close(), scanner


line_ends = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\n\n\n", b"\n", b"\r\n"])
pieces = st.one_of(
    st.builds(
        lambda text: json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": None}]}), st.text()
    ),
    st.sampled_from(
        [
            '{"choices":[{"index":0,"finish_reason":"stop"}]}',
            '{"choices": [{"index": 1, "finish_reason" : "length"}]}',
            '{"choices":[{"index":0,"finish_reason":"abort"}]}',
            '{"error":{"message":"m","code":500}}',
            '{"error": {"message": "m", "code": 400}}',
            '{"error":null,"choices":[]}',
            "[DONE]",
            "no json",
        ]
    ),
)
streams = st.lists(
    st.one_of(
        st.tuples(pieces, line_ends).map(lambda pair: b"data: " + pair[0].encode() + pair[1]),
        st.sampled_from([b": ping\n\n", b"event: x\n", b"\n", b"\r", b"\r\n", b"data:\n\n", b"junk"]),
    ),
    max_size=8,
).map(b"".join)


@given(streams, st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_of_the_bytes_gives_the_same_result(stream: bytes, cuts: list[int]) -> None:
    """One chunk, or bytes cut anywhere, inside CRLF and UTF-8 too: same bytes out, same judgement."""
    whole, judged = scan(stream)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    out, scanner = scan(*(stream[start:end] for start, end in itertools.pairwise(edges)))
    assert out == whole
    for fact in ("failure", "done", "finished", "complete"):
        assert getattr(scanner, fact) == getattr(judged, fact), fact


@given(streams)
def test_what_comes_out_is_the_beginning_of_what_went_in(stream: bytes) -> None:
    """No byte is changed, added or moved."""
    out, _ = scan(stream)
    assert stream.startswith(out)


@given(st.lists(st.text(min_size=1), max_size=20))
def test_a_healthy_stream_passes_whole(texts: list[str]) -> None:
    """Whatever the model says, the keys that we look for included, it is only text."""
    stream = b"".join([chunk(text + '"finish_reason":"abort" "error": {1}') for text in texts])
    stream += chunk(finish="stop") + DONE
    out, scanner = scan(stream)
    assert out == stream
    assert scanner.complete
    assert scanner.done
    assert not scanner.failure


def test_half_an_event_is_held_until_its_end_has_come() -> None:
    """So that an error event can be said at any time without running into half of another."""
    scanner = Scanner(Dialect.CHOICES)
    first, second = chunk("a"), chunk("b")
    assert scanner.feed(first + second[:10]) == first
    assert scanner.feed(second[10:]) == second


@pytest.mark.parametrize("bad", [chunk(finish="abort"), chunk(finish="error"), ERROR, DONE])
def test_an_event_that_spoils_the_answer_is_held_back_and_ends_it(bad: bytes) -> None:
    """`abort`, an error inside the stream, and `[DONE]` without a finish_reason are failures, not answers."""
    out, scanner = scan(chunk("a") + bad + DONE)
    assert out == chunk("a")
    assert scanner.failure
    assert not scanner.complete


def test_an_end_without_finish_reason_is_not_complete() -> None:
    """A clean EOF is what a killed server may leave."""
    _, scanner = scan(chunk("a"), chunk("b"))
    assert not scanner.complete
    assert not scanner.failure


def test_an_error_that_is_the_clients_fault_is_passed_on() -> None:
    """Another replica would say the same."""
    refusal = event({"error": {"message": "too long", "code": 400}})
    out, scanner = scan(refusal + DONE)
    assert out == refusal + DONE
    assert scanner.complete


def test_all_choices_must_finish_before_a_cut_is_harmless() -> None:
    """Two choices were asked for and one is done: the other is still missing."""
    _, half = scan(chunk(finish="stop", index=0), choices=2)
    _, whole = scan(chunk(finish="stop", index=0), chunk(finish="length", index=1), choices=2)
    assert half.finished
    assert not half.complete
    assert whole.complete


def test_done_after_a_finish_counts_whatever_number_of_choices_was_expected() -> None:
    """Our count is a reading of the request; the engine's own word is better."""
    _, scanner = scan(chunk(finish="stop"), DONE, choices=5)
    assert scanner.complete


def test_a_last_event_without_its_empty_line_still_counts() -> None:
    """Some servers close right after `data: [DONE]`."""
    out, scanner = scan(chunk(finish="stop") + b"data: [DONE]")
    assert out.endswith(b"data: [DONE]")
    assert scanner.done


def test_half_a_last_event_is_dropped() -> None:
    """Half a JSON object would only break the client's parser."""
    out, _ = scan(chunk("a") + chunk("b")[:-6])
    assert out == chunk("a")


def test_an_event_without_end_is_a_failure_not_a_leak() -> None:
    """What is held back is bounded."""
    scanner = Scanner(Dialect.CHOICES, longest_event_bytes=100)
    assert scanner.feed(b"data: " + b"x" * 200) == b""
    assert "100 bytes" in scanner.failure
    assert scanner.feed(b"\n\n") == b""


MESSAGES = b"".join(
    [
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ]
)
RESPONSES = b"".join(
    [
        b'event: response.created\ndata: {"type":"response.created","response":{"error":null}}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed","response":{"error":null}}\n\n',
    ]
)


@pytest.mark.parametrize(("dialect", "stream"), [(Dialect.MESSAGES, MESSAGES), (Dialect.RESPONSES, RESPONSES)])
def test_other_apis_finish_in_their_own_words(dialect: Dialect, stream: bytes) -> None:
    """Complete with its last event, not complete before the event that tells of the end."""
    out, scanner = scan(stream, dialect=dialect)
    _, cut = scan(stream[: stream.index(b"\n\n") + 2], dialect=dialect)
    assert out == stream
    assert scanner.complete
    assert not cut.complete


def test_a_failed_response_is_a_failure() -> None:
    """The responses API tells of failure in an event of its own."""
    _, scanner = scan(
        event({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "died"}}}),
        dialect=Dialect.RESPONSES,
    )
    assert "died" in scanner.failure


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b'{"choices":[{"index":0,"finish_reason":"abort"}]}', True),
        (b'{"choices":[{"index":0,"finish_reason":"stop"},{"index":1,"finish_reason": "abort"}]}', True),
        (b'{"choices":[{"index":0,"finish_reason":"stop"}]}', False),
        (json.dumps({"choices": [{"text": '"finish_reason":"abort"', "finish_reason": "stop"}]}).encode(), False),
        (b'{"data":[{"finish_reason":"abort"}]}', False),
        (b'"finish_reason":"abort"', False),
    ],
)
def test_an_aborted_answer_in_one_piece_is_recognised(body: bytes, verdict: bool) -> None:
    """It comes with status 200, and is half an answer."""
    assert aborted(body) is verdict


@pytest.mark.parametrize(
    ("cut", "ending"),
    [
        (failover.Cut(complete=False, done=False, says_done=True), failover.Ending.TELL),
        (failover.Cut(complete=False, done=False, says_done=False), failover.Ending.TELL),
        (failover.Cut(complete=True, done=False, says_done=True), failover.Ending.SAY_DONE),
        (failover.Cut(complete=True, done=True, says_done=True), failover.Ending.CLOSE),
        (failover.Cut(complete=True, done=False, says_done=False), failover.Ending.CLOSE),
    ],
)
def test_a_cut_stream_ends_as_what_is_missing_demands(cut: failover.Cut, ending: failover.Ending) -> None:
    """Half an answer is told of; a whole one whose connection broke afterwards is whole."""
    assert failover.after(cut) is ending
