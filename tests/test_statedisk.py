"""A disk that fills under a running service is seen, whoever's write it refuses, until there is room again."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.errors import StateDirectoryError
from hedgeserve.statedisk import StateDisk
from hedgeserve.store import Store

_MIB = 2**20


class Disk:
    """What the file system and SQLite answer, and what was told of it."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.told: list[str] = []
        self.telling = asyncio.Event()
        self.store = store
        self.watched = StateDisk(directory, store, self._record)

    async def _record(self, kind: Any, message: str) -> None:
        self.told.append(f"{kind}: {message}")
        self.telling.set()

    async def fill(self) -> None:
        """SQLite refuses to grow the file from now on."""
        [[pages]] = await self.store._connection.execute_fetchall("PRAGMA page_count")
        await self.store._connection.execute_fetchall(f"PRAGMA max_page_count = {pages}")

    async def free(self) -> None:
        await self.store._connection.execute_fetchall("PRAGMA max_page_count = 100000")

    async def sample(self, start_s: int, data: str = "x" * 100_000) -> None:
        """What the charts write, who only log it where they cannot."""
        try:
            await self.store.save_sample(10, start_s, data)
        except StateDirectoryError:
            pass


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    store = await Store.open(tmp_path / "journal.db")
    try:
        yield Disk(tmp_path, store)
    finally:
        await store.close()


async def test_any_refused_write_is_a_trouble_at_once(disk: Disk) -> None:
    """It says what to do, and what goes on meanwhile; no launch is promised."""
    await disk.watched.look()
    assert disk.watched.trouble == ""
    assert disk.watched.halts == ""
    assert disk.told == []
    await disk.fill()
    await disk.sample(1)
    assert "full; free some space on its disk; requests are served on meanwhile" in disk.watched.trouble
    assert "full" in disk.watched.halts
    await disk.watched.look()
    await disk.watched.look()
    assert len(disk.told) == 1
    assert disk.told[0].startswith("trouble: the journal ")


async def test_a_small_write_that_finds_a_gap_ends_nothing_while_no_file_fits(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the trouble would come and go with each look."""
    monkeypatch.setattr("hedgeserve.statedisk._takes_a_file", lambda directory: False)
    await disk.fill()
    await disk.sample(1)
    await disk.free()
    await disk.sample(2, "small")
    await disk.watched.look()
    assert disk.watched.trouble


async def test_it_is_over_when_the_journal_is_written_and_there_is_room(disk: Disk, tmp_path: Path) -> None:
    """A read proves nothing, nor does room alone; and the gap in the journal is told."""
    await disk.fill()
    await disk.sample(1)
    await disk.watched.look()
    await disk.free()
    await disk.store.events()
    await disk.watched.look()
    assert disk.watched.trouble
    await disk.sample(2)
    await disk.watched.look()
    assert disk.watched.trouble == ""
    assert disk.watched.halts == ""
    assert disk.told[-1].startswith(f"note: the disk of {tmp_path} takes the journal again after ")
    assert not (tmp_path / ".room").exists()


async def test_a_refusal_is_looked_at_without_waiting_for_the_next_look(disk: Disk) -> None:
    watching = asyncio.create_task(disk.watched.watch())
    try:
        await disk.fill()
        await disk.sample(1)
        await disk.telling.wait()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert "free some space" in disk.told[0]


async def test_little_room_is_told_before_a_write_fails(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again and again where it goes up and down around the mark; launches go on."""
    told: list[tuple[float, bool]] = []
    for mib in (20, 15, 17, 30, 20):
        usage = type(shutil.disk_usage("/"))(100 * _MIB, 0, int(mib * _MIB))
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        await disk.watched.look()
        told.append((mib, bool(disk.watched.trouble)))
    assert told == [(20, False), (15, True), (17, True), (30, False), (20, False)]
    assert "has only 15 MiB left: free some space" in disk.told[0]
    assert len(disk.told) == 2
    assert disk.watched.halts == ""
