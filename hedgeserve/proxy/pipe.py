"""One TCP connection without TLS: bare ``recv`` and ``send`` on a socket that :mod:`poll` watches.

It is to its protocol what a transport of asyncio is, in as far as the data path asks for one, and costs a third of
it: to be made and to be closed above all, which is most of what a short request needs of its connections.
"""

import errno
import socket
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

_log = structlog.get_logger(__name__)

# As epoll(7) has them; written out, since a module's name is looked up for every use.
IN: Final = 0x001
OUT: Final = 0x004

_HIGH_BYTES: Final = 64 * 2**10
_LOW_BYTES: Final = 16 * 2**10
"""Between these, as in asyncio: from which on who writes is told to wait, and from which on to go on."""
_READ_BYTES: Final = 256 * 2**10


class Line(Protocol):
    """What the data path asks of a connection, of ours and of asyncio's transports alike."""

    def is_closing(self) -> bool:
        """Whether it is closed, or is about to be."""

    def write(self, data: bytes) -> None:
        """Send this."""

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""

    def can_write_eof(self) -> bool:
        """Whether its sending half can be closed alone."""

    def write_eof(self) -> None:
        """Close the sending half, once all has been sent."""

    def pause_reading(self) -> None:
        """Let what comes pile up."""

    def resume_reading(self) -> None:
        """Take it in again."""

    def close(self) -> None:
        """Close, once all has been sent."""

    def abort(self) -> None:
        """Close at once."""

    def get_extra_info(self, name: str) -> object:
        """``peername``: the address at the other end."""


class Ears(Protocol):
    """What a connection tells of itself: a protocol of asyncio's, of which ``transport`` may be ours."""

    def connection_made(self, transport: Line) -> None:
        """It is there."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""

    def eof_received(self) -> bool | None:
        """The other end sends no more; the connection is closed after that, whatever is returned."""

    def pause_writing(self) -> None:
        """Much is unsent: write no more for now."""

    def resume_writing(self) -> None:
        """Go on."""

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""


class Watched:
    """What an event of a socket is told to."""

    @abstractmethod
    def ready(self, events: int) -> None:
        """Something can be done: the events are a mask of epoll's."""


class Watching:
    """Who watches sockets, and has the room into which they are read (:class:`~hedgeserve.proxy.poll.Poll`)."""

    def __init__(self) -> None:
        self.room = bytearray(_READ_BYTES)
        self.view = memoryview(self.room)

    @abstractmethod
    def watch(self, fd: int, watched: Watched, before: int, events: int) -> None:
        """Tell it of these events of the descriptor from now on; 0: of none. ``before`` is what was watched.

        Raises:
            OSError: It cannot be watched; nothing has changed.
        """

    @abstractmethod
    def soon(self, work: Callable[[], None]) -> None:
        """Do this in the next turn."""


class _Nobody:
    """Whom a connection that is gone tells: its protocol would live as long as it does, and it as long as that."""

    def connection_made(self, transport: Line) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> bool | None:
        return None

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        pass


_NOBODY = _Nobody()


