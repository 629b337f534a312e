"""How money is counted: periods, purposes, the baseline, accounts and forecasts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.books import read_account
from hedgeserve.errors import StateDirectoryError
from hedgeserve.policy.ledger import (
    Account,
    Baseline,
    Line,
    Period,
    Purpose,
    Purse,
    baseline_usd_per_hour,
    begin_of,
    days_of,
    end_of,
    forecast_month_usd,
    price_now,
    purpose_of,
)
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.store import Store

NOON = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
TIMES = st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))


def offer(market: Market = Market.SPOT, usd: float = 0.3, zone: str = "local/east/a") -> Offer:
    return Offer(ZoneId(zone), "small", market, usd, NOON)


def replica(market: Market = Market.SPOT, state: State = State.READY) -> Replica:
    return Replica(ReplicaId("chat-1"), offer(market), state, 0.0, NOON)


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        (Period.HOUR, "2026-12-31T23:00+00:00", "2027-01-01T00:00+00:00"),
        (Period.DAY, "2026-12-31T00:00+00:00", "2027-01-01T00:00+00:00"),
        (Period.MONTH, "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
    ],
)
def test_periods_are_those_of_utc(period: Period, begin: str, end: str) -> None:
    """Whatever the time zone of who asks."""
    at = datetime.fromisoformat("2027-01-01T00:59:59.999+01:00")
    assert begin_of(period, at) == datetime.fromisoformat(begin)
    assert end_of(period, at) == datetime.fromisoformat(end)


@given(TIMES, st.floats(0, 90 * 86400))
def test_a_span_is_cut_at_midnight_and_nothing_is_lost(begin: datetime, seconds: float) -> None:
    """Each part ends on the day that it belongs to."""
    end = begin + timedelta(seconds=seconds)
    parts = list(days_of(begin, end))
    assert sum(part_s for _, part_s in parts) == pytest.approx((end - begin).total_seconds(), abs=1e-3)
    assert all(0 < part_s <= 86400 for _, part_s in parts)
    days = [at.date() for at, _ in parts]
    assert days == sorted(set(days))


def test_a_boot_that_never_got_ready_is_a_failed_one() -> None:
    """Known only when it is over; no line of the ledger is changed for it."""
    assert purpose_of("booting", ended=False, served=False) is Purpose.BOOTING
    assert purpose_of("booting", ended=True, served=True) is Purpose.BOOTING
    for written in ("booting", "draining", "terminating"):
        assert purpose_of(written, ended=True, served=False) is Purpose.FAILED_BOOT
    assert purpose_of("serving", ended=True, served=True) is Purpose.SERVING
    assert purpose_of("terminating", ended=True, served=True) is Purpose.DRAINING


def test_spot_costs_what_its_market_says_now() -> None:
    """On demand, what it was launched at."""
    offers = [offer(usd=0.5), offer(Market.ON_DEMAND, 2.0)]
    assert price_now(offer(usd=0.3), offers) == 0.5
    assert price_now(offer(usd=0.3, zone="local/west/a"), offers) == 0.3
    assert price_now(offer(Market.ON_DEMAND, 1.0), offers) == 1.0


def test_the_baseline_is_the_target_at_the_cheapest_on_demand_price() -> None:
    """Somebody else's servers are free in either world; where no price is known there is none."""
    offers = [offer(Market.ON_DEMAND, 1.0), offer(Market.ON_DEMAND, 0.9, "local/east/b"), offer()]
    assert baseline_usd_per_hour(3, [replica()], offers) == pytest.approx(2.7)
    assert baseline_usd_per_hour(3, [replica(Market.EXTERNAL)], offers) == pytest.approx(1.8)
    assert baseline_usd_per_hour(3, [], [offer()]) is None
    assert baseline_usd_per_hour(0, [], []) == 0


@given(st.lists(st.tuples(TIMES, st.floats(0, 100)), max_size=20), TIMES)
def test_a_purse_knows_its_present_periods(paid: list[tuple[datetime, float]], now: datetime) -> None:
    """In order of time, and a few periods back at the most."""
    purse = Purse()
    past = sorted([*paid, (now, 1.0)], key=lambda one: one[0])
    past = [one for one in past if one[0] <= now]
    for at, usd in past:
        purse.pay(at, usd)
    for period in (Period.DAY, Period.MONTH):
        due = [usd for at, usd in past if begin_of(period, at) == begin_of(period, now)]
        assert purse.spent(period, now) == pytest.approx(sum(due))


