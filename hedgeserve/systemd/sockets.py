"""Socket activation: listening sockets that the service manager holds and hands over (sd_listen_fds(3)).

It holds them while no process of ours is there, too: who connects then waits in the kernel's backlog, and is
served by the next one.
"""

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass

from hedgeserve.errors import ListenError

_FIRST_FD = 3
_MOST = 64
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
ADMIN = "admin"
"""``FileDescriptorName=`` of sockets for the admin address; all others are for the endpoint."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """The sockets that were handed over; they are ours now, and are to be closed by whoever uses them."""

    endpoint: tuple[socket.socket, ...] = ()
    admin: tuple[socket.socket, ...] = ()


def take_sockets(environ: MutableMapping[str, str]) -> Inherited:
    """The sockets that were handed to this process, taken out of ``environ``: what we start gets none of them.

    Raises:
        ListenError: What was handed over is no listening TCP socket; says which, and what to write.
    """
    pid, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for name in _VARIABLES:
        environ.pop(name, None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return Inherited()
    if int(count) > _MOST:
        raise ListenError(
            f"{count} sockets were handed over by the service manager; the most that is taken is {_MOST}"
        )
    found: dict[bool, list[socket.socket]] = {True: [], False: []}
    try:
        for number in range(int(count)):
            name = names[number] if number < len(names) else ""
            found[name == ADMIN].append(_taken(_FIRST_FD + number, name))
    except ListenError:
        for each in (*found[True], *found[False]):
            each.close()
        raise
    return Inherited(tuple(found[False]), tuple(found[True]))


def _taken(descriptor: int, name: str) -> socket.socket:
    known = f"descriptor {descriptor}" + (f" ({name})" if name else "")
    try:
        taken = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(
            f"the service manager's {known} is no socket: {error.strerror}; look at the .socket unit"
        ) from None
    with suppress(OSError):
        listens = bool(taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        if listens and taken.family in (socket.AF_INET, socket.AF_INET6) and taken.type == socket.SOCK_STREAM:
            taken.set_inheritable(False)
            taken.setblocking(False)
            return taken
    taken.close()
    raise ListenError(
        f"the service manager's {known} is no listening TCP socket; write `ListenStream=` with an address "
        "and a port, and `Accept=no`, in the .socket unit"
    )
