"""SkyServe's load balancer alone, with a stub for its controller; run by the interpreter that has skypilot.

usage: skyserve.py PORT CONTROLLER_PORT URL...
"""

import functools
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


class Controller(BaseHTTPRequestHandler):
    """Tells the balancer of the same replicas each time it asks."""

    urls: tuple[str, ...] = ()

    def do_POST(self) -> None:
        """Answer the balancer's request for news."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"replica_info": {url: {} for url in self.urls}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until terminated."""
    from sky.serve import load_balancer  # only where skypilot is installed

    port, controller_port = int(sys.argv[1]), int(sys.argv[2])
    Controller.urls = tuple(sys.argv[3:])
    controller = HTTPServer(("127.0.0.1", controller_port), Controller)
    threading.Thread(target=controller.serve_forever, daemon=True).start()
    # A line of log for each request would be measured with it.
    for name in ("sky", "sky.serve.load_balancer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            handler.setLevel(logging.WARNING)
    load_balancer.uvicorn.run = functools.partial(load_balancer.uvicorn.run, access_log=False)
    balancer = load_balancer.SkyServeLoadBalancer(f"http://127.0.0.1:{controller_port}", port, "round_robin")
    balancer.run()


if __name__ == "__main__":
    main()
