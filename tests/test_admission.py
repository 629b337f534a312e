"""The waiting line: order, bound, and the advice given to those turned away."""

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.admission import Line, Place
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId

REPLICA = RouteTarget(ReplicaId("r-1"), "http://r", ZoneId("local/east/a"), Market.SPOT)


def slots(free: int):
    """Chooses the one replica for the first ``free`` places that ask and have not failed on it."""
    left = free

    def choose(place: Place) -> RouteTarget | None:
        nonlocal left
        if left == 0 or (REPLICA.id in place.failed_on and not place.may_return):
            return None
        left -= 1
        return REPLICA

    return choose


@given(st.lists(st.integers(1, 1000), unique=True), st.integers(0, 20))
def test_the_line_is_served_in_order_of_arrival(arrivals: list[int], free: int) -> None:
    """However they entered it, those who arrived first are served first, and the others stay."""
    line = Line(longest=1000)
    for arrival in arrivals:
        assert line.enter(Place(arrival))
    served = [place.arrival for place, _ in line.assign(slots(free), now_s=0.0)]
    assert served == sorted(arrivals)[:free]
    assert len(line) == len(arrivals) - len(served)


@given(st.integers(0, 5), st.integers(0, 10))
def test_the_line_never_grows_beyond_its_bound_by_newcomers(longest: int, newcomers: int) -> None:
    """The first ``longest`` get in, the rest are turned away."""
    line = Line(longest)
    let_in = [line.enter(Place(arrival)) for arrival in range(newcomers)]
    assert let_in == [True] * min(longest, newcomers) + [False] * max(0, newcomers - longest)


def test_a_request_that_a_replica_failed_returns_to_where_it_stood() -> None:
    """It was admitted once: a full line does not turn it away, and it goes ahead of those behind it."""
    line = Line(longest=1)
    early, late = Place(1), Place(2)
    line.enter(early)
    line.assign(slots(1), now_s=0.0)
    line.enter(late)
    assert line.enter(early)
    assert [place for place, _ in line.assign(slots(1), now_s=1.0)] == [early]


def test_one_that_cannot_use_what_is_free_does_not_hold_up_the_others() -> None:
    """The only free replica has failed the first in line; the second takes it."""
    line = Line(longest=9)
    burnt, fresh = Place(1), Place(2)
    burnt.failed_on.add(REPLICA.id)
    line.enter(burnt)
    line.enter(fresh)
    assert [place for place, _ in line.assign(slots(9), now_s=0.0)] == [fresh]
    burnt.may_return = True
    assert [place for place, _ in line.assign(slots(9), now_s=0.0)] == [burnt]


def test_leaving_twice_is_leaving_once() -> None:
    """A client that goes away in the very moment in which it is served leaves twice."""
    line, place = Line(longest=9), Place(1)
    line.enter(place)
    line.leave(place)
    line.leave(place)
    assert len(line) == 0


@given(
    ready=st.booleans(),
    eta=st.one_of(st.none(), st.floats(0, 1e6)),
    jitter=st.floats(0, 1),
    waiting=st.integers(0, 50),
)
def test_retry_after_is_a_sane_number_of_seconds(
    ready: bool, eta: float | None, jitter: float, waiting: int
) -> None:
    """Never zero, never hours, whatever the sums say."""
    line = Line(longest=50)
    for arrival in range(waiting):
        line.enter(Place(arrival))
    assert 1 <= line.retry_after_s(0.0, ready=ready, boot_eta_s=eta, jitter=jitter) <= 375


def test_retry_after_follows_the_pace_of_the_line() -> None:
    """Ten requests in five seconds were served: with twenty more in line, come back in about ten seconds."""
    line = Line(longest=50)
    for arrival in range(30):
        line.enter(Place(arrival))
    for second in range(5):
        line.assign(slots(2), now_s=float(second))
    assert len(line) == 20
    assert line.retry_after_s(5.0, ready=True, boot_eta_s=None, jitter=0.0) == 11


