"""A take-down while no controller runs: the journal is kept to the end, as a controller would have kept it."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hedgeserve.books import read_account
from hedgeserve.drivers.base import Machine, MachineState
from hedgeserve.errors import AuthError, CloudError, StateDirectoryError
from hedgeserve.policy.ledger import Purpose
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec
from hedgeserve.store import Store
from hedgeserve.takedown import reap
from tests.memorycloud import MODEL, MemoryCloud, Sky

USD_PER_HOUR = 3.6  # a tenth of a cent a second
LEASE_S = 900.0


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> Sky:
    made = Sky()
    monkeypatch.setattr(MemoryCloud, "sky", made)
    monkeypatch.setattr("hedgeserve.drivers.aws.AwsDriver", MemoryCloud)
    monkeypatch.setattr("hedgeserve.drivers.clearance._FIRST_PAUSE_S", 0.01)
    return made


@pytest.fixture
def spec(short_dir: Path) -> Spec:
    toml = MODEL.format(state=short_dir, pool="") + '\n[timeouts]\nlease = "15m"\n'
    return parse_spec(toml, "model.toml", short_dir, {})


@pytest.fixture
async def store(short_dir: Path) -> AsyncIterator[Store]:
    """The journal of a controller that was killed."""
    made = await Store.open(short_dir / "journal.db")
    yield made
    await made.close()


async def left(
    store: Store,
    state: State,
    machine: Machine | None = None,
    *,
    age_s: float,
    charged_s: float | None = None,
    price: float = USD_PER_HOUR,
    market: Market = Market.SPOT,
) -> ReplicaId:
    """A replica that was launched so long ago and left in this state, charged for its first ``charged_s``."""
    created_at = datetime.now(UTC) - timedelta(seconds=age_s)
    offer = Offer(ZoneId("aws/us-east-1/us-east-1a"), "g6.xlarge", market, USD_PER_HOUR, created_at)
    id = await store.new_replica("svc", offer, token=f"t{age_s}", reason="r", now=created_at)
    vm_id = None if machine is None else machine.id
    gone = GoneReason.REPLACED if state in (State.DRAINING, State.TERMINATING) else None
    replica = Replica(id, offer, state, 0.0, created_at, why="so it was", vm_id=vm_id, gone=gone)
    await store.save(replica, at=created_at)
    if charged_s is not None:
        until = created_at + timedelta(seconds=charged_s)
        await store.charge(id, charged_s, price, "serving" if state is State.READY else "booting", until)
    return id


def spent(directory: Path) -> dict[Purpose, float]:
    """Cents by purpose."""
    now = datetime.now(UTC) + timedelta(seconds=1)
    account, _ = read_account(directory / "journal.db", now - timedelta(days=20), now)
    found: dict[Purpose, float] = {}
    for line in account.lines:
        found[line.purpose] = found.get(line.purpose, 0.0) + 100 * line.usd
    return found


async def told(store: Store, *kinds: str) -> list[str]:
    return [event.message for event in await store.events(limit=1000) if event.kind in kinds]


async def test_a_vm_that_ran_on_alone_is_charged_to_its_end(
    store: Store, spec: Spec, sky: Sky, short_dir: Path
) -> None:
    """Launched 100 s ago, charged for 10 s when the controller was killed: the other 90 are not lost."""
    machine = sky.add_vm("svc-1")
    sky.listed_after_end = 2
    await left(store, State.READY, machine, age_s=100, charged_s=10)
    assert await reap(spec, environ={}) == [machine.id]
    assert sum(spent(short_dir).values()) == pytest.approx(10.0, abs=2.0)
    assert spent(short_dir)[Purpose.SERVING] == pytest.approx(10.0, abs=2.0)
    [gone] = await told(store, "gone")
    assert gone.startswith("terminating → gone: scaled_down after 1m")
    known = await store.known_replica("svc", ReplicaId("svc-1"))
    assert known is not None
    assert (known.state, known.gone, known.vm_id) == (State.GONE, GoneReason.SCALED_DOWN, machine.id)


async def test_the_journal_tells_of_the_take_down_step_by_step(store: Store, spec: Spec, sky: Sky) -> None:
    """As a controller would have told it; nobody has to guess from a journal that stops in the midst."""
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=100, charged_s=10)
    sky.add_vm("svc-9")
    sky.add_thing("sg-1")
    await reap(spec, environ={})
    why = "taken down while no controller ran"
    messages = [(event.kind, event.replica, event.message) for event in await store.events(limit=1000)]
    assert messages[0] == ("stopping", None, f"{why}: the journal holds 1 replica, and the clouds are asked")
    assert messages[1] == ("state", "svc-1", f"ready → terminating: {why}")
    assert [(kind, who) for kind, who, _ in messages[2:]] == [
        ("gone", "svc-1"),
        ("reaped", None),
        ("reaped", None),
        ("cleared", None),
        ("cleared", None),
        ("stopped", None),
    ]
    assert "VM us-east-1/i-svc-9 (svc-9) was terminated" in messages[3][2]
    assert "is not in the ledger" in messages[3][2], "whose it was nobody knows, nor at what price"
    assert messages[-1][2] == f"{why}: 2 VMs terminated, and nothing of it is left"


async def test_a_vm_of_a_replica_that_is_gone_is_charged_to_its_name(
    store: Store, spec: Spec, sky: Sky, short_dir: Path
) -> None:
    """Granted after its launch had been given up: the journal knows the price, if no living replica."""
    launched_at = datetime.now(UTC) - timedelta(seconds=50)
    machine = sky.add_vm("svc-1")
    sky.machines[machine.id] = replace(machine, launched_at=launched_at)
    stopped = sky.add_vm("svc-2", state=MachineState.STOPPED)
    for age_s in (60, 61):
        await left(store, State.GONE, age_s=age_s)
    assert set(await reap(spec, environ={})) == {machine.id, stopped.id}
    assert spent(short_dir) == {Purpose.FAILED_BOOT: pytest.approx(5.0, abs=2.0)}
    told_of = {message.split()[1]: message for message in await told(store, "reaped")}
    assert re.search(r"; 0\.0\d+ USD that were not in the ledger are charged for it$", told_of[machine.id])
    assert told_of[stopped.id].endswith("is not in the ledger"), "when it stopped nobody knows"


async def test_a_vm_that_had_gone_by_itself_is_charged_for_no_longer_than_its_lease(
    store: Store, spec: Spec, sky: Sky, short_dir: Path
) -> None:
    """Ten hours ago the controller was killed; the VM has ended itself when its lease was over."""
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=36_000, charged_s=10)
    sky.machines.clear()
    assert await reap(spec, environ={}) == []
    assert spent(short_dir) == {Purpose.SERVING: pytest.approx(1.0 + LEASE_S / 10)}
    charged_until = await store.charged_until(ReplicaId("svc-1"))
    assert charged_until is not None
    assert datetime.now(UTC) - charged_until > timedelta(hours=9), "on the day on which it was spent"
    [gone] = await told(store, "gone")
    assert gone == "terminating → gone: its VM was gone already when the service was taken down"
    known = await store.known_replica("svc", ReplicaId("svc-1"))
    assert known is not None
    assert known.gone is GoneReason.PREEMPTED


@pytest.mark.parametrize(
    ("state", "was_granted", "purpose"),
    [
        (State.PROVISIONING, True, Purpose.FAILED_BOOT),
        (State.LOADING, True, Purpose.FAILED_BOOT),
        (State.PLANNED, False, None),
        (State.PROVISIONING, False, None),
    ],
)
async def test_a_boot_is_charged_where_there_was_a_vm(
    store: Store, spec: Spec, sky: Sky, short_dir: Path, state: State, was_granted: bool, purpose: Purpose | None
) -> None:
    """Killed between the request and its answer: the VM is found by its name, and was never charged."""
    machine = sky.add_vm("svc-1") if was_granted else None
    await left(store, state, None if state is State.PROVISIONING else machine, age_s=50)
    await reap(spec, environ={})
    assert spent(short_dir) == ({purpose: pytest.approx(5.0, abs=2.0)} if purpose else {})
    assert await store.alive_replicas("svc") == []


async def test_one_that_was_leaving_keeps_its_reason(store: Store, spec: Spec, sky: Sky, short_dir: Path) -> None:
    """It was terminating when the controller was killed: that is not told again, the end is."""
    await left(store, State.TERMINATING, sky.add_vm("svc-1"), age_s=50)
    await reap(spec, environ={})
    assert await told(store, "state") == []
    assert (await told(store, "gone"))[0].startswith("terminating → gone: replaced after ")
    assert sum(spent(short_dir).values()) == pytest.approx(5.0, abs=2.0)


async def test_the_time_alone_is_charged_at_the_last_price_that_was_known(
    store: Store, spec: Spec, sky: Sky, short_dir: Path
) -> None:
    """Spot follows its market: the launch's price was half of what the last line says."""
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=100, charged_s=10, price=2 * USD_PER_HOUR)
    await reap(spec, environ={})
    assert sum(spent(short_dir).values()) == pytest.approx(20.0, abs=4.0)


