"""SpotHedge: what it keeps to always (properties), what it does in a story (screenplays), and how it fares in a
small world of zones whose capacity comes and goes."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import (
    Drain,
    Launch,
    NewsKind,
    Observation,
    Plan,
    Policy,
    Rule,
    Terminate,
    ZoneNews,
    make_policy,
)
from hedgeserve.policy.spothedge import on_demand_wanted, spot_wanted
from hedgeserve.replica import GoneReason, Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import HedgeSpec

BORN = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = (ZoneId(f"local/east/{letter}") for letter in "abc")
SPOT, ON_DEMAND, EXTERNAL = Market.SPOT, Market.ON_DEMAND, Market.EXTERNAL


def offer(zone: ZoneId, market: Market = SPOT, usd: float | None = None, kind: str = "small") -> Offer:
    price = usd if usd is not None else {SPOT: 0.3, ON_DEMAND: 1.0, EXTERNAL: 0.0}[market]
    return Offer(zone, kind, market, price, BORN)


def offers(*zones: ZoneId) -> tuple[Offer, ...]:
    return tuple(offer(zone, market) for zone in zones for market in (SPOT, ON_DEMAND))


THREE = offers(A, B, C)


def replica(
    number: int,
    zone: ZoneId = A,
    market: Market = SPOT,
    state: State = State.READY,
    since_s: float = 0.0,
    **more: Any,
) -> Replica:
    return Replica(
        id=ReplicaId(f"chat-{number}"),
        offer=more.pop("offer", None) or offer(zone, market),
        state=state,
        since_s=since_s,
        created_at=BORN + timedelta(seconds=number),
        ready_since_s=since_s if state is State.READY else None,
        **more,
    )


def see(
    *replicas: Replica, target: int = 3, now_s: float = 1000.0, offers: Sequence[Offer] = THREE
) -> Observation:
    return Observation(now_s, target, replicas, tuple(offers))


def hedge(**settings: Any) -> Policy:
    return make_policy(HedgeSpec(**({"on_demand_hold": "60s", "retry_delay": "30s"} | settings)))


def tell(
    policy: Policy, zone: ZoneId, kind: NewsKind, at_s: float = 1000.0, market: Market = SPOT, detail: str = ""
) -> None:
    policy.observe(ZoneNews(zone, market, kind, at_s, detail))


def launches(plan: Plan, market: Market | None = None) -> list[Launch]:
    found = [action for action in plan.actions if isinstance(action, Launch)]
    return [launch for launch in found if market is None or launch.offer.market is market]


def zones(launched: Iterable[Launch]) -> list[str]:
    return [launch.offer.zone[-1] for launch in launched]


def drains(plan: Plan) -> list[Drain]:
    return [action for action in plan.actions if isinstance(action, Drain)]


def terminations(plan: Plan) -> list[Terminate]:
    return [action for action in plan.actions if isinstance(action, Terminate)]


def applied(seen: Observation, plan: Plan) -> Observation:
    """The observation a moment after the plan was begun, nothing else having happened."""
    replicas = {one.id: one for one in seen.replicas}
    for action in plan.actions:
        match action:
            case Launch():
                number = 10_000 + len(replicas)
                replicas[ReplicaId(f"chat-{number}")] = replica(
                    number, state=State.PLANNED, since_s=seen.now_s, offer=action.offer
                )
            case Drain():
                old = replicas[action.replica]
                replicas[action.replica] = old.to(State.DRAINING, now_s=seen.now_s, why=action.reason)
            case Terminate():
                old = replicas.pop(action.replica)
                if old.state is not State.PLANNED:
                    replicas[old.id] = old.to(State.TERMINATING, now_s=seen.now_s, why=action.reason)
    return replace(seen, replicas=tuple(replicas.values()))


# Properties of every single plan

ZONES = tuple(ZoneId(f"local/{region}/{letter}") for region in ("east", "west") for letter in "abc")
STATES = [state for state in State if state is not State.GONE]


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Replica, ...]:
    found = []
    for number in range(draw(st.integers(0, 12))):
        market = draw(st.sampled_from([SPOT, SPOT, ON_DEMAND, EXTERNAL]))
        state = draw(
            st.sampled_from([State.PLANNED, State.LOADING, State.READY] if market is EXTERNAL else STATES)
        )
        notice = Notice(draw(st.floats(990, 1100)), "aws") if state is State.NOTICED else None
        since_s = draw(st.floats(800, 1000))
        found.append(replica(number, draw(st.sampled_from(ZONES)), market, state, since_s, notice=notice))
    return tuple(found)


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, HedgeSpec]:
    """A policy of any settings that has heard all kinds of news."""
    spec = HedgeSpec.model_validate(
        {
            "overprovision": draw(st.integers(0, 3)),
            "fallback": draw(st.booleans()),
            "always_on_demand": draw(st.integers(0, 2)),
            "rebalance_below": draw(st.integers(1, 4)),
            "on_demand_hold": draw(st.sampled_from(["0s", "60s"])),
        }
    )
    policy = make_policy(spec)
    for at_s in sorted(draw(st.lists(st.floats(0, 1000), max_size=15))):
        kind = draw(st.sampled_from(list(NewsKind)))
        tell(policy, draw(st.sampled_from(ZONES)), kind, at_s, draw(st.sampled_from([SPOT, ON_DEMAND])))
    return policy, spec


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    kinds = draw(st.lists(st.tuples(st.sampled_from(ZONES), st.sampled_from([SPOT, ON_DEMAND])), max_size=12))
    priced = [offer(zone, market, draw(st.sampled_from([0.2, 0.3, 1.0]))) for zone, market in kinds]
    return see(*draw(fleets()), target=draw(st.integers(0, 6)), offers=priced)


def alive(seen: Observation, market: Market) -> list[Replica]:
    return [one for one in seen.replicas if one.market is market and one.alive]


def ready(seen: Observation, market: Market | None = None) -> int:
    return sum(one.state is State.READY and market in (None, one.market) for one in seen.replicas)


@given(policies(), observations())
def test_the_same_observation_gives_the_same_plan(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    first = policy.plan(seen)
    policy.plan(replace(seen, offers=THREE, target=seen.target + 1))
    assert policy.plan(seen) == first


@given(policies(), observations())
def test_a_plan_that_was_applied_leaves_nothing_to_do(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    assert policy.plan(applied(seen, policy.plan(seen))).actions == ()


@given(policies(), observations())
def test_never_more_than_the_load_and_the_overprovision_need(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    """Launches never take a market above its bound; what is above it already is not added to."""
    policy, spec = made
    after = applied(seen, Plan(seen.target, 0, 0, actions=tuple(launches(policy.plan(seen)))))
    assert len(alive(after, SPOT)) <= max(len(alive(seen, SPOT)), seen.target + spec.overprovision)
    bound = max(seen.target, spec.always_on_demand)
    assert len(alive(after, ON_DEMAND)) <= max(len(alive(seen, ON_DEMAND)), bound)


@given(policies(), observations())
def test_a_load_of_zero_keeps_only_what_is_always_on(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, spec = made
    seen = replace(seen, target=0)
    plan = policy.plan(seen)
    after = applied(seen, plan)
    assert alive(after, SPOT) == []
    assert len(alive(after, ON_DEMAND)) <= spec.always_on_demand
    assert launches(plan, SPOT) == []


@given(policies(), observations())
def test_no_zone_gets_a_second_replica_while_an_available_one_has_none(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    policy, _ = made
    plan = policy.plan(seen)
    count = Counter(one.zone for one in alive(seen, SPOT))
    states = policy.zone_states()
    usable = {one.zone for one in seen.offers if one.market is SPOT and states[one.zone] == "available"}
    for launch in launches(plan, SPOT):
        if count[launch.offer.zone] > 0:
            assert all(count[zone] > 0 for zone in usable)
        count[launch.offer.zone] += 1


@given(policies(), observations())
def test_a_zone_that_is_preempted_is_not_asked_for_spot(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    plan = policy.plan(seen)
    states = policy.zone_states()
    assert all(not states[launch.offer.zone].startswith("preempted") for launch in launches(plan, SPOT))


@given(policies(), observations())
def test_what_serves_is_let_go_only_while_enough_others_do(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    """Make before break: whatever the settings and the news, a drain of our own choice leaves the target ready."""
    policy, _ = made
    after = applied(seen, policy.plan(seen))
    assert ready(after) >= min(seen.target, ready(seen))


@given(policies(), observations())
def test_every_action_has_a_reason_and_every_note_is_a_sentence(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    plan = made[0].plan(seen)
    assert all(len(action.reason.split()) >= 4 for action in plan.actions)
    assert all(len(note.split()) >= 4 for note in plan.notes)


@given(policies(), observations(), st.floats(0, 5))
def test_notes_do_not_change_with_the_clock(
    made: tuple[Policy, HedgeSpec], seen: Observation, later_s: float
) -> None:
    """They are journalled when they change; only what has ended in the meantime may be missing."""
    policy, _ = made
    plan, later = policy.plan(seen), policy.plan(replace(seen, now_s=seen.now_s + later_s))
    assume(later.on_demand_wanted == plan.on_demand_wanted)
    assert set(later.notes) <= set(plan.notes)


@given(target=st.integers(1, 50), extra=st.integers(0, 10), ready=st.integers(0, 80))
def test_on_demand_is_the_papers_formula(target: int, extra: int, ready: int) -> None:
    """O = min(N_target, N_target + N_extra - S_ready), with nothing that is always on and no spot too many."""
    ready = min(ready, target + extra)
    wanted = spot_wanted(target=target, overprovision=extra, base=0)
    assert wanted == target + extra
    found = on_demand_wanted(
        target=target, base=0, external=0, always=0, spot_wanted=wanted, spot_ready=ready, fallback=True
    )
    assert found == min(target, target + extra - ready)


@given(made=policies(), seen=observations())
def test_the_plan_asks_for_what_the_formula_says(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, spec = made
    plan = policy.plan(seen)
    states = policy.zone_states()
    spot_zones = {one.zone for one in seen.offers if one.market is SPOT}
    assume(spot_zones and not any(states[zone].startswith("unsupported") for zone in spot_zones))
    external = ready(seen, EXTERNAL)
    base = external + spec.always_on_demand
    if seen.target == 0:
        assert (plan.spot_wanted, plan.on_demand_wanted) == (0, spec.always_on_demand)
        return
    assert plan.spot_wanted == max(0, seen.target + spec.overprovision - base)
    bridging = min(seen.target, base + max(0, plan.spot_wanted - ready(seen, SPOT))) - external
    expected = max(bridging, spec.always_on_demand) if spec.fallback else spec.always_on_demand
    assert plan.on_demand_wanted == expected


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


# A small world: zones with a capacity that comes and goes, cold starts, notices and preemptions


@dataclass
class World:
    """Seconds go by; what a plan asks for is done as a cloud would, and told as news."""

    policy: Policy
    offers: tuple[Offer, ...]
    cold_start_s: int
    target: int
    capacity: dict[ZoneId, int]
    now_s: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    born: int = 0
    disturbed_s: float = 0.0
    """When a replica was last lost, or the target last rose."""
    launched: Counter[Market] = field(default_factory=Counter)
    went: list[Replica] = field(default_factory=list)
    """Those that were let go of by a plan, as they were just before."""

    def tick(self) -> None:
        self.now_s += 1
        for zone in self.capacity:
            self._take_back(zone)
        for one in self.replicas:
            if one.state is State.LOADING and self.now_s - one.since_s >= self.cold_start_s:
                self._change(one, one.to(State.READY, now_s=self.now_s, why="ready"))
                tell(self.policy, one.zone, NewsKind.READY, self.now_s, one.market)
        seen = Observation(self.now_s, self.target, tuple(self.replicas), self.offers)
        plan = self.policy.plan(seen)
        for action in plan.actions:
            match action:
                case Launch():
                    self._launch(action)
                case Drain() | Terminate():
                    [one] = [one for one in self.replicas if one.id == action.replica]
                    self.replicas.remove(one)
                    self.went.append(one)

    def ready(self, market: Market | None = None) -> int:
        return sum(one.state is State.READY and market in (None, one.market) for one in self.replicas)

    def alive(self, market: Market | None = None) -> int:
        return sum(one.alive and market in (None, one.market) for one in self.replicas)

    def notice(self, one: Replica, seconds: float) -> None:
        notice = Notice(self.now_s + seconds, "aws")
        self._change(one, one.to(State.NOTICED, now_s=self.now_s, why="aws", notice=notice))
        tell(self.policy, one.zone, NewsKind.NOTICE, self.now_s)
        self.disturbed_s = self.now_s

    def take(self, one: Replica) -> None:
        self.replicas.remove(one)
        tell(self.policy, one.zone, NewsKind.PREEMPTED, self.now_s)
        self.disturbed_s = self.now_s

    def _take_back(self, zone: ZoneId) -> None:
        there = [one for one in self.replicas if one.zone == zone and one.market is SPOT]
        for one in there:
            if one.notice is not None and self.now_s >= one.notice.deadline_s:
                self.take(one)
                there.remove(one)
                break
        for one in there[self.capacity[zone] :]:
            self.take(one)

    def _launch(self, action: Launch) -> None:
        zone, market = action.offer.zone, action.offer.market
        there = sum(one.zone == zone and one.market is SPOT for one in self.replicas)
        if market is SPOT and there >= self.capacity[zone]:
            tell(self.policy, zone, NewsKind.NO_CAPACITY, self.now_s)
            return
        self.born += 1
        self.launched[market] += 1
        self.replicas.append(replica(self.born, state=State.LOADING, since_s=self.now_s, offer=action.offer))

    def _change(self, old: Replica, new: Replica) -> None:
        self.replicas[self.replicas.index(old)] = new


Weather = list[tuple[int, int, int, int]]
"""So many seconds go by; then a zone's capacity and the target change."""

