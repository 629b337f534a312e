"""The omniscient bound: the paper's figures, the same optimum as the program over ticks, no policy below it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import highspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.simulate.baselines import BASELINES, make_baseline
from hedgeserve.simulate.omniscient import OmniscientOutcome, Steps, omniscient
from hedgeserve.simulate.setting import OfferModel, PriceTrace, WorldSetting
from hedgeserve.simulate.traces import ZoneTrace
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec
from tests.lockstep import paper_models, recorded, window_offsets

READ_AT = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = 60.0


def model(
    zone: str,
    counts: Sequence[int] | None,
    *,
    usd: Sequence[float] | float = 1.0,
    cold_s: float = 120.0,
    market: Market = Market.SPOT,
    gap_s: float = MINUTE,
) -> OfferModel:
    """An offer whose count and price change each minute."""
    zone_id, prices = ZoneId(f"aws/east/{zone}"), (usd,) if isinstance(usd, float) else tuple(usd)
    return OfferModel(
        offer=Offer(zone_id, "v100", market, prices[0], READ_AT),
        capacity=None if counts is None else ZoneTrace(zone_id, gap_s, np.array(counts, dtype=np.int64)),
        cold_start_s=(cold_s,),
        price=PriceTrace(gap_s=gap_s, usd_per_hour=prices) if len(prices) > 1 else None,
    )


def on_demand(usd: Sequence[float] | float = 3.0, cold_s: float = 120.0) -> OfferModel:
    return model("a", None, usd=usd, cold_s=cold_s, market=Market.ON_DEMAND)


def world(*offers: OfferModel, minutes: int, target: int = 1, warm_up_s: float = 0.0) -> WorldSetting:
    return WorldSetting(
        offers=offers, target=target, window_s=minutes * MINUTE, warm_up_s=warm_up_s, tick_s=MINUTE
    )


def usd(replica_minutes: float) -> float:
    return pytest.approx(replica_minutes / 60)


def held(steps: Steps, minutes: int) -> list[float]:
    """The steps, written out minute by minute."""
    value_at = dict(steps)
    values: list[float] = []
    for minute in range(minutes):
        values.append(value_at.get(minute * MINUTE, values[-1] if values else 0.0))
    return values


def test_on_demand_is_bought_a_cold_start_before_spot_ends():
    """Spot is there for ten minutes and then not: on-demand overlaps with it for its two minutes of cold start."""
    outcome = omniscient(world(model("a", [1] * 10 + [0] * 10), on_demand(), minutes=20, warm_up_s=120.0))
    assert held(outcome.spot[ZoneId("aws/east/a")], 20) == [1.0] * 10 + [0.0] * 10
    assert held(outcome.on_demand, 20) == [0.0] * 8 + [1.0] * 12
    assert outcome.spot_usd == usd(8)
    assert outcome.on_demand_usd == usd(3 * 12)
    assert outcome.on_demand_h == pytest.approx(12 / 60)
    assert outcome.integral
    assert outcome.availability == 1.0


def test_a_pause_no_longer_than_the_cold_start_is_held_through():
    """While a cheaper zone is back for two minutes there is nothing to win by pausing the dearer one."""
    dear = model("b", None, usd=2.0)
    outcome = omniscient(world(model("a", [0] * 9 + [1] * 4 + [0] * 7), dear, minutes=20, warm_up_s=120.0))
    assert held(outcome.spot[ZoneId("aws/east/b")], 20) == [1.0] * 20
    assert outcome.cost_usd == usd(2 * 18)


def test_it_waits_for_the_cheaper_hour():
    """Of two endless zones the cheaper one is held, and the switch pays for the overlap only where that pays."""
    outcome = omniscient(
        world(
            model("a", None, usd=[1.0] * 15 + [5.0] * 15), model("b", None, usd=2.0), minutes=30, warm_up_s=120.0
        )
    )
    assert held(outcome.spot[ZoneId("aws/east/a")], 30) == [1.0] * 15 + [0.0] * 15
    assert held(outcome.spot[ZoneId("aws/east/b")], 30) == [0.0] * 13 + [1.0] * 17
    assert outcome.cost_usd == usd(13 + 2 * 17)


def test_the_target_may_change():
    """A second replica is there from the minute it is needed on, launched two minutes before."""
    outcome = omniscient(
        world(model("a", None), minutes=20, warm_up_s=120.0), targets=((0.0, 1), (600.0, 2), (720.0, 0))
    )
    assert held(outcome.spot[ZoneId("aws/east/a")], 20) == [1.0] * 8 + [2.0] * 4 + [0.0] * 8
    assert outcome.counted_s == 18 * MINUTE


def test_what_nobody_can_have_is_not_asked():
    """Without on-demand an outage of spot is an outage for all: the bound is as available as can be."""
    outcome = omniscient(world(model("a", [2] * 8 + [0] * 4 + [1] * 8), minutes=20, target=2, warm_up_s=120.0))
    assert outcome.available_s == 6 * MINUTE
    assert outcome.counted_s == 18 * MINUTE
    assert held(outcome.spot[ZoneId("aws/east/a")], 20) == [2.0] * 8 + [0.0] * 4 + [1.0] * 8


def test_nothing_is_bought_for_nobody():
    """A target of 0 costs nothing and is always met."""
    outcome = omniscient(world(model("a", [1]), on_demand(), minutes=20, target=0))
    assert (outcome.cost_usd, outcome.availability, outcome.integral) == (0.0, 1.0, True)


def test_an_offer_that_grants_nothing_is_not_there():
    """On-demand with a share of granted launches of 0 cannot bridge."""
    none = replace(on_demand(), available=0.0)
    outcome = omniscient(world(model("a", [1] * 10 + [0] * 10), none, minutes=20, warm_up_s=120.0))
    assert outcome.available_s == 8 * MINUTE


# The program over ticks


def over_ticks(setting: WorldSetting, targets: Sequence[int]) -> float:
    """The paper's program, relaxed, one variable for each offer and tick, in the plainest way there is."""
    ticks, offers = len(targets), setting.offers
    warm_up = round(setting.warm_up_s / setting.tick_s)
    cold = [round(offer.cold_start_s[0] / setting.tick_s) for offer in offers]
    count = len(offers) * ticks
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    for index, offer in enumerate(offers):
        for tick in range(ticks):
            price = offer.offer.usd_per_hour if offer.price is None else offer.price.usd_per_hour[tick]
            most = np.inf if offer.capacity is None else float(offer.capacity.at(tick * setting.tick_s))
            solver.addCol(price / 60 if tick >= warm_up else 0.0, 0.0, most, 0, [], [])
            assert index * ticks + tick + 1 == solver.numVariables
    for _ in range(count):
        solver.addCol(0.0, 0.0, np.inf, 0, [], [])
    reach = np.zeros(ticks)
    for index, offer in enumerate(offers):
        for tick in range(ticks):
            launched = range(tick - cold[index], tick + 1)
            if launched[0] < 0:
                solver.changeColBounds(count + index * ticks + tick, 0.0, 0.0)
                continue
            reach[tick] += min(
                10 if offer.capacity is None else offer.capacity.at(then * setting.tick_s) for then in launched
            )
            for then in launched:
                columns = [index * ticks + then, count + index * ticks + tick]
                solver.addRow(0.0, np.inf, 2, columns, [1.0, -1.0])
    for tick in range(warm_up, ticks):
        columns = [count + index * ticks + tick for index in range(len(offers))]
        solver.addRow(min(float(targets[tick]), reach[tick]), np.inf, len(columns), columns, [1.0] * len(columns))
    solver.run()
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(solver.getObjectiveValue())


