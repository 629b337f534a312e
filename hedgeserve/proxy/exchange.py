"""One request from its place in the line to the end of its answer, over as many replicas as that takes.

Until the first byte has gone to the client, everything may be tried again elsewhere; what happens to a stream
that is cut later is decided in :mod:`hedgeserve.proxy.failover`, and nowhere else.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from hedgeserve.metrics import FailurePhase, Metrics, Outcome
from hedgeserve.proxy import failover
from hedgeserve.proxy.dispatch import Dispatcher, Ticket
from hedgeserve.proxy.headers import Headers, to_client, to_replica
from hedgeserve.proxy.incoming import Ask
from hedgeserve.proxy.pool import Lease
from hedgeserve.proxy.replies import Code, Refused, error_event
from hedgeserve.proxy.sse import Scanner
from hedgeserve.proxy.upstream import Answer, Upstream, UpstreamFailure
from hedgeserve.proxy.verdict import Dialect, aborted
from hedgeserve.replica import ReplicaId
from hedgeserve.spec import LimitsSpec
from hedgeserve.units import format_duration

_log = structlog.get_logger(__name__)

_THEIR_FAULT = frozenset({500, 502, 503, 504})
_TOLD_BYTES = 4096
_FAREWELL_S = 5.0
_DONE = b"data: [DONE]\n\n"


class ClientSide(Protocol):
    """Where an answer goes. Its methods raise ``ClientGone`` when nobody is there any more."""

    @property
    def begun(self) -> bool:
        """Whether anything has been sent: from then on nothing can be taken back."""

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of an answer whose length is not known yet."""

    async def send(self, data: bytes) -> None:
        """Send more of it; returns when the client keeps up, so that nothing piles up here."""

    async def end(self) -> None:
        """The answer is whole."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""

    def abort(self) -> None:
        """Break the connection: the only honest end of half an answer that is no stream of events."""


@dataclass(slots=True)
class Report:
    """What became of a request, for the log and the metrics; filled in as it goes along."""

    outcome: Outcome = Outcome.INTERNAL_ERROR
    replica: str = ""
    attempts: int = 0
    ttft_s: float | None = None


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What all exchanges share."""

    dispatcher: Dispatcher
    upstream: Upstream
    metrics: Metrics
    limits: LimitsSpec
    total_s: float
    now_s: Callable[[], float]

    async def run(self, ask: Ask, client: ClientSide, report: Report) -> None:
        """Answer the request.

        Raises:
            Refused: It could not be answered, and nothing has been sent.
        """
        await _Exchange(self, ask, client, report).run()


