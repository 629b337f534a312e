"""Heads of requests that are read once for all connections, and never taken for what they are not."""

import pytest

from hedgeserve.proxy.request import Incoming, KnownHeads

BODY = b'{"n": 1}'


def data(*lines: bytes, body: bytes = BODY, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"POST /v1/x HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (b"".join(lines), size, body)


def read(told: bytes = BODY) -> Incoming:
    """A request as llhttp would have found it."""
    incoming = Incoming()
    incoming.method, incoming.path, incoming.target = b"POST", "/v1/x", b"/v1/x"
    incoming.headers = [(b"host", b"Host", b"x")]
    incoming.first = {b"host": b"x"}
    incoming.hosts = 1
    incoming.declared = len(told)
    incoming.add(told)
    incoming.whole = True
    return incoming


def test_the_same_head_with_another_body_is_known() -> None:
    """Whoever says it; and the two requests share nothing that changes."""
    heads = KnownHeads()
    first = read()
    heads.remember(first, data())
    second = heads.find(data(body=b'{"n": 2}'))
    third = heads.find(data(body=b'{"n": 3}'))
    assert second is not None
    assert third is not None
    assert (second.body, third.body, first.body) == ([b'{"n": 2}'], [b'{"n": 3}'], [BODY])
    assert (second.method, second.path, second.first, second.keep_alive) == (b"POST", "/v1/x", first.first, True)
    second.keep_alive = False
    fourth = heads.find(data())
    assert fourth is not None
    assert fourth.keep_alive


@pytest.mark.parametrize(
    "other",
    [
        data(b"X-Other: 1\r\n"),
        data(body=BODY + b"more", length=len(BODY)),
        data(body=BODY[:-1], length=len(BODY)),
        data()[: -len(BODY)],
        data()[:20],
        b"",
        data().replace(b"Host: x", b"Host: y"),
    ],
)
def test_anything_else_is_read(other: bytes) -> None:
    """Another header, more or less of a body, half of a head."""
    heads = KnownHeads()
    heads.remember(read(), data())
    assert heads.find(other) is None


@pytest.mark.parametrize("change", [{"http_10": True}, {"keep_alive": False}, {"declared": None}])
def test_what_would_not_be_the_same_again_is_not_remembered(change: dict[str, object]) -> None:
    """A connection that is to be closed after it, a body without a length."""
    heads = KnownHeads()
    incoming = read()
    for name, value in change.items():
        setattr(incoming, name, value)
    heads.remember(incoming, data())
    assert heads.find(data()) is None


def test_two_requests_at_once_are_not_one_head() -> None:
    """The length at the end is that of the second."""
    heads = KnownHeads()
    heads.remember(read(), data() + data())
    assert heads.find(data() + data()) is None


def test_ever_new_heads_do_not_fill_the_memory() -> None:
    """They are forgotten, all at once, and learnt again."""
    heads = KnownHeads()
    for number in range(1000):
        heads.remember(read(), data(b"X-Number: %d\r\n" % number))
    known = [number for number in range(1000) if heads.find(data(b"X-Number: %d\r\n" % number))]
    assert 0 < len(known) <= 256
    heads.remember(read(), data(b"X-Long: %b\r\n" % (b"x" * 5000)))
    assert heads.find(data(b"X-Long: %b\r\n" % (b"x" * 5000))) is None
