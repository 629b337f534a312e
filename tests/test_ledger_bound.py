"""The ledger grows old: added up by hour and by day, with no sum changed, and small after years."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.books import read_account
from hedgeserve.migrations import MIGRATIONS
from hedgeserve.policy.ledger import EARLIER, Account, Period, begin_of
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.store import Store
from hedgeserve.upkeep import bound

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
ZONES = ("local/east/a", "local/east/b")

_ADDS_UP_UNTIL_KILLED = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from hedgeserve.store import Store
import hedgeserve.tables.ledger as ledger

async def main():
    ledger._CHUNK = 7
    store = await Store.open(Path(sys.argv[1]))
    late = datetime(2030, 1, 1, tzinfo=UTC)
    while await store.add_up_lines(before=late):
        await store.add_up_hours(before=late, keep=10**9)
        print("a step", flush=True)

asyncio.run(main())
"""


def offer(zone: str = ZONES[0], market: Market = Market.SPOT, usd: float = 0.3) -> Offer:
    return Offer(ZoneId(zone), "small", market, usd, NOW)


async def launched(store: Store, number: int, state: State = State.READY) -> ReplicaId:
    """A replica in one of the zones and markets, in this state."""
    place = offer(ZONES[number % 2], Market.SPOT if number % 3 else Market.ON_DEMAND)
    id = await store.new_replica("chat", place, f"token-{number}", "why", NOW)
    await store.save(
        Replica(id, place, state, 0, NOW, gone=GoneReason.FAILED if state is State.GONE else None), at=NOW
    )
    return id


def sums(account: Account) -> dict[str, dict[str, object]]:
    """By all that old lines are still told by."""
    return {
        key: {
            row["name"]: (pytest.approx(row["usd"], abs=2e-6), pytest.approx(row["seconds"], abs=0.2))
            for row in account.by(key)
        }
        for key in ("day", "zone", "market", "purpose")
    }


lines = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.timedeltas(timedelta(), timedelta(days=100)),
        st.floats(0.1, 3600),
        st.sampled_from(["booting", "serving", "draining", "terminating"]),
        st.floats(0, 40),
    ),
    min_size=1,
    max_size=30,
)