def test_retry_after_is_the_boot_time_that_is_left_where_nothing_is_ready() -> None:
    """A replica is expected in 42 s; jitter adds a quarter at most."""
    line = Line(longest=50)
    assert line.retry_after_s(0.0, ready=False, boot_eta_s=42.0, jitter=0.0) == 42
    assert line.retry_after_s(0.0, ready=False, boot_eta_s=42.0, jitter=1.0) == 53


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 500)), min_size=2, max_size=60))
def test_keys_get_equal_shares_in_tokens(asked: list[tuple[str, int]]) -> None:
    """While both have somebody waiting, neither is ahead of the other by more than one request of theirs."""
    line = Line(longest=100)
    for arrival, (key, tokens) in enumerate(asked):
        line.enter(Place(arrival, key=key, tokens=tokens))
    waiting, served = {key: sum(one == key for one, _ in asked) for key in "ab"}, {"a": 0, "b": 0}
    most = max(tokens for _, tokens in asked)
    while waiting["a"] and waiting["b"]:
        ((place, _),) = line.assign(slots(1), now_s=0.0)
        waiting[place.key] -= 1
        served[place.key] += place.tokens
        if waiting["a"] and waiting["b"]:
            assert abs(served["a"] - served["b"]) <= 2 * most


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc")), max_size=40))
def test_priority_comes_first_and_arrival_last(asked: list[tuple[int, str]]) -> None:
    """No low one before a high one; of one key and priority in order of arrival; everybody once."""
    line = Line(longest=100)
    for arrival, (priority, key) in enumerate(asked):
        line.enter(Place(arrival, key=key, priority=priority))
    served = [place for place, _ in line.assign(slots(100), now_s=0.0)]
    assert [place.priority for place in served] == sorted((place.priority for place in served), reverse=True)
    for group in {(place.priority, place.key) for place in served}:
        mine = [place.arrival for place in served if (place.priority, place.key) == group]
        assert mine == sorted(mine)
    assert sorted(place.arrival for place in served) == list(range(len(asked)))
    assert len(line) == 0


def test_nobody_starves() -> None:
    """A request of low priority has waited through two rises: newcomers of high priority no longer pass it."""
    line = Line(longest=100)
    patient = Place(0, priority=0)
    line.enter(patient)
    line.assign(slots(0), now_s=0.0)
    for arrival, now_s in enumerate((10.0, 40.0, 59.0), start=1):
        line.enter(Place(arrival, priority=2))
        assert [place.priority for place, _ in line.assign(slots(1), now_s=now_s)] == [2]
    line.enter(Place(9, priority=2))
    assert [place for place, _ in line.assign(slots(1), now_s=61.0)] == [patient]


def test_those_whose_deadline_has_passed_leave() -> None:
    """They are not served, and make room."""
    line = Line(longest=2)
    late, early = Place(1, deadline_s=5.0), Place(2, deadline_s=9.0)
    line.enter(late)
    line.enter(early)
    assert line.full
    assert line.expired(5.0) == [late]
    assert line.expired(5.0) == []
    assert [place for place, _ in line.assign(slots(9), now_s=5.0)] == [early]


def test_one_that_was_away_has_no_credit_for_it() -> None:
    """A key that asked for nothing for long gets its share from now on, and no more."""
    line = Line(longest=1000)
    for arrival in range(40):
        line.enter(Place(arrival, key="steady", tokens=10))
    line.assign(slots(20), now_s=0.0)
    for arrival in range(100, 120):
        line.enter(Place(arrival, key="new", tokens=10))
    served = [place.key for place, _ in line.assign(slots(20), now_s=1.0)]
    assert 9 <= served.count("new") <= 11


def test_what_a_newcomer_must_expect() -> None:
    """Nothing where nobody waits and something is ready; a boot that is under way; the line over its pace."""
    line = Line(longest=100)
    assert line.expected_wait_s(0.0, ready=True, boot_eta_s=None) == 0
    assert line.expected_wait_s(0.0, ready=False, boot_eta_s=42.0) == 42.0
    for arrival in range(30):
        line.enter(Place(arrival))
    for second in range(10):
        line.assign(slots(2), now_s=float(second))
    assert 4 <= line.expected_wait_s(10.0, ready=True, boot_eta_s=None) <= 6
