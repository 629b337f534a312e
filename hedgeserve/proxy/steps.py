"""The steps by which an answer is taken up again: what to ask of the next replica. Pure."""

from dataclasses import dataclass
from typing import Protocol

from hedgeserve.proxy.follow import Stream


@dataclass(frozen=True, slots=True)
class Call:
    """POST this to the replica that is to go on, and give its reply to :meth:`Recovery.got`."""

    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Resume:
    """POST this to the replica and feed its events to ``stream``: the answer goes on.

    Where it is answered with anything but a stream, give that to :meth:`Recovery.got`.
    """

    path: str
    body: bytes
    stream: Stream


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is missing but these bytes, which no replica needs to be asked for."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The answer cannot go on; ``why`` is a sentence for the client."""

    why: str


Step = Call | Resume | Finished | GiveUp


class Recovery(Protocol):
    """One try to go on with an answer on another replica."""

    def start(self) -> Step:
        """The first step."""

    def got(self, status: int, body: bytes) -> Step:
        """The step after a reply to a :class:`Call`, or to a :class:`Resume` that was refused."""
