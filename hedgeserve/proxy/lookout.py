"""What is looked at some ten times a second: deadlines, the silence of whole replicas, streams to move in time.

Silence of one stream may be a long prompt; silence of a replica with open streams is a suspicion, which a question
that costs nothing decides: a VM whose cable is gone sends no farewell, and its streams would wait for a minute.
"""

from collections.abc import Callable

import structlog

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.gauges import Gauges
from hedgeserve.proxy.head import Head
from hedgeserve.proxy.moving import plan_moves
from hedgeserve.proxy.parties import Shared
from hedgeserve.proxy.pool import Incarnation
from hedgeserve.proxy.reception import Reception
from hedgeserve.proxy.wire import Link
from hedgeserve.replica import ReplicaId
from hedgeserve.spec import TimeoutsSpec
from hedgeserve.units import format_duration

_log = structlog.get_logger(__name__)

_SWEEP_S = 0.1
_LINKS_EVERY = 10
_GAUGES_EVERY = 5
_PACE_EVERY = 20
_PACE_SHARE = 0.2
_FIRST_PACE = 20.0
"""Tokens a second, until some have been measured."""
_MOVES_EVERY = 5


def sweep_every_s(timeouts: TimeoutsSpec) -> float:
    """How often deadlines are looked at: every tenth of the shortest, from ten times a second down to once: with
    thousands of connections each look costs milliseconds."""
    shortest_s = min(timeouts.first_byte, timeouts.stall, timeouts.total, timeouts.request_head)
    return min(max(shortest_s / 10, _SWEEP_S), 1.0)


class Lookout:
    """Looks after all exchanges and replicas of a balancer, whenever :meth:`sweep` is called."""

    def __init__(
        self,
        shared: Shared,
        reception: Reception,
        *,
        engine_metrics_s: float,
        on_silence: Callable[[ReplicaId], None],
    ) -> None:
        self._shared = shared
        self._on_silence = on_silence
        self._gauges = Gauges(shared.wires, every_s=engine_metrics_s, now_s=shared.now_s)
        self._reception = reception
        self._sweeps = 0
        self._every_s = sweep_every_s(shared.timeouts)
        self._next_s = 0.0
        self._typical_pace = _FIRST_PACE
        self._beats: dict[Incarnation, tuple[int, float]] = {}

    def adopt(self, shared: Shared, *, engine_metrics_s: float) -> None:
        """Look by these bounds from now on; each exchange keeps those under which it began."""
        self._shared = shared
        self._gauges.adopt(every_s=engine_metrics_s)
        self._every_s = sweep_every_s(shared.timeouts)

    def sweep(self, now_s: float) -> None:
        """Look at everything that time may have an effect on."""
        self._sweeps += 1
        self._shared.dispatcher.sweep(now_s)
        self._shared.wires.sweep(now_s)
        if now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            for exchange in tuple(self._shared.active):
                try:
                    exchange.sweep(now_s)
                except Exception:  # the clock goes on for the others
                    self._reception.failed(exchange)
        if self._sweeps % _PACE_EVERY == 0:
            self._learn_pace(now_s)
        incarnations = self._shared.dispatcher.pool.incarnations
        self._listen(incarnations, now_s)
        if self._sweeps % _MOVES_EVERY == 0 and self._shared.failover.move_early:
            for incarnation in incarnations:
                if incarnation.target.ends_at_s is not None and incarnation.leases:
                    self._move(incarnation, now_s)
        if self._sweeps % _GAUGES_EVERY == 0:
            self._gauges.sweep(incarnations, now_s)
        if self._sweeps % _LINKS_EVERY == 0:
            for incarnation in incarnations:
                self._shared.wires.sweep_idle(incarnation.endpoint, _SWEEP_S * _LINKS_EVERY)

    def _learn_pace(self, now_s: float) -> None:
        """What streams typically do, for those too young to be measured."""
        paces = [pace for one in self._shared.active if (pace := one.measured_pace(now_s)) is not None]
        if paces:
            self._typical_pace += (sum(paces) / len(paces) - self._typical_pace) * _PACE_SHARE

    def _listen(self, incarnations: tuple[Incarnation, ...], now_s: float) -> None:
        """Suspect replicas whose open streams have all been silent, and ask them until they answer or are gone.

        Nothing is sent there meanwhile where there is another replica.
        """
        silence_s = self._shared.failover.silence
        seen: dict[Incarnation, tuple[int, float]] = {}
        for incarnation in incarnations:
            beats, since_s = self._beats.get(incarnation, (-1, now_s))
            if beats != incarnation.beats:
                beats, since_s = incarnation.beats, now_s
                if incarnation.silent:
                    self._shared.dispatcher.pool.trust(incarnation)
            elif incarnation.suspected or not (incarnation.leases or incarnation.silent):
                since_s = now_s
            elif now_s - since_s >= silence_s:
                question = _Question(self._shared, incarnation, now_s - since_s, self._on_silence)
                incarnation.suspected = True
                self._shared.dispatcher.pool.suspect(incarnation)
                question.ask()
                since_s = now_s
            seen[incarnation] = (beats, since_s)
        self._beats = seen

    def _move(self, incarnation: Incarnation, now_s: float) -> None:
        """Have those streams leave that would not end in time."""
        replica, ends_at_s = incarnation.target.id, incarnation.target.ends_at_s
        assert ends_at_s is not None
        streams = [
            exchange.as_moving(now_s, self._typical_pace)
            for exchange in self._shared.active
            if exchange.replica == replica and exchange.movable
        ]
        if not streams:
            return
        versions = self._shared.dispatcher.pool.bound_to(incarnation.target.version)
        room = any(
            other is not incarnation
            and other.target.accepting
            and other.target.ends_at_s is None
            and (versions is None or other.target.version in versions)
            for other in self._shared.dispatcher.pool.incarnations
        )
        for exchange in plan_moves(
            streams,
            now_s=now_s,
            ends_at_s=ends_at_s,
            margin_s=self._shared.failover.move_margin,
            room=room,
            typical=int(self._reception.typical_tokens),
            every_s=_SWEEP_S * _MOVES_EVERY,
        ):
            exchange.move("it would not have ended before the replica is taken away")


