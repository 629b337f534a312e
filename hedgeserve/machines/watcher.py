"""Runs on the VM: reports by one JSON line each what its cloud's metadata service says of its end.

    python3 watcher.py aws|gcp|azure BASE_URL POLL_S LEASE_FILE

It is uploaded as it is and needs nothing but Python 3.8. While it runs it says ``alive`` and touches the lease
file every two seconds; it ends when its input ends or nobody takes its output, which is when the SSH session
behind it ends. A controller that dies therefore stops the lease at once; one that is cut off by a broken network
stops it when the VM's kernel gives the connection up, after some 15 minutes.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timezone
from email.message import Message
from typing import NoReturn

_HEARTBEAT_S = 2.0
_TIMEOUT_S = 3.0
_AWS_TOKEN_TTL_S = 21600
_GCP_WAIT_S = 60
_GCP_NOTICE_S = 30.0
# The first question of a VM's life switches Azure's service on, which may take two minutes.
_AZURE_TIMEOUT_S = 130.0
_AZURE_VERSION = "2020-07-01"
_AZURE_ENDINGS = ("Preempt", "Terminate")
_MOST_TEXT_BYTES = 1 << 20

# Metadata is never asked for through a proxy, whatever the environment says.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_output = threading.Lock()


class MetadataTrouble(Exception):
    """The metadata service does not answer, or not as documented."""


def say(event: str, **facts: object) -> None:
    """Print one event; end the process when nobody listens."""
    line = json.dumps(dict(facts, event=event))
    try:
        with _output:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except (OSError, ValueError):
        os._exit(0)


def ask(
    url: str, headers: dict[str, str], method: str = "GET", timeout_s: float = _TIMEOUT_S
) -> tuple[int, str, Message]:
    """Status, text and headers of the answer to one request."""
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with _opener.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(_MOST_TEXT_BYTES).decode("utf-8"), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", error.headers
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MetadataTrouble(f"{url} does not answer: {error}") from error


def expect(status: int, url: str, *allowed: int) -> None:
    """Raise unless the status is one that the documentation promises."""
    if status not in allowed:
        raise MetadataTrouble(f"{url} answers with status {status}")


def say_notice(deadline: float, source: str) -> None:
    """Report an end whose time is known, in UTC seconds since 1970."""
    text = datetime.fromtimestamp(deadline, timezone.utc).isoformat()  # noqa: UP017 - datetime.UTC came with Python 3.11
    # Seconds from now by this clock, so that the controller's own need not agree with it.
    say("notice", deadline=text, in_s=round(max(0.0, deadline - time.time()), 3), source=source)


class Aws:
    """EC2: session token, then the spot notice (404 until there is one) and the rebalance recommendation."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._token = ""
        self._token_until_s = 0.0
        self._seen = ""
        self._rebalance = False

    def look(self, pause: Callable[[], None]) -> None:
        action = self._get("/latest/meta-data/spot/instance-action")
        if action and action != self._seen:
            told = json.loads(action)
            ends_at = datetime.strptime(told["time"], "%Y-%m-%dT%H:%M:%SZ").replace(
                tzinfo=timezone.utc  # noqa: UP017
            )
            say_notice(ends_at.timestamp(), "aws spot/instance-action " + str(told["action"]))
            self._seen = action
        if not self._rebalance and self._get("/latest/meta-data/events/recommendations/rebalance"):
            say("rebalance")
            self._rebalance = True
        pause()

    def _get(self, path: str) -> str:
        for _ in range(2):
            self._renew()
            url = self._base + path
            status, text, _ = ask(url, {"X-aws-ec2-metadata-token": self._token})
            if status != 401:
                break
            self._token_until_s = 0.0
        expect(status, url, 200, 404)
        return text if status == 200 else ""

    def _renew(self) -> None:
        if time.monotonic() < self._token_until_s:
            return
        url = self._base + "/latest/api/token"
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_AWS_TOKEN_TTL_S)}
        status, self._token, _ = ask(url, headers, method="PUT")
        expect(status, url, 200)
        self._token_until_s = time.monotonic() + _AWS_TOKEN_TTL_S / 2.0


