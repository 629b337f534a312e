"""The endpoint as its clients see it: what passes, what is refused, who waits, and how it stops."""

import asyncio
import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from hedgeserve.balancer import Balancer
from hedgeserve.errors import ListenError
from hedgeserve.metrics import Metrics
from hedgeserve.proxy.edge import Edge
from hedgeserve.proxy.replies import Code
from hedgeserve.proxy.routes import FORWARDED, OWN
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from tests.demo_process import demo_process
from tests.upstreams import (
    CHAT,
    WHOLE_STREAM,
    Engine,
    House,
    Reply,
    event,
    make_spec,
    open_house,
    silent,
    streams,
    until,
    when_told,
)

DOCS = Path(__file__).parent.parent / "docs" / "http-api.md"
SAID = [{"role": "user", "content": "Why is the sky blue?"}]


async def raw(house: House, data: bytes, *, until_seen: bytes = b"") -> bytes:
    """What comes back on a plain socket until the other side closes it, or until this has been seen."""
    address = urlsplit(house.balancer.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(5):
            return await (reader.readuntil(until_seen) if until_seen else reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


# What passes


async def test_the_body_passes_byte_for_byte_and_the_headers_that_may() -> None:
    """Odd spacing, unknown fields, order of keys: all as they were. Keys and hop-by-hop headers stay here."""
    body = b'{ "model":"gpt-demo",\t"x" : 1.50, "messages":[] , "n":1, "max_tokens":8}'
    sent = {
        "Content-Type": "application/json",
        "Authorization": "Bearer client-secret",
        "X-Api-Key": "client-secret",
        "X-Request-Id": "trace:me-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Connection": "keep-alive, X-Private",
        "X-Private": "between us",
        "X-Custom": "yes",
    }
    engine = Engine("e")
    async with open_house(engine, api_keys=frozenset({"client-secret"})) as house:
        house.show(engine.target(api_key="engine-secret"))
        reply = await house.get(f"{CHAT}?a=1&b", "POST", data=body, headers=sent)
        (seen,) = engine.seen
        assert seen.body == body
        assert seen.path == f"{CHAT}?a=1&b"
        assert seen.headers["authorization"] == "Bearer engine-secret"
        assert seen.headers["x-request-id"] == reply.headers["x-request-id"] == "trace:me-1"
        assert seen.headers["traceparent"] == sent["traceparent"]
        assert seen.headers["x-custom"] == "yes"
        assert "x-private" not in seen.headers
        assert "client-secret" not in str(seen.headers)


async def test_without_a_key_of_its_own_a_replica_gets_none() -> None:
    """The client's key is for us."""
    engine = Engine("e")
    async with open_house(engine) as house:
        await house.get(CHAT, "POST", data=b"{}", headers={"Authorization": "Bearer client-secret"})
        assert "authorization" not in engine.seen[0].headers


@pytest.mark.parametrize("given", ["", "no spaces please", "x" * 129, "ä"])
async def test_an_insane_request_id_is_replaced(given: str) -> None:
    """It goes into logs and other people's systems."""
    engine = Engine("e")
    async with open_house(engine) as house:
        reply = await house.get(CHAT, "POST", data=b"{}", headers={"X-Request-Id": given})
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
        assert engine.seen[0].headers["x-request-id"] == reply.headers["x-request-id"]


async def test_a_stream_passes_event_by_event_as_it_comes() -> None:
    """The first event is with the client while the engine still thinks about the second."""
    engine = Engine("e").then(streams(event("one"), then="silence"))
    async with open_house(engine) as house:
        async with house.http.post(house.balancer.url + CHAT, json={"stream": True}) as response:
            assert await response.content.readany() == event("one")
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["Server"] == "hedgeserve"
            assert response.headers["X-HedgeServe-Replica"] == "e"
        assert house.count("time_to_first_token_seconds_count") == 0  # it has not ended yet


@pytest.mark.parametrize("path", FORWARDED)
async def test_every_forwarded_path_reaches_a_replica_under_its_name(path: str) -> None:
    """And is counted under it."""
    engine = Engine("e")
    async with open_house(engine) as house:
        assert (await house.ask(path)).status == 200
        assert engine.seen[0].path == path
        assert house.count("requests_total", route=path, outcome="ok") == 1


async def test_the_openai_client_speaks_to_the_demo_engine_through_us() -> None:
    """Sync and async, streamed and not: four times the same text, and its list of models."""

    def sync_client() -> list[str]:
        with openai.OpenAI(base_url=f"{house.balancer.url}/v1", api_key="k1", max_retries=0) as client:
            whole = client.chat.completions.create(model="demo", messages=SAID, max_tokens=12)
            stream = client.chat.completions.create(model="demo", messages=SAID, max_tokens=12, stream=True)
            texts = [
                whole.choices[0].message.content,
                "".join(part.choices[0].delta.content or "" for part in stream),
            ]
            assert [model.id for model in client.models.list()] == ["demo", "gpt-demo"]
            with pytest.raises(openai.NotFoundError, match="gpt-5"):
                client.chat.completions.create(model="gpt-5", messages=SAID)
            return texts

    async def async_client() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{house.balancer.url}/v1", api_key="k2", max_retries=0) as client:
            whole = await client.chat.completions.create(model="demo", messages=SAID, max_tokens=12)
            stream = await client.chat.completions.create(model="demo", messages=SAID, max_tokens=12, stream=True)
            parts = [part.choices[0].delta.content or "" async for part in stream]
            return [whole.choices[0].message.content or "", "".join(parts)]

    with demo_process(api_key="engine-key") as demo:
        target = RouteTarget(
            ReplicaId("demo-1"), demo.url, ZoneId("local/east/a"), Market.SPOT, api_key="engine-key"
        )
        async with open_house(api_keys=frozenset({"k1", "k2"})) as house:
            house.show(target)
            texts = [*await asyncio.to_thread(sync_client), *await async_client()]
    assert texts[0]
    assert texts == [texts[0]] * 4


async def test_an_error_in_a_stream_raises_in_the_openai_client() -> None:
    """A user of the official client learns of a cut; it does not look like a short answer."""
    engine = Engine("bad").then(streams(event("one"), then="cut"))
    async with (
        open_house(engine) as house,
        openai.AsyncOpenAI(base_url=f"{house.balancer.url}/v1", api_key="-", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(model="demo", messages=SAID, stream=True)
        with pytest.raises(openai.APIError, match="failed in the middle of the answer"):
            async for _ in stream:
                pass


async def test_requests_go_to_the_least_busy_replica() -> None:
    """Four requests at once on two replicas: two each."""
    engines = [Engine(name).then(when_told, when_told) for name in "ab"]
    async with open_house(*engines) as house:
        asking = [asyncio.create_task(house.ask()) for _ in range(4)]
        await until(lambda: [engine.running for engine in engines] == [2, 2])
        assert house.balancer.load().in_flight == 4
        assert [house.balancer.outstanding(ReplicaId(name)) for name in "ab"] == [2, 2]
        for engine in engines:
            engine.gate.set()
        assert [reply.status for reply in await asyncio.gather(*asking)] == [200] * 4
        assert house.balancer.load().in_flight == 0
        assert house.balancer.load().arrived_total == 4


# Clients that go away, or are slow


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_its_request_with_it(stream: bool) -> None:
    """The demo engine's own gauge falls back to nothing at once, as vLLM's does: no GPU works for nobody."""
    with demo_process("--tokens-per-second", "20") as demo:
        async with open_house() as house:
            house.show(RouteTarget(ReplicaId("demo-1"), demo.url, ZoneId("local/east/a"), Market.SPOT))
            body = {"messages": SAID, "max_tokens": 2000, "ignore_eos": True, "stream": stream}
            asking = asyncio.create_task(house.ask(**body))
            await asyncio.to_thread(demo.wait_metric, "num_requests_running", 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.to_thread(demo.wait_metric, "num_requests_running", 0)
            await until(lambda: house.count("requests_total", outcome="cancelled") == 1)
            assert house.balancer.load().in_flight == 0


async def test_a_slow_client_slows_the_engine_down() -> None:
    """What the client does not read is not read from the engine either: nothing piles up here."""
    written = 0
    blocked = asyncio.Event()

    async def endless(engine: Engine, request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        big = event("x" * 60_000)
        try:
            while True:
                async with asyncio.timeout(0.5):
                    await response.write(big)
                written += len(big)
        except TimeoutError:
            blocked.set()
        return await asyncio.Future()

    engine = Engine("e").then(endless)
    async with open_house(engine) as house:
        async with house.http.post(house.balancer.url + CHAT, json={"stream": True}):
            async with asyncio.timeout(10):
                await blocked.wait()
        assert written < 64 * 2**20  # the kernel's socket buffers on both sides, and little more
        await until(lambda: engine.running == 0)


# Waiting


async def test_a_request_waits_for_the_first_replica_and_wakes_the_service() -> None:
    """Nothing runs: the request is held, the control loop is told once, and the answer comes in the end."""
    async with open_house() as house, Engine("e") as engine:
        asking = asyncio.create_task(house.ask())
        await until(lambda: house.balancer.load().queued == 1)
        assert len(house.waits) == 1
        house.show()
        house.show(engine)
        reply = await asking
        assert (reply.status, reply.headers["x-hedgeserve-attempts"]) == (200, "1")
        assert house.balancer.load().queued == 0
        assert house.count("queue_wait_seconds_count") == 1


async def test_a_wait_that_is_too_long_ends_with_advice() -> None:
    """503 with the time until a replica is expected."""
    async with open_house(boot_eta_s=90.0, timeouts={"queue": "50ms"}) as house:
        reply = await house.ask()
        assert (reply.status, reply.error["code"]) == (503, "queue_timeout")
        assert 90 <= int(reply.headers["retry-after"]) <= 113
        assert house.count("requests_total", outcome="shed", code="503") == 1


async def test_a_full_line_turns_newcomers_away_at_once() -> None:
    """With nothing ready it is 503, and the one in line keeps its place."""
    async with open_house(boot_eta_s=20.0, limits={"max_queue": 1}) as house, Engine("e") as engine:
        first = asyncio.create_task(house.ask())
        await until(lambda: house.balancer.load().queued == 1)
        reply = await house.ask()
        assert (reply.status, reply.error["code"]) == (503, "no_capacity")
        assert 20 <= int(reply.headers["retry-after"]) <= 25
        house.show(engine)
        assert (await first).status == 200


async def test_a_full_line_before_busy_replicas_is_a_429() -> None:
    """There is capacity, only not for so many at once."""
    engine = Engine("e").then(when_told)
    async with open_house(engine, limits={"max_queue": 0, "max_concurrent_per_replica": 1}) as house:
        first = asyncio.create_task(house.ask())
        await until(lambda: engine.running == 1)
        reply = await house.ask()
        assert (reply.status, reply.error["code"]) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        engine.gate.set()
        assert (await first).status == 200


async def test_no_replica_is_given_more_than_it_may_have_and_the_rest_come_in_order() -> None:
    """One slot, five requests: one after the other, as they arrived."""
    engine = Engine("e").then(when_told)
    async with open_house(engine, limits={"max_concurrent_per_replica": 1}) as house:
        asking = []
        for number in range(5):
            asking.append(asyncio.create_task(house.ask(user=str(number))))
            await until(lambda: house.balancer.load().arrived_total == len(asking))
        assert house.balancer.load().queued == 4
        engine.gate.set()
        await asyncio.gather(*asking)
        assert engine.most_running == 1
        assert [json.loads(seen.body)["user"] for seen in engine.seen] == ["0", "1", "2", "3", "4"]
        assert not house.waits  # a replica was ready all the time


async def test_a_client_that_goes_away_while_waiting_leaves_the_line() -> None:
    """Its place is free at once."""
    async with open_house(limits={"max_queue": 1}) as house, Engine("e") as engine:
        leaving = asyncio.create_task(house.ask())
        await until(lambda: house.balancer.load().queued == 1)
        leaving.cancel()
        await until(lambda: house.balancer.load().queued == 0)
        staying = asyncio.create_task(house.ask())
        await until(lambda: house.balancer.load().queued == 1)
        house.show(engine)
        assert (await staying).status == 200
        assert len(engine.seen) == 1


# What is refused


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"", "invalid_json", "is empty"),
        (b'{"model": "demo",\n "x": }', "invalid_json", "line 2 column 7"),
        (b'["model"]', "invalid_json", "an array"),
        (b'"text"', "invalid_json", "a string"),
        (b"\xff\xfe{", "invalid_json", "UTF-8"),
        (b"[" * 100_000, "invalid_json", "nests too deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "invalid_json", "too long"),
        (b'{"stream": "yes"}', "invalid_value", '"stream" must be true or false, not a string'),
        (b'{"model": 7}', "invalid_value", '"model" must be a string, not a number'),
    ],
)
async def test_a_body_that_cannot_be_meant_is_refused_with_the_place(body: bytes, code: str, message: str) -> None:
    """400 in OpenAI's shape; no replica is bothered."""
    engine = Engine("e")
    async with open_house(engine) as house:
        reply = await house.get(CHAT, "POST", data=body)
        assert (reply.status, reply.error["code"]) == (400, code)
        assert message in reply.error["message"]
        assert not engine.seen


async def test_another_model_is_not_found_and_what_there_is_is_named() -> None:
    """The alias is as good as the name."""
    async with open_house(Engine("e")) as house:
        reply = await house.ask(model="gpt-5")
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        assert '"demo", "gpt-demo"' in reply.error["message"]
        assert (await house.ask(model="gpt-demo")).status == 200
        assert (await house.get("/v1/models/gpt-5")).error["code"] == "model_not_found"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_too_large_is_refused(declared: bool) -> None:
    """Where its length is declared, before it is read."""
    engine = Engine("e")

    async def chunks():
        for _ in range(40):
            yield b" " * 1024

    async with open_house(engine, limits={"max_body": "16 KiB"}) as house:
        reply = await house.get(CHAT, "POST", data=b" " * 40_000 if declared else chunks())
        assert (reply.status, reply.error["code"]) == (413, "body_too_large")
        assert "16 KiB" in reply.error["message"]
        assert not engine.seen


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"),
    [
        ("GET", "/", 404, "not_found", None),
        ("POST", "/v1/chat/completions/", 404, "not_found", None),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed", "POST"),
        ("POST", "/v1/models", 405, "method_not_allowed", "GET, HEAD"),
        ("DELETE", "/v1/models/demo", 405, "method_not_allowed", "GET, HEAD"),
    ],
)
async def test_what_is_not_there_says_so_in_the_one_shape(
    method: str, path: str, status: int, code: str, allow: str | None
) -> None:
    """Our own 404 and 405 included, and none of it makes a new label."""
    async with open_house() as house:
        reply = await house.get(path, method)
        assert (reply.status, reply.error["code"], reply.headers.get("allow")) == (status, code, allow)
        assert reply.headers["x-request-id"]
        assert house.count("requests_total", outcome="client_error", code=str(status)) == 1
        assert house.count("requests_total", route="other") == (1 if status == 404 else 0)


async def test_an_upgrade_is_refused_clearly() -> None:
    """A WebSocket client learns why."""
    async with open_house(Engine("e")) as house:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await house.http.ws_connect(house.balancer.url + "/v1/realtime")
        assert refused.value.status == 400
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert (await house.get("/v1/models", headers=upgrade)).error["code"] == "upgrade_not_supported"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NOT HTTP AT ALL\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_broken_http_gets_our_error_body_and_no_more(request_bytes: bytes) -> None:
    """Neither HTML nor a traceback, and the connection is closed."""
    async with open_house() as house:
        answer = await raw(house, request_bytes)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert b"Server: hedgeserve" in head
        assert json.loads(body)["error"]["code"] == "bad_request"


async def test_a_mistake_of_ours_is_a_500_without_a_traceback() -> None:
    """The log has it, the client does not."""

    def broken() -> dict[str, str]:
        raise RuntimeError("a secret of the house")

    balancer = Balancer(make_spec(), Metrics(), ready_checks=broken)
    await balancer.start()
    try:
        async with aiohttp.ClientSession() as http, http.get(f"{balancer.url}/readyz") as response:
            reply = await Reply.read(response)
    finally:
        await balancer.aclose()
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert b"secret" not in reply.body


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    """curl does so with large bodies."""
    async with open_house(Engine("e"), limits={"max_body": "1 KiB"}) as house:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += b"Expect: %s\r\nContent-Length: %d\r\n\r\n"
        small = await raw(house, head % (b"100-continue", 2) + b"{}")
        large = await raw(house, head % (b"100-continue", 2000), until_seen=b"body_too_large")
        other = await raw(house, head % (b"something", 2), until_seen=b"expectation_failed")
        assert small.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert large.startswith(b"HTTP/1.1 413 ")
        assert other.startswith(b"HTTP/1.1 417 ")


async def test_an_old_client_gets_its_stream_without_chunks() -> None:
    """HTTP/1.0 knows no chunked bodies: the end of the connection is the end of the answer."""
    async with open_house(Engine("e")) as house:
        body = b'{"stream": true}'
        answer = await raw(
            house, b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert answer.partition(b"\r\n\r\n")[2] == WHOLE_STREAM


# Keys


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic right"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer right"}, 200),
        ({"Authorization": "bearer right"}, 200),
        ({"Authorization": "Bearer other"}, 200),
        ({"X-Api-Key": "right"}, 200),
        ({"Authorization": "Bearer right\u00e9"}, 401),
    ],
)
async def test_only_holders_of_a_key_are_served(headers: dict[str, str], status: int) -> None:
    """On every path that asks for one; a wrong key is answered before the body is looked at."""
    async with open_house(Engine("e"), api_keys=frozenset({"right", "other"})) as house:
        for path, method, body in ((CHAT, "POST", b"{}"), ("/v1/models", "GET", None)):
            reply = await house.get(path, method, data=body, headers=headers)
            assert reply.status == status
            if status == 401:
                assert reply.error["code"] == "invalid_api_key"
                assert reply.headers["www-authenticate"] == "Bearer"


