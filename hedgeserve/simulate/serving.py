"""Requests that arrive at a simulated fleet: who answers them, when, and what a lost replica does to them."""

import math
from collections import Counter, deque
from enum import StrEnum
from heapq import heappop, heappush

from hedgeserve.policy.autoscale import LoadSignal
from hedgeserve.proxy.routing import fewest
from hedgeserve.replica import Replica, ReplicaId, RouteTarget
from hedgeserve.simulate.outcome import LoadOutcome
from hedgeserve.simulate.servicemodel import (
    OnLoss,
    PaperService,
    Routing,
    ServiceModel,
    ServingError,
    TokenService,
    positive,
)
from hedgeserve.simulate.workload import Workload, seeded

__all__ = ["OnLoss", "PaperService", "RequestLoad", "Routing", "ServiceModel", "ServingError", "TokenService"]

_NOBODY: dict[ReplicaId, int] = {}

# What may happen, in the order in which it does where the times are equal: an answer that is complete at its
# deadline is in time, and the slot that it frees is there for one whose patience ends now.
_ANSWERED, _GIVEN_UP = 0, 1


class _Place(StrEnum):
    LINE = "line"
    REPLICA = "replica"
    SERVED = "served"
    OVER = "over"


class _Request:
    """One request on its way. ``version`` tells events that still hold from those that were overtaken."""

    __slots__ = (
        "arrival_s",
        "begun_s",
        "client",
        "done",
        "first_token_s",
        "index",
        "place",
        "server",
        "ttft_s",
        "version",
        "waited_s",
        "waits_since_s",
    )

    def __init__(self, index: int, arrival_s: float, client: int) -> None:
        self.index = index
        self.arrival_s = arrival_s
        self.client = client
        self.version = 0
        self.place = _Place.OVER
        self.server: _Server | None = None
        self.done = 0.0  # tokens (TokenService) or seconds of work (PaperService) that need no repetition
        self.begun_s = 0.0
        self.first_token_s = 0.0
        self.ttft_s: float | None = None
        self.waited_s = 0.0
        self.waits_since_s = 0.0


class _Server:
    """One ready replica: what it answers, and what waits at it."""

    __slots__ = ("id", "queue", "serving", "waiting")

    def __init__(self, replica: ReplicaId) -> None:
        self.id = replica
        self.serving: dict[_Request, None] = {}
        self.queue: deque[_Request] = deque()
        self.waiting = 0  # those of `queue` that have not given up