class _Question:
    """``GET /health`` to a replica that has been silent; who does not answer has its streams go on elsewhere."""

    def __init__(
        self, shared: Shared, incarnation: Incarnation, silent_s: float, on_silence: Callable[[ReplicaId], None]
    ) -> None:
        self._on_silence = on_silence
        self._shared = shared
        self._incarnation = incarnation
        self._silent_s = silent_s
        self._link: Link | None = None
        self._answered = False
        self._beats = incarnation.beats
        self._again = incarnation.silent

    def ask(self) -> None:
        """Ask; what follows comes by itself."""
        endpoint = self._incarnation.endpoint
        request = endpoint.request(b"GET", b"/health", b"Accept-Encoding: identity\r\n", b"")
        # On a connection of its own: the idle ones may be as dead as the VM.
        self._shared.wires.ask_anew(endpoint, self, request, lambda: not self._answered)
        self._shared.turns.later(self._shared.timeouts.connect, self._judge)

    def connected(self, link: Link) -> None:
        """It has a connection."""
        self._link = link

    def answered(self, head: Head) -> None:
        """It lives, whatever it says: whether it is well is for the probes of the fleet."""
        self._lives()

    def answered_whole(self, head: Head, body: bytes) -> None:
        """It lives."""
        self._link = None
        self._lives()

    def received(self, payload: bytes, framed: bytes | None) -> None:
        """Of no interest."""

    def received_all(self, payloads: list[bytes], framed: bytes) -> None:
        """Of no interest."""

    def fed(self, out: bytes) -> None:
        """Never: no short way is opened here."""

    def ended(self) -> None:
        """Of no interest."""
        self._link = None

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        """It does not answer."""
        self._link = None
        if not self._answered:
            self._give_up(reason)

    def _judge(self) -> None:
        if not self._answered:
            self._give_up(f"no answer within {format_duration(self._shared.timeouts.connect)}")

    def _give_up(self, reason: str) -> None:
        alive = self._beats != self._incarnation.beats or self._incarnation.vanished
        self._done()
        if alive:
            return  # its streams have gone on meanwhile, or it has been found to be gone
        if self._incarnation.leases or not self._again:
            _log.warning(
                "a replica has fallen silent; its requests go on elsewhere",
                replica=self._incarnation.target.id,
                silent_s=round(self._silent_s, 1),
                reason=reason,
                requests=len(self._incarnation.leases),
            )
        self._shared.dispatcher.pool.give_up(self._incarnation)
        if not self._again:
            self._shared.metrics.fell_silent()
            self._on_silence(self._incarnation.target.id)

    def _lives(self) -> None:
        self._done()
        self._shared.dispatcher.pool.trust(self._incarnation)

    def _done(self) -> None:
        self._answered = True
        self._incarnation.suspected = False
        if self._link is not None:
            link, self._link = self._link, None
            link.drop()
