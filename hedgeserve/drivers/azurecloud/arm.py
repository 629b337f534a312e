"""Azure Resource Manager through Libcloud's driver, where that one falls short.

Libcloud's connection logs in by client secret only, always goes to https on port 443, takes 204 for a failure and
keeps of an error only a text; its driver knows no spot VMs, zones or inline network interfaces. What is used of
both is how they send, and nothing here sleeps: operations are polled by who can wait.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from libcloud.common.azure_arm import AzureJsonResponse, AzureResourceManagementConnection
from libcloud.common.base import Connection
from libcloud.compute.drivers.azure_arm import AzureNodeDriver

from hedgeserve.drivers.azurecloud.login import Tokens

COMPUTE_VERSION = "2024-11-01"
"""Of Microsoft.Compute; the first one whose inline interfaces and addresses take tags."""
NETWORK_VERSION = "2025-05-01"
DISK_VERSION = "2024-03-02"
GROUPS_VERSION = "2021-04-01"

_TIMEOUT_S = 30.0
_MOST_PAGES = 200
_LONGEST_RETRY_AFTER_S = 3600.0

Json = dict[str, Any]


class ArmFault(Exception):
    """An error answer of the API, or an operation that failed: its code, what it said, how long to wait."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: float = 0.0) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {code}: {message}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said: the resource, and where an operation that goes on may be asked after.

    ``operation`` is the URL of Azure-AsyncOperation, ``location`` that of Location; empty where there is none.
    """

    status: int
    body: Json
    operation: str = ""
    location: str = ""
    retry_after_s: float | None = None


class _ArmResponse(AzureJsonResponse):
    def success(self) -> bool:
        return 200 <= int(self.status) < 300

    def parse_body(self) -> Any:
        return json.loads(self.body) if self.body else {}

    def parse_error(self) -> str:
        retry_after_s = _seconds(self.headers.get("retry-after")) or 0.0
        raise fault_of(int(self.status), self.body or "", retry_after_s)


class _ArmConnection(AzureResourceManagementConnection):
    responseCls = _ArmResponse

    def __init__(self, *given: Any, tokens: Tokens, endpoint: str, **options: Any) -> None:
        super().__init__(*given, **options)  # type: ignore[no-untyped-call]
        parts = urlsplit(endpoint)
        self.host = parts.hostname or ""
        self.secure = int(parts.scheme == "https")
        self.port = parts.port or (443 if self.secure else 80)
        self.request_path = parts.path
        self._tokens = tokens

    def get_token_from_credentials(self) -> None:
        self.access_token = self._tokens.current()
        self.expires_on = 2**40  # the tokens know better when

    def connect(self, host: Any = None, port: Any = None, base_url: Any = None, **options: Any) -> None:
        self.get_token_from_credentials()
        # Past the parent's, which logs in again.
        Connection.connect(self, host, port, base_url, **options)  # type: ignore[no-untyped-call]

    def request(self, action: str, *given: Any, **options: Any) -> Any:
        """As Libcloud's, with the present token; once more with a new one if that was refused."""
        self.get_token_from_credentials()
        try:
            return super().request(action, *given, **options)  # type: ignore[no-untyped-call]
        except ArmFault as fault:
            if fault.status != 401:
                raise
            self._tokens.forget(self.access_token)
            self.get_token_from_credentials()
            return super().request(action, *given, **options)  # type: ignore[no-untyped-call]


class ArmDriver(AzureNodeDriver):
    """The API of one subscription; used by one thread at a time.

    Raises (all methods):
        ArmFault: The API answered with an error.
        AuthError: There is no token to ask with.
    """

    connectionCls: type[AzureResourceManagementConnection] = _ArmConnection

    def __init__(self, *, tokens: Tokens, endpoint: str, subscription: str, region: str) -> None:
        self._connection_options = {"tokens": tokens, "endpoint": endpoint}
        # Tenant, key and secret are Libcloud's way to log in, which is not used.
        environment = {
            "resourceManagerEndpointUrl": endpoint,
            "activeDirectoryEndpointUrl": "",
            "activeDirectoryResourceId": "",
            "storageEndpointSuffix": "",
        }
        super().__init__(  # type: ignore[no-untyped-call]
            "", subscription, "", "", region=region, cloud_environment=environment, timeout=_TIMEOUT_S
        )

    def _ex_connection_class_kwargs(self) -> Json:
        options = super()._ex_connection_class_kwargs()  # type: ignore[no-untyped-call]
        return {**options, **self._connection_options}

    def call(
        self,
        method: str,
        path: str,
        *,
        version: str,
        body: Json | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; ``path`` begins at the subscription, such as ``/resourceGroups/x``."""
        return self._ask(
            method,
            f"/subscriptions/{self.subscription_id}{path}",
            params={"api-version": version, **(params or {})},
            data=body,
            headers=dict(headers or {}),
        )

    def follow(self, url: str) -> Answer:
        """What a URL that the API gave says now; only its path and query are used, the host stays ours."""
        parts = urlsplit(url)
        path = parts.path.removeprefix(self.connection.request_path)
        return self._ask("GET", f"{path}?{parts.query}")

    def items(self, path: str, *, version: str, params: Mapping[str, str] | None = None) -> list[Json]:
        """All that a list has, of all its pages."""
        answer = self.call("GET", path, version=version, params=params)
        found: list[Json] = list(answer.body.get("value", ()))
        for _ in range(_MOST_PAGES):
            if not (more := answer.body.get("nextLink")):
                return found
            answer = self.follow(more)
            found += answer.body.get("value", ())
        raise ArmFault(200, "EndlessList", f"the list {path} has more than {_MOST_PAGES} pages")

    def _ask(self, method: str, action: str, **options: Any) -> Answer:
        response = self.connection.request(action, method=method, **options)  # type: ignore[no-untyped-call]
        body = response.object
        return Answer(
            status=int(response.status),
            body=body if isinstance(body, dict) else {},
            operation=response.headers.get("azure-asyncoperation", ""),
            location=response.headers.get("location", ""),
            retry_after_s=_seconds(response.headers.get("retry-after")),
        )


def fault_of(status: int, body: str, retry_after_s: float = 0.0) -> ArmFault:
    """What an error answer says; one without ARM's error object has its status as its code."""
    try:
        error = json.loads(body).get("error", {})
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
    except (ValueError, AttributeError):
        code, message = "", ""
    return ArmFault(status, code or f"HTTP{status}", message or " ".join(body.split())[:200], retry_after_s)


def failure_of(operation: Json) -> ArmFault:
    """What an operation that did not succeed says of itself."""
    error = operation.get("error") or {}
    code, message = str(error.get("code") or operation.get("status")), str(error.get("message") or "")
    return ArmFault(200, code, message)


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; ARM does not use the form with a date."""
    if text is None or not text.strip().isdecimal():
        return None
    return min(float(text), _LONGEST_RETRY_AFTER_S)
