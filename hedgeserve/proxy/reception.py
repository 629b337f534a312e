"""What happens to a request for replicas before and after its exchange: keys, limits, understanding, counting.

The hands of admission: nothing here waits, everything is a function call on one request's way in or out.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from logging import DEBUG, INFO
from typing import Any, Final

import structlog

from hedgeserve.keyring import IssuedKey
from hedgeserve.metrics import Metrics, Outcome
from hedgeserve.proxy import failover
from hedgeserve.proxy.answer import Answer
from hedgeserve.proxy.edge import Edge
from hedgeserve.proxy.exchange import Exchange
from hedgeserve.proxy.failover import FailoverPolicy, Telling
from hedgeserve.proxy.headers import to_replica
from hedgeserve.proxy.incoming import Ask, understand
from hedgeserve.proxy.keys import Keys
from hedgeserve.proxy.parties import Shared
from hedgeserve.proxy.quotas import Quotas
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.report import Report, outcome_of
from hedgeserve.proxy.request import Incoming
from hedgeserve.proxy.routes import FORWARDED, Forwarded
from hedgeserve.proxy.routing import Wants
from hedgeserve.spec import LimitsSpec, RoutingSpec, Spec
from hedgeserve.tracing import RequestTrace, Tracing

_log = structlog.get_logger(__name__)

_OK: Final = Outcome.OK
_CLIENT_CLOSED = 499  # nginx's number for it; in logs and metrics only
_PRIORITIES = {b"low": 0, b"normal": 1, b"high": 2}
_LONGEST_DEADLINE_MS = 10**9
_TYPICAL_TOKENS = 256.0
_TYPICAL_SHARE = 0.05
_PREFIX_BYTES = 16 * 2**10


class Budget:
    """The memory that all streams together may keep in order to be continued."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.kept_bytes = 0

    def bound(self, most_bytes: int) -> None:
        """Another bound from now on; what is kept already stays."""
        self._most = most_bytes

    def keep(self, more_bytes: int) -> bool:
        """Whether this much more may be kept; giving back (below 0) always may."""
        if more_bytes > 0 and self.kept_bytes + more_bytes > self._most:
            return False
        self.kept_bytes += more_bytes
        return True


