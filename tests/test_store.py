"""The journal: what it says was committed is there, whatever happens next."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import pytest_asyncio

from hedgeserve.errors import StateDirectoryError
from hedgeserve.replica import GoneReason, Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OFFER = Offer(ZoneId("local/east/a"), "small", Market.SPOT, 0.3, NOW - timedelta(hours=1))

_INTENDS_UNTIL_KILLED = """
import asyncio, itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from hedgeserve.replica import Market, Offer
from hedgeserve.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]))
    for number in itertools.count():
        now = datetime.now(UTC)
        offer = Offer("local/east/a", "small", Market.SPOT, 0.3, now)
        print(await store.new_replica("chat", offer, f"token-{number}", "because", now), flush=True)

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "journal.db")
    yield opened
    await opened.close()


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


async def intend(store: Store, token: str = "token", service: str = "chat") -> ReplicaId:
    return await store.new_replica(service, OFFER, token, "a spot replica is missing", NOW)


def replica(id: ReplicaId, state: State = State.PLANNED, **more: object) -> Replica:
    return Replica(id=id, offer=OFFER, state=state, since_s=0.0, created_at=NOW, **more)  # type: ignore[arg-type]


async def test_an_intent_can_be_read_back_whole(store: Store) -> None:
    id = await intend(store)
    [found] = await store.alive_replicas("chat")
    assert found.id == id == "chat-1"
    assert found.offer == OFFER
    assert (found.service, found.token, found.why) == ("chat", "token", "a spot replica is missing")
    assert found.state is State.PLANNED
    assert (found.created_at, found.state_since) == (NOW, NOW)
    assert (found.vm_id, found.url, found.noticed, found.gone) == (None, None, False, None)


async def test_numbers_never_go_back(tmp_path: Path) -> None:
    """A replica's row may even be lost; its number is not given again, after a restart neither."""
    store = await Store.open(tmp_path / "journal.db")
    ids = [await intend(store, f"token-{n}") for n in range(3)]
    await store.close()
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        database.execute("DELETE FROM replicas")
        database.commit()
    store = await Store.open(tmp_path / "journal.db")
    ids.append(await intend(store, "token-3"))
    await store.close()
    assert ids == ["chat-1", "chat-2", "chat-3", "chat-4"]


async def test_services_count_for_themselves(store: Store) -> None:
    assert await intend(store, "a", "chat") == "chat-1"
    assert await intend(store, "b", "code") == "code-1"
    assert [found.id for found in await store.alive_replicas("code")] == ["code-1"]


async def test_intents_at_the_same_time_get_different_ids(store: Store) -> None:
    ids = await asyncio.gather(*(intend(store, f"token-{n}") for n in range(20)))
    assert len(set(ids)) == 20


async def test_a_token_is_one_vm(store: Store) -> None:
    await intend(store)
    with pytest.raises(ValueError, match="'token' belongs to another replica"):
        await intend(store)


async def test_a_saved_replica_keeps_what_it_became(store: Store) -> None:
    id = await intend(store)
    became = replica(
        id, State.NOTICED, why="aws says so", vm_id="vm-7", url="http://127.0.0.1:1", notice=Notice(9, "aws")
    )
    await store.save(became, at=at(1))
    [found] = await store.alive_replicas("chat")
    assert (found.state, found.state_since, found.why) == (State.NOTICED, at(1), "aws says so")
    assert (found.vm_id, found.url, found.noticed) == ("vm-7", "http://127.0.0.1:1", True)


async def test_state_since_changes_only_with_the_state(store: Store) -> None:
    id = await intend(store)
    await store.save(replica(id, State.BOOTING), at=at(1))
    await store.save(replica(id, State.BOOTING, vm_id="vm-7"), at=at(2))
    [found] = await store.alive_replicas("chat")
    assert (found.vm_id, found.state_since) == ("vm-7", at(1))


async def test_who_is_gone_is_no_longer_listed(store: Store) -> None:
    id = await intend(store)
    await store.save(replica(id, State.GONE, gone=GoneReason.PREEMPTED), at=at(1))
    assert await store.alive_replicas("chat") == []


async def test_saving_an_unknown_replica_is_a_mistake(store: Store) -> None:
    with pytest.raises(LookupError, match="knows no replica chat-9"):
        await store.save(replica(ReplicaId("chat-9")), at=NOW)