weather = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 2), st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=10
)


def run(world: World, changes: Weather) -> Iterable[World]:
    """The world after every second of its weather, notices included: they come for every other loss."""
    for seconds, zone_number, capacity, target in [*changes, (200, 0, 4, changes[-1][3])]:
        for _ in range(seconds):
            world.tick()
            yield world
        zone = (A, B, C)[zone_number]
        if world.target < target:
            world.disturbed_s = world.now_s
        world.target, world.capacity[zone] = target, capacity
        for one in [one for one in world.replicas if one.zone == zone and one.state is State.READY][::2]:
            if one.market is SPOT and capacity < 2:
                world.notice(one, 30)


def world(cold_start_s: int = 5, target: int = 2, **settings: Any) -> World:
    return World(hedge(**settings), THREE, cold_start_s, target, {A: 4, B: 4, C: 4})


@settings(max_examples=25)
@given(weather, st.integers(0, 20), st.integers(0, 2))
def test_the_load_is_carried_whatever_spot_does(changes: Weather, cold_start_s: int, extra: int) -> None:
    """On-demand is there to be had: a cold start after the last blow, as many are ready as the load needs."""
    most = max(2, *(target for *_, target in changes))
    for now in run(world(cold_start_s, overprovision=extra), changes):
        assert now.alive() >= now.target
        assert now.alive(SPOT) <= most + extra
        assert now.alive(ON_DEMAND) <= most
        if now.now_s - now.disturbed_s > cold_start_s + 1:
            assert now.ready() >= now.target


