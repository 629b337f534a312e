"""Small real engines that can be told to misbehave, and a real balancer in front of them."""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from hedgeserve.balancer import Balancer
from hedgeserve.metrics import Metrics
from hedgeserve.replica import Market, ReplicaId, RouteTarget, RoutingSnapshot, ZoneId
from hedgeserve.spec import Spec
from hedgeserve.tracing import Tracing

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
PATIENCE_S = 10.0


def event(text: str = "", finish: str | None = None) -> bytes:
    """One event of a chat completion's stream."""
    data = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def answer(text: str = "hello", finish: str = "stop") -> bytes:
    """A chat completion in one piece."""
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}]}).encode()


ERROR_EVENT = b'data: {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}\n\n'
WHOLE_STREAM = event("one ") + event("two") + event(finish="stop") + DONE


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails the test when it does not for too long."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process or room
            await asyncio.sleep(0.005)


@dataclass
class Seen:
    """A request as an engine got it; the names of its headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[["Engine", web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Engine:
    """An HTTP server that plays its behaviours one after the other, then answers well."""

    name: str
    script: deque[Behaviour] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.05, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """Stop listening and break every connection, as a VM that is taken away."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            if runner.server is not None:
                for connection in runner.server.connections:
                    if connection.transport is not None:
                        connection.transport.abort()
            await runner.cleanup()

    def then(self, *behaviours: Behaviour) -> Self:
        """Play these next."""
        self.script.extend(behaviours)
        return self

    def target(self, **changes: Any) -> RouteTarget:
        """The engine as a replica that is ready."""
        return RouteTarget(ReplicaId(self.name), self.url, ZoneId("local/east/a"), Market.SPOT, **changes)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append(Seen(request.path_qs, headers, await request.read()))
            behaviour = self.script.popleft() if self.script else well
            return await behaviour(self, request)
        finally:
            self.running -= 1


async def well(engine: Engine, request: web.Request) -> web.StreamResponse:
    """A whole answer, streamed where that was asked for."""
    if json.loads(await request.read() or b"{}").get("stream"):
        return await _send(request, WHOLE_STREAM)
    return web.Response(body=answer(f"from {engine.name}"), content_type="application/json")


def status(code: int, body: bytes = b'{"error": "no"}') -> Behaviour:
    """An answer with this status."""

    async def behave(engine: Engine, request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, body=body, content_type="application/json")

    return behave


async def silent(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Not one byte until the other side gives up."""
    return await asyncio.Future()


async def when_told(engine: Engine, request: web.Request) -> web.StreamResponse:
    """A whole answer, once the gate is open."""
    await engine.gate.wait()
    return await well(engine, request)


async def dropped(engine: Engine, request: web.Request) -> web.StreamResponse:
    """The connection is broken before an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def streams(*chunks: bytes, then: str) -> Behaviour:
    """These bytes, then ``eof`` (clean), ``cut`` (broken) or ``silence``."""

    async def behave(engine: Engine, request: web.Request) -> web.StreamResponse:
        return await _send(request, *chunks, then=then)

    return behave


def in_pieces(body: bytes, *, then: str) -> Behaviour:
    """Half of an answer in one piece, then ``cut`` or ``silence``."""

    async def behave(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
        )
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        return await _after(request, response, then)

    return behave


async def _send(request: web.Request, *chunks: bytes, then: str = "eof") -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    return await _after(request, response, then)


async def _after(request: web.Request, response: web.StreamResponse, then: str) -> web.StreamResponse:
    if then == "silence":
        await asyncio.Future()
    if then == "cut":
        await until(lambda: request.transport is None or not request.transport.get_write_buffer_size())
        if request.transport is not None:
            request.transport.close()  # the end of the body has not been said: to the other side it is cut
        return response
    await response.write_eof()
    return response


@dataclass
class House:
    """A balancer on a port of its own, and a client that talks to it."""

    balancer: Balancer
    metrics: Metrics
    http: aiohttp.ClientSession
    waits: list[None]
    version: int = 0

    def show(self, *targets: RouteTarget | Engine) -> None:
        """The next snapshot."""
        self.version += 1
        shown = tuple(each.target() if isinstance(each, Engine) else each for each in targets)
        self.balancer.update(RoutingSnapshot(self.version, shown))

    async def ask(self, path: str = CHAT, *, stream: bool = False, **fields: Any) -> "Reply":
        """POST a request and read all of the answer."""
        body = {"model": "demo", "messages": [], "stream": stream, "max_tokens": 16, **fields}
        async with self.http.post(self.balancer.url + path, json=body) as response:
            return await Reply.read(response)

    async def get(self, path: str, method: str = "GET", **options: Any) -> "Reply":
        """Any other request."""
        async with self.http.request(method, self.balancer.url + path, **options) as response:
            return await Reply.read(response)

    def count(self, name: str, **labels: str) -> float:
        """The sum over a metric's samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
            if sample.name == f"hedgeserve_{name}" and labels.items() <= sample.labels.items()
        )


@dataclass
class Reply:
    """An answer as the client got it; ``broken`` where it was cut."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool = False

    @classmethod
    async def read(cls, response: aiohttp.ClientResponse) -> Self:
        body, broken = b"", False
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except aiohttp.ClientError:
            broken = True
        return cls(
            response.status, {name.lower(): value for name, value in response.headers.items()}, body, broken
        )

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, of the one shape that errors have."""
        (key,) = self.json
        assert key == "error"
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        assert self.headers["content-type"].startswith("application/json")
        return dict(self.json["error"])

    @property
    def text(self) -> str:
        """What the model said."""
        return str(self.json["choices"][0]["message"]["content"])


def make_spec(**tables: dict[str, Any]) -> Spec:
    """A specification with these tables changed; short deadlines, a port of its own."""
    given: dict[str, Any] = {
        "service": {"listen": "127.0.0.1:0"},
        "model": {"id": "demo", "aliases": ["gpt-demo"], "engine": "demo"},
        "pools": [{"cloud": "local", "zones": ["east/a"]}],
        "routing": {"engine_metrics": "1h"},  # the small engines here play their script for whoever asks
        "timeouts": {
            "connect": "1s",
            "request_head": "5s",
            "first_byte": "5s",
            "stall": "5s",
            "queue": "5s",
            "total": "20s",
        },
    }
    for table, changes in tables.items():
        given[table] = {**given.get(table, {}), **changes}
    return Spec.model_validate(given)


@asynccontextmanager
async def open_house(
    *engines: Engine,
    api_keys: frozenset[str] = frozenset(),
    boot_eta_s: float | None = None,
    own_trust: ssl.SSLContext | None = None,
    on_silence: Callable[[ReplicaId], None] = lambda replica: None,
    tracing: Tracing | None = None,
    **tables: dict[str, Any],
) -> AsyncIterator[House]:
    """A house in which these engines run and are shown as ready."""
    async with AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine)
        metrics, waits = Metrics(), list[None]()
        balancer = Balancer(
            make_spec(**tables),
            metrics,
            api_keys=api_keys,
            boot_eta_s=lambda: boot_eta_s,
            on_wait=lambda: waits.append(None),
            on_silence=on_silence,
            own_trust=own_trust,
            tracing=tracing,
        )
        await balancer.start()
        stack.push_async_callback(balancer.aclose)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        )
        house = House(balancer, metrics, http, waits)
        if engines:
            house.show(*engines)
        yield house