async def test_a_time_without_a_zone_is_a_mistake(store: Store) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        await store.record_event("note", "when?", at=datetime(2026, 1, 1))


async def test_times_come_back_in_utc(store: Store) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    await store.record_event("note", "x", at=elsewhere)
    [event] = await store.events()
    assert event.at == NOW
    assert event.at.utcoffset() == timedelta(0)


async def test_events_are_read_in_order_from_where_one_left_off(store: Store) -> None:
    ids = [await store.record_event("note", f"event {n}", at=at(n)) for n in range(5)]
    first = await store.events(limit=2)
    assert [event.message for event in first] == ["event 0", "event 1"]
    rest = await store.events(after=first[-1].id)
    assert [event.id for event in rest] == ids[2:]


async def test_the_newest_events_come_in_the_order_in_which_they_happened(store: Store) -> None:
    for n in range(5):
        await store.record_event("note", f"event {n}", at=at(n))
    assert [event.message for event in await store.events(limit=2, newest=True)] == ["event 3", "event 4"]


async def test_events_can_be_asked_for_one_replica(store: Store) -> None:
    await store.record_event("state", "mine", replica=ReplicaId("chat-1"), zone=ZoneId("local/east/a"), at=NOW)
    await store.record_event("state", "another's", replica=ReplicaId("chat-2"), at=NOW)
    [event] = await store.events(replica=ReplicaId("chat-1"))
    assert (event.message, event.zone, event.data) == ("mine", "local/east/a", None)


async def test_an_events_data_comes_back(store: Store) -> None:
    await store.record_event(
        "state", "x", data={"market": Market.SPOT, "seconds": 1.5, "path": Path("/x")}, at=NOW
    )
    [event] = await store.events()
    assert event.data == {"market": "spot", "seconds": 1.5, "path": "/x"}


