"""How many failures of replicas are enough, and what a failure says."""

import pytest

from hedgeserve.metrics import FailurePhase
from hedgeserve.proxy.replies import Code
from hedgeserve.proxy.trials import Failure, Trials, told_failure
from hedgeserve.replica import ReplicaId

A, B = ReplicaId("a"), ReplicaId("b")
LOST = Failure(FailurePhase.FIRST_BYTE, "the connection was lost")
UNREACHABLE = Failure(FailurePhase.CONNECT, "no connection")


def everybody(replica: ReplicaId) -> bool:
    return True


def trials(*failed: tuple[ReplicaId, Failure]) -> Trials:
    tried = Trials()
    for replica, failure in failed:
        tried.add(replica, failure)
    return tried


def test_as_many_failures_as_may_be_are_enough() -> None:
    """The bound is reached, not passed."""
    assert not trials((A, LOST)).spent(everybody, most=2)
    assert trials((A, LOST), (A, LOST)).spent(everybody, most=2)


def test_a_replica_that_cannot_be_reached_counts_once() -> None:
    """Nothing has come to it, so nothing of the request can be at fault."""
    assert not trials((A, UNREACHABLE), (A, UNREACHABLE), (A, UNREACHABLE)).spent(everybody, most=2)
    assert trials((A, UNREACHABLE), (B, UNREACHABLE)).spent(everybody, most=2)


def test_replicas_that_have_left_do_not_count() -> None:
    """They were preempted, as it turned out: that says nothing of the request."""
    assert not trials((A, LOST), (B, LOST)).spent(lambda replica: replica != A, most=2)


def test_to_leave_a_replica_of_our_own_will_is_no_failure() -> None:
    """And is no fault of the replica either, as little as to be taken away."""
    moved = Failure(FailurePhase.MOVED, "in time")
    assert not trials((A, moved)).spent(everybody, most=1)
    assert not moved.at_fault
    assert not Failure(FailurePhase.VANISHED, "it is gone").at_fault
    assert LOST.at_fault


def test_the_client_is_told_of_the_last_failure() -> None:
    """With a code that tells silence from refusal."""
    refused = trials((A, LOST), (B, Failure(FailurePhase.STALL, "silence for 5 s", timed_out=True))).refusal()
    assert refused.code is Code.UPSTREAM_TIMEOUT
    assert refused.message == "The request failed after 2 attempts; the last, on replica b: silence for 5 s"
    assert trials((A, LOST)).refusal().message.startswith("The request failed after 1 attempt;")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b"", "it answered 500: (no body)"),
        (503, b" no\n  room \xff", "it answered 503: no room \N{REPLACEMENT CHARACTER}"),
        (502, b"x" * 5000, "it answered 502: " + "x" * 300),
        (401, b"who are you?", "it refused the API key that HedgeServe has for it (401)"),
    ],
)
def test_a_replica_fails_in_its_own_words(status: int, body: bytes, reason: str) -> None:
    """On one line, and not endlessly; what it says about a key of ours is for nobody."""
    failure = told_failure(status, body)
    assert failure.reason == reason
    assert failure.by_word
