"""A service in front of a fake cloud with VMs in miniature, and people who ask it things all the while."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from hedgeserve.core import Service
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec
from hedgeserve.takedown import reap
from tests.conftest import eventually, replicas
from tests.testbed.bed import NamespaceHost
from tests.testbed.worlds import World, world_of

MODEL = """
[service]
name = "bed"
listen = "127.0.0.1:0"
state_dir = "{state}"
on_exit = "{on_exit}"
{service}
[model]
id = "demo"
engine = "demo"
args = ["--load-time", "0s", "--tokens-per-second", "50"]

[replicas]
count = {count}

[hedge]
policy = "spothedge"
overprovision = 0
fallback = false
rebalance_below = 1
retry_delay = "500ms"
notice_poll = "300ms"

[probe]
interval = "1s"
timeout = "2s"
initial_delay = "30s"

[timeouts]
connect = "1s"
boot = "{boot}"
drain = "10s"
queue = "60s"
cloud_call = "10s"
{timeouts}

[vm]
allow_from = ["203.0.113.7"]

{clouds}
"""


def model_toml(directory: Path, world: World, **changes: Any) -> str:
    """A model.toml for this world; two replicas unless told otherwise."""
    values = {
        "state": str(directory / "state"),
        "on_exit": "terminate",
        "service": "",
        "count": 2,
        "boot": "30s",
        "timeouts": "",
        "clouds": world.toml(),
    }
    return MODEL.format(**{**values, **changes})


def model_spec(directory: Path, world: World, **changes: Any) -> Spec:
    """The same, read."""
    return parse_spec(model_toml(directory, world, **changes), "model.toml", directory, dict(world.environ))


@dataclass
class Bench:
    """All that a test needs to look at and to meddle with."""

    service: Service
    world: World
    host: NamespaceHost
    spec: Spec

    def ids(self, *states: str) -> list[str]:
        """The replicas in these states."""
        return [str(replica["id"]) for replica in replicas(self.service, *states)]

    async def ready(self, count: int, *, without: str = "", within_s: float = 45) -> list[str]:
        """Their ids, once so many replicas are ready and ``without`` is none of them any more."""

        def there() -> list[str]:
            found = self.ids("ready")
            return found if len(found) >= count and without not in self.ids() else []

        found: list[str] = await eventually(there, within_s=within_s, what=f"{count} ready, {without} gone")
        return found


@asynccontextmanager
async def bench(directory: Path, host: NamespaceHost, cloud: str, **changes: Any) -> AsyncIterator[Bench]:
    """A service that runs; that it has left nothing in the cloud, and no VM, is checked at the end."""
    with world_of(cloud, directory / "cloud", host) as world:
        host.ended = world.shut_down
        spec = model_spec(directory, world, **changes)
        async with Service(spec, environ=world.environ) as service:
            await service.wait_ready(spec.replicas.lowest)
            yield Bench(service, world, host, spec)
        await reap(spec, environ=world.environ)
        assert world.left() == []
        await eventually(lambda: not host.running(), within_s=5, what="the VMs run on")
        assert set(world.granted().values()) == {1}, "a VM was launched twice"


@dataclass
class Askers:
    """People who ask without a pause; what they did not get is in :attr:`complaints`.

    ``interrupted`` are streams that ended honestly with an error after their first token: nobody can ask again for
    the rest of such an answer.
    """

    answered: int = 0
    interrupted: int = 0
    complaints: list[str] = field(default_factory=list)


@asynccontextmanager
async def asked_all_the_while(bench: Bench, people: int = 4) -> AsyncIterator[Askers]:
    """Half of them take their answers as streams. Leaving lets the last questions be answered."""
    askers, over = Askers(), asyncio.Event()

    async def ask(session: aiohttp.ClientSession, streamed: bool) -> None:
        body = {"model": "demo", "prompt": "A fox", "max_tokens": 12, "ignore_eos": True, "stream": streamed}
        while not over.is_set():
            async with session.post(f"{bench.service.url}/v1/completions", json=body) as response:
                text = await response.text()
            if response.status != 200:
                askers.complaints.append(f"{response.status}: {text[:200]}")
            elif streamed and "in the middle of the answer" in text:
                askers.interrupted += 1
            elif streamed and ("[DONE]" not in text or '"error"' in text):
                askers.complaints.append(f"broken off: {text[-200:]}")
            elif not streamed and not json.loads(text)["choices"][0]["finish_reason"]:
                askers.complaints.append(f"unfinished: {text[:200]}")
            else:
                askers.answered += 1

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(people):
            group.create_task(ask(session, streamed=number % 2 == 0))
        try:
            yield askers
        finally:
            over.set()
    assert askers.complaints == []
    assert askers.answered > 0
