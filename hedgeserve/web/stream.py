"""What somebody who watches is sent: the status when it has changed, new events at once, and a sign of life.

Server-sent events, made anew for each watcher by asking what anybody may ask: nothing is kept for those who are
slow, and nothing is asked while nobody watches.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from hedgeserve.web.unixhttp import Request, Respond

_LOOK_EVERY_S = 1.0
_LOOK_AT_MOST_EVERY_S = 0.1
_ALIVE_EVERY_S = 15.0
_COME_BACK_MS = 2000
_PAGE = 1000
_AGES = frozenset({"uptime_s", "since_s", "notice_in_s", "tasks"})
"""What changes of itself: a watcher can count these on."""


class Bell:
    """Wakes all who wait when something has happened."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Something has happened."""
        self._rung.set()
        self._rung = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Is set by the next ring: to be had before one looks, so that nothing rings unheard meanwhile."""
        return self._rung


async def watch(
    respond: Respond, bell: Bell, after: int | None, *, watched: Callable[[], bool] = lambda: True
) -> AsyncGenerator[bytes]:
    """The frames for one watcher while it watches; ``after`` is the last event that it has seen, None: all so far.

    They are named ``status``, ``happened`` (with the event's id) and, where the service does not answer,
    ``trouble``. An id that the service has not reached counts as its newest: the journal is another one than the
    watcher knew.
    """
    clock = asyncio.get_running_loop().time
    yield f"retry: {_COME_BACK_MS}\n\n".encode()
    seen, known, shown, said_s = after or 0, False, None, clock()
    while watched():
        rung, looked_s = bell.next(), clock()
        frames, page = [], []
        found = await _ask(respond, "/admin/v1/status", {}) or {"error": "the service does not answer"}
        if (stable := _without_ages(found)) != shown:
            shown = stable
            frames.append(_frame("trouble" if "error" in found else "status", found))
        if not known and (newest := await _newest(respond)) is not None:
            known = True
            seen = newest if after is None else min(seen, newest)
        if known:
            page = await _events(respond, seen)
        for event in page:
            seen = event["id"]
            frames.append(_frame("happened", event, seen))
        if frames or clock() - said_s >= _ALIVE_EVERY_S:
            said_s = clock()
            yield b"".join(frames) or b": still here\n\n"
        if len(page) < _PAGE:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await rung.wait()
            await asyncio.sleep(looked_s + _LOOK_AT_MOST_EVERY_S - clock())  # news may come in heaps


async def _newest(respond: Respond) -> int | None:
    page = await _ask(respond, "/admin/v1/events", {"limit": "1"})
    return None if page is None else max((event["id"] for event in page["events"]), default=0)


async def _events(respond: Respond, after: int) -> list[dict[str, Any]]:
    page = await _ask(respond, "/admin/v1/events", {"after": str(after), "limit": str(_PAGE)})
    found: list[dict[str, Any]] = [] if page is None else page["events"]
    return found


async def _ask(respond: Respond, path: str, query: dict[str, str]) -> Any:
    answer = await respond(Request("GET", path, query))
    return json.loads(answer.body) if answer.status == 200 else None


def _without_ages(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ages(inner) for key, inner in value.items() if key not in _AGES}
    return [_without_ages(inner) for inner in value] if isinstance(value, list) else value


def _frame(name: str, value: Any, number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {json.dumps(value)}\n\n".encode()
