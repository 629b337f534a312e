"""Under notice, in each cloud's dialect: the replacement starts at once, and what can finish in time finishes."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import aiohttp
import pytest

from hedgeserve.core import Service
from hedgeserve.drivers.base import Machine, MachineState
from hedgeserve.drivers.local import LocalDriver
from tests.conftest import eventually, messages, processes_of, replicas, small_spec
from tests.test_service import ask, cloud_of

STEADY = '["--load-time", "0s", "--tokens-per-second", "20"]'
TOKENS = 50


class StoppingCloud(LocalDriver):
    """The local cloud; it says of some VMs that they stop, as GCP does from the notice on, or that they have."""

    says: ClassVar[dict[str, MachineState]] = {}

    async def list(self) -> Sequence[Machine]:
        return [replace(one, state=self.says.get(one.id, one.state)) for one in await super().list()]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, MachineState]:
    """What the cloud, which is that one, says of its VMs."""
    told: dict[str, MachineState] = {}
    monkeypatch.setattr("hedgeserve.drivers.local.LocalDriver", StoppingCloud)
    monkeypatch.setattr(StoppingCloud, "says", told)
    return told


def zones(dialect: str) -> str:
    return "\n".join(
        f'[[local.zones]]\nzone = "{zone}"\ndialect = "{dialect}"' for zone in ("east/a", "east/b", "west/a")
    )


async def stream(service: Service, session: aiohttp.ClientSession) -> tuple[str, str]:
    """One stream of 2.5 s: the replica that answered it, and all that came."""
    sums = {"include_usage": True}  # events are no count: a busy engine puts several tokens into one
    async with ask(service, session, stream=True, max_tokens=TOKENS, stream_options=sums) as response:
        return response.headers["x-hedgeserve-replica"], await response.text()


@pytest.mark.parametrize("dialect", ["aws", "gcp", "azure"])
async def test_new_requests_go_elsewhere_and_what_runs_finishes_where_it_is(
    short_dir: Path, says: dict[str, MachineState], dialect: str
) -> None:
    """Two replicas; one is noticed in the middle of a stream. GCP lists it as stopping from that moment on."""
    spec = small_spec(short_dir, args=STEADY, replicas="count = 2", local=zones(dialect))
    async with Service(spec, environ={}) as service, aiohttp.ClientSession() as session:
        await service.wait_ready(2)
        running = asyncio.create_task(stream(service, session))
        await eventually(lambda: service.status()["in_flight"] == 1)
        doomed = next(one["id"] for one in replicas(service) if one["outstanding"])
        await cloud_of(service).preempt(doomed, notice_s=8.0)
        if dialect == "gcp":
            says[doomed] = MachineState.STOPPING
        await eventually(lambda: replicas(service, "noticed", "draining"), within_s=3)
        await eventually(lambda: len(replicas(service)) == 3, within_s=1, what="the replacement is launched")
        for _ in range(4):
            async with ask(service, session, max_tokens=1) as response:
                assert response.headers["x-hedgeserve-replica"] != doomed
        answered_by, text = await running
        assert answered_by == doomed
        assert text.rstrip().endswith("data: [DONE]")
        assert f'"completion_tokens":{TOKENS}' in text
        await eventually(lambda: all(one["id"] != doomed for one in replicas(service)))
        told = await messages(service, replica=doomed)
        assert told[-1].startswith("terminating → gone: preempted")
        approved = [message for message in told if message.startswith("drained: the cloud is told")]
        assert approved == (["drained: the cloud is told that it may begin"] if dialect == "azure" else [])
    assert processes_of(short_dir) == []


async def test_a_vm_that_stops_without_a_notice_is_replaced(
    short_dir: Path, says: dict[str, MachineState]
) -> None:
    """The list alone says so; a notice is waited for, in vain, for a moment."""
    async with Service(small_spec(short_dir), environ={}) as service:
        await service.wait_ready()
        says["small-1"] = MachineState.STOPPING
        await eventually(lambda: [one["id"] for one in replicas(service)] == ["small-2"], within_s=10)
        told = await messages(service, replica="small-1")
        assert any("ready → terminating: the VM was taken away without a notice" in one for one in told)
    assert processes_of(short_dir) == []


@pytest.mark.parametrize("when", ["booting", "serving"])
async def test_a_vm_that_has_stopped_is_terminated_since_it_may_cost_on(
    short_dir: Path, says: dict[str, MachineState], when: str
) -> None:
    """Deallocated rather than deleted: the replica is gone, and its VM is taken away and not left to the cloud."""
    if when == "booting":
        says["small-1"] = MachineState.STOPPED
    async with Service(small_spec(short_dir), environ={}) as service:
        if when == "serving":
            await service.wait_ready()
            says["small-1"] = MachineState.STOPPED
        await eventually(lambda: [one["id"] for one in replicas(service)] == ["small-2"], within_s=10)
        assert not (short_dir / "state" / "local" / "small-1").exists()
        told = await messages(service, replica="small-1")
        assert told[-1].startswith("terminating → gone: preempted")
    assert processes_of(short_dir) == []
