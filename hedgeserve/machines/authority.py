"""The service's own certificate authority: who speaks for an engine proves it with a certificate from here.

Every certificate names one VM, by the name of its incarnation and by its address, and only that name is asked
for: the key of one VM is of no use to another, and an address that passes from one to the next proves nothing.
"""

import asyncio
import ssl
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hedgeserve.errors import StateDirectoryError
from hedgeserve.machines.keys import write_private

_FILE = "authority.pem"
# Longer than any service: an authority that ended would take every engine that runs with it. What bounds the use
# of an engine's certificate is its name, which is no other VM's before or after.
_VALID = timedelta(days=30 * 365)
# For a controller that comes back with a clock that is behind.
_BACK_DATED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class EngineTls:
    """A certificate for one VM's engine with its private key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


class Authority:
    """The authority whose key and certificate lie in one file (0600) of a directory.

    :attr:`trust` is what a client of the engines verifies them with: this authority and no other.
    """

    def __init__(self, directory: Path) -> None:
        """Read the authority, making it at first use. Synchronous: used once, at start-up.

        Raises:
            StateDirectoryError: The file is damaged, or others can read it; says what to do.
        """
        path = directory / _FILE
        if not path.exists():
            write_private(path, _make_authority())
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise StateDirectoryError(
                f"others on this machine may have read the key in {path}; run `chmod 600 {path}` if you trust "
                "them, or delete the file: a new authority is made, and the replicas that run are replaced"
            )
        pem = path.read_bytes()
        try:
            key = serialization.load_pem_private_key(pem, password=None)
            self._certificate = x509.load_pem_x509_certificate(pem)
            if (
                not isinstance(key, ec.EllipticCurvePrivateKey)
                or key.public_key() != self._certificate.public_key()
            ):
                raise ValueError("key and certificate do not belong together")
        except ValueError as error:
            raise StateDirectoryError(
                f"the certificate authority in {path} is damaged ({error}); delete the file: a new one is made, "
                "and the replicas that run are replaced"
            ) from None
        self._key = key
        self.trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.trust.minimum_version = ssl.TLSVersion.TLSv1_2
        self.trust.load_verify_locations(cadata=self._certificate.public_bytes(serialization.Encoding.DER))

    async def issue(self, name: str, address: str) -> EngineTls:
        """A new certificate, with a key of its own, for the VM of this name at this IP address."""
        return await asyncio.to_thread(self._issue, name, address)

    def _issue(self, name: str, address: str) -> EngineTls:
        key, authority = ec.generate_private_key(ec.SECP256R1()), self._certificate
        names: list[x509.GeneralName] = [x509.DNSName(name), x509.IPAddress(ip_address(address))]
        certificate = (
            _build(name, key.public_key(), issuer=authority.subject, ends_at=authority.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        return EngineTls(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def _make_authority() -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), "HedgeServe service authority"
    certificate = (
        _build(name, key.public_key(), issuer=_named(name), ends_at=datetime.now(UTC) + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _build(
    name: str, key: ec.EllipticCurvePublicKey, *, issuer: x509.Name, ends_at: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _BACK_DATED)
        .not_valid_after(ends_at)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
