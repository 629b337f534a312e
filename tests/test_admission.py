"""The waiting line: order, bound, and the advice given to those turned away."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.admission import Line, Place
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId

REPLICA = RouteTarget(ReplicaId("r-1"), "http://r", ZoneId("local/east/a"), Market.SPOT)
OTHER = RouteTarget(ReplicaId("r-2"), "http://s", ZoneId("local/east/b"), Market.SPOT)


def slots(free: int) -> Callable[[Place], RouteTarget | None]:
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


def choose_always(place: Place) -> RouteTarget:
    """There is room for everybody."""
    return REPLICA


def arrivals_of(served: list[tuple[Place, RouteTarget]]) -> list[int]:
    return [place.arrival for place, _ in served]


def test_the_high_go_before_the_normal_and_these_before_the_low() -> None:
    """Whatever the order in which they came."""
    line = Line(longest=9)
    for arrival, priority in enumerate((0, 1, 2, 0, 1, 2)):
        line.enter(Place(arrival, priority=priority))
    assert arrivals_of(line.assign(choose_always, 0.0)) == [2, 5, 1, 4, 0, 3]


def test_a_key_that_asks_for_little_is_not_held_up_by_one_that_asks_for_much() -> None:
    """A hundred of one key wait; the first of another is served second."""
    line = Line(longest=200)
    for arrival in range(100):
        line.enter(Place(arrival, key="much"))
    line.enter(Place(100, key="little"))
    assert arrivals_of(line.assign(slots(3), 0.0)) == [0, 100, 1]


def test_shares_are_counted_in_tokens() -> None:
    """One key's requests cost three times as much as the other's: it has a third as many served."""
    line = Line(longest=200)
    for arrival in range(100):
        line.enter(Place(2 * arrival, key="dear", tokens=300))
        line.enter(Place(2 * arrival + 1, key="cheap", tokens=100))
    served = [place.key for place, _ in line.assign(slots(40), 0.0)]
    assert (served.count("dear"), served.count("cheap")) == (10, 30)


def test_a_key_that_was_idle_has_saved_nothing() -> None:
    """One key was served fifty times while the other did not ask: from then on they alternate."""
    line = Line(longest=200)
    for arrival in range(100):
        line.enter(Place(arrival, key="busy"))
    line.assign(slots(50), 0.0)
    for arrival in range(100, 150):
        line.enter(Place(arrival, key="idle so far"))
    served = [place.key for place, _ in line.assign(slots(20), 0.0)]
    assert served.count("idle so far") == 10


def test_a_key_that_asks_for_one_at_a_time_pays_for_what_it_had() -> None:
    """Its requests cost ten times as much, and it waits with the next as soon as one is served."""
    line, dear = Line(longest=200), 0
    for arrival in range(100):
        line.enter(Place(arrival, key="cheap", tokens=100))
    line.enter(Place(100, key="dear", tokens=1000))
    for arrival in range(101, 145):
        for place, _ in line.assign(slots(1), 0.0):
            if place.key == "dear":
                dear += 1
                line.enter(Place(arrival, key="dear", tokens=1000))
    assert dear in (4, 5)


def test_debts_end_when_nobody_waits() -> None:
    """One key had a dear request served before the line was empty: that is not held against it afterwards."""
    line = Line(longest=9)
    line.enter(Place(1, key="dear", tokens=1000))
    line.enter(Place(2, key="cheap"))
    line.assign(choose_always, 0.0)
    line.enter(Place(3, key="dear"))
    line.enter(Place(4, key="cheap"))
    assert arrivals_of(line.assign(choose_always, 0.0)) == [3, 4]


def test_between_equal_keys_the_one_that_came_first_is_served() -> None:
    """By the first that waits now: the first of one key went away, that of another came back."""
    line = Line(longest=9)
    gone = Place(1, key="a")
    line.enter(gone)
    line.enter(Place(5, key="b"))
    line.enter(Place(10, key="a"))
    line.enter(Place(20, key="c"))
    line.enter(Place(2, key="c"))
    line.leave(gone)
    assert arrivals_of(line.assign(slots(3), 0.0)) == [2, 5, 10]


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=1, max_size=60), st.data())
def test_two_keys_that_always_wait_have_equal_shares(costs: list[tuple[int, int]], data: st.DataObject) -> None:
    """At every moment the tokens they were served differ by no more than the dearest request."""
    line = Line(longest=1000)
    for arrival, (one, other) in enumerate(costs):
        line.enter(Place(2 * arrival, key="one", tokens=one))
        line.enter(Place(2 * arrival + 1, key="other", tokens=other))
    dearest = max(max(pair) for pair in costs)
    waiting = {"one": len(costs), "other": len(costs)}
    tokens = {"one": 0, "other": 0}
    now_s = 0.0
    while min(waiting.values()) > 0:
        now_s += data.draw(st.floats(0, 20))
        for place, _ in line.assign(slots(1), now_s):
            waiting[place.key] -= 1
            tokens[place.key] += place.tokens
        if min(waiting.values()) > 0:
            assert abs(tokens["one"] - tokens["other"]) <= dearest


@dataclass
class Served:
    """When each place of a busy service was served, one a second."""

    at_s: dict[int, float]


def busy_service(seconds: int, *, watched: Place, flood_priority: int) -> Served:
    """A line in which one of ``flood_priority`` always waits, of ever the same key."""
    line, served = Line(longest=10_000), Served({})
    line.enter(watched)
    for second in range(seconds):
        for extra in range(2):
            line.enter(Place(1000 + 2 * second + extra, key="flood", priority=flood_priority, tokens=100))
        for place, _ in line.assign(slots(1), float(second)):
            served.at_s[place.arrival] = float(second)
    return served


@pytest.mark.parametrize(("priority", "bound_s"), [(0, 62.0), (1, 32.0)])
def test_nobody_starves(priority: int, bound_s: float) -> None:
    """Requests of high priority always wait, but one that is old enough has its turn."""
    served = busy_service(120, watched=Place(1, priority=priority), flood_priority=2)
    assert bound_s - 3 <= served.at_s[1] <= bound_s


def test_old_places_of_one_key_do_not_push_its_equals_aside() -> None:
    """A thousand have waited for a minute; one of another key comes, and is among the next two."""
    line = Line(longest=2000)
    for arrival in range(1000):
        line.enter(Place(arrival, key="flood", tokens=100))
    for second in range(60):
        line.assign(slots(1), float(second))
    newcomer = Place(1000, key="other", tokens=100)
    line.enter(newcomer)
    assert newcomer in [place for place, _ in line.assign(slots(2), 61.0)]


def test_the_high_keep_their_turns_though_the_low_have_waited_long() -> None:
    """A low flood has waited for minutes: those of high priority still have every other turn at the least."""
    line = Line(longest=2000)
    for arrival in range(100):
        line.enter(Place(arrival, key="flood", priority=0))
    line.assign(slots(0), 0.0)
    for arrival in range(100, 110):
        line.enter(Place(arrival, key="urgent", priority=2))
    served = [place.key for place, _ in line.assign(slots(20), 300.0)]
    assert served.count("urgent") == 10


def test_the_low_have_no_more_than_their_turns_once_they_have_waited_long() -> None:
    """While they waited a hundred others were served: they do not catch up, they have every other turn."""
    line = Line(longest=2000)
    for arrival in range(200):
        line.enter(Place(arrival, key="urgent", priority=2))
        line.enter(Place(1000 + arrival, key="patient", priority=0))
    line.assign(slots(100), 0.0)
    served = [place.key for place, _ in line.assign(slots(20), 60.0)]
    assert served.count("patient") == 10


def test_of_two_priorities_that_have_waited_long_the_higher_has_the_first_turn() -> None:
    """Though it had its last turn later than the other."""
    line = Line(longest=2000)
    line.enter(Place(1, priority=1))
    line.assign(choose_always, 0.0)
    for arrival in range(2, 200):
        line.enter(Place(arrival, priority=2))
    line.enter(Place(200, priority=0))
    line.enter(Place(201, priority=1))
    line.assign(slots(100), 0.0)
    assert arrivals_of(line.assign(slots(2), 60.0)) == [201, 200]


def test_nobody_has_waited_before_they_came() -> None:
    """The clock stood at a thousand seconds when they entered: priorities hold."""
    line = Line(longest=9)
    line.enter(Place(1, priority=2))
    line.assign(choose_always, 1000.0)
    line.enter(Place(2, priority=0))
    line.enter(Place(3, priority=2))
    assert arrivals_of(line.assign(slots(1), 1000.0)) == [3]


def test_time_spent_at_a_replica_is_no_time_in_the_line() -> None:
    """A low request comes back after ten minutes: it does not go ahead of those of normal priority for that."""
    line = Line(longest=9)
    low, normal = Place(1, priority=0), Place(2)
    line.enter(low)
    line.assign(slots(1), 0.0)
    line.enter(low)
    line.enter(normal)
    assert [place for place, _ in line.assign(slots(1), 600.0)] == [normal]


def test_one_past_its_deadline_is_told_of_once_and_never_served() -> None:
    """It was late for its deadline by a moment, whether anybody had looked or not."""
    line = Line(longest=9)
    late, patient = Place(1, deadline_s=10.0), Place(2, deadline_s=99.0)
    line.enter(late)
    line.enter(patient)
    assert line.expired(10.0) == []
    assert [place for place, _ in line.assign(choose_always, 10.1)] == [patient]
    assert len(line) == 1
    assert line.expired(10.1) == [late]
    assert line.expired(10.2) == []
    assert len(line) == 0


def test_one_that_left_is_not_told_of_as_late() -> None:
    """Its client went away after the deadline had passed, and before anybody was told."""
    line, late = Line(longest=9), Place(1, deadline_s=10.0)
    line.enter(late)
    line.assign(choose_always, 11.0)
    line.leave(late)
    assert line.expired(12.0) == []
    assert len(line) == 0


def test_entering_twice_is_entering_once() -> None:
    """There is one place for it, served once."""
    line, place = Line(longest=9), Place(1)
    assert line.enter(place)
    assert line.enter(place)
    assert arrivals_of(line.assign(choose_always, 0.0)) == [1]


def test_a_choice_that_fails_loses_nobody() -> None:
    """One was put aside when the choice broke down: both are there afterwards."""
    line = Line(longest=9)
    burnt, fresh = Place(1), Place(2)
    burnt.failed_on.add(REPLICA.id)
    line.enter(burnt)
    line.enter(fresh)

    def broken(place: Place) -> RouteTarget | None:
        if place is fresh:
            raise LookupError
        return None

    with pytest.raises(LookupError):
        line.assign(broken, 0.0)
    assert arrivals_of(line.assign(choose_always, 0.0)) == [1, 2]


STEPS = st.one_of(
    st.tuples(
        st.just("enter"),
        st.integers(0, 10_000),
        st.sampled_from("abc"),
        st.integers(0, 2),
        st.one_of(st.none(), st.floats(0, 200)),
        st.integers(1, 500),
        st.sets(st.sampled_from([REPLICA.id, OTHER.id])),
    ),
    st.tuples(st.just("leave"), st.integers(0, 10_000)),
    st.tuples(st.just("return"), st.integers(0, 10_000)),
    st.tuples(st.just("may return"), st.integers(0, 10_000), st.booleans()),
    st.tuples(st.just("assign"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("wait"), st.floats(0, 40)),
)


def two_replicas(free: dict[RouteTarget, int]) -> Callable[[Place], RouteTarget | None]:
    """Chooses as routing does: one that has not failed the place; any if it may return and both have."""

    def choose(place: Place) -> RouteTarget | None:
        able = [target for target in free if target.id not in place.failed_on]
        if not able and place.may_return:
            able = list(free)
        for target in able:
            if free[target]:
                free[target] -= 1
                return target
        return None

    return choose


def needs(place: Place) -> tuple[frozenset[ReplicaId], bool]:
    """Places that need the same are served in the order of their arrival."""
    return frozenset(place.failed_on), place.may_return


@given(st.lists(STEPS, max_size=120))
def test_nobody_is_lost_served_twice_or_served_out_of_turn(steps: list[tuple[object, ...]]) -> None:
    """Whatever comes, goes, returns and expires: a plain list agrees on who waits, and on the order in a key."""
    line, waiting, served_once = Line(longest=30), list[Place](), list[Place]()
    now_s = 0.0
    for number, (what, *details) in enumerate(steps):
        match what, *details:
            case "enter", int(arrival), str(key), int(priority), deadline_s, int(tokens), set(failed_on):
                assert deadline_s is None or isinstance(deadline_s, float)
                place = Place(
                    arrival * 1000 + number, key=key, priority=priority, deadline_s=deadline_s, tokens=tokens
                )
                place.failed_on |= failed_on
                assert line.enter(place) == (len(waiting) < 30)
                if len(waiting) < 30:
                    waiting.append(place)
            case "leave", int(index) if waiting:
                line.leave(waiting.pop(index % len(waiting)))
            case "return", int(index) if served_once:
                back = served_once.pop(index % len(served_once))
                assert line.enter(back)
                waiting.append(back)
            case "may return", int(index), bool(may_return) if waiting:
                waiting[index % len(waiting)].may_return = may_return
            case "assign", int(one), int(other):
                free = {REPLICA: one, OTHER: other}
                granted = line.assign(two_replicas(free), now_s)
                served = [place for place, _ in granted]
                assert len(set(served)) == len(served)
                assert set(served) <= set(waiting)
                assert [target for _, target in granted].count(REPLICA) == one - free[REPLICA]
                assert [target for _, target in granted].count(OTHER) == other - free[OTHER]
                assert all(place.deadline_s is None or place.deadline_s >= now_s for place in served)
                waiting = [place for place in waiting if place not in served]
                could = [p for p in waiting if p.deadline_s is None or p.deadline_s >= now_s]
                assert not any(two_replicas(dict(free))(place) for place in could)
                for first, then in pairwise(served):
                    if (first.key, first.priority, needs(first)) == (then.key, then.priority, needs(then)):
                        assert first.arrival < then.arrival
                for place in could:
                    alike = [
                        p
                        for p in served
                        if (p.key, p.priority, needs(p)) == (place.key, place.priority, needs(place))
                    ]
                    assert all(p.arrival < place.arrival for p in alike)
                served_once += served
            case ("expire",):
                late = line.expired(now_s)
                assert set(late) == {p for p in waiting if p.deadline_s is not None and p.deadline_s < now_s}
                waiting = [place for place in waiting if place not in late]
            case "wait", float(seconds):
                now_s += seconds
        assert len(line) == len(waiting)


class Counted(int):
    """A time of arrival that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < int(other)

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


