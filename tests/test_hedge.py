"""SpotHedge in stories: what it does when zones fill up, VMs are taken back and the load changes."""

import json
from dataclasses import replace
from typing import Any

import pytest

from hedgeserve.hedge import (
    Launch,
    NewsKind,
    Rule,
    ZoneNews,
)
from hedgeserve.replica import GoneReason, Market, Notice, Replica, State, ZoneId
from tests.zoneworld import (
    EXTERNAL,
    ON_DEMAND,
    SPOT,
    A,
    B,
    C,
    drains,
    hedge,
    launches,
    offer,
    offers,
    replica,
    see,
    tell,
    terminations,
    zones,
)

# Screenplays: starting, spreading, bridging, returning


def test_a_cold_start_spreads_spot_and_bridges_with_on_demand() -> None:
    """Nothing runs; three replicas are needed and one is to spare."""
    plan = hedge().plan(see())
    assert zones(launches(plan, SPOT)) == ["a", "b", "c", "a"]
    assert len(launches(plan, ON_DEMAND)) == 3
    assert {launch.rule for launch in launches(plan, ON_DEMAND)} == {Rule.FALLBACK}
    assert (plan.target, plan.spot_wanted, plan.on_demand_wanted) == (3, 4, 3)


def test_the_reasons_have_their_numbers() -> None:
    plan = hedge().plan(see(replica(1, A), replica(2, B), replica(3, C, state=State.LOADING), target=2))
    [bridge] = launches(plan, ON_DEMAND)
    assert bridge.reason == (
        "2 of 3 spot replicas are ready: on-demand bridges until local/east/c comes up; "
        "local/east/a is the cheapest of 3 zones without one that may be asked, 1.00 USD/h"
    )
    [spread] = launches(hedge().plan(see(replica(1, A), replica(2, B), target=2)), SPOT)
    assert spread.reason == (
        "2 of 3 spot replicas run or start (the load needs 2, 1 more to spare): "
        "local/east/c is the only zone without one that may be asked, 0.30 USD/h"
    )


def test_the_cheapest_zone_goes_first() -> None:
    seen = [offer(A, usd=0.5), offer(B, usd=0.2), offer(C, usd=0.3)]
    assert zones(launches(hedge().plan(see(offers=seen)))) == ["b", "c", "a", "b"]


def test_of_several_instance_types_the_cheapest_is_taken() -> None:
    seen = [offer(A, usd=0.5, kind="small"), offer(A, usd=0.4, kind="big")]
    [launch] = launches(hedge(overprovision=0).plan(see(target=1, offers=seen)))
    assert launch.offer.instance_type == "big"


def test_an_empty_zone_goes_before_a_cheaper_one_that_has_a_replica() -> None:
    seen = [offer(A, usd=0.1), offer(B, usd=0.9)]
    plan = hedge(overprovision=0, fallback=False).plan(see(replica(1, A), target=2, offers=seen))
    assert zones(launches(plan)) == ["b"]


def test_on_demand_goes_where_there_is_least_of_it() -> None:
    seen = [offer(A, ON_DEMAND, 1.0), offer(B, ON_DEMAND, 2.0), offer(C, ON_DEMAND, 3.0), offer(A)]
    plan = hedge().plan(see(replica(1, A, ON_DEMAND), target=3, offers=seen))
    assert zones(launches(plan, ON_DEMAND)) == ["b", "c"]


def settled_spot(count: int, since_s: float = 0.0) -> list[Replica]:
    return [replica(10 + n, (A, B, C)[n % 3], since_s=since_s) for n in range(count)]


def on_demand(count: int, state: State = State.READY) -> list[Replica]:
    return [replica(30 + n, (A, B, C)[n % 3], ON_DEMAND, state) for n in range(count)]


