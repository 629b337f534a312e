"""Replicas fail in every way that they can, and the client gets its answer, or the truth."""

import asyncio
import io
import json

import pytest

from hedgeserve.proxy import failover
from tests.upstreams import (
    CHAT,
    DONE,
    ERROR_EVENT,
    WHOLE_STREAM,
    Behaviour,
    Engine,
    answer,
    dropped,
    event,
    in_pieces,
    open_house,
    silent,
    status,
    streams,
    until,
    when_told,
)

SHORT = {"first_byte": "150ms", "stall": "150ms"}


def bad_and_good(*behaviours: Behaviour) -> tuple[Engine, Engine]:
    """Two engines; requests go to the bad one first."""
    return Engine("bad").then(*behaviours), Engine("good")


BEFORE_THE_FIRST_BYTE = {
    "broken connection": (dropped, "first_byte"),
    "500": (status(500), "status"),
    "502": (status(502), "status"),
    "503": (status(503), "status"),
    "504": (status(504), "status"),
    "401": (status(401), "status"),
}
IN_ONE_PIECE = BEFORE_THE_FIRST_BYTE | {
    "cut in the middle": (in_pieces(answer("x" * 9999), then="cut"), "body"),
    "silence in the middle": (in_pieces(answer("x" * 9999), then="silence"), "stall"),
    "finish_reason abort": (status(200, answer("half", finish="abort")), "abort"),
}
STREAMED = BEFORE_THE_FIRST_BYTE | {
    "no first byte": (silent, "first_byte"),
    "a head and no first byte": (streams(then="silence"), "first_byte"),
    "a head and a broken connection": (streams(then="cut"), "first_byte"),
    "a head and a clean end": (streams(then="eof"), "body"),
    "an error as first event": (streams(ERROR_EVENT, DONE, then="eof"), "abort"),
    "abort as first event": (streams(event(finish="abort"), DONE, then="eof"), "abort"),
    "nothing but [DONE]": (streams(DONE, then="eof"), "abort"),
    "half an event": (streams(event("one")[:20], then="cut"), "body"),
}


@pytest.mark.parametrize("failure", IN_ONE_PIECE)
async def test_an_answer_in_one_piece_comes_whole_from_another_replica(failure: str) -> None:
    """Whatever happens to the first replica, the client sees one good answer, and what it cost."""
    behaviour, phase = IN_ONE_PIECE[failure]
    bad, good = bad_and_good(behaviour)
    async with open_house(bad, good, timeouts=SHORT) as house:
        reply = await house.ask()
        assert (reply.status, reply.text) == (200, "from good")
        assert reply.headers["x-hedgeserve-replica"] == "good"
        assert reply.headers["x-hedgeserve-attempts"] == "2"
        assert house.count("upstream_failures_total", phase=phase) == 1
        assert house.count("requests_total", route=CHAT, outcome="ok", code="200") == 1
        assert bad.seen[0].body == good.seen[0].body


async def test_a_large_body_reaches_the_second_replica_as_whole_as_the_first() -> None:
    """Several megabytes (pictures, long contexts), sent twice; a type of its own, or none, as the client said."""
    body = json.dumps({"messages": "x" * 5_000_000, "max_tokens": 8}).encode()
    bad, good = bad_and_good(status(503))
    async with open_house(bad, good) as house:
        headers = {"Content-Type": "application/json"}
        reply = await house.get(CHAT, "POST", data=io.BytesIO(body), headers=headers)
        assert reply.status == 200
        for engine in (bad, good):
            assert engine.seen[0].body == body
            assert engine.seen[0].headers["content-type"] == "application/json"
            assert engine.seen[0].headers["content-length"] == str(len(body))


@pytest.mark.parametrize("failure", STREAMED)
async def test_a_stream_that_dies_before_its_first_byte_is_begun_elsewhere(failure: str) -> None:
    """The client's head is not sent before there is something to follow it."""
    behaviour, phase = STREAMED[failure]
    bad, good = bad_and_good(behaviour)
    async with open_house(bad, good, timeouts=SHORT) as house:
        reply = await house.ask(stream=True)
        assert (reply.status, reply.body) == (200, WHOLE_STREAM)
        assert reply.headers["x-hedgeserve-replica"] == "good"
        assert house.count("upstream_failures_total", phase=phase) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replica_that_cannot_be_reached_is_passed_over(stream: bool) -> None:
    """It died a moment ago and nobody knows yet."""
    bad, good = bad_and_good()
    async with open_house(bad, good) as house:
        await bad.die()
        reply = await house.ask(stream=stream)
        assert reply.status == 200
        assert house.count("upstream_failures_total", phase="connect") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replica_that_vanishes_loses_no_request(stream: bool) -> None:
    """The fleet says that the replica is gone; what it was asked is asked elsewhere at once, and not counted."""
    bad, good = bad_and_good(silent)
    async with open_house(bad, good, limits={"max_attempts": 1}) as house:
        asking = asyncio.create_task(house.ask(stream=stream))
        await until(lambda: bad.running == 1)
        house.show(good)
        reply = await asking
        assert reply.status == 200
        assert reply.headers["x-hedgeserve-replica"] == "good"
        assert house.count("upstream_failures_total", phase="vanished") == 1
        await until(lambda: bad.running == 0)


