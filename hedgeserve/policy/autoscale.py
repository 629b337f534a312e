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
    to zero it goes only while nothing waits or is being answered.
    """

    def __init__(self, replicas: ReplicasSpec) -> None:
        self._spec = replicas
        self._target = replicas.lowest
        self._window = _Span(replicas.window)
        self._up = _Extreme(replicas.upscale_delay, sign=1)
        self._down = _Extreme(replicas.downscale_delay, sign=-1)

    def decide(self, signal: LoadSignal) -> ScaleDecision:
        """The target now; ``now_s`` must not go back from one call to the next."""
        spec = self._spec
        rate = self._window.growth(signal.now_s, signal.arrived_total) / spec.window
        if spec.lowest == spec.highest or spec.target_requests_per_second is None:
            return ScaleDecision(spec.lowest, spec.lowest, rate, "the number of replicas is fixed")
        # Rounded first, so that 3 replicas' worth is 3 and not 3.0000000001, which would be 4.
        needed = math.ceil(round(rate / spec.target_requests_per_second, 6))
        busy = signal.queued + signal.in_flight > 0
        candidate = max(1, needed) if busy else needed
        clipped = min(max(candidate, spec.lowest), spec.highest)
        agreed_up = self._up.of(signal.now_s, clipped)
        agreed_down = self._down.of(signal.now_s, clipped)
        before, share = self._target, spec.target_requests_per_second
        load = f"{rate:.3g} requests/s are work for {candidate} at {share:g} requests/s each"
        if before == 0 and clipped > 0:
            self._target, reason = clipped, f"a request is there and no replica: {load}"
        elif agreed_up is not None and agreed_up > before:
            over = format_duration(spec.upscale_delay)
            self._target, reason = agreed_up, f"for {over} the load has asked for at least {agreed_up} ({load})"
        elif agreed_down is not None and agreed_down < before:
            over = format_duration(spec.downscale_delay)
            self._target, reason = agreed_down, f"for {over} the load has asked for at most {agreed_down} ({load})"
        elif clipped == before:
            reason = f"as the load asks ({load})"
        else:
            delay_s = spec.upscale_delay if clipped > before else spec.downscale_delay
            reason = f"the load asks for {clipped}, not yet for {format_duration(delay_s)} ({load})"
        return ScaleDecision(self._target, candidate, rate, reason)


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
