"""An Azure Resource Manager on loopback; it follows the documented protocol and holds requests to their contract.

Requests are answered as "Track asynchronous Azure operations" says: 201 or 202 with ``Azure-AsyncOperation`` or
``Location`` and ``Retry-After``, then the operation's own state. The same server tells retail prices. From another
process it is used by its URL, with what :meth:`FakeArm.environ` returns as environment: an ``az`` on the PATH that
prints a token as the real one does::

    with FakeArm(host) as azure:
        write_model_toml(azure.toml())  # [azure] with endpoint and subscription
        subprocess.Popen([...], env={**os.environ, **azure.environ(tmp_path)})
        ...
        azure.check()  # fails if any request broke the contract
"""

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from tests.clouds.arm_world import TYPES, VM, ArmWorld, Json, Operation, Refusal
from tests.clouds.contract_arm import ArmRequest, price_violations, violations
from tests.clouds.host import VmHost

SUBSCRIPTION = "5a1b2c3d-0000-4000-8000-0123456789ab"
TOKEN = "fake-azure-token"

_AZ = """#!/bin/sh
# As `az account get-access-token --output json --resource ...` answers; for tests.
echo "$@" >> '{log}'
cat '{answer}'
"""


@dataclass
class Trouble:
    """What goes wrong with the next ``times`` requests of this method whose path and query match.

    ``late``: the request is accepted, and what it began fails with this code. ``slow_s`` delays the answer, not
    what the request does; with no ``code`` nothing else is wrong.
    """

    method: str
    path: str
    code: str = ""
    message: str = ""
    status: int = 409
    times: int = 1
    late: bool = False
    slow_s: float = 0.0
    retry_after: str | None = None
    seen: int = 0