def test_on_demand_stays_until_spot_has_been_ready_for_a_while() -> None:
    """Four spot replicas are ready since second 950; on-demand is held for 60 s."""
    policy, fleet = hedge(), [*settled_spot(4, since_s=950), *on_demand(3)]
    assert policy.plan(see(*fleet, now_s=1009)).actions == ()
    plan = policy.plan(see(*fleet, now_s=1010))
    assert [drain.rule for drain in drains(plan)] == [Rule.BACK_TO_SPOT] * 3
    assert {drain.gone for drain in drains(plan)} == {GoneReason.REPLACED}
    assert drains(plan)[0].reason == (
        "4 of 4 spot replicas have been ready for 1m: of 3 on-demand ones 0 are needed"
    )


def test_an_on_demand_replica_that_still_starts_goes_as_soon_as_it_is_not_needed() -> None:
    fleet = [*settled_spot(4), *on_demand(1, State.LOADING)]
    plan = hedge().plan(see(*fleet))
    assert [end.replica for end in terminations(plan)] == ["chat-30"]
    assert drains(plan) == []


def test_of_on_demand_the_starting_then_the_dearest_then_the_newest_goes() -> None:
    fleet = [
        replica(1, A, ON_DEMAND, offer=offer(A, ON_DEMAND, 1.0)),
        replica(2, B, ON_DEMAND, offer=offer(B, ON_DEMAND, 2.0)),
        replica(3, C, ON_DEMAND, offer=offer(C, ON_DEMAND, 1.0)),
        replica(4, C, ON_DEMAND, State.BOOTING),
    ]
    order = []
    for spot in (1, 2, 3, 4):
        plan = hedge().plan(see(*settled_spot(spot), *fleet, target=3))
        gone = [action.replica for action in plan.actions if not isinstance(action, Launch)]
        order.append(gone)
    assert order == [
        ["chat-4"],
        ["chat-4", "chat-2"],
        ["chat-4", "chat-2", "chat-3"],
        ["chat-4", "chat-2", "chat-3", "chat-1"],
    ]


def test_on_demand_that_is_always_on_counts_as_the_base() -> None:
    plan = hedge(always_on_demand=2).plan(see(target=3))
    assert (plan.spot_wanted, plan.on_demand_wanted) == (2, 3)
    assert [launch.rule for launch in launches(plan, ON_DEMAND)] == [Rule.ALWAYS_ON] * 2 + [Rule.FALLBACK]


def test_without_fallback_only_the_always_on_are_on_demand() -> None:
    plan = hedge(fallback=False, always_on_demand=1).plan(see(target=3))
    assert len(launches(plan, ON_DEMAND)) == 1


def test_external_replicas_need_no_spot_and_no_bridge() -> None:
    external = [replica(n, ZoneId("static/x/x"), EXTERNAL) for n in (1, 2)]
    plan = hedge().plan(see(*external, target=3))
    assert (plan.spot_wanted, plan.on_demand_wanted) == (2, 1)


def test_external_replicas_that_are_not_ready_do_not_count() -> None:
    external = [replica(n, ZoneId("static/x/x"), EXTERNAL, State.LOADING) for n in (1, 2)]
    assert hedge().plan(see(*external, target=3)).spot_wanted == 4


def test_a_service_of_external_replicas_alone_launches_nothing() -> None:
    external = [replica(n, ZoneId("static/x/x"), EXTERNAL) for n in (1, 2)]
    plan = hedge().plan(see(*external, target=2, offers=[]))
    assert (plan.actions, plan.notes) == ((), ())


def test_pools_without_spot_run_all_on_demand_and_say_so() -> None:
    seen = [offer(A, ON_DEMAND), offer(B, ON_DEMAND)]
    plan = hedge(fallback=False).plan(see(target=3, offers=seen))
    assert len(launches(plan, ON_DEMAND)) == 3
    assert "no pool offers spot: all replicas are on-demand" in plan.notes


def test_pools_without_on_demand_say_that_nothing_bridges() -> None:
    plan = hedge().plan(see(target=3, offers=[offer(A)]))
    assert len(launches(plan)) == 4
    assert "on-demand replicas are wanted, and no pool offers any" in plan.notes