async def test_history_cannot_be_rewritten(store: Store, tmp_path: Path) -> None:
    id = await intend(store)
    await store.record_event("note", "as it was", at=NOW)
    await store.charge(id, 60, 1.0, "spot", NOW)
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        for forgery in ("UPDATE events SET message = 'x'", "UPDATE ledger SET seconds = 0"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                database.execute(forgery)


async def test_pruning_keeps_the_newest_events_and_their_ids(store: Store) -> None:
    ids = [await store.record_event("note", f"event {n}", at=at(n)) for n in range(5)]
    assert await store.prune_events(keep=2) == 3
    assert [event.id for event in await store.events()] == ids[3:]
    assert await store.prune_events(keep=0) == 2
    assert await store.record_event("note", "next", at=NOW) > ids[-1]


async def test_the_ledger_adds_up(store: Store) -> None:
    id = await intend(store)
    await store.charge(id, 1800, 0.5, "spot", at(0))
    await store.charge(id, 3600, 2.0, "on_demand", at(60))
    assert await store.spent_usd() == pytest.approx(2.25)
    assert await store.spent_usd(since=at(1)) == pytest.approx(2.0)
    assert await store.spent_usd(since=at(61)) == 0


async def test_charging_an_unknown_replica_is_a_mistake(store: Store) -> None:
    with pytest.raises(LookupError, match="knows no replica chat-9"):
        await store.charge(ReplicaId("chat-9"), 1, 1, "spot", NOW)


async def test_a_policys_memory_is_kept_under_its_name(store: Store) -> None:
    assert await store.load_memory("spothedge") is None
    assert await store.memory_saved_at("spothedge") is None
    await store.save_memory("spothedge", {"zones": {"a": 1}}, at=at(0))
    await store.save_memory("spothedge", {"zones": {"a": 2}}, at=at(1))
    await store.save_memory("forecast", {}, at=at(2))
    assert await store.load_memory("spothedge") == {"zones": {"a": 2}}
    assert await store.memory_saved_at("spothedge") == at(1)


async def test_each_owner_gets_a_higher_generation(tmp_path: Path) -> None:
    generations = []
    for owner in ("a", "b", "b"):
        store = await Store.open(tmp_path / "journal.db")
        generations.append(await store.acquire_lease(owner))
        await store.close()
    assert generations == [1, 2, 3]


def told_until_killed(path: Path) -> list[str]:
    """The ids that a real process printed, each after its intent was committed, until it was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _INTENDS_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(50)]
        process.kill()
        return told + process.stdout.read().split()


async def test_kill_9_loses_no_intent_that_was_returned(tmp_path: Path) -> None:
    """A real process writes intents as fast as it can and is killed in the middle; each that returned is there."""
    told = await asyncio.to_thread(told_until_killed, tmp_path / "journal.db")
    store = await Store.open(tmp_path / "journal.db")
    found = [found.id for found in await store.alive_replicas("chat")]
    next_id = await intend(store, "after the crash")
    await store.close()
    assert set(told) <= set(found)
    assert len(found) - len(told) <= 1
    assert next_id == f"chat-{len(found) + 1}"


async def test_a_caller_who_is_cancelled_leaves_nothing_half_done(store: Store) -> None:
    task = asyncio.create_task(intend(store, "cancelled"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await intend(store, "next") in {"chat-1", "chat-2"}
    await store.record_event("note", "it goes on", at=NOW)


async def test_a_full_disk_is_told_and_changes_nothing(store: Store) -> None:
    """SQLite itself refuses to grow the file, as it does on a full disk; with room again all goes on."""
    await intend(store)
    [[pages]] = await store._connection.execute_fetchall("PRAGMA page_count")
    await store._connection.execute_fetchall(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateDirectoryError, match=r"journal\.db cannot be used: .*full; free some space"):
        await store.record_event("note", "x" * 100_000, at=NOW)
    assert await store.events() == []
    with pytest.raises(StateDirectoryError, match="free some space"):
        await store.new_replica("chat", OFFER, "too long", "x" * 100_000, NOW)
    await store._connection.execute_fetchall("PRAGMA max_page_count = 100000")
    assert await intend(store, "room again") == "chat-2"


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
        database.commit()
    before = path.read_bytes()
    with pytest.raises(StateDirectoryError, match=r"format 99, written by a newer HedgeServe.*install the newer"):
        await Store.open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"once upon a time " * 1000)
    with pytest.raises(StateDirectoryError, match=r"is damaged .*move it"):
        await Store.open(path)


async def test_a_damaged_file_is_refused_at_start(tmp_path: Path) -> None:
    """One page in the middle was overwritten: SQLite opens the file, its check does not pass."""
    path = tmp_path / "journal.db"
    store = await Store.open(path)
    for n in range(200):
        await store.record_event("note", "x" * 500, at=at(n))
    await store.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 8192 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(StateDirectoryError, match=r"is damaged .*move it"):
        await Store.open(path)


async def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateDirectoryError, match="unable to open database file"):
        await Store.open(tmp_path / "nowhere" / "journal.db")


async def test_a_closed_journal_is_one_file(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "journal.db")
    await intend(store)
    await store.close()
    assert os.listdir(tmp_path) == ["journal.db"]


async def test_a_pause_is_remembered_until_it_ends(tmp_path: Path) -> None:
    """One a service; the last one holds."""
    store = await Store.open(tmp_path / "journal.db")
    try:
        assert await store.load_pause("one") is None
        since = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
        await store.save_pause("one", since=since, until=None, drain_s=5.0)
        assert await store.load_pause("one") == (since, None, 5.0)
        until = since + timedelta(hours=2)
        await store.save_pause("one", since=since, until=until, drain_s=None)
        assert await store.load_pause("one") == (since, until, None)
        assert await store.load_pause("two") is None
        await store.end_pause("one")
        await store.end_pause("one")
        assert await store.load_pause("one") is None
    finally:
        await store.close()


async def test_a_replica_can_be_asked_for_after_its_end(store: Store) -> None:
    """By its id, and only as one of its own service; the newest ids come first."""
    made = [await store.new_replica("chat", OFFER, f"t{number}", "why", NOW) for number in range(3)]
    await store.new_replica("other", OFFER, "u", "why", NOW)
    known = await store.known_replica("chat", made[0])
    assert known is not None
    assert (known.id, known.offer.zone) == (made[0], OFFER.zone)
    assert await store.known_replica("other", made[0]) is None
    assert await store.known_replica("chat", ReplicaId("chat-99")) is None
    assert await store.last_replicas("chat", limit=2) == [made[2], made[1]]


async def test_the_journal_is_for_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    """Also one that an earlier version left open to others, and what SQLite puts beside it."""
    path = tmp_path / "journal.db"
    path.touch()
    path.chmod(0o644)
    before = os.umask(0)
    try:
        store = await Store.open(path)
        await store.acquire_lease("me")
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}  # noqa: ASYNC240
        await store.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes
