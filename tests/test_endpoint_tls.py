"""The endpoint by TLS, and what is said where its files are wrong."""

import asyncio
import functools
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hedgeserve.balancer import Balancer
from hedgeserve.entrance import Entrance
from hedgeserve.errors import ListenError
from hedgeserve.machines.authority import Authority, EngineTls
from hedgeserve.metrics import Metrics
from hedgeserve.replica import RoutingSnapshot
from tests.upstreams import CHAT, WHOLE_STREAM, Engine, Reply, make_spec


async def issued(directory: Path) -> tuple[Authority, EngineTls]:
    authority = Authority(directory)
    return authority, await authority.issue("localhost", "127.0.0.1")


def write(directory: Path, tls: EngineTls) -> dict[str, str]:
    certificate, key = directory / "shown.crt", directory / "shown.key"
    certificate.write_bytes(tls.certificate)
    key.write_bytes(tls.key)
    return {"tls_certificate": str(certificate), "tls_key": str(key)}


async def test_clients_speak_tls_to_the_endpoint(tmp_path: Path) -> None:
    """Streams, answers in one piece and checks alike, on one port; the URL says so."""
    authority, tls = await issued(tmp_path)
    async with Engine("e") as engine:
        balancer = Balancer(make_spec(service=write(tmp_path, tls)), Metrics())
        await balancer.start()
        try:
            balancer.update(RoutingSnapshot(1, (engine.target(),)))
            assert balancer.url.startswith("https://127.0.0.1:")
            connector = aiohttp.TCPConnector(ssl=authority.trust)
            async with aiohttp.ClientSession(connector=connector) as http:
                body = {"model": "demo", "messages": [], "stream": True}
                for _ in range(3):
                    async with http.post(balancer.url + CHAT, json=body, server_hostname="localhost") as response:
                        assert (await Reply.read(response)).body == WHOLE_STREAM
                async with http.get(balancer.url + "/livez", server_hostname="localhost") as response:
                    assert response.status == 200
        finally:
            await balancer.aclose()


async def test_whoever_speaks_plain_http_to_it_is_dropped_and_nobody_else(tmp_path: Path) -> None:
    """A client that got the scheme wrong costs one connection."""
    authority, tls = await issued(tmp_path)
    balancer = Balancer(make_spec(service=write(tmp_path, tls)), Metrics())
    await balancer.start()
    try:
        host, port = balancer.url.removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.trust)) as http,
            http.get(balancer.url + "/livez", server_hostname="localhost") as response,
        ):
            assert response.status == 200
    finally:
        await balancer.aclose()


async def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A missing certificate, and a key of another one."""
    _, tls = await issued(tmp_path)
    files = write(tmp_path, tls)
    with pytest.raises(ListenError, match=r"service.tls_certificate: /nowhere.crt is no file"):
        Balancer(make_spec(service={"tls_certificate": "/nowhere.crt"}), Metrics())
    (tmp_path / "shown.key").write_bytes((await issued(tmp_path))[1].key)
    with pytest.raises(ListenError, match="both must be PEM and belong together"):
        Balancer(make_spec(service=files), Metrics())


async def test_who_has_not_shaken_hands_counts_as_a_connection(tmp_path: Path) -> None:
    """Or silent connections would not be bounded; those that have, or have left, count once and not for ever."""
    authority, tls = await issued(tmp_path)
    spec = make_spec(service=write(tmp_path, tls), limits={"max_connections": 3})
    balancer = Balancer(spec, Metrics())
    await balancer.start()
    try:
        host, port = balancer.url.removeprefix("https://").split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            assert await reader.read() == b""  # closed at once
            writer.close()
            silent[0][1].close()
            silent[1][1].close()
            answered = 0
            while answered < 5:  # one after the other, each on a connection of its own
                connector = aiohttp.TCPConnector(ssl=authority.trust, force_close=True)
                async with aiohttp.ClientSession(connector=connector) as http:
                    try:
                        async with http.get(balancer.url + "/livez", server_hostname="localhost") as response:
                            answered += response.status == 200
                    except aiohttp.ClientConnectionError:
                        await asyncio.sleep(0)  # the two have not been seen to leave yet
        silent[2][1].close()
    finally:
        await balancer.aclose()


def shown(port: int) -> bytes:
    """The certificate that a client is shown now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=None) as spoken,
    ):
        certificate = spoken.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


async def test_a_new_certificate_is_taken_without_closing_a_connection(tmp_path: Path) -> None:
    """Files change; who comes is shown the new one, who is there goes on; what cannot be used changes nothing."""
    authority, tls = await issued(tmp_path)
    files = write(tmp_path, tls)
    metrics = Metrics()
    balancer = Balancer(make_spec(service=files), metrics)
    await balancer.start()
    entrance = Entrance(tmp_path, balancer, metrics)
    await entrance.open()
    try:
        port = int(balancer.url.rpartition(":")[2])
        first = await asyncio.to_thread(shown, port)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.trust, limit=1)) as http:
            ask = functools.partial(http.get, balancer.url + "/livez", server_hostname="localhost")
            async with ask() as response:
                connection = response.connection
                assert response.status == 200

            Path(files["tls_key"]).write_bytes(b"half of a key")  # noqa: ASYNC240
            await entrance.renew(changed_only=True)
            assert "the certificate that was read before stays in use" in entrance.troubles[0]
            assert await asyncio.to_thread(shown, port) == first

            write(tmp_path, await authority.issue("localhost", "127.0.0.1"))
            await entrance.renew(changed_only=True)
            assert list(entrance.troubles) == []
            assert await asyncio.to_thread(shown, port) != first
            async with ask() as response:
                assert response.status == 200
                assert response.connection is connection or connection is None
        assert b'hedgeserve_tls_certificate_expiry_timestamp_seconds{address="service"}' in metrics.render()
    finally:
        await balancer.aclose()


async def test_a_certificate_that_ends_soon_is_said(tmp_path: Path) -> None:
    """Two weeks ahead, and when it has happened."""
    for days, said in ((30, None), (3, "expires at "), (-1, "expired at ")):
        certificate = self_signed(tmp_path, ends_at=datetime.now(UTC) + timedelta(days=days))
        balancer = Balancer(make_spec(service={"tls_certificate": certificate}), Metrics())
        entrance = Entrance(tmp_path, balancer, Metrics())
        await entrance.open()
        assert [said in text for text in entrance.troubles if said] == [True] * bool(said)
        assert bool(entrance.troubles) == bool(said)


def self_signed(directory: Path, *, ends_at: datetime) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends_at - timedelta(days=90))
        .not_valid_after(ends_at)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "self.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return str(path)