# Screenplays: the load changes


def test_a_smaller_load_takes_the_starting_spot_replicas_first() -> None:
    fleet = [*settled_spot(3), replica(1, B, state=State.LOADING), replica(2, C, state=State.PLANNED)]
    plan = hedge(overprovision=0).plan(see(*fleet, target=3))
    assert [end.replica for end in terminations(plan)] == ["chat-2", "chat-1"]
    assert drains(plan) == []


def test_a_smaller_load_takes_from_the_most_crowded_zone() -> None:
    fleet = [replica(1, A), replica(2, B), replica(3, B), replica(4, C)]
    plan = hedge().plan(see(*fleet, target=2))
    [drain] = drains(plan)
    assert (drain.replica, drain.rule, drain.gone) == ("chat-3", Rule.SCALE_DOWN, GoneReason.SCALED_DOWN)
    assert drain.reason == "the load needs 2: of 4 spot replicas 3 are wanted"


def test_crowding_is_counted_anew_for_each() -> None:
    fleet = [replica(1, A), replica(2, A), replica(3, A), replica(4, B), replica(5, B)]
    plan = hedge(overprovision=0).plan(see(*fleet, target=2, offers=offers(A, B)))
    assert [drain.replica for drain in drains(plan)] == ["chat-3", "chat-5", "chat-2"]


def test_a_smaller_load_sends_on_demand_away_as_scaled_down() -> None:
    plan = hedge(overprovision=0).plan(see(*on_demand(3), *settled_spot(0), target=1))
    assert [(drain.rule, drain.gone) for drain in drains(plan)] == [(Rule.SCALE_DOWN, GoneReason.SCALED_DOWN)] * 2


def test_no_load_takes_everything() -> None:
    plan = hedge().plan(see(*settled_spot(2), *on_demand(1), replica(1, state=State.LOADING), target=0))
    assert len(drains(plan)) == 3
    assert len(terminations(plan)) == 1


# Screenplays: notices and preemptions


def noticed(number: int, zone: ZoneId = A, deadline_s: float = 1030.0, market: Market = SPOT) -> Replica:
    return replica(number, zone, market, State.NOTICED, notice=Notice(deadline_s, "aws"))


def test_the_replacement_starts_with_the_notice() -> None:
    """Three replicas serve, one to spare; zone a takes one back in 30 s. The new one goes elsewhere, now."""
    policy = hedge(overprovision=0)
    tell(policy, A, NewsKind.NOTICE)
    plan = policy.plan(see(noticed(1, A), replica(2, B), replica(3, C), target=3))
    assert zones(launches(plan, SPOT)) == ["b"]
    assert len(launches(plan, ON_DEMAND)) == 1
    [drain] = drains(plan)
    assert (drain.replica, drain.rule, drain.gone) == ("chat-1", Rule.NOTICE, GoneReason.PREEMPTED)
    assert drain.deadline_s == 1030.0
    assert drain.reason == "aws says that the VM is taken back in 30s; 2 other replicas are ready"


def test_the_last_one_serves_on_under_notice_until_just_before_its_end() -> None:
    policy, last = hedge(), noticed(1)
    plan = policy.plan(see(last, now_s=1027))
    assert drains(plan) == []
    assert "chat-1 serves on under its notice: no other replica is ready" in plan.notes
    assert [drain.replica for drain in drains(policy.plan(see(last, now_s=1028)))] == ["chat-1"]


def test_one_under_notice_goes_at_once_when_nothing_is_needed() -> None:
    plan = hedge().plan(see(noticed(1), target=0))
    assert [drain.replica for drain in drains(plan)] == ["chat-1"]
    assert plan.notes == ()


def test_an_on_demand_replica_under_notice_is_replaced_too() -> None:
    fleet = [noticed(1, A, market=ON_DEMAND), *settled_spot(1)]
    plan = hedge(always_on_demand=1).plan(see(*fleet, target=1))
    assert [launch.rule for launch in launches(plan, ON_DEMAND)] == [Rule.ALWAYS_ON]
    assert [drain.replica for drain in drains(plan)] == ["chat-1"]


