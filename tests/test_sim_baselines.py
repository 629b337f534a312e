"""The rivals: what each does next, that asking changes nothing, and that they come out as their authors' code."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import Drain, Launch, NewsKind, Plan, Policy, Rule, Terminate
from hedgeserve.replica import Market, Notice, Replica, State, ZoneId
from hedgeserve.simulate.baselines import BASELINES, UnknownPolicyError, make_baseline
from hedgeserve.simulate.setting import WorldSetting
from hedgeserve.simulate.traces import TraceSet, ZoneTrace
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec
from tests.lockstep import Lockstep, paper_models, recorded, window_offsets
from tests.zoneworld import ON_DEMAND, SPOT, THREE, A, B, C, launches, offers, replica, see, tell

SPOT_ALONE = ["even-spread", "round-robin", "aws-spot", "mark", "spotserve"]
OWN = [name for name in BASELINES if name != "spothedge"]


def made(name: str, extra: int = 0, seed: int = 0, **more: str) -> Policy:
    return make_baseline(name, HedgeSpec(overprovision=extra), seed, **more)


def where(plan: Plan, market: Market = SPOT) -> Counter[ZoneId]:
    return Counter(launch.offer.zone for launch in launches(plan, market))


def noticed(one: Replica) -> Replica:
    return one.to(State.NOTICED, now_s=900.0, why="aws", notice=Notice(1020.0, "aws"))


# The registry


@pytest.mark.parametrize("name", BASELINES)
def test_each_has_its_name_and_one_line(name: str):
    entry = BASELINES[name]
    assert entry.name == made(name).name == name
    assert entry.summary.endswith(".")
    assert "\n" not in entry.summary
    assert len(entry.summary) < 110


def test_a_name_that_nobody_has_is_refused_with_the_near_one():
    with pytest.raises(UnknownPolicyError, match='"evenspread"; did you mean even-spread\\?'):
        made("evenspread")


def test_production_is_production():
    """``spothedge`` is made with all of the hedge settings, not only N_extra."""
    policy = make_baseline("spothedge", HedgeSpec(overprovision=0, always_on_demand=1, fallback=False))
    plan = policy.plan(see())
    assert (len(where(plan)), len(where(plan, ON_DEMAND))) == (2, 1)


# What all of them keep to


@pytest.mark.parametrize("name", OWN)
def test_each_starts_with_what_it_wants(name: str):
    """With nothing there, the counts are the target and N_extra, split as the policy splits them."""
    plan = made(name, extra=1).plan(see(target=3))
    expected = {
        "on-demand": (0, 3), "even-spread": (4, 0), "round-robin": (4, 0), "aws-spot": (4, 0), "mark": (4, 0),
        "spotserve": (4, 0), "asg": (3, 1),
    }.get(name, (4, 3))  # fmt: skip
    assert (len(launches(plan, SPOT)), len(launches(plan, ON_DEMAND))) == expected
    assert (plan.spot_wanted, plan.on_demand_wanted) == expected
    assert all(action.reason for action in plan.actions)


@pytest.mark.parametrize("name", OWN)
def test_a_target_of_nothing_ends_all(name: str):
    """What serves is drained, what boots is terminated, and nothing is launched."""
    plan = made(name, extra=1).plan(
        see(replica(1), replica(2, B, state=State.LOADING), replica(3, market=ON_DEMAND), target=0)
    )
    assert {(type(action), action.replica) for action in plan.actions if not isinstance(action, Launch)} == {
        (Drain, "chat-1"), (Terminate, "chat-2"), (Drain, "chat-3"),
    }  # fmt: skip
    assert not launches(plan)


@pytest.mark.parametrize("name", OWN)
def test_without_offers_nothing_is_asked_and_a_note_says_so(name: str):
    plan = made(name).plan(see(offers=()))
    assert not plan.actions
    assert plan.notes


@pytest.mark.parametrize("name", OWN)
def test_asked_again_about_the_same_it_says_the_same(name: str):
    """A question changes nothing, not even the next question's dice or pointer."""
    once, twice = made(name, extra=1, seed=5), made(name, extra=1, seed=5)
    for policy, times in ((once, 1), (twice, 3)):
        for _ in range(times):
            policy.plan(see(now_s=1000.0))
        tell(policy, A, NewsKind.NO_CAPACITY)
    later = see(replica(1, B), replica(2, C), now_s=1030.0)
    assert once.plan(later) == twice.plan(later) == twice.plan(later)


