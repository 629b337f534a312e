"""The dashboard's history: sums of readings in slots, three finenesses of them, and what survives a restart."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.core import Service
from hedgeserve.metrics import Metrics
from hedgeserve.store import Store
from hedgeserve.web.history import TIERS, History, Reading, Slot
from hedgeserve.web.sampler import Sampler
from tests.conftest import eventually, small_spec

BOUNDS_S = (0.1, 1.0, 10.0)
BEGIN_S = 1_800_000_000  # the start of a slot of each width


def reading(at_s: float, **more: object) -> Reading:
    known = {"ready": 2, "target": 2, "on_demand": 0, "queued": 0, "in_flight": 1}
    prices = {"usd_per_hour": 3.6, "on_demand_usd_per_hour": 7.2}
    return Reading(at_s, **{**known, **prices, **more})  # type: ignore[arg-type]


def lived(seconds: int, history: History | None = None, begin_s: float = BEGIN_S) -> tuple[History, list]:
    """A history of so many seconds with a request each, and the slots that came to their end."""
    history = history or History(BOUNDS_S)
    ended = []
    for second in range(seconds + 1):
        counted = {"requests": second, "tokens": second * 10, "first_tokens": (second, 0, 0, 0)}
        ended += history.read(reading(begin_s + second, **counted))
    return history, ended


def test_a_minute_of_readings_is_six_slots_of_figures() -> None:
    """Averages, rates and money, and the total of all."""
    history, _ = lived(60)
    view = history.view(BEGIN_S, BEGIN_S + 60, points=100)
    assert (view["width_s"], view["at"][:2]) == (10, [BEGIN_S, BEGIN_S + 10])
    assert set(view["ready"]) == {2.0}
    assert set(view["requests_per_s"]) == {1.0}
    assert set(view["tokens_per_s"]) == {10.0}
    assert set(view["usd_per_hour"]) == {3.6}
    assert view["total"]["requests"] == 60
    assert view["total"]["usd"] == pytest.approx(0.06)
    assert view["total"]["on_demand_usd"] == pytest.approx(0.12)
    assert {len(column) for name, column in view.items() if isinstance(column, list)} == {len(view["at"])}


def test_the_width_follows_the_span_and_the_points() -> None:
    """An hour in 500 points is seen by 10 s, a day by minutes or more, a week by five minutes."""
    history = History(BOUNDS_S)
    asked = [(3600, 500), (3600, 100), (6 * 3600, 3000), (86_400, 2000), (86_400, 500), (7 * 86_400, 3000)]
    widths = [history.view(BEGIN_S - span_s, BEGIN_S, points=points)["width_s"] for span_s, points in asked]
    assert widths == [10, 60, 10, 60, 300, 300]


def test_too_few_ready_is_remembered() -> None:
    """A slot's average hides a second without any; the fewest and the seconds do not."""
    history = History(BOUNDS_S)
    for second in range(11):
        history.read(reading(BEGIN_S + second, ready=0 if second == 4 else 2))
    view = history.view(BEGIN_S, BEGIN_S + 10, points=10)
    assert view["fewest_ready"][0] == 0
    assert view["total"]["short_s"] == 1.0


def test_quantiles_are_those_of_all_requests() -> None:
    """Read off the buckets, between their bounds; beyond the last bound, that bound; of none, none."""
    history = History(BOUNDS_S)
    history.read(reading(BEGIN_S, first_tokens=(5, 5, 0, 0)))
    assert history.view(BEGIN_S, BEGIN_S, points=10)["total"]["ttft_p50_s"] is None
    history.read(reading(BEGIN_S + 1, first_tokens=(95, 15, 0, 0)))
    total = history.view(BEGIN_S, BEGIN_S + 1, points=10)["total"]
    assert total["ttft_p50_s"] == pytest.approx(0.0556, abs=1e-3)
    assert 0.1 < total["ttft_p99_s"] < 1.0
    history.read(reading(BEGIN_S + 2, first_tokens=(95, 15, 0, 900)))
    assert history.view(BEGIN_S, BEGIN_S + 2, points=10)["total"]["ttft_p50_s"] == 10.0


