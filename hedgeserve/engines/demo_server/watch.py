"""Whether anybody still waits for the answer."""

from __future__ import annotations

import math
import select
import socket


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Watch:
    """Tells whether the client at the other end of a connection has left."""

    # RDHUP, not IN: the beginning of a pipelined request is no farewell.
    _FAREWELL = getattr(select, "POLLRDHUP", 0)

    def __init__(self, connection: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(connection, self._FAREWELL)

    def wait(self, seconds: float) -> None:
        """Return after so many seconds; raises :class:`ClientGone` as soon as the client leaves."""
        if self._poll.poll(max(0, math.ceil(seconds * 1000))):
            raise ClientGone