async def test_a_request_waits_for_a_new_replica_when_its_own_has_vanished() -> None:
    """The last replica is gone; the request goes back into the line and is answered by the next."""
    lost, new = bad_and_good(silent)
    async with open_house(lost, new) as house:
        house.show(lost)
        asking = asyncio.create_task(house.ask())
        await until(lambda: lost.running == 1)
        house.show()
        await until(lambda: house.balancer.load().queued == 1)
        assert len(house.waits) == 1
        house.show(new)
        assert (await asking).text == "from good"


async def test_the_only_replica_is_asked_again_after_a_pause() -> None:
    """It failed once; there is no other, so it gets a second chance."""
    only = Engine("only").then(status(500), status(500))
    async with open_house(only) as house:
        reply = await house.ask()
        assert (reply.status, reply.headers["x-hedgeserve-attempts"]) == (200, "3")


async def test_a_connection_that_was_closed_while_it_was_idle_is_no_fault_of_its_replica() -> None:
    """The request goes out again on a fresh one, and nobody is avoided for it."""
    only = Engine("only")
    async with open_house(only) as house:
        assert (await house.ask()).status == 200
        only.then(dropped)
        reply = await house.ask()
        assert (reply.status, reply.headers["x-hedgeserve-attempts"]) == (200, "1")
        assert house.count("upstream_failures_total") == 0


async def test_an_unreachable_replica_does_not_use_up_the_attempts() -> None:
    """The only one is dead and nobody knows yet: the request holds out until there is another."""
    dead, new = bad_and_good()
    async with open_house(dead, new, limits={"max_attempts": 2}) as house:
        await dead.die()
        house.show(dead)
        asking = asyncio.create_task(house.ask())
        await until(lambda: house.count("upstream_failures_total", phase="connect") >= 3)
        house.show(new)
        assert (await asking).text == "from good"


@pytest.mark.parametrize("code", [400, 403, 404, 408, 422, 429, 501])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_the_clients_business_passes_as_it_is(code: int, stream: bool) -> None:
    """Status, body and type are the engine's; nothing is tried again."""
    engine = Engine("only").then(status(code, b'{"error": {"message": "your  fault"}}'))
    async with open_house(engine) as house:
        reply = await house.ask(stream=stream)
        assert (reply.status, reply.body) == (code, b'{"error": {"message": "your  fault"}}')
        assert len(engine.seen) == 1
        outcome = "client_error" if code < 500 else "upstream_error"
        assert house.count("requests_total", outcome=outcome, code=str(code)) == 1


async def test_too_many_failures_are_told_with_the_last_reason() -> None:
    """All that is left to say is what the replica said."""
    engine = Engine("sick").then(*[status(500, b"CUDA error: out of luck")] * 3)
    async with open_house(engine, limits={"max_attempts": 3}) as house:
        reply = await house.ask()
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
        assert "3 attempts" in reply.error["message"]
        assert "CUDA error: out of luck" in reply.error["message"]
        assert reply.headers["x-hedgeserve-attempts"] == "3"
        assert house.count("requests_total", outcome="upstream_error", code="502") == 1


async def test_a_key_that_the_replica_refuses_is_not_the_clients_trouble() -> None:
    """A 401 of the engine says that our own key is wrong: 502, and no word that would make a client log in."""
    engine = Engine("sick").then(status(401))
    async with open_house(engine, limits={"max_attempts": 1}) as house:
        reply = await house.ask()
        assert reply.status == 502
        assert "API key that HedgeServe has for it" in reply.error["message"]


async def test_silence_is_told_as_a_timeout() -> None:
    """504, so that a client can tell it from a crash."""
    engine = Engine("slow").then(silent)
    async with open_house(engine, limits={"max_attempts": 1}, timeouts=SHORT) as house:
        reply = await house.ask(stream=True)
        assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")