def test_an_account_adds_up_by_every_key() -> None:
    """Whatever it is split by; replicas the dearest first, days in their order."""
    lines = [
        Line("2026-11-25", "chat-1", "local/east/a", "spot", Purpose.SERVING, 3600, 0.3),
        Line("2026-11-26", "chat-2", "local/east/b", "on_demand", Purpose.FAILED_BOOT, 60, 2.0),
    ]
    account = Account(NOON, NOON, lines, [Baseline("2026-11-25", 3600, 2.5, 0)])
    told = account.document()
    assert (told["spent_usd"], told["baseline_on_demand_usd"], told["saved_usd"]) == (2.3, 2.5, 0.2)
    assert told["saved_ratio"] == 0.08
    for rows in told["by"].values():
        assert sum(row["usd"] for row in rows) == pytest.approx(2.3)
    assert [row["name"] for row in told["by"]["replica"]] == ["chat-2", "chat-1"]
    assert [row["baseline_on_demand_usd"] for row in told["by"]["day"]] == [2.5, None]


def test_without_an_on_demand_price_nothing_is_said_to_be_saved() -> None:
    """Not 0, which would be a loss of all that was spent."""
    line = Line("2026-11-25", "chat-1", "local/east/a", "spot", Purpose.SERVING, 3600, 0.3)
    told = Account(NOON, NOON, [line], [Baseline("2026-11-25", 60, 0, 60)]).document()
    assert (told["baseline_on_demand_usd"], told["saved_usd"], told["baseline_unpriced_s"]) == (None, None, 60)
    assert Account(NOON, NOON, [], []).document()["saved_usd"] == 0


def test_the_forecast_goes_on_as_the_last_day() -> None:
    """Half a month left at two dollars a day."""
    now = datetime(2026, 11, 16, tzinfo=UTC)
    day = timedelta(days=1)
    assert forecast_month_usd(month_usd=7, lately_usd=2, lately=day, now=now) == pytest.approx(37)
    assert forecast_month_usd(month_usd=7, lately_usd=2, lately=timedelta(minutes=59), now=now) is None


async def test_the_books_are_read_from_the_journal(tmp_path: Path) -> None:
    """By day and purpose; what never served and is gone was a failed boot; the baseline goes by the hour."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    first = await store.new_replica("chat", offer(), "one", "", NOON)
    other = await store.new_replica("chat", offer(Market.ON_DEMAND, 1.0), "two", "", NOON)
    await store.charge(first, 60, 0.3, "booting", NOON)
    await store.charge(first, 3600, 0.4, "serving", NOON + timedelta(hours=1))
    await store.charge(other, 360, 1.0, "booting", NOON)
    gone = Replica(other, offer(Market.ON_DEMAND, 1.0), State.GONE, 0, NOON, gone=GoneReason.FAILED)
    await store.save(gone, at=NOON)
    await store.add_baseline(60, 2.0, NOON)
    await store.add_baseline(60, 2.0, NOON + timedelta(minutes=1))
    await store.add_baseline(30, None, NOON + timedelta(days=1))
    assert await store.last_baseline() == (NOON + timedelta(days=1), None)
    await store.close()
    account, forecast = read_account(path, begin_of(Period.MONTH, NOON), NOON + timedelta(days=2))
    purposes = {row["name"]: row["usd"] for row in account.by("purpose")}
    assert purposes == {"serving": 0.4, "failed_boot": 0.1, "booting": 0.005}
    assert account.baseline_usd == pytest.approx(4 * 60 / 3600)
    assert sum(one.unpriced_s for one in account.baseline) == 30
    assert forecast == pytest.approx(0.505), "nothing was spent in the last day"
    later, _ = read_account(path, NOON + timedelta(minutes=1), NOON + timedelta(days=2))
    assert later.spent_usd == pytest.approx(0.4)


def test_where_there_is_no_journal_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateDirectoryError, match="no service has run"):
        read_account(tmp_path / "journal.db", NOON, NOON)
