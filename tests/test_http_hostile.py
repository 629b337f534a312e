"""Clients that smuggle, stutter, dawdle, flood and leave: each gets what it deserves, and nobody else suffers."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from hedgeserve.machines.authority import Authority
from hedgeserve.proxy import edge
from tests.callers import LOOPS, Caller, LoopFactory, Stage, run_on, stage
from tests.upstreams import (
    CHAT,
    WHOLE_STREAM,
    Behaviour,
    Engine,
    Seen,
    event,
    silent,
    streams,
    until,
    when_told,
)

PATH = "/v1/embeddings"
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"POST /v1/completions?smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def post(body: bytes = b"{}", lines: bytes = b"", path: bytes = b"/v1/embeddings") -> bytes:
    """A good request."""
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, lines, len(body), body)


def stream() -> bytes:
    return post(b'{"stream": true}', path=CHAT.encode())


def numbered(number: int) -> bytes:
    return post(b'{"user": "%d"}' % number, b"X-Request-Id: r-%d\r\n" % number)


def users(seen: list[Seen]) -> list[str]:
    return [json.loads(each.body)["user"] for each in seen]


async def answers_well(it: Stage) -> None:
    """Whatever happened before: a good request on a connection of its own is answered."""
    caller = await it.call()
    assert (await caller.ask(post())).status == 200


# What two servers might read differently

REFUSED = {
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths, equal": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 80\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length with a space": POST + b"Content-Length: 2 0\r\n\r\n{}",
    "a length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length with a point": POST + b"Content-Length: 2.0\r\n\r\n{}",
    "a length that is none": POST + b"Content-Length:\r\n\r\n{}",
    "a length past all numbers": POST + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "a length before a space and a colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "identity, then chunked": POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then identity": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "gzip and chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked after a tab that is none": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "an encoding that is none": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "an encoding on the next line": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "an encoding before a space and a colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks of an old client": b"POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk in signed hex": CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk in 0x": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk with a space": CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n",
    "a chunk past all numbers": CHUNKED + b"f" * 17 + b"\r\n{}",
    "a chunk after a bare LF": CHUNKED + b"2\n{}\r\n0\r\n\r\n",
    "a chunk before a bare LF": CHUNKED + b"2\r\n{}\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"2\r\n{} \r\n0\r\n\r\n",
    "an extension with a bare LF": CHUNKED + b"2;a\n0\r\n\r\n",
    "a folded header": POST + b"A: b\r\n c\r\n\r\n",
    "a folded first header": b"POST /v1/completions HTTP/1.1\r\n Host: x\r\n\r\n",
    "a bare LF": POST + b"A: b\nContent-Length: 2\r\n\r\n{}",
    "bare LFs alone": b"POST /v1/completions HTTP/1.1\nHost: x\nContent-Length: 2\n\n{}",
    "a bare CR": POST + b"A: b\rContent-Length: 2\r\n\r\n{}",
    "a NUL in a value": POST + b"A: b\0c\r\n\r\n",
    "a NUL in a name": POST + b"A\0: b\r\n\r\n",
    "a NUL in the target": b"POST /v1/completions\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in a name": POST + b"A B: c\r\n\r\n",
    "no name": POST + b": c\r\n\r\n",
    "no colon": POST + b"Abc\r\n\r\n",
    "a tab in the target": b"POST /v1/completions?a\tb HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"POST /v1/completions?a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes past ASCII in the target": b"POST /v1/completions?\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority-form": b"POST example.com:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no Host": b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "two Hosts": POST + b"Host: x\r\n\r\n",
    "two Hosts of an old client": b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
    "a method in lower case": b"post /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method nobody knows": b"FETCH /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/2.0 in so many words": b"POST /v1/completions HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"POST /v1/completions HTTP/1.2\r\nHost: x\r\n\r\n",
    "http in lower case": b"POST /v1/completions http/1.1\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 40 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(case: str) -> None:
    """400 in our shape, the connection closed, no replica bothered, and no second request found in the rest."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(REFUSED[case] + SMUGGLED + LIVEZ)
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code, answer.closes) == (400, "bad_request", True)
        assert not engine.seen


