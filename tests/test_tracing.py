"""Spans: of requests and their attempts, of replicas' lives; where they go, and that they disturb nobody."""

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind
from structlog.testing import capture_logs

from hedgeserve import spanexport
from hedgeserve.core import Service
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spanexport import start_tracing, steady, wants_traces
from hedgeserve.specfile import parse_spec
from hedgeserve.tracing import Tracing
from tests.conftest import small_toml
from tests.test_service import ask
from tests.upstreams import CHAT, Engine, House, Reply, event, make_spec, open_house, streams, until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"


class Traced:
    """A tracing whose spans stay in memory."""

    def __init__(self, sample: float = 1.0) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBasedTraceIdRatio(sample), shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracing = Tracing(self.provider, model="demo", engine="vllm")

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Those that have ended, in the order in which they began."""
        found = [span for span in self.memory.get_finished_spans() if span.name.startswith(name)]
        return sorted(found, key=lambda span: span.start_time or 0)


@pytest.fixture
def traced() -> Iterator[Traced]:
    one = Traced()
    yield one
    one.provider.shutdown()


def trace_of(header: str) -> tuple[str, str, str]:
    version, trace, span, flags = header.split("-")
    assert version == "00"
    return trace, span, flags


async def post(house: House, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    body = {"model": "demo", "messages": [], **fields}
    async with house.http.post(house.balancer.url + CHAT, json=body, headers=headers) as response:
        return await Reply.read(response)


async def test_a_request_is_a_span_with_a_child_for_its_attempt(traced: Traced) -> None:
    """By the conventions for generative AI; the client's trace goes on, down to the engine."""
    engine = Engine("e-1")
    async with open_house(engine, tracing=traced.tracing) as house:
        headers = {"traceparent": PARENT, "tracestate": "vendor=1", "x-request-id": "r-1"}
        await post(house, headers, stream=True, temperature=0, max_tokens=16, seed=7)
    attempt, request = traced.spans("chat attempt")[0], traced.spans("chat demo")[0]
    assert (request.kind, attempt.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    trace, parent, _ = trace_of(PARENT)
    assert f"{request.context.trace_id:032x}" == trace
    assert f"{request.parent.span_id:016x}" == parent
    assert attempt.parent.span_id == request.context.span_id
    told = dict(request.attributes or {})
    assert told.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert told.pop("gen_ai.usage.output_tokens") > 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.max_tokens": 16,
        "gen_ai.request.seed": 7,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "hedgeserve.request_id": "r-1",
        "hedgeserve.outcome": "ok",
        "hedgeserve.attempts": 1,
        "hedgeserve.resumed": 0,
    }
    assert attempt.attributes["hedgeserve.replica"] == "e-1"
    assert attempt.attributes["hedgeserve.zone"] == "local/east/a"
    assert attempt.attributes["hedgeserve.failover"] == "first"
    (seen,) = engine.seen
    assert trace_of(seen.headers["traceparent"]) == (trace, f"{attempt.context.span_id:016x}", "01")
    assert seen.headers["tracestate"] == "vendor=1"


async def test_an_answer_in_one_piece_tells_its_usage(traced: Traced) -> None:
    """As the engine counted it."""

    async def told(engine: Engine, request: web.Request) -> web.Response:
        usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
        choices = [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]
        return web.json_response({"choices": choices, "usage": usage})

    async with open_house(Engine("e").then(told), tracing=traced.tracing) as house:
        await post(house)
    (request,) = traced.spans("chat demo")
    assert request.attributes["gen_ai.usage.input_tokens"] == 11
    assert request.attributes["gen_ai.usage.output_tokens"] == 5


async def test_a_replica_that_dies_in_the_middle_leaves_two_attempts_in_one_trace(traced: Traced) -> None:
    """The first ends with what befell it, the second says that it went on with the answer; the request is well."""
    dying = Engine("dying").then(streams(event("one "), then="silence"))
    other = Engine("other")
    policy = {"policy": "round_robin"}
    async with open_house(dying, tracing=traced.tracing, failover={"token_ids": "off"}, routing=policy) as house:
        asking = asyncio.create_task(post(house, stream=True, temperature=0))
        await until(lambda: bool(dying.seen))
        await asyncio.sleep(0.05)
        house.show(dying, await other.__aenter__())
        await dying.die()
        assert b"[DONE]" in (await asking).body
        await other.die()
    first, second = traced.spans("chat attempt")
    (request,) = traced.spans("chat demo")
    assert {span.context.trace_id for span in (first, second)} == {request.context.trace_id}
    assert (first.attributes["hedgeserve.replica"], second.attributes["hedgeserve.replica"]) == ("dying", "other")
    assert first.attributes["error.type"] in ("body", "vanished")
    assert not first.status.is_ok
    assert first.attributes["hedgeserve.failover"] == "first"
    assert second.attributes["hedgeserve.failover"] == "replay"
    assert second.attributes["hedgeserve.outcome"] == "ok"
    assert request.attributes["hedgeserve.attempts"] == 2
    assert request.attributes["hedgeserve.resumed"] == 1
    assert "error.type" not in request.attributes
    traces = [trace_of(engine.seen[0].headers["traceparent"]) for engine in (dying, other)]
    assert traces[0][0] == traces[1][0]
    assert traces[0][1] != traces[1][1]


