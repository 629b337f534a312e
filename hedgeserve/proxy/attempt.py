"""One request to one replica, and the answer as it comes: judged by its kind, told or held, watched for silence.

Hears of the answer from :mod:`hedgeserve.proxy.wire` and tells its exchange what it comes to, in the same call.
"""

from typing import TYPE_CHECKING, Final

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.body import BLIND, CALL, ERROR, EVENTS, PLAIN, Held, body_of
from hedgeserve.proxy.crowd import Crowd
from hedgeserve.proxy.failover import Stream
from hedgeserve.proxy.head import Head
from hedgeserve.proxy.pace import Pace
from hedgeserve.proxy.pool import Lease
from hedgeserve.proxy.trials import TOLD_BYTES, Failure, is_their_fault, told_failure
from hedgeserve.proxy.wire import Link
from hedgeserve.units import format_duration

if TYPE_CHECKING:
    from hedgeserve.proxy.exchange import Exchange

# Where it stands: the head of the answer is waited for, its body comes, it is over. Plain numbers: members of an
# enum are found anew each time, and this is looked at for every token.
_HEAD: Final = 0
_BODY: Final = 1
_OVER: Final = 2
_LONGEST_REPLY_BYTES = 64 * 2**20


class Attempt:
    """A POST to a replica of whose slot this is the ``lease``; a :class:`wire.Sink`.

    ``due_s`` is when the answer must have begun, None where silence says nothing. ``stream`` follows the events
    that are to come where they go on with an answer that another replica began.
    """

    # Defaults of the class and not assignments for each: most need few to be anything else.
    _stage = _HEAD
    _link: Link | None = None
    _status = 0
    _body = ERROR
    _held: Held | None = None
    _quiet_since_s = 0.0
    _seen_beats = 0
    pace: Pace | None = None

    def __init__(
        self,
        exchange: "Exchange",
        lease: Lease,
        path: bytes,
        payload: bytes,
        due_s: float | None,
        stream: Stream | None,
    ) -> None:
        self._exchange = exchange
        self._lease = lease
        self._path = path
        self._payload = payload
        self._due_s = due_s
        self._stream = stream

    # What may be asked of it

    def ask(self, *, anew: bool = False) -> None:
        """Send it: on an idle connection where there is one, unless it must be ``anew``."""
        exchange = self._exchange
        wires, trace = exchange.shared.wires, exchange.trace
        endpoint = self._lease.incarnation.endpoint
        lines = exchange.ask.lines if trace is None else exchange.ask.lines + trace.lines
        request = endpoint.request(b"POST", self._path, lines, self._payload)
        if anew or not wires.ask_idle(endpoint, self, request):
            wires.ask_anew(endpoint, self, request, self._is_unanswered)

    def pause(self) -> None:
        """The client does not keep up."""
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """The client has caught up."""
        if self._link is not None:
            self._link.resume()

    def begun(self, crowd: Crowd) -> None:
        """The client has its first token: where others are waiting for theirs, it has time for the next."""
        if self._link is not None:
            crowd.begun(self._link)

    def drop(self) -> None:
        """Nobody wants the answer any more: nothing more is heard of it, and the engine learns of it."""
        self._stage = _OVER
        link, self._link = self._link, None
        if link is not None:
            link.drop()

    def sweep(self, now_s: float) -> None:
        """See whether it has been silent for too long."""
        exchange = self._exchange
        timeouts = exchange.shared.timeouts
        beats = 0 if self._link is None else self._link.beats
        if self._stage == _BODY and beats:
            if beats != self._seen_beats or exchange.paused:
                if not self._seen_beats:
                    self.pace = Pace(now_s, exchange.told_tokens)
                self._seen_beats = beats
                self._quiet_since_s = now_s
                if self._stream is not None and exchange.ask.expects is not None:
                    self._lease.expect(max(1, exchange.ask.expects - exchange.told_tokens))
            elif now_s - self._quiet_since_s >= timeouts.stall:
                reason = f"silence for {format_duration(timeouts.stall)}"
                exchange.failed(Failure(FailurePhase.STALL, reason, timed_out=True))
        elif self._due_s is not None and now_s >= self._due_s:
            reason = f"no answer within {format_duration(timeouts.first_byte)}"
            exchange.failed(Failure(FailurePhase.FIRST_BYTE, reason, timed_out=True))

    @property
    def streams(self) -> bool:
        """Whether it is in the middle of a stream that can be read."""
        return self._stage == _BODY and self._body == EVENTS

    # What the replica does (wire.Sink)

    def connected(self, link: Link) -> None:
        """The request is on its way."""
        self._link = link
        if self._exchange.paused:
            link.pause()

    def answered(self, head: Head) -> None:
        """An answer begins."""
        exchange = self._exchange
        self._lease.incarnation.answers += 1
        self._stage = _BODY
        self._quiet_since_s = exchange.shared.now_s()
        self._status = status = head.status
        resumption = exchange.resumption
        calling = resumption is not None and resumption.calling
        body = body_of(status, head.kind, head.encoding, resuming=resumption is not None, calling=calling)
        self._body = body
        if body == EVENTS and self._stream is None:
            self._stream = exchange.first_stream()
        if body != ERROR and body != CALL:
            exchange.answer.expect(status, head.lines, readable=body == EVENTS)

    def answered_whole(self, head: Head, body: bytes) -> None:
        """All of an answer at once."""
        status = head.status
        exchange = self._exchange
        if status < 500 and status != 401 and exchange.resumption is None and head.kind != "text/event-stream":
            self._lease.incarnation.answers += 1
            self._link = None
            exchange.answered_plainly(status, head.lines, body)
            return
        self.answered(head)
        if body:
            self.received(body, None)
        if self._is_coming():
            self.ended()

    def received(self, payload: bytes, framed: bytes | None) -> None:
        """More of it: on the path of every token."""
        if self._body != EVENTS:
            self._receive_other(payload)
            return
        stream = self._stream
        assert stream is not None
        exchange = self._exchange
        out = stream.feed(payload)
        if out:
            exchange.tell(out, framed if out is payload else None)
        if out is not payload:
            self._look_at(stream)
        elif exchange.resumption is None and self._link is not None:
            to = exchange.answer.client.short_way()
            if to is not None:
                self._link.open_short_way(stream.feed, to)

    def fed(self, out: bytes) -> None:
        """What has come on the short way and was not to be passed on as it was."""
        stream = self._stream
        assert stream is not None
        if out:
            self._exchange.answer.client.send(out)
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
            self._exchange.tell(data, framed if same else None)
        if not same:
            self._look_at(stream)

    def ended(self) -> None:
        """It is whole, as far as HTTP can tell."""
        self._link = None
        exchange = self._exchange
        if self._body == EVENTS:
            self._end_events()
        elif self._body == ERROR or (self._body == CALL and is_their_fault(self._status)):
            exchange.failed(self._told_failure())
        elif self._body == CALL:
            exchange.replied(self._status, self._all_held())
        else:
            exchange.ended_plainly(self._all_held())

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        """The connection is gone before its end."""
        begun = self._link is not None and self._link.beats > 0
        self._link = None
        exchange = self._exchange
        if stale and not self._lease.vanished:
            # It had been closed while it was idle: no fault of the replica, and nothing has been asked of it.
            exchange.in_turn(self._ask_anew)
            return
        if self._body == ERROR and self._stage == _BODY:
            exchange.failed(self._told_failure())
            return
        if phase is FailurePhase.BODY and not begun:
            phase, reason = FailurePhase.FIRST_BYTE, f"{reason} before an answer"
        exchange.failed(Failure(phase, reason, timed_out=timed_out))

    # How

    def _is_unanswered(self) -> bool:
        return self._stage == _HEAD and self._link is None

    def _is_coming(self) -> bool:
        return self._stage == _BODY

    def _ask_anew(self) -> None:
        if self._is_unanswered():
            self.ask(anew=True)

    def _look_at(self, stream: Stream) -> None:
        """What was not passed on as it came may have been the last of it, or the end of its replica."""
        exchange = self._exchange
        if stream.failure:
            exchange.failed(Failure(FailurePhase.ABORT, stream.failure))
        elif exchange.resumption is not None and stream.done and stream.complete:
            # A stop string that stands across the cut is found by us: the replica would go on.
            exchange.follow(exchange.resumption.settled(stream))

    def _receive_other(self, payload: bytes) -> None:
        body, exchange = self._body, self._exchange
        if body == BLIND or (body == PLAIN and exchange.answer.begun):
            exchange.tell(payload)
            return
        if self._held is None:
            self._held = Held()
        held = self._held
        held.add(payload)
        if body == PLAIN:
            if held.size_bytes > exchange.shared.limits.max_held_response:
                self._held = None
                exchange.tell(held.whole())
        elif body == ERROR and held.size_bytes > TOLD_BYTES:
            exchange.failed(self._told_failure())
        elif held.size_bytes > _LONGEST_REPLY_BYTES:
            exchange.failed(Failure(FailurePhase.BODY, "its reply was endless"))

    def _end_events(self) -> None:
        stream, exchange = self._stream, self._exchange
        assert stream is not None
        out = stream.close()
        if out:
            exchange.tell(out)
        if stream.failure:
            exchange.failed(Failure(FailurePhase.ABORT, stream.failure))
        elif not stream.complete:
            exchange.failed(Failure(FailurePhase.BODY, "the stream ended before the answer did"))
        else:
            exchange.ended_streaming(stream)

    def _all_held(self) -> bytes:
        return b"" if self._held is None else self._held.whole()

    def _told_failure(self) -> Failure:
        return told_failure(self._status, self._all_held())
