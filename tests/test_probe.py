"""The probe as an engine meets it: what counts as an answer, and what is said of everything else."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hedgeserve.engines import make_engine
from hedgeserve.machines.authority import Authority
from hedgeserve.machines.probe import Identity, Prober
from hedgeserve.spec import ModelSpec, ProbeSpec

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def prober(**probe: object) -> Prober:
    """Of an engine that is asked at /health."""
    return Prober(
        ProbeSpec.model_validate({"timeout": "2s", **probe}),
        make_engine(ModelSpec.model_validate({"engine": "demo"}), {}),
    )


@asynccontextmanager
async def answering(answer: bytes, *, silent: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says this to whatever comes, and closes; its URL and what it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            heard.append(head + await reader.readexactly(int(length or 0)))
            writer.write(answer)
            if silent:
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nas long as it lasts",
    ],
)
async def test_a_whole_200_is_all_that_is_wanted(answer: bytes) -> None:
    """However its end is marked."""
    async with answering(answer) as (url, _):
        assert await prober().health(url, None) == ""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\nloading", "answered 503: loading"),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed before the answer was whole"),
        (b"", "closed before the answer was whole"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000, "headers are longer than"),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nwhy? \r\n" * 9999, "500: why? why?"),
    ],
)
async def test_anything_else_is_told_in_a_sentence(answer: bytes, said: str) -> None:
    """Never an exception: the sentence is what the operator reads."""
    async with answering(answer) as (url, _):
        told = await prober().health(url, None)
    assert told.startswith(f"{url}/health ")
    assert said in told
    assert len(told) < 500


async def test_silence_is_told_when_the_time_is_up() -> None:
    """A server that accepts and says nothing."""
    async with answering(b"", silent=True) as (url, _):
        assert await prober(timeout="300ms").health(url, None) == f"{url}/health did not answer within 0.3 s"


async def test_nobody_there_is_told() -> None:
    """The port is free again."""
    async with answering(OK) as (url, _):
        pass
    assert "could not be asked" in await prober().health(url, None)


async def test_a_probe_says_what_the_spec_says() -> None:
    """Path, key and body are the spec's; the body is JSON."""
    async with answering(OK) as (url, heard):
        assert await prober(path="/probe-ä?deep=1", post_body={"ask": "é"}).health(url, "secret") == ""
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /probe-%C3%A4?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"authorization: bearer secret" in head.lower()
    assert json.loads(body) == {"ask": "é"}


async def test_a_vm_must_prove_its_name(tmp_path: Path) -> None:
    """By a certificate of our authority for this very VM; another VM's is no proof."""
    authority = Authority(tmp_path)
    tls = await authority.issue("small-1", "127.0.0.1")
    (tmp_path / "pem").write_bytes(tls.certificate + tls.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await prober().of(Identity("small-1", authority.trust)).health(url, None) == ""
        assert "could not be asked" in await prober().of(Identity("small-2", authority.trust)).health(url, None)
        assert "could not be asked" in await prober().health(url, None)
