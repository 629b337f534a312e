"""The metadata services of AWS, GCP and Azure, as far as a VM needs them to learn who it is and when it must go.

Paths, headers, status codes and formats follow the providers' documentation (EC2 "Instance metadata" and
"Spot Instance interruptions"; Compute Engine "VM metadata"; Azure "Scheduled Events for Linux VMs"). Their
times are whole seconds; an end that falls between two is announced for the earlier one.
"""

import asyncio
import json
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from aiohttp import web

from hedgeserve.drivers.base import Dialect
from hedgeserve.drivers.localcloud.record import VmRecord
from hedgeserve.replica import Market

_AWS_LONGEST_TOKEN_S = 21600
_AWS_MOST_TOKENS = 1024
_GCP_LONGEST_WAIT_S = 3600.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, kw_only=True)
class MetadataState:
    """What the service says now. Changed only through its methods, on the service's event loop."""

    record: VmRecord
    clock: Callable[[], float] = time.monotonic
    ends_at: datetime | None = None
    notice_s: float | None = None
    rebalance_at: datetime | None = None
    approved: asyncio.Event = field(default_factory=asyncio.Event)
    version: int = 1
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _tokens: dict[str, float] = field(default_factory=dict)

    def announce(self, *, now: datetime, notice_s: float) -> None:
        """Say from now on that the VM goes ``notice_s`` from now."""
        self.ends_at = now + timedelta(seconds=notice_s)
        self.notice_s = notice_s
        self._change()

    def recommend_rebalance(self, *, now: datetime) -> None:
        """Say from now on that the VM is more likely than others to go (AWS has such a word, the others none)."""
        self.rebalance_at = now
        self._change()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return at the next change, or after ``timeout_s`` without one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def issue_token(self, ttl_s: int) -> str:
        """A session token that is good for ``ttl_s``; the oldest is forgotten when there are too many."""
        while len(self._tokens) >= _AWS_MOST_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        token = secrets.token_urlsafe(42)
        self._tokens[token] = self.clock() + ttl_s
        return token

    def accepts(self, token: str) -> bool:
        """Whether this is a session token that is still good."""
        return self._tokens.get(token, -math.inf) > self.clock()

    def _change(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def metadata_app(state: MetadataState) -> web.Application:
    """The service in the dialect of the VM."""
    app = web.Application()
    build = {Dialect.AWS: _aws_routes, Dialect.GCP: _gcp_routes, Dialect.AZURE: _azure_routes}
    app.add_routes(build[state.record.dialect](state))
    return app


def _place(record: VmRecord) -> tuple[str, str]:
    """Region and zone of the VM, without the cloud."""
    _, region, zone = record.zone.split("/")
    return region, zone


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _aws_routes(state: MetadataState) -> list[web.RouteDef]:
    """EC2, version 2 only: without a session token nothing is said."""
    record = state.record
    region, zone = _place(record)

    async def issue_token(request: web.Request) -> web.Response:
        if "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        ttl = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= _AWS_LONGEST_TOKEN_S):
            return web.Response(status=400)
        return web.Response(
            text=state.issue_token(int(ttl)), headers={"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": ttl}
        )

    def instance_action() -> str | None:
        return json.dumps({"action": "terminate", "time": _iso(state.ends_at)}) if state.ends_at else None

    def termination_time() -> str | None:
        return _iso(state.ends_at) if state.ends_at else None

    def rebalance() -> str | None:
        return json.dumps({"noticeTime": _iso(state.rebalance_at)}) if state.rebalance_at else None

    def identity() -> str:
        return json.dumps(
            {
                "accountId": "000000000000",
                "architecture": "x86_64",
                "availabilityZone": region + zone,
                "imageId": "ami-local",
                "instanceId": record.name,
                "instanceType": record.instance_type,
                "pendingTime": _iso(record.launched_at),
                "privateIp": record.address,
                "region": region,
                "version": "2017-09-30",
            }
        )

    life_cycle = "spot" if record.market is Market.SPOT else "on-demand"
    says: dict[str, Callable[[], str | None]] = {
        "/latest/meta-data/spot/instance-action": instance_action,
        "/latest/meta-data/spot/termination-time": termination_time,
        "/latest/meta-data/events/recommendations/rebalance": rebalance,
        "/latest/meta-data/instance-id": lambda: record.name,
        "/latest/meta-data/instance-type": lambda: record.instance_type,
        "/latest/meta-data/instance-life-cycle": lambda: life_cycle,
        "/latest/meta-data/local-ipv4": lambda: record.address,
        "/latest/meta-data/placement/availability-zone": lambda: region + zone,
        "/latest/meta-data/placement/region": lambda: region,
        "/latest/dynamic/instance-identity/document": identity,
    }

    async def answer(request: web.Request) -> web.Response:
        if not state.accepts(request.headers.get("X-aws-ec2-metadata-token", "")):
            return web.Response(status=401)
        text = says.get(request.path, lambda: None)()
        return web.Response(status=404) if text is None else web.Response(text=text)

    return [web.put("/latest/api/token", issue_token), web.get("/latest/{path:.*}", answer)]


def _gcp_routes(state: MetadataState) -> list[web.RouteDef]:
    """Compute Engine: every value can be waited on with ``wait_for_change``."""
    record = state.record
    region, zone = _place(record)
    spot = "TRUE" if record.market is Market.SPOT else "FALSE"
    says: dict[str, Callable[[], str]] = {
        "preempted": lambda: "TRUE" if state.ends_at else "FALSE",
        "maintenance-event": lambda: "NONE",
        "scheduling/preemptible": lambda: spot,
        "id": lambda: record.name,
        "name": lambda: record.name,
        "zone": lambda: f"projects/000000000000/zones/{region}-{zone}",
        "machine-type": lambda: f"projects/000000000000/machineTypes/{record.instance_type}",
        # GCP does not say how long the notice is; whoever launches a VM with another one than 30 s tells the
        # watcher by this attribute.
        "attributes/hedgeserve-notice-s": lambda: f"{notice_s():g}",
    }

    def notice_s() -> float:
        return record.notice_s if state.notice_s is None else state.notice_s

    async def answer(request: web.Request) -> web.Response:
        headers = {"Metadata-Flavor": "Google"}
        if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
            return web.Response(status=403, text="Missing Metadata-Flavor:Google header.", headers=headers)
        say = says.get(request.match_info["path"])
        if say is None:
            return web.Response(status=404, headers=headers)
        query = request.query
        if query.get("wait_for_change", "").lower() == "true":
            try:
                timeout_s = min(float(query.get("timeout_sec", _GCP_LONGEST_WAIT_S)), _GCP_LONGEST_WAIT_S)
            except ValueError:
                return web.Response(status=400, text="timeout_sec is not a number.", headers=headers)
            if query.get("last_etag", _etag(state)) == _etag(state):
                await state.wait_for_change(timeout_s)
        return web.Response(text=say(), headers=headers | {"ETag": _etag(state)})

    return [web.get("/computeMetadata/v1/instance/{path:.*}", answer)]


def _etag(state: MetadataState) -> str:
    return f"{state.version:016x}"


def _azure_routes(state: MetadataState) -> list[web.RouteDef]:
    """Azure: a document of scheduled events, which may be approved so that they start at once."""
    record = state.record
    region, zone = _place(record)
    compute = {
        "evictionPolicy": "Delete" if record.market is Market.SPOT else "",
        "location": region,
        "name": record.name,
        "priority": "Spot" if record.market is Market.SPOT else "Regular",
        "vmId": record.name,
        "vmSize": record.instance_type,
        "zone": zone,
    }
    event_id = f"{record.name}-preempt".upper()

    def events() -> list[dict[str, object]]:
        if state.ends_at is None:
            return []
        return [
            {
                "EventId": event_id,
                "EventStatus": "Started" if state.approved.is_set() else "Scheduled",
                "EventType": "Preempt",
                "ResourceType": "VirtualMachine",
                "Resources": [record.name],
                "NotBefore": "" if state.approved.is_set() else format_datetime(state.ends_at, usegmt=True),
                "Description": "",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            }
        ]

    def refused(why: str) -> web.Response:
        return web.json_response({"error": f"Bad request. {why}"}, status=400)

    def checked(handler: Handler) -> Handler:
        async def check(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Metadata", "").lower() != "true":
                return refused("Required metadata header not specified")
            if "api-version" not in request.query:
                return refused("api-version was not specified in the request")
            return await handler(request)

        return check

    async def list_events(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"DocumentIncarnation": state.version, "Events": events()})

    async def approve(request: web.Request) -> web.StreamResponse:
        try:
            wanted = {start["EventId"] for start in (await request.json())["StartRequests"]}
        except (ValueError, KeyError, TypeError):
            return refused("StartRequests was not specified in the request")
        if state.ends_at is None or event_id not in wanted:
            return refused("There is no such event")
        response = web.Response()
        await response.prepare(request)
        await response.write_eof()  # the answer first: this VM ends at once, and its caller with it
        state.approved.set()
        return response

    async def describe(request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name")
        if name is None:
            return web.json_response(compute)
        return web.Response(text=compute[name]) if name in compute else web.Response(status=404)

    return [
        web.get("/metadata/scheduledevents", checked(list_events)),
        web.post("/metadata/scheduledevents", checked(approve)),
        web.get("/metadata/instance/compute", checked(describe)),
        web.get("/metadata/instance/compute/{name}", checked(describe)),
    ]
