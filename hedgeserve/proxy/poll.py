"""The data path's sockets, watched in an epoll set of their own, which the event loop watches as one descriptor.

A set can be in another (epoll(7)): so all of these sockets are one event to the loop, and each is one call from
here, without the loop's own machinery for each. Where there is no epoll (only Linux has it) the loop's transports
take their place, as they do with TLS everywhere.
"""

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog

from hedgeserve.proxy.pipe import OUT, Ears, Pipe, Watched, Watching

_log = structlog.get_logger(__name__)

_AT_ONCE: Final = 512
"""Events that are looked at before the loop sees to everything else."""
_STREAM: Final = int(socket.SOCK_STREAM) | int(getattr(socket, "SOCK_NONBLOCK", 0))
# As numbers: what is an enumeration's member is looked up in it for every call.
_TCP: Final = int(socket.IPPROTO_TCP)
_NODELAY: Final = int(socket.TCP_NODELAY)
_UNDER_WAY: Final = errno.EINPROGRESS


class Caller(Protocol):
    """Who wants a connection. Both are called at most once, :meth:`refused` never within the call that asked."""

    def connected(self) -> None:
        """Its protocol has it."""

    def refused(self, error: OSError) -> None:
        """There is none."""


class Poll(Watching):
    """Watches sockets for one event loop, from the first that it is given on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._set: Any = None
        self._watched: dict[int, Watched] = {}
        self._closed = False

    @staticmethod
    def possible() -> bool:
        """Whether this system has what it takes."""
        return hasattr(select, "epoll")

    def accepted(self, connection: socket.SocketType, protocol: Ears, peer: object) -> None:
        """Speak by this protocol on a connection that somebody has made to us."""
        connection.setblocking(False)
        try:
            Pipe(self, connection, protocol, peer).begin()
        except OSError as error:
            _log.error("a connection cannot be watched; it is closed", error=str(error))
            connection.close()

    def dial(self, family: int, address: Any, protocol: Ears, caller: Caller) -> "Dial":
        """Connect to an address, which is none that must be looked up, to speak by this protocol there."""
        return Dial(self, family, address, protocol, caller)

    def close(self) -> None:
        """Break all connections that are left. To be called when everything has been closed that can be."""
        self._closed = True
        for watched in tuple(self._watched.values()):
            if isinstance(watched, Pipe):
                watched.abort()
            elif isinstance(watched, Dial):
                watched.abandon()
        if self._set is not None:
            self._loop.remove_reader(self._set.fileno())
            self._set.close()
            self._set = None

    # What its sockets ask (pipe.Watching)

    def watch(self, fd: int, watched: Watched, before: int, events: int) -> None:
        """Tell it of these events of the descriptor from now on; 0: of none. ``before`` is what was watched."""
        if self._set is None:
            if not events:
                return
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the service has ended")
            self._open()
        if not before:
            self._set.register(fd, events)
            self._watched[fd] = watched
        elif events:
            self._set.modify(fd, events)
            self._watched[fd] = watched
        else:
            self._watched.pop(fd, None)
            self._set.unregister(fd)

    def soon(self, work: Callable[[], None]) -> None:
        """Do this in the next turn."""
        self._loop.call_soon(work)

    def _open(self) -> None:
        new = select.epoll()
        try:
            self._loop.add_reader(new.fileno(), self._run)
        except BaseException:
            new.close()
            raise
        self._set = new

    def _run(self) -> None:
        watched = self._watched
        for fd, events in self._set.poll(0, _AT_ONCE):
            # What another's event has closed is gone by now, and its descriptor is not given anew in this turn.
            one = watched.get(fd)
            if one is not None:
                try:
                    one.ready(events)
                except Exception:  # a mistake of ours must not cost those whose turn is next
                    _log.exception("a socket's event could not be dealt with")
            if self._set is None:
                return


class Dial(Watched):
    """One connection that is being made. To a neighbour it may be there at once."""

    __slots__ = ("_caller", "_error", "_poll", "_protocol", "_socket", "_to", "_waits")

    def __init__(self, poll: Poll, family: int, address: Any, protocol: Ears, caller: Caller) -> None:
        self._poll = poll
        self._protocol = protocol
        self._caller: Caller | None = caller
        self._to = address
        self._error: OSError | None = None
        self._socket: socket.SocketType | None = None
        self._waits = False
        try:
            self._socket = connection = socket.SocketType(family, _STREAM)
            self._connect(connection)
        except OSError as error:
            self._error = error
            poll.soon(self._refuse)

    def ready(self, events: int) -> None:
        """It is there, or cannot be had."""
        connection = self._socket
        if connection is None:
            return
        try:
            if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            self._begin(connection)
        except OSError as error:
            self._error = error
            self._refuse()

    @property
    def waiting(self) -> bool:
        """Whether the caller has still to hear of it."""
        return self._caller is not None

    def abandon(self) -> None:
        """Nobody wants it any more; the caller hears nothing."""
        self._caller = None
        connection, self._socket = self._socket, None
        if connection is not None:
            self._poll.soon(connection.close)  # not before the turn ends, as with all of them
            if self._waits:
                with suppress(OSError):
                    self._poll.watch(connection.fileno(), self, OUT, 0)

    def _connect(self, connection: socket.SocketType) -> None:
        connection.setsockopt(_TCP, _NODELAY, 1)
        code = connection.connect_ex(self._to)
        if code == _UNDER_WAY:
            try:
                connection.getpeername()  # a neighbour's has come meanwhile
            except OSError:
                self._poll.watch(connection.fileno(), self, 0, OUT)
                self._waits = True
                return
        elif code:
            raise OSError(code, os.strerror(code))
        self._begin(connection)

    def _begin(self, connection: socket.SocketType) -> None:
        Pipe(self._poll, connection, self._protocol, self._to, OUT if self._waits else 0).begin()
        self._socket = None
        caller, self._caller = self._caller, None
        if caller is not None:
            try:
                caller.connected()
            except Exception:
                _log.exception("what wanted a connection failed when it was there")

    def _refuse(self) -> None:
        caller, error = self._caller, self._error
        self.abandon()
        if caller is not None and error is not None:
            try:
                caller.refused(error)
            except Exception:
                _log.exception("what wanted a connection failed when there was none")