@pytest.mark.parametrize("name", OWN)
def test_the_same_seed_is_the_same_policy_and_memory_outlives_it(name: str):
    """What was learnt is JSON-able and makes a new policy go on as the old one would have."""
    old, new = made(name, extra=1, seed=1), made(name, extra=1, seed=1)
    old.plan(see(now_s=1000.0))
    new.plan(see(now_s=1000.0))
    tell(old, A, NewsKind.NO_CAPACITY)
    later = see(replica(1, B), now_s=1030.0)
    old.plan(later)
    new.restore_memory(old.export_memory(1030.0), 1030.0)
    last = see(replica(1, B), now_s=1060.0)
    assert new.plan(last).actions == old.plan(last).actions
    new.restore_memory({"asked": "x", "preempted": 3, "short": None}, 1060.0)
    assert set(new.zone_states()) == {A, B, C}


# One by one


def test_even_spread_asks_the_empty_zone_for_ever():
    """A zone that refuses has the fewest, so it is asked at each tick, whatever the others could give."""
    policy = made("even-spread")
    first = policy.plan(see(now_s=0.0))
    assert where(first) == {A: 1, B: 1, C: 1}
    for tick in range(1, 20):
        tell(policy, B, NewsKind.NO_CAPACITY, 30.0 * (tick - 1))
        plan = policy.plan(see(replica(1, A), replica(2, C), now_s=30.0 * tick))
        assert where(plan) == {B: 1}
        assert plan.again_at_s == 30.0 * tick


def test_round_robin_goes_on_where_it_stopped():
    """Each missing replica is asked of the zone after the last one asked, whichever that was."""
    policy = made("round-robin")
    [first, second, third] = [launch.offer.zone for launch in launches(policy.plan(see(now_s=0.0)))]
    assert {first, second, third} == {A, B, C}
    there = (replica(1, second), replica(2, third))
    asked = []
    for tick in range(1, 7):
        asked += [launch.offer.zone for launch in launches(policy.plan(see(*there, now_s=30.0 * tick)))]
    assert asked == [first, second, third] * 2


@pytest.mark.parametrize("name", ["round-robin-fallback", "even-spread-fallback", "spothedge-artifact"])
def test_fallback_is_what_spot_lacks_and_goes_at_once(name: str):
    """O = min(N_target, N_target + N_extra - S_ready), without a hold."""
    spot = [replica(number, zone) for number, zone in enumerate((A, B, C, A), start=1)]
    bridge = [replica(number, market=ON_DEMAND) for number in (8, 9)]
    policy = made(name, extra=1)
    short = policy.plan(see(*spot[:2], *bridge, replica(5, C, state=State.LOADING)))
    assert short.on_demand_wanted == 2
    assert not [action for action in short.actions if not isinstance(action, Launch)]
    enough = policy.plan(see(*spot, *bridge, now_s=1030.0))
    assert {action.replica for action in enough.actions if isinstance(action, Drain)} == {"chat-8", "chat-9"}
    assert {action.rule for action in enough.actions} == {Rule.BACK_TO_SPOT}


def test_the_printed_rule_calls_zones_back_when_one_is_left():
    """With three zones the second loss calls the first zone back, as Algorithm 1 has it."""
    policy = made("spothedge-printed")
    policy.plan(see(now_s=0.0))
    tell(policy, A, NewsKind.PREEMPTED, 30.0)
    assert where(policy.plan(see(now_s=30.0))) == {B: 2, C: 1}
    tell(policy, B, NewsKind.NO_CAPACITY, 30.0)
    assert where(policy.plan(see(now_s=60.0))) == {A: 1, B: 1, C: 1}


def test_the_printed_rule_takes_the_cheapest_of_the_fewest():
    cheap = tuple(replace(one, usd_per_hour=0.1) if one.zone == C and one.market is SPOT else one for one in THREE)
    assert where(made("spothedge-printed").plan(see(target=1, offers=cheap))) == {C: 1}


