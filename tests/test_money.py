"""A service and its money: caps refuse, shut and let serve; sums outlive the controller."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.cost import show_cost
from hedgeserve.core import Service
from hedgeserve.departure import spent_in_words
from hedgeserve.errors import StateDirectoryError
from hedgeserve.money import Run
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.store import Store
from hedgeserve.tables.database import text_of
from tests.conftest import eventually, messages, replicas, small_spec


async def test_what_no_cap_has_room_for_is_not_launched_and_requests_are_told_so(short_dir: Path) -> None:
    """A spot VM may come to cost 1 USD an hour: with half of that nothing runs, and nobody waits for it."""
    spec = small_spec(short_dir, pools='[budget]\nusd_per_hour = "0.50 USD/h"')
    async with Service(spec, environ={}) as service, aiohttp.ClientSession() as session:
        await eventually(lambda: service.status()["trouble"])
        body = {"model": "demo", "prompt": "A fox"}
        async with session.post(f"{service.url}/v1/completions", json=body) as response:
            answer = await response.json()
            assert (response.status, answer["error"]["code"]) == (503, "budget_reached")
            assert "pays for no VM" in answer["error"]["message"], "no time will help"
            assert int(response.headers["Retry-After"]) >= 1
        assert replicas(service) == []
        assert any("leaves no room for a single VM" in text for text in service.status()["trouble"])
        assert any("leaves no room" in message for message in await messages(service, "budget"))
        [cap] = service.status()["cost"]["budget"]
        assert (cap["name"], cap["used_ratio"], cap["state"]) == ("usd_per_hour", 0.0, "open")


async def lines_written(state: Path) -> int:
    def count() -> int:
        with closing(sqlite3.connect(state / "state" / "journal.db")) as database:
            [number] = database.execute("SELECT count(*) FROM ledger").fetchone()
            return int(number)

    return await asyncio.to_thread(count)


async def test_sums_are_the_same_for_a_service_that_runs_and_for_its_journal(
    short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And for the next controller; whatever they are split by."""
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        told = await service.cost()
        assert told["spent_usd"] > 0
        assert told["caps"] == []
        written = await lines_written(short_dir)
        polled = [await service.cost() for _ in range(20)]
        assert await lines_written(short_dir) - written <= 1, "a question is no line"
        spent = [one["spent_usd"] for one in polled]
        assert spent == sorted(spent), "what is not billed yet is told"
        assert set(told["by"]) == {"day", "zone", "market", "purpose", "replica"}
    client = AdminClient(short_dir / "state")
    capsys.readouterr()  # the log
    show_cost(client, since=None, by=None, as_csv=False, as_json=True)
    offline = json.loads(capsys.readouterr().out)
    assert offline["spent_usd"] >= told["spent_usd"]
    assert {row["name"] for row in offline["by"]["purpose"]} >= {"serving", "booting"}
    async with Service(small_spec(short_dir), environ={}) as service:
        month = service.status()["cost"]["spent_usd"]
        assert month == pytest.approx(offline["spent_usd"], abs=1e-3)
        assert month >= offline["spent_usd"]
    capsys.readouterr()
    show_cost(client, since="1d", by="zone", as_csv=True, as_json=False)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "zone,usd,seconds"
    assert all(row.startswith("local/") for row in rows)
    show_cost(client, since=None, by="day", as_csv=False, as_json=False)
    said = capsys.readouterr().out
    assert said.startswith("spent ")
    assert "until 10m the start weighs much in it" in said, "two booted side by side, and that is all there was"


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    client = AdminClient(tmp_path)
    with pytest.raises(StateDirectoryError, match="no service has run"):
        show_cost(client, since=None, by=None, as_csv=False, as_json=False)
    with pytest.raises(ValueError, match="choose one"):
        show_cost(client, since=None, by=None, as_csv=True, as_json=True)
    with pytest.raises(ValueError, match="neither a time"):
        show_cost(client, since="soon", by=None, as_csv=False, as_json=False)
    with pytest.raises(ValueError, match="has not come yet"):
        show_cost(client, since="2999-01-01", by=None, as_csv=False, as_json=False)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Run(0.0115, 0.0078, 20, 0), "0.011 USD spent in 12m"),
        (Run(1.5, 4.0, 720, 0), "1.50 USD spent in 12m, 2.50 USD (62%) less than on-demand alone"),
        (Run(5.0, 4.0, 720, 0), "5.00 USD spent in 12m, 1.00 USD (25%) more than on-demand alone"),
        (Run(1.5, 4.0, 720, 60), "1.50 USD spent in 12m"),
        (Run(0.0, 0.0, 720, 0), "0.00 USD spent in 12m"),
    ],
)
def test_the_farewell_says_what_the_run_has_cost(run: Run, said: str) -> None:
    """And what on-demand alone would have, where that is known and more than the boots of a start."""
    assert spent_in_words(run, 720.4) == said


async def test_a_restart_charges_what_had_gone_meanwhile_for_no_longer_than_its_lease(short_dir: Path) -> None:
    """Killed ten hours ago: one replica served, another was on its way out; no VM of theirs is listed any more."""
    spec = small_spec(short_dir)
    created_at = datetime.now(UTC) - timedelta(hours=10)
    offer = Offer(ZoneId("local/east/a"), "local", Market.SPOT, 0.3, created_at)
    async with opened(short_dir) as store:
        for state in (State.READY, State.TERMINATING):
            id = await store.new_replica("small", offer, token=state, reason="r", now=created_at)
            gone = GoneReason.REPLACED if state is State.TERMINATING else None
            await store.save(Replica(id, offer, state, 0.0, created_at, vm_id=id, gone=gone), at=created_at)
    async with Service(spec, environ={}) as service:
        await eventually(lambda: not {"small-1", "small-2"} & {one["id"] for one in replicas(service)})
    async with opened(short_dir) as store:
        for id in (ReplicaId("small-1"), ReplicaId("small-2")):
            [[seconds, first]] = await store._run(
                "SELECT sum(seconds), min(at) FROM ledger WHERE replica = ? AND at < ?",
                id, text_of(created_at + timedelta(hours=9)),
            )  # fmt: skip
            assert seconds == pytest.approx(spec.timeouts.lease)
            assert datetime.fromisoformat(first) == created_at + timedelta(seconds=spec.timeouts.lease)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Store]:
    """The journal while no service runs."""
    (directory / "state").mkdir(exist_ok=True)
    store = await Store.open(directory / "state" / "journal.db")
    try:
        yield store
    finally:
        await store.close()
