"""The local driver's weather: pure, so that years of it pass in no time."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.drivers.base import Dialect
from hedgeserve.drivers.localcloud.weather import (
    CapacityTrace,
    SpotVm,
    Weather,
    ZoneClimate,
    climates_of,
    read_trace,
)
from hedgeserve.errors import SpecError
from hedgeserve.replica import ZoneId
from hedgeserve.spec import LocalSpec

DAWN = datetime(2026, 1, 1, tzinfo=UTC)
ZONE = ZoneId("local/east/a")


def climate(**differences: object) -> ZoneClimate:
    plain = {
        "zone": ZONE,
        "dialect": Dialect.AWS,
        "spot_usd_per_hour": 0.3,
        "on_demand_usd_per_hour": 1.0,
        "capacity": None,
        "boot_time_s": 1.0,
        "launch_failure": 0.0,
        "preempt_every_s": None,
        "notice_s": 10.0,
        "no_notice_share": 0.0,
        "vanish_share": 0.0,
        "vanish_seen_after_s": 15.0,
    }
    return ZoneClimate(**plain | differences)  # type: ignore[arg-type]


def weather(*, seed: int = 0, trace_speed: float = 1.0, **differences: object) -> Weather:
    return Weather(climates={ZONE: climate(**differences)}, seed=seed, began_at=DAWN, trace_speed=trace_speed)


def vms(count: int) -> list[SpotVm]:
    return [SpotVm(f"s-{number}", ZONE, DAWN) for number in range(count)]


def later(seconds: float) -> datetime:
    return DAWN + timedelta(seconds=seconds)


def test_a_full_zone_refuses_and_says_how_full_it_is() -> None:
    """Two VMs where there is room for two: the third launch hears why."""
    sky = weather(capacity=2)
    assert sky.refusal(ZONE, token="t", in_use=1, now=DAWN) is None
    assert sky.refusal(ZONE, token="t", in_use=2, now=DAWN) == f"{ZONE} has no spot capacity: 2 of 2 in use"


def test_a_trace_is_played_at_its_speed_and_repeats() -> None:
    """Counts of five minutes each at three hundred times their speed last a second each."""
    sky = weather(capacity=CapacityTrace(300.0, (3, 1, 0)), trace_speed=300.0)
    assert [sky.capacity(ZONE, later(second + 0.5)) for second in range(7)] == [3, 1, 0, 3, 1, 0, 3]


def test_a_falling_capacity_takes_the_vms_above_it() -> None:
    """Three VMs run when the capacity falls to one: two are preempted, and not the third."""
    sky = weather(capacity=CapacityTrace(60.0, (3, 1)))
    assert sky.preemptions(vms(3), later(59)) == []
    taken = sky.preemptions(vms(3), later(60))
    assert len({preemption.vm for preemption in taken}) == 2
    assert all(preemption.why == f"the capacity of {ZONE} fell to 1" for preemption in taken)
    survivors = [vm for vm in vms(3) if vm.name not in {preemption.vm for preemption in taken}]
    assert sky.preemptions(survivors, later(61)) == []


def test_spot_vms_live_as_long_as_the_mean_says() -> None:
    """Of many VMs with a mean life of 100 s, about 63% are gone after 100 s, as an exponential life has it."""
    gone = weather(preempt_every_s=100.0).preemptions(vms(2000), later(100))
    assert 0.60 < len(gone) / 2000 < 0.67


def test_the_share_without_notice_is_kept() -> None:
    """About a quarter of the preemptions come without a word, the others with the zone's notice."""
    taken = weather(preempt_every_s=1.0, no_notice_share=0.25).preemptions(vms(2000), later(100))
    silent = sum(preemption.notice_s == 0 for preemption in taken)
    assert 0.22 < silent / len(taken) < 0.28
    assert {preemption.notice_s for preemption in taken} == {0.0, 10.0}


def test_of_those_without_notice_a_share_falls_silent_and_nobody_elses_fate_changes() -> None:
    """Half of a quarter vanish; who goes, when and with what notice is as it was without the share."""
    plain = weather(preempt_every_s=1.0, no_notice_share=0.25).preemptions(vms(2000), later(100))
    taken = weather(preempt_every_s=1.0, no_notice_share=0.25, vanish_share=0.5).preemptions(vms(2000), later(100))
    assert [replace(one, seen_after_s=None) for one in taken] == plain
    silent = [one for one in taken if one.seen_after_s is not None]
    assert {(one.notice_s, one.seen_after_s) for one in silent} == {(0.0, 15.0)}
    assert 0.4 < len(silent) / sum(one.notice_s == 0 for one in taken) < 0.6


