"""Replicas in doubt: others are launched in their place, nothing is done to them, and never to all at once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.hedge import Drain, Launch, Observation, Plan, Rule, Terminate, counted, spared
from hedgeserve.replica import GoneReason, Market, Replica, ReplicaId, State
from tests.zoneworld import SPOT, A, B, C, hedge, offer, see


def replica(number: int, state: State = State.READY, market: Market = SPOT) -> Replica:
    zone = (A, B, C)[number % 3]
    made = offer(zone, market)
    return Replica(
        ReplicaId(f"r-{number}"), made, state, 0.0, made.read_at, vm_id=f"vm-{number}",
        ready_since_s=0.0 if state is State.READY else None,
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_one_in_doubt_is_replaced_at_once_and_left_alone(policy: str, replicas: int) -> None:
    """Also where it is the only one."""
    told = hedge(policy=policy, overprovision=0)
    seen = see(target=replicas, now_s=1000.0, offers=(offer(A), offer(B), offer(C)))
    fleet: tuple[Replica, ...] = ()
    while launches := [one for one in told.plan(seen).actions if isinstance(one, Launch)]:
        fleet += tuple(replica(len(fleet) + number) for number in range(len(launches)))
        seen = replace(seen, replicas=fleet)
    doubted = {fleet[0].id}
    plan = spared(told.plan(counted(seen, doubted)), doubted)
    assert [type(one) for one in plan.actions] == [Launch]
    assert not any("under its notice" in note for note in plan.notes)


states = st.lists(
    st.tuples(st.sampled_from(list(State)), st.sampled_from(list(Market)), st.booleans()), max_size=9
)


@given(states)
def test_at_most_half_of_the_ready_ones_are_doubted_but_one_may_always_be(
    fleet: list[tuple[State, Market, bool]],
) -> None:
    """Where all are silent at once, it may be us; nothing but the state of ready VMs is touched."""
    replicas = tuple(replica(number, state, market) for number, (state, market, _) in enumerate(fleet))
    doubted = {one.id for one, (_, _, doubt) in zip(replicas, fleet, strict=True) if doubt}
    seen = Observation(0.0, 3, replicas, ())
    after = counted(seen, doubted)
    changed = [one for one, was in zip(after.replicas, replicas, strict=True) if one != was]
    ready = [one for one in replicas if one.state is State.READY]
    assert len(changed) <= max(1, len(ready) // 2)
    assert bool(changed) == any(one.id in doubted and one.market is not Market.EXTERNAL for one in ready)
    for one in changed:
        was = next(each for each in replicas if each.id == one.id)
        assert was.state is State.READY
        assert one == replace(was, state=State.NOTICED)


def test_what_a_plan_does_to_others_it_may_do() -> None:
    """Ends of doubted replicas are struck out, by whatever rule."""
    launch = Launch(offer(A), Rule.SPREAD, "why")
    ends = [
        Drain(ReplicaId("r-1"), Rule.NOTICE, "why", GoneReason.PREEMPTED),
        Terminate(ReplicaId("r-1"), Rule.SCALE_DOWN, "why", GoneReason.SCALED_DOWN),
        Drain(ReplicaId("r-2"), Rule.SCALE_DOWN, "why", GoneReason.SCALED_DOWN),
    ]
    plan = Plan(1, 1, 0, (launch, *ends))
    assert spared(plan, {ReplicaId("r-1")}).actions == (launch, ends[2])
    assert spared(plan, ()) is plan
