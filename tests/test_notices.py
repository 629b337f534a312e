"""The notice watcher: its lines as typed events, and the program itself against real metadata services."""

import ast
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.drivers.base import Dialect, Machine, MachineState
from hedgeserve.drivers.localcloud.metadata import MetadataState, metadata_app
from hedgeserve.machines.notices import (
    Alive,
    NoticeSeen,
    Rebalance,
    Remark,
    Trouble,
    Watching,
    parse_line,
    watcher_command,
)
from hedgeserve.replica import Market, Notice, ZoneId
from tests.vmrecord import record

WATCHER = Path(__file__).parent.parent / "hedgeserve" / "machines" / "watcher.py"
NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


class Watcher:
    """The real program, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, lease: Path) -> None:
        self.process = process
        self.lease = lease

    async def next(self) -> object:
        """The next event that is no heartbeat."""
        assert self.process.stdout is not None
        async with asyncio.timeout(10):
            while line := await self.process.stdout.readline():
                event = parse_line(line.decode(), time.monotonic(), datetime.now(UTC))
                assert event is not None, line
                if not isinstance(event, Alive):
                    return event
        raise AssertionError("the watcher has ended")

    async def notice(self) -> tuple[float, str]:
        """The next event, which is a notice: seconds left and source."""
        event = await self.next()
        assert isinstance(event, NoticeSeen), event
        return event.notice.deadline_s - time.monotonic(), event.notice.source


@asynccontextmanager
async def watching(dialect: Dialect, url: str, tmp_path: Path, *, poll_s: float = 0.05) -> AsyncIterator[Watcher]:
    lease = tmp_path / "lease"
    # A proxy that nobody could get through: metadata is not to be asked for by it.
    env = os.environ | {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-IS",
        str(WATCHER),
        dialect,
        url,
        f"{poll_s}",
        str(lease),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=env,
    )
    watcher = Watcher(process, lease)
    try:
        assert await watcher.next() == Watching()
        yield watcher
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(5):
            await process.wait()
        assert process.returncode == 0


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    # A question that waits for a change must not hold up the end of the server.
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


async def test_aws_notice_reaches_the_controller_with_its_seconds(tmp_path: Path) -> None:
    """The rebalance recommendation comes first, then the notice with the time that is left."""
    state = MetadataState(record=record(Dialect.AWS))
    async with serving(metadata_app(state)) as url, watching(Dialect.AWS, url, tmp_path) as watcher:
        state.recommend_rebalance(now=datetime.now(UTC))
        assert await watcher.next() == Rebalance()
        state.announce(now=datetime.now(UTC), notice_s=120.0)
        left_s, source = await watcher.notice()
        assert 118 < left_s <= 120
        assert source == "aws spot/instance-action terminate"


async def test_aws_watcher_gets_itself_a_new_token_when_its_own_is_refused(tmp_path: Path) -> None:
    """The metadata service forgets all tokens; the notice comes through all the same, without any trouble."""
    late_s = 0.0
    state = MetadataState(record=record(Dialect.AWS), clock=lambda: late_s)
    async with serving(metadata_app(state)) as url, watching(Dialect.AWS, url, tmp_path) as watcher:
        state.recommend_rebalance(now=datetime.now(UTC))
        assert await watcher.next() == Rebalance()
        late_s = 1e6
        state.announce(now=datetime.now(UTC), notice_s=60.0)
        await watcher.notice()


async def test_gcp_notice_comes_at_once_however_slow_the_poll(tmp_path: Path) -> None:
    """A long poll: an hour between polls, and the notice is here in a moment, with the attribute's seconds."""
    state = MetadataState(record=record(Dialect.GCP))
    async with (
        serving(metadata_app(state)) as url,
        watching(Dialect.GCP, url, tmp_path, poll_s=3600) as watcher,
    ):
        # Until the long question hangs there is nothing to wait on, so the change is made again until heard.
        hearing = asyncio.create_task(watcher.notice())
        while not hearing.done():
            state.announce(now=datetime.now(UTC), notice_s=17.0)
            await asyncio.wait({hearing}, timeout=0.05)
        left_s, source = hearing.result()
        assert 15 < left_s <= 17
        assert source == "gcp instance/preempted"


