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
from hedgeserve.proxy.attempt import Attempt
from hedgeserve.proxy.dispatch import Ticket
from hedgeserve.proxy.failover import Call, Finished, Resume, Stream, Telling, Way
from hedgeserve.proxy.incoming import Ask
from hedgeserve.proxy.moving import Moving
from hedgeserve.proxy.pace import Pace
from hedgeserve.proxy.parties import Home, Shared
from hedgeserve.proxy.pool import Lease
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.resumption import Anew, CutOff, Elsewhere, Next, Resumption, unsaid_end
from hedgeserve.proxy.trials import Failure, Trials
from hedgeserve.proxy.verdict import Dialect, aborted
from hedgeserve.replica import ReplicaId
from hedgeserve.tracing import RequestTrace
from hedgeserve.units import format_duration

_log = structlog.get_logger(__name__)

# Found once: a member of an enum is looked for anew each time that it is named.
_OK: Final = Outcome.OK
_CHOICES: Final = Dialect.CHOICES
_NO_WAY: Final = Way.NONE
_RESULTS = {Outcome.OK: "ok", Outcome.CANCELLED: "gone"}
"""Of answers that were resumed, in the metrics; any other outcome is a failure."""


class Exchange:
    """One request; its home is told once, when its client has been told the last of it (or has left).

    It waits for a slot, or an :class:`Attempt` is under way, or it is over.
    """

    # Defaults of the class and not assignments for each request: most requests need few to be anything else.
    trace: RequestTrace | None = None
    paused = False
    """Whether the client does not keep up."""
    resumption: Resumption | None = None
    """How half an answer goes on, once one has been cut."""
    _is_over = False
    _arrival = 0
    _ticket: Ticket | None = None
    _lease: Lease | None = None
    _attempt: Attempt | None = None
    _version = 0
    _trials: Trials | None = None
    _told: Telling | None = None
    _stream: Stream | None = None
    _lost_at_s: float | None = None

    def __init__(self, shared: Shared, ask: Ask, answer: Answer, home: Home) -> None:
        self.shared = shared
        self.ask = ask
        self.answer = answer
        self._home = home
        self._asked_at_s = answer.started_s
        self._total_due_s = answer.started_s + shared.timeouts.total

    # What may be asked of it

    def start(self) -> None:
        """Begin."""
        shared = self.shared
        shared.active.add(self)
        shared.crowd.came()
        lease = shared.dispatcher.take_now(self.ask.wants)
        self._arrival = shared.dispatcher.arrived_total
        if lease is not None:
            self._use(lease, self.answer.started_s)
        else:
            self._claim()

    def abandon(self) -> None:
        """The client has left: stop everything, and let the engine know by closing."""
        if self._is_over:
            return
        self.answer.outcome = Outcome.CANCELLED
        self._over()

    def fail_internally(self) -> None:
        """A mistake of ours has made it impossible to answer."""
        if self._is_over:
            return
        answer = self.answer
        answer.outcome = Outcome.INTERNAL_ERROR
        if answer.begun:
            self.shared.metrics.stream_lost()
            answer.client.abort()
            self._over()
        else:
            self._turn_away(Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request."))

    def pause(self) -> None:
        """The client does not keep up."""
        self.paused = True
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self.paused = False
        if self._attempt is not None:
            self._attempt.resume()

    def sweep(self, now_s: float) -> None:
        """See whether it has taken too long; called some ten times a second."""
        if self._is_over:
            return  # since the sweep began, by what became of another one
        if now_s >= self._total_due_s:
            self._out_of_time()
        elif self._attempt is not None:
            self._attempt.sweep(now_s)

    def move(self, why: str) -> bool:
        """Leave the replica for another one, in the middle of the answer; False where that cannot be."""
        if not self.movable:
            return False
        assert self._lease is not None
        self._get_ticket().avoid(self._lease.target.id)
        self.shared.metrics.stream_moved()
        self.failed(Failure(FailurePhase.MOVED, why))
        return True

    @property
    def movable(self) -> bool:
        """Whether it is in the middle of a stream that another replica could go on with."""
        return (
            self._attempt is not None
            and self._attempt.streams
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
        pace = self._pace
        return None if pace is None else pace.measured(now_s, self.told_tokens)

    def as_moving(self, now_s: float, typical_pace: float) -> "Moving[Exchange]":
        """What :mod:`moving` must know of its stream; ``typical_pace`` is that of streams in general."""
        told, pace = self.told_tokens, self._pace
        expected = typical_pace if pace is None else pace.expected(now_s, told, typical_pace)
        return Moving(self, told, expected, self.ask.approach.expects_tokens)

    @property
    def _pace(self) -> Pace | None:
        return None if self._attempt is None else self._attempt.pace

    # A slot

    def _claim(self) -> None:
        self._asked_at_s = self.shared.now_s()
        ticket = self._get_ticket()
        if self.answer.begun:
            ticket.place.deadline_s = None  # half an answer is of more use late than never
        try:
            lease = self.shared.dispatcher.claim(ticket)
        except Refused as refused:
            self._refused(refused)
            return
        if lease is not None:
            self._granted(lease)

    def _claim_soon(self) -> None:
        self.in_turn(self._claim_again)

    def _claim_again(self) -> None:
        if not self._is_over:
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
        self._use(lease, self.shared.now_s())

    def _use(self, lease: Lease, now_s: float) -> None:
        self.shared.metrics.queue_waited(now_s - self._asked_at_s)
        self._asked_at_s = now_s
        self.answer.attempts += 1
        self.answer.replica = lease.target.id
        self._lease = lease
        lease.holder = self
        if self.trace is not None:
            self._trace_attempt(self.trace, lease)
        if self.resumption is not None:
            self.follow(self.resumption.granted())
        else:
            self._stream = None
            self._version = lease.target.version
            self._try_on(lease, self.ask.raw_path, self.ask.approach.body, patient=self.ask.patient)

    def _trace_attempt(self, trace: RequestTrace, lease: Lease) -> None:
        how = "first" if self.answer.attempts == 1 else "retry"
        if self.resumption is not None:
            how = str(self.ask.approach.way)
        trace.attempt(self.answer.attempts, lease.target.id, lease.target.zone, lease.target.market, how)

    def _refused(self, refused: Refused) -> None:
        """No replica was to be had."""
        if self.answer.begun:
            self._cut_off(refused.code, f"no other replica could go on with the answer: {refused.message}")
        else:
            self._turn_away(refused)

    def _try_on(
        self, lease: Lease, path: bytes, body: bytes, *, patient: bool = False, stream: Stream | None = None
    ) -> None:
        due_s = None if patient else self._asked_at_s + self.shared.timeouts.first_byte
        self._attempt = attempt = Attempt(self, lease, path, body, due_s, stream)
        attempt.ask()

    # What comes of an attempt

    def first_stream(self) -> Stream:
        """What follows the events of an answer that a replica begins."""
        self._stream = stream = self._telling.first()
        return stream

    def tell(self, payload: bytes, framed: bytes | None = None) -> None:
        """Tell the client more; ``framed`` is the same as whole chunks, where that is at hand."""
        answer = self.answer
        if not answer.begun:
            if self.ask.stream:
                answer.ttft_s = self.shared.now_s() - answer.started_s
                if self._attempt is not None:
                    self._attempt.begun(self.shared.crowd)
            answer.begin()
        answer.client.send(payload, framed)
        if self._lost_at_s is not None:
            # The client, who had been told a part, is told more by another replica.
            self.shared.metrics.taken_up(self.shared.now_s() - self._lost_at_s)
            self._lost_at_s = None

    def ended_streaming(self, stream: Stream) -> None:
        """All events of an answer have come, and it is complete."""
        if not stream.done and (end := unsaid_end(self._telling, self.ask.route.dialect)) is not None:
            self.follow(end)
        elif self.ask.approach.collect:
            self._answer_collected()
        else:
            self._finish()

    def ended_plainly(self, body: bytes) -> None:
        """An answer in one piece is whole; ``body`` is all of it, unless it had to be told before its end."""
        answer = self.answer
        if answer.begun:
            self._finish()
        else:
            self.answered_plainly(answer.reply_status, answer.reply_lines, body)

    def answered_plainly(self, status: int, lines: bytes, body: bytes) -> None:
        """A replica has answered in one piece."""
        if status == 200 and self.ask.route.dialect is _CHOICES and aborted(body):
            self.failed(Failure(FailurePhase.ABORT, 'it gave half an answer (finish_reason "abort")'))
            return
        if self.trace is not None:
            self.trace.used(body)
        answer = self.answer
        answer.reply_status = status
        answer.whole(status, lines, body)
        self._finish(said=True)

    def replied(self, status: int, body: bytes) -> None:
        """A replica has replied to what was asked in order to go on."""
        assert self.resumption is not None
        self.follow(self.resumption.got(status, body))

    def vanished(self) -> None:
        """Its replica is gone, or given up (pool.Holder): nothing of it is heard from here on, and its turn to go
        on elsewhere comes in a moment."""
        self.in_turn(self._fail_vanished)
        self._drop_attempt()

    def _fail_vanished(self) -> None:
        if self._is_over or self._lease is None:
            return
        if self._lease.vanished:
            self.failed(Failure(FailurePhase.VANISHED, "the replica is gone"))
        else:
            self.failed(Failure(FailurePhase.STALL, "the replica has fallen silent", timed_out=True))

    def failed(self, failure: Failure) -> None:
        """This attempt has failed: go on elsewhere, try again, or tell."""
        if self._is_over:
            return
        lease, self._lease = self._lease, None
        assert lease is not None
        self._drop_attempt()
        replica = lease.target.id
        if failure.at_fault:
            lease.failed(by_word=failure.by_word)
        self._note(replica, failure)
        lease.release()  # which may serve others, and never ends this one
        self._safely(lambda: self._go_on_after(replica, failure))

    def _go_on_after(self, replica: ReplicaId, failure: Failure) -> None:
        """No attempt is under way any more; what raises here would leave the client waiting."""
        if failure.at_fault:
            self._get_ticket().failed_on(replica)
        collected = self.ask.approach.collect and self._stream is not None and self.told_tokens > 0
        if self.answer.begun or collected:
            self._take_up(replica, failure)
            return
        self.resumption = None
        if self._trials is None:
            self._trials = Trials()
        self._trials.add(replica, failure)
        self._try_again()

    def _note(self, replica: ReplicaId, failure: Failure) -> None:
        self.shared.metrics.upstream_failed(failure.phase)
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
        most = self.shared.limits.max_attempts
        if trials is not None and trials.spent(self.shared.dispatcher.pool.has, most=most):
            self._turn_away(trials.refusal())
        else:
            self._claim_soon()

    # Half an answer

    def _take_up(self, replica: ReplicaId, failure: Failure) -> None:
        """Another replica must take it up, or it ends with an error."""
        said = f"replica {replica} failed in the middle of the answer: {failure.reason}"
        if not self.answer.readable:
            self._cut_off(failure.code, said)
            return
        if self.resumption is None:
            collects = self.ask.approach.collect
            self.resumption = Resumption(self._telling, self.ask.route.dialect, collects=collects)
        pool = self.shared.dispatcher.pool
        versions = pool.bound_to(self._version)
        elsewhere = versions is None or pool.may_have(versions, resuming=True)
        step = self.resumption.cut(
            failure.code, said, self._stream, may_resume=self._may_resume, elsewhere=elsewhere
        )
        if versions is not None and isinstance(step, Elsewhere):
            self._get_ticket().bind(versions, resuming=True)
        self.follow(step)

    def follow(self, step: Next) -> None:
        """Do what is next for half an answer."""
        match step:
            case Elsewhere():
                self.answer.resumed += 1
                if self.answer.begun and self._lost_at_s is None:
                    self._lost_at_s = self.shared.now_s()
                if self.ask.approach.way is Way.REPLAY:
                    self.shared.metrics.replayed(self.told_tokens)
                self._claim_soon()
            case Call(path=path, body=body):
                assert self._lease is not None
                self._try_on(self._lease, path.encode(), body)
            case Resume(path=path, body=body, stream=stream):
                assert self._lease is not None
                self._stream = stream
                self._try_on(self._lease, path.encode(), body, stream=stream)
            case Finished(payload=payload):
                self.answer.reply_status = 200
                if self.ask.approach.collect:
                    self._answer_collected()
                    return
                if payload:  # an empty chunk would be the end of the body, and then another one followed
                    self.tell(payload)
                self._finish()
            case Anew():
                self._drop_attempt()
                self._release()
                self.resumption = None
                self._stream = None
                if self._ticket is not None:
                    self._ticket.bind(self.ask.wants.versions, resuming=False)
                self._try_again()
            case CutOff(code=code, why=why):
                self._cut_off(code, why)

    @property
    def _may_resume(self) -> bool:
        return self.answer.resumed < self.shared.failover.max_resumptions

    @property
    def _telling(self) -> Telling:
        if self._told is None:
            self._told = self._home.telling(self.ask)
        return self._told

    # Ends

    def _answer_collected(self) -> None:
        self.answer.whole_json(self._telling.whole())
        self._finish(said=True)

    def _finish(self, *, said: bool = False) -> None:
        """The answer is whole."""
        answer = self.answer
        status = answer.reply_status
        if self._lease is not None:
            self._lease.worked(refused=status >= 400)
        answer.outcome = _OK if status < 400 else Outcome.CLIENT_ERROR if status < 500 else Outcome.UPSTREAM_ERROR
        if not said:
            answer.end()
        self._over()

    def _out_of_time(self) -> None:
        limit = format_duration(self.shared.timeouts.total)
        if self.answer.begun:
            self._cut_off(Code.DEADLINE_EXCEEDED, f"the answer was not complete within {limit}")
        else:
            self._turn_away(Refused(Code.DEADLINE_EXCEEDED, f"The request was not answered within {limit}."))

    def _turn_away(self, refused: Refused) -> None:
        """Nothing has been sent, and nothing will be but this."""
        self.shared.metrics.errored(refused.code.code)
        self.answer.refuse(refused)
        self._over()

    def _cut_off(self, code: Code, why: str) -> None:
        """Half an answer that cannot be finished: said in the stream where it is one, and is being told."""
        if not self.answer.begun:
            self._turn_away(Refused(code, why[:1].upper() + why[1:]))
            return
        self.shared.metrics.stream_lost()
        self.answer.outcome = Outcome.UPSTREAM_ERROR
        if self.answer.readable:
            self.answer.cut_off(self.ask.route.dialect, code, why)
        else:
            self.answer.client.abort()
        self._over()

    def _over(self) -> None:
        self._is_over = True
        self._drop_attempt()
        self._release()
        if self._ticket is not None:
            self.shared.dispatcher.withdraw(self._ticket)
        self.shared.active.discard(self)
        answer = self.answer
        answer.tokens = self.told_tokens
        if answer.resumed:
            self.shared.metrics.resumed(self.ask.approach.way, _RESULTS.get(answer.outcome, "failed"))
        if self._told is not None:
            self._told.close()
        self._home.ended(self)

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.holder = None
            lease.release()

    def _drop_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.drop()

    def in_turn(self, work: Callable[[], None]) -> None:
        """Do this soon, but not all at once with what hundreds of others have to do."""
        self.shared.turns.soon(lambda: self._safely(work))

    def _safely(self, work: Callable[[], None]) -> None:
        """A mistake of ours costs this request, and not those whose turn is next."""
        try:
            work()
        except Exception:
            self._home.failed(self)
