"""An address to listen on: the certificate that it answers with, and why it cannot be had."""

import errno
import socket
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

from hedgeserve.errors import ListenError


class Certificate:
    """The certificate that an address answers with, read from its files, and anew where they have changed.

    ``context`` is for the server, once and for all: each handshake takes what was read last, and connections that
    there are go on as they are. Making one, and :meth:`renew`, blocks.
    """

    def __init__(self, table: str, certificate: str, key: str) -> None:
        """``table`` of model.toml names the two files.

        Raises:
            ListenError: They cannot be read, or are no certificate and key that belong together.
        """
        self.table = table
        self.files = (Path(certificate), *((Path(key),) if key else ()))
        self._names = (certificate, key)
        self._current, self.expires_at = self._read()
        self.context = _new_context()
        self.context.load_cert_chain(certificate, key or None)
        self.context.sni_callback = self._answer_with_current  # called whether a name was asked for or not

    def renew(self) -> None:
        """Answer with what the files hold now.

        Raises:
            ListenError: That cannot be used; what was read before stays.
        """
        self._current, self.expires_at = self._read()

    def _answer_with_current(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _read(self) -> tuple[ssl.SSLContext, datetime]:
        from cryptography import x509

        certificate, key = self._names
        for name, path in (("tls_certificate", certificate), ("tls_key", key)):
            if path and not Path(path).is_file():
                raise ListenError(f"{self.table}.{name}: {path} is no file that can be read; check the path")
        context = _new_context()
        try:
            context.load_cert_chain(certificate, key or None)
            shown = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ListenError(
                f"{self.table}.tls_certificate: {certificate} with {key or 'the key in the same file'} cannot be "
                f"used ({error}); both must be PEM and belong together"
            ) from error
        return context, shown.not_valid_after_utc


def server_tls(table: str, certificate: str, key: str) -> Certificate | None:
    """The certificate of an address, where ``table`` of model.toml names one; blocking.

    Raises:
        ListenError: It cannot be used.
    """
    return Certificate(table, certificate, key) if certificate else None


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def why_not(listen: str, error: OSError, *, key: str) -> str:
    """Why an address cannot be listened on, and what to do; ``key`` is where model.toml names it."""
    if isinstance(error, socket.gaierror):
        return f"{listen}: there is no such host; set {key} to an address of this machine"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{listen} is in use by another program; stop it, or set {key} to another port "
                "(port 0 takes a free one)"
            )
        case errno.EACCES | errno.EPERM:
            return f"{listen} may not be used by this user; set {key} to a port of 1024 or above"
        case errno.EADDRNOTAVAIL | None:  # from Python 3.13 on asyncio says it in words alone
            return (
                f"{listen} is no address of this machine; set {key} to one that is, such as "
                "127.0.0.1 (this machine only) or 0.0.0.0 (all of its addresses)"
            )
        case _:
            return f"{listen} cannot be listened on: {error.strerror or error}; set {key} to another address"


def url_of(host: str, port: int, *, tls: bool) -> str:
    """The base URL of an address that is listened on, usable on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