class RequestLoad:
    """A workload served by whatever replicas the world says are there: a :class:`~hedgeserve.simulate.load.Load`.

    Times are exact: it goes from event to event. What happens until ``now_s``, that moment included, happens
    before what the call tells; an arrival at the very moment of a loss is therefore hit by it. Replicas are
    chosen as the balancer does, by :func:`hedgeserve.proxy.routing.fewest`.

    ``queue_timeout_s`` is how long a request may wait, over all its attempts; ``total_timeout_s`` how long it may
    take from its arrival; ``max_queue`` how many may wait in the line (those that a lost replica sent back
    excepted). Who exceeds them fails as ``"timeout"`` or ``"queue_full"``; who is on a lost replica as ``"lost"``,
    where ``on_loss`` says so.

    A latency is the time from the arrival to the last byte, waiting and lost attempts included; a TTFT that from
    the arrival to the first token of the attempt that was answered, or with ``OnLoss.CONTINUE`` to the first
    token of all, since the client has seen it.

    Requests that arrived before ``warm_up_s`` are simulated and not counted. The others are answered, failed, or
    ``unfinished``: waiting or being answered at the end; ``arrived`` counts all three, and those of the last kind
    have no latency. A window should be long against the timeouts, lest the slow ones be missed.

    An autoscaler is to be asked at multiples of ``sample_s`` while there is load and for ``settle_s`` after it
    (its window and its longest delay together), and otherwise just before the next request and when it comes:
    before, since it scales up by the lowest need that it has seen of late, and must have seen none. ``sample_s``
    should be a multiple of the world's tick and no longer than the autoscaler's delays.

    Raises:
        ServingError: A limit is not positive, or a call has a time before that of an earlier one.
    """

    def __init__(
        self,
        workload: Workload,
        service: ServiceModel,
        *,
        warm_up_s: float = 0.0,
        queue_timeout_s: float = 600.0,
        total_timeout_s: float = 3600.0,
        max_queue: int = 512,
        on_loss: OnLoss = OnLoss.RETRY,
        sample_s: float = 30.0,
        settle_s: float = 1260.0,
        seed: int = 0,
    ) -> None:
        for name, value in (
            ("queue_timeout_s", queue_timeout_s),
            ("total_timeout_s", total_timeout_s),
            ("sample_s", sample_s),
        ):
            positive(name, value, endless=name != "sample_s")
        if not (warm_up_s >= 0 and settle_s >= 0 and max_queue >= 0):
            raise ServingError(
                f"warm_up_s ({warm_up_s:g}), settle_s ({settle_s:g}) and max_queue ({max_queue}) cannot be below 0"
            )
        self._service = service
        self._per_replica = isinstance(service, PaperService)
        self._round_robin = isinstance(service, PaperService) and service.routing == Routing.ROUND_ROBIN
        self._warm_up_s = warm_up_s
        self._queue_timeout_s = queue_timeout_s
        self._total_timeout_s = total_timeout_s
        self._max_queue = max_queue
        self._on_loss = OnLoss(on_loss)
        self._sample_s = sample_s
        self._settle_s = settle_s
        # Plain lists: taking one number out of an array costs more than all else that a request needs.
        self._arrivals_s: list[float] = workload.arrival_s.tolist()
        self._clients: list[int] = workload.client.tolist()
        if isinstance(service, TokenService):
            self._slots: int = service.concurrency
            self._prompts: list[float] = workload.prompt_tokens.tolist()
            self._work: list[float] = workload.output_tokens.tolist()
        else:
            self._slots = 1
            self._work = seeded(f"{seed}/service").exponential(service.mean_s, len(workload)).tolist()
        self._now_s = -math.inf
        self._next = 0
        self._events: list[tuple[float, int, int, int, _Request]] = []
        self._servers: dict[ReplicaId, _Server] = {}
        self._targets: dict[ReplicaId, RouteTarget] = {}
        self._outstanding: dict[ReplicaId, int] = {}
        self._last_used: dict[ReplicaId, int] = {}
        self._used_by: dict[int, dict[ReplicaId, int]] = {}
        self._uses = 0
        self._line: list[tuple[int, int, _Request]] = []
        self._in_line = 0
        self._closed = False
        self._at_replicas = 0
        self._in_flight = 0
        self._active_s = -math.inf
        self._counted = 0
        self._latencies_s: list[float] = []
        self._ttfts_s: list[float] = []
        self._failed: Counter[str] = Counter()

    def signal(self, now_s: float) -> LoadSignal:
        """What an autoscaler sees now."""
        self._go_on(now_s)
        return LoadSignal(now_s, self._next, self._in_line + self._at_replicas, self._in_flight)

    def next_change_s(self, now_s: float) -> float | None:
        """When to look at :meth:`signal` again; None: never, since nothing is there and nothing will come."""
        self._go_on(now_s)
        grid_s = (math.floor(now_s / self._sample_s) + 1) * self._sample_s
        if self._in_line + self._at_replicas + self._in_flight:
            return grid_s
        arrival_s = self._arrivals_s[self._next] if self._next < len(self._arrivals_s) else None
        if now_s < self._active_s + self._settle_s + 2 * self._sample_s:
            return grid_s if arrival_s is None else min(grid_s, arrival_s)
        if arrival_s is None:
            return None
        before_s = (math.ceil(arrival_s / self._sample_s) - 1) * self._sample_s
        return before_s if before_s > now_s else arrival_s

    def ready(self, replica: Replica, now_s: float) -> None:
        """From now on it takes requests."""
        self._go_on(now_s)
        self._servers.setdefault(replica.id, _Server(replica.id))
        self._targets[replica.id] = RouteTarget(replica.id, replica.url or "", replica.zone, replica.market)
        self._outstanding.setdefault(replica.id, 0)
        self._serve_line()

    def close(self, now_s: float, *, closed: bool) -> None:
        """From now on those who come are turned away, and those in the line; they fail as ``"asleep"``."""
        self._go_on(now_s)
        self._closed = closed
        if closed:
            for _, version, request in self._line:
                if request.version == version:
                    self._fail(request, "asleep")
            self._line.clear()

    def noticed(self, replica: ReplicaId, now_s: float) -> None:
        """It is under notice: it takes requests only where nothing else is ready."""
        self._go_on(now_s)
        self._show(replica, preferred=False)

    def draining(self, replica: ReplicaId, now_s: float) -> None:
        """It takes nothing new; what waits at it already will still be answered there."""
        self._go_on(now_s)
        self._show(replica, accepting=False)

    def idle(self, replica: ReplicaId, now_s: float) -> bool:
        """Whether it is answering nothing, and nothing waits at it."""
        self._go_on(now_s)
        server = self._servers.get(replica)
        return server is None or not (server.serving or server.waiting)

    def gone(self, replica: ReplicaId, now_s: float) -> None:
        """It is gone; what it was answering is lost, sent again or continued elsewhere."""
        self._go_on(now_s)
        server = self._servers.pop(replica, None)
        if server is None:
            return
        del self._targets[replica], self._outstanding[replica]
        self._last_used.pop(replica, None)
        for used in self._used_by.values():
            used.pop(replica, None)
        hit = [*server.serving, *(each for each in server.queue if each.server is server)]
        for request in sorted(hit, key=lambda each: each.index):
            served = request.place is _Place.SERVED
            request.server = None
            if served and self._on_loss is OnLoss.FINISH:
                continue
            if self._on_loss in (OnLoss.LOST, OnLoss.FINISH):
                self._fail(request, "lost")
                continue
            if served:
                self._keep(request)
            self._leave(request)
            self._wait(request)
        self._serve_line()

    def finish(self, end_s: float) -> LoadOutcome:
        """Let the requests go on until the end, and sum up."""
        self._go_on(end_s)
        answered, failed = len(self._latencies_s), sum(self._failed.values())
        return LoadOutcome(
            arrived=self._counted,
            latencies_s=tuple(self._latencies_s),
            ttfts_s=tuple(self._ttfts_s),
            failed=dict(self._failed),
            unfinished=self._counted - answered - failed,
        )

    def _go_on(self, until_s: float) -> None:
        if until_s < self._now_s:
            raise ServingError(f"the world's time went back from {self._now_s:g} s to {until_s:g} s")
        events, arrivals_s, count = self._events, self._arrivals_s, len(self._arrivals_s)
        while True:
            arrival_s = arrivals_s[self._next] if self._next < count else math.inf
            if events and events[0][0] <= arrival_s:
                if events[0][0] > until_s:
                    break
                self._now_s, what, _, version, request = heappop(events)
                if request.version == version:
                    self._over(request, what)
            elif arrival_s <= until_s and self._next < count:
                self._now_s = arrival_s
                self._arrive()
            else:
                break
        self._now_s = until_s

    def _arrive(self) -> None:
        index = self._next
        self._next += 1
        self._active_s = self._now_s
        request = _Request(index, self._now_s, self._clients[index])
        request.waits_since_s = self._now_s
        if self._now_s >= self._warm_up_s:
            self._counted += 1
        if self._closed:
            self._fail(request, "asleep")
            return
        server = None if self._in_line else self._choose(request)
        if server is not None:
            self._give(request, server)
        elif isinstance(self._service, PaperService) and not self._service.wait_for_replica:
            self._fail(request, "no_replica")
        elif self._in_line >= self._max_queue:
            self._fail(request, "queue_full")
        else:
            self._wait(request)

    def _over(self, request: _Request, what: int) -> None:
        server = request.server
        if what == _GIVEN_UP:
            self._fail(request, "timeout")
        else:
            if request.arrival_s >= self._warm_up_s:
                self._latencies_s.append(self._now_s - request.arrival_s)
                ttft_s = request.first_token_s - request.arrival_s if request.ttft_s is None else request.ttft_s
                self._ttfts_s.append(ttft_s)
            self._leave(request)
        if server is not None and server.queue:
            self._serve_queue(server)
        if self._in_line:
            self._serve_line()

    def _choose(self, request: _Request) -> _Server | None:
        last_used, outstanding = self._last_used, self._outstanding
        limit = None if self._per_replica else self._slots
        if self._round_robin:
            outstanding = _NOBODY
            last_used = self._used_by.setdefault(request.client, {})
        target = fewest(self._targets.values(), outstanding, limit=limit, last_used=last_used)
        if target is None:
            return None
        self._uses += 1
        last_used[target.id] = self._uses
        return self._servers[target.id]

    def _give(self, request: _Request, server: _Server) -> None:
        """Hand it to a replica, which answers it now or, with queues of their own, later."""
        if request.place is _Place.LINE:
            self._in_line -= 1
        request.server = server
        self._outstanding[server.id] += 1
        if len(server.serving) < self._slots:
            self._begin(request, server)
            return
        if request.place is not _Place.LINE:
            self._be_patient(request)
        request.place = _Place.REPLICA
        server.queue.append(request)
        server.waiting += 1
        self._at_replicas += 1

    def _begin(self, request: _Request, server: _Server) -> None:
        now_s = self._now_s
        request.version += 1
        request.place = _Place.SERVED
        request.waited_s += now_s - request.waits_since_s
        request.begun_s = now_s
        server.serving[request] = None
        self._in_flight += 1
        rest = self._work[request.index] - request.done
        if isinstance(self._service, TokenService):
            read_s = (self._prompts[request.index] + request.done) / self._service.prefill_tokens_per_s
            end_s = now_s + read_s + rest / self._service.decode_tokens_per_s
            request.first_token_s = now_s + read_s + min(1.0, rest) / self._service.decode_tokens_per_s
        else:
            request.first_token_s = end_s = now_s + rest
        deadline_s = request.arrival_s + self._total_timeout_s
        what = _ANSWERED if end_s <= deadline_s else _GIVEN_UP
        heappush(self._events, (min(end_s, deadline_s), what, request.index, request.version, request))

    def _keep(self, request: _Request) -> None:
        """What a lost replica has done for a request, as far as another need not do it again."""
        if self._on_loss is not OnLoss.CONTINUE:
            return
        rest = self._work[request.index] - request.done
        if isinstance(self._service, TokenService):
            if request.ttft_s is None and self._now_s >= request.first_token_s:
                request.ttft_s = request.first_token_s - request.arrival_s
            rate = self._service.decode_tokens_per_s
            read_s = (self._prompts[request.index] + request.done) / self._service.prefill_tokens_per_s
            # A hair more than was counted, so that a token which is due at this very moment is not lost to
            # rounding.
            made = math.floor((self._now_s - request.begun_s - read_s) * rate + 1e-6)
            request.done += max(0.0, min(float(made), rest - 1))
        else:
            request.done += min(self._now_s - request.begun_s, rest)

    def _wait(self, request: _Request) -> None:
        """Stand in the line, in the order of arrival."""
        request.waits_since_s = self._now_s
        request.place = _Place.LINE
        self._be_patient(request)
        self._in_line += 1
        heappush(self._line, (request.index, request.version, request))

    def _be_patient(self, request: _Request) -> None:
        request.version += 1
        give_up_s = min(
            self._now_s + self._queue_timeout_s - request.waited_s, request.arrival_s + self._total_timeout_s
        )
        if give_up_s < math.inf:
            heappush(self._events, (give_up_s, _GIVEN_UP, request.index, request.version, request))

    def _leave(self, request: _Request) -> None:
        """Take it from wherever it stands."""
        server, place = request.server, request.place
        request.version += 1
        request.server = None
        request.place = _Place.OVER
        self._active_s = self._now_s
        if server is not None and server.id in self._outstanding:
            self._outstanding[server.id] -= 1
        if place is _Place.SERVED:
            self._in_flight -= 1
            if server is not None:
                del server.serving[request]
        elif place is _Place.LINE:
            self._in_line -= 1
        elif place is _Place.REPLICA:
            request.waited_s += self._now_s - request.waits_since_s
            self._at_replicas -= 1
            if server is not None:
                server.waiting -= 1

    def _fail(self, request: _Request, reason: str) -> None:
        if request.arrival_s >= self._warm_up_s:
            self._failed[reason] += 1
        self._leave(request)

    def _serve_queue(self, server: _Server) -> None:
        while server.queue and len(server.serving) < self._slots:
            request = server.queue.popleft()
            if request.server is server and request.place is _Place.REPLICA:
                server.waiting -= 1
                self._at_replicas -= 1
                self._begin(request, server)

    def _serve_line(self) -> None:
        """Give those in the line, first come first served, to whoever has room."""
        line = self._line
        while line:
            _, version, request = line[0]
            if request.version != version:
                heappop(line)
                continue
            server = self._choose(request)
            if server is None:
                return
            heappop(line)
            self._give(request, server)

    def _show(self, replica: ReplicaId, *, accepting: bool | None = None, preferred: bool | None = None) -> None:
        old = self._targets.get(replica)
        if old is None:
            return
        self._targets[replica] = RouteTarget(
            old.id,
            old.url,
            old.zone,
            old.market,
            accepting=old.accepting if accepting is None else accepting,
            preferred=old.preferred if preferred is None else preferred,
        )