class _Exchange:
    def __init__(self, shared: Exchanges, ask: Ask, client: ClientSide, report: Report) -> None:
        self._shared = shared
        self._ask = ask
        self._client = client
        self._report = report
        self._started_s = shared.now_s()
        self._failures: list[tuple[ReplicaId, UpstreamFailure]] = []
        self._scanner: Scanner | None = None

    async def run(self) -> None:
        deadline = asyncio.timeout(self._shared.total_s)
        try:
            async with deadline:
                await self._try_until_answered()
        except TimeoutError:
            if not deadline.expired():
                raise
            limit = format_duration(self._shared.total_s)
            if not self._client.begun:
                raise Refused(Code.DEADLINE_EXCEEDED, f"The request was not answered within {limit}.") from None
            await self._end_cut(Code.DEADLINE_EXCEEDED, f"the answer was not complete within {limit}")

    async def _try_until_answered(self) -> None:
        ticket = self._shared.dispatcher.arrive()
        while True:
            with await self._slot(ticket) as lease:
                failure = await self._attempt(lease)
            if failure is None:
                return
            replica = lease.target.id
            self._note(replica, failure, lease)
            if self._client.begun:
                code = Code.UPSTREAM_TIMEOUT if failure.timed_out else Code.UPSTREAM_ERROR
                await self._end_cut(
                    code, f"replica {replica} failed in the middle of the answer: {failure.reason}"
                )
                return
            ticket.failed_on(replica)
            self._failures.append((replica, failure))
            if self._spent():
                raise self._given_up()

    async def _slot(self, ticket: Ticket) -> Lease:
        asked_s = self._shared.now_s()
        lease = await self._shared.dispatcher.slot(ticket)
        self._shared.metrics.queue_waited(self._shared.now_s() - asked_s)
        self._report.attempts += 1
        self._report.replica = lease.target.id
        return lease

    async def _attempt(self, lease: Lease) -> UpstreamFailure | None:
        ask = self._ask
        headers = to_replica(ask.headers, request_id=ask.request_id, api_key=lease.target.api_key)
        # An answer in one piece comes when all of it is there: silence says nothing then.
        patient = ask.route.generates and not ask.stream
        self._scanner = None
        try:
            async with self._shared.upstream.ask(
                lease, "POST", ask.path, headers, ask.body, patient=patient
            ) as answer:
                await self._relay(answer)
        except UpstreamFailure as failure:
            return failure
        lease.worked()
        return None

    async def _relay(self, answer: Answer) -> None:
        if answer.status in _THEIR_FAULT:
            raise UpstreamFailure(
                FailurePhase.STATUS, f"it answered {answer.status}: {await self._told_by(answer)}"
            )
        if answer.status == 401:
            raise UpstreamFailure(FailurePhase.STATUS, "it refused the API key that HedgeServe has for it (401)")
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        readable = answer.headers.get("Content-Encoding", "identity").lower() == "identity"
        if answer.status == 200 and kind == "text/event-stream":
            if readable:
                await self._relay_events(answer)
            else:  # compressed against our wish: nothing can be judged, the bytes pass as they are
                await self._relay_held(answer, hold_bytes=0)
        else:
            await self._relay_held(answer, hold_bytes=self._shared.limits.max_held_response)
        self._report.outcome = (
            Outcome.OK
            if answer.status < 400
            else Outcome.CLIENT_ERROR
            if answer.status < 500
            else Outcome.UPSTREAM_ERROR
        )

    async def _relay_events(self, answer: Answer) -> None:
        route = self._ask.route
        scanner = self._scanner = Scanner(
            route.dialect,
            choices=self._ask.choices,
            longest_event_bytes=max(self._shared.limits.max_held_response, 2**20),
        )
        while chunk := await answer.read():
            await self._send(answer, scanner.feed(chunk))
            if scanner.failure:
                raise UpstreamFailure(FailurePhase.ABORT, scanner.failure)
        await self._send(answer, scanner.close())
        if scanner.failure:
            raise UpstreamFailure(FailurePhase.ABORT, scanner.failure)
        if not scanner.complete:
            raise UpstreamFailure(FailurePhase.BODY, "the stream ended before the answer did")
        await self._client.end()

    async def _relay_held(self, answer: Answer, *, hold_bytes: int) -> None:
        held = bytearray()
        while chunk := await answer.read():
            if self._client.begun:
                await self._client.send(chunk)
                continue
            held += chunk
            if len(held) > hold_bytes:
                await self._send(answer, bytes(held))
                held.clear()
        if self._client.begun:
            await self._client.end()
            return
        if answer.status == 200 and self._ask.route.dialect is Dialect.CHOICES and aborted(held):
            raise UpstreamFailure(FailurePhase.ABORT, 'it gave half an answer (finish_reason "abort")')
        await self._client.whole(answer.status, self._headers(answer), bytes(held))

    async def _send(self, answer: Answer, data: bytes) -> None:
        if not data:
            return
        if not self._client.begun:
            if self._ask.stream:
                self._report.ttft_s = self._shared.now_s() - self._started_s
            await self._client.begin(answer.status, self._headers(answer))
        await self._client.send(data)

    def _headers(self, answer: Answer) -> Headers:
        return [
            *to_client(answer.headers),
            ("X-HedgeServe-Replica", self._report.replica),
            ("X-HedgeServe-Attempts", str(self._report.attempts)),
        ]

    async def _told_by(self, answer: Answer) -> str:
        """The beginning of what a replica says of its failure, on one line."""
        told = b""
        try:
            while len(told) < _TOLD_BYTES and (chunk := await answer.read()):
                told += chunk
        except UpstreamFailure:
            pass  # its status has said enough
        return " ".join(told[:_TOLD_BYTES].decode(errors="replace").split())[:300] or "(no body)"

    def _note(self, replica: ReplicaId, failure: UpstreamFailure, lease: Lease) -> None:
        self._shared.metrics.upstream_failed(failure.phase)
        if failure.phase is not FailurePhase.VANISHED:
            lease.failed()
        _log.info(
            "attempt_failed",
            request_id=self._ask.request_id,
            replica=replica,
            attempt=self._report.attempts,
            phase=str(failure.phase),
            reason=failure.reason,
        )

    def _spent(self) -> bool:
        """Whether enough replicas have failed the request.

        Those that have left since do not count. One that cannot be connected to counts once, however often it
        is tried: nothing has reached it, and the patience of the line bounds that.
        """
        pool = self._shared.dispatcher.pool
        unreachable = set()
        failed = 0
        for replica, failure in self._failures:
            if not pool.has(replica):
                continue
            if failure.phase is FailurePhase.CONNECT:
                unreachable.add(replica)
            else:
                failed += 1
        return failed + len(unreachable) >= self._shared.limits.max_attempts

    def _given_up(self) -> Refused:
        replica, failure = self._failures[-1]
        count = len(self._failures)
        attempts = "1 attempt" if count == 1 else f"{count} attempts"
        return Refused(
            Code.UPSTREAM_TIMEOUT if failure.timed_out else Code.UPSTREAM_ERROR,
            f"The request failed after {attempts}; the last, on replica {replica}: {failure.reason}",
        )

    async def _end_cut(self, code: Code, reason: str) -> None:
        """End an answer that has begun and cannot be finished, as :mod:`failover` decides."""
        self._report.outcome = Outcome.UPSTREAM_ERROR
        scanner = self._scanner
        if scanner is None:
            self._client.abort()
            return
        dialect = self._ask.route.dialect
        ending = failover.after(
            failover.Cut(complete=scanner.complete, done=scanner.done, says_done=dialect is Dialect.CHOICES)
        )
        try:
            async with asyncio.timeout(_FAREWELL_S):
                if ending is failover.Ending.TELL:
                    await self._client.send(error_event(dialect, code, reason[:1].upper() + reason[1:]))
                else:
                    self._report.outcome = Outcome.OK
                    if ending is failover.Ending.SAY_DONE:
                        await self._client.send(_DONE)
                await self._client.end()
        except TimeoutError:
            self._client.abort()
