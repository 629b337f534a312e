"""The seam between the simulated fleet and the simulated requests."""

from typing import Protocol

from hedgeserve.policy.autoscale import LoadSignal
from hedgeserve.replica import Replica, ReplicaId
from hedgeserve.simulate.outcome import LoadOutcome


class Load(Protocol):
    """Requests that arrive and are served. The world calls with times that never go back.

    What happens to replicas is told at the time at which it happens: every call first lets the requests go on
    until then.
    """

    def signal(self, now_s: float) -> LoadSignal:
        """What an autoscaler sees now."""

    def next_change_s(self, now_s: float) -> float | None:
        """The soonest time at which :meth:`signal` may call for another target, as far as arrivals are known."""

    def ready(self, replica: Replica, now_s: float) -> None:
        """From now on it takes requests."""

    def close(self, now_s: float, *, closed: bool) -> None:
        """From now on those who come are turned away, and those who wait; or taken again."""

    def noticed(self, replica: ReplicaId, now_s: float) -> None:
        """It is under notice: it takes requests only where nothing else is ready."""

    def draining(self, replica: ReplicaId, now_s: float) -> None:
        """It takes nothing new."""

    def idle(self, replica: ReplicaId, now_s: float) -> bool:
        """Whether it is answering nothing."""

    def gone(self, replica: ReplicaId, now_s: float) -> None:
        """It is gone; what it was answering is lost, sent again or continued elsewhere."""

    def finish(self, end_s: float) -> LoadOutcome:
        """Let the requests go on until the end, and sum up."""
