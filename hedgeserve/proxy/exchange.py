"""One request from its place in the line to the end of its answer, over as many replicas as that takes.

A state machine that is told what happens (a lease, bytes of an answer, a lost connection, the client's leaving,
time) and acts in the same call: no task, no future, no copy between a replica's bytes and its client's socket.

Until the first byte has gone to the client, everything may be tried again elsewhere; what becomes of a stream that
is cut later is decided in :mod:`hedgeserve.proxy.failover`, and nowhere else.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from hedgeserve.metrics import FailurePhase, Outcome
from hedgeserve.proxy.admission import Place
from hedgeserve.proxy.answer import Answer
from hedgeserve.proxy.body import BLIND, CALL, ERROR, EVENTS, PLAIN, Held, body_of
from hedgeserve.proxy.dispatch import Ticket
from hedgeserve.proxy.failover import Call, Finished, Resume, Stream, Telling, Way
from hedgeserve.proxy.incoming import Ask
from hedgeserve.proxy.moving import Moving
from hedgeserve.proxy.pace import Pace
from hedgeserve.proxy.parties import Home, Shared
from hedgeserve.proxy.pool import Lease
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.resumption import Anew, CutOff, Elsewhere, Next, Resumption, unsaid_end
from hedgeserve.proxy.trials import TOLD_BYTES, Failure, Trials, is_their_fault, told_failure
from hedgeserve.proxy.verdict import Dialect, aborted
from hedgeserve.proxy.wire import Endpoint, Head, Link
from hedgeserve.replica import ReplicaId
from hedgeserve.tracing import RequestTrace
from hedgeserve.units import format_duration

_log = structlog.get_logger(__name__)

# Where an exchange stands: it waits for a slot, for the head of an answer, for its body; it is over. Plain numbers
# and, below, members of enums found once: these are looked for anew each time that they are named.
_WAITING: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_OVER: Final = 3

_OK: Final = Outcome.OK
_CHOICES: Final = Dialect.CHOICES
_NO_WAY: Final = Way.NONE
_LONGEST_REPLY_BYTES = 64 * 2**20
_RESULTS = {Outcome.OK: "ok", Outcome.CANCELLED: "gone"}
"""Of answers that were resumed, in the metrics; any other outcome is a failure."""


class Exchange:
    """One request; its home is told once, when its client has been told the last of it (or has left)."""

    # Defaults of the class and not assignments for each request: most requests need few to be anything else.
    trace: RequestTrace | None = None
    # Where it stands, and until when it may.
    _stage = _WAITING
    _stage_due_s: float | None = None
    _seen_beats = 0
    # Its place in the line, and the slot that it has.
    _arrival = 0
    _ticket: Ticket | None = None
    _lease: Lease | None = None
    _version = 0
    _trials: Trials | None = None
    # What is asked of the replica, the how-manieth time, and what comes of it.
    _request: tuple[bytes, bytes, bool] = (b"", b"", False)
    _try = 0
    _link: Link | None = None
    _paused = False
    _status = 0
    _head_lines = b""
    _body = ERROR
    _held: Held | None = None
    # The stream that the answer is, and what has become of it.
    _told: Telling | None = None
    _stream: Stream | None = None
    _pace: Pace | None = None
    _resumption: Resumption | None = None
    _lost_at_s: float | None = None

    def __init__(self, shared: Shared, ask: Ask, answer: Answer, home: Home) -> None:
        self._shared = shared
        self.ask = ask
        self.answer = answer
        self._home = home
        self._asked_at_s = self._quiet_since_s = answer.started_s
        self._total_due_s = answer.started_s + shared.timeouts.total

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
        self.answer.outcome = Outcome.CANCELLED
        self._over()

    def fail_internally(self) -> None:
        """A mistake of ours has made it impossible to answer."""
        if self._stage == _OVER:
            return
        answer = self.answer
        answer.outcome = Outcome.INTERNAL_ERROR
        if answer.begun:
            self._shared.metrics.stream_lost()
            answer.client.abort()
            self._over()
        else:
            self._turn_away(Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request."))

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
                    self._pace = Pace(now_s, self.told_tokens)
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
            and self._body == EVENTS
            and self.ask.approach.way is not _NO_WAY
            and self._stream is not None
            and not self._stream.complete
            and self._may_resume
        )

    @property
    def told_tokens(self) -> int:
        """Tokens of its answer so far, as far as they can be counted."""
        return 0 if self._told is None else self._told.told_tokens

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """What the engine has told of the tokens used, where it has."""
        return None if self._told is None else self._told.usage

    @property
    def replica(self) -> ReplicaId | None:
        """Who is answering it."""
        return None if self._lease is None else self._lease.target.id

    def measured_pace(self, now_s: float) -> float | None:
        """Tokens a second of its present replica, where they have been measured."""
        return None if self._pace is None else self._pace.measured(now_s, self.told_tokens)

    def as_moving(self, now_s: float, typical_pace: float) -> "Moving[Exchange]":
        """What :mod:`moving` must know of its stream; ``typical_pace`` is that of streams in general."""
        told, pace = self.told_tokens, self._pace
        pace_now = typical_pace if pace is None else pace.expected(now_s, told, typical_pace)
        return Moving(self, told, pace_now, self.ask.approach.expects_tokens)

    # A slot

    def _claim(self) -> None:
        self._stage = _WAITING
        self._stage_due_s = None
        self._asked_at_s = self._shared.now_s()
        ticket = self._get_ticket()
        if self.answer.begun:
            ticket.place.deadline_s = None  # half an answer is of more use late than never
        try:
            lease = self._shared.dispatcher.claim(ticket)
        except Refused as refused:
            self._refused(refused)
            return
        if lease is not None:
            self._granted(lease)

    def _claim_soon(self) -> None:
        self._in_turn(self._claim_again)

    def _claim_again(self) -> None:
        if self._stage != _OVER:
            self._claim()

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
            place.admitted = self.answer.attempts > 0
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
        self.answer.attempts += 1
        self.answer.replica = lease.target.id
        self._lease = lease
        lease.on_vanish = self._vanished
        if self.trace is not None:
            self._trace_attempt(self.trace, lease)
        if self._resumption is not None:
            self._follow(self._resumption.granted())
        else:
            self._stream = None
            self._version = lease.target.version
            self._ask_replica(self.ask.raw_path, self.ask.approach.body, patient=self.ask.patient)

    def _trace_attempt(self, trace: RequestTrace, lease: Lease) -> None:
        how = "first" if self.answer.attempts == 1 else "retry"
        if self._resumption is not None:
            how = str(self.ask.approach.way)
        trace.attempt(self.answer.attempts, lease.target.id, lease.target.zone, lease.target.market, how)

    def _refused(self, refused: Refused) -> None:
        """No replica was to be had."""
        if self.answer.begun:
            self._cut_off(refused.code, f"no other replica could go on with the answer: {refused.message}")
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
            self._held = None
            self._seen_beats = 0
            self._pace = None
        self._try += 1
        endpoint = lease.incarnation.endpoint
        lines = self.ask.lines if self.trace is None else self.ask.lines + self.trace.lines
        request = endpoint.request(b"POST", path, lines, body)
        if anew or not self._shared.wires.ask_idle(endpoint, self, request):
            self._connect(endpoint, request)

    def _connect(self, endpoint: Endpoint, request: bytes) -> None:
        attempt = self._try
        self._shared.wires.ask_anew(endpoint, self, request, lambda: self._try == attempt and self._stage == _HEAD)

    def _ask_anew(self) -> None:
        if self._stage == _HEAD and self._lease is not None and self._link is None:
            path, body, patient = self._request
            self._ask_replica(path, body, patient=patient, anew=True)

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
        self._status = head.status
        resumption = self._resumption
        calling = resumption is not None and resumption.calling
        body = body_of(head.status, head.kind, head.encoding, resuming=resumption is not None, calling=calling)
        self._body = body
        if body == EVENTS and self._stream is None:
            self._stream = self._telling.first()
        if body != ERROR and not self.answer.begun:
            self._head_lines = head.lines

    def answered_whole(self, head: Head, body: bytes) -> None:
        """All of an answer at once."""
        status = head.status
        if status < 500 and status != 401 and self._resumption is None and head.kind != "text/event-stream":
            assert self._lease is not None
            self._lease.incarnation.answers += 1
            self._link = None
            self._status = status
            self._body = PLAIN
            self._head_lines = head.lines
            self._answer_plainly(body)
            return
        self.answered(head)
        attempt = self._try
        if body:
            self.received(body, None)
        if self._try == attempt and self._stage == _BODY:
            self.ended()

    def received(self, payload: bytes, framed: bytes | None) -> None:
        """More of it: on the path of every token."""
        if self._body != EVENTS:
            self._receive_other(payload)
            return
        stream = self._stream
        assert stream is not None
        out = stream.feed(payload)
        if out:
            self._tell_more(out, framed if out is payload else None)
        if out is not payload:
            self._look_at(stream)
        elif self._resumption is None and self._link is not None:
            to = self.answer.client.short_way()
            if to is not None:
                self._link.open_short_way(stream.feed, to)

    def fed(self, out: bytes) -> None:
        """What has come on the short way and was not to be passed on as it was."""
        stream = self._stream
        assert stream is not None
        if out:
            self.answer.client.send(out)
        self._look_at(stream)

    def received_all(self, payloads: list[bytes], framed: bytes) -> None:
        """Several chunks at once: what they come to goes out in one piece."""
        if self._body != EVENTS:
            self._receive_other(b"".join(payloads))
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
            self._tell_more(data, framed if same else None)
        if not same:
            self._look_at(stream)

    def ended(self) -> None:
        """It is whole, as far as HTTP can tell."""
        self._link = None
        if self._body == EVENTS:
            self._end_events()
        elif self._body == CALL:
            self._end_call()
        elif self._body == ERROR:
            self._fail(self._told_failure())
        elif self.answer.begun:
            self._finish()
        else:
            self._answer_plainly(self._all_held())

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        """The connection is gone before its end."""
        begun = self._link is not None and self._link.beats > 0
        self._link = None
        if stale and self._lease is not None and not self._lease.vanished:
            # It had been closed while it was idle: no fault of the replica, and nothing has been asked of it.
            self._in_turn(self._ask_anew)
            return
        if self._body == ERROR and self._stage == _BODY:
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

    # Answers as they come

    def _tell_more(self, payload: bytes, framed: bytes | None = None) -> None:
        answer = self.answer
        if not answer.begun:
            if self.ask.stream:
                answer.ttft_s = self._shared.now_s() - answer.started_s
            answer.begin(self._status, self._head_lines)
        answer.client.send(payload, framed)
        if self._lost_at_s is not None:
            # The client, who had been told a part, is told more by another replica.
            self._shared.metrics.taken_up(self._shared.now_s() - self._lost_at_s)
            self._lost_at_s = None

    def _look_at(self, stream: Stream) -> None:
        """What was not passed on as it came may have been the last of it, or the end of its replica."""
        if stream.failure:
            self._fail(Failure(FailurePhase.ABORT, stream.failure))
        elif self._resumption is not None and stream.done and stream.complete:
            # A stop string that stands across the cut is found by us: the replica would go on.
            self._follow(self._resumption.settled(stream))

    def _receive_other(self, payload: bytes) -> None:
        body = self._body
        if body == BLIND or (body == PLAIN and self.answer.begun):
            self._tell_more(payload)
            return
        if self._held is None:
            self._held = Held()
        held = self._held
        held.add(payload)
        if body == PLAIN:
            if held.size_bytes > self._shared.limits.max_held_response:
                self._held = None
                self._tell_more(held.whole())
        elif body == ERROR and held.size_bytes > TOLD_BYTES:
            self._fail(self._told_failure())
        elif held.size_bytes > _LONGEST_REPLY_BYTES:
            self._fail(Failure(FailurePhase.BODY, "its reply was endless"))

    def _all_held(self) -> bytes:
        return b"" if self._held is None else self._held.whole()

    def _told_failure(self) -> Failure:
        return told_failure(self._status, self._all_held())

    def _end_events(self) -> None:
        stream = self._stream
        assert stream is not None
        out = stream.close()
        if out:
            self._tell_more(out)
        if stream.failure:
            self._fail(Failure(FailurePhase.ABORT, stream.failure))
        elif not stream.complete:
            self._fail(Failure(FailurePhase.BODY, "the stream ended before the answer did"))
        elif not stream.done and (end := unsaid_end(self._telling, self.ask.route.dialect)) is not None:
            self._follow(end)
        elif self.ask.approach.collect:
            self._answer_collected()
        else:
            self._finish()

    def _end_call(self) -> None:
        """What a recovery has asked for is there."""
        assert self._resumption is not None
        if is_their_fault(self._status):
            self._fail(self._told_failure())
        else:
            self._follow(self._resumption.got(self._status, self._all_held()))

    def _answer_plainly(self, body: bytes) -> None:
        if self._status == 200 and self.ask.route.dialect is _CHOICES and aborted(body):
            self._fail(Failure(FailurePhase.ABORT, 'it gave half an answer (finish_reason "abort")'))
            return
        if self.trace is not None:
            self.trace.used(body)
        self.answer.whole(self._status, self._head_lines, body)
        self._finish(said=True)

    def _answer_collected(self) -> None:
        self.answer.whole_json(self._telling.whole())
        self._finish(said=True)

    # Failures

    def _fail(self, failure: Failure) -> None:
        """This attempt has failed: go on elsewhere, try again, or tell."""
        if self._stage == _OVER:
            return
        lease, self._lease = self._lease, None
        assert lease is not None
        self._drop_link()
        self._try += 1
        replica = lease.target.id
        if failure.at_fault:
            lease.failed(by_word=failure.by_word)
        self._note(replica, failure)
        lease.release()
        if self._stage == _OVER:  # pragma: no cover - a release may serve others, never end this one
            return
        if failure.at_fault:
            self._get_ticket().failed_on(replica)
        if self.answer.begun or (self.ask.approach.collect and self.told_tokens > 0):
            self._go_on(replica, failure)
            return
        self._resumption = None
        if self._trials is None:
            self._trials = Trials()
        self._trials.add(replica, failure)
        self._try_again()

    def _note(self, replica: ReplicaId, failure: Failure) -> None:
        self._shared.metrics.upstream_failed(failure.phase)
        if self.trace is not None:
            self.trace.attempt_failed(failure.phase, failure.reason, self.told_tokens)
        _log.info(
            "attempt_failed",
            request_id=self.ask.request_id,
            replica=replica,
            attempt=self.answer.attempts,
            phase=str(failure.phase),
            reason=failure.reason,
        )

    def _try_again(self) -> None:
        """Nothing has been told: from the start, unless that has failed too often."""
        trials = self._trials
        most = self._shared.limits.max_attempts
        if trials is not None and trials.spent(self._shared.dispatcher.pool.has, most=most):
            self._turn_away(trials.refusal())
        else:
            self._claim_soon()

    def _go_on(self, replica: ReplicaId, failure: Failure) -> None:
        """Half of an answer is there: another replica must take it up, or it ends with an error."""
        said = f"replica {replica} failed in the middle of the answer: {failure.reason}"
        if self._body in (BLIND, PLAIN):
            self._cut_off(failure.code, said)
            return
        if self._resumption is None:
            collects = self.ask.approach.collect
            self._resumption = Resumption(self._telling, self.ask.route.dialect, collects=collects)
        pool = self._shared.dispatcher.pool
        versions = pool.bound_to(self._version)
        elsewhere = versions is None or pool.may_have(versions, resuming=True)
        step = self._resumption.cut(
            failure.code, said, self._stream, may_resume=self._may_resume, elsewhere=elsewhere
        )
        if versions is not None and isinstance(step, Elsewhere):
            self._get_ticket().bind(versions, resuming=True)
        self._follow(step)

    def _follow(self, step: Next) -> None:
        """Do what is next for half an answer."""
        match step:
            case Elsewhere():
                self.answer.resumed += 1
                if self.answer.begun and self._lost_at_s is None:
                    self._lost_at_s = self._shared.now_s()
                if self.ask.approach.way is Way.REPLAY:
                    self._shared.metrics.replayed(self.told_tokens)
                self._claim_soon()
            case Call(path=path, body=body):
                self._ask_replica(path.encode(), body)
            case Resume(path=path, body=body, stream=stream):
                self._stream = stream
                self._ask_replica(path.encode(), body)
            case Finished(payload=payload):
                self._status = 200
                if self.ask.approach.collect:
                    self._answer_collected()
                    return
                if payload:  # an empty chunk would be the end of the body, and then another one followed
                    self._tell_more(payload)
                self._finish()
            case Anew():
                self._release()
                self._resumption = None
                self._stream = None
                if self._ticket is not None:
                    self._ticket.bind(self.ask.wants.versions, resuming=False)
                self._try_again()
            case CutOff(code=code, why=why):
                self._cut_off(code, why)

    @property
    def _may_resume(self) -> bool:
        return self.answer.resumed < self._shared.failover.max_resumptions

    @property
    def _telling(self) -> Telling:
        if self._told is None:
            self._told = self._home.telling(self.ask)
        return self._told

    # Ends

    def _out_of_time(self) -> None:
        limit = format_duration(self._shared.timeouts.total)
        if self.answer.begun:
            self._cut_off(Code.DEADLINE_EXCEEDED, f"the answer was not complete within {limit}")
        else:
            self._turn_away(Refused(Code.DEADLINE_EXCEEDED, f"The request was not answered within {limit}."))

    def _finish(self, *, said: bool = False) -> None:
        """The answer is whole."""
        status = self._status
        if self._lease is not None:
            self._lease.worked(refused=status >= 400)
        self.answer.outcome = (
            _OK if status < 400 else Outcome.CLIENT_ERROR if status < 500 else Outcome.UPSTREAM_ERROR
        )
        if not said:
            self.answer.end()
        self._over()

    def _turn_away(self, refused: Refused) -> None:
        """Nothing has been sent, and nothing will be but this."""
        self._shared.metrics.errored(refused.code.code)
        self.answer.refuse(refused)
        self._over()

    def _cut_off(self, code: Code, why: str) -> None:
        """An answer that has begun and cannot be finished: said in the stream where it is one."""
        self._shared.metrics.stream_lost()
        self.answer.outcome = Outcome.UPSTREAM_ERROR
        if self._body in (BLIND, PLAIN):
            self.answer.client.abort()
        else:
            self.answer.cut_off(self.ask.route.dialect, code, why)
        self._over()

    def _over(self) -> None:
        self._stage = _OVER
        self._try += 1
        self._drop_link()
        self._release()
        if self._ticket is not None:
            self._shared.dispatcher.withdraw(self._ticket)
        self._shared.active.discard(self)
        answer = self.answer
        answer.tokens = self.told_tokens
        if answer.resumed:
            self._shared.metrics.resumed(self.ask.approach.way, _RESULTS.get(answer.outcome, "failed"))
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
