"""The notify protocol: what a service tells its manager, one datagram at a time (sd_notify(3))."""

import os
import socket
from collections.abc import Mapping, MutableMapping
from time import CLOCK_MONOTONIC, clock_gettime_ns
from typing import Self

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_LONGEST_STATUS = 200


class Notifier:
    """Tells the service manager what goes on. Never blocks and never raises; false where nobody heard it.

    ``watchdog_s`` is how long the manager waits between two signs of life before it kills us; None: it does not.
    """

    def __init__(self, address: str, watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Self:
        """The one that ``$NOTIFY_SOCKET`` names; where there is none, all that it is told is dropped.

        A watchdog that is meant for another process (``$WATCHDOG_PID``) is none of ours, nor is one that is no
        number.
        """
        usec = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog_s = int(usec) / 1e6 if usec.isdecimal() and int(usec) and meant else None
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog_s)

    def __bool__(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address)

    def ready(self) -> bool:
        """The service has started, or has read its settings anew."""
        return self._tell("READY=1")

    def reloading(self) -> bool:
        """The settings are being read anew; the time tells the manager that it is our answer to its signal."""
        return self._tell("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> bool:
        """The service has begun to stop."""
        return self._tell("STOPPING=1")

    def status(self, line: str) -> bool:
        """One line for ``systemctl status``."""
        printable = "".join(character if character.isprintable() else " " for character in line)
        return self._tell(f"STATUS={printable[:_LONGEST_STATUS]}")

    def alive(self) -> bool:
        """A sign of life, for the watchdog."""
        return self._tell("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """Starting or stopping takes this much longer, from now on."""
        return self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _tell(self, *lines: str) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except (OSError, ValueError):  # it has gone, or does not keep up: serving goes on without it
            return False
        return True


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """This process's notifier, taken out of ``environ``: what we start must not speak in our name."""
    notifier = Notifier.from_environ(environ, os.getpid())
    for name in _VARIABLES:
        environ.pop(name, None)
    return notifier
