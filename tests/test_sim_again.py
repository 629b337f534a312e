"""When SpotHedge may change its mind by itself: ``Plan.again_at_s``, which lets a simulator jump over the rest."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import Action, Launch, NewsKind, Observation, Plan, Policy
from hedgeserve.replica import Market, Notice, State
from hedgeserve.spec import HedgeSpec
from tests.test_hedge_properties import observations, policies
from tests.zoneworld import ON_DEMAND, SPOT, A, B, C, drains, hedge, launches, offers, replica, see, tell


def done(plan: Plan) -> list[tuple[object, ...]]:
    """What a plan does, without the words."""

    def essence(action: Action) -> tuple[object, ...]:
        if isinstance(action, Launch):
            return "launch", action.offer, action.rule
        return type(action), action.replica, action.rule, action.gone

    return [essence(action) for action in plan.actions]


def later(seen: Observation, now_s: float) -> Observation:
    return replace(seen, now_s=now_s)


def assert_planned_the_same_until_then(policy: Policy, seen: Observation, share: float, far_s: float) -> None:
    """By ``share`` of the way to ``again_at_s``, or ``far_s`` from now where nothing is to come."""
    plan = policy.plan(seen)
    if plan.again_at_s is None:
        then_s = seen.now_s + far_s
    else:
        assert plan.again_at_s > seen.now_s
        then_s = seen.now_s + share * (plan.again_at_s - seen.now_s)
        if then_s >= plan.again_at_s:
            then_s = seen.now_s
    assert done(policy.plan(later(seen, then_s))) == done(plan)


@settings(deadline=None, max_examples=300)
@given(policies(), observations(), st.floats(0, 1, exclude_max=True), st.floats(0, 20000))
def test_until_then_the_same_world_is_planned_the_same(
    made: tuple[Policy, HedgeSpec], seen: Observation, share: float, far_s: float
) -> None:
    assert_planned_the_same_until_then(made[0], seen, share, far_s)


def test_a_fleet_that_is_complete_has_nothing_to_wait_for() -> None:
    fleet = [replica(number, zone) for number, zone in enumerate([A, B, C, A])]
    assert hedge(overprovision=1).plan(see(*fleet)).again_at_s is None


def test_a_zone_that_rests_after_a_refusal_is_asked_again_at_the_end_of_its_rest() -> None:
    policy, seen = hedge(overprovision=0, fallback=False), see(target=1, offers=offers(A), now_s=1000.0)
    tell(policy, A, NewsKind.NO_CAPACITY, 990.0)
    plan = policy.plan(seen)
    assert (plan.actions, plan.again_at_s) == ((), 1020.0)
    assert len(launches(policy.plan(later(seen, 1020.0)))) == 1


def test_a_rest_that_keeps_nothing_from_being_launched_is_not_waited_for() -> None:
    policy = hedge(overprovision=0)
    tell(policy, B, NewsKind.NO_CAPACITY, 990.0)
    assert policy.plan(see(replica(1, A), target=1)).again_at_s is None


def test_a_rest_of_on_demand_ends_too() -> None:
    policy = hedge(overprovision=0)
    for zone in (A, B, C):
        tell(policy, zone, NewsKind.LAUNCH_ERROR, 995.0, ON_DEMAND)
    starting = replica(1, A, state=State.LOADING)
    plan = policy.plan(see(starting, target=1))
    assert (plan.actions, plan.again_at_s) == ((), 1025.0)


def test_a_zone_without_quota_is_asked_again_after_ten_minutes() -> None:
    policy = hedge(overprovision=0, fallback=False)
    tell(policy, A, NewsKind.QUOTA, 900.0)
    assert policy.plan(see(target=1, offers=offers(A))).again_at_s == 1500.0


def test_launches_wait_for_the_end_of_the_hold_after_failed_boots() -> None:
    policy = hedge()
    for at_s in (900.0, 990.0):
        tell(policy, A, NewsKind.BOOT_FAILED, at_s)
    plan = policy.plan(see())
    assert (plan.actions, plan.again_at_s) == ((), 1050.0)
    assert launches(policy.plan(see(now_s=1050.0)))


def test_on_demand_goes_when_the_next_spot_replica_has_been_ready_for_long_enough() -> None:
    fleet = [replica(1, A, since_s=900.0), replica(2, B, since_s=970.0), replica(3, C, since_s=980.0)]
    seen = see(*fleet, replica(4, A, ON_DEMAND), target=2)
    plan = hedge(overprovision=1).plan(seen)
    assert (plan.actions, plan.again_at_s) == ((), 1030.0)
    without = see(*fleet, target=2)
    assert hedge(overprovision=1).plan(without).again_at_s is None


def test_the_last_replica_under_notice_goes_at_its_last_moment() -> None:
    last = replica(1, A, state=State.NOTICED, notice=Notice(1060.0, "aws"))
    starting = [replica(2, B, state=State.LOADING), replica(3, B, ON_DEMAND, State.LOADING)]
    policy, seen = hedge(overprovision=0), see(last, *starting, target=1)
    assert policy.plan(seen).again_at_s == 1058.0
    assert [drain.replica for drain in drains(policy.plan(later(seen, 1058.0)))] == [last.id]


def test_markets_that_are_not_offered_are_not_waited_for() -> None:
    policy = hedge(overprovision=0, fallback=False)
    tell(policy, B, NewsKind.NO_CAPACITY, 990.0)
    seen = see(target=1, offers=[one for one in offers(A) if one.market is Market.ON_DEMAND])
    assert policy.plan(seen).again_at_s is None
    assert SPOT not in {one.market for one in seen.offers}