def test_the_artifact_forgets_only_when_no_zone_is_left():
    """With three zones two losses leave one to be asked, and the third loss calls all back."""
    policy = made("spothedge-artifact")
    policy.plan(see(now_s=0.0))
    for zone in (A, B):
        tell(policy, zone, NewsKind.NO_CAPACITY, 0.0)
    assert where(policy.plan(see(now_s=30.0))) == {C: 3}
    assert policy.zone_states()[A].startswith("preempted")
    tell(policy, C, NewsKind.NO_CAPACITY, 30.0)
    assert where(policy.plan(see(now_s=60.0))) == {A: 1, B: 1, C: 1}


def test_the_artifact_lets_a_zone_return_that_lost_nothing_for_a_tick():
    policy = made("spothedge-artifact")
    policy.plan(see(now_s=0.0))
    for zone in (A, B):
        tell(policy, zone, NewsKind.PREEMPTED, 0.0)
    policy.plan(see(replica(1, A), now_s=30.0))
    assert policy.zone_states()[A].startswith("preempted")
    policy.plan(see(replica(1, A), now_s=60.0))
    assert policy.zone_states()[A] == "available"


@given(
    here=st.lists(st.sampled_from([A, B, C]), min_size=2, max_size=6),
    target=st.integers(1, 5),
    seed=st.integers(0, 20),
)
def test_the_artifacts_scale_down_places_all_anew(here: list[ZoneId], target: int, seed: int):
    """It ends with as many as wanted, in as many zones as they can be in, however crowded they were before."""
    there = [replica(number, zone) for number, zone in enumerate(here, start=1)]
    plan = made("spothedge-artifact", seed=seed).plan(see(*there, target=target))
    left = Counter(one.zone for one in there if one.id not in gone(plan)) + where(plan)
    assert left.total() == target
    if target < len(here):
        assert len(left) == min(target, 3)


def gone(plan: Plan) -> set[str]:
    return {action.replica for action in plan.actions if not isinstance(action, Launch)}


def test_the_group_keeps_a_tenth_on_demand_and_replaces_at_a_notice():
    """One of four is on-demand at all times; the replica under notice is replaced, not ended."""
    policy = made("asg", extra=1)
    there = (replica(1, A), replica(2, B), noticed(replica(3, C)), replica(4, market=ON_DEMAND))
    tell(policy, C, NewsKind.NOTICE)
    plan = policy.plan(see(*there))
    assert where(plan) == {A: 1}
    assert not gone(plan)
    assert made("asg").plan(see(target=30)).on_demand_wanted == 3
    assert made("asg").plan(see(target=31)).on_demand_wanted == 4


def test_those_that_know_no_notice_wait_for_the_end():
    """Plain spot holds on to a replica under notice as if nothing had been said."""
    for name in ("aws-spot", "mark", "even-spread", "round-robin"):
        plan = made(name).plan(see(replica(1, A), replica(2, B), noticed(replica(3, C))))
        assert not plan.actions


def test_one_region_has_the_most_zones_unless_told():
    """Of the regions the one with the most zones, of equal ones the first by name."""
    west = [ZoneId(f"local/west/{letter}") for letter in "ab"]
    for name in ("asg", "aws-spot", "mark"):
        assert set(where(made(name).plan(see(offers=offers(*west, A, B))))) <= {A, B}
        assert set(where(made(name).plan(see(offers=offers(*west, A))))) == set(west)
        told = made(name, region="local/west").plan(see(offers=offers(*west, A, B, C)))
        assert set(where(told)) == set(west)
    assert where(made("spotserve").plan(see(offers=offers(*west, A, B, C)))) == {A: 3}


def test_one_region_turns_to_the_zone_whose_shortage_is_longest_ago():
    policy = made("aws-spot")
    tell(policy, A, NewsKind.NO_CAPACITY, 10.0)
    tell(policy, B, NewsKind.PREEMPTED, 20.0)
    assert where(policy.plan(see(target=1, now_s=30.0))) == {C: 1}
    tell(policy, C, NewsKind.NO_CAPACITY, 30.0)
    assert where(policy.plan(see(target=1, now_s=60.0))) == {A: 1}
    tell(policy, B, NewsKind.GRANTED, 60.0)
    assert where(policy.plan(see(target=1, now_s=90.0))) == {B: 1}