MINUTES = 24
prices = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.lists(st.sampled_from([0.2, 1.0, 1.1, 2.0]), min_size=1, max_size=8).map(
        lambda few: [price for price in few for _ in range(MINUTES // len(few) + 1)][:MINUTES]
    ),
)
counts = st.one_of(
    st.none(),
    st.lists(st.integers(0, 3), min_size=MINUTES, max_size=MINUTES),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), min_size=1, max_size=8).map(
        lambda runs: ([count for count, length in runs for _ in range(length)] * MINUTES)[:MINUTES]
    ),
)
cold_starts = st.integers(0, 5).map(lambda ticks: ticks * MINUTE)
spot_models = st.builds(
    lambda counts, usd, cold_s, zone: model(zone, counts, usd=usd, cold_s=cold_s),
    counts, prices, cold_starts, st.sampled_from("abc"),
)  # fmt: skip
target_runs = st.lists(st.tuples(st.integers(0, 3), st.integers(3, 24)), min_size=1, max_size=4).map(
    lambda runs: ([target for target, length in runs for _ in range(length)] * MINUTES)[:MINUTES]
)


@settings(deadline=None, max_examples=60)
@given(
    spots=st.lists(spot_models, max_size=3, unique_by=lambda one: one.offer.zone),
    fallback=st.one_of(st.none(), st.builds(on_demand, prices, cold_starts)),
    targets=target_runs,
    warm_up=st.integers(0, 6),
)
def test_merged_ticks_have_the_optimum_of_all_ticks(
    spots: list[OfferModel], fallback: OfferModel | None, targets: list[int], warm_up: int
) -> None:
    """However capacity, prices, targets and cold starts lie, merging ticks loses nothing."""
    offers = [*spots, *([fallback] if fallback else [])]
    if not offers:
        return
    setting = world(*offers, minutes=MINUTES, warm_up_s=warm_up * MINUTE)
    outcome = omniscient(setting, tuple((tick * MINUTE, target) for tick, target in enumerate(targets)))
    assert outcome.cost_usd == pytest.approx(over_ticks(setting, targets), abs=1e-7)
    assert_may_be(outcome, setting, targets)


