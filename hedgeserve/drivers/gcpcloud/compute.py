"""Libcloud's Compute Engine driver, made fit: one request a call, no waiting, no token files, no lost errors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from libcloud.common.base import ConnectionUserAndKey
from libcloud.compute.drivers.gce import GCEConnection, GCENodeDriver, GCEResponse

from hedgeserve._version import __version__
from hedgeserve.drivers.gcpcloud.credentials import Login
from hedgeserve.drivers.gcpcloud.faults import GceFault, fault_of

PUBLIC_ENDPOINT = "https://compute.googleapis.com"
_TIMEOUT_S = 30.0
_PAGE = "500"

Json = dict[str, Any]


class ComputeResponse(GCEResponse):
    """Raises a GceFault with all that the answer says; Libcloud keeps one error of it, and trips over some."""

    def parse_body(self) -> Json:
        """The body's object, empty for an empty body."""
        try:
            body = json.loads(self.body) if self.body else {}
        except ValueError:
            body = self.body
        if self.status >= 400 or not isinstance(body, dict):
            raise fault_of(self.status, body, str(self.headers.get("retry-after") or ""))
        return body


class ComputeConnection(GCEConnection):
    """A connection whose requests are signed with a Login's tokens, to any endpoint."""

    responseCls = ComputeResponse
    login: Login

    def __init__(
        self, user_id: str, secure: bool, *, login: Login, endpoint: str, timeout: float, **kwargs: Any
    ) -> None:
        place = urlsplit(endpoint)
        # GCEConnection's parents would look for credentials here, and write tokens into the home directory.
        ConnectionUserAndKey.__init__(  # type: ignore[no-untyped-call]
            self,
            user_id,
            None,
            secure=place.scheme == "https",
            host=place.hostname,
            port=place.port,
            timeout=timeout,
            **kwargs,
        )
        self.login = login
        self.gce_params = None
        self.request_path = f"{place.path}/compute/v1/"
        self.user_agent_append(f"hedgeserve/{__version__}")  # type: ignore[no-untyped-call]

    def connect(self, *args: Any, **kwargs: Any) -> None:
        """Open a session in which nothing but the token authenticates, whatever ~/.netrc has."""
        super().connect(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self.connection is not None and self.connection.session is not None:
            self.connection.session.auth = _as_it_is

    def pre_connect_hook(self, params: Json, headers: dict[str, str]) -> tuple[Json, dict[str, str]]:
        """Sign the request."""
        self.login.sign(headers)
        return params, headers


@dataclass(frozen=True, slots=True)
class Aggregate:
    """All pages of a project-wide list, and the scopes (``zones/us-east1-b``) that could not be asked just now."""

    items: Sequence[Json]
    unreachable: Sequence[str]


class Compute(GCENodeDriver):
    """One project's Compute Engine; paths are relative to ``projects/<project>/`` unless they say otherwise.

    Every method is one request, or one for each page; none waits for an operation. All raise GceFault for what the
    API refuses, and what google-auth and requests raise.
    """

    connectionCls = ComputeConnection  # type: ignore[assignment]
    connection: ComputeConnection

    def __init__(self, login: Login, endpoint: str = "", timeout_s: float = _TIMEOUT_S) -> None:
        self.login = login
        self.endpoint = endpoint or PUBLIC_ENDPOINT
        self.endpoint_given = bool(endpoint)
        super().__init__(  # type: ignore[no-untyped-call]
            "google-auth", project=login.project(), timeout=timeout_s
        )

    def call(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Json | None = None
    ) -> Json:
        """The answer to one request."""
        if not path.startswith("projects/"):
            path = f"projects/{self.project}/{path}"
        answer = self.connection.request(  # type: ignore[no-untyped-call]
            quote(path), params=dict(params or {}), data=body, method=method, retry_failed=False
        )
        found: Json = answer.object
        return found

    def listed(self, path: str, **params: str) -> Sequence[Json]:
        """The items of all pages of a list."""
        items: list[Json] = []
        for page in self._pages(path, params):
            items.extend(page.get("items") or ())
        return items

    def aggregated(self, kind: str, **params: str) -> Aggregate:
        """The things of a kind (``instances``) in all zones."""
        items: list[Json] = []
        unreachable: list[str] = []
        for page in self._pages(f"aggregated/{kind}", params):
            unreachable.extend(page.get("unreachables") or ())
            for scope, found in (page.get("items") or {}).items():
                items.extend(found.get(kind) or ())
                if (found.get("warning") or {}).get("code") == "UNREACHABLE":
                    unreachable.append(scope)
        return Aggregate(items, unreachable)

    def maybe(self, method: str, path: str, **params: str) -> Json | None:
        """As :meth:`call`; None where there is no such thing."""
        try:
            return self.call(method, path, params=params)
        except GceFault as fault:
            if fault.status == 404 and not _is_of_project(fault.message):
                return None
            raise

    def _pages(self, path: str, params: Mapping[str, str]) -> Sequence[Json]:
        pages: list[Json] = []
        token = ""
        while True:
            more = {"pageToken": token} if token else {}
            pages.append(self.call("GET", path, params={**params, "maxResults": _PAGE, **more}))
            token = pages[-1].get("nextPageToken") or ""
            if not token:
                return pages

    def _ex_connection_class_kwargs(self) -> Json:
        return {"login": self.login, "endpoint": self.endpoint}


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_of_project(message: str) -> bool:
    # "The resource 'projects/p' was not found": it is not the thing that is missing.
    return message.count("/") == 1
