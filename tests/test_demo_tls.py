"""The demo engine with a certificate of a service's own authority: the same answers, and nothing in the clear."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from hedgeserve.machines.authority import Authority
from tests.demo_process import DEMO_SERVER, HOME, DemoProcess, demo_process

TEXT = "/v1/completions"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def engine(authority: Authority, tmp_path: Path) -> Iterator[DemoProcess]:
    tls = asyncio.run(authority.issue("s-1", "127.0.0.1"))
    (tmp_path / "engine.crt").write_bytes(tls.certificate)
    (tmp_path / "engine.key").write_bytes(tls.key)
    files = ("--ssl-certfile", str(tmp_path / "engine.crt"), "--ssl-keyfile", str(tmp_path / "engine.key"))
    with demo_process(*files, "--tokens-per-second", "200") as process:
        yield process


@asynccontextmanager
async def client(engine: DemoProcess, authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=authority.trust)
    async with aiohttp.ClientSession(engine.url, connector=connector) as session:
        yield session


async def running(session: aiohttp.ClientSession) -> float:
    async with session.get("/metrics", server_hostname="s-1") as answer:
        [line] = [line for line in (await answer.text()).splitlines() if "num_requests_running{" in line]
        return float(line.rpartition(" ")[2])


async def test_it_answers_by_tls_under_the_name_of_its_vm(engine: DemoProcess, authority: Authority) -> None:
    """A stream, then another request on the same connection; a client that leaves is noticed."""
    assert engine.url.startswith("https://")
    body = {"prompt": "Hello", "max_tokens": 5, "stream": True}
    async with client(engine, authority) as session:
        async with session.post(TEXT, json=body, server_hostname="s-1") as answer:
            assert (await answer.text()).endswith("data: [DONE]\n\n")
        async with session.post(TEXT, json={**body, "max_tokens": 4000}, server_hostname="s-1") as answer:
            await answer.content.readline()
            assert await running(session) == 1
        limit_s = time.monotonic() + 5
        while await running(session):
            assert time.monotonic() < limit_s
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            async with session.get("/health", server_hostname="s-2"):
                pass


async def test_who_does_not_shake_hands_keeps_nobody_waiting(engine: DemoProcess, authority: Authority) -> None:
    """A connection that says nothing, and one that speaks plain HTTP: others are answered meanwhile."""
    place = urlsplit(engine.url)
    assert place.hostname is not None
    with socket.create_connection((place.hostname, place.port or 0)) as silent:
        with socket.create_connection((place.hostname, place.port or 0)) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            plain.settimeout(5)
            assert b"HTTP/" not in plain.recv(100)
        async with client(engine, authority) as session, session.get("/health", server_hostname="s-1") as answer:
            assert answer.status == 200
        assert silent.fileno() >= 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ssl-certfile", "/no/such/file"], "the one needs the other"),
        (["--ssl-certfile", "/no/such/file", "--ssl-keyfile", "/no/such/file"], "No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told(options: list[str], said: str) -> None:
    """It ends with a sentence, not with a traceback."""
    done = subprocess.run([*DEMO_SERVER, *options], cwd=HOME, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert json.dumps(options[1])[1:-1] in done.stdout + done.stderr
