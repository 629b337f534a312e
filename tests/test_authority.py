"""The certificate authority of a service: kept whole, and trusted for its own VMs, each by its name."""

import asyncio
import os
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hedgeserve.errors import StateDirectoryError
from hedgeserve.machines.authority import Authority, EngineTls
from tests.tls import server_context


@asynccontextmanager
async def answering(tls: EngineTls, directory: Path) -> AsyncIterator[int]:
    """The port of a server on loopback that speaks TLS with this certificate."""

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=server_context(tls, directory))
    async with server:
        yield server.sockets[0].getsockname()[1]


async def shake_hands(port: int, trust: ssl.SSLContext, name: str) -> str:
    """The version of TLS that was agreed on with the server."""
    async with asyncio.timeout(5):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
        version: str = writer.get_extra_info("ssl_object").version()
        writer.transport.abort()
        return version


async def test_a_vm_is_believed_by_its_name_and_by_its_address(tmp_path: Path) -> None:
    """With the newest TLS there is, and by the strictest reading of X.509."""
    authority = Authority(tmp_path)
    tls = await authority.issue("small-1", "127.0.0.1")
    authority.trust.verify_flags |= ssl.VERIFY_X509_STRICT
    async with answering(tls, tmp_path) as port:
        assert await shake_hands(port, authority.trust, "small-1") == "TLSv1.3"
        assert await shake_hands(port, authority.trust, "127.0.0.1") == "TLSv1.3"


async def test_a_vm_is_not_believed_under_the_name_of_another(tmp_path: Path) -> None:
    """Nor at an address that is not its own: its key is of no use there."""
    authority = Authority(tmp_path)
    async with answering(await authority.issue("small-1", "10.0.0.1"), tmp_path) as port:
        for name in ("small-2", "127.0.0.1"):
            with pytest.raises(ssl.SSLCertVerificationError, match="match"):
                await shake_hands(port, authority.trust, name)


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    """Even one that bears the right name."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    theirs = await Authority(tmp_path / "theirs").issue("small-1", "127.0.0.1")
    async with answering(theirs, tmp_path) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
            await shake_hands(port, Authority(tmp_path / "ours").trust, "small-1")


async def test_what_was_issued_before_a_restart_is_believed_after_it(tmp_path: Path) -> None:
    """The authority is made once; engines outlive their controller."""
    before = Authority(tmp_path)
    async with answering(await before.issue("small-1", "127.0.0.1"), tmp_path) as port:
        assert await shake_hands(port, Authority(tmp_path).trust, "small-1")


async def test_certificates_are_back_dated_and_outlive_any_vm(tmp_path: Path) -> None:
    """The controller's clock may be behind, and no engine falls silent because a day has come."""
    tls = await Authority(tmp_path).issue("small-1", "2001:db8::1")
    certificate = x509.load_pem_x509_certificate(tls.certificate)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now - timedelta(hours=23)
    assert certificate.not_valid_after_utc > now + timedelta(days=10000)


async def test_no_private_key_is_shown(tmp_path: Path) -> None:
    """A repr ends in logs."""
    assert "PRIVATE" not in repr(await Authority(tmp_path).issue("small-1", "127.0.0.1"))


def test_the_file_is_private_and_nothing_else_is_written(tmp_path: Path) -> None:
    """Keys of VMs are not kept; the authority's own only its owner can read."""
    asyncio.run(Authority(tmp_path).issue("small-1", "127.0.0.1"))
    assert [path.name for path in tmp_path.iterdir()] == ["authority.pem"]
    assert stat.S_IMODE((tmp_path / "authority.pem").stat().st_mode) == 0o600


def test_an_authority_that_died_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    """kill -9 in the middle of writing: half a file lies beside it, and is not taken for one."""
    program = (
        "import os, pathlib, sys\n"
        "from hedgeserve.machines import keys\n"
        "keys.os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "from hedgeserve.machines.authority import Authority\n"
        "Authority(pathlib.Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=30, check=False)
    assert done.returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == ["authority.part"]
    Authority(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["authority.pem"]


@pytest.mark.parametrize(
    "damage", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_authority_is_not_replaced_behind_ones_back(tmp_path: Path, damage: bytes) -> None:
    """Every engine that runs would be refused by a new one: a person decides."""
    (tmp_path / "authority.pem").write_bytes(damage)
    (tmp_path / "authority.pem").chmod(0o600)
    with pytest.raises(StateDirectoryError, match=r"is damaged .* delete the file"):
        Authority(tmp_path)


def test_a_key_of_one_and_a_certificate_of_another_are_no_authority(tmp_path: Path) -> None:
    """A file put together from two."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        Authority(tmp_path / name)
    key = serialization.load_pem_private_key((tmp_path / "one" / "authority.pem").read_bytes(), None)
    other = x509.load_pem_x509_certificate((tmp_path / "other" / "authority.pem").read_bytes())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    mixed = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + other.public_bytes(pem)
    (tmp_path / "one" / "authority.pem").write_bytes(mixed)
    with pytest.raises(StateDirectoryError, match="do not belong together"):
        Authority(tmp_path / "one")


def test_an_authority_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """They could speak for any engine."""
    Authority(tmp_path)
    os.chmod(tmp_path / "authority.pem", 0o644)
    with pytest.raises(StateDirectoryError, match="chmod 600"):
        Authority(tmp_path)
