"""The listening sockets, and who looks after the time: everything that is accepted, swept and handed over.

Connections are accepted many at a time: event loops take one in a turn, and a burst of new streams would queue up
behind the bytes of those that run.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from hedgeserve.proxy.edge import Edge, Running, date_line
from hedgeserve.proxy.front import Front
from hedgeserve.proxy.outbox import Outbox
from hedgeserve.proxy.poll import Poll
from hedgeserve.proxy.reception import Reception
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.request import Incoming, KnownHeads
from hedgeserve.proxy.routes import FORWARDED

_log = structlog.get_logger(__name__)

_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 128
_SWEEP_S = 0.1
_FULL_PAUSE_S = 0.1


class Server:
    """Listens, and is the :class:`~hedgeserve.proxy.edge.Host` of its connections.

    ``poll`` watches connections without TLS; without one they are asyncio's. ``sweep`` is called some ten times a
    second with the monotonic time; connections are looked at every ``edges_every_s``.
    """

    def __init__(
        self,
        reception: Reception,
        front: Front,
        outbox: Outbox,
        poll: Poll | None,
        *,
        tls: ssl.SSLContext | None,
        max_connections: int,
        max_head: int,
        max_body: int,
        head_s: float,
        sweep: Callable[[float], None],
        edges_every_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reception = reception
        self.outbox = outbox
        self._tls = tls
        self._poll = poll
        self._sweep = sweep
        self.adopt(
            max_connections=max_connections,
            max_head=max_head,
            max_body=max_body,
            head_s=head_s,
            edges_every_s=edges_every_s,
        )
        self._edges: set[Edge] = set()
        self._sockets: list[socket.socket] = []
        self._front = front
        self._group: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._shaking: set[Edge] = set()  # hands, by TLS: not yet among the edges
        self.closing = False
        self.date_line = date_line()

    def adopt(
        self, *, max_connections: int, max_head: int, max_body: int, head_s: float, edges_every_s: float
    ) -> None:
        """Hold all connections to these bounds from their next request on."""
        self._max_connections = max_connections
        self.bounds = (max_head, max_body, head_s)
        self._edges_every_s = edges_every_s
        self.heads = KnownHeads()  # what was let in by the old ones is to be judged anew

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What is listened on."""
        return [(str(each.getsockname()[0]), int(each.getsockname()[1])) for each in self._sockets]

    async def start(self, host: str, port: int, inherited: Sequence[socket.socket] = ()) -> None:
        """Listen there, or on the listening sockets that are ``inherited``; raises OSError where that cannot
        be."""
        if inherited:
            self._sockets = list(inherited)
        else:
            await self._open(host, port)
        running = asyncio.Event()
        self._runner = asyncio.create_task(self._run(running), name="balancer")
        await running.wait()
        for listener in self._sockets:
            if listener.family in (socket.AF_INET, socket.AF_INET6):  # what it has, each connection has from it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def _open(self, host: str, port: int) -> None:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, proto, _, address in dict.fromkeys(found):
                self._sockets.append(_listen(family, kind, proto, address))
                if port == 0:
                    break  # a second address would get another port
        except OSError:
            self._close_sockets()
            raise

    def make_edge(self) -> Edge:
        """What speaks with one more client."""
        return Edge(self, self._loop.time)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Have a task run that ends with the server at the latest."""
        assert self._group is not None, "the server was not started"
        self._group.create_task(self._safely(work, name), name=name)

    def stop_listening(self) -> None:
        """Take no new connections."""
        for listener in self._sockets:
            self._loop.remove_reader(listener.fileno())
        self._close_sockets()

    async def flush(self, timeout_s: float) -> None:
        """Give what has been written a moment to go out, of connections on which nothing is being answered."""
        until_s = self._loop.time() + timeout_s
        while self._loop.time() < until_s and any(edge.flushing for edge in self._edges):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a transport tells nobody when it has become empty

    async def settle(self, timeout_s: float) -> None:
        """Give those a moment who have been let in and whose request is on its way."""
        until_s = self._loop.time() + timeout_s
        for _ in range(2):
            await asyncio.sleep(0.01)  # what the kernel has of them is read in the loop's next turns
        while self._loop.time() < until_s and self._anybody_expected():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        """Close everything at once; requests under way are cut. May be called twice."""
        self.stop_listening()
        for edge in tuple(self._edges):
            edge.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.wait([runner])

    # What edges ask (edge.Host)

    def is_ours(self, method: bytes, path: str) -> bool:
        """Requests for replicas are POSTed, to one of a few paths."""
        return method == b"POST" and path in FORWARDED

    def judge(self, incoming: Incoming) -> Refused | None:
        """What stands in the way of a request for replicas, as far as its head tells."""
        return self._reception.judge(incoming)

    def take(self, incoming: Incoming, client: Edge, request_id: str) -> Running | None:
        """Begin to answer a request for replicas."""
        self.outbox.hurry()
        return self._reception.take(incoming, client, request_id)

    def told(self, incoming: Incoming | None, code: Code, request_id: str) -> None:
        """An error was the answer, before a replica had been looked for."""
        self._reception.refused(incoming, code, request_id)

    def arrived(self, edge: Edge) -> None:
        """A connection is there, and its TLS if it has any."""
        self._shaking.discard(edge)
        self._edges.add(edge)

    def left(self, edge: Edge) -> None:
        """It is gone."""
        self._edges.discard(edge)

    def connections(self) -> set[Edge]:
        """All that there are."""
        return self._edges

    def answer(self, incoming: Incoming, client: Edge, request_id: str) -> None:
        """Answer a request that is not for replicas."""
        self._front.answer(incoming, client, request_id)

    # How

    async def _run(self, running: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.spawn(self._tick(), "sweep")
            running.set()
            await asyncio.Event().wait()  # until it is cancelled, and with it all that the group has still to do

    @staticmethod
    async def _safely(work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception:  # in a task group it would end everybody else's work too
            _log.exception("a task of the balancer failed", task=name)

    async def _tick(self) -> None:
        sweeps, next_s = 0, 0.0
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = self._loop.time()
            sweeps += 1
            if sweeps % 5 == 0:
                self.date_line = date_line()
            try:
                self._sweep(now_s)
                if now_s >= next_s:
                    next_s = now_s + self._edges_every_s
                    self._sweep_edges(now_s)
            except Exception:  # one request's trouble must not stop the clock for the others
                _log.exception("looking after the requests' time failed; trying again")

    def _sweep_edges(self, now_s: float) -> None:
        for edge in tuple(self._edges):
            edge.sweep(now_s)

    def _accept(self, listener: socket.socket) -> None:
        self.outbox.hurry()
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors or memory: let others go first
                _log.error("connections cannot be accepted; trying again", error=str(error))
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_FULL_PAUSE_S, self._accept_again, listener)
                return
            if len(self._edges) + len(self._shaking) >= self._max_connections:
                client.close()
                continue
            edge = self.make_edge()
            if self._poll is not None and self._tls is None:
                self._poll.accepted(client, edge, peer)
                continue
            client.setblocking(False)
            self._shaking.add(edge)
            self.spawn(self._connect(client, edge), "accept a connection")

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def _connect(self, client: socket.socket, edge: Edge) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: edge, client, ssl=self._tls)
        except (OSError, asyncio.CancelledError):  # it has left, or its TLS handshake failed
            client.close()
        finally:
            self._shaking.discard(edge)

    def _anybody_expected(self) -> bool:
        return bool(self._shaking) or any(edge.expecting for edge in self._edges)

    def _close_sockets(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._sockets = []


def _listen(family: int, kind: int, proto: int, address: Any) -> socket.socket:
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
