"""An endpoint that is closed on purpose: what a request is told, and when it should come back."""

from dataclasses import dataclass
from enum import StrEnum

from hedgeserve.proxy.replies import Code, Refused

_UNKNOWN_S = 300
_SPREAD_S = 30.0
_LONGEST_S = 7 * 86400.0


class Closed(StrEnum):
    """Why the endpoint is closed."""

    ASLEEP = "asleep"
    PAUSED = "paused"
    BUDGET = "budget"


_CODES = {
    Closed.ASLEEP: Code.SERVICE_ASLEEP,
    Closed.PAUSED: Code.SERVICE_PAUSED,
    Closed.BUDGET: Code.BUDGET_REACHED,
}


@dataclass(frozen=True, slots=True)
class Closure:
    """The service rests: ``sentence`` is for clients; ``opens_at_s`` on the loop's clock, None: nobody knows."""

    why: Closed
    sentence: str
    opens_at_s: float | None

    def refused(self, now_s: float, *, jitter: float) -> Refused:
        """The answer to a request that comes now.

        ``Retry-After`` is the time until it opens, and up to half a minute (or a tenth) more by ``jitter`` (0 to
        1), so that those who were turned away do not all come back in the same second; 300 s where nobody knows.
        """
        retry_s = _UNKNOWN_S
        if self.opens_at_s is not None:
            left_s = min(max(self.opens_at_s - now_s, 1.0), _LONGEST_S)
            retry_s = int(left_s + min(_SPREAD_S, left_s / 10) * jitter) + 1
        return Refused(_CODES[self.why], self.sentence, retry_after_s=retry_s)
