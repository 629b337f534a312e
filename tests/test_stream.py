"""What watchers are sent, in virtual time and over a real connection."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.web.stream import Bell, watch
from hedgeserve.web.unixhttp import Answer, Request
from tests.conftest import eventually
from tests.test_site import BEARER, Door, door


class Told:
    """A service with a status and a journal; counts how often it is asked."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {"ready": 1, "uptime_s": 0, "replicas": [{"id": "a", "since_s": 0}]}
        self.last_event = 3
        self.away = False
        self.asked = 0

    async def respond(self, request: Request) -> Answer:
        self.asked += 1
        if self.away:
            return Answer(503, "application/json", b"{}")
        if request.path == "/admin/v1/status":
            self.status["uptime_s"] += 1
            self.status["replicas"][0]["since_s"] += 1
            return self._json(self.status)
        after, limit = int(request.query.get("after", "0")), int(request.query["limit"])
        ids = range(after + 1, self.last_event + 1)
        return self._json({"events": [{"id": one} for one in (ids[:limit] if after else ids[-limit:])]})

    def _json(self, value: Any) -> Answer:
        return Answer(200, "application/json", json.dumps(value).encode())


def names(frame: bytes) -> list[str]:
    """The names of a frame's events; of a comment, the comment."""
    return [line.partition(": ")[2] for line in frame.decode().splitlines() if line.startswith(("event", ":"))]


async def begun(told: Told, bell: Bell, after: int | None = None) -> AsyncGenerator[bytes]:
    frames = watch(told.respond, bell, after)
    assert (await anext(frames)).startswith(b"retry: ")
    return frames


@pytest.mark.looptime
async def test_a_status_is_sent_when_more_than_its_age_has_changed() -> None:
    """Ages change of themselves, and who watches counts them on; otherwise a sign of life comes now and then."""
    told, bell = Told(), Bell()
    frames = await begun(told, bell)
    assert names(await anext(frames)) == ["status"]
    clock = asyncio.get_running_loop().time
    assert names(await anext(frames)) == ["still here"]
    assert clock() == pytest.approx(15, abs=1)
    told.status["ready"] = 2
    assert names(await anext(frames)) == ["status"]
    assert clock() == pytest.approx(16, abs=1)
    await frames.aclose()


@pytest.mark.looptime
async def test_an_event_is_sent_at_once() -> None:
    """The bell wakes those who watch; nobody waits for the next look."""
    told, bell = Told(), Bell()
    frames = await begun(told, bell)
    await anext(frames)
    waiting = asyncio.ensure_future(anext(frames))
    await asyncio.sleep(0.1)
    told.last_event = 4
    bell.ring()
    frame = await waiting
    assert names(frame) == ["happened"]
    assert b"id: 4\n" in frame
    assert asyncio.get_running_loop().time() == pytest.approx(0.1)
    await frames.aclose()


@pytest.mark.looptime
async def test_one_who_comes_back_is_told_what_was_missed() -> None:
    """By the id of the last event; more than a page comes page by page."""
    told = Told()
    told.last_event = 2503
    frames = await begun(told, Bell(), after=3)
    counts = [names(await anext(frames)).count("happened") for _ in range(3)]
    assert counts == [1000, 1000, 500]
    await frames.aclose()


@pytest.mark.looptime
async def test_an_id_of_another_journal_counts_as_the_newest() -> None:
    """A state directory that was removed: the watcher would wait for ever for an id like that."""
    told = Told()
    frames = await begun(told, Bell(), after=99)
    await anext(frames)
    told.last_event = 4
    assert b"id: 4\n" in await anext(frames)
    await frames.aclose()


@pytest.mark.looptime
async def test_a_service_that_is_away_is_said_once_and_its_return_too() -> None:
    """As for `hedgeserve ui`, which goes on over a restart."""
    told = Told()
    told.away = True
    frames = await begun(told, Bell())
    assert names(await anext(frames)) == ["trouble"]
    told.away = False
    assert names(await anext(frames)) == ["status"]
    await frames.aclose()


async def until(reader: asyncio.StreamReader, what: bytes) -> bytes:
    found = b""
    async with asyncio.timeout(10):
        while what not in found:
            part = await reader.read(4096)
            assert part, found
            found += part
    return found


async def watching(
    at: Door, *, target: str = "/admin/v1/stream"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = at.host.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: {at.host}\r\nAuthorization: {BEARER['Authorization']}\r\n\r\n".encode()
    )
    return reader, writer


async def test_the_stream_over_a_real_connection(short_dir: Path) -> None:
    """Its kind, no cache, and the status; closing the service does not wait for who watches."""
    async with door(short_dir) as at:
        assert (await at.ask("/admin/v1/stream")).status == 401
        assert (await at.ask("/admin/v1/stream?after=x", **BEARER)).status == 400
        assert (await at.ask("/admin/v1/stream", "POST", **BEARER)).status == 405
        reader, writer = await watching(at)
        found = await until(reader, b"event: status")
        assert b"Content-Type: text/event-stream" in found
        assert b"Cache-Control: no-store" in found
        begun_s = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun_s < 5
    writer.close()


async def test_who_takes_nothing_is_let_go(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that sleeps, or a program that stopped reading: what it does not take is not kept for it."""
    monkeypatch.setattr("hedgeserve.web.site._SLOW_WATCHER_S", 0.1)
    async with door(short_dir) as at:
        numbers = count()
        monkeypatch.setattr(at.service, "status", lambda: {"number": next(numbers), "much": "x" * 2**20})
        monkeypatch.setattr("hedgeserve.web.stream._LOOK_EVERY_S", 0.01)
        monkeypatch.setattr("hedgeserve.web.stream._LOOK_AT_MOST_EVERY_S", 0.0)
        host, port = at.host.split(":")
        with socket.create_connection((host, int(port))) as lazy:
            lazy.sendall(f"GET /admin/v1/stream HTTP/1.1\r\nHost: {at.host}\r\n".encode())
            lazy.sendall(f"Authorization: {BEARER['Authorization']}\r\n\r\n".encode())
            lazy.setblocking(False)
            await eventually(lambda: watchers(at) == 1)
            await eventually(lambda: watchers(at) == 0)


def watchers(at: Door) -> int:
    """How many there are, as the site counts them."""
    site = at.admin._site
    assert site is not None
    return site._watchers


async def test_watchers_have_their_number(short_dir: Path) -> None:
    """One too many is told so; one who goes makes room."""
    async with door(short_dir) as at:
        there = [await watching(at) for _ in range(16)]
        for reader, _ in there:
            await until(reader, b"event: status")
        refused = await at.ask("/admin/v1/stream", **BEARER)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        for _, writer in there:
            writer.close()

        async def let_in() -> bool:
            reader, writer = await watching(at)
            head = await reader.readline()
            writer.close()
            return b"200" in head

        await eventually(let_in)