async def test_checks_need_no_key_and_metrics_none_on_this_machine() -> None:
    """Load balancers and scrapers have no keys."""
    async with open_house(Engine("e"), api_keys=frozenset({"right"})) as house:
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            assert (await house.get(path)).status == 200


async def test_metrics_are_not_for_whoever_a_proxy_on_this_machine_speaks_for() -> None:
    """To us such a request comes from here; the proxy's headers tell that it does not."""
    async with open_house(Engine("e"), api_keys=frozenset({"right"})) as house:
        for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
            assert (await house.get("/metrics", headers={name: "203.0.113.9"})).status == 401
            headers = {name: "203.0.113.9", "Authorization": "Bearer right"}
            assert (await house.get("/metrics", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("remote", "keys", "sent", "status"),
    [
        ("203.0.113.7", {"k"}, "k", 200),
        ("203.0.113.7", {"k"}, "", 401),
        ("203.0.113.7", set(), "", 403),
        ("2001:db8::7", set(), "", 403),
        ("::1", {"k"}, "", 200),
        ("::ffff:127.0.0.1", {"k"}, "", 200),
        ("::ffff:203.0.113.7", {"k"}, "", 401),
    ],
)
async def test_metrics_are_for_this_machine_or_for_a_key(
    monkeypatch: pytest.MonkeyPatch, remote: str, keys: set[str], sent: str, status: int
) -> None:
    """Requests really come over loopback here; they are made to say that they came from elsewhere."""
    monkeypatch.setattr(Edge, "peer", property(lambda edge: remote))
    headers = {"Authorization": f"Bearer {sent}"} if sent else {}
    async with open_house(api_keys=frozenset(keys)) as house:
        assert (await house.get("/metrics", headers=headers)).status == status


async def test_checks_are_answered_one_after_the_other_on_one_connection() -> None:
    """A load balancer asks every second: it need not connect anew each time, and may ask ahead."""
    ask = b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n"
    async with open_house() as house:
        answers = await raw(
            house,
            ask % (b"/livez", b"") + ask % (b"/nothing", b"") + ask % (b"/v1/models", b"Connection: close\r\n"),
        )
    assert [answers.count(b"HTTP/1.1 %d " % status) for status in (200, 404)] == [2, 1]
    assert answers.count(b"Connection: close") == 1


async def test_an_error_that_answers_head_has_no_body() -> None:
    """Its length is said all the same; the next answer on the connection begins right behind the head."""
    async with open_house() as house:
        answer = await raw(house, b"HEAD /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"Content-Length: 0" not in head
    assert body == b""


# Checks


async def test_health_says_whether_a_replica_is_ready() -> None:
    """In vLLM's shape: 200 and nothing, or 503."""
    async with open_house() as house, Engine("e") as engine:
        assert (await house.get("/health")).status == 503
        house.show(engine)
        reply = await house.get("/health")
        assert (reply.status, reply.body) == (200, b"")
        house.show(engine.target(accepting=False))
        assert (await house.get("/health")).status == 503


async def test_readiness_is_being_able_to_take_traffic_not_having_a_replica() -> None:
    """Requests may wait: only without a line does a missing replica fail the check."""
    async with open_house() as house:
        reply = await house.get("/readyz")
        assert (reply.status, reply.json["status"], reply.json["failing"]) == (200, "ready", {})
    async with open_house(limits={"max_queue": 0}) as house:
        reply = await house.get("/readyz")
        assert reply.status == 503
        assert list(reply.json["failing"]) == ["queue"]


async def test_readiness_lists_what_fails() -> None:
    """The checks of the rest of the house are among them."""
    checks = {"journal": "the disk is full", "control_loop": ""}
    balancer = Balancer(make_spec(), Metrics(), ready_checks=lambda: checks)
    await balancer.start()
    try:
        async with aiohttp.ClientSession() as http, http.get(f"{balancer.url}/readyz") as response:
            reply = await Reply.read(response)
    finally:
        await balancer.aclose()
    assert reply.status == 503
    assert reply.json == {
        "status": "failing",
        "failing": {"journal": "the disk is full"},
        "passing": ["control_loop", "accepting", "queue"],
    }


async def test_models_are_listed_whether_or_not_a_replica_runs() -> None:
    """Name and aliases, in OpenAI's shape; one by one too, and to HEAD without a body."""
    async with open_house(model={"id": "org/model", "aliases": ["short"], "engine": "demo"}) as house:
        listed = (await house.get("/v1/models")).json
        assert [model["id"] for model in listed["data"]] == ["org/model", "short"]
        assert {model["object"] for model in listed["data"]} == {"model"}
        assert (await house.get("/v1/models/org/model")).json["id"] == "org/model"
        assert (await house.get("/v1/models/org%2Fmodel")).json["id"] == "org/model"
        head = await house.get("/v1/models", "HEAD")
        assert (head.status, head.body) == (200, b"")


async def test_metrics_show_the_load_of_this_moment() -> None:
    """Asked at the time of the scrape, over HTTP."""
    engine = Engine("e").then(when_told)
    async with open_house(engine, limits={"max_concurrent_per_replica": 1}) as house:
        asking = [asyncio.create_task(house.ask()) for _ in range(2)]
        await until(lambda: engine.running == 1 and house.balancer.load().queued == 1)
        text = (await house.get("/metrics")).body.decode()
        assert "hedgeserve_inflight_requests 1.0" in text
        assert "hedgeserve_queue_depth 1.0" in text
        engine.gate.set()
        await asyncio.gather(*asking)


async def test_each_request_is_one_line_in_the_log_and_tells_no_secret() -> None:
    """Who answered, how it ended, how long it took; neither the key nor what was said."""
    async with open_house(Engine("e"), api_keys=frozenset({"top-secret"})) as house:
        with capture_logs() as logs:
            await house.get(
                CHAT,
                "POST",
                data=b'{"stream": true, "messages": "private words"}',
                headers={"Authorization": "Bearer top-secret", "X-Request-Id": "r-1"},
            )
            await until(lambda: any(log["event"] == "request" for log in logs))
    (line,) = (log for log in logs if log["event"] == "request")
    assert line["log_level"] == "debug"
    told = {key: line[key] for key in ("request_id", "route", "status", "outcome", "replica", "attempts")}
    assert told == {
        "request_id": "r-1",
        "route": CHAT,
        "status": 200,
        "outcome": "ok",
        "replica": "e",
        "attempts": 1,
    }
    assert 0 <= line["ttft_s"] <= line["duration_s"]
    assert "secret" not in str(logs)
    assert "private" not in str(logs)


async def test_a_request_that_did_not_end_well_is_in_the_log_by_default() -> None:
    """Those that did are for debugging, since a line costs as much as a third of a request."""
    async with open_house(Engine("e")) as house:
        with capture_logs() as logs:
            await house.ask()
            await house.ask(model="another")
    told = [(log["log_level"], log["status"]) for log in logs if log["event"] == "request"]
    assert told == [("debug", 200), ("info", 404)]


# Start and end


async def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    """The stream under way ends well; a newcomer is sent elsewhere, on a connection that is then closed."""
    engine = Engine("e").then(when_told)
    async with open_house(engine) as house:
        running = asyncio.create_task(house.ask(stream=True))
        await until(lambda: engine.running == 1)
        draining = asyncio.create_task(house.balancer.drain(10))
        await asyncio.sleep(0)
        reply = await house.ask()
        assert (reply.status, reply.error["code"]) == (503, "shutting_down")
        assert reply.headers["connection"] == "close"
        assert int(reply.headers["retry-after"]) > 0
        ready = await house.get("/readyz")
        assert (ready.status, ready.json["failing"]) == (503, {"accepting": "the service is stopping"})
        assert (await house.get("/livez")).status == 200
        engine.gate.set()
        assert await draining == 0
        assert (await running).body == WHOLE_STREAM


async def test_draining_gives_up_after_its_time_and_says_how_many_are_left() -> None:
    """Two requests hang; the end comes all the same, and at once."""
    engine = Engine("e").then(silent, silent)
    async with open_house(engine) as house:
        asking = [asyncio.create_task(house.ask()) for _ in range(2)]
        await until(lambda: engine.running == 2)
        assert await house.balancer.drain(0.05) == 2
        await house.balancer.aclose()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientError) for result in results)
        await until(lambda: engine.running == 0)
        assert house.balancer.load().in_flight == 0