class Gcp:
    """Compute Engine: one long question, answered at the moment the VM is preempted."""

    def __init__(self, base: str) -> None:
        self._instance = base + "/computeMetadata/v1/instance/"
        self._etag = ""
        self._told = False

    def look(self, pause: Callable[[], None]) -> None:
        url = self._instance + "preempted"
        # The first question must not wait: the VM may be under notice already.
        query = f"?wait_for_change=true&timeout_sec={_GCP_WAIT_S}&last_etag={self._etag}" if self._etag else ""
        status, text, headers = ask(url + query, {"Metadata-Flavor": "Google"}, timeout_s=_GCP_WAIT_S + 10)
        expect(status, url, 200)
        known, self._etag = self._etag, headers.get("ETag", "")
        if text.strip() == "TRUE" and not self._told:
            say("notice", deadline=None, in_s=self._notice_s(), source="gcp instance/preempted")
            self._told = True
        if self._told or known == self._etag:
            pause()

    def _notice_s(self) -> float:
        """GCP does not say when; an attribute may, for VMs launched with a longer notice than the usual."""
        try:
            url = self._instance + "attributes/hedgeserve-notice-s"
            status, text, _ = ask(url, {"Metadata-Flavor": "Google"})
            return float(text) if status == 200 else _GCP_NOTICE_S
        except (MetadataTrouble, ValueError):
            return _GCP_NOTICE_S


class Azure:
    """Azure: the document of scheduled events; those of other machines of a scale set do not count."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._name: str | None = None
        self._seen: set[tuple[object, object]] = set()

    def look(self, pause: Callable[[], None]) -> None:
        url = self._base + "/metadata/scheduledevents?api-version=" + _AZURE_VERSION
        status, text, _ = ask(url, {"Metadata": "true"}, timeout_s=_AZURE_TIMEOUT_S)
        expect(status, url, 200)
        for event in json.loads(text)["Events"]:
            if event["EventType"] not in _AZURE_ENDINGS or not self._is_ours(event.get("Resources")):
                continue
            key = (event["EventId"], event.get("NotBefore"))
            if key in self._seen:
                continue
            self._seen.add(key)
            source = "azure scheduledevents " + event["EventType"]
            if event.get("NotBefore"):
                say_notice(email.utils.parsedate_to_datetime(event["NotBefore"]).timestamp(), source)
            else:
                say("notice", deadline=None, in_s=0.0, source=source)
        pause()

    def _is_ours(self, resources: list[str] | None) -> bool:
        if self._name is None:
            query = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            status, text, _ = ask(self._base + query, {"Metadata": "true"})
            self._name = text.strip() if status == 200 else ""
        # Where the name cannot be had, a false alarm is cheaper than a missed one.
        return not self._name or not resources or self._name in resources


DIALECTS: dict[str, Callable[[str], Aws | Gcp | Azure]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}


def watch(service: Aws | Gcp | Azure, poll_s: float) -> NoReturn:
    """Ask for ever. Trouble is told when it begins, and that it is over by another ``watching``."""
    trouble: str | None = None
    while True:
        try:
            service.look(lambda: time.sleep(poll_s))
            if trouble is not None:
                say("watching")
            trouble = None
        except (MetadataTrouble, ValueError, KeyError, TypeError, AttributeError) as error:
            what = str(error) if isinstance(error, MetadataTrouble) else f"unexpected answer: {error!r}"
            if what != trouble:
                say("trouble", what=what)
            trouble = what
            time.sleep(poll_s)


def beat(lease_file: str) -> NoReturn:
    """Say that we live, to the controller and to the VM's dead-man switch."""
    trouble = ""
    while True:
        try:
            with open(lease_file, "a"):
                os.utime(lease_file)
        except OSError as error:
            if str(error) != trouble:
                say("trouble", what=f"the lease cannot be renewed: {error}")
            trouble = str(error)
        say("alive")
        time.sleep(_HEARTBEAT_S)


def end_with_input() -> NoReturn:
    """End the process when its input ends."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    dialect, base, poll_s, lease_file = sys.argv[1:]
    service = DIALECTS[dialect](base.rstrip("/"))
    say("watching")
    threading.Thread(target=end_with_input, daemon=True).start()
    threading.Thread(target=beat, args=(lease_file,), daemon=True).start()
    watch(service, float(poll_s))


if __name__ == "__main__":
    main()
