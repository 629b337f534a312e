"""The balancer: the endpoint that clients talk to, and the way from there to a replica.

It reads immutable snapshots and nothing else: never a database, a lock or a cloud. Where the control loop is ill,
it goes on serving from the last snapshot.
"""

import asyncio
import math
import random
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from hedgeserve.errors import ListenError
from hedgeserve.hedge import Count
from hedgeserve.keyring import IssuedKey
from hedgeserve.listening import server_tls, url_of, why_not
from hedgeserve.metrics import Metrics
from hedgeserve.proxy.closure import Closed, Closure
from hedgeserve.proxy.crowd import Crowd
from hedgeserve.proxy.dispatch import Dispatcher
from hedgeserve.proxy.exchange import Exchange
from hedgeserve.proxy.failover import FailoverPolicy
from hedgeserve.proxy.front import Front, Standing
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.lookout import Lookout, sweep_every_s
from hedgeserve.proxy.outbox import Outbox
from hedgeserve.proxy.parties import Shared
from hedgeserve.proxy.poll import Poll
from hedgeserve.proxy.pool import Pool
from hedgeserve.proxy.reception import Reception
from hedgeserve.proxy.replies import Code
from hedgeserve.proxy.routes import ROUTES
from hedgeserve.proxy.routing import make_router
from hedgeserve.proxy.server import Server
from hedgeserve.proxy.turns import Turns
from hedgeserve.proxy.wire import Wires
from hedgeserve.replica import ReplicaId, RoutingSnapshot
from hedgeserve.spec import EngineName, ModelSpec, Spec, split_listen
from hedgeserve.tracing import Tracing

__all__ = ["Balancer", "Closed", "Closure", "Load"]

_RETRY_AFTER_STOP_S = 5
_CLOSING_S = 0.25
_SETTLE_S = 1.0
_KNOW_IDS = frozenset({EngineName.VLLM, EngineName.DEMO})


@dataclass(frozen=True, slots=True)
class Load:
    """What the requests ask of the replicas. ``arrived_total`` only grows; the other two are of this moment."""

    arrived_total: int
    queued: int
    in_flight: int


