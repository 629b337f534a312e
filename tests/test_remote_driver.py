"""What the drivers of the clouds share: threads, deadlines, patience, regions, prices, what is launched lately."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine, MachineState
from hedgeserve.drivers.remote import RemoteDriver, pending
from hedgeserve.drivers.threads import CloudThreads
from hedgeserve.errors import AuthError, CapacityError, CloudError, ThrottledError
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import parse_spec
from tests.conftest import eventually

MODEL = """
[service]
name = "s"

[model]
engine = "demo"

[vm]
allow_from = ["203.0.113.7"]

[[pools]]
cloud = "aws"
zones = ["us-east-1/us-east-1a", "us-west-2/us-west-2b"]
gpu = "L4"
instance_types = ["g6.xlarge"]
{pool}
"""


class Api:
    """A library object that remembers who made it and which thread."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.thread = threading.get_ident()


class PaperCloud(RemoteDriver[Api]):
    """A cloud of dictionaries, with everything that can go wrong to be said beforehand."""

    cloud = Cloud.AWS
    dialect = Dialect.AWS

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, {})
        self.there: dict[str, Machine] = {}
        self.hidden: set[str] = set()
        self.prepared_regions: list[tuple[str, tuple[str, ...]]] = []
        self.prepare_failures = 0
        self.failing_regions: dict[str, CloudError] = {}

    def connect(self, region: str) -> Api:
        return Api(region)

    def explain(self, error: Exception, what: str) -> CloudError:
        return CloudError(f"could not {what}: {error}")

    async def prepare(self, region: str, networks: Sequence[str]) -> None:
        await asyncio.sleep(0)
        if self.prepare_failures:
            self.prepare_failures -= 1
            raise CloudError("no network today")
        self.prepared_regions.append((region, tuple(networks)))

    async def start(self, region: str, zone: str, request: LaunchRequest) -> Machine:
        machine = pending(self, request, request.name)
        self.there[request.name] = machine
        return machine

    async def vms(self, region: str, service: str | None) -> Sequence[Machine]:
        if region in self.failing_regions:
            raise self.failing_regions[region]
        return [
            machine
            for name, machine in self.there.items()
            if machine.id.startswith(f"{region}/") and name not in self.hidden
        ]

    async def end(self, region: str, native_id: str) -> bool:
        if native_id in self.hidden:
            return False
        return self.there.pop(native_id, None) is not None

    async def things(self, region: str) -> Sequence[Leftover]:
        return [Leftover(self.cloud, region, "key pair", f"key-{region}", "s")]

    async def remove(self, leftover: Leftover) -> None:
        return None


def cloud(**changes: str) -> PaperCloud:
    text = MODEL.format(pool=changes.get("pool", ""))
    return PaperCloud(parse_spec(text, "model.toml", Path("/"), {}))


def a_request(name: str = "s-1", zone: str = "aws/us-east-1/us-east-1a") -> LaunchRequest:
    offer = Offer(ZoneId(zone), "g6.xlarge", Market.SPOT, 0.3, datetime.now(UTC))
    return LaunchRequest(name, f"token-{name}", offer, {"hedgeserve-service": "s"}, "ssh-ed25519 AAAA", "secret")


# Threads


async def test_no_two_threads_share_a_library_object() -> None:
    made: list[Api] = []
    together = threading.Barrier(4, timeout=5)

    def make(region: str) -> Api:
        made.append(Api(region))
        return made[-1]

    threads = CloudThreads("test", make, workers=4, stamp=lambda region: None)

    def work(api: Api) -> bool:
        together.wait()
        return api.thread == threading.get_ident()

    assert await asyncio.gather(*(threads.call("here", work) for _ in range(4))) == [True] * 4
    assert len(made) == 4
    threads.close()


async def test_a_library_object_is_made_once_per_region_and_anew_when_its_credentials_change() -> None:
    made: list[str] = []
    credentials = {"here": "old", "there": "old"}

    def make(region: str) -> str:
        made.append(f"{region} {credentials[region]}")
        return made[-1]

    threads = CloudThreads("test", make, workers=1, stamp=lambda region: credentials[region])
    for _ in range(3):
        await threads.call("here", str)
    await threads.call("there", str)
    credentials["here"] = "new"
    assert await threads.call("here", str) == "here new"
    assert made == ["here old", "there old", "here new"]
    threads.close()


async def test_a_call_that_is_given_up_goes_on_and_its_result_is_not_lost() -> None:
    threads = CloudThreads("test", Api, workers=1, stamp=lambda region: None)
    let_go, late = threading.Event(), asyncio.Queue[str]()

    def slow(api: Api) -> str:
        assert let_go.wait(10)
        return "granted"

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await threads.call("here", slow, late=late.put_nowait)
    assert threads.given_up == 1
    let_go.set()
    async with asyncio.timeout(5):
        assert await late.get() == "granted"
    assert threads.given_up == 0
    threads.close()


# Asking