states = st.lists(st.sampled_from([State.READY, State.BOOTING, State.GONE]), min_size=4, max_size=4)
baselines = st.lists(
    st.tuples(st.timedeltas(timedelta(), timedelta(days=100)), st.floats(0.1, 60), st.none() | st.floats(0, 9)),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(lines=lines, states=states, baseline=baselines, keep=st.sampled_from([0, 3, 1000]))
async def test_no_sum_is_changed_by_adding_up(
    lines: list[tuple[int, timedelta, float, str, float]],
    states: list[State],
    baseline: list[tuple[timedelta, float, float | None]],
    keep: int,
) -> None:
    """By day, zone, market and purpose, since any day; caps and forecast see the same money too."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "journal.db"
        store = await Store.open(path)
        try:
            ids = [await launched(store, number, state) for number, state in enumerate(states)]
            for number, age, seconds, purpose, usd in lines:
                await store.charge(ids[number], seconds, usd, purpose, NOW - age)
            for age, seconds, rate in baseline:
                await store.add_baseline(seconds, rate, NOW - age)
            days = [begin_of(Period.DAY, NOW - timedelta(days=back)) for back in (0, 1, 3, 40, 70, 99, 101)]
            before = [read_account(path, at, NOW + timedelta(seconds=1)) for at in days]
            spent = [(await store.spent_usd(at), await store.baseline_usd(at)) for at in days]
            until = [await store.charged_until(id) for id in ids]
            last = await store.last_baseline()
            await bound(store, "chat", NOW)
            await store.add_up_hours(before=NOW - timedelta(days=62), keep=keep)
            for at, (account, forecast), (usd, alone) in zip(days, before, spent, strict=True):
                after, forecast_after = read_account(path, at, NOW + timedelta(seconds=1))
                assert sums(account) == sums(after)
                assert after.baseline_usd == pytest.approx(account.baseline_usd)
                assert after.since == at
                assert await store.spent_usd(at) == pytest.approx(usd)
                assert await store.baseline_usd(at) == pytest.approx(alone)
                if any(age < timedelta(days=1) for _, age, *_ in lines):
                    assert forecast_after is not None or forecast is None
            assert await store.last_baseline() == last
            for id, state, charged in zip(ids, states, until, strict=True):
                if state is not State.GONE:
                    assert await store.charged_until(id) == charged
        finally:
            await store.close()


async def test_the_forecast_is_the_same_after_adding_up(tmp_path: Path) -> None:
    """It goes by the last day, whose lines are all there."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    id = await launched(store, 1)
    for hour in range(24 * 80):
        await store.charge(id, 3600, 1.0 + hour % 7, "serving", NOW - timedelta(hours=hour))
    _, before = read_account(path, NOW, NOW)
    await bound(store, "chat", NOW)
    _, after = read_account(path, NOW, NOW)
    await store.close()
    assert before is not None
    assert after == pytest.approx(before)


async def test_old_times_are_told_from_the_begin_of_their_hour_or_day(tmp_path: Path) -> None:
    """Two days to the minute, two months by the hour and by replica, then by the day; and the account says so."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    id = await launched(store, 1, State.GONE)
    for age in (timedelta(hours=1), timedelta(days=10), timedelta(days=90)):
        await store.charge(id, 60, 60.0, "serving", NOW - age)
    await bound(store, "chat", NOW)
    await store.close()

    def told(age: timedelta) -> tuple[datetime, float, set[str]]:
        account, _ = read_account(path, NOW - age + timedelta(seconds=1), NOW)
        return account.since, round(account.spent_usd, 6), {line.replica for line in account.lines}

    assert told(timedelta(hours=1)) == (NOW - timedelta(hours=1) + timedelta(seconds=1), 0.0, set())
    assert told(timedelta(days=10)) == (begin_of(Period.HOUR, NOW - timedelta(days=10)), 2.0, {id})
    assert told(timedelta(days=90)) == (begin_of(Period.DAY, NOW - timedelta(days=90)), 3.0, {id, EARLIER})


async def test_a_boot_that_is_found_to_have_failed_is_one_however_old(tmp_path: Path) -> None:
    """While a replica has neither served nor ended, its hours wait; what served once has served."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    booting, served = await launched(store, 1, State.BOOTING), await launched(store, 2, State.READY)
    await store.charge(booting, 60, 60.0, "booting", NOW - timedelta(days=90))
    await store.charge(served, 60, 60.0, "serving", NOW - timedelta(days=90))
    await bound(store, "chat", NOW)
    for id in (booting, served):
        await store.save(Replica(id, offer(), State.GONE, 0, NOW, gone=GoneReason.FAILED), at=NOW)
    await store.charge(served, 30, 60.0, "draining", NOW - timedelta(days=89))
    for _ in range(2):
        account, _ = read_account(path, NOW - timedelta(days=100), NOW)
        assert {row["name"]: row["usd"] for row in account.by("purpose")} == {
            "failed_boot": 1.0,
            "serving": 1.0,
            "draining": 0.5,
        }
        await bound(store, "chat", NOW)
    await store.close()


def killed_after(path: Path, steps: int) -> None:
    """A real process adds up, a few lines at a time, and is killed in the midst of it."""
    adding_up = [sys.executable, "-c", _ADDS_UP_UNTIL_KILLED, str(path)]
    with subprocess.Popen(adding_up, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(steps):
            process.stdout.readline()
        process.kill()


async def test_kill_9_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed again and again, all the money is there, and each second once."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    id = await launched(store, 1, State.GONE)
    await store.close()
    due = 0.0
    with closing(sqlite3.connect(path)) as database:
        for number in range(3000):
            usd = 6.0 + number % 5
            due += usd / 6
            database.execute(
                _A_LINE.replace("0.4", str(usd)), (text(NOW - timedelta(minutes=number)), id, "serving")
            )
        database.commit()
    for steps in (1, 7, 20, 40):
        await asyncio.to_thread(killed_after, path, steps)
        with closing(sqlite3.connect(path)) as database:
            [left] = database.execute("SELECT count(*) FROM ledger").fetchone()
        assert 0 < left < 3000
        account, _ = read_account(path, NOW - timedelta(days=10), NOW + timedelta(seconds=1))
        assert account.spent_usd == pytest.approx(due)
        assert sum(line.seconds for line in account.lines) == pytest.approx(3000 * 600)


async def test_money_cannot_be_deleted(tmp_path: Path) -> None:
    """Whoever deletes lines adds them up; days stay, and nothing gets smaller."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    id = await launched(store, 1, State.GONE)
    await store.charge(id, 3600, 2.0, "serving", NOW)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM ledger")
        assert await store.spent_usd() == pytest.approx(2)
        for forgery in ("UPDATE ledger_hours SET usd = 1",):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                database.execute(forgery)
        database.execute("DELETE FROM ledger_hours")
        assert await store.spent_usd() == pytest.approx(2)
        for forgery in ("UPDATE ledger_days SET seconds = 1", "DELETE FROM ledger_days"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                database.execute(forgery)
    await store.close()


async def test_replicas_that_are_long_gone_are_forgotten_once_no_line_is_about_them(tmp_path: Path) -> None:
    """Those that live stay, and so do the newest; no number is given twice."""
    store = await Store.open(tmp_path / "journal.db")
    alive = await launched(store, 0)
    gone = [await launched(store, number, State.GONE) for number in range(1, 6)]
    await store.charge(gone[0], 60, 1.0, "serving", NOW)
    assert await store.prune_replicas("chat", keep=2) == 2
    assert await store.last_replicas("chat") == [gone[4], gone[3], gone[0], alive]
    assert await store.prune_replicas("chat", keep=2) == 0
    await store.add_up_lines(before=NOW + timedelta(days=1))
    await store.add_up_hours(before=NOW + timedelta(days=1), keep=1000)
    assert await store.prune_replicas("chat", keep=0) == 3
    assert await store.last_replicas("chat") == [alive]
    assert await launched(store, 9) == "chat-7"
    await store.close()


async def rolled_out(store: Store, old: int, new: int) -> None:
    await store.begin_rollout("chat", old=old, new=new, strategy="rolling", state="done", who="me", why="", at=NOW)


async def test_versions_and_rollouts_are_kept_as_far_as_anybody_asks_for_them(tmp_path: Path) -> None:
    """The newest, those that replicas run, and those of the last roll-out."""
    store = await Store.open(tmp_path / "journal.db")
    for number in range(1, 8):
        assert number == await store.new_version("chat", f"digest-{number}", {}, who="me", why="", at=NOW)
        await store.begin_rollout(
            "chat", old=number - 1, new=number, strategy="rolling", state="done", who="me", why="", at=NOW
        )
    await store.begin_rollout("chat", old=7, new=2, strategy="rollback", state="done", who="me", why="", at=NOW)
    id = await store.new_replica("chat", offer(), "t", "why", NOW, version=4)
    await store.prune_rollouts("chat", keep=3)
    assert [one.to_version for one in await store.rollouts("chat")] == [6, 7, 2]
    await store.prune_versions("chat", keep=2)
    assert [one.number for one in await store.versions("chat")] == [2, 4, 6, 7]
    await store.save(Replica(id, offer(), State.GONE, 0, NOW, gone=GoneReason.FAILED), at=NOW)
    await store.prune_versions("chat", keep=2)
    assert [one.number for one in await store.versions("chat")] == [2, 6, 7]
    assert await store.new_version("chat", "digest-1", {}, who="me", why="", at=NOW) == 8
    await store.close()


_A_REPLICA = """
    INSERT INTO replicas (id, service, number, zone, instance_type, market, usd_per_hour, price_read_at, token,
        state, state_since, created_at, why, gone)
    VALUES (?1, 'chat', (SELECT last_number + 1 FROM services), ?2, 'g5.xlarge', 'spot', 0.4, ?3, ?1,
        'gone', ?3, ?3, 'a spot replica is missing in this zone', 'preempted')
"""
_A_LINE = "INSERT INTO ledger (at, replica, seconds, usd_per_hour, purpose) VALUES (?, ?, 600, 0.4, ?)"


def text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def a_day(path: Path, day: datetime, launches: int) -> None:
    """What a service of two replicas writes: a line every ten minutes each, its launches, hours of baseline."""
    with closing(sqlite3.connect(path)) as database:
        for number in range(launches):
            id = f"chat-{day:%y%m%d}{number}"
            database.execute(_A_REPLICA, (id, f"aws/us-east-{number % 4}/a", text(day)))
            for line in range(288 // launches):
                at = day + timedelta(minutes=10 * (line * launches + number) / 2 + 1)
                database.execute(_A_LINE, (text(at), id, "serving" if line else "booting"))
        for hour in range(24):
            at = day + timedelta(hours=hour)
            database.execute("INSERT INTO baseline VALUES (?, 3600, 2.0, 0, ?, 2.0)", (text(at)[:13], text(at)))
        database.commit()


async def test_after_a_year_the_journal_is_as_small_as_after_a_season(tmp_path: Path) -> None:
    """A simulated year, a day at a time; what is left to grow is some rows a day. All the money is there."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    await store._run("INSERT INTO services (name) VALUES ('chat')")
    begin, bytes_after = datetime(2026, 1, 1, tzinfo=UTC), dict[int, int]()
    for number in range(1, 367):
        await asyncio.to_thread(a_day, path, begin + timedelta(days=number - 1), 8)
        await bound(store, "chat", begin + timedelta(days=number))
        if number in (90, 366):
            [[pages]] = await store._run("PRAGMA page_count")
            bytes_after[number] = pages * 4096
    account, _ = read_account(path, begin, begin + timedelta(days=400))
    await store.close()
    assert account.spent_usd == pytest.approx(366 * 288 / 6 * 0.4)
    assert account.baseline_usd == pytest.approx(366 * 24 * 2.0)
    assert bytes_after[366] < 4 * 2**20, bytes_after
    # Eight launches a day, whose rows stay until there are 20,000, and the day's eight sums.
    assert bytes_after[366] - bytes_after[90] < 276 * 8 * (600 + 150), bytes_after


async def test_a_journal_of_before_knows_who_served(tmp_path: Path) -> None:
    """It is read as it is, and brought to today's format, with the same sums."""
    path = tmp_path / "journal.db"
    [today] = [number for number, step in enumerate(MIGRATIONS) if "ledger_days" in step]
    with closing(sqlite3.connect(path)) as database:
        database.executescript("".join(MIGRATIONS[:today]) + f"PRAGMA user_version = {today};")
        database.execute("INSERT INTO services (name) VALUES ('chat')")
        for id, purpose in (("chat-1", "serving"), ("chat-2", "booting")):
            database.execute(_A_REPLICA, (id, ZONES[0], text(NOW)))
            database.execute(_A_LINE, (text(NOW), id, purpose))
        database.commit()
    before, forecast = read_account(path, NOW, NOW + timedelta(hours=1))
    store = await Store.open(path)
    after, forecast_after = read_account(path, NOW, NOW + timedelta(hours=1))
    await store.close()
    assert {row["name"] for row in before.by("purpose")} == {"serving", "failed_boot"}
    assert sorted(before.lines, key=str) == sorted(after.lines, key=str)
    assert forecast_after == pytest.approx(forecast)
