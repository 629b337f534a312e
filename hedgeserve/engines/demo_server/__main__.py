"""Serves until it is told to stop: ``python3 -m demo_server``."""

from __future__ import annotations

import os
import signal
import sys
import threading

from . import WHAT_I_AM
from .engine import Engine
from .handler import Handler
from .log import log
from .options import parser, settings_of
from .server import Server, tls_context


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; then stop at once, whatever is being answered."""
    given = parser().parse_args(arguments)
    settings = settings_of(given)
    log(WHAT_I_AM)
    threading.stack_size(512 * 1024)
    try:
        tls = tls_context(given.ssl_certfile, given.ssl_keyfile)
    except (OSError, ValueError) as error:  # ssl's own errors are OSErrors
        log(f"cannot use --ssl-certfile {given.ssl_certfile} with --ssl-keyfile {given.ssl_keyfile}: {error}")
        return 1
    try:
        server = Server(given.host, given.port, Engine(settings), Handler, tls)
    except OSError as error:
        log(f"cannot listen on {given.host}:{given.port}: {error.strerror}; give another --host or --port")
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
    key = "with" if settings.api_key else "without"
    scheme = "https" if tls else "http"
    log(f"{given.model!r} listens on {scheme}://{given.host}:{server.server_port}, {key} an API key")
    died = not stop.wait(given.die_after)
    log("died, as --die-after asked" if died else "stopped by a signal")
    # Not sys.exit: threads that are answering could hold up the interpreter's end.
    os._exit(1 if died else 0)


if __name__ == "__main__":
    sys.exit(main())
