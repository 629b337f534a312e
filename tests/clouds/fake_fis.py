"""FIS on loopback: moto's templates and experiments, behind a layer that holds every request against the contract.

How an experiment goes is for the test to say (:attr:`FakeFis.course`). What it does to a VM is not this fake's.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from typing import Any

from tests.clouds.contract_ec2 import Received, check_signature
from tests.clouds.contract_fis import Called, called, check
from tests.clouds.ec2_wire import Handler

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")

from moto.core import DEFAULT_ACCOUNT_ID
from moto.fis.models import fis_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

ROLE = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/hedgeserve-fis"
_JSON = "application/json"
_STATUS = {"ServiceQuotaExceededException": 402, "AccessDeniedException": 403, "ThrottlingException": 429}


class _Server(ThreadingHTTPServer):
    """Says nothing of controllers that were killed in the middle of a connection."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What else goes wrong is the fake's own mistake."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class FakeFis:
    """FIS, and STS as far as it tells whose keys these are. ``violations`` must be empty at the end of a test.

    ``course`` is how each look at an experiment finds it: status and reason, the last one for ever. ``allowed``:
    operations that the caller's policy grants. ``refusals``: code and message of the next request of an operation.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self._moto = Client(DomainDispatcherApplication(create_backend_app))
        self._lock = threading.RLock()
        fake = self

        class Bound(Handler):
            def do_POST(self) -> None:
                fake._serve(self)

            do_GET = do_DELETE = do_POST

        self._server = _Server(("127.0.0.1", 0), Bound)
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake FIS", args=(0.05,))
        self._thread.start()
        self.reset()

    def reset(self) -> None:
        """An account in which nobody has asked for anything."""
        with self._lock:
            for backend in fis_backends[DEFAULT_ACCOUNT_ID].values():
                backend.reset()
            self.violations: list[str] = []
            self.asked: list[Called] = []
            self.allowed: set[str] | None = None
            self.refusals: dict[str, list[tuple[str, str]]] = {}
            self.course: list[dict[str, Any]] = [{"status": "running"}, {"status": "completed"}]
            self.before: Callable[[str], None] = lambda name: None
            self.account = DEFAULT_ACCOUNT_ID

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def names(self) -> list[str]:
        """Which operations were asked for, in order."""
        return [one.name for one in self.asked]

    def of(self, name: str) -> list[Mapping[str, Any]]:
        """What was given to each call of an operation."""
        return [one.given for one in self.asked if one.name == name]

    def templates(self, region: str = "us-east-1") -> dict[str, Any]:
        """Those that are there."""
        found: dict[str, Any] = fis_backends[DEFAULT_ACCOUNT_ID][region].experiment_templates
        return found

    def age(self, by: timedelta) -> None:
        """All templates were made so much earlier."""
        for template in self.templates().values():
            template.creation_time = (datetime.now(UTC) - by).timestamp()

    def _serve(self, handler: Handler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Received(handler.command, handler.path, headers, body)
        if b"Action=GetCallerIdentity" in body:
            self._answer(handler, 200, self._identity(), "text/xml")
            return
        problems, found = check(request), called(request)
        secret = self._keys.get(request.access_key, "")
        problems += check_signature(request, secret, "fis")
        if problems or found is None:
            self.violations += problems
            self._refuse(handler, "ValidationException", "; ".join(problems))
            return
        self.before(found.name)
        with self._lock:
            self.asked.append(found)
            refusals = self.refusals.get(found.name)
            if refusals:
                self._refuse(handler, *refusals.pop(0))
                return
            wanted = {found.name} | ({"TagResource"} if found.given.get("tags") else set())
            if self.allowed is not None and (lacking := wanted - self.allowed):
                self._refuse(
                    handler,
                    "AccessDeniedException",
                    f"User: arn:aws:iam::{self.account}:user/hs is not authorized to perform: fis:{min(lacking)} "
                    f"on resource: arn:aws:fis:us-east-1:{self.account}:experiment-template/*",
                )
                return
            if found.name == "GetAction":  # which moto has not
                self._answer(handler, 200, json.dumps({"action": {"id": found.given["id"]}}).encode(), _JSON)
                return
            answer = self._moto.open(handler.path, method=request.method, data=body, headers=self._passed(headers))
            told = answer.data
            if found.name == "GetExperiment" and answer.status_code == 200:
                document = json.loads(told)
                document["experiment"]["state"] = self.course[0] if len(self.course) == 1 else self.course.pop(0)
                told = json.dumps(document).encode()
        self._answer(handler, answer.status_code, told, _JSON, answer.headers.get("x-amzn-ErrorType"))

    def _identity(self) -> bytes:
        return (
            '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>arn:aws:iam::{self.account}:user/hs</Arn><UserId>AIDA</UserId><Account>{self.account}</Account>"
            "</GetCallerIdentityResult></GetCallerIdentityResponse>"
        ).encode()

    @staticmethod
    def _passed(headers: Mapping[str, str]) -> dict[str, str]:
        return {name: headers[name] for name in ("authorization", "content-type") if name in headers}

    def _refuse(self, handler: Handler, code: str, message: str) -> None:
        body = json.dumps({"message": message}).encode()
        self._answer(handler, _STATUS.get(code, 400), body, _JSON, code)

    def _answer(self, handler: Handler, status: int, body: bytes, kind: str, error: str | None = None) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        if error:
            head += f"x-amzn-errortype: {error}\r\n"
        try:
            handler.wfile.write(f"{head}\r\n".encode() + body)
        except OSError:
            handler.close_connection = True