def assert_may_be(outcome: OmniscientOutcome, setting: WorldSetting, targets: Sequence[int]) -> None:
    """No zone holds more than it has."""
    for one in setting.offers:
        if one.capacity is not None:
            for tick, count in enumerate(held(outcome.spot[one.offer.zone], len(targets))):
                assert count <= one.capacity.at(tick * MINUTE) + 1e-6


@settings(deadline=None, max_examples=40)
@given(
    runs=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(2, 30)), min_size=1, max_size=6), min_size=2, max_size=3
    ),
    name=st.sampled_from(sorted(BASELINES)),
    seed=st.integers(0, 3),
)
def test_no_policy_pays_less_for_what_it_holds(runs: list[list[tuple[int, int]]], name: str, seed: int) -> None:
    """Ask for what a policy had ready, and the omniscient has it for no more than the policy paid."""
    offers = [
        model("abc"[index], [count for count, length in run for _ in range(length)], usd=1.0 + index / 4)
        for index, run in enumerate(runs)
    ]
    setting = world(*offers, on_demand(), minutes=120, target=2, warm_up_s=120.0)
    outcome = run(make_baseline(name, HedgeSpec(overprovision=1), seed), setting)
    steps: dict[float, int] = {}
    for markets in outcome.ready.values():
        for changes in markets.values():
            for (at_s, count), before in zip(changes, (0, *(count for _, count in changes)), strict=False):
                steps[at_s] = steps.get(at_s, 0) + count - before
    ready, targets = 0, []
    for at_s in sorted(steps):
        ready += steps[at_s]
        targets.append((at_s, ready))
    bound = omniscient(setting, targets)
    assert bound.availability == 1.0
    assert bound.cost_usd <= outcome.cost_usd + 1e-9


@pytest.mark.parametrize(
    ("traces", "percent"),
    [
        ("aws-1", [47.8, 41.7, 42.1, 33.3, 59.7, 33.3, 48.8, 33.3, 33.3, 33.3]),
        ("aws-3", [33.3, 33.3, 33.3, 33.3, 33.4, 33.3, 33.3, 38.2, 34.2, 33.3]),
    ],
)
def test_it_pays_what_the_papers_program_pays(traces: str, percent: list[float]) -> None:
    """The first ten windows of the artifact, which bills the warm-up too."""
    record = recorded(traces)
    for offset, expected in zip(window_offsets(record, 10), percent, strict=True):
        outcome = omniscient(WorldSetting(offers=paper_models(record), target=3, start_s=offset * 30.0))
        assert outcome.cost_usd / (24 * 3 * 3) * 100 == pytest.approx(expected, abs=0.051)
        assert outcome.integral
        assert outcome.available_s == outcome.counted_s - 120.0