@pytest.mark.parametrize("case", ["two lengths", "xchunked", "a chunk in 0x", "a bare CR"])
async def test_what_is_refused_for_its_key_is_not_refused_once_more_for_its_mess(case: str) -> None:
    """One answer, whichever of the two was seen first."""
    engine = Engine("e")
    async with stage(engine, api_keys=frozenset({"k"})) as it:
        caller = await it.call()
        caller.say(REFUSED[case] + SMUGGLED)
        (answer,) = await caller.hear_all()
        assert answer.code in ("bad_request", "invalid_api_key")
        assert not engine.seen


TAKEN = {
    "as it should be": post(),
    "absolute-form": post(path=b"http://elsewhere:99/v1/embeddings"),
    "an empty line before it": b"\r\n\r\n" + post(),
    "two spaces": post().replace(b"POST ", b"POST  ", 1),
    "chunks": CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
    "chunks in capitals": CHUNKED.replace(b"chunked", b"Chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    "chunks of a byte": CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "chunks with extensions": CHUNKED + b'1;a=b\r\n{\r\n01;c="d e"\r\n}\r\n0;x\r\n\r\n',
    "a length with a tab behind it": POST + b"Content-Length: 2 \t\r\n\r\n{}",
    "a header of no value": post(lines=b"X-Empty:\r\n"),
    "bytes past ASCII in a value": post(lines=b"X-Odd: \xff\xe9\r\n"),
    "a hundred headers": post(lines=b"".join(b"X-%d: y\r\n" % number for number in range(100))),
    "Upgrade without Connection": post(lines=b"Upgrade: h2c\r\n"),
}


@pytest.mark.parametrize("case", TAKEN)
async def test_what_is_odd_but_clear_is_answered_and_the_connection_goes_on(case: str) -> None:
    """The engine sees one request, framed anew; then the next one on the same connection."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        assert (await caller.ask(TAKEN[case])).status == 200
        assert (await caller.ask(numbered(2))).status == 200
        assert [(seen.path, seen.body) for seen in engine.seen] == [(PATH, b"{}"), (PATH, b'{"user": "2"}')]
        for seen in engine.seen:
            assert int(seen.headers["content-length"]) == len(seen.body)
            assert not {"transfer-encoding", "upgrade", "connection"} & set(seen.headers)


async def test_trailers_are_no_headers() -> None:
    """Whoever checks headers in front of us does not check those."""
    engine = Engine("e")
    trailers = b"X-Priority: urgent\r\nHost: y\r\nAuthorization: Bearer t\r\nX-Request-Id: t\r\nX-T: t\r\n"
    async with stage(engine) as it:
        caller = await it.call()
        answer = await caller.ask(CHUNKED + b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n")
        assert answer.status == 200
        assert not {"x-priority", "authorization", "x-t"} & set(engine.seen[0].headers)
        assert answer.headers["x-request-id"] == engine.seen[0].headers["x-request-id"] != "t"


@pytest.mark.parametrize("endless", [b"X: " + b"y" * 9997 + b"\r\n", b"X" * 10_000])
async def test_endless_trailers_are_refused(endless: bytes) -> None:
    """They count for nothing else, and would fill the memory."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(CHUNKED + b"2\r\n{}\r\n0\r\n" + endless * 100)
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code) == (400, "bad_request")
        assert not engine.seen


async def test_endless_extensions_of_a_chunk_are_refused() -> None:
    """A body that never begins is none."""
    async with stage(Engine("e")) as it:
        caller = await it.call()
        caller.say(CHUNKED + b"2;" + b"x" * 1_000_000)
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code) == (400, "bad_request")


async def test_a_body_in_chunks_of_a_byte_is_taken_in_linear_time_and_room() -> None:
    """Fifty thousand of them: each counted once, and kept together."""
    engine = Engine("e")
    body = b'{"user": "' + b"u" * 50_000 + b'"}'
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body))
        await until(lambda: bool(it.edges) and it.edges[0]._coming and it.edges[0]._coming.body_bytes == len(body))
        assert len(it.edges[0]._coming.body) < 1000
        assert (await caller.ask(b"0\r\n\r\n")).status == 200
        assert engine.seen[0].body == body


