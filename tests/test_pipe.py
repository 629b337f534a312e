"""Connections on sockets of our own: their protocols hear what they would hear from asyncio's transports."""

import asyncio
import errno
import gc
import os
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from hedgeserve.proxy.pipe import Line
from hedgeserve.proxy.poll import Dial, Poll
from tests.callers import LOOPS, LoopFactory, run_on
from tests.upstreams import until

MANY_BYTES = 2**20
Story = Callable[["Scene"], Coroutine[Any, Any, None]]


class Diary:
    """A protocol that writes down all that it hears, and in which turn; ``then`` is what it does about bytes."""

    def __init__(self, turn: Callable[[], int]) -> None:
        self._turn = turn
        self.heard: list[str] = []
        self.data = b""
        self.error: Exception | None = None
        self.made_in = self.lost_in = -1
        self.then: Callable[[bytes], None] = lambda data: None
        self.line: Line

    def connection_made(self, transport: Line) -> None:
        self.line = transport
        self.made_in = self._turn()
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.then(data)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return False

    def pause_writing(self) -> None:
        self.heard.append("full")

    def resume_writing(self) -> None:
        self.heard.append("room")

    def connection_lost(self, error: Exception | None) -> None:
        self.heard.append("lost")
        self.error = error
        self.lost_in = self._turn()


@dataclass
class Scene:
    """A poll, and the turns of its event loop, counted."""

    poll: Poll
    turns: int = 0
    troubles: list[dict[str, Any]] = field(default_factory=list)

    async def pair(self, *, room: int | None = None) -> tuple[Diary, socket.socket]:
        """A connection of ours, and its other end; ``room``: what the kernel keeps for either is small."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if room:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            other = socket.socket()
            if room:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            other.connect(listener.getsockname())
            mine, peer = listener.accept()
        diary = Diary(lambda: self.turns)
        self.poll.accepted(mine, diary, peer)
        other.setblocking(False)
        return diary, other

    async def some_turns(self, count: int = 20) -> None:
        """Let the loop turn."""
        for _ in range(count):
            await asyncio.sleep(0)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """The poll is closed at the end, no descriptor is left, and nothing came to the loop's own ears."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)  # the loop has what it needs
    descriptors = len(os.listdir("/proc/self/fd"))
    it = Scene(Poll(loop))
    loop.set_exception_handler(lambda _, context: it.troubles.append(context))

    async def count() -> None:
        while True:
            it.turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        yield it
    finally:
        it.poll.close()
        counting.cancel()
        await asyncio.wait([counting])
        await asyncio.sleep(0)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)  # what others left may be freed meanwhile
    assert it.troubles == []


def played(story: Story) -> Callable[[LoopFactory], None]:
    """This story as a test, on both loops."""

    async def play() -> None:
        async with scene() as it:
            await story(it)

    @pytest.mark.skipif(not Poll.possible(), reason="this system has no epoll")
    @pytest.mark.parametrize("loop", LOOPS)
    def test(loop: LoopFactory) -> None:
        run_on(loop, play())

    test.__doc__ = story.__doc__
    return test


async def all_of(other: socket.socket, size: int) -> bytes:
    """So many bytes from the other end; fewer where it ends."""
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size and (more := await loop.sock_recv(other, 2**20)):
        data += more
    return data


@played
async def test_bytes_go_both_ways(it: Scene) -> None:
    """As they are; and the protocol knows who is there."""
    diary, other = await it.pair()
    with other:
        assert diary.heard == ["made"]
        assert diary.line.get_extra_info("peername") == other.getsockname()
        assert diary.line.get_extra_info("cipher") is None
        other.send(b"ask")
        await until(lambda: diary.data == b"ask")
        diary.line.write(b"answer")
        assert await all_of(other, 6) == b"answer"
        diary.line.abort()


@played
async def test_what_the_kernel_does_not_take_waits_in_order_and_its_writer_is_told_to(it: Scene) -> None:
    """Once it is too much, and again when there is room."""
    diary, other = await it.pair(room=4096)
    with other:
        sent = b""
        while diary.heard == ["made"]:
            part = os.urandom(10_000)
            sent += part
            diary.line.write(part)
        assert diary.heard == ["made", "full"]
        assert diary.line.get_write_buffer_size() > 64 * 2**10
        sent += b"more"
        diary.line.write(b"more")
        assert diary.heard == ["made", "full"]
        assert await all_of(other, len(sent)) == sent
        assert diary.heard == ["made", "full", "room"]
        assert diary.line.get_write_buffer_size() == 0
        diary.line.close()


