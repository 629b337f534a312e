"""Hands each request a slot on a replica, at once or after waiting in the line."""

import asyncio
import random
from collections.abc import Callable

from hedgeserve.proxy.admission import Line, Place
from hedgeserve.proxy.pool import Lease, Pool
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.replica import ReplicaId, RouteTarget, RoutingSnapshot
from hedgeserve.units import format_duration

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Ticket:
    """One request's claim to be answered: its place in the line and how long it has stood there."""

    __slots__ = ("failures", "place", "waited_s")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.waited_s = 0.0
        self.failures = 0

    def failed_on(self, replica: ReplicaId) -> None:
        """This replica has failed the request: it is asked again only where there is no other."""
        self.place.failed_on.add(replica)
        self.failures += 1


class Dispatcher:
    """Slots for requests, first come, first served.

    ``boot_eta_s`` says in how many seconds a replica may be expected (None: nobody knows). ``on_wait`` is called
    when a request starts to wait while nothing is ready, so that a service at zero wakes up at once.
    """

    def __init__(
        self,
        *,
        limit_per_replica: int,
        max_queue: int,
        patience_s: float,
        boot_eta_s: Callable[[], float | None],
        on_wait: Callable[[], None],
    ) -> None:
        self._now_s = asyncio.get_running_loop().time
        self._pool = Pool(limit=limit_per_replica, now_s=self._now_s, on_free=self._serve_line)
        self._line = Line(max_queue)
        self._patience_s = patience_s
        self._boot_eta_s = boot_eta_s
        self._on_wait = on_wait
        self._waiting: dict[Place, asyncio.Future[Lease]] = {}
        self.arrived_total = 0

    @property
    def pool(self) -> Pool:
        """The replicas."""
        return self._pool

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
        self._pool.update(snapshot)

    def arrive(self) -> Ticket:
        """A new request is here; it is counted, and keeps its place from now on."""
        self.arrived_total += 1
        return Ticket(Place(self.arrived_total))

    async def slot(self, ticket: Ticket) -> Lease:
        """A slot for this request, after at most ``patience_s`` of waiting over all its attempts.

        The caller owns the lease. When all replicas have failed the request, it is sent to one of them again
        after a pause, which grows with the failures, unless a fresh replica appears first.

        Raises:
            Refused: The line is full, or patience is over.
        """
        place = ticket.place
        place.may_return = False
        if not self._line:
            lease = self._pool.take(place.failed_on, may_return=False)
            if lease is not None:
                place.admitted = True
                return lease
        if not self._line.enter(place):
            raise self._turned_away()
        if not self._pool.ready:
            self._on_wait()
        self._waiting[place] = asyncio.get_running_loop().create_future()
        self._serve_line()
        started_s = self._now_s()
        try:
            return await self._wait(ticket, started_s)
        finally:
            ticket.waited_s += self._now_s() - started_s

    def retry_after_s(self) -> int:
        """Whole seconds after which somebody who is turned away now should try again."""
        return self._line.retry_after_s(
            self._now_s(), ready=self._pool.ready, boot_eta_s=self._boot_eta_s(), jitter=random.random()
        )

    async def _wait(self, ticket: Ticket, started_s: float) -> Lease:
        place = ticket.place
        future = self._waiting[place]
        give_up_s = started_s + self._patience_s - ticket.waited_s
        pause_s = (
            min(_FIRST_PAUSE_S * 2 ** min(ticket.failures - 1, 10), _LONGEST_PAUSE_S) if ticket.failures else None
        )
        try:
            if pause_s is not None:
                await self._until(future, min(started_s + pause_s, give_up_s))
                if not future.done():
                    place.may_return = True
                    self._serve_line()
            await self._until(future, give_up_s)
            if not future.done():
                raise self._waited_too_long()
            return future.result()
        except asyncio.CancelledError:
            if future.done():
                future.result().release()
            raise
        finally:
            self._line.leave(place)
            self._waiting.pop(place, None)

    @staticmethod
    async def _until(future: asyncio.Future[Lease], deadline_s: float) -> None:
        """Wait for the future, and no longer; it is left as it is."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await asyncio.shield(future)
        except TimeoutError:
            return

    def _serve_line(self) -> None:
        if not self._line:
            return
        taken: dict[Place, Lease] = {}

        def choose(place: Place) -> RouteTarget | None:
            lease = self._pool.take(place.failed_on, may_return=place.may_return)
            if lease is None:
                return None
            taken[place] = lease
            return lease.target

        for place, _ in self._line.assign(choose, self._now_s()):
            self._waiting[place].set_result(taken[place])

    def _turned_away(self) -> Refused:
        retry_s = self.retry_after_s()
        if self._pool.ready:
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

    def _waited_too_long(self) -> Refused:
        retry_s = self.retry_after_s()
        state = "had room" if self._pool.ready else "was ready"
        return Refused(
            Code.QUEUE_TIMEOUT,
            f"No replica {state} within {format_duration(self._patience_s)}; try again in {retry_s} s.",
            retry_after_s=retry_s,
        )
