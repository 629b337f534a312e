"""Servers that somebody else runs: whatever they are, or whatever goes wrong here, the service lives on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from hedgeserve.engines import make_engine
from hedgeserve.machines.external import ExternalLife
from hedgeserve.machines.hands import Hands
from hedgeserve.machines.journal import Journal
from hedgeserve.machines.probe import Prober
from hedgeserve.replica import Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import ModelSpec, ProbeSpec
from hedgeserve.store import Store
from tests.conftest import eventually, small_spec


class Faulty:
    """A prober with a bug: these questions (counted from 1) raise, all others are answered well."""

    def __init__(self, *raising: int) -> None:
        self._raising = raising
        self.asked = 0

    async def health(self, url: str, api_key: str | None) -> str:
        self.asked += 1
        if self.asked in self._raising:
            raise RuntimeError(f"question {self.asked}")
        return ""

    async def first_token(self, url: str, api_key: str | None) -> str:
        return ""


@asynccontextmanager
async def living(directory: Path, prober: Faulty) -> AsyncIterator[tuple[ExternalLife, Store]]:
    """An external replica in its own task."""
    offer = Offer(ZoneId("static/0/x"), "static", Market.EXTERNAL, usd_per_hour=0.0, read_at=datetime.now(UTC))
    replica = Replica(ReplicaId("small-static-1"), offer, State.PLANNED, since_s=0.0, created_at=datetime.now(UTC))
    store = await Store.open(directory / "journal.sqlite3")
    unused = cast(Any, None)
    hands = Hands(
        spec=small_spec(directory),
        engine=unused,
        engine_key="",
        drivers={},
        inventory=unused,
        credentials=None,
        journal=Journal(store, "small"),
        prober=cast(Prober, prober),
        traffic=unused,
        metrics=unused,
        news=unused,
        changed=lambda: None,
        offers=unused,
        boots_s=unused,
    )
    life = ExternalLife(replica, hands, url="http://x", api_key=None)
    task = asyncio.create_task(life.run())
    try:
        yield life, store
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def test_an_unexpected_error_costs_one_probe_interval(tmp_path: Path) -> None:
    """A probe that raises, first while it loads, then when it is ready: it is not routed to, then ready again."""
    prober = Faulty(1, 3)
    async with living(tmp_path, prober) as (life, store):
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        await eventually(lambda: life.replica.state is State.READY, within_s=5)
        assert clock() - begun_s > 0.45, "it did not wait one interval of 500 ms"
        await eventually(lambda: life.replica.state is State.LOADING, within_s=5)
        await eventually(lambda: life.replica.state is State.READY, within_s=5)
        told = [event.message for event in await store.events(limit=10)]
    assert "ready → loading: an unexpected error: RuntimeError('question 3')" in told


@pytest.mark.parametrize("host", ["foo..bar", f"{'x' * 64}.example", "a b"])
async def test_a_probe_of_a_host_that_is_none_is_an_answer(host: str) -> None:
    """A name that cannot even be looked up: a sentence, as for every other failure."""
    engine = make_engine(ModelSpec.model_validate({"engine": "demo"}), {})
    prober = Prober(ProbeSpec.model_validate({"timeout": "2s"}), engine)
    assert f"http://{host}/health could not be asked" in await prober.health(f"http://{host}", None)