def test_nothing_is_made_up_for_the_time_between() -> None:
    """A controller that slept, a clock that was set back, and counters that began anew."""
    history = History(BOUNDS_S)
    history.read(reading(BEGIN_S, requests=100))
    history.read(reading(BEGIN_S + 1000, requests=100))
    history.read(reading(BEGIN_S + 999, requests=100))
    assert history.view(BEGIN_S, BEGIN_S + 1000, points=100)["total"]["seconds"] == 0
    history.read(reading(BEGIN_S + 1000, requests=3))
    total = history.view(BEGIN_S, BEGIN_S + 1000, points=100)["total"]
    assert (total["seconds"], total["requests"]) == (1.0, 0)


@given(st.integers(1, 400), st.integers(0, 400))
def test_a_restart_loses_no_more_than_the_open_slot(before: int, after: int) -> None:
    """What had come to its end is there again, and the wide slots go on where they were."""
    _, ended = lived(before)
    again = History(BOUNDS_S)
    for width_s in TIERS:
        slots = [Slot.of_row(slot.start_s, slot.as_row()) for width, slot in ended if width == width_s]
        again.restore(width_s, slots)
    lived(after, again, BEGIN_S + before)
    for points in (3000, 1):
        view = again.view(BEGIN_S - 3600, BEGIN_S + before + after, points=points)
        assert before - 10 <= view["total"]["requests"] - after <= before
        assert view["at"] == sorted(set(view["at"])) or view["at"] == sorted(view["at"])


@pytest.mark.parametrize("row", [[], [1], {}, None, [0, [], "x"], [0, "abc", *[0] * 12], [0, [], *[0] * 11]])
def test_what_is_no_row_is_refused(row: object) -> None:
    """Whatever stands in the store."""
    with pytest.raises(ValueError, match="not a slot"):
        Slot.of_row(0, row)  # type: ignore[arg-type]


async def test_a_sampler_writes_reads_and_forgets(tmp_path: Path) -> None:
    """A slot is on disk once it has ended; damaged ones are left out; old ones go."""
    async with asyncio.timeout(10):
        store = await Store.open(tmp_path / "journal.db")
        try:
            sampler = Sampler(Metrics(), store)
            writer = asyncio.create_task(sampler.run())
            for second in range(21):
                sampler.read(BEGIN_S + second, target=1, queued=0, in_flight=0, replicas=(), offers=())
            await eventually(lambda: store.samples(10, since_s=0))
            writer.cancel()
            await store.save_sample(10, BEGIN_S + 20, "[nonsense")
            again = Sampler(Metrics(), store)
            await again.recall(BEGIN_S + 30)
            view = again.history.view(BEGIN_S, BEGIN_S + 30, points=10)
            assert view["at"][0] == BEGIN_S
            assert view["total"]["short_s"] >= 10
            await again.prune(BEGIN_S + 7 * 86_400)
            assert await store.samples(10, since_s=0) == []
        finally:
            await store.close()


async def test_a_service_keeps_its_history_and_the_phases_of_its_starts(short_dir: Path) -> None:
    """The ready event tells when each phase began and ended, without gaps at the beginning."""
    async with Service(small_spec(short_dir)) as service:
        await service.wait_ready()
        await eventually(lambda: service.history(since_s=0)["at"])

        async def of_the_start() -> list[dict[str, Any]]:
            return [event for event in await service.events() if (event["data"] or {}).get("phases")]

        [ready] = await eventually(of_the_start)
    phases = {one["phase"]: (one["from_s"], one["to_s"]) for one in ready["data"]["phases"]}
    assert list(phases)[:3] == ["grant", "boot", "ssh"]
    assert list(phases)[-2:] == ["load", "first_token"]
    assert phases["grant"][0] == 0
    assert phases["boot"][0] == phases["grant"][1]
    assert all(begun_s <= ended_s for begun_s, ended_s in phases.values())