class Reception:
    """Takes requests for replicas from the edge, and tells of each: one log line, the metrics."""

    def __init__(
        self,
        spec: Spec,
        keys: Keys,
        shared: Shared,
        policy: FailoverPolicy,
        metrics: Metrics,
        *,
        draining_retry_s: Callable[[], int | None],
        on_busy: Callable[[], None],
        on_idle: Callable[[], None],
        tracing: Tracing | None = None,
    ) -> None:
        self._names: tuple[str, ...] = (spec.model.id, *spec.model.aliases)
        self._apart: Mapping[str, frozenset[int]] = {}
        self._heed(spec)
        self._log = _log.bind()  # once: finding the logger anew costs as much as all of the rest of counting
        self._keys = keys
        self._quotas = _quotas(spec.limits)
        self._shared = shared
        self._policy = policy
        self._metrics = metrics
        self._draining_retry_s = draining_retry_s
        self._on_busy = on_busy
        self._on_idle = on_idle
        self._tracing = tracing
        self.budget = Budget(spec.failover.max_kept)
        self.active = 0
        self.typical_tokens = _TYPICAL_TOKENS

    def adopt(
        self,
        spec: Spec,
        shared: Shared,
        policy: FailoverPolicy,
        names: Sequence[str],
        apart: Mapping[str, frozenset[int]],
    ) -> None:
        """Take requests by these words from now on; those under way keep the ones by which they began.

        ``names`` are the model's; ``apart`` says of those that only some versions answer to, which. Accounts of
        keys begin anew where their limits are other ones.
        """
        if _quotas_of(spec.limits) != _quotas_of(self._shared.limits):
            self._quotas = _quotas(spec.limits)
        self._shared = shared
        self._policy = policy
        self._names = tuple(names)
        self._apart = apart
        self.budget.bound(spec.failover.max_kept)
        self._heed(spec)

    def _heed(self, spec: Spec) -> None:
        self._routing: RoutingSpec = spec.routing
        self._session_header = spec.routing.session_header.lower().encode()
        self._longest_event = max(spec.limits.max_held_response, 2**20)

    def judge(self, incoming: Incoming) -> Refused | None:
        """What stands in the way of a request, as far as its head tells."""
        who = self._keys.who(incoming.headers)
        if who is None:
            return self._keys.refusal(incoming.headers)
        incoming.client_id = who
        retry_s = self._draining_retry_s()
        if retry_s is not None:
            return Refused(
                Code.SHUTTING_DOWN,
                "The service is stopping and takes no new requests.",
                retry_after_s=retry_s,
                close=True,
            )
        closure = self._shared.dispatcher.closure
        if closure is not None:
            return self._shared.dispatcher.closed(closure)
        return None

    def take(self, incoming: Incoming, client: Edge, request_id: str) -> Exchange | None:
        """Begin to answer it; None where it was refused, which the client has been told."""
        now_s = self._shared.now_s()
        try:
            ask = self._understand(FORWARDED[incoming.path], incoming, request_id, now_s)
        except Refused as refused:
            client.refuse(refused)
            return None
        except Exception:
            _log.exception("a request failed through a mistake of ours", path=incoming.path, request_id=request_id)
            client.refuse(Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request."))
            return None
        exchange = Exchange(self._shared, ask, Answer(client, now_s), self)
        if not self.active:
            self._on_busy()
        self.active += 1
        try:
            if self._tracing is not None:
                exchange.trace = self._tracing.request(
                    ask.route.path, incoming.first, request_id, ask.source, stream=ask.stream
                )
            exchange.start()
        except Exception:
            self.failed(exchange)
        return exchange

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over: it is counted, and told of."""
        ask, report = exchange.ask, exchange.answer
        self.active -= 1
        self._quotas.leave(ask.key)
        if report.tokens or report.outcome is not _OK:
            used = ask.approach.prompt_tokens_estimate + report.tokens if report.tokens else 0
            self._quotas.settle(ask.key, ask.wants.tokens, used, self._shared.now_s())
        if report.tokens:
            whole_s = None
            if report.ttft_s is not None and report.outcome is _OK:
                whole_s = self._shared.now_s() - report.started_s - report.ttft_s
            self._metrics.answered_tokens(report.tokens, whole_s)
            self.typical_tokens += (report.tokens - self.typical_tokens) * _TYPICAL_SHARE
        if report.attempts:
            self._metrics.prompted(ask.approach.prompt_tokens_estimate)
        self._tell(ask.route, report, ask.request_id)
        if exchange.trace is not None:
            _end(exchange.trace, report, exchange.usage)
        if not self.active:
            self._on_idle()

    def failed(self, exchange: Exchange) -> None:
        """An exchange failed through a mistake of ours: its client is told, and nobody else suffers."""
        _log.exception(
            "a request failed through a mistake of ours",
            path=exchange.ask.route.path,
            request_id=exchange.ask.request_id,
        )
        exchange.fail_internally()

    def refused(self, incoming: Incoming | None, code: Code, request_id: str) -> None:
        """A request was turned away before it had an exchange."""
        self._metrics.errored(code.code)
        if incoming is None or incoming.path not in FORWARDED:
            return
        report = Report(self._shared.now_s(), code.status, outcome_of(code))
        if self._tracing is not None:
            _end(self._tracing.request(incoming.path, incoming.first, request_id), report, None)
        self._tell(FORWARDED[incoming.path], report, request_id)

    def _understand(self, route: Forwarded, incoming: Incoming, request_id: str, now_s: float) -> Ask:
        body = incoming.body[0] if len(incoming.body) == 1 else b"".join(incoming.body)
        understood = understand(body, self._names)
        fields = understood.fields
        deadline_s, priority = None, 1
        first = incoming.first
        if b"x-deadline-ms" in first:
            deadline_s = _deadline(first[b"x-deadline-ms"], now_s)
        if b"x-priority" in first:
            priority = _priority(first[b"x-priority"])
        approach = failover.approach(route, fields, body, self._policy, dice=random.random)
        expects = approach.expects_tokens
        answer_tokens = (
            int(self.typical_tokens) if expects is None else min(expects, 4 * int(self.typical_tokens) + 64)
        )
        tokens = approach.prompt_tokens_estimate + answer_tokens
        policy = self._routing.policy
        model = fields.get("model") if self._apart else None
        lines = incoming.lines
        if lines is None:
            lines = incoming.lines = to_replica(incoming.headers, traced=self._tracing is not None)
        ask = Ask(
            route,
            route.raw_path + b"?" + incoming.query if incoming.query else route.raw_path,
            b"%bX-Request-Id: %b\r\n" % (lines, request_id.encode()),
            request_id,
            body,
            understood.stream,
            understood.choices,
            approach,
            Wants(
                tokens,
                _prefix(body) if policy == "prefix" else b"",
                self._session(incoming, fields) if policy == "session" else "",
                priority == 2 or deadline_s is not None,
                versions=None if model is None else self._apart.get(model),
            ),
            route.generates and not understood.stream and not approach.collect,
            answer_tokens,
            incoming.client_id or "",
            priority,
            deadline_s,
        )
        # Last of all: what is admitted counts until it has ended.
        verdict = self._quotas.admit(ask.key, tokens, now_s)
        if not verdict.ok:
            self._metrics.limited(verdict.limit)
            raise _over_quota(verdict.limit, verdict.retry_after_s)
        return ask

    def issue(self, keys: Sequence[IssuedKey]) -> None:
        """Let in who has one of these keys, and hold each to its own limits where it has some."""
        self._keys.issue(keys)
        self._quotas.allow(
            {
                key.id: self._quotas.common_with(
                    requests_per_second=key.requests_per_second,
                    tokens_per_minute=key.tokens_per_minute,
                    concurrent=key.concurrency,
                )
                for key in keys
                if key.requests_per_second or key.tokens_per_minute or key.concurrency
            }
        )

    @property
    def limited_keys(self) -> int:
        """How many API keys' limits are being kept account of."""
        return len(self._quotas)

    def telling(self, ask: Ask) -> Telling:
        """What follows a stream that answers this request."""
        return Telling(
            ask.route,
            ask.source,
            ask.approach,
            self._policy,
            keep=self.budget.keep,
            choices=ask.choices,
            longest_event_bytes=self._longest_event,
        )

    def _session(self, incoming: Incoming, fields: Any) -> str:
        named = incoming.value(self._session_header).decode("latin-1")
        user = fields.get("user")
        return named or (user if isinstance(user, str) else "")

    def _tell(self, route: Forwarded, report: Report, request_id: str) -> None:
        duration_s = self._shared.now_s() - report.started_s
        status = report.status or _CLIENT_CLOSED
        self._metrics.request_ended(route.path, report.outcome, status)
        self._metrics.request_took(route.path, duration_s, report.attempts, report.ttft_s)
        # One line for each request costs a third of a whole request: those that went well are for debugging.
        level = DEBUG if report.outcome is _OK else INFO
        if self._log.is_enabled_for(level):
            self._log.log(
                level,
                "request",
                request_id=request_id,
                route=route.path,
                status=status,
                outcome=str(report.outcome),
                replica=report.replica or None,
                attempts=report.attempts,
                resumed=report.resumed,
                duration_s=round(duration_s, 4),
                ttft_s=None if report.ttft_s is None else round(report.ttft_s, 4),
            )


def _end(trace: RequestTrace, report: Report, usage: Mapping[str, Any] | None) -> None:
    trace.end(
        status=report.status or _CLIENT_CLOSED,
        outcome=report.outcome,
        attempts=report.attempts,
        resumed=report.resumed,
        tokens=report.tokens,
        ttft_s=report.ttft_s,
        usage=usage,
    )


def _quotas_of(limits: LimitsSpec) -> tuple[int | None, int | None, int | None]:
    return (
        limits.requests_per_minute_per_key,
        limits.tokens_per_minute_per_key,
        limits.concurrent_per_key,
    )


def _quotas(limits: LimitsSpec) -> Quotas:
    requests, tokens, concurrent = _quotas_of(limits)
    return Quotas(requests_per_minute=requests, tokens_per_minute=tokens, concurrent=concurrent)


def _deadline(given: bytes, now_s: float) -> float:
    """When an answer is of no use any more, from ``x-deadline-ms``: milliseconds from now."""
    if not given.isdigit() or not 0 < int(given) <= _LONGEST_DEADLINE_MS:
        raise Refused(
            Code.INVALID_VALUE,
            f'"x-deadline-ms" must be a whole number of milliseconds from 1 to {_LONGEST_DEADLINE_MS}.',
            param="x-deadline-ms",
        )
    return now_s + int(given) / 1000


def _priority(given: bytes) -> int:
    """``x-priority`` as a number: higher goes first."""
    priority = _PRIORITIES.get(given.strip().lower())
    if priority is None:
        raise Refused(Code.INVALID_VALUE, '"x-priority" must be low, normal or high.', param="x-priority")
    return priority


def _prefix(body: bytes) -> bytes:
    """The beginning of the prompt, as it is written in the body: the same text gives the same bytes."""
    for name in (b'"messages"', b'"prompt"', b'"input"'):
        at = body.find(name)
        if at >= 0:
            return body[at : at + _PREFIX_BYTES]
    return b""


def _over_quota(limit: str, retry_after_s: float) -> Refused:
    retry_s = max(1, -int(-retry_after_s // 1))
    if limit == "concurrent":
        return Refused(
            Code.TOO_MANY_CONCURRENT,
            "This API key has as many requests under way as it may; wait for one of them to end.",
            retry_after_s=retry_s,
        )
    return Refused(
        Code.RATE_LIMITED,
        f"This API key has used up its {limit} for now; try again in {retry_s} s.",
        retry_after_s=retry_s,
    )
