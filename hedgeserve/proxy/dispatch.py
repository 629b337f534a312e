"""Hands each request a slot on a replica, at once or after waiting in the line."""

import random
from collections.abc import Callable

from hedgeserve.proxy.admission import Line, Place
from hedgeserve.proxy.closure import Closure
from hedgeserve.proxy.pool import Lease, Pool
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.routing import Wants
from hedgeserve.replica import ReplicaId, RouteTarget, RoutingSnapshot
from hedgeserve.units import format_duration

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Ticket:
    """One request's claim to be answered: its place in the line, what it wants, how long it has stood there.

    ``granted`` is called with a lease, which is the callee's from then on, ``refused`` with the reason why there
    will be none; one of them, once for each claim that could not be granted at once.
    """

    __slots__ = (
        "asked_at_s",
        "failures",
        "give_up_at_s",
        "granted",
        "place",
        "refused",
        "return_at_s",
        "waited_s",
        "wants",
    )

    def __init__(
        self, place: Place, wants: Wants, granted: Callable[[Lease], None], refused: Callable[[Refused], None]
    ) -> None:
        self.place = place
        place.versions = wants.versions
        self.wants = wants
        self.granted = granted
        self.refused = refused
        self.failures = 0
        self.waited_s = 0.0
        self.asked_at_s = 0.0
        self.give_up_at_s = 0.0
        self.return_at_s: float | None = None

    def bind(self, versions: frozenset[int] | None, *, resuming: bool) -> None:
        """It may be answered by these versions only (None: any) from its next claim on."""
        self.place.versions = versions
        self.place.resuming = resuming

    def failed_on(self, replica: ReplicaId) -> None:
        """This replica has failed the request: it is asked again only where there is no other."""
        self.place.failed_on.add(replica)
        self.failures += 1

    def avoid(self, replica: ReplicaId) -> None:
        """The request has left this replica of its own will."""
        self.place.failed_on.add(replica)


