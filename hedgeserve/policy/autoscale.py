"""How many replicas the load needs: N_target, from the rate of requests, without nervousness."""

import math
from collections import deque
from dataclasses import dataclass

from hedgeserve.spec import ReplicasSpec
from hedgeserve.units import format_duration

_SAMPLES_PER_SPAN = 120
"""Samples that the window is cut into: finer ones are not kept, so that memory does not grow with the tick."""


@dataclass(frozen=True, slots=True)
class LoadSignal:
    """The load at one moment: requests that ever arrived, and those that wait or are being answered now."""

    now_s: float
    arrived_total: int
    queued: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most replicas at this moment, and which hours or rest say so (empty: ``[replicas]`` alone)."""

    lowest: int
    highest: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """The replicas that the load needs now (``target``) and would need if this moment lasted (``candidate``)."""

    target: int
    candidate: int
    rate_per_s: float
    reason: str


class Autoscaler:
    """N_target between the user's bounds; the same signals in the same order give the same decisions.

    The rate is what arrived during the last ``window``, over the whole window also while it is young. A service
    that has just started has seen less than a window; dividing by the little that it has seen would make a rate
    of 5 per second out of the first five requests, and a bill out of that. It begins low instead, and the queue
    speaks for those who wait.

    The candidate is ``ceil(rate / target_requests_per_second)`` (arXiv 2411.01438, section 3.3), at least 1 while
    a request waits or is being answered. The paper applies a candidate that is "consistently larger (smaller)"
    than the target for a time. Here that is: the target goes up to the *lowest* candidate of the last
    ``upscale_delay``, and down to the *highest* of the last ``downscale_delay``. Every candidate of that time was
    at least (at most) so large, so the promise is the paper's; but a counter of decisions in a row starts anew at
    each sample that disagrees, so that a load that jitters around a bound never scales, and here such a sample
    only counts for what it is: the others' excess is acted on as far as all agree.

    From zero the first request raises the target at once, since nobody would answer it for the whole delay;
    to zero it goes only while nothing waits or is being answered, and with ``idle_after`` once no request has been
    there for so long, whatever ``downscale_delay``.

    Bounds may change from one call to the next, as the hours of the week do. Then the target is within the new
    ones at once. What the load has asked for is remembered without them: where a lower bound falls, the target
    goes at once to what the load has long asked for.
    """

    def __init__(self, replicas: ReplicasSpec) -> None:
        self._spec = replicas
        self._target = replicas.lowest
        self._window = _Span(replicas.window)
        self._up = _Extreme(replicas.upscale_delay, sign=1)
        self._down = _Extreme(replicas.downscale_delay, sign=-1)
        self._seen_total = 0
        self._busy_until_s: float | None = None

    def adopt(self, replicas: ReplicasSpec) -> None:
        """Keep to these bounds from now on: the target stays as far as they let it, the delays begin anew."""
        self._spec = replicas
        self._window = _Span(replicas.window)
        self._up = _Extreme(replicas.upscale_delay, sign=1)
        self._down = _Extreme(replicas.downscale_delay, sign=-1)

    def go_on(self, now_s: float, *, target: int, idle_s: float) -> None:
        """Begin where an earlier run was: with its target, and no request for so long; before the first decision.

        What the load was is not known any more. So the target stays for the delays, as far as bounds let it.
        """
        self._target, self._busy_until_s = target, now_s - idle_s

    @property
    def busy_until_s(self) -> float | None:
        """When a request was last there, by the clock of the signals; None before the first decision."""
        return self._busy_until_s

    def decide(self, signal: LoadSignal, bounds: Bounds | None = None) -> ScaleDecision:
        """The target now; ``now_s`` must not go back from one call to the next. ``bounds`` None: the spec's."""
        spec, now_s = self._spec, signal.now_s
        lowest, highest = (spec.lowest, spec.highest) if bounds is None else (bounds.lowest, bounds.highest)
        said = "" if bounds is None else bounds.reason
        rate = self._window.growth(now_s, signal.arrived_total) / spec.window
        idle_s = self._idle_s(signal)
        share = spec.target_requests_per_second
        if share is None:
            self._target = lowest
            return ScaleDecision(lowest, lowest, rate, said or "the number of replicas is fixed")
        # Rounded first, so that 3 replicas' worth is 3 and not 3.0000000001, which would be 4.
        needed = math.ceil(round(rate / share, 6))
        busy = signal.queued + signal.in_flight > 0
        candidate = max(1, needed) if busy else needed
        agreed_up = self._up.of(now_s, candidate)
        agreed_down = self._down.of(now_s, candidate)
        if lowest == highest:
            self._target = lowest
            return ScaleDecision(lowest, lowest, rate, said or "the number of replicas is fixed")

        def clip(count: int) -> int:
            return min(max(count, lowest), highest)

        before, clipped = clip(self._target), clip(candidate)
        up = None if agreed_up is None else clip(agreed_up)
        down = None if agreed_down is None else clip(agreed_down)
        load = f"{rate:.3g} requests/s are work for {candidate} at {share:g} requests/s each"
        may_go = lowest == 0 and spec.idle_after is not None  # then that alone says when the last one goes
        if may_go and down == 0:
            down = 1
        if may_go and idle_s >= (spec.idle_after or 0.0):
            # First of all: the rate still tells of requests that have long been answered.
            self._target, reason = 0, f"no request for {format_duration(spec.idle_after or 0.0)}"
        elif before == 0 and clipped > 0:
            self._target, reason = clipped, f"a request is there and no replica: {load}"
        elif up is not None and up > before:
            over = format_duration(spec.upscale_delay)
            self._target, reason = up, f"for {over} the load has asked for at least {up} ({load})"
        elif down is not None and down < before:
            over = format_duration(spec.downscale_delay)
            self._target, reason = down, f"for {over} the load has asked for at most {down} ({load})"
        else:
            if before != self._target:
                fewest = f"at least {lowest} are wanted" if before > self._target else f"at most {highest} may run"
                reason = said or fewest
            elif candidate < lowest == before:
                reason = f"{said or 'no fewer are wanted (`replicas.min`)'}; {load}"
            elif candidate > highest == before:
                reason = f"{said or 'no more may run (`replicas.max`)'}; {load}"
            elif clipped == before:
                reason = f"as the load asks ({load})"
            else:
                delay_s = spec.upscale_delay if clipped > before else spec.downscale_delay
                reason = f"the load asks for {clipped}, not yet for {format_duration(delay_s)} ({load})"
            self._target = before
        return ScaleDecision(self._target, candidate, rate, reason)

    def _idle_s(self, signal: LoadSignal) -> float:
        """For how long no request has come, waited or been answered."""
        now_s = signal.now_s
        come = signal.arrived_total > self._seen_total
        if self._busy_until_s is None or come or signal.queued + signal.in_flight > 0:
            self._busy_until_s = now_s
        self._seen_total = signal.arrived_total
        return now_s - self._busy_until_s