class Pipe(Watched):
    """A connection that is there. What its protocol hears, and when, is as with asyncio's transports."""

    __slots__ = (
        "_closing",
        "_ended",
        "_eof",
        "_error",
        "_fd",
        "_full",
        "_peer",
        "_poll",
        "_protocol",
        "_reading",
        "_socket",
        "_unsent",
        "_watched",
    )  # fmt: skip

    def __init__(
        self, poll: Watching, connection: socket.SocketType, protocol: Ears, peer: object, watched: int = 0
    ) -> None:
        """``watched`` are the events for which the socket is being watched already."""
        self._poll = poll
        self._socket = connection
        self._fd = connection.fileno()
        self._protocol = protocol
        self._peer = peer
        self._unsent: bytearray | None = None
        self._watched = watched
        self._reading = True
        self._closing = self._ended = self._eof = self._full = False
        self._error: OSError | None = None

    def begin(self) -> None:
        """Tell the protocol that it is there, and read from now on; raises OSError where it cannot be watched."""
        if self._watched != IN:
            self._poll.watch(self._fd, self, self._watched, IN)
            self._watched = IN
        try:
            self._protocol.connection_made(self)
        except Exception as error:
            self._failed_us("connection_made", error)

    # What is asked of it (Line)

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when all has been sent."""
        return self._closing

    def get_extra_info(self, name: str) -> object:
        """``peername``: the address at the other end."""
        return self._peer if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._unsent is None else len(self._unsent)

    def can_write_eof(self) -> bool:
        """It always can."""
        return True

    def write(self, data: bytes) -> None:
        """Send this now, as far as the kernel takes it, and the rest when it does."""
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("nothing can be written after the end")
        unsent = self._unsent
        if unsent is None:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._end(error)
                return
            if sent == len(data):
                return
            self._unsent = unsent = bytearray(memoryview(data)[sent:])
            self._watch()
        else:
            unsent += data
        if not self._full and len(unsent) > _HIGH_BYTES:
            self._full = True
            try:
                self._protocol.pause_writing()
            except Exception as error:
                self._failed_us("pause_writing", error)

    def write_eof(self) -> None:
        """Close the sending half, once all has been sent; raises OSError where the connection is gone."""
        if self._closing or self._eof:
            return
        self._eof = True
        if self._unsent is None:
            self._socket.shutdown(socket.SHUT_WR)

    def pause_reading(self) -> None:
        """Let what comes pile up."""
        self._reading = False
        self._watch()

    def resume_reading(self) -> None:
        """Take it in again."""
        if not self._closing:
            self._reading = True
            self._watch()

    def close(self) -> None:
        """Close, once all has been sent."""
        if self._closing:
            return
        self._closing = True
        self._reading = False
        if self._unsent is None:
            self._end(None)
        else:
            self._watch()

    def abort(self) -> None:
        """Close at once."""
        self._end(None)

    # What the poll tells it

    def ready(self, events: int) -> None:
        """It can be read, or written again; what is neither is told by trying."""
        if self._reading and events & ~OUT:
            self._receive()
        if self._unsent is not None and events & ~IN:
            self._send_rest()

    def _receive(self) -> None:
        poll = self._poll
        try:
            count = self._socket.recv_into(poll.room)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        try:
            if count:
                self._protocol.data_received(bytes(poll.view[:count]))
            else:
                self._protocol.eof_received()
                self.close()
        except Exception as error:
            self._failed_us("data_received", error)

    def _send_rest(self) -> None:
        unsent = self._unsent
        assert unsent is not None
        try:
            sent = self._socket.send(unsent)
            del unsent[:sent]
            if not unsent:
                self._unsent = None
                if self._eof:
                    self._socket.shutdown(socket.SHUT_WR)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if self._full and len(unsent) <= _LOW_BYTES:
            self._full = False
            try:
                self._protocol.resume_writing()
            except Exception as error:
                self._failed_us("resume_writing", error)
        if self._unsent is None and self._closing:
            self._end(None)
        else:
            self._watch()

    # How

    def _watch(self) -> None:
        """Be told of what is waited for and of nothing else: a socket that nobody reads may be broken for long."""
        wanted = 0 if self._unsent is None else OUT
        if self._reading:
            wanted |= IN
        if wanted != self._watched and not self._ended:
            try:
                self._poll.watch(self._fd, self, self._watched, wanted)
                self._watched = wanted
            except OSError as error:
                self._end(error)

    def _failed_us(self, where: str, error: Exception) -> None:
        _log.exception(f"a connection's {where} failed; it is closed")
        self._end(OSError(errno.EIO, str(error)))

    def _end(self, error: OSError | None) -> None:
        """Nothing more is read or sent; the protocol hears of it in the next turn.

        The descriptor is free then, and not before: events of this turn may still be told of it.
        """
        if self._ended:
            return
        self._ended = self._closing = True
        self._reading = False
        self._unsent = None
        self._error = error
        self._poll.soon(self._leave)
        if self._watched:
            with suppress(OSError):
                self._poll.watch(self._fd, self, self._watched, 0)

    def _leave(self) -> None:
        self._socket.close()
        protocol, self._protocol = self._protocol, _NOBODY
        try:
            protocol.connection_lost(self._error)
        except Exception:
            _log.exception("a connection's connection_lost failed")
