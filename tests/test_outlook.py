"""What the outlook learns of zones: how soon they preempt, what that costs in time, when to ask them again."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.policy.outlook import GRAIN_S, Outlook
from hedgeserve.policy.plan import NewsKind, ZoneNews
from hedgeserve.replica import Market, ZoneId
from tests.zoneworld import EXTERNAL, ON_DEMAND, SPOT, A, B, C

HOUR = 3600.0
AWS, GCP = ZoneId("aws/us-east-1/us-east-1a"), ZoneId("gcp/us-central1/us-central1-a")


def outlook(retry_delay_s: float = 30.0, notice_lead_s: float | None = None) -> Outlook:
    return Outlook(retry_delay_s=retry_delay_s, notice_lead_s=notice_lead_s)


def news(
    kind: NewsKind,
    at_s: float,
    zone: ZoneId = A,
    market: Market = SPOT,
    held_s: float | None = None,
    lead_s: float | None = None,
) -> ZoneNews:
    return ZoneNews(zone, market, kind, at_s, "", held_s, lead_s)


def granted(told: Outlook, at_s: float, zone: ZoneId = A) -> None:
    told.observe(news(NewsKind.GRANTED, at_s, zone))


def lost(told: Outlook, at_s: float, zone: ZoneId = A, lead_s: float | None = None) -> None:
    told.observe(news(NewsKind.PREEMPTED, at_s, zone, held_s=600.0, lead_s=lead_s))


def refused(told: Outlook, at_s: float, zone: ZoneId = A) -> None:
    told.observe(news(NewsKind.NO_CAPACITY, at_s, zone))


def booted(told: Outlook, at_s: float, took_s: float, zone: ZoneId = A, market: Market = SPOT) -> None:
    told.observe(news(NewsKind.GRANTED, at_s - took_s, zone, market))
    told.observe(news(NewsKind.READY, at_s, zone, market, held_s=took_s))


def losing(told: Outlook, zone: ZoneId, times: Iterable[float]) -> None:
    """A replica is granted and lost ten minutes later, again and again."""
    for at_s in times:
        granted(told, at_s - 600, zone)
        lost(told, at_s, zone)


# How soon


def test_a_zone_that_holds_is_trusted_more_and_more() -> None:
    told = outlook()
    granted(told, 0.0)
    rates = [told.losses_per_hour(A, hours * HOUR) for hours in (0, 1, 3, 8, 24)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0] / 4


def test_a_loss_makes_a_zone_look_worse() -> None:
    told = outlook()
    granted(told, 0.0)
    granted(told, 0.0)
    before = told.losses_per_hour(A, 2 * HOUR)
    lost(told, 2 * HOUR)
    assert told.losses_per_hour(A, 2 * HOUR) > 2 * before


def test_what_is_held_on_after_a_loss_begins_a_new_spell() -> None:
    told = outlook()
    granted(told, 0.0)
    granted(told, 0.0)
    lost(told, 2 * HOUR)
    assert told.held_for_h(A, 2 * HOUR) == 0.0
    assert told.held_for_h(A, 3 * HOUR) == 1.0
    lost(told, 3 * HOUR)
    assert told.held_for_h(A, 3 * HOUR) is None


def test_a_zone_that_lost_often_is_worse_than_one_that_lost_once() -> None:
    """Both were lost at the same moment the last time; what differs is what came before."""
    told = outlook()
    losing(told, A, [hour * HOUR for hour in range(1, 9)])
    losing(told, B, [8 * HOUR])
    assert told.losses_per_hour(A, 9 * HOUR) > 1.5 * told.losses_per_hour(B, 9 * HOUR)


def test_a_zone_nobody_knows_is_between_one_that_held_and_one_that_loses() -> None:
    told = outlook()
    granted(told, 0.0, A)
    losing(told, B, [hour * HOUR for hour in range(2, 9)])
    now_s = 8.5 * HOUR
    assert told.losses_per_hour(A, now_s) < told.losses_per_hour(C, now_s) < told.losses_per_hour(B, now_s)
    assert told.held_for_h(C, now_s) is None


@pytest.mark.parametrize("apart_s", [0.0, 2.0])
def test_several_vms_taken_at_one_moment_are_one_loss(apart_s: float) -> None:
    """One VM is told a moment after the other; the zone had one bad moment all the same."""
    one, many = outlook(), outlook()
    granted(one, 0.0)
    lost(one, HOUR)
    for _ in range(4):
        granted(many, 0.0)
    for number in range(4):
        lost(many, HOUR + number * apart_s)
    later_s = 2 * HOUR
    assert many.losses_per_hour(A, later_s) == pytest.approx(one.losses_per_hour(A, later_s), rel=0.02)


def test_losses_at_different_times_add_up() -> None:
    one, many = outlook(), outlook()
    for told, times in ((one, [0.0]), (many, [0.0, 120.0, 240.0, 360.0])):
        for _ in times:
            granted(told, -HOUR)
        for number in times:
            lost(told, HOUR + number)
    assert many.losses_per_hour(A, 2 * HOUR) > 1.5 * one.losses_per_hour(A, 2 * HOUR)


def test_the_end_of_a_notice_is_not_a_second_loss() -> None:
    noticed, told_of_both = outlook(), outlook()
    for told in (noticed, told_of_both):
        granted(told, 0.0)
        told.observe(news(NewsKind.NOTICE, HOUR, held_s=HOUR, lead_s=120.0))
    lost(told_of_both, HOUR + 120, lead_s=120.0)
    for now_s in (HOUR + 300, 3 * HOUR):
        assert told_of_both.losses_per_hour(A, now_s) == noticed.losses_per_hour(A, now_s)


def test_a_vm_taken_before_it_served_is_a_loss_and_a_refused_launch_is_none() -> None:
    taken, unheard = outlook(), outlook()
    for told, held_s in ((taken, 60.0), (unheard, None)):
        granted(told, 0.0, B)
        losing(told, A, [HOUR])
        granted(told, 2 * HOUR)
        told.observe(news(NewsKind.NO_CAPACITY, 2 * HOUR + 60, held_s=held_s))
    assert taken.losses_per_hour(A, 2 * HOUR + 600) > unheard.losses_per_hour(A, 2 * HOUR + 600)


def test_what_is_long_past_fades() -> None:
    told = outlook()
    losing(told, A, [hour * HOUR for hour in range(1, 9)])
    losing(told, B, [8 * HOUR])
    soon, late = 9 * HOUR, 4 * 24 * HOUR
    assert told.losses_per_hour(A, soon) / told.losses_per_hour(B, soon) > 1.5
    assert told.losses_per_hour(A, late) / told.losses_per_hour(B, late) == pytest.approx(1.0, abs=0.02)


def test_a_vm_that_we_let_go_of_is_no_loss() -> None:
    told = outlook()
    granted(told, 0.0)
    held = told.losses_per_hour(A, 3 * HOUR)
    told.observe(news(NewsKind.RELEASED, 3 * HOUR, held_s=3 * HOUR))
    assert told.held_for_h(A, 3 * HOUR) is None
    granted(told, 3 * HOUR + 60)
    losing(told, B, [3 * HOUR])
    granted(told, 3 * HOUR + 60, B)
    assert told.losses_per_hour(A, 3 * HOUR + 60) < told.losses_per_hour(B, 3 * HOUR + 60)
    assert told.last_trouble(A) is None
    assert held < told.losses_per_hour(A, 3 * HOUR + 60), "what is not watched may have ended since"


def test_on_demand_teaches_nothing_of_spot() -> None:
    told, fresh = outlook(), outlook()
    told.observe(news(NewsKind.GRANTED, 0.0, market=ON_DEMAND))
    told.observe(news(NewsKind.PREEMPTED, 60.0, market=ON_DEMAND))
    told.observe(news(NewsKind.NO_CAPACITY, 90.0, market=ON_DEMAND))
    assert told.losses_per_hour(A, HOUR) == fresh.losses_per_hour(A, HOUR)
    assert told.rests_until_s(A) is None


def test_outlooks_keep_still_between_two_grains_of_time() -> None:
    told = outlook()
    losing(told, A, [HOUR])
    granted(told, HOUR + 600)
    at_s = HOUR + 4 * GRAIN_S
    rates = {told.losses_per_hour(A, at_s + share * GRAIN_S) for share in (0.0, 0.3, 0.99)}
    assert len(rates) == 1
    assert told.losses_per_hour(A, at_s + GRAIN_S) not in rates


# Rebalance recommendations


def test_a_recommendation_to_move_raises_the_hazard_for_a_while() -> None:
    told = outlook()
    granted(told, 0.0)
    warned_s = 10 * HOUR
    before = told.losses_per_hour(A, warned_s)
    told.observe(news(NewsKind.REBALANCE, warned_s, held_s=warned_s))
    assert told.losses_per_hour(A, warned_s) > before + 1.0
    assert told.losses_per_hour(A, warned_s + HOUR / 2) < told.losses_per_hour(A, warned_s)
    assert told.losses_per_hour(A, warned_s + 4 * HOUR) < before
    assert told.held_for_h(A, warned_s) == 10.0, "nothing was lost"
    assert told.last_trouble(A) is None


# Cold starts


def test_a_cold_start_is_the_median_of_those_seen() -> None:
    told = outlook()
    assert told.cold_start_s() == 180.0
    for number, took_s in enumerate([100.0, 110.0, 900.0]):
        booted(told, 1000.0 * (number + 1), took_s)
    assert told.cold_start_s() == 110.0


def test_only_the_last_twenty_cold_starts_count() -> None:
    told = outlook()
    for number in range(40):
        booted(told, 1000.0 * (number + 1), 300.0 if number < 20 else 60.0, market=ON_DEMAND)
    assert told.cold_start_s() == 60.0


@pytest.mark.parametrize("market", [SPOT, ON_DEMAND, EXTERNAL])
def test_replicas_adopted_from_an_earlier_run_are_no_cold_starts(market: Market) -> None:
    """They have been there for hours; that says nothing of how long a launch takes."""
    told = outlook()
    for _ in range(3):
        told.observe(news(NewsKind.READY, 10.0, market=market, held_s=5 * HOUR))
    assert told.cold_start_s() == 180.0
    if market is not EXTERNAL:
        booted(told, 500.0, 90.0, market=market)
        assert told.cold_start_s() == 90.0


def test_adopted_replicas_are_held_one_by_one() -> None:
    """Two are found after a restart, one of them is let go: the spell of the other goes on."""
    told = outlook()
    for _ in range(2):
        told.observe(news(NewsKind.READY, 10.0, held_s=5 * HOUR))
    told.observe(news(NewsKind.RELEASED, 600.0, held_s=5 * HOUR))
    assert told.held_for_h(A, HOUR + 300) is not None
    told.observe(news(NewsKind.RELEASED, 700.0, held_s=5 * HOUR))
    assert told.held_for_h(A, HOUR + 300) is None


# The gap that a preemption leaves


def test_a_notice_nobody_has_seen_yet_is_half_believed() -> None:
    """A cold start of 180 s: 60 s are missed with AWS's 120 s of notice, 210 s without any."""
    assert outlook().gap_s(AWS) == pytest.approx((60 + 210) / 2)
    assert outlook().gap_s(GCP) == pytest.approx((150 + 210) / 2)
    assert outlook().gap_s(A) == pytest.approx(210.0), "this cloud promises nothing"