class _Span:
    """By how much a total has grown during the last so many seconds, from a bounded number of samples."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._samples: deque[tuple[float, int]] = deque()

    def growth(self, now_s: float, total: int) -> int:
        """The growth until now; what the total was at the first call is no growth."""
        samples = self._samples
        # What is not kept of a slice is not lost: the next question brings the total itself.
        if not samples or now_s - samples[-1][0] >= self._span_s / _SAMPLES_PER_SPAN:
            samples.append((now_s, total))
        # One sample from before the span is kept: growth is counted from there.
        while len(samples) > 1 and samples[1][0] <= now_s - self._span_s:
            samples.popleft()
        return total - samples[0][1]


class _Extreme:
    """The lowest (``sign=1``) or highest (``sign=-1``) of all values of the last so many seconds."""

    def __init__(self, span_s: float, *, sign: int) -> None:
        self._span_s = span_s
        self._sign = sign
        self._began_s: float | None = None
        self._values: deque[tuple[float, int]] = deque()

    def of(self, now_s: float, value: int) -> int | None:
        """The extreme with this value counted in; None while less than the span has been seen."""
        if self._began_s is None:
            self._began_s = now_s
        values, signed = self._values, self._sign * value
        # A value that a later one undercuts can never be the extreme again: what is left grows strictly, so
        # there are never more entries than different values.
        while values and values[-1][1] >= signed:
            values.pop()
        values.append((now_s, signed))
        while values[0][0] < now_s - self._span_s:
            values.popleft()
        return self._sign * values[0][1] if now_s - self._began_s >= self._span_s else None