@pytest.mark.parametrize("kind", [NewsKind.NOTICE, NewsKind.PREEMPTED, NewsKind.NO_CAPACITY])
def test_a_zone_that_lost_a_replica_is_avoided_until_one_is_ready_there(kind: NewsKind) -> None:
    policy = hedge(fallback=False)
    tell(policy, A, kind, at_s=100)
    assert "a" not in zones(launches(policy.plan(see())))
    tell(policy, A, NewsKind.READY, at_s=200)
    assert "a" in zones(launches(policy.plan(see())))


def test_a_zone_that_lost_an_on_demand_replica_is_as_good_for_spot_as_before() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.PREEMPTED, market=ON_DEMAND)
    assert "a" in zones(launches(policy.plan(see())))


def test_when_fewer_than_two_zones_are_left_all_return() -> None:
    """The paper's rebalance: c alone would be left, so a and b are tried again."""
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.PREEMPTED, at_s=100)
    tell(policy, B, NewsKind.PREEMPTED, at_s=101)
    assert zones(launches(policy.plan(see()))) == ["a", "b", "c", "a"]
    tell(policy, C, NewsKind.PREEMPTED, at_s=102)
    assert zones(launches(policy.plan(see()))) == ["a", "b", "a", "b"]


def test_with_two_zones_the_one_that_failed_is_avoided_while_the_other_stands() -> None:
    policy = hedge(fallback=False)
    seen = see(offers=offers(A, B), target=1)
    tell(policy, A, NewsKind.PREEMPTED, at_s=100)
    assert zones(launches(policy.plan(seen))) == ["b", "b"]
    tell(policy, B, NewsKind.PREEMPTED, at_s=101)
    assert zones(launches(policy.plan(seen))) == ["a", "b"]


def test_a_single_zone_stays_available() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.PREEMPTED)
    assert zones(launches(policy.plan(see(offers=offers(A), target=1)))) == ["a", "a"]


# Screenplays: refusals and pauses


def test_a_zone_that_took_a_vm_back_before_it_served_was_not_refusing() -> None:
    """It rests all the same, since launch after launch would be paid for there; also after a restart."""
    policy = hedge(fallback=False)
    for at_s in (1000.0, 1040.0):
        policy.observe(ZoneNews(A, Market.SPOT, NewsKind.NO_CAPACITY, at_s, "the VM goes in 9 s", held_s=4.0))
        if at_s == 1000.0:
            rests = (
                "local/east/a rests for 30s from spot: a VM was taken back before it served (the VM goes in 9 s)"
            )
            assert policy.plan(see(now_s=1001)).notes == (rests,)
            again = hedge(fallback=False)
            again.restore_memory(policy.export_memory(1001), 1)
            assert again.plan(see(now_s=1)).notes == (rests,)
    (told,) = policy.plan(see(now_s=1041)).notes
    assert told.startswith("local/east/a rests for 1m from spot: a VM was taken back before it served (")
    assert told.endswith("), 2 times in a row without one that served")


def test_a_refused_zone_rests_and_a_note_says_so() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.LAUNCH_ERROR, at_s=1000, detail="throttled")
    plan = policy.plan(see(now_s=1029))
    assert "a" not in zones(launches(plan))
    assert plan.notes == ("local/east/a rests for 30s from spot: refused once (launch error: throttled)",)
    assert "a" in zones(launches(policy.plan(see(now_s=1030))))


def test_each_refusal_in_a_row_doubles_the_rest_up_to_sixteenfold() -> None:
    policy, now_s, rests = hedge(fallback=False), 0.0, []
    for _ in range(7):
        tell(policy, A, NewsKind.LAUNCH_ERROR, at_s=now_s)
        began_s = now_s
        while "a" not in zones(launches(policy.plan(see(now_s=now_s)))):
            now_s += 1
        rests.append(now_s - began_s)
    assert rests == [30, 60, 120, 240, 480, 480, 480]
    tell(policy, A, NewsKind.READY, at_s=now_s)
    tell(policy, A, NewsKind.LAUNCH_ERROR, at_s=now_s)
    assert "a" in zones(launches(policy.plan(see(now_s=now_s + 30))))


