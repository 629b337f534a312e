"""The attempts of a request that have failed: what that says of a replica, and when there were enough. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.replica import ReplicaId

TOLD_BYTES = 4096
"""As much of a replica's own words about its failure is read."""
_TOLD_CHARACTERS = 300
_THEIR_FAULT = frozenset({500, 502, 503, 504})
_NO_FAULT = frozenset({FailurePhase.VANISHED, FailurePhase.MOVED})
"""Preempted, or left of our own will: nothing that a replica's record should suffer from."""
_BY_WORD = frozenset({FailurePhase.STATUS, FailurePhase.ABORT})


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt on a replica has failed, in words for people; ``timed_out`` tells silence from refusal."""

    phase: FailurePhase
    reason: str
    timed_out: bool = False

    @property
    def at_fault(self) -> bool:
        """Whether the replica's record suffers from it."""
        return self.phase not in _NO_FAULT

    @property
    def by_word(self) -> bool:
        """Whether the replica has said so itself."""
        return self.phase in _BY_WORD

    @property
    def code(self) -> Code:
        """What a client is told of it where it is the last."""
        return Code.UPSTREAM_TIMEOUT if self.timed_out else Code.UPSTREAM_ERROR


class Trials:
    """The attempts that have failed before anything of an answer was told."""

    __slots__ = ("_failed",)

    def __init__(self) -> None:
        self._failed: list[tuple[ReplicaId, Failure]] = []

    def add(self, replica: ReplicaId, failure: Failure) -> None:
        """One more; a replica that was left of our own will has failed nobody."""
        if failure.phase is not FailurePhase.MOVED:
            self._failed.append((replica, failure))

    def spent(self, is_there: Callable[[ReplicaId], bool], *, most: int) -> bool:
        """Whether enough replicas have failed the request.

        Those that have left since (``is_there`` says so) do not count. One that cannot be connected to counts
        once, however often it is tried: nothing has reached it, and the patience of the line bounds that.
        """
        unreachable = set()
        failed = 0
        for replica, failure in self._failed:
            if not is_there(replica):
                continue
            if failure.phase is FailurePhase.CONNECT:
                unreachable.add(replica)
            else:
                failed += 1
        return failed + len(unreachable) >= most

    def refusal(self) -> Refused:
        """What the client is told once they are spent."""
        replica, failure = self._failed[-1]
        count = len(self._failed)
        attempts = "1 attempt" if count == 1 else f"{count} attempts"
        return Refused(
            failure.code, f"The request failed after {attempts}; the last, on replica {replica}: {failure.reason}"
        )


def is_their_fault(status: int) -> bool:
    """Whether an answer with this status says that the replica has failed, and not the request."""
    return status in _THEIR_FAULT


def told_failure(status: int, body: bytes) -> Failure:
    """What a status that is the replica's fault means, in the replica's own words."""
    if status == 401:
        return Failure(FailurePhase.STATUS, "it refused the API key that HedgeServe has for it (401)")
    told = " ".join(body[:TOLD_BYTES].decode(errors="replace").split())[:_TOLD_CHARACTERS]
    return Failure(FailurePhase.STATUS, f"it answered {status}: {told or '(no body)'}")
