"""Quotas by key: what comes in, what is put right afterwards, and what is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.quotas import Quotas


def quotas(
    *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None, concurrent: int | None = None
) -> Quotas:
    return Quotas(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, concurrent=concurrent
    )


def test_without_limits_all_come_in_and_nothing_is_kept() -> None:
    """The very same verdict for everybody, and no account of anybody."""
    free = quotas()
    verdicts = {id(free.admit(str(key), 10**9, 0.0)) for key in range(100)}
    free.settle("1", 1, 10**9, 0.0)
    free.leave("1")
    assert len(verdicts) == 1
    assert free.admit("1", 1, 0.0).ok
    assert len(free) == 0


def test_requests_refill_all_the_time() -> None:
    """Sixty a minute: sixty at once, then one a second."""
    limited = quotas(requests_per_minute=60)
    assert all(limited.admit("key", 1, 0.0).ok for _ in range(60))
    refused = limited.admit("key", 1, 0.0)
    assert (refused.ok, refused.limit) == (False, "requests")
    assert refused.retry_after_s == pytest.approx(1.0)
    assert limited.admit("key", 1, 1.0).ok
    assert not limited.admit("key", 1, 1.5).ok


def test_tokens_refill_all_the_time() -> None:
    """Six hundred a minute, all used: a request of a hundred may come after ten seconds."""
    limited = quotas(tokens_per_minute=600)
    assert limited.admit("key", 600, 0.0).ok
    refused = limited.admit("key", 100, 0.0)
    assert refused.limit == "tokens"
    assert refused.retry_after_s == pytest.approx(10.0)
    assert limited.admit("key", 100, 10.0).ok


def test_keys_do_not_pay_for_each_other() -> None:
    """One has used up what it may; the other has not."""
    limited = quotas(requests_per_minute=1, concurrent=1)
    assert limited.admit("one", 1, 0.0).ok
    assert not limited.admit("one", 1, 0.0).ok
    assert limited.admit("other", 1, 0.0).ok


def test_as_many_at_once_as_are_allowed() -> None:
    """The third may come when one of the two is over."""
    limited = quotas(concurrent=2)
    assert limited.admit("key", 1, 0.0).ok
    assert limited.admit("key", 1, 0.0).ok
    refused = limited.admit("key", 1, 0.0)
    assert (refused.ok, refused.limit) == (False, "concurrent")
    assert refused.retry_after_s > 0
    limited.leave("key")
    assert limited.admit("key", 1, 0.0).ok


def test_a_request_that_is_refused_costs_nothing() -> None:
    """Its tokens are too many, so its share of requests is not taken either."""
    limited = quotas(requests_per_minute=2, tokens_per_minute=100)
    assert limited.admit("key", 90, 0.0).ok
    assert all(limited.admit("key", 50, 0.0).limit == "tokens" for _ in range(9))
    assert limited.admit("key", 10, 0.0).ok


def test_the_limit_that_lasts_the_longest_is_told_of() -> None:
    """Requests are there again in a second, tokens only in half a minute."""
    limited = quotas(requests_per_minute=60, tokens_per_minute=600)
    for _ in range(60):
        limited.admit("key", 10, 0.0)
    refused = limited.admit("key", 300, 0.0)
    assert refused.limit == "tokens"
    assert refused.retry_after_s == pytest.approx(30.0)


def test_a_request_dearer_than_a_bucket_comes_in_when_the_bucket_is_full() -> None:
    """It could never run otherwise; all of it must refill before the next one."""
    limited = quotas(tokens_per_minute=60)
    limited.admit("key", 1, 0.0)
    refused = limited.admit("key", 180, 0.0)
    assert refused.retry_after_s == pytest.approx(1.0)
    assert limited.admit("key", 180, 1.0).ok
    assert limited.admit("key", 1, 1.0).retry_after_s == pytest.approx(121.0)


def test_a_bucket_in_debt_must_refill_first() -> None:
    """Ten were thought to be enough and a hundred were used: forty are missing, and one for the next request."""
    limited = quotas(tokens_per_minute=60)
    limited.admit("key", 10, 0.0)
    limited.leave("key")
    limited.settle("key", 10, 100, 0.0)
    assert limited.admit("key", 1, 0.0).retry_after_s == pytest.approx(41.0)
    assert limited.admit("key", 1, 41.0).ok


def test_what_was_not_used_is_given_back_up_to_a_full_bucket() -> None:
    """It was refilled already when the answer turned out to be short: there is no more than a minute's worth."""
    limited = quotas(tokens_per_minute=60)
    limited.admit("key", 60, 0.0)
    limited.settle("key", 60, 30, 0.0)
    assert limited.admit("key", 30, 0.0).ok
    limited.settle("key", 30, 0, 60.0)
    assert limited.admit("key", 60, 60.0).ok
    assert not limited.admit("key", 1, 60.0).ok