class Patience:
    """Stands in for the pauses: notes how long they would have been."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []

    async def sleep(self, pause_s: float) -> None:
        self.pauses_s.append(pause_s)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    stand_in = Patience()

    class Asyncio:
        """asyncio as remote.py sees it, with pauses that pass at once."""

        sleep = stand_in.sleep

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    monkeypatch.setattr("hedgeserve.drivers.remote.asyncio", Asyncio())
    return stand_in


def failing(*errors: Exception) -> Callable[[Api], str]:
    """Work that fails in these ways, one after the other, and then succeeds."""
    left = list(errors)

    def work(api: Api) -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


async def test_a_throttled_call_is_asked_again_with_growing_pauses(patience: Patience) -> None:
    driver = cloud()
    assert await driver.ask("us-east-1", failing(*[ThrottledError("slow down")] * 3), "try") == "done"
    first, second, third = patience.pauses_s
    assert 0.5 <= first < 1 <= second < 2 <= third < 4
    await driver.aclose()


async def test_a_cloud_that_throttles_on_and_on_is_given_up(patience: Patience) -> None:
    driver = cloud()
    with pytest.raises(ThrottledError):
        await driver.ask("us-east-1", failing(*[ThrottledError("slow down")] * 9), "try")
    assert len(patience.pauses_s) == 5
    await driver.aclose()


@pytest.mark.parametrize("error", [CapacityError("none left"), AuthError("who are you"), CloudError("broken")])
async def test_other_refusals_come_through_at_once(patience: Patience, error: CloudError) -> None:
    driver = cloud()
    with pytest.raises(type(error)):
        await driver.ask("us-east-1", failing(error), "try")
    assert not patience.pauses_s
    await driver.aclose()


async def test_what_the_library_raises_is_explained() -> None:
    driver = cloud()
    with pytest.raises(CloudError, match="could not list the VMs: the wire is cut"):
        await driver.ask("us-east-1", failing(OSError("the wire is cut")), "list the VMs")
    await driver.aclose()


# Launching and ending


async def test_a_region_is_prepared_once_for_launches_that_come_together() -> None:
    driver = cloud()
    await asyncio.gather(*(driver.launch(a_request(f"s-{number}")) for number in range(5)))
    assert driver.prepared_regions == [("us-east-1", ("203.0.113.7/32",))]
    await driver.aclose()


async def test_a_region_whose_preparation_failed_is_prepared_by_the_next_launch() -> None:
    driver = cloud()
    driver.prepare_failures = 1
    first, second = await asyncio.gather(
        driver.launch(a_request("s-1")), driver.launch(a_request("s-2")), return_exceptions=True
    )
    assert isinstance(first, CloudError)
    assert isinstance(second, Machine)
    assert "s-1" not in driver.there
    await driver.aclose()


async def test_a_vm_that_the_cloud_does_not_list_yet_is_listed_and_cannot_be_forgotten() -> None:
    driver = cloud()
    machine = await driver.launch(a_request())
    driver.hidden.add("s-1")
    assert [(one.id, one.state) for one in await driver.list()] == [(machine.id, MachineState.PENDING)]
    with pytest.raises(CloudError, match="does not know us-east-1/s-1 yet"):
        await driver.terminate(machine.id)
    driver.hidden.clear()
    await driver.terminate(machine.id)
    assert await driver.list() == []
    await driver.terminate(machine.id)  # one that is gone is a success
    await driver.aclose()


async def test_a_vm_that_was_seen_and_is_listed_no_more_is_gone() -> None:
    driver = cloud()
    await driver.launch(a_request())
    driver.there["s-1"] = replace(driver.there["s-1"], state=MachineState.RUNNING)
    assert len(await driver.list()) == 1
    driver.hidden.add("s-1")
    assert await driver.list() == []
    await driver.aclose()


async def test_a_vm_that_was_granted_too_late_is_ended() -> None:
    driver = cloud()
    driver.there["s-9"] = pending(driver, a_request("s-9"), "s-9")
    running = asyncio.create_task(driver.run())
    driver.granted_late(driver.there["s-9"])

    async def ended() -> bool:
        return "s-9" not in driver.there

    await eventually(ended)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await driver.aclose()


# All regions


async def test_lists_and_leftovers_come_from_every_region() -> None:
    driver = cloud()
    await driver.launch(a_request("s-1"))
    await driver.launch(a_request("s-2", "aws/us-west-2/us-west-2b"))
    assert {machine.id for machine in await driver.list()} == {"us-east-1/s-1", "us-west-2/s-2"}
    assert {thing.region for thing in await driver.leftovers()} == {"us-east-1", "us-west-2"}
    await driver.aclose()


async def test_one_region_that_fails_is_told_as_one_error() -> None:
    driver = cloud()
    driver.failing_regions["us-west-2"] = AuthError("no access to us-west-2")
    with pytest.raises(AuthError, match="us-west-2"):
        await driver.list()
    await driver.aclose()


async def test_taking_a_leftover_away_has_its_region_prepared_anew() -> None:
    driver = cloud()
    await driver.launch(a_request("s-1"))
    await driver.clear((await driver.leftovers())[0])
    await driver.launch(a_request("s-2"))
    assert [region for region, _ in driver.prepared_regions] == ["us-east-1", "us-east-1"]
    await driver.aclose()


async def test_vms_of_an_earlier_run_are_opened_to_the_address_of_this_one() -> None:
    driver = cloud()
    driver.there["s-1"] = pending(driver, a_request(), "s-1")
    await driver.list()
    running = asyncio.create_task(driver.run())

    async def opened() -> bool:
        return driver.prepared_regions == [("us-east-1", ("203.0.113.7/32",))]

    await eventually(opened)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await driver.aclose()