@settings(max_examples=25)
@given(weather, st.integers(0, 20))
def test_spot_alone_is_used_as_far_as_there_is_any(changes: Weather, cold_start_s: int) -> None:
    """Without fallback, once the weather is calm: as many replicas as the load needs, or all that there can be."""
    calm = world(cold_start_s, fallback=False)
    for now in run(calm, changes):
        assert now.alive(ON_DEMAND) == 0
    for _ in range(500 + cold_start_s):  # the longest rest of a zone, and a start
        calm.tick()
    assert calm.ready() >= min(calm.target, sum(calm.capacity.values()))


@settings(max_examples=25)
@given(weather, st.integers(0, 20))
def test_when_the_weather_is_calm_only_spot_is_paid_for(changes: Weather, cold_start_s: int) -> None:
    """Each zone can hold all of it; after its pauses and the hold no on-demand replica is left."""
    calm = world(cold_start_s)
    for _ in run(calm, changes):
        pass
    calm.capacity = dict.fromkeys(calm.capacity, 8)
    for _ in range(600 + cold_start_s):
        calm.tick()
    assert (calm.alive(ON_DEMAND), calm.ready(SPOT)) == (0, calm.target + 1)


@settings(max_examples=20)
@given(flicker_s=st.integers(6, 59), cold_start_s=st.integers(0, 5))
def test_on_demand_does_not_flap_with_a_flickering_spot_replica(flicker_s: int, cold_start_s: int) -> None:
    """One spot replica is lost again and again, always sooner than on-demand is held: the bridge just stays."""
    flickering = world(cold_start_s, target=2, overprovision=0)
    while flickering.alive(ON_DEMAND) or flickering.ready(SPOT) < 2:
        flickering.tick()
    before = flickering.launched[ON_DEMAND]
    flickering.went.clear()
    for second in range(600):
        if second % flicker_s == 0:
            flickering.take(
                max((one for one in flickering.replicas if one.market is SPOT), key=lambda one: one.since_s)
            )
        flickering.tick()
    assert flickering.launched[ON_DEMAND] - before == 1
    assert [one for one in flickering.went if one.market is ON_DEMAND] == []


def test_a_notice_longer_than_the_cold_start_leaves_no_gap() -> None:
    """30 s of notice, 20 s of cold start, nothing to spare: before the VM is taken its replacements serve."""
    calm = world(cold_start_s=20, target=2, overprovision=0)
    while calm.alive(ON_DEMAND) or calm.ready(SPOT) < 2:
        calm.tick()
    calm.notice(calm.replicas[0], 30)
    for _ in range(22):
        calm.tick()
    assert (calm.ready(SPOT), calm.ready(ON_DEMAND)) == (2, 1)
    for _ in range(60):
        calm.tick()
    assert (calm.ready(SPOT), calm.ready(ON_DEMAND)) == (2, 0)