@pytest.mark.parametrize(("lead_s", "missed_s"), [(0.0, 210.0), (30.0, 150.0), (120.0, 60.0), (600.0, 0.0)])
def test_a_notice_that_the_user_knows_of_is_believed(lead_s: float, missed_s: float) -> None:
    assert outlook(notice_lead_s=lead_s).gap_s(A) == pytest.approx(missed_s)


def test_preemptions_that_came_with_a_notice_teach_how_long_it_is() -> None:
    told = outlook()
    for number in range(20):
        granted(told, number * HOUR, AWS)
        told.observe(news(NewsKind.NOTICE, (number + 0.5) * HOUR, AWS, held_s=1800.0, lead_s=150.0))
    assert told.gap_s(AWS) == pytest.approx(30.0, abs=3.0)


def test_preemptions_without_a_notice_are_believed_over_the_clouds_promise() -> None:
    told = outlook(notice_lead_s=600.0)
    losing(told, AWS, [hour * HOUR for hour in range(1, 20)])
    assert told.gap_s(AWS) == pytest.approx(210.0, abs=5.0)
    assert told.gap_s(GCP) == 0.0, "each cloud has its own ways"


def test_the_gap_follows_the_cold_start() -> None:
    told = outlook(notice_lead_s=120.0)
    booted(told, 1000.0, 100.0, market=ON_DEMAND)
    assert told.gap_s(AWS) == 0.0
    for number in range(2):
        booted(told, 5000.0 * (number + 1), 500.0, market=ON_DEMAND)
    assert told.gap_s(AWS) == pytest.approx(380.0)


