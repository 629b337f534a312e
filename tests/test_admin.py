"""The admin socket, asked by hand: what it answers, refuses, and survives."""

import asyncio
import json
import os
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.errors import BootstrapError, StateDirectoryError, UnknownSubjectError
from hedgeserve.web.admin import Admin


class Operated:
    """A service with one replica."""

    def __init__(self) -> None:
        self.downs = 0
        self.asked: list[tuple[int, int, str | None]] = []
        self.hold = asyncio.Event()

    def status(self) -> Mapping[str, Any]:
        return {"service": "small"}

    async def explain(self, subject: str) -> Mapping[str, Any]:
        if subject == "nowhere":
            raise UnknownSubjectError("there is no nowhere; did you mean now?")
        return {"subject": subject}

    def running_spec(self) -> Mapping[str, Any]:
        return {"policy": "small"}

    async def events(self, *, after: int, limit: int, replica: str | None) -> Sequence[Mapping[str, Any]]:
        self.asked.append((after, limit, replica))
        return [{"id": after + 1}]

    async def logs(self, replica: str, lines: int) -> str:
        if replica == "slow":
            await self.hold.wait()
        if replica == "away":
            raise BootstrapError("logs", "no connection")
        if replica == "broken":
            raise RuntimeError("a secret of the house")
        return {"small 1": f"{lines} lines: é"}[replica]

    def history(self, *, since_s: float, points: int) -> Mapping[str, Any]:
        return {"since_s": since_s, "points": points}

    def request_down(self) -> None:
        self.downs += 1

    async def pause(self, *, for_s: float | None, drain_s: float | None) -> Mapping[str, Any]:
        return {"rest": "paused", "for_s": for_s, "drain_s": drain_s}

    async def resume(self) -> Mapping[str, Any]:
        return {"rest": "awake", "was": "paused"}


@asynccontextmanager
async def operated(directory: Path) -> AsyncIterator[tuple[Operated, Path]]:
    """A service that may be asked at a socket."""
    service, socket = Operated(), directory / "admin.sock"
    admin = Admin(service, socket)
    await admin.start()
    try:
        yield service, socket
    finally:
        await admin.aclose()
    assert not socket.exists()


async def say(socket: Path, data: bytes) -> tuple[int, bytes]:
    """Status and body of what comes back until the other side closes; 0 where nothing does."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


async def ask(socket: Path, target: str, method: str = "GET") -> tuple[int, bytes]:
    return await say(socket, f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_only_its_owner_may_ask(short_dir: Path) -> None:
    """The socket's mode is all that guards it."""
    async with operated(short_dir) as (_, socket):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600


async def test_each_question_has_its_answer(short_dir: Path) -> None:
    """Status, events with their filters, a log as text, and down."""
    async with operated(short_dir) as (service, socket):
        assert await ask(socket, "/admin/v1/status") == (200, b'{"service": "small"}')
        assert await ask(socket, "/admin/v1/status", "HEAD") == (200, b"")
        assert await ask(socket, "/admin/v1/explain/now") == (200, b'{"subject": "now"}')
        for zone in ("local/east/a", "local%2Feast%2Fa"):
            assert await ask(socket, f"/admin/v1/explain/{zone}") == (200, b'{"subject": "local/east/a"}')
        assert await ask(socket, "/admin/v1/spec") == (200, b'{"policy": "small"}')
        status, body = await ask(socket, "/admin/v1/events?after=7&limit=3&replica=small%201")
        assert (status, json.loads(body)) == (200, {"events": [{"id": 8}]})
        assert (await ask(socket, "/admin/v1/events"))[0] == 200
        assert service.asked == [(7, 3, "small 1"), (0, 100, None)]
        assert await ask(socket, "/admin/v1/logs/small%201?lines=5") == (200, "5 lines: é".encode())
        assert (await ask(socket, "/admin/v1/down", "POST"))[0] == 202
        assert service.downs == 1


