"""The autoscaler: from requests to replicas, calmly."""

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.policy.autoscale import Autoscaler, Bounds, LoadSignal, ScaleDecision
from hedgeserve.spec import ReplicasSpec


def spec(**keys: Any) -> ReplicasSpec:
    """Between 1 and 10 replicas of 1 request/s, up after 30 s, down after 120 s, unless said otherwise."""
    usual: dict[str, Any] = {
        "min": 1,
        "max": 10,
        "target_requests_per_second": 1.0,
        "window": "10s",
        "upscale_delay": "30s",
        "downscale_delay": "120s",
    }
    return ReplicasSpec(**(usual | keys))


class Load:
    """Requests that arrive at a rate, second by second, at an autoscaler."""

    def __init__(self, replicas: ReplicasSpec) -> None:
        self.autoscaler = Autoscaler(replicas)
        self.now_s = 5000.0
        self.arrived = 0.0
        self.say()

    def say(self, *, queued: int = 0, in_flight: int = 0) -> ScaleDecision:
        return self.autoscaler.decide(LoadSignal(self.now_s, int(self.arrived), queued, in_flight))

    def run(self, seconds: int, rate: float | Callable[[int], float], **more: int) -> list[ScaleDecision]:
        told = []
        for second in range(seconds):
            self.now_s += 1
            self.arrived += rate(second) if callable(rate) else rate
            told.append(self.say(**more))
        return told


def targets(decisions: Iterable[ScaleDecision]) -> list[int]:
    return [decision.target for decision in decisions]


def test_a_fixed_count_is_passed_through() -> None:
    load = Load(ReplicasSpec(count=3))
    [*_, last] = load.run(100, 50)
    assert (last.target, last.reason) == (3, "the number of replicas is fixed")
    assert last.rate_per_s == 50


def test_it_begins_with_the_fewest() -> None:
    assert Load(spec(min=2)).say().target == 2
    assert Load(spec(min=0)).say().target == 0


def test_the_candidate_is_the_rate_over_the_share_of_one_rounded_up() -> None:
    load = Load(spec(target_requests_per_second=2.0))
    [*_, last] = load.run(10, 7)
    assert (last.rate_per_s, last.candidate) == (7, 4)


def test_a_rate_that_fits_exactly_needs_no_replica_more() -> None:
    """2.1 requests/s at 0.7 each are 3 replicas, though 2.1 / 0.7 is a little more than 3 to a computer."""
    assert math.ceil(2.1 / 0.7) == 4
    autoscaler = Autoscaler(spec(target_requests_per_second=0.7))
    autoscaler.decide(LoadSignal(0, 0, 0, 0))
    assert autoscaler.decide(LoadSignal(10, 21, 0, 0)).candidate == 3


def test_what_arrived_before_the_first_look_is_no_load() -> None:
    autoscaler = Autoscaler(spec())
    assert autoscaler.decide(LoadSignal(0, 10_000, 0, 0)).rate_per_s == 0


def test_a_young_window_is_not_stretched() -> None:
    """Five requests in the first second are 0.5 per second over the window of 10 s, not 5 per second."""
    load = Load(spec(window="10s"))
    [first] = load.run(1, 5)
    assert first.rate_per_s == 0.5


def test_the_rate_forgets_what_is_older_than_the_window() -> None:
    load = Load(spec(window="10s"))
    load.run(60, 5)
    assert load.run(10, 0)[-1].rate_per_s == 0


def test_more_are_wanted_once_the_load_has_asked_for_them_for_the_whole_delay() -> None:
    load = Load(spec(window="1s"))
    load.run(200, 1)
    told = targets(load.run(60, 4))
    assert told.index(4) == 30
    assert set(told[:30]) == {1}


def test_fewer_are_wanted_once_the_load_has_asked_for_fewer_for_the_whole_delay() -> None:
    load = Load(spec(window="1s"))
    load.run(200, 4)
    told = targets(load.run(200, 2))
    assert told.index(2) == 120
    assert set(told[:120]) == {4}


def test_a_short_peak_changes_nothing() -> None:
    load = Load(spec(window="1s"))
    load.run(200, 2)
    assert set(targets([*load.run(29, 9), *load.run(300, 2)])) == {2}


def test_a_short_lull_changes_nothing() -> None:
    load = Load(spec(window="1s"))
    load.run(200, 4)
    assert set(targets([*load.run(119, 0.5), *load.run(300, 4)])) == {4}


def test_a_load_that_jitters_is_followed_as_far_as_all_samples_agree() -> None:
    """It asks for 4 and 7 in turn; a counter of decisions in a row may never act on that, this goes up to 4."""
    load = Load(spec(window="1s"))
    load.run(200, 1)
    told = targets(load.run(60, lambda second: 4 if second % 2 else 7))
    assert told[-1] == 4


def test_a_single_dissenting_sample_does_not_start_the_delay_anew() -> None:
    """A load of 5 with one second of 3 in it: after the delay the target is 3 at once, and 5 a delay later."""
    load = Load(spec(window="1s"))
    load.run(200, 1)
    told = targets(load.run(60, lambda second: 3 if second == 15 else 5))
    assert (told[30], told[45], told[46]) == (3, 3, 5)


def test_a_fast_rise_goes_step_by_step_without_a_pause() -> None:
    load = Load(spec(window="1s"))
    load.run(200, 1)
    told = targets(load.run(100, lambda second: 1 + second / 10))
    assert told == sorted(told)
    assert set(told) >= {2, 3, 4, 5, 6, 7}