def test_the_share_of_refused_launches_is_kept_and_a_token_keeps_its_luck() -> None:
    """A fifth of the launches is refused; asking again with the same token changes nothing."""
    sky = weather(launch_failure=0.2)
    tokens = [f"t-{number}" for number in range(2000)]
    refused = [token for token in tokens if sky.refusal(ZONE, token=token, in_use=0, now=DAWN)]
    assert 0.17 < len(refused) / len(tokens) < 0.23
    assert all(sky.refusal(ZONE, token=token, in_use=0, now=later(9)) for token in refused)


@given(seed=st.integers(), age_s=st.floats(0, 1e6), cut=st.integers(0, 10))
def test_the_fate_of_a_vm_depends_on_nobody_else(seed: int, age_s: float, cut: int) -> None:
    """Whatever other VMs there are, and in whatever order they are asked for, a VM's time comes when it comes."""
    sky = weather(seed=seed, preempt_every_s=1000.0)
    all_of_them = {preemption.vm for preemption in sky.preemptions(vms(10), later(age_s))}
    some = vms(10)[cut:][::-1]
    assert {preemption.vm for preemption in sky.preemptions(some, later(age_s))} == all_of_them & {
        vm.name for vm in some
    }


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    there=st.integers(0, 12),
    at_s=st.floats(0, 1e5),
)
def test_after_the_preemptions_nobody_is_above_capacity(counts: list[int], there: int, at_s: float) -> None:
    """What is left fits the capacity, and no more is taken than that needs."""
    sky = weather(capacity=CapacityTrace(60.0, tuple(counts)))
    taken = sky.preemptions(vms(there), later(at_s))
    capacity = sky.capacity(ZONE, later(at_s))
    assert capacity is not None
    assert len(taken) == max(there - capacity, 0)


def test_zones_take_from_the_common_settings_what_they_do_not_say(tmp_path: Path) -> None:
    """A zone of its own price and dialect keeps the common notice; one that is not named is as the others."""
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"metadata": {"gap_seconds": 600}, "data": [4, 0]}))
    local = LocalSpec.model_validate(
        {
            "notice": "7s",
            "preempt_every": "5m",
            "vanish_share": 0.5,
            "zones": [
                {"zone": "east/a", "dialect": "gcp", "spot_price": "0.10 USD/h", "trace": str(trace)}
                | {"vanish_share": 0.25, "vanish_seen_after": "1m"},
                {"zone": "west/x", "capacity": 1},
            ],
        }
    )
    climates = climates_of(local, ["east/a", "east/b", "east/a"])
    assert list(climates) == ["local/east/a", "local/east/b"]
    assert climates[ZONE] == climate(
        dialect=Dialect.GCP,
        spot_usd_per_hour=0.1,
        notice_s=7.0,
        preempt_every_s=300.0,
        vanish_share=0.25,
        vanish_seen_after_s=60.0,
        capacity=CapacityTrace(600.0, (4, 0)),
    )
    assert climates[ZoneId("local/east/b")].spot_usd_per_hour == 0.3
    assert climates[ZoneId("local/east/b")].vanish_share == 0.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read: No such file"),
        ("[1, 2", "is not a capacity trace"),
        ('{"data": [1]}', "is not a capacity trace (KeyError: 'metadata')"),
        ('{"metadata": {"gap_seconds": 0}, "data": [1]}', "has gap_seconds = 0"),
        ('{"metadata": {"gap_seconds": 60}, "data": []}', "has no list of VM counts"),
        ('{"metadata": {"gap_seconds": 60}, "data": [1, -1]}', "has no list of VM counts"),
    ],
)
def test_a_bad_trace_is_refused_with_its_name(tmp_path: Path, text: str | None, complaint: str) -> None:
    """The error names the file, what is wrong with it and what to write."""
    path = tmp_path / "trace.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    assert '"gap_seconds": 300' in str(caught.value)
