"""What the forecast keeps to whatever happens: in every single plan, and over days of worlds that come and go."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import Drain, Launch, NewsKind, Observation, Plan, Policy, Rule, ZoneNews, make_policy
from hedgeserve.policy.outlook import GRAIN_S
from hedgeserve.replica import STARTING, Market, State, ZoneId
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.traces import ZoneTrace
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec
from tests.test_hedge_properties import ZONES, alive, observations, ready
from tests.test_sim_again import assert_planned_the_same_until_then, later
from tests.zoneworld import EXTERNAL, ON_DEMAND, SPOT, THREE, applied, launches, offer, terminations

unhurried = settings(deadline=None, max_examples=50)
"""The machine may be busy with something else: how long an example takes says nothing."""

DAY_S = 86400.0
PERCENT = re.compile(r"(\S+)%")

# Properties of every single plan


@st.composite
def forecasts(draw: st.DrawFn) -> tuple[Policy, HedgeSpec]:
    """The policy with any settings, after all kinds of news."""
    spec = HedgeSpec.model_validate(
        {
            "policy": "forecast",
            "overprovision": draw(st.integers(0, 3)),
            "fallback": draw(st.booleans()),
            "always_on_demand": draw(st.integers(0, 2)),
            "availability": draw(st.sampled_from([0.5, 0.99, 0.999, 0.999999])),
            "notice_lead": draw(st.sampled_from([None, "0s", "30s", "10m"])),
        }
    )
    policy = make_policy(spec)
    for at_s in sorted(draw(st.lists(st.floats(0, 1000), max_size=15))):
        policy.observe(
            ZoneNews(
                draw(st.sampled_from(ZONES)),
                draw(st.sampled_from([SPOT, SPOT, ON_DEMAND])),
                draw(st.sampled_from(list(NewsKind))),
                at_s,
                held_s=draw(st.sampled_from([None, 0.0, 20.0, 120.0, 7200.0])),
                lead_s=draw(st.sampled_from([None, 0.0, 30.0, 120.0])),
            )
        )
    return policy, spec


def check_words(plan: Plan) -> None:
    """Every decision says why, in words and figures that make sense."""
    for action in plan.actions:
        assert len(action.reason.split()) >= 4
        assert "nan" not in action.reason.split()
        for share in PERCENT.findall(action.reason):
            assert 0 <= float(share) <= 100, action.reason
    assert all(len(note.split()) >= 4 for note in plan.notes)


def check_make_before_break(seen: Observation, plan: Plan) -> None:
    """What serves, or is on its way, is let go of only where enough others are as far."""
    after = applied(seen, plan)
    assert ready(after) >= min(seen.target, ready(seen))
    gone = {one.replica for one in terminations(plan)}
    settled = [
        one
        for one in seen.replicas
        if one.alive and one.state not in (State.PLANNED, State.PROVISIONING) and one.market is not EXTERNAL
        and (one.notice is None or one.market is not SPOT)
    ]  # fmt: skip
    left = sum(one.id not in gone for one in settled) + ready(seen, EXTERNAL)
    assert left >= min(seen.target, len(settled) + ready(seen, EXTERNAL)) or ready(after) >= seen.target
    for one in seen.replicas:
        if one.id in gone:
            assert one.state in STARTING


@unhurried
@given(forecasts(), observations())
def test_a_plan_is_sound(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    """One pass over what holds for every plan: each replica is named once, what goes may go, words make sense."""
    policy, spec = made
    plan = policy.plan(seen)
    check_words(plan)
    check_make_before_break(seen, plan)
    named = [action.replica for action in plan.actions if not isinstance(action, Launch)]
    assert len(named) == len(set(named))
    assert set(named) <= {one.id for one in seen.replicas if one.market is not EXTERNAL}
    assert all(launch.offer in seen.offers for launch in launches(plan))
    assert plan.spot_wanted >= 0
    assert plan.on_demand_wanted >= spec.always_on_demand
    states = policy.zone_states()
    assert set(states) == {one.zone for one in seen.offers}
    assert all(states.values())


@unhurried
@given(forecasts(), observations())
def test_the_same_observation_gives_the_same_plan(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, _ = made
    first = policy.plan(seen)
    policy.plan(replace(seen, offers=THREE, target=seen.target + 1))
    assert policy.plan(seen) == first


@settings(deadline=None, max_examples=150)
@given(forecasts(), observations(), st.floats(0, 1, exclude_max=True), st.floats(0, 20000))
def test_until_then_the_same_world_is_planned_the_same(
    made: tuple[Policy, HedgeSpec], seen: Observation, share: float, far_s: float
) -> None:
    assert_planned_the_same_until_then(made[0], seen, share, far_s)


@unhurried
@given(forecasts(), observations(), st.floats(0, 1, exclude_max=True))
def test_until_then_notes_do_not_change_with_the_clock(
    made: tuple[Policy, HedgeSpec], seen: Observation, share: float
) -> None:
    policy, _ = made
    plan = policy.plan(seen)
    if plan.again_at_s is not None:
        then_s = min(seen.now_s + share * (plan.again_at_s - seen.now_s), math.nextafter(plan.again_at_s, 0))
        assert policy.plan(later(seen, then_s)).notes == plan.notes


@unhurried
@given(forecasts(), observations())
def test_carrying_plans_out_comes_to_an_end(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    """With no news at all nothing is launched and let go of in turns."""
    policy, _ = made
    for _ in range(4):
        seen = applied(seen, policy.plan(seen))
    assert launches(policy.plan(seen)) == []


@unhurried
@given(forecasts(), observations())
def test_a_load_of_zero_keeps_only_what_is_always_on(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    policy, spec = made
    seen = replace(seen, target=0)
    plan = policy.plan(seen)
    after = applied(seen, plan)
    assert alive(after, SPOT) == [one for one in alive(after, SPOT) if one.notice is not None]
    assert len(alive(after, ON_DEMAND)) <= spec.always_on_demand
    assert launches(plan, SPOT) == []


@unhurried
@given(forecasts(), observations())
def test_without_fallback_on_demand_is_only_what_is_always_on(
    made: tuple[Policy, HedgeSpec], seen: Observation
) -> None:
    policy, spec = made
    if spec.fallback or not any(one.market is SPOT for one in seen.offers):
        return
    plan = policy.plan(seen)
    assert all(launch.rule is Rule.ALWAYS_ON for launch in launches(plan, ON_DEMAND))
    assert len(launches(plan, ON_DEMAND)) <= spec.always_on_demand


@unhurried
@given(forecasts(), observations())
def test_never_far_more_than_the_load_needs(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    """All of the load twice in each market, once more for zones that may go: never beyond."""
    policy, spec = made
    plan = policy.plan(seen)
    after = applied(seen, Plan(seen.target, 0, 0, actions=tuple(launches(plan))))
    assert len(alive(after, SPOT)) <= len(alive(seen, SPOT)) + 2 * seen.target
    most = max(len(alive(seen, ON_DEMAND)), 2 * seen.target + spec.always_on_demand)
    assert len(alive(after, ON_DEMAND)) <= most


@unhurried
@given(forecasts(), observations())
def test_a_restart_loses_neither_rests_nor_quotas(made: tuple[Policy, HedgeSpec], seen: Observation) -> None:
    """With nothing held, a policy that was rebuilt from its memory asks no zone that the old one leaves alone."""
    policy, spec = made
    seen = replace(seen, replicas=())
    fresh = make_policy(spec)
    fresh.restore_memory(json.loads(json.dumps(policy.export_memory(seen.now_s))), seen.now_s)
    policy.plan(seen), fresh.plan(seen)
    old, new = policy.zone_states(), fresh.zone_states()
    for zone in {one.zone for one in seen.offers if one.market is SPOT}:
        word = old[zone].partition(":")[0]
        if word != "unsupported":  # that holds until the next start, which this is
            assert new[zone].partition(":")[0] == word or "unsupported" in old[zone]


# Over days of simulated worlds

Counts = Sequence[tuple[int, ...]]


@dataclass
class Watched:
    """The forecast, each of whose plans is held to what must always be so."""

    policy: Policy
    most: int = 0
    name: str = "forecast"

    def observe(self, news: ZoneNews) -> None:
        self.policy.observe(news)

    def plan(self, observation: Observation) -> Plan:
        plan = self.policy.plan(observation)
        check_words(plan)
        check_make_before_break(observation, plan)
        self.most = max(self.most, sum(one.alive for one in observation.replicas))
        for action in plan.actions:
            if isinstance(action, Drain):
                [one] = [one for one in observation.replicas if one.id == action.replica]
                if one.state is State.NOTICED and ready(observation) < observation.target:
                    assert one.notice is not None
                    assert observation.now_s >= one.notice.deadline_s - 2
        return plan

    def zone_states(self) -> Mapping[ZoneId, str]:
        return self.policy.zone_states()

    def export_memory(self, now_s: float) -> dict[str, Any]:
        return self.policy.export_memory(now_s)

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        self.policy.restore_memory(memory, now_s)


def watched(**more: Any) -> Watched:
    return Watched(make_policy(HedgeSpec.model_validate({"policy": "forecast"} | more)))


def world(
    capacities: Counts, gap_s: float, cold_start_s: float = 120.0, notice_s: float = 0.0, **more: Any
) -> WorldSetting:
    """Spot in these zones, each with its counts in turn for ``gap_s`` each; on-demand without end in the first."""
    models = [
        OfferModel(
            offer=offer(zone, SPOT, 0.3),
            capacity=ZoneTrace(zone, gap_s, np.array(counts, dtype=np.int64)),
            cold_start_s=(cold_start_s,),
            notice_s=notice_s,
        )
        for zone, counts in zip(ZONES, capacities, strict=False)
    ]
    models.append(OfferModel(offer=offer(ZONES[0], ON_DEMAND, 1.0), cold_start_s=(cold_start_s,)))
    return WorldSetting(offers=tuple(models), **{"target": 2, "window_s": DAY_S / 2} | more)


@st.composite
def capacities(draw: st.DrawFn) -> Counts:
    zones = draw(st.integers(1, 6))
    return [tuple(draw(st.lists(st.integers(0, 4), min_size=12, max_size=24))) for _ in range(zones)]


def asked(outcome: FleetOutcome, market: Market | None = None, since_s: float = 0.0) -> int:
    return sum(
        one.what == "launch" and market in (None, one.market) and one.at_s >= since_s for one in outcome.decisions
    )


@settings(deadline=None, max_examples=15)
@given(
    capacities(),
    st.sampled_from([600.0, 1800.0, 3600.0]),
    st.sampled_from([30.0, 120.0, 480.0]),
    st.sampled_from([0.0, 30.0, 120.0]),
    st.integers(1, 4),
    st.sampled_from([None, "0s", "120s"]),
)
def test_in_any_world_the_load_is_carried_at_a_price_within_bounds(
    counts: Counts, gap_s: float, cold_start_s: float, notice_s: float, target: int, lead: str | None
) -> None:
    policy = watched(notice_lead=lead)
    outcome = run(
        policy,
        world(counts, gap_s, cold_start_s, notice_s, target=target, warm_up_s=cold_start_s + 60),
    )
    # On-demand is there to be had: a loss is made good after a cold start, and the news and a refusal before it.
    blows = {one.ended_s for one in outcome.lives if one.gone == "preempted"}
    assert outcome.counted_s - outcome.available_s <= len(blows) * (cold_start_s + 4 * 30.0)
    assert policy.most <= 4 * target + 4
    hours = outcome.window_s / 3600
    assert outcome.cost_usd <= 1.5 * hours * target * 1.0
    # Each zone is asked again after rests that grow to six retry delays; on-demand answers for each blow.
    assert asked(outcome, SPOT) <= len(counts) * target * 2 * (len(blows) + outcome.window_s / 180)
    assert asked(outcome, ON_DEMAND) <= 3 * target * (len(blows) + outcome.window_s / GRAIN_S)


@settings(deadline=None, max_examples=8)
@given(
    st.lists(st.booleans(), min_size=1, max_size=6),
    st.integers(0, 2),
    st.integers(1, 4),
    st.sampled_from([0.0, 120.0]),
)
def test_a_world_that_holds_is_left_in_peace_after_a_day(
    has: list[bool], more: int, target: int, notice_s: float
) -> None:
    """Zones that have capacity keep it: what was granted stays, and nothing comes and goes."""
    counts = [(2 * target + more if any_there else 0,) for any_there in [True, *has]]
    outcome = run(watched(), world(counts, 3600.0, notice_s=notice_s, target=target, window_s=1.5 * DAY_S))
    assert outcome.preemptions == 0
    assert [one for one in outcome.lives if one.launched_s > DAY_S] == []
    assert [one for one in outcome.lives if one.gone is not None and one.ended_s > DAY_S] == []
    assert outcome.on_demand_h < 6 * target


@settings(deadline=None, max_examples=6)
@given(capacities(), st.sampled_from([900.0, 3600.0]))
def test_jumping_over_ticks_changes_nothing(counts: Counts, gap_s: float) -> None:
    setting = world(counts, gap_s, window_s=DAY_S / 8)
    assert run(watched(), setting, every_tick=True) == run(watched(), setting)