# Rests


def test_rests_double_three_times_and_end_with_a_grant() -> None:
    told = outlook(retry_delay_s=40.0)
    assert told.rests_until_s(A) is None
    rests = []
    for number in range(5):
        refused(told, 1000.0 * number)
        until_s = told.rests_until_s(A)
        assert until_s is not None
        rests.append(until_s - 1000.0 * number)
    assert rests == [60.0, 120.0, 240.0, 480.0, 480.0]
    assert told.last_trouble(A) == ("no capacity", 4000.0)
    granted(told, 5000.0)
    assert (told.rests_until_s(A), told.last_trouble(A)) == (None, None)
    refused(told, 6000.0)
    assert told.rests_until_s(A) == 6060.0


def test_a_zone_that_took_a_replica_back_rests_too() -> None:
    told = outlook(retry_delay_s=40.0)
    granted(told, 0.0)
    lost(told, 1000.0)
    assert told.rests_until_s(A) == 1060.0
    assert told.last_trouble(A) == ("a preemption", 1000.0)


@pytest.mark.parametrize("granted_first", [True, False])
def test_a_zone_that_grants_some_and_refuses_the_rest_rests_longer_each_time(granted_first: bool) -> None:
    """It is full: what it grants must not make it be asked for the rest every minute."""
    told, rests = outlook(retry_delay_s=40.0), []
    for at_s in (0.0, 1000.0, 2000.0):
        answers = [granted, refused] if granted_first else [refused, granted]
        for answer in answers:
            answer(told, at_s)
        until_s = told.rests_until_s(A)
        assert until_s is not None
        rests.append(until_s - at_s)
    assert rests == [60.0, 120.0, 240.0]
    granted(told, 3000.0)
    assert told.rests_until_s(A) is None


