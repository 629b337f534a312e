"""One request from its place in the line to the end of its answer, over as many replicas as that takes.

A state machine that is told what happens (a lease, bytes of an answer, a lost connection, the client's leaving,
time) and acts in the same call: no task, no future, no copy between a replica's bytes and its client's socket.

Until the first byte has gone to the client, everything may be tried again elsewhere; what becomes of a stream that
is cut later is decided in :mod:`hedgeserve.proxy.failover`, and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from hedgeserve.metrics import FailurePhase, Outcome
from hedgeserve.proxy.admission import Place
from hedgeserve.proxy.dispatch import Ticket
from hedgeserve.proxy.failover import Call, Finished, GiveUp, Recovery, Resume, Step, Stream, Telling, Way
from hedgeserve.proxy.headers import lines_of
from hedgeserve.proxy.incoming import Ask
from hedgeserve.proxy.moving import Moving
from hedgeserve.proxy.parties import NO_FAULT, ClientSide, Failure, Home, Report, Shared, outcome_of
from hedgeserve.proxy.pool import Lease
from hedgeserve.proxy.replies import Code, Refused, error_event
from hedgeserve.proxy.verdict import Dialect, aborted
from hedgeserve.proxy.wire import Endpoint, Head, Link
from hedgeserve.replica import ReplicaId
from hedgeserve.tracing import RequestTrace
from hedgeserve.units import format_duration

_log = structlog.get_logger(__name__)

# Plain numbers: members of an enum are found anew each time, and these are looked at for every token.
# Where an exchange stands: it waits for a slot, for the head of an answer, for its body; it is over.
_WAITING: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_OVER: Final = 3
# What the body is: a stream that is scanned as it passes, one that cannot be read, an answer in one piece, a reply
# that a recovery needs, what a replica says of its failure.
_EVENTS: Final = 0
_BLIND: Final = 1
_HELD: Final = 2
_CALL: Final = 3
_ERROR: Final = 4

# Found once: a member of an enum is looked for anew each time that it is named.
_OK: Final = Outcome.OK
_CHOICES: Final = Dialect.CHOICES
_NO_WAY: Final = Way.NONE
_BY_WORD = frozenset({FailurePhase.STATUS, FailurePhase.ABORT})
_THEIR_FAULT = frozenset({500, 502, 503, 504})
_TOLD_BYTES = 4096
_LONGEST_REPLY_BYTES = 64 * 2**20
_DONE = b"data: [DONE]\n\n"
_JSON_LINE = b"Content-Type: application/json\r\n"


class Exchange:
    """One request; its home is told once, when its client has been told the last of it (or has left)."""

    # Defaults of the class and not assignments for each request: most requests need few to be anything else.
    _stage = _WAITING
    _mode = _ERROR
    _stage_due_s: float | None = None
    _lease: Lease | None = None
    _link: Link | None = None
    _stream: Stream | None = None
    _told: Telling | None = None
    _ticket: Ticket | None = None
    _begun = False
    _paused = False
    _calls = 0
    _try = 0
    _seen_beats = 0
    _heard = 0
    _version = 0
    _status = 0
    _arrival = 0
    _lost_at_s: float | None = None
    trace: RequestTrace | None = None
    _head_lines = b""
    _request: tuple[bytes, bytes, bool] = (b"", b"", False)
    _paced_from: tuple[float, int] | None = None
    _failures: Sequence[tuple[ReplicaId, "Failure"]] = ()

    def __init__(self, shared: Shared, ask: Ask, client: ClientSide, report: Report, home: Home) -> None:
        self._shared = shared
        self.ask = ask
        self.client = client
        self.report = report
        self._home = home
        self._started_s = self._asked_at_s = self._quiet_since_s = report.started_s
        self._total_due_s = report.started_s + shared.timeouts.total
        self._held: list[bytes] = []
        self._recovery: Recovery | None = None

    # What may be asked of it

    def start(self) -> None:
        """Begin."""
        shared = self._shared
        shared.active.add(self)
        lease = shared.dispatcher.take_now(self.ask.wants)
        self._arrival = shared.dispatcher.arrived_total
        if lease is not None:
            self._granted(lease)
        else:
            self._claim()

    def abandon(self) -> None:
        """The client has left: stop everything, and let the engine know by closing."""
        if self._stage == _OVER:
            return
        self.report.outcome = Outcome.CANCELLED
        self._over()

    def fail_internally(self) -> None:
        """A mistake of ours has made it impossible to answer."""
        if self._stage == _OVER:
            return
        self.report.outcome = Outcome.INTERNAL_ERROR
        if self._begun:
            self._shared.metrics.stream_lost()
            self.client.abort()
        else:
            self.report.status = 500
            self._shared.metrics.errored(Code.INTERNAL_ERROR.code)
            refused = Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request.")
            self.client.refuse(refused, counted=True)
        self._over()

    def pause(self) -> None:
        """The client does not keep up."""
        self._paused = True
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self._paused = False
        if self._link is not None:
            self._link.resume()

    def sweep(self, now_s: float) -> None:
        """See whether it has taken too long; called some ten times a second."""
        if now_s >= self._total_due_s:
            self._out_of_time()
            return
        if self._stage in (_WAITING, _OVER):
            return
        beats = 0 if self._link is None else self._link.beats
        if self._stage == _BODY and beats:
            if beats != self._seen_beats or self._paused:
                if not self._seen_beats:
                    self._paced_from = (now_s, self.told_tokens)
                self._seen_beats = beats
                self._quiet_since_s = now_s
                if self._lease is not None and self._stream is not None and self.ask.expects is not None:
                    self._lease.expect(max(1, self.ask.expects - self.told_tokens))
            elif now_s - self._quiet_since_s >= self._shared.timeouts.stall:
                reason = f"silence for {format_duration(self._shared.timeouts.stall)}"
                self._fail(Failure(FailurePhase.STALL, reason, timed_out=True))
        elif self._stage_due_s is not None and now_s >= self._stage_due_s:
            reason = f"no answer within {format_duration(self._shared.timeouts.first_byte)}"
            self._fail(Failure(FailurePhase.FIRST_BYTE, reason, timed_out=True))

    def move(self, why: str) -> bool:
        """Leave the replica for another one, in the middle of the answer; False where that cannot be."""
        if not self.movable:
            return False
        assert self._lease is not None
        self._get_ticket().avoid(self._lease.target.id)
        self._shared.metrics.stream_moved()
        self._fail(Failure(FailurePhase.MOVED, why))
        return True

    @property
    def movable(self) -> bool:
        """Whether it is in the middle of a stream that another replica could go on with."""
        return (
            self._stage == _BODY
            and self._mode == _EVENTS
            and self.ask.approach.way is not _NO_WAY
            and self._stream is not None
            and not self._stream.complete
            and self.report.resumed < self._shared.failover.max_resumptions
        )

    @property
    def _telling(self) -> Telling:
        if self._told is None:
            self._told = self._home.telling(self.ask)
        return self._told

    @property
    def told_tokens(self) -> int:
        """Tokens of its answer so far, as far as they can be counted."""
        return 0 if self._told is None else self._told.told_tokens

    def as_moving(self, now_s: float, typical_pace: float) -> "Moving[Exchange]":
        """What :mod:`moving` must know of its stream.

        Its pace is that of its own tokens once there are some seconds of them; before, the pace that streams
        typically have (``typical_pace``, tokens a second) counts as much as a second of its own.
        """
        tokens, seconds = self.told_tokens, 0.0
        if self._paced_from is not None:
            since_s, before = self._paced_from
            tokens, seconds = tokens - before, now_s - since_s
        pace = (tokens + typical_pace) / (seconds + 1.0) if self._paced_from is not None else typical_pace
        return Moving(self, self.told_tokens, pace, self.ask.approach.expects_tokens)

    def measured_pace(self, now_s: float) -> float | None:
        """Tokens a second of its present replica, where a second or more has been measured."""
        if self._paced_from is None or now_s - self._paced_from[0] < 1.0:
            return None
        return (self.told_tokens - self._paced_from[1]) / (now_s - self._paced_from[0])

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """What the engine has told of the tokens used, where it has."""
        return None if self._told is None else self._told.usage

    @property
    def replica(self) -> ReplicaId | None:
        """Who is answering it."""
        return None if self._lease is None else self._lease.target.id

    # A slot

    def _claim(self) -> None:
        self._stage = _WAITING
        self._stage_due_s = None
        self._asked_at_s = self._shared.now_s()
        ticket = self._get_ticket()
        if self._begun:
            ticket.place.deadline_s = None  # half an answer is of more use late than never
        try:
            lease = self._shared.dispatcher.claim(ticket)
        except Refused as refused:
            self._refused(refused)
            return
        if lease is not None:
            self._granted(lease)

    def _get_ticket(self) -> Ticket:
        """Its claim, for all of the time; most requests never need one."""
        if self._ticket is None:
            ask = self.ask
            place = Place(
                self._arrival,
                key=ask.key,
                priority=ask.priority,
                deadline_s=ask.deadline_s,
                tokens=ask.wants.tokens,
            )
            place.admitted = self.report.attempts > 0
            self._ticket = Ticket(
                place,
                ask.wants,
                lambda lease: self._safely(lambda: self._granted(lease)),
                lambda refused: self._safely(lambda: self._refused(refused)),
            )
        return self._ticket

    def _granted(self, lease: Lease) -> None:
        now_s = self._shared.now_s()
        self._shared.metrics.queue_waited(now_s - self._asked_at_s)
        self._asked_at_s = now_s
        self.report.attempts += 1
        self.report.replica = lease.target.id
        self._lease = lease
        lease.on_vanish = self._vanished
        self._calls = 0
        if self.trace is not None:
            self._trace_attempt(self.trace, lease)
        if self._recovery is not None:
            self._follow(self._recovery.start())
        else:
            self._stream = None
            self._version = lease.target.version
            self._ask_replica(self.ask.raw_path, self.ask.approach.body, patient=self.ask.patient)

    def _trace_attempt(self, trace: RequestTrace, lease: Lease) -> None:
        how = "first" if self.report.attempts == 1 else "retry"
        if self._recovery is not None:
            how = str(self.ask.approach.way)
        trace.attempt(self.report.attempts, lease.target.id, lease.target.zone, lease.target.market, how)

    def _refused(self, refused: Refused) -> None:
        """No replica was to be had."""
        if self._begun:
            self._end_cut(refused.code, f"no other replica could go on with the answer: {refused.message}")
        else:
            self._turn_away(refused)

    def _ask_replica(self, path: bytes, body: bytes, *, patient: bool = False, anew: bool = False) -> None:
        lease = self._lease
        assert lease is not None
        self._stage = _HEAD
        timeouts = self._shared.timeouts
        self._stage_due_s = None if patient else self._asked_at_s + timeouts.first_byte
        self._request = (path, body, patient)
        if self._try:
            self._held.clear()
            self._heard = self._seen_beats = 0
            self._paced_from = None
        self._try += 1
        endpoint = lease.incarnation.endpoint
        lines = self.ask.lines if self.trace is None else self.ask.lines + self.trace.lines
        request = endpoint.request(b"POST", path, lines, body)
        if anew or not self._shared.wires.ask_idle(endpoint, self, request):
            self._connect(endpoint, request)

    def _connect(self, endpoint: Endpoint, request: bytes) -> None:
        attempt = self._try
        self._shared.wires.ask_anew(endpoint, self, request, lambda: self._try == attempt and self._stage == _HEAD)

    # What the replica does (wire.Sink)

    def connected(self, link: Link) -> None:
        """The request is on its way."""
        self._link = link
        if self._paused:
            link.pause()

    def answered(self, head: Head) -> None:
        """An answer begins."""
        assert self._lease is not None
        self._lease.incarnation.answers += 1
        self._stage = _BODY
        self._quiet_since_s = self._shared.now_s()
        self._status = status = head.status
        if self._calls:
            self._mode = _CALL
        elif status in _THEIR_FAULT or status == 401:
            self._mode = _ERROR
        elif status == 200 and head.kind == "text/event-stream":
            if head.encoding not in ("", "identity"):
                # Compressed against our wish: nothing can be judged, the bytes pass as they are.
                self._mode = _BLIND
            else:
                self._mode = _EVENTS
                if self._stream is None:
                    self._stream = self._telling.first()
        elif self._recovery is not None:
            self._mode = _CALL  # anything but a stream is for the recovery to judge
        else:
            self._mode = _HELD
        if not self._begun and self._mode != _ERROR:
            self._head_lines = head.lines

    def answered_whole(self, head: Head, body: bytes) -> None:
        """All of an answer at once."""
        status = head.status
        if status < 500 and status != 401 and self._recovery is None and head.kind != "text/event-stream":
            assert self._lease is not None
            self._lease.incarnation.answers += 1
            self._link = None
            self._status = status
            self._mode = _HELD
            self._head_lines = head.lines
            self._answer_held(body)
            return
        self.answered(head)
        attempt = self._try
        if body:
            self.received(body, None)
        if self._try == attempt and self._stage == _BODY:
            self.ended()

    def received(self, payload: bytes, framed: bytes | None) -> None:
        """More of it: on the path of every token."""
        if self._mode != _EVENTS:
            self._receive_other(payload)
            return
        stream = self._stream
        assert stream is not None
        out = stream.feed(payload)
        if out:
            if not self._begun:
                self._begin()
            self.client.send(out, framed if out is payload else None)
            if self._lost_at_s is not None:
                self._taken_up(self._lost_at_s)
        if out is not payload:
            self._look_at(stream)
        elif self._recovery is None and self._link is not None and (to := self.client.short_way()) is not None:
            self._link.open_short_way(stream.feed, to)

    def fed(self, out: bytes) -> None:
        """What has come on the short way and was not to be passed on as it was."""
        stream = self._stream
        assert stream is not None
        if out:
            self.client.send(out)
        self._look_at(stream)

    def received_all(self, payloads: list[bytes], framed: bytes) -> None:
        """Several chunks at once: what they come to goes out in one piece."""
        if self._mode != _EVENTS:
            self.received(b"".join(payloads), framed)
            return
        stream = self._stream
        assert stream is not None
        outs, same = [], True
        for payload in payloads:
            out = stream.feed(payload)
            outs.append(out)
            if out is not payload:
                same = False
                if stream.failure:
                    break
        data = b"".join(outs)
        if data:
            if not self._begun:
                self._begin()
            self.client.send(data, framed if same else None)
            if self._lost_at_s is not None:
                self._taken_up(self._lost_at_s)
        if not same:
            self._look_at(stream)

    def _taken_up(self, lost_at_s: float) -> None:
        """The client, who had been told a part, is told more by another replica."""
        self._shared.metrics.taken_up(self._shared.now_s() - lost_at_s)
        self._lost_at_s = None

    def _look_at(self, stream: Stream) -> None:
        """What was not passed on as it came may have been the last of it, or the end of its replica."""
        if stream.failure:
            self._fail(Failure(FailurePhase.ABORT, stream.failure))
        elif self._recovery is not None and stream.done and stream.complete:
            # A stop string that stands across the cut is found by us: the replica would go on.
            self._end_complete()

    def ended(self) -> None:
        """It is whole, as far as HTTP can tell."""
        self._link = None
        mode = self._mode
        if mode == _EVENTS:
            self._end_events()
        elif mode == _CALL:
            self._called()
        elif mode == _ERROR:
            self._fail(self._told_failure())
        else:
            self._end_held()

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        """The connection is gone before its end."""
        begun = self._link is not None and self._link.beats > 0
        self._link = None
        if stale and self._lease is not None and not self._lease.vanished:
            # It had been closed while it was idle: no fault of the replica, and nothing has been asked of it.
            self._in_turn(self._ask_anew)
            return
        if self._mode == _ERROR and self._stage == _BODY:
            self._fail(self._told_failure())
            return
        if phase is FailurePhase.BODY and not begun:
            phase, reason = FailurePhase.FIRST_BYTE, f"{reason} before an answer"
        self._fail(Failure(phase, reason, timed_out=timed_out))

    def _vanished(self) -> None:
        self._in_turn(self._fail_vanished)
        # From here on nothing of the replica is heard: its turn to go on elsewhere comes in a moment.
        self._drop_link()
        self._stage = _WAITING
        self._stage_due_s = None

    def _fail_vanished(self) -> None:
        if self._stage == _OVER or self._lease is None:
            return
        if self._lease.vanished:
            self._fail(Failure(FailurePhase.VANISHED, "the replica is gone"))
        else:
            self._fail(Failure(FailurePhase.STALL, "the replica has fallen silent", timed_out=True))

    def _ask_anew(self) -> None:
        if self._stage == _HEAD and self._lease is not None and self._link is None:
            path, body, patient = self._request
            self._ask_replica(path, body, patient=patient, anew=True)

    # Answers as they come

    def _receive_other(self, payload: bytes) -> None:
        mode = self._mode
        if mode == _BLIND:
            self._pass_on(payload)
        elif mode == _HELD and self._begun:
            self.client.send(payload)
        elif mode == _HELD:
            self._hold(payload)
            if self._heard > self._shared.limits.max_held_response:
                held = b"".join(self._held)
                self._held.clear()
                self._pass_on(held)
        else:
            self._hold(payload)
            if mode == _ERROR and self._heard > _TOLD_BYTES:
                self._fail(self._told_failure())
            elif self._heard > _LONGEST_REPLY_BYTES:
                self._fail(Failure(FailurePhase.BODY, "its reply was endless"))

    def _hold(self, payload: bytes) -> None:
        self._held.append(payload)
        self._heard += len(payload)

    def _pass_on(self, payload: bytes) -> None:
        if not self._begun:
            self._begin()
        self.client.send(payload)

    def _begin(self) -> None:
        self._begun = True
        if self.ask.stream:
            self.report.ttft_s = self._shared.now_s() - self._started_s
        self.report.status = self._status
        self.client.begin(self._status, self._head_lines + self._own_lines())

    def _end_events(self) -> None:
        stream = self._stream
        assert stream is not None
        out = stream.close()
        if out:
            self._pass_on(out)
        if stream.failure:
            self._fail(Failure(FailurePhase.ABORT, stream.failure))
        elif not stream.complete:
            self._fail(Failure(FailurePhase.BODY, "the stream ended before the answer did"))
        elif not stream.done and (step := self._unsaid_end()) is not None:
            self._follow(step)
        elif self.ask.approach.collect:
            self._answer_whole()
        else:
            self._finish()

    def _unsaid_end(self) -> Finished | None:
        """What a stream that ended after its last token, and not with ``[DONE]``, has left unsaid."""
        if self.ask.route.dialect is not _CHOICES:
            return None
        recovery = self._telling.recover()
        step = None if isinstance(recovery, GiveUp) else recovery.start()
        return step if isinstance(step, Finished) else None

    def _end_held(self) -> None:
        if self._begun:
            self._finish()
            return
        self._answer_held(self._held[0] if len(self._held) == 1 else b"".join(self._held))

    def _answer_held(self, body: bytes) -> None:
        if self._status == 200 and self.ask.route.dialect is _CHOICES and aborted(body):
            self._fail(Failure(FailurePhase.ABORT, 'it gave half an answer (finish_reason "abort")'))
            return
        self.report.status = self._status
        if self.trace is not None:
            self.trace.used(body)
        self.client.whole(self._status, self._head_lines + self._own_lines(), body)
        self._finish(said=True)

    def _answer_whole(self) -> None:
        self.report.status = 200
        lines = _JSON_LINE + self._own_lines()
        self.client.whole(200, lines, self._telling.whole())
        self._finish(said=True)

    def _finish(self, *, said: bool = False) -> None:
        """The answer is whole."""
        status = self._status
        if self._lease is not None:
            self._lease.worked(refused=status >= 400)
        self.report.outcome = (
            _OK if status < 400 else Outcome.CLIENT_ERROR if status < 500 else Outcome.UPSTREAM_ERROR
        )
        if not said:
            self.client.end(self._trailers())
        self._over()

    # Failures

    def _fail(self, failure: "Failure") -> None:
        """This attempt has failed: go on elsewhere, try again, or tell."""
        if self._stage == _OVER:
            return
        lease, self._lease = self._lease, None
        assert lease is not None
        self._drop_link()
        self._try += 1
        replica = lease.target.id
        self._note(replica, failure, lease)
        lease.release()
        if self._stage == _OVER:  # pragma: no cover - a release may serve others, never end this one
            return
        if failure.phase not in NO_FAULT:
            self._get_ticket().failed_on(replica)
        collected = self.ask.approach.collect and self.told_tokens > 0
        if self._begun or collected:
            self._go_on(replica, failure)
            return
        self._recovery = None
        if failure.phase is not FailurePhase.MOVED:
            self._failures = [*self._failures, (replica, failure)]
        if self._spent():
            self._turn_away(self._given_up())
        else:
            self._in_turn(self._claim_again)

    def _go_on(self, replica: ReplicaId, failure: "Failure") -> None:
        """Half of an answer is with the client: another replica must take it up, or it ends with an error."""
        said = f"replica {replica} failed in the middle of the answer: {failure.reason}"
        code = Code.UPSTREAM_TIMEOUT if failure.timed_out else Code.UPSTREAM_ERROR
        if self._mode in (_BLIND, _HELD):
            self._end_cut(code, said)
            return
        complete = self._stream is not None and self._stream.complete
        recovery = self._telling.recover()
        if isinstance(recovery, GiveUp):
            if complete:
                self._end_complete()
            else:
                self._cannot_go_on(code, said, recovery.why)
            return
        if complete and isinstance(step := recovery.start(), Finished):  # no replica is needed for it
            self._follow(step)
            return
        if self.report.resumed >= self._shared.failover.max_resumptions:
            self._end_complete() if complete else self._end_cut(code, said)
            return
        pool = self._shared.dispatcher.pool
        versions = pool.bound_to(self._version)
        if versions is not None:
            # Another version would go on in words that this one would not have found.
            if not pool.may_have(versions, resuming=True):
                if complete:
                    self._end_complete()
                else:
                    self._cannot_go_on(code, said, "no other replica runs the version that began it")
                return
            self._get_ticket().bind(versions, resuming=True)
        self._recovery = self._telling.recover() if complete else recovery  # type: ignore[assignment]
        self.report.resumed += 1
        if self._begun and self._lost_at_s is None:
            self._lost_at_s = self._shared.now_s()
        if self.ask.approach.way is Way.REPLAY:
            self._shared.metrics.replayed(self.told_tokens)
        self._in_turn(self._claim_again)

    def _end_complete(self) -> None:
        """Nothing is missing, but perhaps the word that nothing is."""
        self._status = 200
        stream = self._stream
        if self.ask.approach.collect:
            self._answer_whole()
            return
        if stream is not None and not stream.done and self.ask.route.dialect is _CHOICES:
            self.client.send(_DONE)
        self._finish()

    def _cannot_go_on(self, code: Code, said: str, why: str) -> None:
        if self._begun:
            self._end_cut(code, f"{said}; it cannot be continued: {why}")
        else:  # collected, and nothing of it told: from the start, then
            self._recovery = None
            self._stream = None
            if self._ticket is not None:
                self._ticket.bind(self.ask.wants.versions, resuming=False)
            if self._spent():
                self._turn_away(self._given_up())
            else:
                self._in_turn(self._claim_again)

    def _claim_again(self) -> None:
        if self._stage != _OVER:
            self._claim()

    def _follow(self, step: Step) -> None:
        match step:
            case Call(path=path, body=body):
                self._calls += 1
                self._ask_replica(path.encode(), body)
            case Resume(path=path, body=body, stream=stream):
                self._calls = 0
                self._stream = stream
                self._ask_replica(path.encode(), body)
            case Finished(payload=payload):
                self._status = 200
                if self.ask.approach.collect:
                    self._answer_whole()
                    return
                if payload:  # an empty chunk would be the end of the body, and then another one followed
                    self._pass_on(payload)
                self._finish()
            case GiveUp(why=why):
                self._release()
                self._cannot_go_on(Code.UPSTREAM_ERROR, "the answer's replica was lost in the middle of it", why)

    def _called(self) -> None:
        assert self._recovery is not None
        status, body = self._status, b"".join(self._held)
        if status in _THEIR_FAULT:
            self._fail(self._told_failure())
        else:
            self._follow(self._recovery.got(status, body))

    def _told_failure(self) -> "Failure":
        """What a status that is the replica's fault means, in the replica's own words."""
        if self._status == 401:
            return Failure(FailurePhase.STATUS, "it refused the API key that HedgeServe has for it (401)")
        told = b"".join(self._held)[:_TOLD_BYTES].decode(errors="replace")
        return Failure(
            FailurePhase.STATUS, f"it answered {self._status}: {' '.join(told.split())[:300] or '(no body)'}"
        )

    def _note(self, replica: ReplicaId, failure: "Failure", lease: Lease) -> None:
        if failure.phase not in NO_FAULT:
            lease.failed(by_word=failure.phase in _BY_WORD)
        self._shared.metrics.upstream_failed(failure.phase)
        if self.trace is not None:
            self.trace.attempt_failed(failure.phase, failure.reason, self.told_tokens)
        _log.info(
            "attempt_failed",
            request_id=self.ask.request_id,
            replica=replica,
            attempt=self.report.attempts,
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

    def _out_of_time(self) -> None:
        limit = format_duration(self._shared.timeouts.total)
        if self._begun:
            self._end_cut(Code.DEADLINE_EXCEEDED, f"the answer was not complete within {limit}")
        else:
            self._turn_away(Refused(Code.DEADLINE_EXCEEDED, f"The request was not answered within {limit}."))

    # Ends

    def _turn_away(self, refused: Refused) -> None:
        """Nothing has been sent, and nothing will be but this."""
        self.report.outcome = outcome_of(refused.code)
        self.report.status = refused.code.status
        self._shared.metrics.errored(refused.code.code)
        self.client.refuse(refused, self._attempts_line() if self.report.attempts else b"", counted=True)
        self._over()

    def _end_cut(self, code: Code, reason: str) -> None:
        """An answer that has begun and cannot be finished: said in the stream where it is one."""
        self._shared.metrics.stream_lost()
        self.report.outcome = Outcome.UPSTREAM_ERROR
        if self._mode in (_BLIND, _HELD):
            self.client.abort()
        else:
            self.client.send(error_event(self.ask.route.dialect, code, reason[:1].upper() + reason[1:]))
            self.client.end(self._trailers())
        self._over()

    def _over(self) -> None:
        self._stage = _OVER
        self._try += 1
        self._drop_link()
        self._release()
        if self._ticket is not None:
            self._shared.dispatcher.withdraw(self._ticket)
        self._shared.active.discard(self)
        self.report.tokens = self.told_tokens
        if self.report.resumed:
            result = (
                "ok"
                if self.report.outcome is Outcome.OK
                else "gone"
                if self.report.outcome is Outcome.CANCELLED
                else "failed"
            )
            self._shared.metrics.resumed(self.ask.approach.way, result)
        if self._told is not None:
            self._told.close()
        self._home.ended(self)

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.on_vanish = None
            lease.release()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    def _in_turn(self, work: Callable[[], None]) -> None:
        """Do this soon, but not all at once with what hundreds of others have to do."""
        self._shared.turns.soon(lambda: self._safely(work))

    def _safely(self, work: Callable[[], None]) -> None:
        """A mistake of ours costs this request, and not those whose turn is next."""
        try:
            work()
        except Exception:
            self._home.failed(self)

    # Headers

    def _own_lines(self) -> bytes:
        lines = b"X-HedgeServe-Replica: %b\r\n" % self.report.replica.encode() + self._attempts_line()
        if self.report.resumed and not self._begun:
            lines += b"X-HedgeServe-Resumed: %d\r\n" % self.report.resumed
        return lines

    def _attempts_line(self) -> bytes:
        return b"X-HedgeServe-Attempts: %d\r\n" % self.report.attempts

    def _trailers(self) -> bytes:
        return lines_of([("X-HedgeServe-Resumed", str(self.report.resumed))]) if self.report.resumed else b""