async def test_on_demand_alone_is_counted_for_the_same_time(store: Store, spec: Spec, sky: Sky) -> None:
    """Or what was saved would sink by what the VMs cost while nobody counted the other side."""
    now = datetime.now(UTC)
    await store.add_baseline(10.0, 2 * USD_PER_HOUR, now - timedelta(seconds=90))
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=100, charged_s=10)
    await reap(spec, environ={})
    assert await store.baseline_usd(now - timedelta(days=1)) == pytest.approx(0.2, abs=0.04)


async def test_a_take_down_that_does_not_come_to_its_end_is_gone_on_with(
    store: Store, spec: Spec, sky: Sky, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud does not let go: what was spent by then is charged, and the next one charges only the rest."""
    monkeypatch.setattr("hedgeserve.takedown.PATIENCE_S", 0.05)
    sky.listed_after_end = 10_000
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=100, charged_s=10)
    with pytest.raises(CloudError, match="aws still lists us-east-1/i-svc-1"):
        await reap(spec, environ={})
    [alive] = await store.alive_replicas("svc")
    assert alive.state is State.TERMINATING
    assert await told(store, "gone", "stopped") == []
    assert (await told(store, "trouble"))[0].startswith("not all of aws could be taken down: aws still lists")
    sky.listed_after_end = 0
    await reap(spec, environ={})
    assert await store.alive_replicas("svc") == []
    assert sum(spent(short_dir).values()) == pytest.approx(10.0, abs=2.0)


async def test_where_the_cloud_cannot_be_asked_every_replica_stays_as_it_is(
    store: Store, spec: Spec, sky: Sky, short_dir: Path
) -> None:
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=100, charged_s=10)
    sky.error = AuthError("log in")
    with pytest.raises(CloudError, match="log in"):
        await reap(spec, environ={})
    [alive] = await store.alive_replicas("svc")
    assert alive.state is State.READY
    assert sum(spent(short_dir).values()) == pytest.approx(1.0)


async def test_a_full_disk_keeps_no_vm_and_is_told(
    store: Store, spec: Spec, sky: Sky, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All VMs go; that the journal says otherwise, and what brings it right, is said."""
    sky.add_vm("svc-8", state=MachineState.STOPPED)
    await left(store, State.READY, sky.add_vm("svc-1"), age_s=100, charged_s=10)

    async def full(*_: object, **__: object) -> None:
        raise StateDirectoryError("the journal cannot be used: full; free some space on its disk")

    with monkeypatch.context() as disk:
        for write in ("save", "charge", "record_event", "add_baseline", "end_pause"):
            disk.setattr(Store, write, full)
        with pytest.raises(StateDirectoryError, match="no VM of svc is left, but its journal could not be told"):
            await reap(spec, environ={})
    assert sky.machines == {}
    assert await reap(spec, environ={}) == []
    assert await store.alive_replicas("svc") == []
