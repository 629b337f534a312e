"""The balancer: the endpoint that clients talk to, and the way from there to a replica.

It reads immutable snapshots and nothing else: never a database, a lock or a cloud. Where the control loop is ill,
it goes on serving from the last snapshot.
"""

import asyncio
import errno
import math
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from hedgeserve.errors import ListenError
from hedgeserve.metrics import Metrics
from hedgeserve.proxy.dispatch import Dispatcher
from hedgeserve.proxy.exchange import Exchanges
from hedgeserve.proxy.front import Front, Standing
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.routes import ROUTES
from hedgeserve.proxy.server import Server
from hedgeserve.proxy.upstream import Upstream
from hedgeserve.replica import ReplicaId, RoutingSnapshot
from hedgeserve.spec import Spec, split_listen

_IDLE_CLIENT_S = 75.0
_BACKLOG = 1024
_CLOSING_S = 0.25
_RETRY_AFTER_STOP_S = 5


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
    ``on_wait`` is called when a request starts to wait while nothing is ready. ``own_trust`` is what replicas with
    ``own_tls`` are verified with.
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
        own_trust: ssl.SSLContext | None = None,
    ) -> None:
        self.on_wait = on_wait
        self._listen = spec.service.listen
        self._now_s = asyncio.get_running_loop().time
        self._dispatcher = Dispatcher(
            limit_per_replica=spec.limits.max_concurrent_per_replica,
            max_queue=spec.limits.max_queue,
            patience_s=spec.timeouts.queue,
            boot_eta_s=boot_eta_s,
            on_wait=lambda: self.on_wait(),
        )
        self._upstream = Upstream(
            connect_s=spec.timeouts.connect,
            first_byte_s=spec.timeouts.first_byte,
            stall_s=spec.timeouts.stall,
            own_trust=own_trust,
        )
        pool = self._dispatcher.pool
        self._front = Front(
            spec,
            Keys(api_keys),
            Exchanges(self._dispatcher, self._upstream, metrics, spec.limits, spec.timeouts.total, self._now_s),
            metrics,
            Standing(
                ready=lambda: pool.ready,
                queue_full=lambda: self._dispatcher.queue_full,
                ready_checks=ready_checks,
                draining_retry_s=self._draining_retry_s,
            ),
        )
        metrics.expect_routes(ROUTES)
        metrics.watch_load(inflight=lambda: pool.in_flight, queued=lambda: self._dispatcher.queued)
        self._drained_at_s: float | None = None
        self._server: Server | None = None
        self._runner: web.ServerRunner | None = None
        self._address: tuple[str, int] | None = None

    async def start(self) -> None:
        """Listen on ``service.listen``; when this returns, requests are answered.

        Raises:
            ListenError: The address cannot be had; says why and what to do.
        """
        host, port = split_listen(self._listen)
        server = Server(
            self._front.handle,
            handler_cancellation=True,  # a client that goes away takes its request with it
            access_log=None,
            keepalive_timeout=_IDLE_CLIENT_S,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_CLOSING_S)
        await runner.setup()
        self._upstream.open()
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            await self._upstream.aclose()
            raise ListenError(_why_not(self._listen, error)) from error
        self._server, self._runner = server, runner
        bound = runner.addresses[0]
        self._address = (str(bound[0]), int(bound[1]))

    @property
    def front(self) -> Front:
        """What answers the requests: for a server other than our own that embeds the endpoint."""
        return self._front

    @property
    def url(self) -> str:
        """Base URL of the endpoint, with the port that it really has; usable on this machine."""
        if self._address is None:
            raise ListenError("the balancer does not listen yet; start it first")
        host, port = self._address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def update(self, snapshot: RoutingSnapshot) -> None:
        """Route by this snapshot from now on.

        What is missing in it has vanished: attempts there fail at once, and are made elsewhere where nothing
        has been sent yet. Requests that wait are served where they now can be.
        """
        self._dispatcher.update(snapshot)

    def load(self) -> Load:
        """What the requests ask of the replicas now."""
        return Load(
            arrived_total=self._dispatcher.arrived_total,
            queued=self._dispatcher.queued,
            in_flight=self._dispatcher.pool.in_flight,
        )

    def outstanding(self, replica: ReplicaId) -> int:
        """How many requests this replica is answering."""
        return self._dispatcher.pool.outstanding(replica)

    async def wait_idle(self, replica: ReplicaId) -> None:
        """Return once this replica is answering none."""
        await self._dispatcher.pool.wait_idle(replica)

    async def drain(self, timeout_s: float) -> int:
        """Take no new requests, and wait up to ``timeout_s`` for the others; returns how many were left.

        New ones are answered 503 with ``Retry-After`` and ``Connection: close``, and ``/readyz`` fails.
        """
        self._drained_at_s = self._now_s() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._front.wait_done()
        except TimeoutError:
            pass  # those left are what is returned
        return self._front.active

    async def aclose(self) -> None:
        """Stop listening and close all connections at once; requests under way are cut. May be called twice."""
        runner, self._runner = self._runner, None
        server, self._server = self._server, None
        if runner is not None and server is not None:
            for site in list(runner.sites):
                await site.stop()
            if self._front.active:
                for connection in server.connections:
                    if connection.transport is not None:
                        connection.transport.abort()
            await runner.cleanup()
        await self._upstream.aclose()

    def _draining_retry_s(self) -> int | None:
        if self._drained_at_s is None:
            return None
        return math.ceil(max(self._drained_at_s - self._now_s(), 0)) + _RETRY_AFTER_STOP_S


def _why_not(listen: str, error: OSError) -> str:
    """Why an address cannot be listened on, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"{listen}: there is no such host; set service.listen to an address of this machine"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{listen} is in use by another program; stop it, or set service.listen to another port "
                "(port 0 takes a free one)"
            )
        case errno.EACCES | errno.EPERM:
            return f"{listen} may not be used by this user; set service.listen to a port of 1024 or above"
        case errno.EADDRNOTAVAIL | None:  # from Python 3.13 on asyncio says it in words alone
            return (
                f"{listen} is no address of this machine; set service.listen to one that is, such as "
                "127.0.0.1 (this machine only) or 0.0.0.0 (all of its addresses)"
            )
        case _:
            return (
                f"{listen} cannot be listened on: {error.strerror or error}; set service.listen to another address"
            )