async def test_a_request_that_is_turned_away_is_a_span_too(traced: Traced) -> None:
    """By us before any attempt, as an error only where it is ours or for want of capacity."""
    async with open_house(Engine("e"), tracing=traced.tracing, timeouts={"queue": "50ms"}) as house:
        await post(house, model="another")
        house.show()
        await post(house)
    wrong, shed = traced.spans("chat demo")
    assert (wrong.attributes["http.response.status_code"], "error.type" in wrong.attributes) == (404, False)
    assert (shed.attributes["http.response.status_code"], shed.attributes["error.type"]) == (503, "shed")


async def test_who_is_not_sampled_leaves_no_span_and_its_engine_is_told_so() -> None:
    """The client's decision is honoured, and where there is none, the share that is asked for."""
    traced, engine = Traced(sample=0.0), Engine("e")
    async with open_house(engine, tracing=traced.tracing) as house:
        await post(house)
        await post(house, {"traceparent": UNSAMPLED})
        await post(house, {"traceparent": PARENT})
    flags = [int(trace_of(seen.headers["traceparent"])[2], 16) for seen in engine.seen]
    assert [flag & 1 for flag in flags] == [0, 0, 1]
    assert len(traced.spans()) == 2
    traced.provider.shutdown()


async def test_without_tracing_the_clients_header_passes_as_it_is() -> None:
    """Off is off."""
    engine = Engine("e")
    async with open_house(engine) as house:
        await post(house, {"traceparent": PARENT, "tracestate": "vendor=1"})
        await post(house)
    assert engine.seen[0].headers["traceparent"] == PARENT
    assert engine.seen[0].headers["tracestate"] == "vendor=1"
    assert "traceparent" not in engine.seen[1].headers


def test_a_replica_s_life_is_spans(traced: Traced) -> None:
    """Its launch with the phases of the cold start, later its drain."""
    offer = Offer(ZoneId("local/east/a"), "small", Market.SPOT, 0.3, datetime.now(UTC))
    replica = Replica(ReplicaId("demo-1"), offer, State.PLANNED, 0.0, datetime.now(UTC))
    life = traced.tracing.replica(replica, launched=True)
    life.phase("boot", 2.0)
    life.phase("ssh", 3.0)
    life.reached(State.READY, "it answered", None)
    life.reached(State.DRAINING, "preemption notice", GoneReason.PREEMPTED)
    life.reached(State.TERMINATING, "its requests had ended", GoneReason.PREEMPTED)
    (launch,), (drain,) = traced.spans("replica launch"), traced.spans("replica drain")
    phases = traced.spans("bootstrap")
    assert {span.name for span in phases} == {"bootstrap boot", "bootstrap ssh"}
    assert all(span.parent.span_id == launch.context.span_id for span in phases)
    assert [round((span.end_time - span.start_time) / 1e9) for span in phases] == [3, 2]
    assert launch.attributes["hedgeserve.market"] == "spot"
    assert "error.type" not in launch.attributes
    assert drain.attributes["hedgeserve.reason"] == "preemption notice"
    failed = traced.tracing.replica(replica, launched=True)
    failed.reached(State.TERMINATING, "the engine exited with status 1", GoneReason.FAILED)
    assert traced.spans("replica launch")[-1].attributes["error.type"] == "failed"


@asynccontextmanager
async def receiver(status: int = 200) -> AsyncIterator[SimpleNamespace]:
    """An OTLP receiver on loopback."""
    got = SimpleNamespace(spans=[], resources=[], headers=[], url="")

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            got.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            got.spans += [span for scope in resource.scope_spans for span in scope.spans]
        got.headers.append(request.headers)
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    got.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield got
    finally:
        await runner.cleanup()


