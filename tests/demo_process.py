"""The demo engine as a real process on its own loopback address, for tests of it and of what stands before it."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from hedgeserve.engines.demo import PACKAGE

# Without the environment's and the site's packages: what is served needs the standard library and nothing else.
DEMO_SERVER = (sys.executable, "-E", "-s", "-S", "-m", PACKAGE.name)
HOME = PACKAGE.parent
"""Where a process must run to find the package."""


@dataclass(frozen=True)
class Answer:
    """What an HTTP request came back with; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of a complete event stream, parsed; the last one is the text ``[DONE]``."""
        *events, rest = self.body.decode().split("\n\n")
        assert rest == ""
        data = [event.removeprefix("data: ") for event in events]
        return [item if item == "[DONE]" else json.loads(item) for item in data]


@dataclass(frozen=True)
class DemoProcess:
    """A running demo engine."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(
        self, path: str, body: object = None, *, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """One request: a POST where there is a body (bytes go as they are), else a GET."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers or {})
        if data is not None and not request.has_header("Content-type"):
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())

    def metric(self, name: str) -> float:
        """The sum of one of its metrics over all labels."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))

    def wait_metric(self, name: str, value: float, *, within_s: float = 10.0) -> float:
        """Seconds until a metric had this value; fails when it does not get there in time."""
        begun_s = time.monotonic()
        while (seen := self.metric(name)) != value:
            assert time.monotonic() < begun_s + within_s, f"{name} stays at {seen}, not {value}"
            time.sleep(0.005)
        return time.monotonic() - begun_s


@contextmanager
def demo_process(*options: str, api_key: str = "", home: Path = HOME) -> Iterator[DemoProcess]:
    """A demo engine with these options, listening when this returns; loaded and as fast as it can by default.

    ``home`` is the directory that holds its package.
    """
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    argv = [*DEMO_SERVER, "--host", host, "--port", "0"]
    argv += ["--load-time", "0s", "--tokens-per-second", "0", *options]
    environ = {**os.environ, "VLLM_API_KEY": api_key}
    with tempfile.NamedTemporaryFile(prefix="demo-engine-", suffix=".log") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd=home)
        try:
            yield DemoProcess(_listening(Path(log.name), process), process, Path(log.name))
        finally:
            process.kill()
            process.wait()


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _listening(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s and process.poll() is None:
        for line in log.read_text().splitlines():
            if " listens on http" in line:
                return line.partition(" listens on ")[2].partition(",")[0]
        time.sleep(0.01)
    raise AssertionError(f"the demo engine does not listen: {log.read_text()}")