async def test_an_answer_in_one_piece_may_take_longer_than_a_first_byte() -> None:
    """It comes when all of it is there: a long answer is not a dead replica."""
    engine = Engine("thorough").then(when_told)
    async with open_house(engine, timeouts={"first_byte": "50ms"}) as house:
        asking = asyncio.create_task(house.ask())
        await until(lambda: engine.running == 1)
        _, pending = await asyncio.wait([asking], timeout=0.2)
        assert pending
        engine.gate.set()
        assert (await asking).status == 200


MID_STREAM = {
    "cut": (streams(event("one"), then="cut"), "body"),
    "half an event": (streams(event("one"), event("two")[:20], then="cut"), "body"),
    "clean end": (streams(event("one"), then="eof"), "body"),
    "silence": (streams(event("one"), then="silence"), "stall"),
    "abort": (streams(event("one"), event(finish="abort"), DONE, then="eof"), "abort"),
    "error event": (streams(event("one"), ERROR_EVENT, DONE, then="eof"), "abort"),
    "[DONE] without an end": (streams(event("one"), DONE, then="eof"), "abort"),
}


@pytest.mark.parametrize("failure", MID_STREAM)
async def test_a_stream_that_was_cut_ends_with_an_honest_error(failure: str) -> None:
    """What was whole has passed; then one error event, a clean end, and no `[DONE]`."""
    behaviour, phase = MID_STREAM[failure]
    bad, good = bad_and_good(behaviour)
    async with open_house(bad, good, timeouts=SHORT) as house:
        reply = await house.ask(stream=True)
        assert reply.status == 200
        assert not reply.broken
        first, told, rest = reply.body.split(b"\n\n")
        assert first + b"\n\n" == event("one")
        assert rest == b""
        error = json.loads(told.removeprefix(b"data: "))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == ("upstream_timeout" if failure == "silence" else "upstream_error")
        assert house.count("upstream_failures_total", phase=phase) == 1
        assert house.count("requests_total", outcome="upstream_error", code="200") == 1
        assert not good.seen


async def test_a_stream_on_a_replica_that_vanishes_ends_at_once() -> None:
    """No waiting for a silence that says nothing new."""
    engine = Engine("lost").then(streams(event("one"), then="silence"))
    async with open_house(engine, timeouts={"stall": "1m"}) as house:
        async with house.http.post(house.balancer.url + CHAT, json={"stream": True}) as response:
            first = await response.content.readany()
            house.show()
            rest = await response.content.read()
        assert first == event("one")
        assert b"the replica is gone" in rest
        assert DONE not in rest
        assert house.balancer.outstanding(engine.target().id) == 0


async def test_the_messages_api_is_told_in_its_own_words() -> None:
    """Its clients look for an event of the name `error`."""
    delta = b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"text": "a"}}\n\n'
    engine = Engine("bad").then(streams(delta, then="cut"))
    async with open_house(engine) as house:
        reply = await house.ask("/v1/messages", stream=True)
        assert reply.body.startswith(delta + b'event: error\ndata: {"type": "error", "error": {')


async def test_a_stream_whose_answer_is_whole_is_whole_though_its_connection_broke() -> None:
    """The finish_reason was there: only the closing `[DONE]` was lost, and we can say that ourselves."""
    body = event("one") + event(finish="stop")
    engine = Engine("bad").then(streams(body, then="cut"))
    async with open_house(engine) as house:
        reply = await house.ask(stream=True)
        assert reply.body == body + DONE
        assert house.count("requests_total", outcome="ok", code="200") == 1


@pytest.mark.parametrize("then", ["eof", "cut"])
async def test_sums_that_were_asked_for_are_told_though_the_stream_ended_without_them(then: str) -> None:
    """All of the text had come, and the ids: what is left of the end is known, however the stream ended."""
    choice = {"index": 0, "text": "", "finish_reason": None, "prompt_token_ids": [7, 8], "token_ids": [9]}
    last = {**choice, "text": "two", "finish_reason": "length", "prompt_token_ids": None, "token_ids": [10]}
    body = b"".join(
        b"data: %b\n\n" % json.dumps({"id": "a", "choices": [each]}).encode() for each in (choice, last)
    )
    engine = Engine("bad").then(streams(body, then=then))
    async with open_house(engine, failover={"token_ids": "on"}) as house:
        options = {"stream_options": {"include_usage": True}, "prompt": "p"}
        reply = await house.ask("/v1/completions", stream=True, **options)
        *_, sums, done, rest = reply.body.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        usage = {"prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2}
        assert json.loads(sums.removeprefix(b"data: "))["usage"] == usage
        assert house.count("requests_total", outcome="ok", code="200") == 1


@pytest.mark.parametrize("then", ["eof", "cut"])
async def test_nothing_is_added_to_a_stream_that_said_all(then: str) -> None:
    """After `[DONE]` nothing is missing, whatever became of the connection: its client's can be used again."""
    engine = Engine("bad").then(streams(WHOLE_STREAM, then=then))
    async with open_house(engine) as house:
        address = house.balancer.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(*address)
        body = b'{"stream": true}'
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        )
        await reader.readuntil(b"\r\n\r\n")
        whole = await reader.readuntil(b"\r\n0\r\n")
        assert whole.count(b"data: ") == WHOLE_STREAM.count(b"data: ")
        while (await reader.readline()).strip():
            pass  # trailers
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert house.count("requests_total", outcome="ok", code="200") >= 1