def test_leaving_too_often_gives_nothing_away() -> None:
    """The count of requests under way never falls below none."""
    limited = quotas(concurrent=1)
    limited.leave("key")
    limited.admit("key", 1, 0.0)
    limited.leave("key")
    limited.leave("key")
    assert limited.admit("key", 1, 0.0).ok
    assert not limited.admit("key", 1, 0.0).ok


def test_full_buckets_are_forgotten_and_debts_are_kept() -> None:
    """Twenty thousand keys come and go behind one in debt and one at work: these two are still known."""
    limited = quotas(tokens_per_minute=60, concurrent=1)
    limited.admit("in debt", 10_000_000, 0.0)
    limited.leave("in debt")
    limited.admit("at work", 1, 0.0)
    for number in range(20_000):
        now_s = float(number)
        limited.admit(str(number), 1, now_s)
        limited.leave(str(number))
        assert len(limited) <= 10_000
    assert limited.admit("in debt", 1, 20_000.0).limit == "tokens"
    assert limited.admit("at work", 1, 20_000.0).limit == "concurrent"


def test_never_more_than_ten_thousand_keys_though_none_is_full() -> None:
    """All came within a moment: the one that has been silent the longest is forgotten."""
    limited = quotas(requests_per_minute=1)
    for number in range(10_100):
        limited.admit(str(number), 1, 0.0)
        limited.leave(str(number))
    assert len(limited) == 10_000
    assert not limited.admit("10099", 1, 0.0).ok


ASKS = st.lists(st.tuples(st.floats(0, 90), st.integers(1, 150)), max_size=80)


@given(ASKS, st.integers(1, 100), st.integers(150, 500))
def test_never_more_than_a_burst_and_the_rate(asks: list[tuple[float, int]], requests: int, tokens: int) -> None:
    """In every stretch of time a key gets no more than a full bucket and what flowed in meanwhile."""
    limited = quotas(requests_per_minute=requests, tokens_per_minute=tokens)
    admitted: list[tuple[float, int]] = []
    now_s = 0.0
    for pause_s, cost in asks:
        now_s += pause_s
        if limited.admit("key", cost, now_s).ok:
            admitted.append((now_s, cost))
        for index, (since_s, _) in enumerate(admitted):
            minutes = (now_s - since_s) / 60
            assert len(admitted) - index <= requests * (1 + minutes) + 1e-3
            assert sum(cost for _, cost in admitted[index:]) <= tokens * (1 + minutes) + 1e-3


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 2000), st.integers(0, 2000), st.sampled_from("ab")), max_size=60
    )
)
def test_who_comes_back_when_told_to_is_let_in(asks: list[tuple[float, int, int, str]]) -> None:
    """Whatever was used and put right before: the seconds named are enough."""
    limited = quotas(requests_per_minute=10, tokens_per_minute=1000)
    now_s = 0.0
    for pause_s, estimated, used, key in asks:
        now_s += pause_s
        verdict = limited.admit(key, estimated, now_s)
        if not verdict.ok:
            assert verdict.retry_after_s > 0
            now_s += verdict.retry_after_s
            if not (verdict := limited.admit(key, estimated, now_s)).ok:
                assert verdict.retry_after_s < 1e-3
                continue
        limited.leave(key)
        limited.settle(key, estimated, used, now_s)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=100), st.integers(1, 4))
def test_no_key_has_more_under_way_than_it_may(moves: list[tuple[str, bool]], most: int) -> None:
    """However they come and go."""
    limited = quotas(concurrent=most)
    under_way = dict.fromkeys("abc", 0)
    for key, comes in moves:
        if comes:
            ok = limited.admit(key, 1, 0.0).ok
            assert ok == (under_way[key] < most)
            under_way[key] += ok
        else:
            limited.leave(key)
            under_way[key] = max(under_way[key] - 1, 0)