async def test_spans_reach_a_receiver_by_otlp() -> None:
    """Over HTTP, from a thread; what is left is sent when the service stops."""
    async with receiver() as got:
        tracing = await start_tracing(make_spec(telemetry={"traces": "on", "endpoint": got.url}), {})
        assert tracing is not None
        async with open_house(Engine("e"), tracing=tracing) as house:
            for _ in range(5):
                await post(house)
        await tracing.aclose()
    assert sorted(span.name for span in got.spans) == ["chat attempt"] * 5 + ["chat demo"] * 5
    assert got.resources[0]["service.name"] == "hedgeserve"
    assert got.headers[0]["Content-Type"] == "application/x-protobuf"


async def test_a_whole_service_shows_cold_starts_and_requests(short_dir: Path) -> None:
    """A VM is launched, brought up over SSH and asked: each of it a span, of the service's own name."""
    async with receiver() as got:
        environ = {"OTEL_SERVICE_NAME": "chat-in-paris"}
        text = small_toml(short_dir) + f'\n[telemetry]\ntraces = "on"\nendpoint = "{got.url}"\n'
        async with Service(parse_spec(text, "small.toml", short_dir, {}), environ=environ) as service:
            await service.wait_ready()
            async with aiohttp.ClientSession() as session:
                await ask(service, session)
    names = {span.name for span in got.spans}
    assert {"replica launch", "bootstrap boot", "bootstrap ssh", "bootstrap start", "bootstrap load"} <= names
    (request,) = (span for span in got.spans if span.name.startswith("text_completion ") and span.kind == 2)
    assert [span.parent_span_id for span in got.spans if span.name == "text_completion attempt"] == [
        request.span_id
    ]
    launch = next(span for span in got.spans if span.name == "replica launch")
    assert all(span.trace_id == launch.trace_id for span in got.spans if span.name.startswith("bootstrap"))
    assert got.resources[0]["service.name"] == "chat-in-paris"


async def test_spans_that_are_wanted_and_cannot_be_made_are_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the extra the service serves all the same, and says what to install."""
    monkeypatch.setattr(spanexport, "can_trace", lambda: False)
    with capture_logs() as logs:
        assert await start_tracing(make_spec(telemetry={"traces": "on"}), {}) is None
    assert [(log["log_level"], "hedgeserve[otel]" in log["event"]) for log in logs] == [("warning", True)]


async def test_a_receiver_that_is_down_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered, one line says so, and the service can stop."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    spec = make_spec(telemetry={"traces": "on", "endpoint": "http://127.0.0.1:1"})
    with capture_logs() as logs:
        tracing = await start_tracing(spec, {})
        assert tracing is not None
        async with open_house(Engine("e"), tracing=tracing) as house:
            assert (await post(house)).status == 200
        await tracing.aclose()
    told = [log["event"] for log in logs if log["log_level"] in ("warning", "error")]
    assert told == ["spans cannot be sent to their receiver and are dropped"]


def test_trouble_with_the_receiver_is_told_once_when_it_begins_and_when_it_ends() -> None:
    """Not with every batch."""

    class Fickle(SpanExporter):
        results: ClassVar[list[Any]] = [
            RuntimeError("https://user:hunter2@receiver is down"),
            SpanExportResult.FAILURE,
            SpanExportResult.SUCCESS,
            SpanExportResult.SUCCESS,
        ]  # fmt: skip

        def export(self, spans: Any) -> SpanExportResult:
            result = self.results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

    exporter = steady(Fickle())
    with capture_logs() as logs:
        for _ in range(4):
            exporter.export([])
    assert [log["log_level"] for log in logs] == ["warning", "info"]
    assert "hunter2" not in str(logs)


@pytest.mark.parametrize(
    ("table", "environ", "wanted"),
    [
        ({}, {}, False),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"traces": "off"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"traces": "on"}, {}, True),
        ({"traces": "on"}, {"OTEL_SDK_DISABLED": "true"}, False),
        ({"traces": "on"}, {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_when_spans_are_sent(table: dict[str, Any], environ: dict[str, str], wanted: bool) -> None:
    """As model.toml says, and as the standard variables do."""
    assert wants_traces(make_spec(telemetry=table), environ) is wanted


def test_opentelemetry_is_not_loaded_where_it_is_not_wanted() -> None:
    """Megabytes, and a second."""
    program = (
        "import json, sys\n"
        "import hedgeserve.cli, hedgeserve.console.serve, hedgeserve.balancer\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


async def test_the_http_client_of_these_tests_adds_no_trace_itself() -> None:
    """Else the tests above would prove nothing."""
    async with aiohttp.ClientSession() as http:
        assert "traceparent" not in http.headers