class Balancer:
    """Takes requests, finds each a replica that answers it, and says so honestly where there is none.

    To be made inside a running event loop. ``boot_eta_s`` says in how many seconds a replica may be expected
    (None: nobody knows), ``ready_checks`` what stands in the way of taking traffic (name → "" or the trouble),
    ``on_wait`` is called when a request starts to wait while nothing is ready, ``on_silence`` with a replica that
    has fallen silent and is given up: the fleet should see what is the matter. ``own_trust`` is what replicas
    with ``own_tls`` are verified with.
    """

    def __init__(
        self,
        spec: Spec,
        metrics: Metrics,
        *,
        api_keys: frozenset[str] = frozenset(),
        boot_eta_s: Callable[[], float | None] = lambda: None,
        ready_checks: Callable[[], Mapping[str, str]] = dict,
        on_wait: Callable[[], None] = lambda: None,
        on_silence: Callable[[ReplicaId], None] = lambda replica: None,
        own_trust: ssl.SSLContext | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.on_wait = on_wait
        self._spec = spec
        self._listen = spec.service.listen
        loop = asyncio.get_running_loop()
        self._now_s = loop.time
        router = make_router(spec.routing, random.random)
        self._dispatcher = Dispatcher(
            lambda on_free: Pool(
                router,
                limit=spec.limits.max_concurrent_per_replica,
                now_s=self._now_s,
                on_free=on_free,
                own_trust=own_trust,
            ),
            now_s=self._now_s,
            max_queue=spec.limits.max_queue,
            patience_s=spec.timeouts.queue,
            boot_eta_s=boot_eta_s,
            on_wait=lambda: self.on_wait(),
        )
        pool = self._dispatcher.pool
        turns = Turns(self._now_s, loop.call_later)
        outbox = Outbox(loop.call_soon)
        self._poll = poll = Poll(loop) if Poll.possible() else None
        wires = Wires(
            outbox,
            connect_s=spec.timeouts.connect,
            now_s=self._now_s,
            spawn=lambda work, name: self._server.spawn(work, name),
            poll=poll,
        )
        crowd = Crowd(self._now_s, loop.call_later)
        active: set[Exchange] = set()
        shared = Shared(
            self._dispatcher,
            wires,
            metrics,
            spec.limits,
            spec.timeouts,
            spec.failover,
            self._now_s,
            turns,
            crowd,
            active,
        )
        known_keys = self._keys = Keys(api_keys)
        self._idle = asyncio.Event()
        self._idle.set()
        self._reception = Reception(
            spec,
            known_keys,
            shared,
            _failover_policy(spec),
            metrics,
            draining_retry_s=lambda: None if self._held_elsewhere else self._draining_retry_s(),
            on_busy=self._idle.clear,
            on_idle=self._idle.set,
            tracing=tracing,
        )
        front = Front(
            spec,
            known_keys,
            metrics,
            Standing(
                ready=lambda: pool.ready,
                queue_full=lambda: self._dispatcher.queue_full,
                ready_checks=ready_checks,
                draining_retry_s=self._draining_retry_s,
                closed=lambda: "" if self._dispatcher.closure is None else self._dispatcher.closure.sentence,
            ),
        )
        self._lookout = Lookout(
            shared, self._reception, engine_metrics_s=spec.routing.engine_metrics, on_silence=on_silence
        )
        self.certificate = server_tls("service", spec.service.tls_certificate, spec.service.tls_key)
        self._server = Server(
            self._reception,
            front,
            outbox,
            poll,
            tls=self.certificate.context if self.certificate is not None else None,
            max_connections=spec.limits.max_connections,
            max_head=spec.limits.max_head,
            max_body=spec.limits.max_body,
            head_s=spec.timeouts.request_head,
            sweep=self._lookout.sweep,
            edges_every_s=sweep_every_s(spec.timeouts),
        )
        metrics.expect_routes(ROUTES)
        metrics.expect_errors(code.code for code in Code)
        _show_bounds(metrics, spec)
        metrics.watch_load(
            inflight=lambda: pool.in_flight,
            queued=lambda: self._dispatcher.queued,
            shunned=lambda: pool.shunned,
        )
        metrics.watch_memory(
            kept=lambda: self._reception.budget.kept_bytes,
            prefixes=lambda: self._router.memory_bytes,
            keys=lambda: self._reception.limited_keys,
            connections=lambda: len(self._server.connections()),
        )
        self._router = router
        self._shared = shared
        self._wires = wires
        self._front = front
        self._drained_at_s: float | None = None
        self._address: tuple[str, int] | None = None
        self._held_elsewhere = False

    async def start(self, inherited: Sequence[socket.socket] = ()) -> None:
        """Listen on ``service.listen``, or on sockets that are ``inherited``; when this returns, requests are
        answered.

        Raises:
            ListenError: The address cannot be had; says why and what to do.
        """
        host, port = split_listen(self._listen)
        try:
            await self._server.start(host, port, inherited)
        except OSError as error:
            await self._server.aclose()
            raise ListenError(why_not(self._listen, error, key="service.listen")) from error
        self._address = self._server.addresses[0]
        self._held_elsewhere = bool(inherited)

    def issue(self, keys: Sequence[IssuedKey]) -> None:
        """Let in who has one of these keys, besides those who were let in from the start, and no others."""
        self._reception.issue(keys)

    def keys_used(self) -> dict[str, datetime]:
        """When issued keys were last used, to the minute, by their ids."""
        return self._keys.used()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how requests are routed: a policy whose input is missing says so."""
        return (self._router.note,) if self._router.note else ()

    @property
    def url(self) -> str:
        """Base URL of the endpoint, with the port that it really has; usable on this machine."""
        if self._address is None:
            raise ListenError("the balancer does not listen yet; start it first")
        host, port = self._address
        return url_of(host, port, tls=bool(self._spec.service.tls_certificate))

    def adopt(self, spec: Spec, models: Mapping[int, ModelSpec]) -> None:
        """Serve by these words from now on, without dropping a connection or a request.

        What is under way keeps the limits under which it began; new requests, and new connections, have the new
        ones. ``models`` are those of the versions that run, the newest last: the names of all of them are
        answered, each by the versions that know it. What is settled when the service starts (the address, TLS,
        keys) is not looked at.
        """
        limits, timeouts, was = spec.limits, spec.timeouts, self._spec
        if spec.routing != was.routing:
            self._router = make_router(spec.routing, random.random)
        self._spec = spec
        self._dispatcher.adopt(max_queue=limits.max_queue, patience_s=timeouts.queue)
        self._dispatcher.pool.adopt(self._router, limit=limits.max_concurrent_per_replica)
        self._wires.adopt(connect_s=timeouts.connect)
        self._shared = replace(self._shared, limits=limits, timeouts=timeouts, failover=spec.failover)
        names, apart = _names_of(models or {0: spec.model})
        policy = _failover_policy(spec, [model.engine for model in models.values()])
        self._reception.adopt(spec, self._shared, policy, names, apart)
        self._front.adopt(spec, names)
        _show_bounds(self._shared.metrics, spec)
        self._lookout.adopt(self._shared, engine_metrics_s=spec.routing.engine_metrics)
        self._server.adopt(
            max_connections=limits.max_connections,
            max_head=limits.max_head,
            max_body=limits.max_body,
            head_s=timeouts.request_head,
            edges_every_s=sweep_every_s(timeouts),
        )

    def update(self, snapshot: RoutingSnapshot) -> None:
        """Route by this snapshot from now on.

        What is missing in it has vanished: attempts there fail at once, and are made elsewhere where nothing
        has been sent yet. Requests that wait are served where they now can be.
        """
        self._dispatcher.update(snapshot)

    def close(self, closure: Closure | None) -> None:
        """Answer requests with 503 until further notice, those that wait included; None: take them again.

        Those that are being answered go on. It may be said again, with another time or sentence.
        """
        self._dispatcher.close(closure)

    @property
    def closure(self) -> Closure | None:
        """Why the endpoint is closed on purpose; None: it is not."""
        return self._dispatcher.closure

    def load(self) -> Load:
        """What the requests ask of the replicas now."""
        return Load(
            arrived_total=self._dispatcher.arrived_total,
            queued=self._dispatcher.queued,
            in_flight=self._dispatcher.pool.in_flight,
        )

    @property
    def asked_total(self) -> int:
        """Requests since the start: those that have ended, whatever was the answer, and those under way."""
        pool, queued = self._dispatcher.pool, self._dispatcher.queued
        return self._shared.metrics.so_far().requests + pool.in_flight + queued

    def counts(self) -> dict[int, Count]:
        """What the replicas of each version have done with requests since this process began."""
        tallies = self._dispatcher.pool.tallies
        return {
            version: Count(served=one.served, failed=one.failed, refused=one.refused)
            for version, one in tallies.items()
        }

    def outstanding(self, replica: ReplicaId) -> int:
        """How many requests this replica is answering."""
        return self._dispatcher.pool.outstanding(replica)

    async def wait_idle(self, replica: ReplicaId) -> None:
        """Return once this replica is answering none."""
        await self._dispatcher.pool.wait_idle(replica)

    async def drain(self, timeout_s: float) -> int:
        """Take no new requests, and wait up to ``timeout_s`` for the others; returns how many were left.

        New ones are answered 503 with ``Retry-After`` and ``Connection: close``, and ``/readyz`` fails. Where
        somebody else holds the listening sockets too, nobody is turned away: no connection is accepted any more,
        so that those who come wait for our successor, and the requests of those who are here are answered, the
        last on their connections.
        """
        self._drained_at_s = self._now_s() + timeout_s
        self._server.closing = True
        if self._held_elsewhere:
            self._server.stop_listening()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
                while self._held_elsewhere:
                    await self._server.settle(_SETTLE_S)
                    if self._idle.is_set():
                        break
                    await self._idle.wait()
        except TimeoutError:
            pass  # those left are what is returned
        return self._reception.active

    async def aclose(self) -> None:
        """Stop listening and close all connections at once; requests under way are cut. May be called twice.

        Answers that are whole get a moment to reach their clients.
        """
        self._server.stop_listening()
        await self._server.flush(_CLOSING_S)
        await self._server.aclose()
        self._dispatcher.pool.close()
        if self._poll is not None:
            self._poll.close()

    def _draining_retry_s(self) -> int | None:
        if self._drained_at_s is None:
            return None
        return math.ceil(max(self._drained_at_s - self._now_s(), 0)) + _RETRY_AFTER_STOP_S


def _show_bounds(metrics: Metrics, spec: Spec) -> None:
    metrics.bounded(
        queue=spec.limits.max_queue,
        connections=spec.limits.max_connections,
        kept_bytes=spec.failover.max_kept,
        prefix_bytes=spec.routing.prefix_memory,
    )


def _names_of(models: Mapping[int, ModelSpec]) -> tuple[tuple[str, ...], dict[str, frozenset[int]]]:
    """The names that are answered, the newest version's first; and of those that not all know, who does."""
    known: dict[str, set[int]] = {}
    for version, model in reversed(list(models.items())):
        for name in (model.id, *model.aliases):
            known.setdefault(name, set()).add(version)
    # Servers that somebody else runs (0) may know any of them.
    return tuple(known), {name: frozenset({0, *who}) for name, who in known.items() if len(who) < len(models)}


def _failover_policy(spec: Spec, engines: Sequence[EngineName] = ()) -> FailoverPolicy:
    """``engines`` are those of all versions that run: which one a request meets is not known when it is judged."""
    failover = spec.failover
    knows_ids = all(engine in _KNOW_IDS for engine in engines or [spec.model.engine])
    return FailoverPolicy(
        enabled=failover.enabled,
        token_ids=failover.token_ids == "on" or (failover.token_ids == "auto" and knows_ids),
        seed=failover.seed,
        collect_above=failover.collect_above,
        max_kept_per_stream=failover.max_kept_per_stream,
    )
