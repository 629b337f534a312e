"""Caps in a simulated world: the very object that holds production's plans."""

from datetime import UTC, datetime

import pytest

from hedgeserve.budgetspec import BudgetSpec
from hedgeserve.hedge import Budget, make_policy
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec
from tests.zoneworld import ON_DEMAND, SPOT, A, B, offer

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY_S = 86400.0


def day(**caps: str) -> FleetOutcome:
    """One day from noon to noon: two replicas of SpotHedge, with on-demand to bridge."""
    setting = WorldSetting(
        offers=tuple(
            OfferModel(offer=offer(zone, market), cold_start_s=(120.0,))
            for zone in (A, B)
            for market in (SPOT, ON_DEMAND)
        ),
        target=2,
        window_s=DAY_S,
    )
    policy = make_policy(HedgeSpec(policy="spothedge", overprovision=0))
    budget = Budget(BudgetSpec.model_validate(caps), drain_s=120.0, ceilings={}) if caps else None
    return run(policy, setting, begins_at=NOON, budget=budget)


def test_a_budget_without_caps_changes_nothing() -> None:
    free = day()
    assert day(usd_per_hour="1000 USD/h").cost_usd == pytest.approx(free.cost_usd)


@pytest.mark.parametrize("usd", [1, 3, 10])
def test_no_day_costs_more_than_its_cap(usd: int) -> None:
    """Half of the first day and half of the second: two caps at the most, and nearly so where money is short."""
    outcome = day(usd_per_day=f"{usd} USD/day", horizon="10m")
    assert outcome.cost_usd <= 2 * usd
    assert outcome.cost_usd <= day().cost_usd + 1e-9
    if usd == 1:
        assert outcome.cost_usd > 1.5, "what may be spent is spent"


def test_what_an_hourly_cap_has_no_room_for_is_never_launched() -> None:
    """A spot VM counts as its on-demand price: where that is above the cap there is none at all."""
    assert day(usd_per_hour="0.01 USD/h").launches == 0
