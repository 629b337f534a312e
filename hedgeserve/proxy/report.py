"""What became of a request, for the log and the metrics. Pure."""

from hedgeserve.metrics import Outcome
from hedgeserve.proxy.replies import Code


class Report:
    """What became of a request, for the log and the metrics; filled in as it goes along."""

    __slots__ = ("attempts", "outcome", "replica", "resumed", "started_s", "status", "tokens", "ttft_s")

    def __init__(self, started_s: float = 0.0, status: int = 0, outcome: Outcome = Outcome.INTERNAL_ERROR) -> None:
        self.started_s = started_s
        self.status = status  # that was sent; 0 while none was
        self.outcome = outcome
        self.replica = ""
        self.attempts = 0
        self.ttft_s: float | None = None
        self.resumed = 0
        self.tokens = 0


def outcome_of(code: Code) -> Outcome:
    """How a request that is answered with an error of ours is counted."""
    if code.status in (429, 503):
        return Outcome.SHED
    if code.status == 500:
        return Outcome.INTERNAL_ERROR
    return Outcome.CLIENT_ERROR if code.status < 500 else Outcome.UPSTREAM_ERROR
