"""The three metadata services, asked over real HTTP as their clouds' documentation describes them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from hedgeserve.drivers.base import Dialect
from hedgeserve.drivers.localcloud.metadata import MetadataState, metadata_app
from hedgeserve.replica import Market
from tests.vmrecord import NOON, record

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
EVENTS = "/metadata/scheduledevents"
GOOGLE = {"Metadata-Flavor": "Google"}
AZURE = {"Metadata": "true"}
VERSION = {"api-version": "2020-07-01"}

Client = TestClient[aiohttp.web.Request, aiohttp.web.Application]


@asynccontextmanager
async def asking(state: MetadataState) -> AsyncIterator[Client]:
    async with TestClient(TestServer(metadata_app(state))) as client:
        yield client


async def token(client: Client, ttl_s: int = 60) -> dict[str, str]:
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(ttl_s)}
    async with client.put("/latest/api/token", headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["X-Aws-Ec2-Metadata-Token-Ttl-Seconds"] == str(ttl_s)
        return {"X-aws-ec2-metadata-token": await answer.text()}


async def status(client: Client, path: str, **options: object) -> int:
    async with client.get(path, **options) as answer:  # type: ignore[arg-type]
        return answer.status


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-5", "soon", "²"])
async def test_aws_gives_no_token_without_a_lifetime_in_bounds(ttl: str) -> None:
    """One second to six hours; anything else is 400."""
    async with asking(MetadataState(record=record(Dialect.AWS))) as client:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": ttl.encode().decode("latin-1")} if ttl else {}
        async with client.put("/latest/api/token", headers=headers) as answer:
            assert answer.status == 400


async def test_aws_gives_no_token_to_a_proxy() -> None:
    """A forwarded question is 403: the token must stay on the VM."""
    async with asking(MetadataState(record=record(Dialect.AWS))) as client:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60", "X-Forwarded-For": "1.2.3.4"}
        async with client.put("/latest/api/token", headers=headers) as answer:
            assert answer.status == 403


async def test_aws_says_nothing_without_a_token_that_is_still_good() -> None:
    """None, a wrong one and one of a minute ago are all 401."""
    now_s = 0.0
    clock: Callable[[], float] = lambda: now_s  # noqa: E731
    async with asking(MetadataState(record=record(Dialect.AWS), clock=clock)) as client:
        assert await status(client, ACTION) == 401
        assert await status(client, ACTION, headers={"X-aws-ec2-metadata-token": "x"}) == 401
        good = await token(client, ttl_s=60)
        assert await status(client, ACTION, headers=good) == 404
        now_s = 61.0
        assert await status(client, ACTION, headers=good) == 401


async def test_aws_announces_the_end_in_whole_seconds_and_not_late() -> None:
    """404 until there is something to say; then the action and its time, the fraction cut off."""
    state = MetadataState(record=record(Dialect.AWS))
    async with asking(state) as client:
        headers = await token(client)
        assert await status(client, REBALANCE, headers=headers) == 404
        state.announce(now=NOON, notice_s=120.0)
        state.recommend_rebalance(now=NOON)
        async with client.get(ACTION, headers=headers) as answer:
            assert await answer.text() == '{"action": "terminate", "time": "2026-11-22T12:02:00Z"}'
        async with client.get("/latest/meta-data/spot/termination-time", headers=headers) as answer:
            assert await answer.text() == "2026-11-22T12:02:00Z"
        async with client.get(REBALANCE, headers=headers) as answer:
            assert await answer.text() == '{"noticeTime": "2026-11-22T12:00:00Z"}'


@pytest.mark.parametrize(("market", "life"), [(Market.SPOT, "spot"), (Market.ON_DEMAND, "on-demand")])
async def test_aws_tells_the_vm_who_it_is(market: Market, life: str) -> None:
    """Name, zone and life cycle, one by one and in the identity document."""
    async with asking(MetadataState(record=record(Dialect.AWS, market))) as client:
        headers = await token(client)
        async with client.get("/latest/meta-data/instance-life-cycle", headers=headers) as answer:
            assert await answer.text() == life
        async with client.get("/latest/dynamic/instance-identity/document", headers=headers) as answer:
            document = await answer.json(content_type=None)
        assert (document["instanceId"], document["availabilityZone"]) == ("s-7", "easta")
        assert await status(client, "/latest/meta-data/nothing", headers=headers) == 404


async def test_gcp_wants_its_flavour_and_no_proxy() -> None:
    """Without the header, or forwarded, the answer is 403; with it the flavour comes back."""
    async with asking(MetadataState(record=record(Dialect.GCP))) as client:
        path = "/computeMetadata/v1/instance/preempted"
        assert await status(client, path) == 403
        assert await status(client, path, headers=GOOGLE | {"X-Forwarded-For": "1.2.3.4"}) == 403
        async with client.get(path, headers=GOOGLE) as answer:
            assert (answer.status, await answer.text()) == (200, "FALSE")
            assert answer.headers["Metadata-Flavor"] == "Google"
        assert await status(client, "/computeMetadata/v1/instance/nothing", headers=GOOGLE) == 404


async def test_gcp_answers_a_waiting_question_at_the_preemption() -> None:
    """A long poll with the last etag hangs while nothing changes, and is answered TRUE when the VM is doomed."""
    state = MetadataState(record=record(Dialect.GCP))
    async with asking(state) as client:
        path = "/computeMetadata/v1/instance/preempted"
        async with client.get(path, headers=GOOGLE) as answer:
            etag = answer.headers["ETag"]
        query = {"wait_for_change": "true", "last_etag": etag, "timeout_sec": "60"}

        async def ask() -> str:
            async with client.get(path, headers=GOOGLE, params=query) as answer:
                return await answer.text()

        short = query | {"timeout_sec": "0.05"}
        async with client.get(path, headers=GOOGLE, params=short) as answer:
            assert (await answer.text(), answer.headers["ETag"]) == ("FALSE", etag)
        asking_long = asyncio.create_task(ask())
        while not asking_long.done():
            # Announced again until heard: the question may not have arrived the first time.
            state.announce(now=NOON, notice_s=30.0)
            await asyncio.wait({asking_long}, timeout=0.05)
        assert asking_long.result() == "TRUE"


async def test_gcp_answers_at_once_who_has_missed_a_change() -> None:
    """An etag of before the change is not waited on."""
    state = MetadataState(record=record(Dialect.GCP))
    async with asking(state) as client, asyncio.timeout(5):
        path = "/computeMetadata/v1/instance/preempted"
        async with client.get(path, headers=GOOGLE) as answer:
            etag = answer.headers["ETag"]
        state.announce(now=NOON, notice_s=30.0)
        async with client.get(
            path, headers=GOOGLE, params={"wait_for_change": "true", "last_etag": etag}
        ) as answer:
            assert await answer.text() == "TRUE"


async def test_azure_wants_its_header_and_a_version() -> None:
    """Either missing is 400."""
    async with asking(MetadataState(record=record(Dialect.AZURE))) as client:
        assert await status(client, EVENTS, params=VERSION) == 400
        assert await status(client, EVENTS, headers=AZURE) == 400
        assert await status(client, EVENTS, headers=AZURE, params=VERSION) == 200


async def test_azure_schedules_the_preemption_as_an_event() -> None:
    """An empty document until then; afterwards a Preempt event with its time in HTTP's format."""
    state = MetadataState(record=record(Dialect.AZURE))
    async with asking(state) as client:
        async with client.get(EVENTS, headers=AZURE, params=VERSION) as answer:
            assert await answer.json() == {"DocumentIncarnation": 1, "Events": []}
        state.announce(now=NOON, notice_s=30.0)
        async with client.get(EVENTS, headers=AZURE, params=VERSION) as answer:
            document = await answer.json()
        assert document["DocumentIncarnation"] == 2
        (event,) = document["Events"]
        assert (event["EventType"], event["EventStatus"]) == ("Preempt", "Scheduled")
        assert (event["Resources"], event["NotBefore"]) == (["s-7"], "Sun, 22 Nov 2026 12:00:30 GMT")


async def test_azure_starts_an_approved_event_and_no_other() -> None:
    """Approving ends the wait; an event that is not there cannot be approved."""
    state = MetadataState(record=record(Dialect.AZURE))
    state.announce(now=NOON, notice_s=30.0)
    async with asking(state) as client:
        for body in ({"StartRequests": [{"EventId": "other"}]}, {"StartRequests": [1]}, []):
            async with client.post(EVENTS, headers=AZURE, params=VERSION, json=body) as answer:
                assert answer.status == 400
        assert not state.approved.is_set()
        async with client.get(EVENTS, headers=AZURE, params=VERSION) as answer:
            (event,) = (await answer.json())["Events"]
        body = {"StartRequests": [{"EventId": event["EventId"]}]}
        async with client.post(EVENTS, headers=AZURE, params=VERSION, json=body) as answer:
            assert answer.status == 200
        assert state.approved.is_set()