async def test_azure_notice_is_for_this_vm_only(tmp_path: Path) -> None:
    """Events of another machine are passed over; ours is told, and again when it starts; a freeze is a remark."""
    events: list[dict[str, object]] = [
        {"EventId": "A", "EventType": "Preempt", "Resources": ["s-8"], "NotBefore": ""},
        {"EventId": "B", "EventType": "Freeze", "Resources": ["s-7"], "NotBefore": ""},
    ]

    async def scheduled(_request: web.Request) -> web.Response:
        return web.json_response({"DocumentIncarnation": 1, "Events": events})

    async def name(_request: web.Request) -> web.Response:
        return web.Response(text="s-7")

    app = web.Application()
    app.add_routes(
        [web.get("/metadata/scheduledevents", scheduled), web.get("/metadata/instance/compute/name", name)]
    )
    async with serving(app) as url, watching(Dialect.AZURE, url, tmp_path) as watcher:
        ends_at = (datetime.now(UTC) + timedelta(seconds=40)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        assert await watcher.next() == Remark("azure scheduledevents Freeze")
        events.append({"EventId": "C", "EventType": "Preempt", "Resources": ["s-7"], "NotBefore": ends_at})
        left_s, source = await watcher.notice()
        assert 37 < left_s <= 40
        assert source == "azure scheduledevents Preempt"
        events[-1]["NotBefore"] = ""
        left_s, _ = await watcher.notice()
        assert left_s <= 0


async def test_azure_service_as_we_play_it_is_understood(tmp_path: Path) -> None:
    """Our own Azure dialect and our watcher agree."""
    state = MetadataState(record=record(Dialect.AZURE))
    async with serving(metadata_app(state)) as url, watching(Dialect.AZURE, url, tmp_path) as watcher:
        state.announce(now=datetime.now(UTC), notice_s=30.0)
        left_s, _ = await watcher.notice()
        assert 28 < left_s <= 30


async def test_trouble_is_told_once_and_so_is_its_end(tmp_path: Path) -> None:
    """A service that fails with 500 for a while: one complaint, then word that all is well."""
    state = MetadataState(record=record(Dialect.AWS))
    healthy = False
    repeated = asyncio.Event()
    failures = 0

    @web.middleware
    async def failing(request: web.Request, handler: object) -> web.StreamResponse:
        nonlocal failures
        if not healthy:
            failures += 1
            if failures >= 4:
                repeated.set()
            return web.Response(status=500)
        return await handler(request)  # type: ignore[operator,no-any-return]

    app = metadata_app(state)
    app.middlewares.append(failing)
    async with serving(app) as url, watching(Dialect.AWS, url, tmp_path) as watcher:
        assert await watcher.next() == Trouble(f"{url}/latest/api/token answers with status 500")
        async with asyncio.timeout(10):
            await repeated.wait()
        healthy = True
        assert await watcher.next() == Watching()


async def test_the_lease_is_touched_and_the_heart_beats(tmp_path: Path) -> None:
    """A line that says alive, and the lease file is there."""
    state = MetadataState(record=record(Dialect.AWS))
    async with serving(metadata_app(state)) as url, watching(Dialect.AWS, url, tmp_path) as watcher:
        assert watcher.process.stdout is not None
        async with asyncio.timeout(10):
            line = await watcher.process.stdout.readline()
        assert parse_line(line.decode(), 0.0, NOON) == Alive()
        assert watcher.lease.exists()


def test_the_watcher_is_python_3_8() -> None:
    """It runs on whatever Python the VM's image has."""
    ast.parse(WATCHER.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Welcome to Debian GNU/Linux 12!",
        "{",
        "[]",
        "17",
        "null",
        '{"event": "party"}',
        '{"event": ["alive"]}',
        '{"no": "event"}',
    ],
)
def test_what_a_login_shell_prints_is_no_event(line: str) -> None:
    """A message of the day, or anything else that is not the watcher's."""
    assert parse_line(line, 0.0, NOON) is None


@given(st.text())
def test_no_line_whatever_breaks_the_reader(line: str) -> None:
    """Junk is None, never an exception."""
    assert parse_line(line, 0.0, NOON) is None or line.strip()


def test_the_seconds_by_the_vms_clock_are_taken_before_its_deadline() -> None:
    """The VM's clock is an hour off: its "in 100 s" still holds."""
    line = '{"event": "notice", "deadline": "2026-11-22T13:01:40+00:00", "in_s": 100, "source": "aws x"}'
    assert parse_line(line, 5.0, NOON) == NoticeSeen(Notice(105.0, "aws x"))