async def test_a_request_that_waits_is_served_while_draining() -> None:
    """It was taken in before: it is one of those to be finished."""
    async with open_house() as house, Engine("e") as engine:
        waiting = asyncio.create_task(house.ask())
        await until(lambda: house.balancer.load().queued == 1)
        draining = asyncio.create_task(house.balancer.drain(10))
        await asyncio.sleep(0)
        house.show(engine)
        assert await draining == 0
        assert (await waiting).status == 200


async def test_a_large_answer_reaches_its_client_though_the_service_stops_right_after() -> None:
    """Finished means that the bytes are on their way, not that they are in a buffer of ours."""
    big = b'{"x": "' + b"y" * 6_000_000 + b'"}'

    async def large(engine: Engine, request: web.Request) -> web.StreamResponse:
        return web.Response(body=big, content_type="application/json")

    async with open_house(Engine("e").then(large)) as house:
        asking = asyncio.create_task(house.ask("/v1/embeddings"))
        await until(lambda: house.balancer.load().arrived_total == 1)
        assert await house.balancer.drain(10) == 0
        await house.balancer.aclose()
        assert (await asking).body == big


async def test_closing_frees_the_port_and_may_be_done_twice() -> None:
    """The next instance can listen there at once."""
    async with open_house(Engine("e")) as house:
        await house.ask()
        listen = urlsplit(house.balancer.url).netloc
        await house.balancer.aclose()
        await house.balancer.aclose()
        async with open_house(service={"listen": listen}) as next_house:
            assert next_house.balancer.url == f"http://{listen}"