# Heads


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_in_single_bytes_is_the_same_request(loop: LoopFactory) -> None:
    """Twice on one connection: head and body alike."""

    async def story() -> None:
        engine = Engine("e")
        async with stage(engine) as it:
            caller = await it.call()
            for request in (numbered(1), CHUNKED + b'd;x=y\r\n{"user": "2"}\r\n0\r\nT: u\r\n\r\n'):
                for byte in request:
                    caller.say(bytes([byte]))
                    await asyncio.sleep(0)
                (answer,) = await caller.hear()
                assert answer.status == 200
            assert users(engine.seen) == ["1", "2"]

    run_on(loop, story())


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/completions?" + b"x" * 70_000 + b" HTTP/1.1\r\n",
        POST + b"X-Big: " + b"x" * 70_000,
        POST + b"".join(b"X-%d: y\r\n" % number for number in range(8000)),
        POST + b"X" * 70_000,
    ],
)
@pytest.mark.parametrize("ended", [True, False])
async def test_a_huge_head_is_refused_whether_or_not_it_ends(head: bytes, ended: bool) -> None:
    """One long line, or very many: 431 (or 400, where it never becomes a line), and closed."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(head + (b"\r\n\r\n" + SMUGGLED if ended else b""))
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code) in ((431, "headers_too_large"), (400, "bad_request"))
        assert not engine.seen


async def test_a_head_that_does_not_come_in_time_is_answered_and_closed() -> None:
    """However busily it trickles in."""
    engine = Engine("e")
    async with stage(engine, timeouts={"request_head": "200ms"}) as it:
        caller = await it.call()
        caller.say(POST)

        async def trickle() -> None:
            while True:
                caller.say(b"X: y\r\n")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        (answer,) = await caller.hear()
        trickling.cancel()
        assert (answer.status, answer.code, answer.closes) == (408, "request_timeout", True)
        assert not engine.seen


async def test_a_head_that_began_behind_another_request_has_its_time_too() -> None:
    """From the end of the answer before it."""
    async with stage(Engine("e"), timeouts={"request_head": "200ms"}) as it:
        caller = await it.call()
        caller.say(post() + POST)
        good, late = await caller.hear_all()
        assert (good.status, late.status, late.code) == (200, 408, "request_timeout")


async def test_a_connection_that_never_asks_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that asks no more."""
    monkeypatch.setattr(edge, "_IDLE_CLIENT_S", 0.2)
    async with stage(Engine("e")) as it:
        mute, once = await it.call(), await it.call()
        assert (await once.ask(post())).status == 200
        assert (await mute.hear_all(), await once.hear_all()) == ([], [])


ABSURD_IDS = [b"", b" ", b"\xff\xfe", b"a b", b"x" * 60_000, b"%0d%0aX: y", b"../../etc", b"{{7*7}}", b"'; --"]


