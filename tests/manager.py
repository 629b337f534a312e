"""A service manager in miniature: it holds a socket, hands it over, hears what is told, and waits for no one."""

import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from tests.shell import HEDGESERVE

_HAND_OVER = """
import os, sys
if sys.argv[1]:
    os.dup2(int(sys.argv[1]), 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES=os.environ.pop("TEST_FDNAME", "hedgeserve.socket"))
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Ears:
    """The socket that ``$NOTIFY_SOCKET`` names, and all that was heard there."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.heard: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def listen(self, for_s: float) -> list[str]:
        """What is told within this time, at the latest until something is."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            new: list[str] = []
            while selector.select(0 if new else for_s):
                new += self._socket.recv(65536).decode().split("\n")
        self.heard += new
        return new

    def until(self, condition: Callable[[str], bool], *, within_s: float = 60.0) -> str:
        """The first line, heard already or not, that is so."""
        deadline_s, seen = time.monotonic() + within_s, 0
        while True:
            for line in self.heard[seen:]:
                if condition(line):
                    return line
            seen = len(self.heard)
            assert time.monotonic() < deadline_s, f"it was never told; only {self.heard}"
            self.listen(1.0)


def launch(
    *arguments: str, environ: Mapping[str, str], listener: socket.socket | None = None, program: str = HEDGESERVE
) -> "subprocess.Popen[str]":
    """Start it as a service manager would."""
    descriptor = listener.fileno() if listener is not None else None
    return subprocess.Popen(
        [sys.executable, "-c", _HAND_OVER, str(descriptor or ""), program, *arguments],
        env={**environ},
        pass_fds=() if descriptor is None else (descriptor,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
