"""Whom an exchange belongs to: what all of them share, and who wants to know of their ends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hedgeserve.metrics import Metrics
from hedgeserve.proxy.crowd import Crowd
from hedgeserve.proxy.dispatch import Dispatcher
from hedgeserve.proxy.failover import Telling
from hedgeserve.proxy.incoming import Ask
from hedgeserve.proxy.turns import Turns
from hedgeserve.proxy.wire import Wires
from hedgeserve.spec import FailoverSpec, LimitsSpec, TimeoutsSpec

if TYPE_CHECKING:
    from hedgeserve.proxy.exchange import Exchange


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
    crowd: Crowd
    active: set["Exchange"]


class Home(Protocol):
    """Who wants to know of exchanges' ends."""

    def ended(self, exchange: "Exchange") -> None:
        """Its client has been told the last of it, or has left."""

    def failed(self, exchange: "Exchange") -> None:
        """A mistake of ours, in the handling of an exception, has spoilt it."""

    def telling(self, ask: Ask) -> Telling:
        """What follows a stream that answers this request."""
