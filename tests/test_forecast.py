"""The forecast in stories: what it does at a start, under notice, after losses, and with what it may not use."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgeserve.hedge import Drain, Launch, NewsKind, Observation, Plan, Policy, Rule, ZoneNews, make_policy
from hedgeserve.replica import GoneReason, Market, Notice, Offer, Replica, State, ZoneId
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.traces import ZoneTrace
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec
from tests.zoneworld import (
    EXTERNAL,
    ON_DEMAND,
    SPOT,
    applied,
    drains,
    hedge,
    launches,
    offer,
    offers,
    replica,
    see,
    tell,
    terminations,
)

EAST_A, EAST_B, WEST_A, WEST_B = (
    ZoneId(zone) for zone in ("local/east/a", "local/east/b", "local/west/a", "local/west/b")
)
FOUR = offers(EAST_A, EAST_B, WEST_A, WEST_B)
HOUR = 3600.0


def forecast(**settings: Any) -> Policy:
    """No notice unless the test says so: then a loss is missed for 3½ minutes."""
    return hedge(**({"policy": "forecast", "notice_lead": "0s"} | settings))


def look(
    *replicas: Replica, target: int = 3, now_s: float = 1000.0, among: tuple[Offer, ...] = FOUR
) -> Observation:
    return see(*replicas, target=target, now_s=now_s, offers=among)


def learn(
    policy: Policy, zone: ZoneId, kind: NewsKind, at_s: float, *, market: Market = SPOT, **more: float | None
) -> None:
    policy.observe(ZoneNews(zone, market, kind, at_s, "", **more))


def hold(policy: Policy, zone: ZoneId, since_s: float, count: int = 1) -> None:
    for _ in range(count):
        learn(policy, zone, NewsKind.GRANTED, since_s)


def lose(policy: Policy, zone: ZoneId, *times: float) -> None:
    """Ten minutes after each grant the VM is gone, without a word."""
    for at_s in times:
        learn(policy, zone, NewsKind.GRANTED, at_s - 600)
        learn(policy, zone, NewsKind.PREEMPTED, at_s, held_s=600.0)


def where(launched: list[Launch]) -> set[ZoneId]:
    return {launch.offer.zone for launch in launched}


def settled(seen: Observation, policy: Policy, rounds: int = 6) -> Observation:
    """What comes of it when every launch is granted at once and every replica is ready at once."""
    for _ in range(rounds):
        plan = policy.plan(seen)
        for launch in launches(plan, SPOT):
            learn(policy, launch.offer.zone, NewsKind.GRANTED, seen.now_s)
        kept = [one for one in applied(seen, plan).replicas if one.alive or one.state is State.NOTICED]
        ready = [
            replica(100 + number, state=State.READY, since_s=seen.now_s, offer=one.offer)
            if one.state is State.PLANNED
            else one
            for number, one in enumerate(kept)
        ]
        seen = look(*ready, target=seen.target, now_s=seen.now_s, among=seen.offers)
    return seen


def count(seen: Observation, market: Market) -> int:
    return sum(one.market is market and one.alive for one in seen.replicas)


# Starting


def test_a_start_asks_for_spot_and_for_on_demand_in_parallel() -> None:
    """Nobody knows yet whether spot is to be had: until it is granted, on-demand is on its way as well."""
    plan = forecast(notice_lead="10m").plan(look())
    assert len(launches(plan, SPOT)) == 3
    assert len(launches(plan, ON_DEMAND)) == 3
    assert {launch.rule for launch in launches(plan, ON_DEMAND)} == {Rule.FALLBACK}
    assert "in parallel until the spot launches are granted" in launches(plan, ON_DEMAND)[0].reason
    assert (plan.target, plan.spot_wanted, plan.on_demand_wanted) == (3, 3, 3)


def test_on_demand_that_starts_is_taken_back_once_spot_is_granted() -> None:
    policy = forecast(notice_lead="10m")
    hold(policy, EAST_A, 1000.0, 3)
    spot = [replica(number, EAST_A, state=State.BOOTING) for number in range(3)]
    bridging = [replica(10 + number, EAST_A, ON_DEMAND, State.BOOTING) for number in range(3)]
    plan = policy.plan(look(*spot, *bridging))
    assert {one.replica for one in terminations(plan)} == {one.id for one in bridging}
    assert {one.rule for one in plan.actions} == {Rule.BACK_TO_SPOT}
    assert {one.gone for one in terminations(plan)} == {GoneReason.REPLACED}


def test_on_demand_that_starts_stays_while_spot_is_only_asked_for() -> None:
    policy = forecast(notice_lead="10m")
    spot = [replica(number, EAST_A, state=State.PROVISIONING) for number in range(3)]
    bridging = [replica(10 + number, EAST_A, ON_DEMAND, State.BOOTING) for number in range(3)]
    assert policy.plan(look(*spot, *bridging)).actions == ()


def test_on_demand_that_is_further_than_spot_is_kept_until_spot_is_ready() -> None:
    """Spot was granted a minute after on-demand: to end on-demand would cost that minute."""
    policy = forecast(notice_lead="10m")
    hold(policy, EAST_A, 1000.0)
    bridging = replica(10, EAST_A, ON_DEMAND, State.LOADING)
    spot = replica(70, EAST_A, state=State.BOOTING)
    assert policy.plan(look(spot, bridging, target=1)).actions == ()
    ready = replica(70, EAST_A, state=State.READY, since_s=1000.0)
    plan = policy.plan(look(ready, replica(10, EAST_A, ON_DEMAND), target=1))
    assert [drain.replica for drain in drains(plan)] == ["chat-10"]


def test_the_reasons_have_their_numbers() -> None:
    launch, *_ = launches(forecast(notice_lead="10m").plan(look(target=1)), SPOT)
    assert launch.reason.startswith(
        "0 of 1 spot replicas run or start (the load needs 1): local/east/a, 0.30 USD/h"
    )
    assert launch.reason.endswith("preemptions an hour expected")


# Where


def test_of_zones_alike_the_cheaper_is_taken() -> None:
    among = (offer(EAST_A, usd=0.5), offer(EAST_B, usd=0.2), offer(WEST_A, usd=0.5), offer(WEST_A, ON_DEMAND))
    plan = forecast(notice_lead="10m").plan(look(target=1, among=among))
    assert where(launches(plan, SPOT)) == {EAST_B}


def test_of_prices_alike_the_zone_that_has_held_is_taken() -> None:
    policy = forecast()
    hold(policy, WEST_A, 0.0)
    lose(policy, EAST_A, HOUR, 2 * HOUR, 3 * HOUR)
    there = replica(1, WEST_A)
    plan = policy.plan(look(there, target=2, now_s=6 * HOUR))
    assert where(launches(plan, SPOT)) - {WEST_A, WEST_B, EAST_B} == set()
    assert WEST_A in where(launches(plan, SPOT))


def test_a_zone_that_refused_is_not_asked_before_its_rest_is_over() -> None:
    policy = forecast(fallback=False)
    among = offers(EAST_A)
    tell(policy, EAST_A, NewsKind.NO_CAPACITY, 990.0)
    for now_s in (1000.0, 1034.9):
        plan = policy.plan(look(target=1, now_s=now_s, among=among))
        assert plan.actions == ()
        assert plan.again_at_s is not None
        assert plan.again_at_s <= 1035.0
    assert launches(policy.plan(look(target=1, now_s=1035.0, among=among)), SPOT)


def test_while_all_zones_rest_on_demand_bridges() -> None:
    policy = forecast()
    for zone in (EAST_A, EAST_B, WEST_A, WEST_B):
        tell(policy, zone, NewsKind.NO_CAPACITY, 990.0)
    plan = policy.plan(look())
    assert (launches(plan, SPOT), len(launches(plan, ON_DEMAND))) == ([], 3)
    assert "spot can be asked for 0 of 3 replicas now" in launches(plan, ON_DEMAND)[0].reason
    assert "local/west/b has not granted a launch since no capacity" in plan.notes


@pytest.mark.parametrize("kind", [NewsKind.QUOTA, NewsKind.UNSUPPORTED])
def test_a_zone_without_quota_or_without_the_market_is_not_asked(kind: NewsKind) -> None:
    policy = forecast()
    for zone in (EAST_A, EAST_B, WEST_A):
        tell(policy, zone, kind, 900.0)
    plan = policy.plan(look())
    assert where(launches(plan, SPOT)) == {WEST_B}
    again = policy.plan(look(now_s=1500.0))
    assert (EAST_A in where(launches(again, SPOT))) is (kind is NewsKind.QUOTA)
    assert policy.zone_states()[EAST_A].startswith("unsupported") is (kind is NewsKind.UNSUPPORTED)


# Notices, spares


def test_with_a_notice_as_long_as_the_cold_start_there_is_no_spare() -> None:
    """What replaces is ready before what goes is gone: a spare would be paid for nothing."""
    policy = forecast(notice_lead="10m", overprovision=3)
    seen = settled(look(), policy)
    assert (count(seen, SPOT), count(seen, ON_DEMAND)) == (3, 0)


def test_the_replacement_is_launched_at_the_notice() -> None:
    policy = forecast(notice_lead="10m")
    hold(policy, EAST_A, 0.0)
    hold(policy, WEST_A, 0.0)
    noticed = replica(1, EAST_A, state=State.NOTICED, notice=Notice(7800.0, "aws"))
    learn(policy, EAST_A, NewsKind.NOTICE, 7200.0, held_s=7200.0, lead_s=600.0)
    plan = policy.plan(look(noticed, replica(2, WEST_A), target=2, now_s=7200.0))
    assert launches(plan, SPOT)
    assert EAST_A not in where(launches(plan, SPOT)), "it has just said that it takes VMs back"
    assert drains(plan) == [], "it serves until its replacement does"
    assert plan.notes[-1] == "chat-1 serves on under its notice: fewer others are ready than the load needs"


def test_without_a_notice_dangerous_zones_are_hedged_by_spares_elsewhere() -> None:
    """Any one zone may go, and enough is left in the others."""
    policy = forecast(overprovision=1)
    for zone in (EAST_A, EAST_B, WEST_A, WEST_B):
        lose(policy, zone, HOUR, 3 * HOUR, 5 * HOUR)
    seen = settled(look(now_s=8 * HOUR), policy)
    by_zone = {zone: sum(one.zone == zone and one.market is SPOT for one in seen.replicas) for zone in
               (EAST_A, EAST_B, WEST_A, WEST_B)}  # fmt: skip
    total = count(seen, SPOT) + count(seen, ON_DEMAND)
    assert total > 3
    assert all(total - alike >= 3 for alike in by_zone.values())
    assert len({zone.split("/")[1] for zone, alike in by_zone.items() if alike}) != 1 or not count(seen, SPOT)


def test_spares_say_what_they_are_for() -> None:
    """No notice and a cold start of three minutes, in zones that nobody knows."""
    plan = forecast().plan(look())
    spares = [launch.reason for launch in launches(plan, SPOT) if launch.reason.startswith("a spare")]
    assert spares
    assert spares[0].startswith("a spare, since a lost zone would be missed for 3m30s: we expect 0.")
    assert "% of the time below 3: local/" in spares[0]


def test_zones_that_have_held_for_long_need_no_spare() -> None:
    """The same fleet, an hour after the launch and a day after it: the spares go when the risk has gone."""
    wanted = {}
    for hours in (0, 72):
        policy = forecast()
        hold(policy, EAST_A, 1000.0, 3)
        fleet = [replica(number, EAST_A, since_s=1000.0) for number in range(3)]
        wanted[hours] = policy.plan(look(*fleet, now_s=1000.0 + hours * HOUR)).spot_wanted
    assert wanted[72] == 3 < wanted[0]


def test_a_higher_availability_buys_more() -> None:
    def held(availability: float) -> int:
        return settled(look(), forecast(availability=availability)).replicas.__len__()

    assert held(0.5) == 3 < held(0.9999)


def test_a_replica_under_notice_goes_when_enough_others_are_ready() -> None:
    policy = forecast(notice_lead="10m")
    noticed = replica(1, EAST_A, state=State.NOTICED, notice=Notice(1100.0, "aws"))
    others = [replica(2, WEST_A), replica(3, WEST_B)]
    [drain] = drains(policy.plan(look(noticed, *others, target=2)))
    assert (drain.replica, drain.rule, drain.gone) == (noticed.id, Rule.NOTICE, GoneReason.PREEMPTED)
    assert drain.deadline_s == 1100.0
    assert drain.reason == "aws says that the VM is taken back in 1m40s; 2 others of 2 are ready"


def test_a_replica_under_notice_that_is_needed_goes_at_its_last_moment() -> None:
    policy = forecast(notice_lead="10m")
    noticed = replica(1, EAST_A, state=State.NOTICED, notice=Notice(1100.0, "aws"))
    coming = [replica(2, WEST_A, state=State.LOADING), replica(3, WEST_B, ON_DEMAND, State.LOADING)]
    seen = look(noticed, *coming, target=1)
    plan = policy.plan(seen)
    assert (drains(plan), plan.again_at_s) == ([], 1098.0)
    assert [drain.replica for drain in drains(policy.plan(look(*seen.replicas, target=1, now_s=1098.0)))] == [
        noticed.id
    ]


def test_a_recommendation_to_move_drains_nothing() -> None:
    """The cloud may be wrong: what serves goes on, while what replaces it may be launched."""
    policy = forecast()
    hold(policy, EAST_A, 0.0)
    hold(policy, WEST_A, 0.0)
    fleet = [replica(1, EAST_A), replica(2, WEST_A)]
    tell(policy, EAST_A, NewsKind.REBALANCE, 7200.0)
    plan = policy.plan(look(*fleet, target=2, now_s=7200.0))
    assert [action for action in plan.actions if not isinstance(action, Launch)] == []
    assert EAST_A not in where(launches(plan, SPOT))


# Moving and shrinking


def test_a_replica_is_moved_only_once_its_replacement_is_there() -> None:
    """The zone is warned of; its replica goes after the new one serves, not before."""
    policy = forecast(notice_lead="10m")
    hold(policy, EAST_A, 0.0)
    dear = offer(EAST_A, usd=0.9)
    seen = look(replica(1, EAST_A, offer=dear), target=1, among=(dear, *offers(WEST_A, WEST_B)))
    plan = policy.plan(seen)
    [launch] = launches(plan, SPOT)
    assert launch.reason.startswith("a move to where less is lost")
    assert len(plan.actions) == 1 + len(launches(plan, ON_DEMAND))
    hold(policy, launch.offer.zone, 1000.0)
    coming = replica(5000, launch.offer.zone, state=State.LOADING, since_s=1000.0, offer=launch.offer)
    assert drains(policy.plan(look(*seen.replicas, coming, target=1, among=seen.offers))) == []
    there = replica(5000, launch.offer.zone, since_s=1000.0, offer=launch.offer)
    plan = policy.plan(look(*seen.replicas, there, target=1, among=seen.offers))
    assert [drain.replica for drain in drains(plan)] == ["chat-1"]


def test_a_load_of_zero_needs_nothing() -> None:
    fleet = [replica(1, EAST_A), replica(2, WEST_A, state=State.LOADING), replica(3, EAST_A, ON_DEMAND)]
    plan = forecast().plan(look(*fleet, target=0))
    assert (plan.spot_wanted, plan.on_demand_wanted, launches(plan)) == (0, 0, [])
    assert {drain.replica for drain in drains(plan)} == {"chat-1", "chat-3"}
    assert {one.replica for one in terminations(plan)} == {"chat-2"}
    assert all("no request needs a replica" in action.reason for action in plan.actions)


def test_a_load_that_falls_lets_the_newest_go() -> None:
    policy = forecast(notice_lead="10m")
    hold(policy, EAST_A, 0.0, 4)
    fleet = [replica(number, EAST_A) for number in range(4)]
    plan = policy.plan(look(*fleet, target=2))
    assert [drain.replica for drain in drains(plan)] == ["chat-3", "chat-2"]
    assert {drain.rule for drain in drains(plan)} == {Rule.SCALE_DOWN}


# What may be used


def test_what_is_always_on_is_launched_first_and_needs_no_spot() -> None:
    plan = forecast(always_on_demand=2, notice_lead="10m").plan(look(target=3))
    rules = [launch.rule for launch in launches(plan, ON_DEMAND)]
    assert rules[:2] == [Rule.ALWAYS_ON, Rule.ALWAYS_ON]
    assert len(launches(plan, SPOT)) == 1
    idle = forecast(always_on_demand=2).plan(look(target=0))
    assert len(launches(idle, ON_DEMAND)) == 2


def test_what_boots_is_kept_until_what_is_always_on_is_there() -> None:
    """One replica is needed, the one that is always to run is only asked for: spot is not let go of for it."""
    policy = forecast(always_on_demand=1)
    hold(policy, EAST_A, 990.0)
    spot, asked = replica(1, EAST_A, state=State.BOOTING), replica(2, EAST_A, ON_DEMAND, State.PLANNED)
    assert policy.plan(look(spot, asked, target=1)).actions == ()
    there = replica(2, EAST_A, ON_DEMAND, State.READY)
    assert [one.replica for one in terminations(policy.plan(look(spot, there, target=1)))] == [spot.id]


def test_without_fallback_no_on_demand_is_bought() -> None:
    policy = forecast(fallback=False)
    assert launches(policy.plan(look()), ON_DEMAND) == []
    for zone in (EAST_A, EAST_B, WEST_A, WEST_B):
        tell(policy, zone, NewsKind.NO_CAPACITY, 990.0)
    assert policy.plan(look()).actions == ()


def test_where_no_pool_offers_spot_all_is_on_demand() -> None:
    plan = forecast(fallback=False).plan(look(among=(offer(EAST_A, ON_DEMAND),)))
    assert (len(launches(plan, ON_DEMAND)), plan.spot_wanted) == (3, 0)
    assert plan.notes == ("no pool offers spot: all replicas are on-demand",)


def test_where_no_pool_offers_on_demand_spot_does_what_it_can() -> None:
    policy = forecast()
    plan = policy.plan(look(among=tuple(offer(zone) for zone in (EAST_A, WEST_A))))
    assert len(launches(plan, SPOT)) >= 3
    assert (launches(plan, ON_DEMAND), plan.on_demand_wanted, plan.notes) == ([], 0, ())


def test_where_there_is_no_offer_at_all_nothing_breaks() -> None:
    plan = forecast().plan(look(among=()))
    assert plan.actions == ()


def test_external_replicas_count_once_they_are_ready() -> None:
    policy = forecast(notice_lead="10m")
    external = [replica(number, market=EXTERNAL) for number in (1, 2)]
    assert len(launches(policy.plan(look(*external)), SPOT)) == 1
    starting = [replica(number, market=EXTERNAL, state=State.LOADING) for number in (1, 2)]
    assert len(launches(policy.plan(look(*starting)), SPOT)) == 3


def test_boots_that_fail_in_a_row_hold_all_launches() -> None:
    policy = forecast()
    for at_s in (900.0, 990.0):
        tell(policy, EAST_A, NewsKind.BOOT_FAILED, at_s)
    plan = policy.plan(look())
    assert plan.actions == ()
    assert plan.notes[0].startswith("launches wait: 2 times in a row no ready replica came of them")
    assert plan.again_at_s == 1050.0
    assert launches(policy.plan(look(now_s=1050.0)))


# What it shows and remembers


def test_zones_are_shown_with_their_outlook() -> None:
    policy = forecast()
    hold(policy, EAST_A, 0.0)
    tell(policy, WEST_A, NewsKind.NO_CAPACITY, 7100.0)
    policy.plan(look(now_s=7200.0))
    states = policy.zone_states()
    assert states[EAST_A].startswith("available: 0.")
    assert states[EAST_A].endswith(" preemptions an hour expected, it has held for 2h")
    assert states[WEST_A].startswith("preempted: no capacity 1m40s ago; ")


def test_a_restart_plans_as_before() -> None:
    """One zone lost all the time, one has no quota, one rests, and one holds a replica that is adopted."""
    policy, now_s, then_s = forecast(overprovision=0), 4 * HOUR, 100 * HOUR
    lose(policy, EAST_A, *(0.25 * HOUR * number for number in range(1, 16)))
    hold(policy, WEST_A, 2 * HOUR)
    tell(policy, EAST_B, NewsKind.QUOTA, now_s - 60)
    tell(policy, WEST_B, NewsKind.NO_CAPACITY, now_s - 10)
    fleet = [replica(1, WEST_A)]
    before = policy.plan(look(*fleet, now_s=now_s))
    fresh = forecast(overprovision=0)
    fresh.restore_memory(json.loads(json.dumps(policy.export_memory(now_s))), then_s)
    learn(fresh, WEST_A, NewsKind.READY, then_s, held_s=2 * HOUR)
    after = fresh.plan(look(*fleet, now_s=then_s))
    for plan in (before, after):
        assert WEST_A in where(launches(plan, SPOT))
        assert not {EAST_B, WEST_B} & where(launches(plan, SPOT))
    old, new = (one.zone_states() for one in (policy, fresh))
    assert {zone: state.partition(";")[0] for zone, state in old.items() if zone != WEST_A} == {
        zone: state.partition(";")[0] for zone, state in new.items() if zone != WEST_A
    }
    assert old[EAST_B].startswith("no quota")
    assert old[WEST_B].startswith("preempted: no capacity 10s ago")


@pytest.mark.parametrize(
    "memory", [{}, {"zones": 1, "outlook": {}}, {"moves": []}, {"zones": {}, "outlook": None}]
)
def test_the_memory_of_another_policy_is_forgotten(memory: dict[str, Any]) -> None:
    policy = forecast()
    policy.restore_memory(memory, 1000.0)
    assert policy.plan(look()) == forecast().plan(look())


def test_the_docs_tell_every_constant_as_it_is() -> None:
    text = (Path(__file__).parents[1] / "docs" / "policy.md").read_text()
    rows = re.findall(r"\| `(\w+)\.(\w+)` \| ([\d.]+) \|", text)
    assert len(rows) > 20
    for module, name, told in rows:
        value = getattr(import_module(f"hedgeserve.policy.{module}"), name)
        assert float(told) == pytest.approx(value, rel=0.01), f"docs/policy.md: {module}.{name} is {value}"
    told_of = {(module, name): told for module, name, told in rows}
    assert f"{told_of['forecast', '_WORTH']} / (1 - availability)" in text
    assert f"{told_of['ways', '_TOGETHER']} * (r1 + r2)" in text


# Over time


def story(counts: dict[ZoneId, list[int]], *, notice_s: float, hours: float = 12, **more: Any) -> FleetOutcome:
    """A day or so in zones whose spot capacity is this, for an hour each; on-demand is always to be had."""
    models = [
        OfferModel(
            offer=offer(zone, SPOT, 0.3),
            capacity=ZoneTrace(zone, HOUR, np.array(there, dtype=np.int64)),
            cold_start_s=(120.0,),
            notice_s=notice_s,
        )
        for zone, there in counts.items()
    ]
    models.append(OfferModel(offer=offer(EAST_A, ON_DEMAND), cold_start_s=(120.0,)))
    setting = WorldSetting(offers=tuple(models), target=2, window_s=hours * HOUR, warm_up_s=300.0)
    return run(make_policy(HedgeSpec.model_validate({"policy": "forecast"} | more)), setting)


def test_notices_longer_than_the_cold_start_leave_no_gap() -> None:
    """A zone goes and comes back every few hours, always with a word; no spare, no time below the target."""
    outcome = story({EAST_A: [4, 4, 0, 4, 4], WEST_A: [4, 0, 4, 4]}, notice_s=180.0, notice_lead="180s")
    assert outcome.preemptions > 0
    assert outcome.availability == 1.0
    held_h = sum(one.ended_s - one.launched_s for one in outcome.lives) / HOUR
    assert held_h < 1.15 * 2 * 12


def test_what_preemptions_teach_shows_in_the_next_plans() -> None:
    """The user promises a notice that never comes: after a few losses there are spares all the same."""
    outcome = story({EAST_A: [4, 0] * 6, WEST_A: [4, 4, 0] * 4}, notice_s=0.0, hours=24, notice_lead="10m")
    early, late = (
        sum(decision.reason.startswith("a spare") for decision in outcome.decisions if low <= decision.at_s < high)
        for low, high in ((0.0, HOUR), (2 * HOUR, 24 * HOUR))
    )
    assert early == 0 < late


def test_sixty_zones_and_three_hundred_replicas_are_planned() -> None:
    zones = [ZoneId(f"aws/region-{number // 3}/zone-{number % 3}") for number in range(60)]
    policy = forecast(notice_lead=None)
    fleet = []
    for number in range(300):
        hold(policy, zones[number % 60], 0.0)
        fleet.append(replica(number, zones[number % 60]))
    for number in range(0, 60, 7):
        lose(policy, zones[number], 5000.0)
    seen = look(*fleet, target=310, now_s=7200.0, among=offers(*zones))
    plan: Plan = policy.plan(seen)
    assert len(launches(plan)) >= 10
    assert sum(isinstance(action, Drain) for action in plan.actions) == 0
    assert policy.plan(seen) == plan