class FakeArm:
    """The fake; a context manager that serves from a thread of its own."""

    def __init__(self, host: VmHost | None = None, **world: Any) -> None:
        self.world = ArmWorld(SUBSCRIPTION, **({"host": host} if host is not None else {}), **world)
        self.tokens = {TOKEN}
        self.page_size = 100
        self.retry_after = "0"
        self.prices: list[Json] = []
        self.permissions: list[Json] = [{"actions": ["*"], "notActions": []}]
        self.skus: list[Json] = []
        self.usages: list[Json] = []
        self.requests: list[ArmRequest] = []
        self.price_queries: list[dict[str, str]] = []
        self.violations: list[str] = []
        self.troubles: list[Trouble] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Base URL, for azure.endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def prices_url(self) -> str:
        """Where the retail prices are."""
        return f"{self.url}/api/retail/prices"

    def __enter__(self) -> "FakeArm":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def toml(self) -> str:
        """The [azure] table of a model.toml that uses this fake."""
        return f'[azure]\nendpoint = "{self.url}"\nsubscription = "{SUBSCRIPTION}"\n'

    def environ(self, directory: Path, *, path: str = "/usr/bin:/bin") -> dict[str, str]:
        """Environment in which azure-identity gets a token from a pretended ``az``, written into ``directory``."""
        script, answer = directory / "az", directory / "az-answer.json"
        answer.write_text(
            json.dumps(
                {
                    "accessToken": TOKEN,
                    "expiresOn": "2099-01-01 00:00:00.000000",
                    "expires_on": 4070908800,
                    "subscription": SUBSCRIPTION,
                    "tenant": "00000000-0000-4000-8000-00000000beef",
                    "tokenType": "Bearer",
                }
            )
        )
        script.write_text(_AZ.format(log=directory / "az-calls", answer=answer))
        script.chmod(0o755)
        return {
            "PATH": f"{directory}:{path}",
            "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential",  # else managed identity is looked for first
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
        }

    def check(self) -> None:
        """Fail if any request was not as the API describes it."""
        assert not self.violations, "\n".join(self.violations)

    def sent(self, method: str, path: str = "") -> list[ArmRequest]:
        """The requests of this method whose path matches, oldest first."""
        return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    # How a request is answered

    def answer(self, request: ArmRequest) -> tuple[int, Json | None, dict[str, str]]:
        """Status, body and headers."""
        if request.path == "/api/retail/prices":
            return 200, self._price_page(dict(request.query)), {}
        self.requests.append(request)
        bad = violations(request)
        self.violations += [f"{request.method} {request.path}: {what}" for what in bad]
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return 401, _error("ExpiredAuthenticationToken", "The access token has expired."), {}
        if bad:
            return 400, _error("InvalidRequestContent", "; ".join(bad)), {}
        trouble = self._trouble(request)
        if trouble is not None and trouble.code and not trouble.late:
            headers = {"Retry-After": trouble.retry_after} if trouble.retry_after is not None else {}
            return trouble.status, _error(trouble.code, trouble.message), headers
        late = (trouble.code, trouble.message) if trouble is not None and trouble.late else None
        with self.world.lock:
            self.world.advance()
            try:
                status, body, headers = self._route(request, late)
            except Refusal as refusal:
                status, body, headers = refusal.status, _error(refusal.code, refusal.message), {}
            text = json.dumps(body)  # while nobody else changes it
        if trouble is not None and trouble.slow_s:
            time.sleep(trouble.slow_s)
        return status, json.loads(text), headers

    def _trouble(self, request: ArmRequest) -> Trouble | None:
        whole = f"{request.path}?{urlencode(request.query)}"
        with self.world.lock:
            for trouble in self.troubles:
                if (
                    trouble.seen < trouble.times
                    and trouble.method == request.method
                    and re.search(trouble.path, whole)
                ):
                    trouble.seen += 1
                    return trouble
        return None

    def _route(self, request: ArmRequest, late: tuple[str, str] | None) -> tuple[int, Any, dict[str, str]]:
        parts = request.path.strip("/").split("/")
        if parts[1] != SUBSCRIPTION:
            raise Refusal(404, "SubscriptionNotFound", f"The subscription '{parts[1]}' could not be found.")
        match [part.lower() for part in parts[2:]]:
            case ["resourcegroups"]:
                return self._page(request, self._tagged_groups(request.query))
            case ["resourcegroups", _]:
                return self._group(request, parts[3])
            case ["resourcegroups", _, "resources"]:
                self.world.group(parts[3])
                return self._page(
                    request, [_listed(thing, request.query) for thing in self.world.within(parts[3])]
                )
            case ["resourcegroups", _, "providers", provider, kind]:
                self.world.group(parts[3])
                return self._page(
                    request, [_told(t) for t in self.world.within(parts[3], TYPES[f"{provider}/{kind}"])]
                )
            case ["resourcegroups", _, "providers", provider, kind, _]:
                return self._thing(request, parts[3], TYPES[f"{provider}/{kind}"], parts[7], late)
            case ["resourcegroups", _, "providers", _, "virtualmachines", _, "simulateeviction"]:
                if self.world.vm(parts[7])["properties"].get("priority") != "Spot":
                    raise Refusal(409, "OperationNotAllowed", "SimulateEviction is for Azure Spot VMs only.")
                self.world.evict(parts[7])
                return 204, None, {}
            case ["providers", "microsoft.compute", "skus"]:
                return self._page(request, self.skus)
            case ["providers", "microsoft.compute", "locations", _, "usages"]:
                return self._page(request, self.usages)
            case ["providers", "microsoft.compute", "locations", _, "publishers", *_]:
                return 200, [{"name": "22.04.2026"}], {}
            case ["providers", "microsoft.authorization", "permissions"]:
                return self._page(request, self.permissions)
            case ["providers", "microsoft.compute", "virtualmachines"]:
                return self._page(request, self._statuses(request.query.get("statusOnly") == "true"))
            case ["providers", _, "locations", _, "operations", operation]:
                return self._operation(operation)
            case ["operationresults", operation]:
                known = self.world.operations[operation]
                return (202 if known.status == "InProgress" else 200), None, {}
        raise Refusal(404, "InvalidResourceType", f"The resource type of {request.path} could not be found.")

    def _group(self, request: ArmRequest, name: str) -> tuple[int, Any, dict[str, str]]:
        if request.method == "PUT":
            return *self.world.put_group(name, request.body), {}
        if request.method == "DELETE":
            operation = self.world.delete_group(name)
            url = f"{self.url}/subscriptions/{SUBSCRIPTION}/operationresults/{operation.id}?api-version=2021-04-01"
            return 202, None, {"Location": url, "Retry-After": self.retry_after}
        return 200, self.world.group(name), {}

    def _thing(
        self, request: ArmRequest, group: str, kind: str, name: str, late: tuple[str, str] | None
    ) -> tuple[int, Any, dict[str, str]]:
        world = self.world
        known = world.things.get(world.key(group, kind, name).lower())
        if request.method == "PUT":
            if known is not None and request.headers.get("if-none-match") == "*":
                raise Refusal(412, "PreconditionFailed", f"The resource {name} exists.")
            if kind == VM:
                status, thing, operation = world.put_vm(group, name, request.body, late)
            else:
                status, thing, operation = world.put_network(group, kind, name, request.body)
            return status, _told(thing), self._async(kind, operation)
        if request.method == "DELETE":
            begun = world.delete_vm(group, name) if kind == VM else world.delete_thing(group, kind, name)
            return (204, None, {}) if begun is None else (202, None, self._async(kind, begun))
        world.group(group)
        if known is None:
            raise Refusal(404, "ResourceNotFound", f"The Resource '{kind}/{name}' under '{group}' was not found.")
        return 200, _told(known), {}

    def _async(self, kind: str, operation: Operation) -> dict[str, str]:
        base = (
            f"{self.url}/subscriptions/{SUBSCRIPTION}/providers/{kind.split('/')[0]}/locations/eastus/operations"
        )
        return {
            "Azure-AsyncOperation": f"{base}/{operation.id}?api-version=2024-11-01",
            "Retry-After": self.retry_after,
        }

    def _operation(self, name: str) -> tuple[int, Any, dict[str, str]]:
        operation = self.world.operations.get(name)
        if operation is None:
            raise Refusal(404, "NotFound", "The operation was not found.")
        body: Json = {"name": name, "status": operation.status, "startTime": "2026-11-24T00:00:00Z"}
        if operation.status == "Failed" and operation.error is not None:
            body["error"] = {"code": operation.error[0], "message": operation.error[1]}
        return 200, body, {"Retry-After": self.retry_after}

    def _statuses(self, only: bool) -> list[Json]:
        """All VMs; with their power, and then without nearly all else."""
        vms = [thing for thing in self.world.things.values() if thing["type"] == VM]
        if not only:
            return [_told(vm) for vm in vms]
        return [
            {
                **{key: vm[key] for key in ("id", "name", "type", "location")},
                "properties": {
                    "provisioningState": vm["properties"]["provisioningState"],
                    "instanceView": {
                        "statuses": [
                            {"code": f"ProvisioningState/{vm['properties']['provisioningState'].lower()}"},
                            {"code": f"PowerState/{self.world.power.get(vm['id'].lower(), 'unknown')}"},
                        ]
                    },
                },
            }
            for vm in vms
        ]

    def _tagged_groups(self, query: Mapping[str, str]) -> list[Json]:
        wanted = dict(re.findall(r"(tagName|tagValue) eq '([^']*)'", query.get("$filter", "")))
        return [
            group
            for group in self.world.groups.values()
            if ("tagName" not in wanted or wanted["tagName"] in group["tags"])
            and ("tagValue" not in wanted or group["tags"].get(wanted.get("tagName", "")) == wanted["tagValue"])
        ]

    def _page(self, request: ArmRequest, found: list[Json]) -> tuple[int, Any, dict[str, str]]:
        begin = int(request.query.get("$skiptoken", "0"))
        body: Json = {"value": found[begin : begin + self.page_size]}
        if begin + self.page_size < len(found):
            query = {**request.query, "$skiptoken": str(begin + self.page_size)}
            body["nextLink"] = f"{self.url}{quote(request.path)}?{urlencode(query)}"
        return 200, body, {}

    def _price_page(self, query: dict[str, str]) -> Json:
        self.price_queries.append(query)
        self.violations += [f"GET /api/retail/prices: {what}" for what in price_violations(query)]
        wanted: dict[str, set[str]] = {}
        for name, value in re.findall(r"(\w+) eq '([^']*)'", query.get("$filter", "")):
            wanted.setdefault({"priceType": "type"}.get(name, name), set()).add(value)
        found = [item for item in self.prices if all(item.get(name) in values for name, values in wanted.items())]
        begin = int(query.get("$skip", "0"))
        more = begin + self.page_size < len(found)
        link = urlencode({**query, "$skip": str(begin + self.page_size)})
        return {
            "BillingCurrency": "USD",
            "Items": found[begin : begin + self.page_size],
            "NextPageLink": f"{self.prices_url}?{link}" if more else None,
            "Count": len(found),
        }