def test_refusals_of_launches_that_were_under_way_together_count_as_one() -> None:
    policy = hedge(fallback=False)
    for at_s in (1000.0, 1000.5, 1001.0):
        tell(policy, A, NewsKind.LAUNCH_ERROR, at_s=at_s)
    assert "a" in zones(launches(policy.plan(see(now_s=1030))))


def test_a_refusal_on_demand_does_not_touch_spot() -> None:
    policy = hedge()
    tell(policy, A, NewsKind.NO_CAPACITY, market=ON_DEMAND)
    plan = policy.plan(see())
    assert "a" in zones(launches(plan, SPOT))
    assert zones(launches(plan, ON_DEMAND)) == ["b", "c", "b"]


def test_a_zone_without_quota_is_not_asked_for_ten_minutes_and_not_called_preempted() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.QUOTA, at_s=1000, detail="0 of 0 vCPU")
    plan = policy.plan(see(now_s=1599))
    assert "a" not in zones(launches(plan))
    assert plan.notes == ("local/east/a has no quota left for spot, it is asked again every 10m (0 of 0 vCPU)",)
    assert policy.zone_states()[A].startswith("no quota: ")
    assert "a" in zones(launches(policy.plan(see(now_s=1600))))


def test_a_zone_without_quota_does_not_keep_the_others_from_returning() -> None:
    """Only a would be left of three, and it has no quota: b and c return, or nothing could be launched."""
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.QUOTA, at_s=1000)
    tell(policy, B, NewsKind.PREEMPTED, at_s=1001)
    tell(policy, C, NewsKind.PREEMPTED, at_s=1002)
    assert zones(launches(policy.plan(see(now_s=1003)))) == ["b", "c", "b", "c"]


def test_a_zone_that_never_has_it_is_not_asked_again() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.UNSUPPORTED, at_s=0)
    assert "a" not in zones(launches(policy.plan(see(now_s=1e6))))


def test_where_no_zone_has_spot_after_all_on_demand_takes_over() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.UNSUPPORTED)
    plan = policy.plan(see(target=2, offers=offers(A)))
    assert len(launches(plan, ON_DEMAND)) == 2
    assert plan.spot_wanted == 0


def test_an_image_that_crashes_does_not_burn_money() -> None:
    """VMs come, and no ready replica out of them: from the second time on, launches wait longer and longer."""
    policy, now_s, holds = hedge(), 0.0, []
    for _ in range(7):
        tell(policy, A, NewsKind.BOOT_FAILED, at_s=now_s, detail="engine exited with 1")
        began_s = now_s
        while not launches(plan := policy.plan(see(now_s=now_s))):
            assert any(
                note.startswith("launches wait: ") and "engine exited with 1" in note for note in plan.notes
            )
            now_s += 1
        holds.append(now_s - began_s)
    assert holds == [0, 60, 120, 240, 480, 600, 600]
    tell(policy, B, NewsKind.READY, at_s=now_s, market=ON_DEMAND)
    tell(policy, A, NewsKind.BOOT_FAILED, at_s=now_s)
    assert launches(policy.plan(see(now_s=now_s)))


