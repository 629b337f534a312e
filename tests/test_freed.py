"""What a request was is freed with it: the garbage collector, which looks seldom, has nothing to find."""

import gc
import json
from collections import Counter

import pytest

from hedgeserve.proxy.attempt import Attempt
from hedgeserve.proxy.edge import Edge
from hedgeserve.proxy.exchange import Exchange
from hedgeserve.proxy.wire import Link
from tests.callers import LOOPS, LoopFactory, run_on, stage
from tests.upstreams import Engine

KINDS = (Edge, Exchange, Attempt, Link)
TIMES = 20


def alive() -> Counter[str]:
    """How many there are of what is made for a request."""
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, KINDS))


def request(stream: bool) -> bytes:
    body = json.dumps(
        {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


@pytest.mark.parametrize("stream", [True, False], ids=["a stream", "one piece"])
@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_of_a_request_waits_for_the_garbage_collector(loop: LoopFactory, stream: bool) -> None:
    """Each on a connection of its own, the first of them read by llhttp; what is idle is there still."""

    async def story() -> None:
        engine = Engine("e")
        async with stage(engine) as it:
            gc.collect()
            gc.disable()
            before = alive()  # what other tests have left
            try:
                for _ in range(TIMES):
                    caller = await it.call()
                    caller.say(request(stream))
                    (answer,) = await caller.hear_all()
                    assert answer.status == 200
                    caller.writer.close()
                await it.nothing_left((engine,))
                left = alive() - before
                assert left.keys() <= {"Link"}
                assert left["Link"] <= 2
            finally:
                gc.enable()

    run_on(loop, story())
