"""What the caps would make of a plan, asked by whoever only looks: they say what the tick does."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hedgeserve.budgetspec import BudgetSpec
from hedgeserve.hedge import Budget, Launch, Means, Observation, Plan, Rule, Rung, Spent, explain_now, explain_zone
from hedgeserve.policy.foresight import foresee
from hedgeserve.replica import Replica
from tests.test_explain import scene, text
from tests.zoneworld import ON_DEMAND, THREE, A, B, launches, offer, replica

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def means(spent: float = 0.0, **caps: str) -> Means:
    budget = Budget(BudgetSpec.model_validate(caps), drain_s=120.0, ceilings={})
    return Means(budget, Spent(spent, spent), NOON, 1000.0)


def seen(*replicas: Replica, now_s: float = 1000.0, target: int = 2) -> Observation:
    return Observation(now_s, target, replicas, THREE)


WORST = max(one.usd_per_hour for one in THREE if one.market is ON_DEMAND)
ONE = replica(1, A, since_s=100.0)
ROOM_FOR_ONE = {"usd_per_hour": f"{WORST * 1.2:.4f} USD/h"}


def test_asking_changes_no_budget() -> None:
    """A cap that would be reached tomorrow is not reached now."""
    asked = means(usd_per_day="20 USD/day")
    before = asked.caps(seen(ONE))
    later = asked.caps(seen(ONE, now_s=1000.0 + 11.9 * 3600))
    assert later[0].used_usd == pytest.approx(ONE.offer.usd_per_hour * 11.9, rel=0.01)
    assert asked.caps(seen(ONE)) == before
    tomorrow = asked.caps(seen(ONE, now_s=1000.0 + 13 * 3600))
    assert tomorrow[0].used_usd == pytest.approx(ONE.offer.usd_per_hour, rel=0.01), "a new day begins at nothing"


def test_a_plan_that_is_held_wants_what_is_left_of_it() -> None:
    """Launches that are not made are not wanted: the status tells the plan after the ladder."""
    there = seen(ONE)
    more = (Launch(offer(B), Rule.SPREAD, ""), Launch(offer(B, ON_DEMAND), Rule.FALLBACK, ""))
    wanted = Plan(2, 3, 1, more)
    held = means(**ROOM_FOR_ONE).hold(wanted, there)
    assert launches(held.plan) == []
    assert (held.plan.spot_wanted, held.plan.on_demand_wanted) == (2, 0)
    assert held.step is Rung.LEAN


def test_an_explanation_promises_no_launch_that_the_caps_refuse() -> None:
    """It says which cap leaves no room, how much it leaves, and what would make room."""
    free = explain_now(scene(ONE))
    assert "would be launched" in " ".join(free.would_change)
    capped = scene(ONE, means=means(**ROOM_FOR_ONE))
    assert capped.means is not None
    capped = replace(capped, plan=capped.means.hold(capped.plan, capped.observation).plan)  # as the tick left it
    answer = explain_now(capped)
    assert "would be launched" not in " ".join(answer.would_change)
    assert any(told.startswith("not launched: budget.usd_per_hour (") for told in answer.because)
    assert any("USD/h left (lean: no spare replicas)" in told for told in answer.because)
    assert any("higher cap in `[budget]`" in told for told in answer.would_change)
    assert any("would go to" in told and "leaves no room" in told for told in answer.would_change)


def test_a_zone_that_the_caps_leave_no_room_for_is_not_where_the_next_one_goes() -> None:
    there = scene(ONE, means=means(**ROOM_FOR_ONE))
    there = replace(there, plan=means(**ROOM_FOR_ONE).hold(there.plan, there.observation).plan)
    [nearest] = [one.offer.zone for one in there.candidates(market=ONE.market) if one.rank == 0]
    answer = explain_zone(there, nearest)
    assert "would go, if the caps of `[budget]` left room for it" in answer.headline
    assert "leaves no room for a VM" in text(answer)
    assert "no spot replica is missing now" not in text(answer)
    [second] = [one.offer.zone for one in there.candidates(market=ONE.market) if one.rank == 1]
    assert explain_zone(there, second).headline.endswith("the caps of `[budget]` leave no room for it")
    roomy = explain_zone(replace(there, means=means(usd_per_hour="100 USD/h")), nearest)
    assert roomy.headline.endswith("is where the next spot replica goes")
    assert "budget.usd_per_hour (100 USD/h): what runs may cost" in text(roomy)


def test_what_is_foreseen_is_held_at_its_own_time() -> None:
    """A day's cap that is reached is looked at anew at midnight, and the launch foreseen for then."""
    budget = means(usd_per_day="100 USD/day").budget
    late = Means(budget, Spent(100.0, 100.0), NOON.replace(hour=23, minute=59), 1000.0)
    found = foresee(scene(means=late), lambda action: isinstance(action, Launch))
    assert found is not None
    assert found.at_s == 1060.0