@pytest.mark.parametrize("keys", [1, 100, 10_000])
def test_serving_one_of_ten_thousand_does_not_sort_them(keys: int) -> None:
    """A round that serves one compares some tens of places, not all."""
    line = Line(longest=10_000)
    for arrival in range(10_000):
        line.enter(Place(Counted(arrival), key=str(arrival % keys)))
    Counted.compared = 0
    for _ in range(100):
        assert len(line.assign(slots(1), 0.0)) == 1
    assert Counted.compared < 100 * 100


def test_a_line_of_which_nobody_can_be_served_costs_little_with_each_newcomer() -> None:
    """The one replica that has room has failed all five thousand: each round asks for one of them."""
    line, asked = Line(longest=10_000), 0

    def choose(place: Place) -> RouteTarget | None:
        nonlocal asked
        asked += 1
        return None

    Counted.compared = 0
    for arrival in range(5000):
        place = Place(Counted(arrival), key=str(arrival % 50), priority=arrival % 3)
        place.failed_on.add(REPLICA.id)
        line.enter(place)
        assert line.assign(choose, 0.0) == []
    assert asked == 5000
    assert Counted.compared < 5000 * 50


def test_a_wait_that_was_long_enough_counts_at_once() -> None:
    """Of three that a replica failed, one may return to it: that one is served, and only that one."""
    line, places = Line(longest=9), [Place(arrival) for arrival in range(3)]
    for place in places:
        place.failed_on.add(REPLICA.id)
        line.enter(place)
    assert line.assign(slots(9), 0.0) == []
    places[1].may_return = True
    assert arrivals_of(line.assign(slots(9), 0.0)) == [1]
    places[2].may_return = True
    places[2].may_return = False
    assert line.assign(slots(9), 0.0) == []
    assert len(line) == 2