def test_mark_launches_for_the_load_to_come():
    """What was grown in ten minutes is expected once more, for as long, and never more than double."""
    policy = made("mark")
    assert policy.plan(see(target=2, now_s=0.0)).spot_wanted == 2
    grown = policy.plan(see(target=3, now_s=300.0))
    assert (grown.spot_wanted, policy.plan(see(target=3, now_s=890.0)).spot_wanted) == (4, 4)
    full = see(*(replica(number) for number in range(4)), target=3, now_s=300.0)
    assert policy.plan(full).again_at_s == 900.0
    assert policy.plan(see(target=3, now_s=900.0)).spot_wanted == 3
    assert policy.plan(see(target=9, now_s=930.0)).spot_wanted == 15
    assert policy.plan(see(target=1, now_s=960.0)).spot_wanted == 1


# Against the artifact


def window(record: TraceSet, offset: int) -> WorldSetting:
    return WorldSetting(offers=paper_models(record), target=3, start_s=offset * 30.0, warm_up_s=120.0)


TEN_WINDOWS: Mapping[tuple[str, str, int], tuple[float, float, float]] = {
    # (traces, policy, N_extra): availability %, cost %, tolerance; the artifact's code on the same ten windows
    ("aws-1", "on-demand", 0): (100.0, 99.9, 0.06),
    ("aws-1", "even-spread", 0): (30.4, 19.4, 0.06),
    ("aws-1", "round-robin", 0): (88.0, 30.0, 0.2),
    ("aws-1", "round-robin", 1): (88.6, 39.7, 0.2),
    ("aws-1", "round-robin-fallback", 0): (98.7, 40.5, 0.2),
    ("aws-1", "round-robin-fallback", 1): (99.3, 51.4, 0.2),
    ("aws-1", "spothedge-artifact", 0): (98.7, 40.5, 0.2),
    ("aws-1", "spothedge-artifact", 1): (99.2, 51.3, 0.2),
    ("aws-3", "round-robin", 0): (98.1, 33.0, 0.2),
    ("aws-3", "round-robin-fallback", 1): (99.7, 45.4, 0.2),
    ("aws-3", "spothedge-artifact", 0): (99.2, 34.4, 0.4),
    ("aws-3", "spothedge-artifact", 1): (99.7, 45.5, 0.4),
}


@pytest.mark.parametrize("case", TEN_WINDOWS, ids=lambda case: "-".join(map(str, case)))
def test_it_comes_out_as_in_the_papers_simulator(case: tuple[str, str, int]):
    """The same windows and settings give the availability and the cost that the artifact gives."""
    traces, name, extra = case
    availability, cost, within = TEN_WINDOWS[case]
    record = recorded(traces)
    outcomes = [
        run(made(name, extra, seed), window(record, offset))
        for seed, offset in enumerate(window_offsets(record, 10))
    ]
    assert fmean(one.availability for one in outcomes) * 100 == pytest.approx(availability, abs=within)
    assert fmean(one.cost_usd for one in outcomes) / 216 * 100 == pytest.approx(cost, abs=within)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(OWN),
    extra=st.integers(0, 2),
    target=st.integers(0, 3),
    seed=st.integers(0, 3),
    counts=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=8), min_size=1, max_size=5
    ),
)
def test_the_world_is_the_papers_lock_step_and_nothing_is_missed_by_skipping(
    name: str, extra: int, target: int, seed: int, counts: list[list[tuple[int, int]]]
):
    """Asked at every tick, or only with news and when it said so: a policy gets the same, in either world."""
    record = TraceSet(
        "made-up",
        tuple(
            ZoneTrace(ZoneId(f"aws/east/{index}"), 60.0, np.repeat(*np.array(runs, dtype=np.int64).T))
            for index, runs in enumerate(counts)
        ),
    )
    eager, lazy = (
        Lockstep(made(name, extra, seed), record, offset=0, ticks=200, target=target, eager=eager).run()
        for eager in (True, False)
    )
    outcome = run(
        made(name, extra, seed),
        WorldSetting(offers=paper_models(record), target=target, window_s=6000.0, warm_up_s=120.0),
    )
    assert (eager.availability, eager.usd) == (lazy.availability, lazy.usd)
    assert outcome.availability == pytest.approx(eager.availability)
    assert outcome.cost_usd == pytest.approx(eager.usd)