@pytest.mark.parametrize(
    ("target", "method", "status", "message"),
    [
        ("/admin/v1/other", "GET", 404, "there is nothing at /admin/v1/other"),
        ("/admin/v1/down", "GET", 405, "use POST"),
        ("/admin/v1/events?limit=many", "GET", 400, "limit='many': write a whole number from 0 to 1000"),
        ("/admin/v1/events?limit=1001", "GET", 400, "from 0 to 1000"),
        ("/admin/v1/explain/nowhere", "GET", 404, "did you mean now?"),
        ("/admin/v1/explain/", "GET", 404, "there is nothing at"),
        ("/admin/v1/explain/now", "POST", 405, "use GET, HEAD"),
        ("/admin/v1/logs/none", "GET", 404, "there is no replica none now"),
        ("/admin/v1/logs/away", "GET", 409, "no connection"),
        ("/admin/v1/logs/broken", "GET", 500, "its log says why"),
    ],
)
async def test_a_refusal_says_why(short_dir: Path, target: str, method: str, status: int, message: str) -> None:
    """In the shape of the public endpoint's errors; a mistake of ours tells no secret."""
    async with operated(short_dir) as (_, socket):
        found, body = await ask(socket, target, method)
    error = json.loads(body)["error"]
    assert (found, error["type"]) == (status, "admin_error")
    assert message in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize("data", [b"NOT HTTP AT ALL\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000])
async def test_nonsense_is_turned_away(short_dir: Path, data: bytes) -> None:
    """And the next question is answered."""
    async with operated(short_dir) as (_, socket):
        assert (await say(socket, data))[0] in (0, 400)
        assert (await ask(socket, "/admin/v1/status"))[0] == 200


async def test_closing_waits_for_nobody_for_long(short_dir: Path) -> None:
    """One who asks something slow, and one who asks nothing, are let go."""
    async with operated(short_dir) as (_, socket):
        idle = await asyncio.open_unix_connection(str(socket))
        slow = await asyncio.open_unix_connection(str(socket))
        slow[1].write(b"GET /admin/v1/logs/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await ask(socket, "/admin/v1/status"))[0] == 200
    for reader, writer in (idle, slow):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_socket_that_cannot_be_made_is_said(short_dir: Path) -> None:
    """With its place."""
    admin = Admin(Operated(), short_dir / "nowhere" / "admin.sock")
    with pytest.raises(StateDirectoryError, match=r"nowhere/admin\.sock cannot be made"):
        await admin.start()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 200, {"rest": "paused", "for_s": None, "drain_s": None}),
        (b'{"for_s": 7200, "drain_s": null}', 200, {"rest": "paused", "for_s": 7200.0, "drain_s": None}),
        (b'{"for_s": "2h"}', 400, "for_s: write a number of seconds"),
        (b'{"for_s": -1}', 400, "for_s: write a number of seconds"),
        (b'{"for_s": true}', 400, "for_s: write a number of seconds"),
        (b'{"until": 3}', 400, "unknown key 'until'; there are for_s, drain_s"),
        (b"[]", 400, "must be a JSON object"),
        (b"{", 400, "no JSON"),
    ],
)
async def test_a_pause_is_asked_for_in_seconds(short_dir: Path, body: bytes, status: int, said: Any) -> None:
    async with operated(short_dir) as (_, socket):
        head = b"POST /admin/v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        answered, found = await say(socket, head + body)
        assert answered == status
        if status == 200:
            assert json.loads(found) == said
        else:
            assert said in json.loads(found)["error"]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
async def test_another_user_is_not_answered_whatever_the_mode_says() -> None:
    """The kernel says who is at the other end: the socket's mode may have been changed, or not been set yet."""
    asks = (
        "import os, socket, sys\n"
        "probe = socket.socket(socket.AF_UNIX)\n"
        "probe.connect(sys.argv[1])\n"
        "probe.sendall(b'POST /admin/v1/down HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "print(probe.recv(100))\n"
    )
    # As somebody else from before the connection on, and in a directory that both may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        async with operated(Path(directory)) as (service, socket):
            socket.chmod(0o777)
            answers = []
            for user in (0, 65534):
                process = await asyncio.create_subprocess_exec(
                    "/usr/bin/python3", "-c", asks, str(socket), user=user, stdout=subprocess.PIPE, stderr=-1
                )
                answers.append((await process.communicate())[0])
    assert b"202 Accepted" in answers[0]
    assert b"HTTP" not in answers[1]
    assert service.downs == 1
