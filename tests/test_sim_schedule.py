"""Back-tests by the calendar: a simulated service sleeps, wakes ahead and follows its hours."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import Autoscaler, WindDown, make_policy
from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate import PoissonRequests, TraceSet, ZoneTrace, backtest
from hedgeserve.simulate.fromspec import model_scenario
from hedgeserve.simulate.outcome import FleetOutcome
from hedgeserve.simulate.serving import RequestLoad, TokenService
from hedgeserve.simulate.setting import OfferModel, WorldSetting
from hedgeserve.simulate.tracefiles import load_traces, save_traces
from hedgeserve.simulate.workload import poisson
from hedgeserve.simulate.world import run
from hedgeserve.spec import HedgeSpec, ReplicasSpec, ScheduleSpec
from hedgeserve.specfile import parse_spec
from tests.zoneworld import ON_DEMAND, SPOT, A, B, offer

MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC)  # a Wednesday
HOUR = 3600.0
TWO = ReplicasSpec(count=2)
ELASTIC = ReplicasSpec(min=1, max=4, target_requests_per_second=0.5, upscale_delay="60s", downscale_delay="300s")


def day(
    schedule: ScheduleSpec, replicas: ReplicasSpec = TWO, *, rate: float = 0.0, every_tick: bool = False
) -> FleetOutcome:
    """One day of SpotHedge on two calm zones, 120 s to boot."""
    setting = WorldSetting(
        offers=tuple(
            OfferModel(offer=offer(zone, market), cold_start_s=(120.0,))
            for zone in (A, B)
            for market in (SPOT, ON_DEMAND)
        ),
        target=replicas.lowest,
    )
    load = None
    if rate:
        service = TokenService(concurrency=8, prefill_tokens_per_s=4000.0, decode_tokens_per_s=100.0)
        load = RequestLoad(poisson(rate, setting.window_s, 1), service)
    return run(
        make_policy(HedgeSpec(policy="spothedge", overprovision=0, fallback=False)),
        setting,
        autoscaler=Autoscaler(replicas) if load is not None else None,
        load=load,
        winddown=WindDown(schedule, replicas),
        begins_at=MIDNIGHT,
        every_tick=every_tick,
    )


def ready_at(outcome: FleetOutcome, at_s: float) -> int:
    """How many replicas are ready at a time."""
    return sum(
        next((count for time_s, count in reversed(steps) if time_s <= at_s), 0)
        for zone in outcome.ready.values()
        for steps in [zone.get(Market.SPOT, ()), zone.get(Market.ON_DEMAND, ())]
    )


def test_it_sleeps_and_is_ready_when_the_sleep_ends() -> None:
    """22:00 to 7:00: paid for from 6:58 on, when the two replicas are launched, and available all day."""
    outcome = day(ScheduleSpec(sleep="22:00-07:00"))
    assert [ready_at(outcome, at_h * HOUR) for at_h in (3, 6.99, 7, 21.99, 22.1, 23)] == [0, 0, 2, 2, 0, 0]
    assert outcome.spot_usd == pytest.approx(2 * 0.3 * (15 + 120 / HOUR), rel=1e-6)
    assert outcome.available_s == pytest.approx(outcome.counted_s)
    [first, *_] = outcome.decisions
    assert first.at_s == 7 * HOUR - 120
    assert {decision.reason for decision in outcome.decisions if decision.what == "drain"} == {
        "asleep until 07:00 UTC (schedule.sleep[0])"
    }
    assert outcome.targets == ((0.0, 0), (7 * HOUR, 2), (22 * HOUR, 0))


def test_hours_have_their_bounds() -> None:
    outcome = day(ScheduleSpec(scale=[{"when": "09:00-18:00", "count": 3}]))
    assert [ready_at(outcome, at_h * HOUR) for at_h in (8.9, 9, 17.9, 18.1)] == [2, 3, 3, 2]


def test_requests_in_the_sleep_have_failed() -> None:
    outcome = day(ScheduleSpec(sleep="22:00-07:00"), ELASTIC, rate=0.05)
    assert outcome.load is not None
    assert set(outcome.load.failed) <= {"asleep"}
    assert outcome.load.failed["asleep"] / outcome.load.arrived == pytest.approx(9 / 24, abs=0.05)
    assert ready_at(outcome, 3 * HOUR) == 0


def test_requests_may_wake_it() -> None:
    """A handful in the night: it is awake for some of it, and nobody fails."""
    schedule = ScheduleSpec(sleep="22:00-07:00", wake_on_request=True, awake_for="5m")
    outcome = day(schedule, ELASTIC, rate=0.0004)
    assert outcome.load is not None
    assert outcome.load.failed == {}
    assert outcome.spot_usd < 0.9 * 24 * 0.3


WHEN = st.sampled_from(["22:00-07:00", "Wed 03:10-03:40", "12:00-12:01", "Thu", "00:00-06:00"])


@given(st.lists(WHEN, max_size=2), st.lists(WHEN, max_size=1), st.sampled_from([None, "0s", "10m", "2h"]))
@settings(max_examples=15)
def test_no_tick_that_matters_is_jumped_over(sleep: list[str], busy: list[str], lead: str | None) -> None:
    keys: dict[str, Any] = {"sleep": sleep, "scale": [{"when": one, "count": 4} for one in busy], "lead": lead}
    schedule = ScheduleSpec(**keys)
    assert day(schedule) == day(schedule, every_tick=True)


MODEL = """
[model]
id = "m"
engine = "demo"
[replicas]
count = 2
[schedule]
timezone = "Europe/Berlin"
sleep = "22:00-07:00"
[[pools]]
cloud = "aws"
zones = ["us-east-1/us-east-1a", "us-east-1/us-east-1b"]
instance_types = ["g6.xlarge"]
"""


def record(begins_at: datetime | None = None) -> TraceSet:
    zones = [ZoneTrace(ZoneId(f"aws/us-east-1/us-east-1{z}"), 300.0, np.full(576, 9, np.int64)) for z in "ab"]
    return TraceSet("calm", tuple(zones), (), begins_at)


def test_a_record_begins_when_it_is_told_to() -> None:
    """The flag stands above the traces; where nobody says, it is a Monday, and a note says so."""
    spec = parse_spec(MODEL, "m.toml", Path("/"), {})
    guessed = model_scenario(spec, record())
    assert guessed.begins_at == datetime(2026, 1, 5, tzinfo=UTC)
    assert any("nobody says when the record began" in note for note in guessed.notes)
    told = model_scenario(spec, record(MIDNIGHT))
    assert told.begins_at == MIDNIGHT
    assert not any("nobody says" in note for note in told.notes)
    assert model_scenario(spec, record(), begins_at=MIDNIGHT).begins_at == MIDNIGHT


def test_every_policy_is_tried_for_the_same_hours() -> None:
    """Fifteen of twenty-four are paid for; the bound that none can pass knows the hours too."""
    spec = parse_spec(MODEL, "m.toml", Path("/"), {})
    awake = parse_spec(MODEL.replace('sleep = "22:00-07:00"', ""), "m.toml", Path("/"), {})
    names = ["on-demand", "spothedge", "omniscient"]
    slept = backtest(record(MIDNIGHT), spec, policies=names, windows=3)
    always = backtest(record(MIDNIGHT), awake, policies=names, windows=3)
    for name in names:
        ratio = slept.policy(name).cost_usd.mean / always.policy(name).cost_usd.mean
        assert ratio == pytest.approx(15 / 24, abs=0.02), name
        assert slept.policy(name).availability.mean > 0.99


def test_with_requests_too() -> None:
    """The autoscaler follows them within the hours' bounds."""
    text = MODEL.replace("count = 2", "min = 1\nmax = 3\ntarget_requests_per_second = 1")
    spec = parse_spec(text, "m.toml", Path("/"), {})
    result = backtest(record(MIDNIGHT), spec, policies=["spothedge"], windows=2, requests=PoissonRequests(0.2))
    failed = result.policy("spothedge").failed_ratio
    assert failed is not None
    assert failed.mean == pytest.approx(9 / 24, abs=0.03)


def test_traces_keep_when_they_began(tmp_path: Path) -> None:
    """`recorded_from`, which `hedgeserve traces record` writes; a file without it says nothing."""
    traces = record()
    told = {trace.zone: {"recorded_from": "2026-11-25T01:00:00+01:00"} for trace in traces}
    save_traces(traces, tmp_path / "told", metadata=told)
    assert load_traces(tmp_path / "told").begins_at == MIDNIGHT
    save_traces(traces, tmp_path / "untold")
    assert load_traces(tmp_path / "untold").begins_at is None