def test_boots_that_fail_are_counted_by_version_and_forgotten_once_it_is_taken_back() -> None:
    policy = hedge()
    for at_s in (0, 100, 200):
        policy.observe(ZoneNews(A, SPOT, NewsKind.BOOT_FAILED, at_s, "it broke", version=3))
    three = replace(see(now_s=201), runs=(3,))
    assert not launches(plan := policy.plan(three))
    assert plan.held == {3: plan.notes[0]}
    assert plan.notes[0].startswith("launches of version 3 wait: 3 times in a row")
    assert not any(one.rank == 0 for one in policy.candidates(three))
    assert launches(policy.plan(replace(three, runs=(2,))))
    assert launches(policy.plan(replace(three, runs=(2, 3))))
    memory = json.loads(json.dumps(policy.export_memory(201)))
    after = hedge()
    after.restore_memory(memory, 201)
    assert after.plan(three) == plan
    policy.observe(ZoneNews(B, SPOT, NewsKind.READY, 201, version=2))
    assert not launches(policy.plan(three))
    policy.observe(ZoneNews(ZoneId(""), EXTERNAL, NewsKind.TAKEN_BACK, 201, version=3))
    assert launches(policy.plan(three))


def test_a_memory_of_before_versions_were_counted_is_read() -> None:
    policy = hedge()
    failed = {"count": 3, "age_s": 1.0, "why": "it broke"}
    policy.restore_memory({"moves": [], "refusals": [], "quota": [], "boot_failures": failed}, 100)
    assert list(policy.plan(see(now_s=100)).held) == [0]
    assert launches(policy.plan(replace(see(now_s=100), runs=(1,))))


def test_a_boot_that_failed_is_not_the_zones_fault() -> None:
    policy = hedge(fallback=False)
    tell(policy, A, NewsKind.BOOT_FAILED)
    assert "a" in zones(launches(policy.plan(see())))


# What it says and what it keeps


def test_zone_states_are_words_for_people() -> None:
    policy = hedge()
    tell(policy, A, NewsKind.NO_CAPACITY, at_s=960)
    tell(policy, B, NewsKind.LAUNCH_ERROR, at_s=990, detail="throttled")
    policy.plan(see(now_s=1000))
    assert policy.zone_states() == {
        A: "preempted: no capacity 40s ago",
        B: "resting: it rests for 30s from spot: refused once (launch error: throttled)",
        C: "available",
    }


def test_a_zone_is_called_by_its_spot_where_it_has_any() -> None:
    policy = hedge()
    for zone in (A, B):
        tell(policy, zone, NewsKind.LAUNCH_ERROR, market=ON_DEMAND)
    policy.plan(see(offers=[*offers(A), offer(B, ON_DEMAND)]))
    states = policy.zone_states()
    assert states[A] == "available"
    assert states[B].startswith("resting: it rests for 30s from on-demand")


def test_memory_outlives_a_restart() -> None:
    """Ages are kept, so that a new clock and the time in between change nothing."""
    before = hedge(fallback=False)
    tell(before, A, NewsKind.PREEMPTED, at_s=900)
    tell(before, B, NewsKind.LAUNCH_ERROR, at_s=990)
    tell(before, C, NewsKind.QUOTA, at_s=900)
    tell(before, C, NewsKind.BOOT_FAILED, at_s=910)
    memory = json.loads(json.dumps(before.export_memory(1000)))
    after = hedge(fallback=False)
    after.restore_memory(memory, 50)
    for age_s in (0, 19, 20, 500):
        old, new = before.plan(see(now_s=1000 + age_s)), after.plan(see(now_s=50 + age_s))
        assert (new.actions, new.notes) == (old.actions, old.notes)
        assert after.zone_states() == before.zone_states()


def test_news_of_long_ago_is_not_kept() -> None:
    policy = hedge()
    tell(policy, A, NewsKind.PREEMPTED, at_s=0)
    tell(policy, A, NewsKind.LAUNCH_ERROR, at_s=0)
    memory = policy.export_memory(86400)
    assert (memory["moves"], memory["refusals"]) == ([], [])


@pytest.mark.parametrize("memory", [{}, {"moves": 3}, {"moves": [{"zone": "a"}]}, {"moves": [], "refusals": [1]}])
def test_a_memory_of_another_shape_is_forgotten(memory: dict[str, Any]) -> None:
    policy = hedge()
    policy.restore_memory(memory, 0)
    assert policy.plan(see()) == hedge().plan(see())
