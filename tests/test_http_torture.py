"""HTTP that is broken, hostile, slow or merely odd, against a real balancer on a real socket.

What must hold each time: the engine sees exactly the requests that it should, the client reads an error of ours
and not a reset, and nothing is left over.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.upstreams import CHAT, WHOLE_STREAM, Engine, House, event, open_house, silent, until

BODY = b'{"model": "demo", "messages": [], "max_tokens": 8}'


def post(body: bytes = BODY, *, headers: bytes = b"", path: str = CHAT, framing: bytes | None = None) -> bytes:
    framing = b"Content-Length: %d\r\n" % len(body) if framing is None else framing
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%b%b\r\n%b" % (path.encode(), framing, headers, body)


SMUGGLED = post(b'{"model": "demo", "max_tokens": 1, "smuggled": true}')


@asynccontextmanager
async def connected(house: House) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    address = urlsplit(house.balancer.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def say(house: House, data: bytes) -> bytes:
    """All that comes back until the other side closes; a reset before that fails the test."""
    async with connected(house) as (reader, writer):
        writer.write(data)
        return await reader.read()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer with a Content-Length, or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(lines[0].split()[1]), headers, body


def nothing_is_left(house: House) -> bool:
    load = house.balancer.load()
    return (load.in_flight, load.queued, house.count("client_connections")) == (0, 0, 0)


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


# What cannot be read in two ways

SMUGGLERS = {
    "both lengths": post(
        framing=b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "both the other way round": post(
        framing=b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two lengths": post(framing=b"Content-Length: 50\r\nContent-Length: 5\r\n", body=BODY + SMUGGLED),
    "a length with a sign": post(framing=b"Content-Length: +50\r\n", body=BODY + SMUGGLED),
    "a length in hex": post(framing=b"Content-Length: 0x32\r\n", body=BODY + SMUGGLED),
    "a length with a comma": post(framing=b"Content-Length: 50, 50\r\n", body=BODY + SMUGGLED),
    "an encoding that is none": post(framing=b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n" + SMUGGLED),
    "an encoding behind chunked": post(
        framing=b"Transfer-Encoding: chunked, identity\r\n", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "a folded header": post(framing=b"Transfer-Encoding:\r\n chunked\r\n", body=b"0\r\n\r\n" + SMUGGLED),
    "a space before the colon": post(framing=b"Content-Length : 50\r\n", body=BODY + SMUGGLED),
    "a bare line feed": b"POST " + CHAT.encode() + b" HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + SMUGGLED,
    "a bare carriage return": post(headers=b"X: a\rContent-Length: 0\r\n") + SMUGGLED,
    "a NUL": post(headers=b"X: a\0b\r\n") + SMUGGLED,
    "no host": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + SMUGGLED,
    "two hosts": post(headers=b"Host: y\r\n") + SMUGGLED,
    "a size that is none": post(framing=b"Transfer-Encoding: chunked\r\n", body=b"-1\r\n\r\n" + SMUGGLED),
    "a chunk longer than it says": post(
        framing=b"Transfer-Encoding: chunked\r\n", body=b"2\r\n{}smuggle\r\n0\r\n\r\n" + SMUGGLED
    ),
    "a method in lower case": post().replace(b"POST", b"post", 1) + SMUGGLED,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "nonsense": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + SMUGGLED,
}


@pytest.mark.parametrize("request_bytes", SMUGGLERS.values(), ids=SMUGGLERS)
async def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(request_bytes: bytes) -> None:
    """The engine sees nothing of it, and nothing of the request that was hidden behind it."""
    engine = Engine("e")
    async with open_house(engine) as house:
        answer = await say(house, request_bytes)
        assert error_of(answer) == (400, "bad_request")
        assert b"Connection: close" in answer
        assert [seen for seen in engine.seen if b"smuggled" in seen.body] == []
        assert engine.seen == []
        await until(lambda: nothing_is_left(house))


@pytest.mark.parametrize("method", ["CONNECT x:1", "OPTIONS *", "HEAD " + CHAT, "PUT " + CHAT, "TRACE /"])
async def test_other_methods_reach_no_engine(method: str) -> None:
    """An error of ours."""
    engine = Engine("e")
    async with open_house(engine) as house:
        answer = await say(house, f"{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert 400 <= int(answer.split()[1]) < 500
        assert engine.seen == []


async def test_an_absolute_target_is_the_same_request() -> None:
    """As clients of a forward proxy write it."""
    engine = Engine("e")
    async with open_house(engine) as house, connected(house) as (reader, writer):
        writer.write(post(path=f"http://elsewhere:99{CHAT}?a=1"))
        status, _, _ = await read_answer(reader)
        assert (status, engine.seen[0].path) == (200, f"{CHAT}?a=1")


# Bounds


async def test_a_head_that_is_too_large_is_refused_and_the_refusal_can_be_read() -> None:
    """In one header, in many, in the target, and without ever ending."""
    engine = Engine("e")
    async with open_house(engine, limits={"max_head": "8 KiB"}) as house:
        many = b"".join(b"X-%d: y\r\n" % number for number in range(2000))
        for request in (
            post(headers=b"X: " + b"y" * 9000 + b"\r\n"),
            post(headers=many),
            post(path=CHAT + "?" + "q" * 9000),
            b"POST " + CHAT.encode() + b" HTTP/1.1\r\nX: " + b"y" * 500_000,
        ):
            assert error_of(await say(house, request)) == (431, "headers_too_large")
        assert engine.seen == []


async def test_a_head_that_comes_too_slowly_is_given_up() -> None:
    """A byte now and then keeps no connection open (slow loris)."""
    async with open_house(Engine("e"), timeouts={"request_head": "300ms"}) as house:
        async with connected(house) as (reader, writer):
            answer = asyncio.create_task(reader.read())
            for byte in post()[:200]:
                if answer.done():
                    break
                writer.write(bytes([byte]))
                await asyncio.wait({answer}, timeout=0.05)
            assert error_of(await answer) == (408, "request_timeout")
        await until(lambda: nothing_is_left(house))


async def test_a_head_in_single_bytes_is_a_head() -> None:
    """However it is cut."""
    engine = Engine("e")
    async with open_house(engine) as house, connected(house) as (reader, writer):
        for byte in post(
            framing=b"Transfer-Encoding: chunked\r\n", body=b"32;x=y\r\n" + BODY + b"\r\n0\r\nT: 1\r\n\r\n"
        ):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        status, _, _ = await read_answer(reader)
        assert (status, engine.seen[0].body) == (200, BODY)


async def test_a_body_without_a_length_is_bounded_too() -> None:
    """Chunks for ever: refused as soon as there are too many, and the refusal can be read."""
    async with (
        open_house(Engine("e"), limits={"max_body": "10 KiB"}) as house,
        connected(house) as (reader, writer),
    ):
        writer.write(post(framing=b"Transfer-Encoding: chunked\r\n", body=b"400\r\n" + b"x" * 1024 + b"\r\n"))
        for _ in range(100):
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert error_of(await reader.read()) == (413, "body_too_large")


# Requests one after the other, and ahead of their time


async def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    """Twenty at once, and a check among them."""
    engine = Engine("e")
    async with open_house(engine) as house, connected(house) as (reader, writer):
        bodies = [b'{"model": "demo", "max_tokens": 8, "number": %d}' % number for number in range(20)]
        writer.write(b"".join(map(post, bodies)) + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + post())
        for _ in bodies:
            assert (await read_answer(reader))[0] == 200
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)) == (200, {"status": "alive"})
        assert (await read_answer(reader))[0] == 200
        assert [seen.body for seen in engine.seen] == [*bodies, BODY]


async def test_too_many_requests_ahead_are_not_taken() -> None:
    """A client that floods is not remembered without bound, and the last answer says that it is the last."""
    engine = Engine("e")
    async with open_house(engine) as house, connected(house) as (reader, writer):
        writer.write(post() * 200)
        answers = (await reader.read()).split(b"HTTP/1.1 200 OK")[1:]
        assert len(answers) == len(engine.seen) < 100
        assert [b"Connection: close" in answer for answer in answers] == [False] * (len(answers) - 1) + [True]


async def test_a_broken_request_behind_a_good_one_does_not_spoil_it() -> None:
    """The good one is answered; then the connection ends."""
    engine = Engine("e")
    async with open_house(engine) as house:
        answer = await say(house, post() + b"BROKEN\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert len(engine.seen) == 1


async def test_a_connection_lives_on_after_an_error_whose_request_was_read() -> None:
    """A wrong model, then a right one, on the same connection."""
    async with open_house(Engine("e")) as house, connected(house) as (reader, writer):
        writer.write(post(b'{"model": "other"}'))
        assert (await read_answer(reader))[0] == 404
        writer.write(post())
        assert (await read_answer(reader))[0] == 200


async def test_the_same_head_with_another_body_is_another_request() -> None:
    """A head that is recognised brings nothing of the old request along."""
    engine = Engine("e")
    async with open_house(engine, api_keys=frozenset({"k"})) as house, connected(house) as (reader, writer):
        for number in range(5):
            body = b'{"model": "demo", "max_tokens": 8, "number": %d}' % number
            writer.write(post(body, headers=b"Authorization: Bearer k\r\n"))
            status, _, _ = await read_answer(reader)
            assert status == 200
            assert engine.seen[-1].body == body
        assert len({seen.headers["x-request-id"] for seen in engine.seen}) == 5
        writer.write(
            post(b'{"model": "demo", "max_tokens": 8, "number": 9}', headers=b"Authorization: Bearer x\r\n")
        )
        assert (await read_answer(reader))[0] == 401


# Expect


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(b"", framing=b"Content-Length: 99999999\r\nExpect: 100-continue\r\n"), 413),
        (post(headers=b"Expect: the-unexpected\r\n"), 417),
    ],
)
async def test_an_expectation_that_cannot_be_met_is_refused_before_the_body(
    request_bytes: bytes, status: int
) -> None:
    """The client need not send it."""
    async with open_house(Engine("e")) as house:
        answer = await say(house, request_bytes)
        assert (error_of(answer)[0], b"100 Continue" in answer) == (status, False)


async def test_an_old_client_is_not_told_to_continue() -> None:
    """HTTP/1.0 knows no 100."""
    async with open_house(Engine("e")) as house:
        answer = await say(house, post(headers=b"Expect: 100-continue\r\n").replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        assert answer.startswith(b"HTTP/1.0 200 OK")


# Clients that leave


@pytest.mark.parametrize("sent", [b"", post()[:20], post()[:-10], post()], ids=["nothing", "head", "body", "all"])
@pytest.mark.parametrize("half", [False, True], ids=["closes", "closes its half"])
async def test_a_client_that_leaves_takes_everything_along(sent: bytes, half: bool) -> None:
    """At every stage; only shutting its sending half is leaving, too."""
    engine = Engine("e").then(silent)
    async with open_house(engine) as house:
        async with connected(house) as (_, writer):
            writer.write(sent)
            await until(lambda: house.count("client_connections") == 1)
            if sent == post():
                await until(lambda: engine.running == 1)
            if half:
                writer.write_eof()
            else:
                writer.transport.abort()
            await until(lambda: nothing_is_left(house))
        await until(lambda: engine.running == 0)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_it() -> None:
    """The engine hears of it at once."""

    async def endless(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(event("more "))
            await asyncio.sleep(0.005)

    engine = Engine("e").then(endless)
    async with open_house(engine) as house:
        async with connected(house) as (reader, writer):
            writer.write(post(BODY[:-1] + b', "stream": true}'))
            await reader.readuntil(b"more ")
        await until(lambda: engine.running == 0 and nothing_is_left(house))


# Slow readers


async def test_slow_readers_cost_little_and_harm_nobody() -> None:
    """Thirty clients ask for long streams and read nothing: the engine is slowed down, and what is held for each
    of them is bounded by the buffers of a connection."""
    sent = 0

    async def torrent(engine: Engine, request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(event("x" * 40_000))
            sent += 40_000
        return response

    slow = 30
    engine = Engine("e").then(*[torrent] * slow)
    async with open_house(engine, limits={"max_concurrent_per_replica": 1000}) as house:
        address = urlsplit(house.balancer.url)
        writers = []
        for _ in range(slow):
            _, writer = await asyncio.open_connection(address.hostname, address.port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(post(BODY[:-1] + b', "stream": true}'))
            writers.append(writer)
        await until(lambda: engine.running == slow)
        before = -1
        while sent != before:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.3)
        held = sum(edge._transport.get_write_buffer_size() for edge in house.balancer._server.connections())
        assert held <= slow * 400_000
        assert sent < slow * 1000 * 40_000 / 2
        assert (await house.ask(stream=True)).body == WHOLE_STREAM
        for writer in writers:
            writer.transport.abort()
        await until(lambda: engine.running == 0 and house.balancer.load().in_flight == 0)


# Fuzzing

SEEDS = [
    *SMUGGLERS.values(),
    post(),
    post(framing=b"Transfer-Encoding: chunked\r\n", body=b"2\r\n{}\r\n0\r\n\r\n"),
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    post() * 3,
]
ATOMS = [b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b"0", b"chunked", b"Content-Length: 5\r\n", b"\xff" * 9]


def mutated(dice: random.Random) -> bytes:
    data = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(data) + 1)
        match dice.randrange(4):
            case 0:
                data[place:place] = dice.choice(ATOMS)
            case 1:
                del data[place : place + dice.randrange(1, 9)]
            case 2 if place < len(data):
                data[place] = dice.randrange(256)
            case _:
                data[place:place] = data[dice.randrange(len(data) + 1) :][: dice.randrange(60)]
    return bytes(data)


async def test_no_sequence_of_bytes_upsets_it() -> None:
    """Mutated requests, cut anywhere, for some seconds (HEDGESERVE_FUZZ_SECONDS): no exception, every body that an
    engine sees is JSON that was sent whole, and a good request is answered at the end."""
    seconds = float(os.environ.get("HEDGESERVE_FUZZ_SECONDS", "3"))
    dice = random.Random(os.environ.get("HEDGESERVE_FUZZ_SEED", "1"))
    upset: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: upset.append(context))
    engine = Engine("e")
    rounds = 0
    async with open_house(engine, timeouts={"request_head": "500ms"}) as house:
        end_s = time.monotonic() + seconds

        async def one() -> None:
            data = mutated(dice)
            async with connected(house) as (reader, writer):
                place = dice.randrange(len(data) + 1)
                writer.write(data[:place])
                await asyncio.sleep(0)
                writer.write(data[place:])
                if dice.random() < 0.7:
                    writer.write_eof()
                try:
                    async with asyncio.timeout(2):
                        await reader.read()
                except (TimeoutError, ConnectionError):
                    pass

        while time.monotonic() < end_s:
            await asyncio.gather(*(one() for _ in range(20)))
            rounds += 20
            for seen in engine.seen:
                assert isinstance(json.loads(seen.body), dict)
            engine.seen.clear()
        assert upset == []
        assert (await house.ask()).status == 200
    print(f"{rounds} hostile connections")
