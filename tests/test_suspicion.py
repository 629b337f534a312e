"""A VM that falls silent: probed at once, left alone while it serves, replaced soon where it does not."""

import os
import signal
from pathlib import Path

import aiohttp
import pytest

from hedgeserve.core import Service
from hedgeserve.machines import session
from hedgeserve.specfile import parse_spec
from tests.conftest import eventually, messages, processes_of, replicas, small_toml
from tests.test_service import ask


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed sooner than it would be; the watcher's heart beats every two seconds."""
    monkeypatch.setattr(session, "_SUSPICIOUS_SILENCE_S", 2.5)
    monkeypatch.setattr(session, "_WATCHER_SILENCE_S", 3.5)


def rarely_probed(directory: Path, *, threshold: int = 2) -> Service:
    """A service whose ordinary probes would need 20 s to find out."""
    patient = f'interval = "10s"\nfailure_threshold = {threshold}'
    text = small_toml(directory).replace('interval = "500ms"', patient)
    text = text.replace('timeout = "2s"', 'timeout = "500ms"')
    return Service(parse_spec(text, "small.toml", directory, {}), environ={})


def freeze(directory: Path, name: str) -> list[int]:
    """Stop all processes of the first VM whose command line has this in it."""
    vm, frozen = directory / "state" / "local" / "small-1", []
    for pid in processes_of(vm):
        if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGSTOP)
            frozen.append(pid)
    assert frozen
    return frozen


async def test_a_vm_that_is_silent_and_does_not_serve_is_replaced_long_before_the_next_probe(
    short_dir: Path, watchful: None
) -> None:
    """Watcher and engine hang: the silence of the one has the other probed, twice, and that is enough."""
    async with rarely_probed(short_dir) as service:
        await service.wait_ready()
        freeze(short_dir, "demo_server")
        freeze(short_dir, "watcher.py")
        await eventually(lambda: "small-1" not in [one["id"] for one in replicas(service, "ready")], within_s=9)
        await eventually(lambda: messages(service, "gone", replica="small-1"))
        told = await messages(service, replica="small-1")
        assert any("ready → terminating: 2 probes failed in a row" in message for message in told)
        await eventually(lambda: [one["id"] for one in replicas(service, "ready")] == ["small-2"])
    assert processes_of(short_dir) == []


async def test_another_is_launched_as_soon_as_one_is_in_doubt_and_its_probes_decide(
    short_dir: Path, watchful: None
) -> None:
    """Long before they have: it heals meanwhile, and the other one goes again. The journal tells why of both."""
    async with rarely_probed(short_dir, threshold=200) as service:
        await service.wait_ready()
        frozen = [*freeze(short_dir, "demo_server"), *freeze(short_dir, "watcher.py")]
        await eventually(lambda: [one["id"] for one in replicas(service, "ready")] == ["small-1", "small-2"])
        [doubt] = await messages(service, "note", replica="small-1")
        assert doubt.startswith("in doubt: ")
        [shown] = [one for one in replicas(service) if one["id"] == "small-1"]
        assert f"in doubt: {shown['in_doubt']};" in doubt
        told = await service.explain("small-1")
        assert "is in doubt" in told["headline"]
        assert any("probe.failure_threshold" in each for each in told["would_change"])
        told = await service.explain("now")
        assert any("small-1" in each and "and is in doubt: " in each for each in told["because"])
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        await eventually(lambda: [one["id"] for one in replicas(service)] == ["small-1"])
        assert any("out of doubt" in each for each in await messages(service, "note", replica="small-1"))
        assert [one["in_doubt"] for one in replicas(service)] == [None]
    assert processes_of(short_dir) == []


async def test_a_vm_that_is_silent_and_serves_is_left_alone_and_connected_to_again(
    short_dir: Path, watchful: None
) -> None:
    """The watcher alone hangs: requests are answered on, and another watcher is started over a new connection."""
    async with rarely_probed(short_dir) as service, aiohttp.ClientSession() as http:
        await service.wait_ready()
        life = next(iter(service._fleet._lives.values()))
        assert life._session is not None
        first = life._session._remote
        frozen = freeze(short_dir, "watcher.py")

        async def reconnected() -> bool:
            async with ask(service, http, max_tokens=1) as response:
                assert response.status == 200
            assert life._session is not None
            return life._session._remote not in (None, first) and life._session._tell_watcher is not None

        await eventually(reconnected, within_s=15)
        assert [(one["id"], one["state"]) for one in replicas(service)] == [("small-1", "ready")]
        for pid in frozen:
            os.kill(pid, signal.SIGKILL)
    assert processes_of(short_dir) == []