@played
async def test_who_closes_has_all_of_it_sent_first(it: Scene) -> None:
    """Nothing is read meanwhile, nothing can be written any more, and the end is a clean one."""
    diary, other = await it.pair(room=4096)
    with other:
        diary.line.write(b"x" * MANY_BYTES)
        diary.line.close()
        assert diary.line.is_closing()
        diary.line.write(b"late")
        await it.some_turns()
        assert "lost" not in diary.heard
        assert await all_of(other, MANY_BYTES + 1) == b"x" * MANY_BYTES
        await until(lambda: diary.heard[-1] == "lost")
        assert (diary.error, diary.data) == (None, b"")


@played
async def test_who_aborts_sends_no_more_and_hears_of_it_in_a_later_turn(it: Scene) -> None:
    """And once, however often it is said."""
    diary, other = await it.pair(room=4096)
    with other:
        diary.line.write(b"x" * MANY_BYTES)
        now = it.turns
        for _ in range(3):
            diary.line.abort()
            diary.line.close()
        assert diary.line.is_closing()
        assert diary.line.get_write_buffer_size() == 0
        assert "lost" not in diary.heard
        await until(lambda: "lost" in diary.heard)
        assert diary.lost_in > now or diary.heard.count("lost") == 1
        assert diary.error is None
        with pytest.raises(ConnectionError):  # noqa: PT012  # it is a reset where the rest was cut off
            while await asyncio.get_running_loop().sock_recv(other, 2**20):
                pass
            raise ConnectionResetError
        await it.some_turns()
        assert diary.heard.count("lost") == 1


@played
async def test_the_other_end_closes(it: Scene) -> None:
    """What it said before is heard, then the end, then that it is lost."""
    diary, other = await it.pair()
    other.send(b"good-bye")
    other.close()
    await until(lambda: "lost" in diary.heard)
    assert (diary.data, diary.heard, diary.error) == (b"good-bye", ["made", "eof", "lost"], None)


@played
async def test_half_closed_by_the_other_end_all_is_sent_still(it: Scene) -> None:
    """It closes its sending half while much is unsent to it."""
    diary, other = await it.pair(room=4096)
    with other:
        diary.line.write(b"x" * MANY_BYTES)
        other.shutdown(socket.SHUT_WR)
        await until(lambda: "eof" in diary.heard)
        assert diary.line.is_closing()
        assert await all_of(other, MANY_BYTES + 1) == b"x" * MANY_BYTES
        await until(lambda: "lost" in diary.heard)


@played
async def test_half_closed_by_us_the_rest_is_sent_first(it: Scene) -> None:
    """And then what the other end says is heard until it closes."""
    diary, other = await it.pair(room=4096)
    with other:
        diary.line.write(b"x" * MANY_BYTES)
        assert diary.line.can_write_eof()
        diary.line.write_eof()
        diary.line.write_eof()
        with pytest.raises(RuntimeError):
            diary.line.write(b"late")
        assert await all_of(other, MANY_BYTES + 1) == b"x" * MANY_BYTES
        other.send(b"still here")
        await until(lambda: diary.data == b"still here")
    await until(lambda: diary.heard[-2:] == ["eof", "lost"])


