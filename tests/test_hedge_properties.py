"""What SpotHedge keeps to whatever happens: in every single plan, and over time in a small world of zones whose
capacity comes and goes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import (
    NewsKind,
    Observation,
    Plan,
    Policy,
    make_policy,
)
from hedgeserve.policy.spothedge import on_demand_wanted, spot_wanted
from hedgeserve.replica import Market, Notice, Replica, State, ZoneId
from hedgeserve.spec import HedgeSpec
from tests.zoneworld import (
    EXTERNAL,
    ON_DEMAND,
    SPOT,
    THREE,
    A,
    B,
    C,
    World,
    applied,
    launches,
    offer,
    replica,
    see,
    tell,
    world,
)

# Properties of every single plan

ZONES = tuple(ZoneId(f"local/{region}/{letter}") for region in ("east", "west") for letter in "abc")
unhurried = settings(deadline=None)
"""The machine may be busy with something else: how long an example takes says nothing."""

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
    """SpotHedge with any settings, after all kinds of news."""
    spec = HedgeSpec.model_validate(
        {
            "policy": "spothedge",
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


@unhurried
@given(policies(), observations())
def test_the_same_observation_gives_the_same_plan(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    first = policy.plan(seen)
    policy.plan(replace(seen, offers=THREE, target=seen.target + 1))
    assert policy.plan(seen) == first


@unhurried
@given(policies(), observations())
def test_a_plan_that_was_applied_leaves_nothing_to_do(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    assert policy.plan(applied(seen, policy.plan(seen))).actions == ()


@unhurried
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


@unhurried
@given(policies(), observations())
def test_a_load_of_zero_keeps_only_what_is_always_on(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, spec = made
    seen = replace(seen, target=0)
    plan = policy.plan(seen)
    after = applied(seen, plan)
    assert alive(after, SPOT) == []
    assert len(alive(after, ON_DEMAND)) <= spec.always_on_demand
    assert launches(plan, SPOT) == []


@unhurried
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


@unhurried
@given(policies(), observations())
def test_a_zone_that_is_preempted_is_not_asked_for_spot(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    plan = policy.plan(seen)
    states = policy.zone_states()
    assert all(not states[launch.offer.zone].startswith("preempted") for launch in launches(plan, SPOT))


@unhurried
@given(policies(), observations())
def test_what_serves_is_let_go_only_while_enough_others_do(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    """Make before break: whatever the settings and the news, a drain of our own choice leaves the target ready."""
    policy, _ = made
    after = applied(seen, policy.plan(seen))
    assert ready(after) >= min(seen.target, ready(seen))


@unhurried
@given(policies(), observations())
def test_every_action_has_a_reason_and_every_note_is_a_sentence(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    plan = made[0].plan(seen)
    assert all(len(action.reason.split()) >= 4 for action in plan.actions)
    assert all(len(note.split()) >= 4 for note in plan.notes)


@unhurried
@given(policies(), observations(), st.floats(0, 5))
def test_notes_do_not_change_with_the_clock(
    made: tuple[Policy, HedgeSpec], seen: Observation, later_s: float
) -> None:
    """They are journalled when they change; only what has ended in the meantime may be missing."""
    policy, _ = made
    plan, later = policy.plan(seen), policy.plan(replace(seen, now_s=seen.now_s + later_s))
    assume(later.on_demand_wanted == plan.on_demand_wanted)
    assert set(later.notes) <= set(plan.notes)


@unhurried
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


@unhurried
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


# Over time

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


@settings(deadline=None, max_examples=25)
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


@settings(deadline=None, max_examples=25)
@given(weather, st.integers(0, 20))
def test_spot_alone_is_used_as_far_as_there_is_any(changes: Weather, cold_start_s: int) -> None:
    """Without fallback, once the weather is calm: as many replicas as the load needs, or all that there can be."""
    calm = world(cold_start_s, fallback=False)
    for now in run(calm, changes):
        assert now.alive(ON_DEMAND) == 0
    for _ in range(500 + cold_start_s):  # the longest rest of a zone, and a start
        calm.tick()
    assert calm.ready() >= min(calm.target, sum(calm.capacity.values()))


@settings(deadline=None, max_examples=25)
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


@settings(deadline=None, max_examples=20)
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