def test_a_notice_with_a_deadline_only_is_counted_from_now() -> None:
    """Two minutes by the clock of the day are two minutes on ours."""
    line = '{"event": "notice", "deadline": "2026-11-22T12:02:00+00:00", "source": "aws x"}'
    assert parse_line(line, 5.0, NOON) == NoticeSeen(Notice(125.0, "aws x"))


@pytest.mark.parametrize(
    "times",
    ['"deadline": null', '"deadline": "soon", "in_s": true', '"in_s": -3', '"in_s": NaN', f'"in_s": {10**400}'],
    ids=["none", "words", "past", "nan", "endless"],
)
def test_a_notice_without_a_usable_time_means_now(times: str) -> None:
    """Better to drain too early than not at all."""
    line = '{"event": "notice", "source": "x", ' + times + "}"
    assert parse_line(line, 5.0, NOON) == NoticeSeen(Notice(5.0, "x"))


def test_the_command_survives_a_path_with_a_space() -> None:
    """Every word is quoted for the VM's shell; the lease lies beside the watcher."""
    machine = Machine(
        id="m",
        name="m",
        zone=ZoneId("local/east/a"),
        market=Market.SPOT,
        instance_type="small",
        state=MachineState.RUNNING,
        tags={},
        launched_at=NOON,
        dialect=Dialect.GCP,
        metadata_url="http://127.64.0.9:8169",
    )
    assert watcher_command(machine, path="/my home/watcher.py", poll_s=1.0) == (
        "exec python3 -IS '/my home/watcher.py' gcp http://127.64.0.9:8169 1 '/my home/lease'"
    )


async def test_gcp_maintenance_that_ends_the_vm_is_a_notice_and_one_that_moves_it_is_none(tmp_path: Path) -> None:
    """Only what terminates counts; it is told with the time that Google promises, an hour with a GPU."""
    events = ["NONE", "MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"]
    asked = 0

    async def maintenance(_request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        now = events[min(asked, len(events)) - 1]
        return web.Response(text=now, headers={"ETag": now})

    async def preempted(request: web.Request) -> web.Response:
        if "wait_for_change" in request.query:
            await asyncio.get_running_loop().create_future()
        return web.Response(text="FALSE", headers={"ETag": "same"})

    app = web.Application()
    instance = "/computeMetadata/v1/instance"
    app.add_routes([web.get(f"{instance}/maintenance-event", maintenance)])
    app.add_routes([web.get(f"{instance}/preempted", preempted)])
    async with serving(app) as url, watching(Dialect.GCP, url, tmp_path) as watcher:
        left_s, source = await watcher.notice()
        assert asked >= 3
        assert 55 < left_s <= 3600
        assert source == "gcp instance/maintenance-event"


async def test_azure_is_told_to_go_on_only_when_the_controller_says_so(tmp_path: Path) -> None:
    """`approve` in the watcher's input: the events that end this VM are started, those and no others."""
    events = [
        {"EventId": "A", "EventType": "Freeze", "Resources": ["s-7"], "NotBefore": ""},
        {"EventId": "B", "EventType": "Preempt", "Resources": ["s-7"], "NotBefore": ""},
        {"EventId": "C", "EventType": "Preempt", "Resources": ["s-8"], "NotBefore": ""},
    ]
    started: asyncio.Queue[object] = asyncio.Queue()

    async def scheduled(_request: web.Request) -> web.Response:
        return web.json_response({"DocumentIncarnation": 1, "Events": events})

    async def start(request: web.Request) -> web.Response:
        started.put_nowait(await request.json())
        return web.Response()

    async def name(_request: web.Request) -> web.Response:
        return web.Response(text="s-7")

    app = web.Application()
    path = "/metadata/scheduledevents"
    app.add_routes([web.get(path, scheduled), web.post(path, start)])
    app.add_routes([web.get("/metadata/instance/compute/name", name)])
    async with serving(app) as url, watching(Dialect.AZURE, url, tmp_path) as watcher:
        assert await watcher.next() == Remark("azure scheduledevents Freeze")
        await watcher.notice()
        assert started.empty()
        assert watcher.process.stdin is not None
        watcher.process.stdin.write(b"approve\n")
        async with asyncio.timeout(10):
            assert await started.get() == {"StartRequests": [{"EventId": "B"}]}
