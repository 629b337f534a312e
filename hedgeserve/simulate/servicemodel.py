"""How fast a simulated replica answers, and what its loss does to the requests that it has."""

import math
from dataclasses import dataclass
from enum import StrEnum

from hedgeserve.errors import HedgeServeError


class ServingError(HedgeServeError):
    """A service or its limits that cannot be simulated, or a world whose time goes back."""


class OnLoss(StrEnum):
    """What becomes of the requests on a replica that is lost."""

    LOST = "lost"  # they fail
    RETRY = "retry"  # they start anew on another replica, from their old place in the line
    CONTINUE = "continue"  # another replica reads prompt and answer so far, and goes on from there
    FINISH = "finish"  # those being answered are answered all the same, those waiting there fail: as published


class Routing(StrEnum):
    """How a request finds its replica where each replica has a queue of its own."""

    ROUND_ROBIN = "round_robin"  # each client takes the one that it has not used for longest
    LEAST_OUTSTANDING = "least_outstanding"  # the one with the fewest requests, answered or waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenService:
    """Replicas that answer up to ``concurrency`` requests at once, at rates that do not depend on how many.

    A request is answered ``prompt / prefill_tokens_per_s + output / decode_tokens_per_s`` seconds after it
    was begun; both rates are those of one request among ``concurrency``. So a replica that is not full is
    taken for slower than it is, and one that is full for as fast as it was measured. Whoever finds all replicas
    full waits in one line, first come, first served, as in the balancer.
    """

    concurrency: int = 32
    prefill_tokens_per_s: float = 4000.0
    decode_tokens_per_s: float = 30.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ServingError(
                f"a replica with a concurrency of {self.concurrency} answers nothing; give at least 1"
            )
        positive("prefill_tokens_per_s", self.prefill_tokens_per_s)
        positive("decode_tokens_per_s", self.decode_tokens_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperService:
    """Replicas that answer one request at a time in an exponential time, each with a queue of its own.

    This is the model of the simulator published with the paper (arXiv 2411.01438). A request is given to a
    replica when it arrives and stays there. Tokens play no part; the answer comes in one piece, so the first
    token comes with the last. A request takes the same time under every policy. Without any ready replica it
    waits in one line and goes, with all others there, to the first that is ready; where ``wait_for_replica`` is
    false it fails as ``"no_replica"``, as published.

    The published numbers further have ``on_loss=OnLoss.FINISH``, a ``queue_timeout_s`` of 100, an infinite
    ``total_timeout_s``, and clients in step (see :func:`hedgeserve.simulate.workload.poisson`); they count each
    failure as a latency of 100 s. One thing is not as published: a new replica is the next in each client's
    round, where there each client keeps a number and takes it modulo the replicas.
    """

    mean_s: float = 10.0
    routing: Routing = Routing.ROUND_ROBIN
    wait_for_replica: bool = True

    def __post_init__(self) -> None:
        positive("mean_s", self.mean_s)


ServiceModel = TokenService | PaperService


def positive(name: str, value: float, *, endless: bool = False) -> None:
    """Refuse what is no number above 0, and infinity unless ``endless``.

    Raises:
        ServingError: Says which number it is.
    """
    if not value > 0 or (value == math.inf and not endless):
        raise ServingError(f"{name} is {value:g}; give a number above 0")
