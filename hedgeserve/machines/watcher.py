"""Runs on the VM: reports by one JSON line each what its cloud's metadata service says of its end.

    python3 watcher.py aws|gcp|azure BASE_URL POLL_S LEASE_FILE

It is uploaded as it is and needs nothing but Python 3.8. While it runs it says ``alive`` and touches the lease
file every two seconds; it ends when its input ends or nobody takes its output, which is when the SSH session
behind it ends. The line ``approve`` in its input tells the cloud that nothing is left to wait for: Azure then
begins at once what it had announced; the others have no such word.

A controller that dies stops the lease at once; one that is cut off by a broken network stops it when the VM's
kernel gives the connection up, after some 15 minutes.
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
_GCP_MAINTENANCE_S = 60.0
_GCP_GPU_MAINTENANCE_S = 3600.0
_GPU = "/dev/nvidiactl"
# The first question of a VM's life switches Azure's service on, which may take two minutes.
_AZURE_FIRST_TIMEOUT_S = 130.0
_AZURE_TIMEOUT_S = 10.0
_AZURE_VERSION = "2020-07-01"
# After a reboot or on another host no engine runs; a VM that is frozen goes on after some seconds as it was.
_AZURE_ENDINGS = ("Preempt", "Terminate", "Reboot", "Redeploy")
_AZURE_OTHERS = ("Freeze",)
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
    url: str,
    headers: dict[str, str],
    method: str = "GET",
    timeout_s: float = _TIMEOUT_S,
    body: bytes | None = None,
) -> tuple[int, str, Message]:
    """Status, text and headers of the answer to one request."""
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
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


class Service:
    """One cloud's metadata service.

    Each of :attr:`looks` asks one question and calls its argument to wait before the next; it is taken for ever,
    in a thread of its own.
    """

    looks: list[Callable[[Callable[[], None]], None]]

    def approve(self) -> None:
        """Tell the cloud that what it announced may begin."""


class Aws(Service):
    """EC2: session token, then the spot notice (404 until there is one) and the rebalance recommendation."""

    def __init__(self, base: str) -> None:
        self.looks = [self.look]
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
            # A VM that is to hibernate begins to at once, whatever time is told.
            at_once = told["action"] == "hibernate"
            deadline = time.time() if at_once else ends_at.timestamp()
            say_notice(deadline, "aws spot/instance-action " + str(told["action"]))
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


class Gcp(Service):
    """Compute Engine: two long questions, answered when the VM is preempted or its host is to be serviced."""

    def __init__(self, base: str) -> None:
        self._instance = base + "/computeMetadata/v1/instance/"
        self._etags: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self.looks = [self.look_for_preemption, self.look_for_maintenance]

    def look_for_preemption(self, pause: Callable[[], None]) -> None:
        self._look("preempted", "TRUE", self._notice_s, pause)

    def look_for_maintenance(self, pause: Callable[[], None]) -> None:
        # A VM that migrates goes on meanwhile; one with a GPU cannot, and is told an hour before.
        self._look("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", self._maintenance_s, pause)

    def _look(self, name: str, ending: str, in_s: Callable[[], float], pause: Callable[[], None]) -> None:
        url, known = self._instance + name, self._etags.get(name, "")
        # The first question must not wait: the VM may be under notice already.
        query = f"?wait_for_change=true&timeout_sec={_GCP_WAIT_S}&last_etag={known}" if known else ""
        status, text, headers = ask(url + query, {"Metadata-Flavor": "Google"}, timeout_s=_GCP_WAIT_S + 10)
        expect(status, url, 200)
        self._etags[name] = headers.get("ETag", "")
        before, self._told[name] = self._told.get(name), text.strip()
        if self._told[name] == ending and before != ending:
            say("notice", deadline=None, in_s=in_s(), source="gcp instance/" + name)
        if before == self._told[name] == ending or known == self._etags[name]:
            pause()

    def _maintenance_s(self) -> float:
        return _GCP_GPU_MAINTENANCE_S if os.path.exists(_GPU) else _GCP_MAINTENANCE_S

    def _notice_s(self) -> float:
        """GCP does not say when; an attribute may, for VMs launched with a longer notice than the usual."""
        try:
            url = self._instance + "attributes/hedgeserve-notice-s"
            status, text, _ = ask(url, {"Metadata-Flavor": "Google"})
            return float(text) if status == 200 else _GCP_NOTICE_S
        except (MetadataTrouble, ValueError):
            return _GCP_NOTICE_S


class Azure(Service):
    """Azure: the document of scheduled events; those of other machines of a scale set do not count."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._events = base + "/metadata/scheduledevents?api-version=" + _AZURE_VERSION
        self._timeout_s = _AZURE_FIRST_TIMEOUT_S
        self._name: str | None = None
        self._seen: set[tuple[object, object]] = set()
        self._endings: list[object] = []
        self.looks = [self.look]

    def look(self, pause: Callable[[], None]) -> None:
        status, text, _ = ask(self._events, {"Metadata": "true"}, timeout_s=self._timeout_s)
        expect(status, self._events, 200)
        self._timeout_s = _AZURE_TIMEOUT_S
        for event in json.loads(text)["Events"]:
            kind = event["EventType"]
            if kind not in _AZURE_ENDINGS + _AZURE_OTHERS or not self._is_ours(event.get("Resources")):
                continue
            key = (event["EventId"], event.get("NotBefore"))
            if key in self._seen:
                continue
            self._seen.add(key)
            source = "azure scheduledevents " + kind
            if kind in _AZURE_OTHERS:
                say("remark", what=source + (" at " + event["NotBefore"] if event.get("NotBefore") else ""))
                continue
            self._endings = [known for known in self._endings if known != event["EventId"]] + [event["EventId"]]
            if event.get("NotBefore"):
                say_notice(email.utils.parsedate_to_datetime(event["NotBefore"]).timestamp(), source)
            else:
                say("notice", deadline=None, in_s=0.0, source=source)
        pause()

    def approve(self) -> None:
        if not self._endings:
            return
        body = json.dumps({"StartRequests": [{"EventId": known} for known in self._endings]}).encode("ascii")
        headers = {"Metadata": "true", "Content-Type": "application/json"}
        status, _, _ = ask(self._events, headers, method="POST", body=body)
        expect(status, self._events, 200)

    def _is_ours(self, resources: list[str] | None) -> bool:
        if self._name is None:
            query = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            status, text, _ = ask(self._base + query, {"Metadata": "true"})
            self._name = text.strip() if status == 200 else ""
        # Where the name cannot be had, a false alarm is cheaper than a missed one.
        return not self._name or not resources or self._name in resources