async def test_an_answer_too_large_to_hold_is_passed_on_and_a_cut_of_it_shows() -> None:
    """Half a JSON answer cannot be mended in-band: the connection breaks, as it did for us."""
    big = answer("x" * 300_000)
    engine = Engine("big").then(status(200, big), in_pieces(big, then="cut"))
    async with open_house(engine, limits={"max_held_response": "64 KiB"}) as house:
        whole, cut = await house.ask(), await house.ask()
        assert (whole.body, whole.broken) == (big, False)
        assert cut.broken
        assert house.count("requests_total", outcome="upstream_error") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_has_one_deadline_in_all(stream: bool) -> None:
    """Before the first byte it is a 504."""
    engine = Engine("slow").then(silent)
    async with open_house(engine, timeouts={"total": "150ms"}) as house:
        reply = await house.ask(stream=stream)
        assert (reply.status, reply.error["code"]) == (504, "deadline_exceeded")
        await until(lambda: engine.running == 0)


async def test_after_the_first_byte_the_deadline_is_an_error_event() -> None:
    """The status has been sent; the stream says what happened."""
    engine = Engine("slow").then(streams(event("one"), then="silence"))
    async with open_house(engine, timeouts={"total": "150ms"}) as house:
        reply = await house.ask(stream=True)
        assert reply.status == 200
        assert b'"code": "deadline_exceeded"' in reply.body
        assert DONE not in reply.body


async def test_a_replica_that_fails_fast_does_not_draw_the_traffic_to_it() -> None:
    """It is always the least busy one, which must not make it the most asked one."""
    bad, good = bad_and_good(*[status(500)] * 50)
    async with open_house(bad, good) as house:
        for _ in range(20):
            assert (await house.ask()).text == "from good"
        assert len(bad.seen) == 1


@pytest.mark.skipif(
    str(failover.__file__).endswith(".so"),
    reason="what is compiled cannot be given mistakes for a test",
)
async def test_a_mistake_of_ours_in_a_recovery_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is broken, which is all that can be said then; those whose turn is next go on."""
    bad = Engine("bad").then(streams(event("one "), then="cut"), status(500))
    good = Engine("good")
    async with open_house() as house, bad, good:
        house.show(bad.target(), good.target(preferred=False))
        monkeypatch.setattr("hedgeserve.proxy.failover.Telling.recover", lambda telling: 1 // 0)
        spoilt, fine = await asyncio.gather(house.ask(stream=True), house.ask())
        assert spoilt.broken
        assert fine.status == 200
        assert house.count("requests_total", outcome="internal_error") == 1
        await until(lambda: house.balancer.load().in_flight == 0)


async def test_half_an_answer_that_is_still_held_ends_with_an_error_of_its_own() -> None:
    """It was asked for in one piece and is put together here: nothing has been told, so all of HTTP is left."""
    cut = streams(event("one "), then="cut")
    first, second = Engine("first").then(*[cut] * 9), Engine("second").then(*[cut] * 9)
    async with open_house(first, second, failover={"max_resumptions": 1}) as house:
        reply = await house.ask(max_tokens=4096, temperature=0)
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
        assert "failed in the middle of the answer" in reply.error["message"]
        assert house.count("requests_total", outcome="upstream_error", code="502") == 1


async def test_failures_of_an_answer_that_was_begun_anew_count() -> None:
    """No replica could go on with what was held of it, and then each one failed: that is told at once."""
    first = Engine("first").then(streams(event("one "), then="cut"), *[status(500)] * 9)
    second = Engine("second").then(status(400), *[status(500)] * 9)
    async with open_house(first, second, limits={"max_attempts": 2}) as house:
        reply = await house.ask(max_tokens=4096, temperature=0)
        assert (reply.status, reply.error["code"]) == (502, "upstream_error")
        assert "failed after 2 attempts" in reply.error["message"]