class Dispatcher:
    """Slots for requests: by priority, fairly between keys, first come, first served.

    ``boot_eta_s`` says in how many seconds a replica may be expected (None: nobody knows). ``on_wait`` is called
    when a request starts to wait while nothing is ready, so that a service at zero wakes up at once.
    """

    def __init__(
        self,
        pool_of: Callable[[Callable[[], None]], Pool],
        *,
        now_s: Callable[[], float],
        max_queue: int,
        patience_s: float,
        boot_eta_s: Callable[[], float | None],
        on_wait: Callable[[], None],
    ) -> None:
        self._now_s = now_s
        self.pool = pool_of(self._serve_line)
        self._line = Line(max_queue)
        self._patience_s = patience_s
        self._boot_eta_s = boot_eta_s
        self._on_wait = on_wait
        self._waiting: dict[Place, Ticket] = {}
        self._serving = False
        self.closure: Closure | None = None
        self.arrived_total = 0

    def adopt(self, *, max_queue: int, patience_s: float) -> None:
        """Other bounds from now on; those that wait already stay, and wait as long as they were told."""
        self._line.longest = max_queue
        self._patience_s = patience_s

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._line)

    @property
    def queue_full(self) -> bool:
        """Whether a request that had to wait would be turned away."""
        return self._line.full

    def update(self, snapshot: RoutingSnapshot) -> None:
        """Take over a snapshot; those that wait are served at once where they can be."""
        self.pool.update(snapshot)
        for ticket in tuple(self._waiting.values()):
            place = ticket.place
            if place.versions is not None and not self.pool.may_have(place.versions, resuming=place.resuming):
                self.withdraw(ticket)
                ticket.refused(self._out_of_version())

    def close(self, closure: Closure | None) -> None:
        """Let nobody wait from now on, and turn those away who do; None: open again."""
        self.closure = closure
        if closure is None:
            return
        for ticket in tuple(self._waiting.values()):
            if ticket.place in self._waiting:  # whoever was told may have had others leave
                self.withdraw(ticket)
                ticket.refused(self.closed(closure))

    def closed(self, closure: Closure) -> Refused:
        """The answer to a request that a closed endpoint gets now."""
        return closure.refused(self._now_s(), jitter=random.random())

    def take_now(self, wants: Wants) -> Lease | None:
        """A slot for a new request, if it need not wait. It is counted, and its place in the line is its number
        (:attr:`arrived_total`) from now on."""
        self.arrived_total += 1
        return None if self._waiting else self.pool.take(wants)

    def claim(self, ticket: Ticket) -> Lease | None:
        """A slot for this request, now; None where it must wait: then the ticket is told.

        It waits for at most ``patience_s`` over all its attempts. When all replicas have failed the request, it
        is sent to one of them again after a pause, which grows with the failures, unless a fresh replica appears
        first.

        Raises:
            Refused: The line is full, the request's own deadline cannot be met, the endpoint is closed, or no
                replica runs or will run the version that it needs.
        """
        place = ticket.place
        place.may_return = False
        if not self._waiting:
            lease = self.pool.take(self._wants(ticket))
            if lease is not None:
                place.admitted = True
                return lease
        if self.closure is not None:
            raise self.closed(self.closure)
        now_s = self._now_s()
        if place.versions is not None and not self.pool.may_have(place.versions, resuming=place.resuming):
            raise self._out_of_version()
        if place.deadline_s is not None and now_s + self._expected_wait_s(now_s) > place.deadline_s:
            raise self._cannot_meet(now_s)
        if not self._line.enter(place):
            raise self._turned_away()
        if not self.pool.ready:
            self._on_wait()
        ticket.asked_at_s = now_s
        ticket.give_up_at_s = now_s + self._patience_s - ticket.waited_s
        ticket.return_at_s = None
        if ticket.failures:
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(ticket.failures - 1, 10), _LONGEST_PAUSE_S)
            ticket.return_at_s = now_s + pause_s
        self._waiting[place] = ticket
        # Its lease may be there already: told in the next turn like any other, it would be late for nothing.
        self._serve_line()
        return None

    def withdraw(self, ticket: Ticket) -> None:
        """The request waits no more."""
        if self._waiting.pop(ticket.place, None) is not None:
            self._line.leave(ticket.place)
            ticket.waited_s += self._now_s() - ticket.asked_at_s

    def sweep(self, now_s: float) -> None:
        """See whose patience or pause is over; to be called some ten times a second."""
        if not self._waiting:
            return
        for place in self._line.expired(now_s):
            ticket = self._waiting.pop(place)
            ticket.refused(self._deadline_passed())
        served = False
        for ticket in tuple(self._waiting.values()):
            if now_s >= ticket.give_up_at_s:
                self.withdraw(ticket)
                ticket.refused(self._waited_too_long())
            elif ticket.return_at_s is not None and now_s >= ticket.return_at_s and not ticket.place.may_return:
                ticket.place.may_return = served = True
        if served:
            self._serve_line()

    def retry_after_s(self) -> int:
        """Whole seconds after which somebody who is turned away now should try again."""
        return self._line.retry_after_s(
            self._now_s(), ready=self.pool.ready, boot_eta_s=self._boot_eta_s(), jitter=random.random()
        )

    @staticmethod
    def _wants(ticket: Ticket) -> Wants:
        place, wants = ticket.place, ticket.wants
        if not place.failed_on and place.versions is wants.versions and not place.resuming:
            return wants
        return wants.avoiding(
            frozenset(place.failed_on),
            may_return=place.may_return,
            versions=place.versions,
            resuming=place.resuming,
        )

    def _serve_line(self) -> None:
        # Whoever is told may release or claim at once: one round at a time.
        if self._waiting and not self._serving:
            self._serve_round()

    def _serve_round(self) -> None:
        self._serving = True
        taken: dict[Place, Lease] = {}

        def choose(place: Place) -> RouteTarget | None:
            lease = self.pool.take(self._wants(self._waiting[place]))
            if lease is None:
                return None
            taken[place] = lease
            return lease.target

        now_s = self._now_s()
        try:
            self._line.assign(choose, now_s)
        finally:
            self._serving = False
        for place, lease in taken.items():
            ticket = self._waiting.pop(place)
            ticket.waited_s += now_s - ticket.asked_at_s
            ticket.granted(lease)

    def _expected_wait_s(self, now_s: float) -> float:
        return self._line.expected_wait_s(now_s, ready=self.pool.ready, boot_eta_s=self._boot_eta_s())

    def _turned_away(self) -> Refused:
        retry_s = self.retry_after_s()
        if self.pool.ready:
            return Refused(
                Code.QUEUE_FULL,
                f"All replicas are busy and {self._line.longest} requests wait already; try again in {retry_s} s.",
                retry_after_s=retry_s,
            )
        return Refused(
            Code.NO_CAPACITY,
            f"No replica is ready and {self._line.longest} requests wait already; try again in {retry_s} s.",
            retry_after_s=retry_s,
        )

    def _cannot_meet(self, now_s: float) -> Refused:
        retry_s = self.retry_after_s()
        wait = format_duration(round(self._expected_wait_s(now_s), 1))
        return Refused(
            Code.DEADLINE_UNREACHABLE,
            f"The request would wait for about {wait}, longer than its x-deadline-ms allows; "
            f"try again in {retry_s} s.",
            retry_after_s=retry_s,
        )

    def _out_of_version(self) -> Refused:
        return Refused(
            Code.NO_CAPACITY,
            "An update has replaced the last replica that ran the version of the model that this request needs.",
            retry_after_s=self.retry_after_s(),
        )

    def _deadline_passed(self) -> Refused:
        return Refused(
            Code.DEADLINE_UNREACHABLE,
            "No replica was free before the request's x-deadline-ms had passed.",
            retry_after_s=self.retry_after_s(),
        )

    def _waited_too_long(self) -> Refused:
        retry_s = self.retry_after_s()
        state = "had room" if self.pool.ready else "was ready"
        return Refused(
            Code.QUEUE_TIMEOUT,
            f"No replica {state} within {format_duration(self._patience_s)}; try again in {retry_s} s.",
            retry_after_s=retry_s,
        )