def test_a_key_that_could_not_be_served_for_long_does_not_set_newcomers_back_to_where_it_is() -> None:
    """Once it is served after all, a key that comes then has its equal share, and not all that it missed."""
    line, burnt = Line(longest=2000), Place(0, key="burnt")
    burnt.failed_on.add(REPLICA.id)
    line.enter(burnt)
    for arrival in range(1, 200):
        line.enter(Place(arrival, key="busy", tokens=100))
    line.assign(slots(100), 0.0)
    burnt.may_return = True
    assert arrivals_of(line.assign(slots(1), 0.0)) == [0]
    for arrival in range(200, 300):
        line.enter(Place(arrival, key="new", tokens=100))
    served = [place.key for place, _ in line.assign(slots(20), 0.0)]
    assert 9 <= served.count("new") <= 11


def test_a_key_pays_for_all_that_it_was_served_whatever_failed_it_before() -> None:
    """Half of one key's requests were failed by a replica that is out of it: it has no second share for them."""
    line = Line(longest=2000)
    for arrival in range(100):
        twice = Place(3 * arrival, key="twice", tokens=100)
        twice.failed_on.add(OTHER.id)
        line.enter(twice)
        line.enter(Place(3 * arrival + 1, key="twice", tokens=100))
        line.enter(Place(3 * arrival + 2, key="once", tokens=100))
    served = [place.key for place, _ in line.assign(slots(40), 0.0)]
    assert served.count("once") == 20


