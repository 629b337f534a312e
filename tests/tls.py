"""Servers that show a certificate of the service's authority."""

import ssl
from pathlib import Path

from hedgeserve.machines.authority import EngineTls


def server_context(tls: EngineTls, directory: Path) -> ssl.SSLContext:
    """What a server needs to speak for this certificate; the files that ssl wants are gone when this returns."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = directory / "shown.crt", directory / "shown.key"
    for file, content in zip(files, (tls.certificate, tls.key), strict=True):
        file.write_bytes(content)
    context.load_cert_chain(*files)
    for file in files:
        file.unlink()
    return context
