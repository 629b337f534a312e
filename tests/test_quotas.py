"""What one API key may use: never more than its minute's worth and what has flowed in since."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.quotas import Quotas


def quotas(requests: int | None = None, tokens: int | None = None, concurrent: int | None = None) -> Quotas:
    return Quotas(requests_per_minute=requests, tokens_per_minute=tokens, concurrent=concurrent)


def test_without_limits_everybody_may() -> None:
    """And nothing is kept of anybody."""
    free = quotas()
    assert all(free.admit(f"key-{number}", 10**9, 0.0).ok for number in range(50_000))


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 400)), max_size=80), st.integers(1, 30))
def test_no_more_is_admitted_than_the_bucket_and_what_flows_in(
    asked: list[tuple[float, int]], per_minute: int
) -> None:
    """Requests, whatever their pace: a minute's worth at once, and the rate after that."""
    limited, now_s, admitted = quotas(requests=per_minute), 0.0, 0
    for pause_s, tokens in asked:
        now_s += pause_s
        admitted += limited.admit("key", tokens, now_s).ok
        assert admitted <= per_minute + now_s * per_minute / 60 + 1e-6


def test_who_comes_back_when_told_to_is_served() -> None:
    """The time that a refusal names is the truth."""
    limited = quotas(requests=2)
    assert limited.admit("key", 1, 0.0).ok
    assert limited.admit("key", 1, 0.0).ok
    refused = limited.admit("key", 1, 0.0)
    assert (refused.ok, refused.limit) == (False, "requests")
    assert not limited.admit("key", 1, refused.retry_after_s - 0.1).ok
    assert limited.admit("key", 1, refused.retry_after_s + 0.01).ok


def test_tokens_are_settled_when_they_are_known() -> None:
    """An answer that was longer than estimated is paid for before the next one."""
    limited = quotas(tokens=1000)
    assert limited.admit("key", 100, 0.0).ok
    limited.settle("key", 100, 1900, 0.0)
    assert limited.admit("key", 10, 0.0).limit == "tokens"
    assert not limited.admit("key", 10, 54.0).ok
    assert limited.admit("key", 10, 55.0).ok


def test_a_request_larger_than_the_bucket_needs_it_full() -> None:
    """Else it could never be served."""
    limited = quotas(tokens=1000)
    assert limited.admit("key", 5000, 0.0).ok
    assert not limited.admit("key", 1, 0.0).ok


def test_requests_at_a_time_are_counted_to_their_end() -> None:
    """Two at a time, and each end makes room for one."""
    limited = quotas(concurrent=2)
    assert limited.admit("key", 1, 0.0).ok
    assert limited.admit("key", 1, 0.0).ok
    assert limited.admit("key", 1, 0.0).limit == "concurrent"
    assert limited.admit("other", 1, 0.0).ok
    limited.leave("key")
    assert limited.admit("key", 1, 0.0).ok
    for _ in range(9):
        limited.leave("key")
    assert [limited.admit("key", 1, 0.0).ok for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("busy", [False, True])
def test_the_number_of_keys_kept_has_a_bound(busy: bool) -> None:
    """Idle ones go first; where none is idle, the one known for longest."""
    limited = quotas(requests=1000)
    for number in range(10_050):
        assert limited.admit(f"key-{number}", 1, float(number)).ok
        if not busy:
            limited.leave(f"key-{number}")
    assert len(limited._accounts) <= 10_000