def test_the_user_bounds_hold() -> None:
    load = Load(spec(min=2, max=3))
    told = load.run(100, 50)
    assert (told[-1].target, told[-1].candidate) == (3, 50)
    told = load.run(200, 0)
    assert (told[-1].target, told[-1].candidate) == (2, 0)


def test_a_target_that_a_bound_holds_is_not_said_to_be_the_loads() -> None:
    """Which key holds it, or what the calendar says, and what the load would ask for."""
    load = Load(spec(min=2, max=4))
    [*_, last] = load.run(200, 0)
    assert last.reason == "no fewer are wanted (`replicas.min`); 0 requests/s are work for 0 at 1 requests/s each"
    [*_, last] = load.run(200, 9)
    assert last.reason == "no more may run (`replicas.max`); 9 requests/s are work for 9 at 1 requests/s each"
    [*_, last] = load.run(200, 3)
    assert last.reason == "as the load asks (3 requests/s are work for 3 at 1 requests/s each)"
    held = Bounds(3, 4, "the calendar wants 3 at least until 18:00")
    idle = Load(spec(min=2, max=4))
    told = idle.autoscaler.decide(LoadSignal(idle.now_s, 0, 0, 0), held)
    told = idle.autoscaler.decide(LoadSignal(idle.now_s + 1, 0, 0, 0), held)
    assert told.reason.startswith("the calendar wants 3 at least until 18:00; 0 requests/s are work for 0")


def test_without_delays_it_follows_at_once() -> None:
    load = Load(spec(window="1s", upscale_delay="0s", downscale_delay="0s"))
    assert targets([*load.run(1, 5), *load.run(1, 2), *load.run(1, 8)]) == [5, 2, 8]


def test_from_zero_a_waiting_request_wakes_a_replica_at_once() -> None:
    load = Load(spec(min=0))
    load.run(100, 0)
    load.arrived += 1
    woken = load.say(queued=1)
    assert woken.target == 1
    assert woken.reason.startswith("a request is there and no replica")


def test_from_zero_a_burst_wakes_as_many_as_it_needs() -> None:
    load = Load(spec(min=0))
    load.run(100, 0)
    [woken] = load.run(1, 40)
    assert woken.target == 4


def test_to_zero_only_while_nothing_waits_or_is_answered() -> None:
    """One answer takes very long: its replica stays until it is done, and the delay counts from then."""
    load = Load(spec(min=0, window="1s"))
    load.run(200, 1)
    assert set(targets(load.run(300, 0, in_flight=1))) == {1}
    assert set(targets(load.run(300, 0, queued=1))) == {1}
    told = targets(load.run(121, 0))
    assert (told.index(0), told[-1]) == (120, 0)


def test_an_idle_service_that_may_sleep_sleeps_after_the_delay() -> None:
    load = Load(spec(min=0, window="1s"))
    load.run(1, 1)
    assert targets(load.run(130, 0))[-1] == 0


def test_reasons_have_their_numbers() -> None:
    load = Load(spec(window="1s"))
    load.run(200, 1)
    told = load.run(31, 4)
    assert told[0].reason == (
        "the load asks for 4, not yet for 30s (4 requests/s are work for 4 at 1 requests/s each)"
    )
    assert told[30].reason == (
        "for 30s the load has asked for at least 4 (4 requests/s are work for 4 at 1 requests/s each)"
    )


@settings(deadline=None, max_examples=50)
@given(
    rates=st.lists(st.tuples(st.integers(1, 60), st.floats(0, 20)), max_size=12),
    low=st.integers(0, 3),
    more=st.integers(1, 6),
)
def test_the_target_is_within_its_bounds_and_never_zero_while_busy(
    rates: list[tuple[int, float]], low: int, more: int
) -> None:
    load = Load(spec(min=low, max=low + more))
    for seconds, rate in rates:
        busy = int(rate > 10)
        for decision in load.run(seconds, rate, in_flight=busy):
            assert low <= decision.target <= low + more
            assert decision.target > 0 or not busy


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 12)), max_size=12))
def test_every_change_is_what_all_samples_of_its_delay_agree_on(rates: list[tuple[int, float]]) -> None:
    """The plain definition, checked against the cunning one: the extreme over the delay's candidates."""
    load = Load(spec())
    seen: list[tuple[float, int]] = [(load.now_s, 1)]
    before = 1
    for seconds, rate in rates:
        for _ in range(seconds):
            [decision] = load.run(1, rate)
            seen.append((load.now_s, min(max(decision.candidate, 1), 10)))
            age = load.now_s - seen[0][0]
            if decision.target > before:
                assert age >= 30
                assert decision.target == min(value for at_s, value in seen if at_s >= load.now_s - 30)
            elif decision.target < before:
                assert age >= 120
                assert decision.target == max(value for at_s, value in seen if at_s >= load.now_s - 120)
            before = decision.target


def test_its_memory_is_bounded_however_often_it_is_asked() -> None:
    """A hundred looks a second, at a load that is all over the place."""
    dice, autoscaler, arrived = random.Random(1), Autoscaler(spec(window="60s")), 0
    for look in range(20_000):
        arrived += dice.randrange(3)
        autoscaler.decide(LoadSignal(look / 100, arrived, 0, 0))
    assert len(autoscaler._window._samples) <= 122
    assert len(autoscaler._up._values) <= 10
    assert len(autoscaler._down._values) <= 10