async def test_an_address_in_use_is_said_with_what_to_do() -> None:
    """The first thing that goes wrong on many a machine."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=rf"{address} is in use .* service\.listen"):
            await Balancer(make_spec(service={"listen": address}), Metrics()).start()


async def test_an_address_of_another_machine_is_said_to_be_one() -> None:
    """With what can be written in its place."""
    with pytest.raises(ListenError, match=r"no address of this machine.*127\.0\.0\.1"):
        await Balancer(make_spec(service={"listen": "192.0.2.1:0"}), Metrics()).start()


async def test_the_url_of_a_service_on_all_addresses_works_here() -> None:
    """What is printed can be clicked."""
    async with open_house(service={"listen": "0.0.0.0:0"}) as house:
        assert house.balancer.url.startswith("http://127.0.0.1:")
        assert (await house.get("/livez")).status == 200


# Docs


def test_every_error_code_and_path_has_its_place_in_the_docs() -> None:
    """A code that a client meets can be looked up, with its status and type."""
    text = DOCS.read_text()
    rows = set(re.findall(r"^### `(\w+)`\n\n(\d+), `(\w+)`\.", text, re.MULTILINE))
    assert rows == {(code.code, str(code.status), code.kind) for code in Code}
    for path in (*FORWARDED, *OWN):
        assert f"`{path}`" in text
