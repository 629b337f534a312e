"""What is sent in one turn of the event loop: all of it, in its order, at the turn's end."""

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.outbox import Outbox

MOST_HELD = 64
MANY_BYTES = b"x" * 300_000


class Pipe(asyncio.Transport):
    """A transport that tells in which order all of them were written to."""

    def __init__(self, sent: list[tuple["Pipe", bytes]], *, broken: bool = False) -> None:
        super().__init__()
        self._sent, self._broken = sent, broken
        self.closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if self._broken:
            raise RuntimeError("it cannot be written to")
        assert not self.closed
        self._sent.append((self, data))

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Loop:
    """The turns of an event loop, ended by the test."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []
        self.rests: list[float] = []
        self.now_s = 1000.0
        self.outbox = Outbox(self.ready.append, lambda: self.now_s, self.rests.append)
        self.sent: list[tuple[Pipe, bytes]] = []

    def end_turn(self) -> None:
        ready, self.ready[:] = list(self.ready), []
        for work in ready:
            work()


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=9)))))
def test_what_is_written_is_sent_once_in_order_and_by_the_end_of_its_turn(
    steps: list[tuple[int, bytes] | None],
) -> None:
    """None is the end of a turn."""
    loop = Loop()
    pipes = [Pipe(loop.sent) for _ in range(4)]
    written: list[tuple[Pipe, bytes]] = []
    for step in [*steps, None]:
        if step is None:
            loop.end_turn()
            assert loop.sent == written
        else:
            number, data = step
            written.append((pipes[number], data))
            loop.outbox.write(*written[-1])
            assert loop.sent == written[: len(loop.sent)]
            assert len(written) - len(loop.sent) < MOST_HELD
            assert len(loop.ready) <= 1, "a turn ends once"


def test_much_does_not_wait_for_the_end_of_the_turn() -> None:
    """Else back-pressure would come too late."""
    loop = Loop()
    pipe = Pipe(loop.sent)
    loop.outbox.write(pipe, b"a")
    assert loop.sent == []
    loop.outbox.write(pipe, MANY_BYTES)
    assert loop.sent == [(pipe, b"a"), (pipe, MANY_BYTES)]
    loop.end_turn()
    assert len(loop.sent) == 2


def test_who_has_left_is_sent_nothing_and_who_cannot_be_written_to_costs_nobody_else() -> None:
    """A turn's writes are of many requests."""
    loop = Loop()
    gone, broken, whole = Pipe(loop.sent), Pipe(loop.sent, broken=True), Pipe(loop.sent)
    for pipe in (gone, broken, whole):
        loop.outbox.write(pipe, b"x")
    gone.abort()
    loop.end_turn()
    assert loop.sent == [(whole, b"x")]
    assert broken.closed
    assert not whole.closed


def test_what_is_flushed_is_not_sent_again() -> None:
    """Before a transport is closed, what it is to send goes out."""
    loop = Loop()
    pipe = Pipe(loop.sent)
    loop.outbox.write(pipe, b"x")
    loop.outbox.flush()
    assert loop.sent == [(pipe, b"x")]
    loop.end_turn()
    loop.outbox.write(pipe, b"y")
    loop.end_turn()
    assert loop.sent == [(pipe, b"x"), (pipe, b"y")]


def test_the_loop_rests_only_once_all_is_sent() -> None:
    """And only in the midst of many tokens, which it is told of."""
    loop = Loop()
    pipe = Pipe(loop.sent)
    for _ in range(20_000):
        loop.outbox.write(pipe, b"x")
        loop.now_s += 0.00001
        loop.end_turn()
    assert loop.rests == []
    for turn in range(200):
        for _ in range(10):
            loop.outbox.write(pipe, b"x")
        loop.outbox.tokens += 10
        loop.now_s += 0.0005
        loop.end_turn()
        assert len(loop.sent) == 20_000 + 10 * (turn + 1)
    assert len(loop.rests) > 100
    rested = len(loop.rests)
    loop.outbox.tokens += 10
    loop.outbox.hurry()
    loop.outbox.write(pipe, b"x")
    loop.end_turn()
    assert len(loop.rests) == rested
