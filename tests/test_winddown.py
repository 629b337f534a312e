"""Running and resting: pauses, hours of sleep, requests that wake; and what a rest takes away."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.hedge import (
    Autoscaler,
    Bounds,
    Drain,
    LoadSignal,
    Observation,
    Pause,
    Rest,
    Rule,
    Standing,
    Terminate,
    WindDown,
    rest_plan,
)
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import ReplicasSpec, ScheduleSpec

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NIGHT = datetime(2026, 11, 25, 23, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def winddown(replicas: dict[str, Any] | None = None, **schedule: Any) -> WindDown:
    """Asleep from 22:00 to 7:00 UTC unless said otherwise; two replicas by day."""
    return WindDown(
        ScheduleSpec(**({"sleep": "22:00-07:00"} | schedule)), ReplicasSpec(**(replicas or {"count": 2}))
    )


def requests(total: int, *, queued: int = 0, in_flight: int = 0) -> LoadSignal:
    return LoadSignal(0.0, total, queued, in_flight)


def test_by_day_it_runs_and_knows_when_it_will_sleep() -> None:
    standing = winddown().decide(NOON, None, boot_s=None)
    assert (standing.rest, standing.bounds) == (Rest.AWAKE, Bounds(2, 2))
    assert (standing.until, standing.next_up) == (NOON.replace(hour=22), "asleep (schedule.sleep[0])")


def test_by_night_it_sleeps_whatever_comes() -> None:
    asleep = winddown()
    for total in (0, 5):
        standing = asleep.decide(NIGHT, requests(total, queued=1), boot_s=60)
        assert standing.rest is Rest.ASLEEP
        assert standing.bounds == Bounds(0, 0, "asleep until 07:00 UTC (schedule.sleep[0])")
        assert standing.until == NIGHT.replace(day=26, hour=7)
        assert not standing.on_request


@pytest.mark.parametrize(("boot_s", "lead_s"), [(None, 300), (90, 90)])
def test_it_wakes_a_boot_before_the_hour(boot_s: float | None, lead_s: int) -> None:
    """As long as boots have taken lately; five minutes where nobody knows."""
    asleep, due = winddown(), NIGHT.replace(day=26, hour=7) - timedelta(seconds=lead_s)
    assert asleep.decide(due - timedelta(seconds=1), None, boot_s=boot_s).rest is Rest.ASLEEP
    assert asleep.decide(due, None, boot_s=boot_s).rest is Rest.AWAKE


def test_the_lead_may_be_said() -> None:
    due = NIGHT.replace(day=26, hour=6, minute=58)
    assert winddown(lead="2m").decide(due, None, boot_s=900).rest is Rest.AWAKE
    assert winddown(lead="2m").decide(due - MINUTE, None, boot_s=900).rest is Rest.ASLEEP


def test_a_request_wakes_it_for_a_while_where_it_may() -> None:
    """From the last request on; what is still being answered then is not cut."""
    woken = winddown(wake_on_request=True, awake_for="10m")
    asleep = woken.decide(NIGHT, requests(7), boot_s=60)
    assert asleep.rest is Rest.AWAKE  # those seven are new to it
    woken.decide(NIGHT + 11 * MINUTE, requests(7), boot_s=60)
    asleep = woken.decide(NIGHT + 12 * MINUTE, requests(7, in_flight=1), boot_s=60)
    assert (asleep.rest, asleep.on_request) == (Rest.ASLEEP, True)
    awake = woken.decide(NIGHT + 13 * MINUTE, requests(8, queued=1), boot_s=60)
    assert awake.rest is Rest.AWAKE
    assert awake.bounds.lowest == 2
    assert awake.bounds.reason == "woken by a request, though asleep until 07:00 UTC (schedule.sleep[0])"
    assert woken.decide(NIGHT + 20 * MINUTE, requests(9), boot_s=60).rest is Rest.AWAKE
    assert woken.decide(NIGHT + 29 * MINUTE, requests(9, in_flight=1), boot_s=60).rest is Rest.AWAKE
    assert woken.decide(NIGHT + 31 * MINUTE, requests(9, in_flight=1), boot_s=60).rest is Rest.AWAKE
    assert woken.decide(NIGHT + 32 * MINUTE, requests(9), boot_s=60).rest is Rest.ASLEEP


def test_where_the_load_scales_it_a_request_wakes_one_replica() -> None:
    scaled = winddown({"min": 3, "max": 6, "target_requests_per_second": 1.0}, wake_on_request=True)
    bounds = scaled.decide(NIGHT, requests(1, queued=1), boot_s=60).bounds
    assert (bounds.lowest, bounds.highest) == (1, 6)


def test_a_pause_stands_above_all_and_ends_by_itself_or_by_hand() -> None:
    paused = winddown(wake_on_request=True)
    paused.pause(Pause(NOON, NOON + 5 * MINUTE, drain_s=30))
    standing = paused.decide(NOON + MINUTE, requests(3, queued=2), boot_s=60)
    assert standing.rest is Rest.PAUSED
    assert standing.until == NOON + 5 * MINUTE
    assert standing.drain_until == NOON + timedelta(seconds=30)
    assert standing.reason.startswith("paused until 2026-11-25 12:05 UTC")
    assert paused.decide(NOON + 5 * MINUTE, requests(3), boot_s=60).rest is Rest.AWAKE
    assert paused.paused is None
    paused.pause(Pause(NOON + 6 * MINUTE))
    assert paused.decide(NOON + timedelta(days=3), None, boot_s=60).until is None
    paused.resume(NOON + timedelta(days=3))
    assert paused.decide(NOON + timedelta(days=3), None, boot_s=60).rest is Rest.AWAKE


def test_a_person_may_wake_it_in_its_sleep_until_the_next_one() -> None:
    woken = winddown(awake_for="10m")
    assert woken.decide(NIGHT, None, boot_s=60).rest is Rest.ASLEEP
    woken.resume(NIGHT)
    assert "woken by `hedgeserve resume`" in woken.decide(NIGHT, None, boot_s=60).bounds.reason
    assert woken.decide(NIGHT + 11 * MINUTE, None, boot_s=60).rest is Rest.ASLEEP


def test_another_calendar_may_be_adopted_and_a_pause_goes_on() -> None:
    """What a person asked for does not end because a file was edited."""
    edited = winddown()
    edited.adopt(ScheduleSpec(), ReplicasSpec(count=5))
    assert edited.decide(NIGHT, None, boot_s=60).bounds == Bounds(5, 5)
    edited.pause(Pause(NIGHT))
    edited.adopt(ScheduleSpec(sleep="12:00-13:00"), ReplicasSpec(count=2))
    assert edited.decide(NIGHT, None, boot_s=60).rest is Rest.PAUSED
    edited.resume(NIGHT)
    assert edited.decide(NIGHT, None, boot_s=60).rest is Rest.AWAKE
    assert edited.decide(NOON + timedelta(days=1), None, boot_s=60).rest is Rest.ASLEEP


OFFER = Offer(ZoneId("local/east/a"), "small", Market.SPOT, 0.3, NOON)


def replica(number: int, state: State, market: Market = Market.SPOT) -> Replica:
    offer = Offer(OFFER.zone, "small", market, 0.3, NOON)
    return Replica(ReplicaId(f"r-{number}"), offer, state, 0.0, NOON)


def test_a_rest_drains_what_serves_and_ends_what_starts() -> None:
    """What ends already is left alone, and so are servers of somebody else."""
    states = [State.PLANNED, State.LOADING, State.READY, State.NOTICED, State.DRAINING, State.TERMINATING]
    fleet = [replica(number, state) for number, state in enumerate(states)]
    fleet.append(replica(9, State.READY, Market.EXTERNAL))
    standing = Standing(Rest.PAUSED, Bounds(0, 0), "paused", drain_until=NOON + MINUTE)
    plan = rest_plan(standing, Observation(1000.0, 0, tuple(fleet), (OFFER,)), NOON)
    assert plan.target == 0
    assert [(type(action), getattr(action, "replica", None)) for action in plan.actions] == [
        (Terminate, "r-0"),
        (Terminate, "r-1"),
        (Drain, "r-2"),
        (Drain, "r-3"),
    ]
    assert {(action.rule, action.gone) for action in plan.actions if not hasattr(action, "offer")} == {
        (Rule.PAUSED, GoneReason.SCALED_DOWN)
    }
    assert [action.deadline_s for action in plan.actions if isinstance(action, Drain)] == [1060.0, 1060.0]


# The autoscaler within bounds that change


ELASTIC = {"min": 1, "max": 8, "target_requests_per_second": 1.0, "window": "10s", "downscale_delay": "20m"}


def test_a_lower_bound_that_rises_is_followed_at_once_and_one_that_falls_too() -> None:
    """The load has long asked for one: nothing holds the four back once their hours are over."""
    autoscaler = Autoscaler(ReplicasSpec(**ELASTIC))
    for second in range(0, 1300, 10):
        autoscaler.decide(LoadSignal(float(second), 0, 0, 0))
    busy = autoscaler.decide(LoadSignal(1300.0, 0, 0, 0), Bounds(4, 8, "busy hours"))
    assert (busy.target, busy.reason) == (4, "busy hours")
    assert autoscaler.decide(LoadSignal(1310.0, 0, 0, 0), Bounds(1, 8)).target == 1


def test_a_rest_is_zero_whatever_the_load() -> None:
    autoscaler = Autoscaler(ReplicasSpec(**ELASTIC))
    resting = autoscaler.decide(LoadSignal(0.0, 0, 9, 9), Bounds(0, 0, "paused"))
    assert (resting.target, resting.reason) == (0, "paused")
    awake = autoscaler.decide(LoadSignal(1.0, 0, 0, 0), Bounds(1, 8))
    assert (awake.target, awake.reason) == (1, "at least 1 are wanted")


def test_idle_after_says_when_the_last_one_goes() -> None:
    """Sooner than downscale_delay, and although the rate still tells of requests that were answered."""
    keys = ELASTIC | {"min": 0, "idle_after": "5s"}
    autoscaler = Autoscaler(ReplicasSpec(**keys))
    autoscaler.decide(LoadSignal(0.0, 0, 0, 0))
    assert autoscaler.decide(LoadSignal(1.0, 1, 1, 0)).target == 1
    assert autoscaler.decide(LoadSignal(60.0, 1, 0, 1)).target == 1  # being answered is no idleness
    assert autoscaler.decide(LoadSignal(64.0, 1, 0, 0)).target == 1
    idle = autoscaler.decide(LoadSignal(65.0, 1, 0, 0))
    assert (idle.target, idle.reason) == (0, "no request for 5s")
    assert autoscaler.decide(LoadSignal(66.0, 2, 0, 0)).target == 1


def test_idle_after_may_be_longer_than_the_delay_for_other_steps() -> None:
    keys = ELASTIC | {"min": 0, "idle_after": "1h", "downscale_delay": "10s"}
    autoscaler = Autoscaler(ReplicasSpec(**keys))
    autoscaler.decide(LoadSignal(0.0, 0, 0, 0))
    autoscaler.decide(LoadSignal(1.0, 1, 1, 0))
    for second in range(2, 3600, 60):
        assert autoscaler.decide(LoadSignal(float(second), 1, 0, 0)).target == 1
    assert autoscaler.decide(LoadSignal(3601.0, 1, 0, 0)).target == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.integers(0, 50), st.integers(0, 6), st.integers(0, 6)),
        min_size=1,
        max_size=60,
    )
)
def test_the_target_is_within_the_bounds_of_the_moment(steps: list[tuple[int, int, int, int]]) -> None:
    autoscaler = Autoscaler(ReplicasSpec(**(ELASTIC | {"min": 0, "idle_after": "2m", "downscale_delay": "1m"})))
    now_s, total = 0.0, 0
    for gap_s, arrived, lowest, more in steps:
        now_s, total = now_s + gap_s, total + arrived
        target = autoscaler.decide(LoadSignal(now_s, total, 0, arrived % 2), Bounds(lowest, lowest + more)).target
        assert lowest <= target <= lowest + more