@pytest.mark.parametrize("waiting", ["to read", "to write", "for nothing"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_reset_is_an_error_and_keeps_nobody_busy(loop: LoopFactory, waiting: str) -> None:
    """One that waits for nothing hears of it when it does again; until then its socket is not looked at."""

    async def story(it: Scene) -> None:
        diary, other = await it.pair(room=4096)
        if waiting != "to read":
            diary.line.pause_reading()
        if waiting == "to write":
            diary.line.write(b"x" * MANY_BYTES)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        if waiting == "for nothing":
            looks = looked_at(it.poll)
            await it.some_turns()
            assert looks() == 0
            assert diary.heard == ["made"]
            diary.line.resume_reading()
        await until(lambda: "lost" in diary.heard)
        assert isinstance(diary.error, ConnectionError)
        assert "eof" not in diary.heard

    async def play() -> None:
        async with scene() as it:
            await story(it)

    run_on(loop, play())


def looked_at(poll: Poll) -> Callable[[], int]:
    """How many sockets there is something to do about, asked without doing it."""
    return lambda: len(poll._set.poll(0))


@played
async def test_who_pauses_reads_nothing_and_misses_nothing(it: Scene) -> None:
    """Also what it has paused for in the middle of a turn, and when it is asked twice."""
    diary, other = await it.pair()
    with other:
        diary.then = lambda data: diary.line.pause_reading()
        other.send(b"one")
        await until(lambda: diary.data == b"one")
        other.send(b"two")
        await it.some_turns()
        diary.line.pause_reading()
        assert diary.data == b"one"
        assert looked_at(it.poll)() == 0
        diary.then = lambda data: None
        diary.line.resume_reading()
        diary.line.resume_reading()
        await until(lambda: diary.data == b"onetwo")
        diary.line.close()
        diary.line.pause_reading()
        diary.line.resume_reading()
        other.send(b"three")
        await until(lambda: "lost" in diary.heard)
        assert diary.data == b"onetwo"


@played
async def test_a_mistake_of_ours_costs_one_connection(it: Scene) -> None:
    """In whatever call it is made; bytes of another that came in the same moment are heard."""

    def fail(*_: object) -> None:
        raise ValueError("a mistake")

    (bad, to_bad), (good, to_good) = await it.pair(), await it.pair()
    with to_bad, to_good:
        bad.then = fail
        to_bad.send(b"x")
        to_good.send(b"y")
        await until(lambda: "lost" in bad.heard and good.data == b"y")
        assert isinstance(bad.error, OSError)
        full, to_full = await it.pair(room=4096)
        full.pause_writing = fail  # type: ignore[method-assign]
        full.line.write(b"x" * MANY_BYTES)
        await until(lambda: "lost" in full.heard)
        to_full.close()
        good.connection_lost = fail  # type: ignore[method-assign]
        good.line.abort()
        await it.some_turns()


class Refusing:
    """An epoll set that takes no more sockets, as where the system's limit is reached."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def register(self, fd: int, events: int) -> None:
        raise OSError(errno.ENOSPC, "no room for one more")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@played
async def test_what_cannot_be_watched_is_closed_and_costs_nobody_else_anything(it: Scene) -> None:
    """One that is accepted, one that is dialled, one that reads again, and one that cannot send all of it."""
    (paused, to_paused), (full, to_full), (good, to_good) = (
        await it.pair(),
        await it.pair(room=4096),
        await it.pair(),
    )
    with to_paused, to_full, to_good:
        paused.line.pause_reading()
        full.line.pause_reading()
        real, it.poll._set = it.poll._set, Refusing(it.poll._set)
        paused.line.resume_reading()
        full.line.write(b"x" * MANY_BYTES)
        new, to_new = await it.pair()
        call = Call()
        with to_new, crowded() as address:
            it.poll.dial(socket.AF_INET, address, Diary(lambda: it.turns), call)
            to_good.send(b"y")
            await until(lambda: bool(call.heard) and paused.heard[-1] == full.heard[-1] == "lost")
            await until(lambda: good.data == b"y")
            assert await all_of(to_new, 1) == b""
        assert new.heard == []
        assert isinstance(paused.error, OSError)
        assert isinstance(full.error, OSError)
        it.poll._set = real
        good.line.close()


@played
async def test_what_is_gone_is_freed_at_once(it: Scene) -> None:
    """Without the garbage collector, which has better things to do than to look for it."""
    diary, other = await it.pair()
    call, both = Call(), [diary, Diary(lambda: it.turns)]
    del diary
    with socket.create_server(("127.0.0.1", 0)) as listener:
        it.poll.dial(socket.AF_INET, listener.getsockname(), both[1], call)
        await until(lambda: call.heard == ["connected"])
        both[1].line.abort()
    other.close()
    await until(lambda: all(one.heard[-1] == "lost" for one in both))
    left = [weakref.ref(one) for one in both]
    gc.disable()
    try:
        both.clear()
        await it.some_turns()
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


@played
async def test_each_poll_reads_into_a_room_of_its_own(it: Scene) -> None:
    """Two may live in two threads, and the room is written to while others run."""
    other = Poll(asyncio.get_running_loop())
    assert other.room is not it.poll.room


@played
async def test_a_failure_of_who_wanted_a_connection_costs_nobody_else_anything(it: Scene) -> None:
    """Whether it came or not."""

    class Failing(Call):
        def connected(self) -> None:
            super().connected()
            raise ValueError("a mistake")

        def refused(self, error: OSError) -> None:
            super().refused(error)
            raise ValueError("a mistake")

    good, other = await it.pair()
    with other, socket.create_server(("127.0.0.1", 0)) as listener:
        calls = [Failing(), Failing()]
        for call, address in zip(calls, (listener.getsockname(), ("127.0.0.1", 0)), strict=True):
            it.poll.dial(socket.AF_INET, address, Diary(lambda: it.turns), call)
        other.send(b"y")
        await until(lambda: all(call.heard for call in calls) and good.data == b"y")


@played
async def test_one_is_closed_by_what_another_has_heard(it: Scene) -> None:
    """Both have bytes in the same turn: who is closed hears no more, and a new socket does not hear it instead."""
    (first, to_first), (second, to_second) = await it.pair(), await it.pair()
    listener = socket.create_server(("127.0.0.1", 0))
    new: list[Diary] = []

    def closes(other: Diary) -> Callable[[bytes], None]:
        def close(data: bytes) -> None:
            other.line.abort()
            new.append(Diary(lambda: it.turns))
            it.poll.dial(socket.AF_INET, listener.getsockname(), new[-1], Call())

        return close

    with listener, to_first, to_second:
        first.then, second.then = closes(second), closes(first)
        to_first.send(b"x")
        to_second.send(b"x")
        await until(lambda: bool(new) and bool(new[-1].heard))
        await it.some_turns()
        assert sorted([first.data, second.data]) == [b"", b"x"]
        assert [(one.data, one.heard) for one in new] == [(b"", ["made"])]


@played
async def test_a_poll_that_is_closed_leaves_nothing(it: Scene) -> None:
    """What is unsent, what is read, what is being dialled: all of it ends."""
    (full, to_full), (calm, to_calm) = await it.pair(room=4096), await it.pair()
    with to_full, to_calm:
        full.line.write(b"x" * MANY_BYTES)
        full.line.close()
        call = Call()
        it.poll.dial(socket.AF_INET, ("192.0.2.1", 9), Diary(lambda: it.turns), call)
        it.poll.close()
        it.poll.close()
        await until(lambda: full.heard[-1] == calm.heard[-1] == "lost")
        assert call.heard == []


class Call:
    """Who wants a connection."""

    def __init__(self) -> None:
        self.heard: list[str | type[OSError]] = []

    def connected(self) -> None:
        self.heard.append("connected")

    def refused(self, error: OSError) -> None:
        self.heard.append(type(error))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_connection_is_made(loop: LoopFactory, family: socket.AddressFamily) -> None:
    """And speaks both ways, as an accepted one does."""

    async def play() -> None:
        async with scene() as it:
            host = "127.0.0.1" if family == socket.AF_INET else "::1"
            with socket.create_server((host, 0), family=family) as listener:
                call, diary = Call(), Diary(lambda: it.turns)
                dial = it.poll.dial(family, listener.getsockname(), diary, call)
                await until(lambda: call.heard == ["connected"])
                assert not dial.waiting
                assert diary.heard == ["made"]
                other, _ = listener.accept()
                with other:
                    diary.line.write(b"ask")
                    other.setblocking(False)
                    assert await all_of(other, 3) == b"ask"
                    other.send(b"answer")
                    await until(lambda: diary.data == b"answer")
                    diary.line.close()

    run_on(loop, play())


@played
async def test_a_connection_is_refused_and_never_within_the_call_that_asked(it: Scene) -> None:
    """By nobody who listens there, and by our own system."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    for address in (nobody, ("127.0.0.1", 0), ("255.255.255.255", 1)):
        call, diary = Call(), Diary(lambda: it.turns)
        it.poll.dial(socket.AF_INET, address, diary, call)
        assert call.heard == []
        await it.some_turns()
        assert [isinstance(one, type) for one in call.heard] == [True]
        assert diary.heard == []


@played
async def test_a_connection_that_does_not_come_can_be_given_up(it: Scene) -> None:
    """Nobody hears of it any more, also where it was just then refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    with crowded() as address:
        for to in (address, nobody):
            call, diary = Call(), Diary(lambda: it.turns)
            dial: Dial = it.poll.dial(socket.AF_INET, to, diary, call)
            if to == address:
                await it.some_turns()
            assert dial.waiting
            dial.abandon()
            assert not dial.waiting
            await it.some_turns()
            assert (call.heard, diary.heard) == ([], [])


@contextmanager
def crowded() -> Iterator[Any]:
    """An address at which nobody answers, neither yes nor no: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(8):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()


@played
async def test_a_loop_that_cannot_watch_the_set_is_asked_again_for_the_next_connection(it: Scene) -> None:
    """The first is closed, and none after it is left in a set that nobody looks at."""
    loop = asyncio.get_running_loop()

    class Full:
        """A loop that has no room for one more descriptor, once."""

        def add_reader(self, *_: object) -> None:
            it.poll._loop = loop
            raise OSError(errno.ENOSPC, "no room for one more")

        def call_soon(self, *work: Any) -> None:
            loop.call_soon(*work)

    it.poll._loop = Full()  # type: ignore[assignment]
    first, to_first = await it.pair()
    second, to_second = await it.pair()
    with to_first, to_second:
        assert await all_of(to_first, 1) == b""
        assert first.heard == []
        to_second.send(b"x")
        await until(lambda: second.data == b"x")
