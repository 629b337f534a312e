"""One attempt on one replica: ask, then read the answer chunk by chunk, each wait with its deadline.

Leaving the attempt before the end of the answer closes the connection at once, which is how an engine learns
that nobody wants the rest. What can go wrong is one exception with a phase, :class:`UpstreamFailure`.
"""

import asyncio
import io
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from yarl import URL

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.headers import Headers
from hedgeserve.proxy.pool import Lease
from hedgeserve.units import format_duration

T = TypeVar("T")

# Shorter than the 5 s after which uvicorn (vLLM's server) closes an idle connection: ours must go first, or a
# request is now and then sent into one that is being closed.
_IDLE_CONNECTION_S = 4.0
# Larger bodies are written piece by piece, as the replica takes them.
_AT_ONCE_BYTES = 2**20
# A VM that is switched off says nothing. The kernel asks after 15 s of silence and gives up 15 s later.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class UpstreamFailure(Exception):
    """An attempt on a replica has failed: in which phase, and how, in words for people.

    ``timed_out`` tells silence from refusal.
    """

    def __init__(self, phase: FailurePhase, reason: str, *, timed_out: bool = False) -> None:
        self.phase = phase
        self.reason = reason
        self.timed_out = timed_out
        super().__init__(reason)


class Answer:
    """A replica's answer, from its head on."""

    def __init__(self, attempt: "_Attempt", response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._attempt = attempt
        self._content = response.content
        self._started = False

    async def read(self) -> bytes:
        """The next bytes as they came; empty at the clean end.

        Raises:
            UpstreamFailure: The connection was lost, the replica is gone or has been silent for too long.
        """
        attempt = self._attempt
        attempt.check()
        try:
            chunk = self._content.read_nowait() or await attempt.wait(
                self._content.readany(), *attempt.next_limit(started=self._started)
            )
        except (aiohttp.ClientError, OSError) as error:
            phase = FailurePhase.BODY if self._started else FailurePhase.FIRST_BYTE
            raise UpstreamFailure(phase, f"the connection was lost: {_reason(error)}") from error
        self._started = True
        return chunk


class Upstream:
    """The connections to all replicas, kept open between requests; nothing limits their number but the requests.

    ``connect_s``, ``first_byte_s`` and ``stall_s`` are the deadlines of each attempt. ``own_trust`` is what
    replicas with ``own_tls`` are verified with, each by its id; without it none of them is believed.
    """

    def __init__(
        self, *, connect_s: float, first_byte_s: float, stall_s: float, own_trust: ssl.SSLContext | None = None
    ) -> None:
        self._connect_s = connect_s
        self._first_byte_s = first_byte_s
        self._stall_s = stall_s
        self._own_trust = own_trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Be able to connect; needs a running event loop, and :meth:`aclose` at the end."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=_IDLE_CONNECTION_S, socket_factory=_make_socket
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )

    @asynccontextmanager
    async def ask(
        self, lease: Lease, method: str, path: str, headers: Headers, body: bytes, *, patient: bool = False
    ) -> AsyncIterator[Answer]:
        """Send a request to the lease's replica; yields the answer when its head is there.

        ``path`` is raw, with its query. ``patient`` puts no deadline on the first byte (for an answer that
        comes in one piece when it is done); the caller's own deadline then is the only one.

        Raises:
            UpstreamFailure: There is no answer; also out of :meth:`Answer.read`.
        """
        assert self._session is not None, "the upstream side was not opened"
        target = lease.target
        attempt = _Attempt(lease, None if patient else self._first_byte_s, self._stall_s)
        lease.on_vanish = attempt.vanish
        try:
            attempt.check()
            try:
                response = await attempt.wait(
                    self._session.request(
                        method,
                        URL(target.url.rstrip("/") + path, encoded=True),
                        headers=headers,
                        data=body if len(body) <= _AT_ONCE_BYTES else io.BytesIO(body),
                        allow_redirects=False,
                        ssl=self._own_trust if target.own_tls else True,
                        server_hostname=target.id if target.own_tls else None,
                    ),
                    *attempt.next_limit(started=False),
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise UpstreamFailure(FailurePhase.CONNECT, f"no connection: {_reason(error)}") from error
            except (aiohttp.ClientError, OSError) as error:
                raise UpstreamFailure(
                    FailurePhase.FIRST_BYTE, f"the connection was lost before an answer: {_reason(error)}"
                ) from error
            try:
                yield Answer(attempt, response)
            finally:
                # Back to the pool where the answer was read to its end; closed where it was not.
                if response.content.is_eof() and response.content.exception() is None:
                    response.release()
                else:
                    response.close()
        finally:
            lease.on_vanish = None

    async def aclose(self) -> None:
        """Close all connections; may be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Attempt:
    """The deadlines of one attempt, and the word that its replica has vanished."""

    def __init__(self, lease: Lease, first_byte_s: float | None, stall_s: float) -> None:
        self._now_s = asyncio.get_running_loop().time
        self._lease = lease
        self._stall_s = stall_s
        self._first_byte_s = first_byte_s
        self._first_byte_at_s = None if first_byte_s is None else self._now_s() + first_byte_s
        self._scope: asyncio.Timeout | None = None

    def vanish(self) -> None:
        """The replica is gone: whatever is being waited for fails now."""
        if self._scope is not None:
            self._scope.reschedule(self._now_s())

    def check(self) -> None:
        """Fail if the replica has gone."""
        if self._lease.vanished:
            raise UpstreamFailure(FailurePhase.VANISHED, "the replica is gone")

    def next_limit(self, *, started: bool) -> tuple[float | None, FailurePhase, str]:
        """When the next wait ends, the phase that it then failed in, and the reason."""
        if started:
            reason = f"silence for {format_duration(self._stall_s)}"
            return self._now_s() + self._stall_s, FailurePhase.STALL, reason
        reason = f"no answer within {format_duration(self._first_byte_s or 0)}"
        return self._first_byte_at_s, FailurePhase.FIRST_BYTE, reason

    async def wait(self, awaited: Awaitable[T], until_s: float | None, phase: FailurePhase, reason: str) -> T:
        """What is awaited, unless its time is up or the replica vanishes."""
        scope = asyncio.timeout_at(until_s)
        try:
            async with scope:
                self._scope = scope
                return await awaited
        except TimeoutError:
            if not scope.expired():
                raise
            self.check()
            raise UpstreamFailure(phase, reason, timed_out=True) from None
        finally:
            self._scope = None


def _make_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, proto, _, _ = info
    made = socket.socket(family=family, type=kind, proto=proto)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
