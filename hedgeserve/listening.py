"""An address to listen on: the certificate that it answers with, and why it cannot be had."""

import errno
import socket
import ssl
from pathlib import Path

from hedgeserve.errors import ListenError


def server_tls(table: str, certificate: str, key: str) -> ssl.SSLContext | None:
    """TLS for an address, where ``table`` of model.toml names a certificate; blocking.

    Raises:
        ListenError: The files cannot be read, or are no certificate and key that belong together.
    """
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        if path and not Path(path).is_file():
            raise ListenError(f"{table}.{name}: {path} is no file that can be read; check the path")
    try:
        context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise ListenError(
            f"{table}.tls_certificate: {certificate} with {key or 'the key in the same file'} cannot be used "
            f"({error}); both must be PEM and belong together"
        ) from error
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
