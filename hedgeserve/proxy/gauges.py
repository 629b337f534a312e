"""What engines tell of their load, every few seconds: waiting requests, cache use, and how far away they are.

Only vLLM's names are read, and an engine that has no such page is asked less and less often. Nothing depends on
the answers: routing does without those that are missing or old.
"""

import re
from collections.abc import Callable

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.head import Head
from hedgeserve.proxy.pool import Incarnation
from hedgeserve.proxy.wire import Link, Wires

_LONGEST_BYTES = 2 * 2**20
_LONGEST_PAUSE_S = 300.0
_SMOOTH = 0.3
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^}]*\})? ([0-9.eE+-]+)", re.MULTILINE)
_CACHE = re.compile(rb"^vllm:(?:kv|gpu)_cache_usage_perc(?:\{[^}]*\})? ([0-9.eE+-]+)", re.MULTILINE)


class Gauges:
    """Keeps the candidates' engine metrics fresh; :meth:`sweep` is to be called often."""

    def __init__(self, wires: Wires, *, every_s: float, now_s: Callable[[], float]) -> None:
        self._wires = wires
        self._every_s = every_s
        self.now_s = now_s
        self._next_s: dict[Incarnation, float] = {}
        self._pause_s: dict[Incarnation, float] = {}

    def adopt(self, *, every_s: float) -> None:
        """Ask in another rhythm from the next time on."""
        self._every_s = every_s

    def sweep(self, incarnations: tuple[Incarnation, ...], now_s: float) -> None:
        """Ask those whose time has come; nobody where there is nothing to choose between."""
        self._next_s = {one: at_s for one, at_s in self._next_s.items() if not one.vanished}
        self._pause_s = {one: pause_s for one, pause_s in self._pause_s.items() if not one.vanished}
        if len(incarnations) < 2:
            return
        for incarnation in incarnations:
            if now_s >= self._next_s.setdefault(incarnation, now_s + self._every_s):
                self._next_s[incarnation] = now_s + self._pause_s.get(incarnation, self._every_s)
                _Asking(self, incarnation, now_s).ask(self._wires)

    def told(self, incarnation: Incarnation, body: bytes, took_s: float) -> None:
        """An engine's answer."""
        candidate, now_s = incarnation.candidate, self.now_s()
        waiting, cache = _WAITING.findall(body), _CACHE.findall(body)
        candidate.rtt_s = (
            took_s if candidate.rtt_s is None else candidate.rtt_s + _SMOOTH * (took_s - candidate.rtt_s)
        )
        if not waiting:
            self.silent(incarnation)
            return
        self._pause_s.pop(incarnation, None)
        candidate.waiting = sum(map(_number, waiting))
        candidate.cache_usage = max(map(_number, cache), default=None)
        candidate.told_at_s = now_s

    def silent(self, incarnation: Incarnation) -> None:
        """An engine has no such page: it is asked half as often each time."""
        pause_s = self._pause_s.get(incarnation, self._every_s)
        self._pause_s[incarnation] = min(2 * pause_s, _LONGEST_PAUSE_S)


class _Asking:
    """``GET /metrics``, once."""

    def __init__(self, gauges: Gauges, incarnation: Incarnation, asked_at_s: float) -> None:
        self._gauges = gauges
        self._incarnation = incarnation
        self._asked_at_s = asked_at_s
        self._took_s = 0.0
        self._link: Link | None = None
        self._status = 0
        self._body: list[bytes] = []
        self._size = 0

    def ask(self, wires: Wires) -> None:
        """Ask; what follows comes by itself."""
        endpoint = self._incarnation.endpoint
        request = endpoint.request(b"GET", b"/metrics", b"Accept-Encoding: identity\r\n", b"")
        wires.ask(endpoint, self, request, lambda: not self._incarnation.vanished)

    def connected(self, link: Link) -> None:
        """The question is on its way: from here on the time is the replica's, not that of a handshake."""
        self._link = link
        self._asked_at_s = self._gauges.now_s()

    def answered(self, head: Head) -> None:
        """The answer begins."""
        self._took_s = self._gauges.now_s() - self._asked_at_s
        self._status = head.status

    def answered_whole(self, head: Head, body: bytes) -> None:
        """All of it."""
        self.answered(head)
        self._body.append(body)
        self.ended()

    def received(self, payload: bytes, framed: bytes | None) -> None:
        """More of it."""
        self._body.append(payload)
        self._size += len(payload)
        if self._size > _LONGEST_BYTES and self._link is not None:
            self._link.drop()
            self._gauges.silent(self._incarnation)

    def received_all(self, payloads: list[bytes], framed: bytes) -> None:
        """More of it."""
        self.received(b"".join(payloads), framed)

    def fed(self, out: bytes) -> None:
        """Never: no short way is opened here."""

    def ended(self) -> None:
        """It is whole."""
        if self._status == 200:
            self._gauges.told(self._incarnation, b"".join(self._body), self._took_s)
        else:
            self._gauges.silent(self._incarnation)

    def lost(self, phase: FailurePhase, reason: str, *, timed_out: bool = False, stale: bool = False) -> None:
        """No answer this time."""


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