# What is kept over a restart


def rebuilt(told: Outlook, now_s: float, restarted_s: float, **how: Any) -> Outlook:
    fresh = outlook(**how)
    fresh.restore(json.loads(json.dumps(told.export(now_s))), restarted_s)
    return fresh


def test_a_restart_forgets_nothing_that_matters() -> None:
    """The clock begins anew; A holds a replica that is adopted, B lost one, C refused one."""
    told = outlook()
    for zone in (A, B):
        losing(told, zone, [HOUR, 2 * HOUR])
        granted(told, 2 * HOUR + 600, zone)
    booted(told, 9 * HOUR, 77.0, zone=AWS)
    lost(told, 9.5 * HOUR, B)
    refused(told, 9.6 * HOUR, C)
    now_s, restarted_s = 10 * HOUR, 40 * GRAIN_S
    fresh = rebuilt(told, now_s, restarted_s)
    fresh.observe(news(NewsKind.READY, restarted_s, A, held_s=8 * HOUR - 600))
    fresh.observe(news(NewsKind.READY, restarted_s, AWS, held_s=HOUR))
    for zone in (A, B, C):
        before, after = told.losses_per_hour(zone, now_s), fresh.losses_per_hour(zone, restarted_s)
        assert after == pytest.approx(before, rel=0.05)
    assert fresh.cold_start_s() == 77.0
    for zone in (A, AWS):
        assert fresh.gap_s(zone) == told.gap_s(zone)
    kept, rests = fresh.rests_until_s(C), told.rests_until_s(C)
    assert kept is not None
    assert rests is not None
    assert kept - restarted_s == pytest.approx(rests - now_s)
    trouble = fresh.last_trouble(B)
    assert trouble is not None
    assert trouble[0] == "a preemption"
    assert restarted_s - trouble[1] == pytest.approx(HOUR / 2)


