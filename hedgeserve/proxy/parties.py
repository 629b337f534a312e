"""Who and what takes part in an exchange: the client's side, what all exchanges share, the report, a failure."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hedgeserve.metrics import FailurePhase, Metrics, Outcome
from hedgeserve.proxy.dispatch import Dispatcher
from hedgeserve.proxy.failover import Telling
from hedgeserve.proxy.incoming import Ask
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.turns import Turns
from hedgeserve.proxy.wire import Wires
from hedgeserve.spec import FailoverSpec, LimitsSpec, TimeoutsSpec

if TYPE_CHECKING:
    from hedgeserve.proxy.exchange import Exchange


class ClientSide(Protocol):
    """Where an answer goes; its methods do nothing when nobody is there any more."""

    def begin(self, status: int, lines: bytes) -> None:
        """The head of an answer whose length is not known yet."""

    def send(self, payload: bytes, framed: bytes | None = None) -> None:
        """More of it; ``framed`` is the same as whole chunks, where that is at hand."""

    def short_way(self) -> asyncio.WriteTransport | None:
        """Where chunks may go as they are, from now to the end of the answer; None where they must not."""

    def end(self, trailers: bytes = b"") -> None:
        """The answer is whole."""

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """A whole answer."""

    def refuse(self, refused: Refused, lines: bytes = b"", *, counted: bool = False) -> None:
        """An error of ours; ``counted`` where somebody else tells of it."""

    def abort(self) -> None:
        """Break the connection: the only honest end of half an answer that is no stream of events."""


class Report:
    """What became of a request, for the log and the metrics; filled in as it goes along."""

    __slots__ = ("attempts", "outcome", "replica", "resumed", "started_s", "status", "tokens", "ttft_s")

    def __init__(self, started_s: float = 0.0, status: int = 0, outcome: Outcome = Outcome.INTERNAL_ERROR) -> None:
        self.started_s = started_s
        self.status = status  # that was sent; 0 while none was
        self.outcome = outcome
        self.replica = ""
        self.attempts = 0
        self.ttft_s: float | None = None
        self.resumed = 0
        self.tokens = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all exchanges share."""

    dispatcher: Dispatcher
    wires: Wires
    metrics: Metrics
    limits: LimitsSpec
    timeouts: TimeoutsSpec
    failover: FailoverSpec
    now_s: Callable[[], float]
    turns: Turns
    active: set["Exchange"]


class Home(Protocol):
    """Who wants to know of exchanges' ends."""

    def ended(self, exchange: "Exchange") -> None:
        """Its client has been told the last of it, or has left."""

    def failed(self, exchange: "Exchange") -> None:
        """A mistake of ours, in the handling of an exception, has spoilt it."""

    def telling(self, ask: Ask) -> Telling:
        """What follows a stream that answers this request."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt on a replica has failed, in words for people; ``timed_out`` tells silence from refusal."""

    phase: FailurePhase
    reason: str
    timed_out: bool = False


NO_FAULT = frozenset({FailurePhase.VANISHED, FailurePhase.MOVED})
"""Preempted, or left of our own will: nothing that a replica's record should suffer from."""


def outcome_of(code: Code) -> Outcome:
    """How a request that is answered with an error of ours is counted."""
    if code.status in (429, 503):
        return Outcome.SHED
    if code.status == 500:
        return Outcome.INTERNAL_ERROR
    return Outcome.CLIENT_ERROR if code.status < 500 else Outcome.UPSTREAM_ERROR
