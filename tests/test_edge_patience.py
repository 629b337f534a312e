"""How long, and how much, a client's connection is waited for: by a clock that the test turns."""

import pytest

from hedgeserve.proxy.edge import Edge
from hedgeserve.proxy.request import KnownHeads
from tests.test_http_fuzz import Desk, Line

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def connect(clock: Clock, *, max_body: int = 2**20) -> tuple[Edge, Line, Desk]:
    desk, line = Desk(at_once=True, heads=KnownHeads()), Line()
    desk.bounds = (2048, max_body, 15.0)
    edge = Edge(desk, clock)
    edge.connection_made(line)
    return edge, line, desk


def test_a_body_that_trickles_has_an_end() -> None:
    """A byte every 29 s is no stall, and would hold its connection for ever."""
    clock = Clock()
    edge, line, desk = connect(clock)
    edge.data_received(HEAD + b"Content-Length: 10000\r\n\r\n")
    while clock.now_s < 3600 and not line.told:
        clock.now_s += 29.0
        edge.sweep(clock.now_s)
        edge.data_received(b" ")
        desk.end_turn()
    assert 900 <= clock.now_s <= 930
    assert line.told.startswith(b"HTTP/1.1 408 ")
    assert b"was not whole after 15m" in line.told
    assert desk.taken == []


def test_a_body_that_stops_is_given_up_sooner() -> None:
    """After half a minute of silence."""
    clock = Clock()
    edge, line, desk = connect(clock)
    edge.data_received(HEAD + b"Content-Length: 10000\r\n\r\n ")
    clock.now_s = 31.0
    edge.sweep(clock.now_s)
    desk.end_turn()
    assert b"stopped coming for 30s" in line.told


@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_a_question_that_needs_no_key_may_not_bring_much(framing: str) -> None:
    """A body for replicas may be long, and its key has been looked at; nobody looks at that of a check."""
    for target, status in ((b"/livez", b"413"), (b"/v1/completions", b"200")):
        edge, line, desk = connect(Clock())
        head = b"POST %b HTTP/1.1\r\nHost: x\r\n" % target
        if framing == "declared":
            edge.data_received(head + b"Content-Length: 100000\r\n\r\n")
            desk.end_turn()
            if not line.told:
                edge.data_received(b"x" * 100_000)
        else:
            edge.data_received(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(100):
                edge.data_received(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            edge.data_received(b"0\r\n\r\n")
        desk.end_turn()
        assert line.told.startswith(b"HTTP/1.1 " + status)
