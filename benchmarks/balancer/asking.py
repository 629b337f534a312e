"""Small questions to an endpoint or to the engine's control, each bounded in time."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

from benchmarks.balancer.places import ENGINE_PORT
from benchmarks.balancer.targets import Start

_ANSWER_S = 3.0
_READY_S = 60.0
_IN_A_ROW = 12
_PAUSE_S = 0.1


class NotReadyError(Exception):
    """Something that was waited for did not come about in its time."""


def ask(port: int, path: str, *, body: object = None, tls: bool = False) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body.

    Raises:
        OSError, http.client.HTTPException: There is no answer.
    """
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_ANSWER_S, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        method, text = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, path, text, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def replicas() -> list[dict[str, int]]:
    """What the engine's replicas have been asked, and how many streams each has open."""
    _, body = ask(ENGINE_PORT - 1, "/replicas")
    found: list[dict[str, int]] = json.loads(body)
    return found


def put(replica: int, condition: str) -> None:
    """Have one replica serve, load or vanish."""
    ask(ENGINE_PORT - 1, f"/{replica}/{condition}")


def wait_until(what: str, holds: Callable[[], bool], *, most_s: float, pause_s: float = _PAUSE_S) -> float:
    """Wait for something; returns how long it took, in seconds.

    Raises:
        NotReadyError: It took longer.
    """
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > most_s:
            raise NotReadyError(f"{what}: not within {most_s:g} s")
        time.sleep(pause_s)
    return time.monotonic() - began


def wait_engine() -> None:
    """Wait for the engine's control to answer."""

    def answers() -> bool:
        try:
            return bool(replicas())
        except OSError:
            return False

    wait_until("the engine answers", answers, most_s=5.0)


def wait_ready(start: Start, *, alive: Callable[[], bool]) -> None:
    """Wait until the target has answered in one piece and as a stream, many times in a row.

    Raises:
        NotReadyError: It has not, in a minute, or it has ended.
    """
    in_a_row, last = 0, "nothing"

    def ready() -> bool:
        nonlocal in_a_row, last
        while in_a_row < _IN_A_ROW:
            if not alive():
                raise NotReadyError(f"it ended before it was ready; the last answer was {last}")
            try:
                said = [_chat(start, stream=stream) for stream in (False, True)]
            except (OSError, http.client.HTTPException) as error:
                in_a_row, last = 0, repr(error)
                return False
            if b"never sleeps" not in said[0] or b"[DONE]" not in said[1]:
                in_a_row, last = 0, repr(said[0][:200])
                return False
            in_a_row += 1
        return True

    wait_until(f"it answers {_IN_A_ROW} times in a row", ready, most_s=_READY_S)


def _chat(start: Start, *, stream: bool) -> bytes:
    messages: list[Any] = [{"role": "user", "content": "@@n=2,i=0,s=0@@"}]
    body = {"model": "bench", "messages": messages, "max_tokens": 2, "stream": stream}
    return ask(start.port, "/v1/chat/completions", body=body, tls=start.tls)[1]