@pytest.mark.parametrize("given", ABSURD_IDS)
async def test_an_absurd_id_goes_nowhere(given: bytes) -> None:
    """Neither to the engine nor back; a sane one of ours does."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        answer = await caller.ask(post(lines=b"X-Request-Id: %b\r\nX-Request-Id: second\r\n" % given))
        assert answer.status == 200
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        assert engine.seen[0].headers["x-request-id"] == answer.headers["x-request-id"]


# Other methods


@pytest.mark.parametrize("behind", [False, True])
async def test_a_websocket_is_refused_in_words(behind: bool) -> None:
    """Also behind a request that is still being answered; what it sends then is not read as requests."""
    engine = Engine("e")
    upgrade = POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    async with stage(engine) as it:
        caller = await it.call()
        caller.say((post() if behind else b"") + upgrade + SMUGGLED)
        *before, refused = await caller.hear_all()
        assert [answer.status for answer in before] == [200] * behind
        assert (refused.status, refused.code) == (400, "upgrade_not_supported")
        assert len(engine.seen) == behind


# Expect


async def test_a_client_that_asks_first_is_told_to_go_on_and_answered() -> None:
    """Once for each request; one behind another when its turn has come."""
    engine = Engine("e").then(when_told)
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(numbered(1) + POST + b"Expect: 100-Continue \r\nContent-Length: 13\r\n\r\n")
        await until(lambda: engine.running == 1)
        engine.gate.set()
        first, go_on = await caller.hear(2)
        assert (first.status, go_on.status) == (200, 100)
        assert (await caller.ask(b'{"user": "2"}')).status == 200
        assert users(engine.seen) == ["1", "2"]


async def test_an_old_client_is_not_told_to_go_on() -> None:
    """HTTP/1.0 knows no 100."""
    async with stage(Engine("e")) as it:
        caller = await it.call()
        caller.say(b"POST /v1/completions HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
        (answer,) = await caller.hear_all()
        assert answer.status == 200


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 99999\r\n", 413, "body_too_large"),
        (b"Expect: a-pony\r\nContent-Length: 2\r\n", 417, "expectation_failed"),
        (b"Expect: 100-continue\r\nContent-Length: 2\r\nContent-Length: 3\r\n", 400, "bad_request"),
    ],
)
async def test_what_will_not_be_taken_is_refused_before_it_is_sent(lines: bytes, status: int, code: str) -> None:
    """No 100: the body never has to be sent."""
    async with stage(Engine("e"), limits={"max_body": "1 KiB"}) as it:
        caller = await it.call()
        caller.say(POST + lines + b"\r\n")
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code, answer.closes) == (status, code, True)


# Bodies


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("framing", ["declared", "chunked"])
def test_a_refusal_reaches_a_client_that_is_still_sending(loop: LoopFactory, framing: str) -> None:
    """Closed at once with bytes unread, the connection would be reset and the answer lost."""

    async def story() -> None:
        engine = Engine("e")
        async with stage(engine, limits={"max_body": "16 KiB"}) as it:
            caller = await it.call()
            if framing == "declared":
                caller.say(POST + b"Content-Length: 8000000\r\n\r\n" + b" " * 8_000_000)
            else:
                caller.say(CHUNKED + (b"3e8\r\n" + b" " * 1000 + b"\r\n") * 8000)
            (answer,) = await caller.hear_all()
            assert (answer.status, answer.code, answer.closes) == (413, "body_too_large", True)
            assert not engine.seen
            await answers_well(it)

    run_on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_refusal_reaches_a_client_that_is_still_sending_by_tls(loop: LoopFactory, tmp_path: Path) -> None:
    """There is no closing of one half there: the answer says its length, and waits to be read."""

    async def story() -> None:
        authority = Authority(tmp_path)
        tls = await authority.issue("localhost", "127.0.0.1")
        shown = {"tls_certificate": str(tmp_path / "c"), "tls_key": str(tmp_path / "k")}
        (tmp_path / "c").write_bytes(tls.certificate)
        (tmp_path / "k").write_bytes(tls.key)
        async with stage(Engine("e"), service=shown, limits={"max_body": "16 KiB"}) as it:
            caller = await it.call(ssl=authority.trust, server_hostname="localhost")
            caller.say(POST + b"Content-Length: 8000000\r\n\r\n" + b" " * 8_000_000)
            (answer,) = await caller.hear()
            assert (answer.status, answer.code, answer.closes) == (413, "body_too_large", True)

    run_on(loop, story())


async def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and no replica has heard of it; one that goes on slowly is waited for."""
    monkeypatch.setattr(edge, "_BODY_STALL_S", 0.3)
    engine = Engine("e")
    async with stage(engine) as it:
        stuck, slow = await it.call(), await it.call()
        for each in (stuck, slow):
            each.say(POST + b"Content-Length: 13\r\n\r\n{")
        hearing = asyncio.create_task(stuck.hear_all())
        for byte in b'"user": "s"}':
            await asyncio.sleep(0.05)
            slow.say(bytes([byte]))
        (good,), (late,) = await slow.hear(), await hearing
        assert (good.status, late.status, late.code) == (200, 408, "request_timeout")
        assert users(engine.seen) == ["s"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (post(b"{"), "invalid_json"),
        (post(b""), "invalid_json"),
        (post(b'{"model": "gpt-9"}'), "model_not_found"),
        (post(lines=b"X-Priority: mine\r\n"), "invalid_value"),
        (CHUNKED + b"1\r\n{\r\n0\r\n\r\n", "invalid_json"),
    ],
)
async def test_after_an_error_the_connection_goes_on_where_the_body_was_read(bad: bytes, code: str) -> None:
    """The next request on it is as good as any."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        for _ in range(2):
            answer = await caller.ask(bad)
            assert (answer.code, answer.closes) == (code, False)
        assert (await caller.ask(numbered(1))).status == 200
        assert users(engine.seen) == ["1"]


async def test_after_an_error_the_connection_is_closed_where_the_body_was_not_read() -> None:
    """A wrong key is seen in the head: whether what follows is a body is not to be guessed."""
    engine = Engine("e")
    async with stage(engine, api_keys=frozenset({"k"})) as it:
        caller = await it.call()
        caller.say(post(SMUGGLED) + numbered(1))
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code, answer.closes) == (401, "invalid_api_key", True)
        assert not engine.seen


# Sent ahead


@pytest.mark.parametrize("loop", LOOPS)
def test_requests_sent_ahead_are_answered_in_order(loop: LoopFactory) -> None:
    """Forty in one go, each for a replica; one at a time, each answer the one that belongs to it."""

    async def story() -> None:
        engine = Engine("e")
        async with stage(engine) as it:
            caller = await it.call()
            caller.say(b"".join(numbered(number) for number in range(40)))
            answers = await caller.hear(40)
            assert [answer.headers["x-request-id"] for answer in answers] == [f"r-{n}" for n in range(40)]
            assert users(engine.seen) == [str(number) for number in range(40)]
            assert engine.most_running == 1
            assert (await caller.ask(numbered(40))).status == 200

    run_on(loop, story())


async def test_far_too_many_at_once_are_answered_in_part_and_the_rest_is_known_to_be_unread() -> None:
    """The last answer says that it is: whoever sent more knows what to send again, and none was half done."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(b"".join(numbered(number) for number in range(1000)))
        answers = await caller.hear_all()
        assert [answer.closes for answer in answers] == [False] * (len(answers) - 1) + [True]
        assert users(engine.seen) == [str(number) for number in range(len(answers))]
        assert 10 <= len(answers) < 1000