def test_what_nobody_asked_about_for_days_is_not_kept() -> None:
    told = outlook()
    losing(told, A, [HOUR])
    assert set(told.export(20 * HOUR)["spells"]) == {A}
    assert told.export(100 * HOUR)["spells"] == {}


@pytest.mark.parametrize(
    "memory",
    [
        {},
        {"spells": {}},
        {"spells": [], "cold_starts_s": [], "leads_s": {}},
        {"spells": {A: 1}, "cold_starts_s": [], "leads_s": {}},
        {"spells": {A: {"losses": "many"}}, "cold_starts_s": [], "leads_s": {}},
        {"spells": {}, "cold_starts_s": ["soon"], "leads_s": {}},
        {"spells": {}, "cold_starts_s": [float("nan")], "leads_s": {}},
        {"spells": {}, "cold_starts_s": [], "leads_s": {"aws": [10**400]}},
        {"spells": {}, "cold_starts_s": [], "leads_s": [60]},
    ],
)
def test_a_memory_of_another_shape_is_forgotten(memory: dict[str, Any]) -> None:
    told = outlook()
    losing(told, B, [HOUR])
    before = told.export(2 * HOUR)
    told.restore(memory, 2 * HOUR)
    assert told.export(2 * HOUR) == before


@st.composite
def histories(draw: st.DrawFn) -> list[ZoneNews]:
    """Anything that may be told, in order of time."""
    return [
        news(
            draw(st.sampled_from(list(NewsKind))),
            at_s,
            draw(st.sampled_from([A, B, AWS])),
            draw(st.sampled_from([SPOT, SPOT, ON_DEMAND])),
            draw(st.sampled_from([None, 0.0, 30.0, 120.0, 9000.0])),
            draw(st.sampled_from([None, 0.0, 30.0, 120.0])),
        )
        for at_s in sorted(draw(st.lists(st.floats(0, 40 * HOUR), max_size=40)))
    ]


@settings(deadline=None, max_examples=60)
@given(histories(), st.floats(0, 50 * HOUR), st.floats(0, 1e6))
def test_whatever_is_told_the_outlook_stays_in_its_bounds(
    told: list[ZoneNews], more_s: float, restarted_s: float
) -> None:
    seen = outlook()
    for one in told:
        seen.observe(one)
    now_s = (told[-1].at_s if told else 0.0) + more_s
    for found, then_s in ((seen, now_s), (rebuilt(seen, now_s, restarted_s), restarted_s)):
        for zone in (A, B, AWS):
            assert 0 < found.losses_per_hour(zone, then_s) < 1000
            assert 0 <= found.gap_s(zone) <= found.cold_start_s() + 30
            assert found.age_h(zone, then_s) >= 0
            until_s = found.rests_until_s(zone)
            assert until_s is None or until_s <= then_s + 360 + 1