class Watched(Place):
    """A place whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_places_that_were_left_are_forgotten_soon() -> None:
    """Ten thousand clients come and go behind one that stays: hardly any of them is still remembered."""
    line, seen = Line(longest=10_000), list[ref[Watched]]()
    line.enter(Place(0, priority=0))
    for arrival in range(1, 10_001):
        place = Watched(arrival, key=str(arrival % 7), deadline_s=1e9)
        seen.append(ref(place))
        line.enter(place)
        line.leave(place)
        del place
    assert sum(one() is not None for one in seen) <= 100


def test_a_newcomer_expects_to_wait_as_long_as_the_line_takes() -> None:
    """Two a second are served and twenty wait: ten seconds and a half."""
    line = Line(longest=50)
    for arrival in range(30):
        line.enter(Place(arrival))
    for second in range(5):
        line.assign(slots(2), now_s=float(second))
    assert line.expected_wait_s(5.0, ready=True, boot_eta_s=None) == 10.5


def test_a_newcomer_expects_the_boot_that_is_under_way() -> None:
    """Nothing is ready: it is the time that is left, or 10 s where nobody knows."""
    line = Line(longest=50)
    assert line.expected_wait_s(0.0, ready=False, boot_eta_s=42.0) == 42.0
    assert line.expected_wait_s(0.0, ready=False, boot_eta_s=None) == 10.0


def test_a_newcomer_expects_no_wait_where_nothing_is_known_against_it() -> None:
    """Nobody waits, or the line has never moved: nobody is turned away on a guess."""
    line = Line(longest=50)
    assert line.expected_wait_s(0.0, ready=True, boot_eta_s=None) == 0.0
    line.enter(Place(1))
    assert line.expected_wait_s(0.0, ready=True, boot_eta_s=None) == 0.0


def test_time_in_which_nobody_waits_does_not_slow_the_pace() -> None:
    """Ten a second were served, then nobody came for half a minute: the pace is ten a second still."""
    line = Line(longest=50)
    for arrival in range(20):
        line.enter(Place(arrival))
    for tenth in range(1, 21):
        line.assign(slots(0), now_s=tenth / 10 - 0.1)
        line.assign(slots(1), now_s=tenth / 10)
    assert len(line) == 0
    for arrival in range(20, 29):
        line.enter(Place(arrival))
    line.assign(slots(0), now_s=32.0)
    assert line.expected_wait_s(32.0, ready=True, boot_eta_s=None) == pytest.approx(1.0, rel=0.1)