def price_row(size: str, usd: float, **changes: Any) -> Json:
    """A row of the retail prices, as for Linux in eastus unless told otherwise."""
    spaced = size.removeprefix("Standard_").replace("_", " ")
    return {
        "currencyCode": "USD",
        "retailPrice": usd,
        "unitPrice": usd,
        "armRegionName": "eastus",
        "location": "US East",
        "effectiveStartDate": "2026-01-01T00:00:00Z",
        "productName": "Virtual Machines NCads Series",
        "skuName": spaced,
        "meterName": spaced,
        "serviceName": "Virtual Machines",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "armSkuName": size,
        **changes,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    fake: FakeArm


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the driver gave up waiting
            self.close_connection = True

    def do_HEAD(self) -> None:
        """Somebody is there, and this is the time."""
        self.send_response(400)
        self.end_headers()

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if len(body) < length:  # its sender died half-way
            self.close_connection = True
            return
        status, answer, headers = self.server.fake.answer(
            ArmRequest(
                method=self.command,
                path=parts.path,
                query=dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers={key.lower(): value for key, value in self.headers.items()},
                body=json.loads(body) if body else None,
            )
        )
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_DELETE = do_POST = do_PATCH = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def _told(thing: Json) -> Json:
    """A thing as the API tells it: without what the fake keeps with it."""
    return {key: value for key, value in thing.items() if not key.startswith("_") and key != "createdTime"}


def _listed(thing: Json, query: Mapping[str, str]) -> Json:
    """A thing in the list of all resources of a group, which says little of each."""
    keys = ["id", "name", "type", "location", "tags", "managedBy"]
    keys += [key for key in query.get("$expand", "").split(",") if key]
    return {key: thing[key] for key in keys if key in thing}


def _error(code: str, message: str) -> Json:
    return {"error": {"code": code, "message": message}}
