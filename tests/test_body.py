"""By its head it is known what the body of a replica's answer is."""

import pytest

from hedgeserve.proxy.body import BLIND, CALL, ERROR, EVENTS, PLAIN, Held, body_of

STREAM = "text/event-stream"
JSON = "application/json"


@pytest.mark.parametrize(
    ("status", "kind", "encoding", "body"),
    [
        (200, STREAM, "", EVENTS),
        (200, STREAM, "identity", EVENTS),
        (200, STREAM, "gzip", BLIND),
        (200, JSON, "", PLAIN),
        (404, STREAM, "", PLAIN),
        (401, JSON, "", ERROR),
        (500, STREAM, "", ERROR),
        (503, JSON, "gzip", ERROR),
    ],
)
def test_a_first_answer(status: int, kind: str, encoding: str, body: int) -> None:
    """A stream is scanned where it can be read; whatever is the replica's fault is no answer."""
    assert body_of(status, kind, encoding, resuming=False, calling=False) == body


@pytest.mark.parametrize(
    ("status", "kind", "encoding", "body"),
    [(200, STREAM, "", EVENTS), (200, STREAM, "gzip", CALL), (400, JSON, "", CALL), (500, JSON, "", ERROR)],
)
def test_an_answer_that_goes_on(status: int, kind: str, encoding: str, body: int) -> None:
    """What cannot be read cannot be joined to what the client has: the recovery must find another way."""
    assert body_of(status, kind, encoding, resuming=True, calling=False) == body


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_what_a_recovery_asked_for_is_for_it_to_judge(status: int) -> None:
    """Whatever it looks like."""
    assert body_of(status, STREAM, "", resuming=True, calling=True) == CALL


def test_what_is_held_comes_to_what_came() -> None:
    """In pieces, one piece, or none."""
    held = Held()
    assert (held.whole(), held.size_bytes) == (b"", 0)
    held.add(b"one ")
    assert (held.whole(), held.size_bytes) == (b"one ", 4)
    held.add(b"two")
    assert (held.whole(), held.size_bytes) == (b"one two", 7)
