"""What requests leave in the metrics, through a real balancer: losses, gaps, refusals, limits."""

from tests.upstreams import CHAT, Engine, event, in_pieces, open_house, streams, when_told


async def test_a_stream_that_cannot_be_saved_is_counted_as_lost() -> None:
    """One replica, which dies in the middle, and no failover: the client is told, and so is the operator."""
    engine = Engine("one").then(streams(event("half "), then="cut"))
    async with open_house(engine, failover={"enabled": False}) as house:
        assert house.count("streams_lost_total") == 0
        reply = await house.ask(stream=True)
        assert b'"code": "upstream_error"' in reply.body
        assert house.count("streams_lost_total") == 1
        assert house.count("errors_total") == 0  # it had begun: nothing was answered with an error body


async def test_a_stream_that_is_taken_up_shows_how_long_its_client_saw_nothing() -> None:
    """A stream that is cut is repeated on the other replica; the gap is measured once."""
    first, other = Engine("one").then(streams(event("one "), then="cut")), Engine("two")
    async with open_house(first, other, failover={"token_ids": "off"}, routing={"policy": "round_robin"}) as house:
        for _ in range(2):
            assert b"[DONE]" in (await house.ask(stream=True, temperature=0)).body
        assert house.count("resumptions_total", way="replay", result="ok") == 1
        assert house.count("resumption_gap_seconds_count") == 1
        assert house.count("streams_lost_total") == 0


async def test_an_answer_in_one_piece_that_is_cut_shows_no_gap() -> None:
    """Its client has seen nothing of it, and is not told of a loss."""
    engine = Engine("one").then(in_pieces(b'{"x": 1}', then="cut"))
    async with open_house(engine) as house:
        assert (await house.ask()).status == 200
        assert house.count("resumption_gap_seconds_count") == 0
        assert house.count("streams_lost_total") == 0


async def test_each_error_of_ours_is_counted_by_its_code() -> None:
    """Wherever it is answered: at the edge, by the front, by an exchange."""
    async with open_house(Engine("one"), timeouts={"queue": "50ms"}) as house:
        await house.ask(model="another")
        await house.get("/nowhere")
        await house.get(CHAT)
        house.show()
        await house.ask()
    for code, count in (("model_not_found", 1), ("not_found", 1), ("method_not_allowed", 1), ("queue_timeout", 1)):
        assert house.count("errors_total", code=code) == count, code


async def test_a_key_at_its_limit_is_counted_by_the_limit() -> None:
    """And never by the key."""
    engine = Engine("one").then(when_told)
    async with open_house(engine, limits={"requests_per_minute_per_key": 1}) as house:
        engine.gate.set()
        assert (await house.ask()).status == 200
        assert (await house.ask()).status == 429
        assert house.count("key_limit_hits_total", limit="requests") == 1
        assert house.count("key_limit_hits_total") == 1
        assert house.count("limited_keys") == 1


async def test_bounds_stand_beside_what_they_bound() -> None:
    """An alert at nine tenths needs no number of its own."""
    async with open_house(limits={"max_queue": 7, "max_connections": 99}) as house:
        assert house.count("queue_limit") == 7
        assert house.count("client_connections_limit") == 99
        assert house.count("failover_kept_limit_bytes") > 0


async def test_the_pace_of_whole_streams_is_measured() -> None:
    """Once for each, and not for what came in one piece."""
    async with open_house(Engine("one")) as house:
        await house.ask()
        assert house.count("time_per_output_token_seconds_count") == 0
        await house.ask(stream=True)
        assert house.count("time_per_output_token_seconds_count") == 1
        assert house.count("prompt_tokens_total") > 0