@pytest.mark.parametrize("mess", [b"\x00\x01 garbage\r\n\r\n", REFUSED["two lengths"], REFUSED["a chunk in 0x"]])
async def test_a_mess_behind_good_requests_is_refused_in_its_turn(mess: bytes) -> None:
    """What came before it is answered, all of it; what comes after is not read."""
    engine = Engine("e").then(when_told)
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(numbered(1) + numbered(2) + mess + SMUGGLED)
        await until(lambda: engine.running == 1)
        engine.gate.set()
        *good, bad = await caller.hear_all()
        assert [answer.status for answer in good] == [200, 200]
        assert (bad.status, bad.code, bad.closes) == (400, "bad_request", True)
        assert users(engine.seen) == ["1", "2"]


@pytest.mark.parametrize(
    ("behind", "status"),
    [
        (CHUNKED + b"fff\r\n" + b" " * 4095 + b"\r\n" + b"fff\r\n", 413),
        (CHUNKED + b"fff\r\n" + b" " * 4095 + b"\r\n0\r\n\r\n", 413),
        (POST + b"Content-Length: 5000\r\n\r\n", 413),
        (POST + b"X: " + b"y" * 5000, 431),
        (POST + b"X: " + b"y" * 5000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_too_large_behind_a_good_request_is_refused_in_its_turn(behind: bytes, status: int) -> None:
    """Whether or not the end of it had come by then."""
    engine = Engine("e").then(when_told)
    async with stage(engine, limits={"max_body": "1 KiB", "max_head": "2 KiB"}) as it:
        caller = await it.call()
        caller.say(numbered(1))
        await until(lambda: engine.running == 1)
        caller.say(behind)
        await until(lambda: it.edges[0]._leaving or bool(it.edges[0]._ahead) or it.edges[0]._coming is not None)
        engine.gate.set()
        good, bad = await caller.hear_all()
        assert (good.status, bad.status, bad.closes) == (200, status, True)
        assert users(engine.seen) == ["1"]


async def test_errors_and_answers_come_in_the_order_of_their_requests() -> None:
    """Those that need no replica do not overtake."""
    engine = Engine("e").then(when_told)
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(numbered(1) + post(b"{") + numbered(2) + post(b'{"model": "x"}') + numbered(3))
        await until(lambda: engine.running == 1)
        engine.gate.set()
        assert [answer.status for answer in await caller.hear(5)] == [200, 400, 200, 404, 200]
        assert users(engine.seen) == ["1", "2", "3"]


async def big_answer(engine: Engine, request: web.Request) -> web.StreamResponse:
    return web.Response(body=b'{"x": "' + b"y" * 6_000_000 + b'"}', content_type="application/json")


# Clients that do not read


async def test_a_client_that_floods_without_reading_is_not_read_from() -> None:
    """Each of its requests is answered at once, and none of the answers is fetched: they must not pile up."""
    async with stage(Engine("e")) as it:
        caller = await it.call(limit=2**12)
        flood = post(b"{") * 1000

        async def pour() -> None:
            while True:
                caller.say(flood)
                await caller.writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pour(), 0.5)
        (edge_,) = it.edges
        assert edge_._transport.get_write_buffer_size() < 2 * 2**20
        caller.reset()


async def test_a_client_that_never_fetches_its_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is whole, and on its way for ever: after a while without a byte read, the connection is cut."""
    monkeypatch.setattr(edge, "_IDLE_CLIENT_S", 0.2)
    async with stage(Engine("e").then(big_answer)) as it:
        caller = await it.call(limit=2**12)
        caller.say(post(path=b"/v1/embeddings"))
        await until(lambda: it.house.balancer.load().arrived_total == 1)
        await until(lambda: not it.edges)


async def test_a_client_that_reads_slowly_gets_all_of_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a connection may be idle: it is not idle."""
    monkeypatch.setattr(edge, "_IDLE_CLIENT_S", 0.2)
    async with stage(Engine("e").then(big_answer)) as it:
        caller = await it.call(limit=2**16)
        caller.say(post(path=b"/v1/embeddings", lines=b"Connection: close\r\n"))
        told = b""
        for _ in range(15):
            told += await caller.reader.readexactly(150_000)
            await asyncio.sleep(0.05)
        told += await asyncio.wait_for(caller.reader.read(), 5)
        assert len(told.partition(b"\r\n\r\n")[2]) == 6_000_009


# Leaving


async def half_a_head(it: Stage, caller: Caller) -> None:
    caller.say(POST)
    await until(lambda: any(each._coming for each in it.edges))


async def half_a_body(it: Stage, caller: Caller) -> None:
    caller.say(POST + b"Content-Length: 99\r\n\r\n{")
    await until(lambda: any(each._coming and each._coming.body for each in it.edges))


async def waiting_in_line(it: Stage, caller: Caller) -> None:
    it.house.show()
    caller.say(post())
    await until(lambda: it.house.balancer.load().queued == 1)


async def waiting_for_an_answer(it: Stage, caller: Caller) -> None:
    caller.say(post())
    await until(lambda: it.house.balancer.load().in_flight == 1)


async def in_the_middle_of_a_stream(it: Stage, caller: Caller) -> None:
    caller.say(stream())
    await caller.reader.readuntil(b"\n\n")


async def with_more_sent_ahead(it: Stage, caller: Caller) -> None:
    caller.say(stream() + numbered(2) + numbered(3))
    await caller.reader.readuntil(b"\n\n")


BEHAVIOURS: dict[object, Behaviour] = {waiting_for_an_answer: silent}
STAGES = [half_a_head, half_a_body, waiting_in_line, waiting_for_an_answer, in_the_middle_of_a_stream]


async def trickling(engine: Engine, request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(event("x"))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["closes", "resets", "closes its half"])
@pytest.mark.parametrize("when", [*STAGES, with_more_sent_ahead], ids=lambda each: each.__name__)
def test_whenever_and_however_a_client_leaves_everything_of_it_is_gone(
    when: Callable[[Stage, Caller], Awaitable[None]], how: str, loop: LoopFactory
) -> None:
    """Its place in the line, its slot, its stream at the engine; and others are served."""

    async def story() -> None:
        engine = Engine("e").then(BEHAVIOURS.get(when, trickling))
        async with stage(engine) as it:
            leaving = await it.call()
            await when(it, leaving)
            if when is waiting_for_an_answer:  # it is under way here a moment before the engine has it
                await until(lambda: bool(engine.seen))
            match how:
                case "closes":
                    leaving.writer.close()
                case "resets":
                    leaving.reset()
                case _:
                    leaving.writer.write_eof()
            await it.nothing_left((engine,))
            assert len(engine.seen) == (when not in (half_a_head, half_a_body, waiting_in_line))
            engine.script.clear()
            it.house.show(engine)
            await answers_well(it)

    run_on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endless_line_of_connections_that_say_nothing_leaves_room_for_others(loop: LoopFactory) -> None:
    """They are closed where there are too many, and the next one is served when one of them has left."""

    async def story() -> None:
        async with stage(Engine("e"), limits={"max_connections": 20}) as it:
            crowd = [await it.call() for _ in range(20)]
            await until(lambda: len(it.edges) == 20)
            assert await (await it.call()).hear_all() == []
            crowd[0].writer.close()
            await until(lambda: len(it.edges) == 19)
            await answers_well(it)

    run_on(loop, story())


async def test_a_stream_that_an_engine_mangles_does_not_break_the_framing_of_ours() -> None:
    """Bytes of an engine are payload, whatever they look like: the client's llhttp finds exactly one answer."""
    evil = b"data: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\n\n"
    engine = Engine("e").then(streams(evil, event("x", finish="stop"), b"data: [DONE]\n\n", then="eof"))
    async with stage(engine) as it:
        caller = await it.call()
        answer = await caller.ask(stream())
        assert evil in answer.body
        assert (await caller.ask(post())).status == 200


# What is not for engines


@pytest.mark.parametrize(
    ("request_line", "status", "code"),
    [
        (b"OPTIONS * HTTP/1.1", 404, "not_found"),
        (b"OPTIONS *: HTTP/1.1", 404, "not_found"),
        (b"OPTIONS /v1/chat/completions HTTP/1.1", 405, "method_not_allowed"),
        (b"CONNECT example.com:443 HTTP/1.1", 404, "not_found"),
        (b"CONNECT /v1/completions HTTP/1.1", 405, "method_not_allowed"),
        (b"TRACE /v1/chat/completions HTTP/1.1", 405, "method_not_allowed"),
        (b"GET http://elsewhere/nothing HTTP/1.1", 404, "not_found"),
        (b"GET //v1/models HTTP/1.1", 404, "not_found"),
        (b"GET /../livez HTTP/1.1", 404, "not_found"),
        (b"GET /%2e%2e/%00 HTTP/1.1", 404, "not_found"),
        (b"PUT /v1/completions HTTP/1.1", 405, "method_not_allowed"),
    ],
)
async def test_other_methods_and_targets_get_an_error_of_ours(request_line: bytes, status: int, code: str) -> None:
    """And nothing of them reaches an engine."""
    engine = Engine("e")
    async with stage(engine) as it:
        caller = await it.call()
        caller.say(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n" + SMUGGLED)
        (answer,) = await caller.hear_all()
        assert (answer.status, answer.code) == (status, code)
        assert not engine.seen


@pytest.mark.parametrize(("path", "status"), [(b"/livez", b"200"), (CHAT.encode(), b"405"), (b"/x", b"404")])
async def test_head_gets_no_body(path: bytes, status: bytes) -> None:
    """Neither of an answer nor of an error."""
    async with stage(Engine("e")) as it:
        caller = await it.call()
        caller.say(b"HEAD %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
        told = await asyncio.wait_for(caller.reader.read(), 5)
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert body == b""


@pytest.mark.parametrize("loop", LOOPS)
def test_a_check_behind_a_stream_is_answered_after_it(loop: LoopFactory) -> None:
    """On the same connection, which goes on."""

    async def story() -> None:
        engine = Engine("e").then(when_told)
        async with stage(engine) as it:
            caller = await it.call()
            caller.say(stream() + LIVEZ + post())
            await until(lambda: engine.running == 1)
            engine.gate.set()
            whole, check, other = await caller.hear(3)
            assert (whole.status, whole.body) == (200, WHOLE_STREAM)
            assert (check.status, check.body, check.closes) == (200, b'{"status": "alive"}', False)
            assert (other.status, len(engine.seen)) == (200, 2)

    run_on(loop, story())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_check_behind_a_large_answer_waits_until_that_has_been_read(loop: LoopFactory) -> None:
    """The client reads nothing for a while: its check is answered all the same, after what came before it."""

    async def story() -> None:
        engine = Engine("e").then(big_answer)
        async with stage(engine) as it:
            caller = await it.call(limit=2**12)
            caller.say(post(path=b"/v1/embeddings") + LIVEZ)
            await until(lambda: it.house.balancer.load().arrived_total == 1 and engine.running == 0)
            await until(lambda: any(each._full for each in it.edges))
            large, check = await caller.hear(2)
            assert (len(large.body), check.status) == (6_000_009, 200)

    run_on(loop, story())