DIALECTS: dict[str, Callable[[str], Service]] = {"aws": Aws, "gcp": Gcp, "azure": Azure}


def watch(look: Callable[[Callable[[], None]], None], poll_s: float) -> NoReturn:
    """Ask for ever. Trouble is told when it begins, and that it is over by another ``watching``."""
    trouble: str | None = None
    while True:
        try:
            look(lambda: time.sleep(poll_s))
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


def obey(service: Service) -> NoReturn:
    """Do as the lines of the input say; end the process when they end."""
    for line in sys.stdin.buffer:
        if line.strip() == b"approve":
            try:
                service.approve()
                say("approved", refused="")
            except MetadataTrouble as error:
                say("approved", refused=str(error))
    os._exit(0)


def live_by(work: Callable[..., NoReturn], *arguments: object) -> None:
    """Do this in a thread whose end is the end of the process: a watcher that went blind must not say it lives."""

    def run() -> None:
        try:
            work(*arguments)
        finally:
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()


def main() -> None:
    dialect, base, poll_s, lease_file = sys.argv[1:]
    service = DIALECTS[dialect](base.rstrip("/"))
    say("watching")
    live_by(obey, service)
    for look in service.looks:
        live_by(watch, look, float(poll_s))
    beat(lease_file)


if __name__ == "__main__":
    main()
