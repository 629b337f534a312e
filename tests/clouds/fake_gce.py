"""A Compute Engine on loopback: operations, labels, quotas of patience and faults as documented, VMs by a VmHost.

Every request is held against the discovery document; what it does not allow is kept in
:attr:`FakeGce.violations` and refused. Another process may use it too: ``python -m tests.clouds.fake_gce DIR``
prints its URL and writes ``DIR/key.json``, and ``POST /_fake/fault`` and ``/_fake/preempt`` do what the methods of
these names do.
"""

import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hedgeserve.drivers.gcpcloud.examine import PERMISSIONS
from tests.clouds import contract_gce
from tests.clouds.gce_login import Refused, Tokens
from tests.clouds.gce_rules import Fault, Refusal, Seen, check_instance, fits, image, pruned
from tests.clouds.host import GrantedVm, NoHost, VmHost

Json = dict[str, Any]

_GOOGLE = "https://www.googleapis.com/compute/v1/"
_IMAGE = "projects/deeplearning-platform-release/global/images/common-cu129-ubuntu-2204-nvidia-580-v20261101"


@dataclass(slots=True)
class _Operation:
    told: Json
    done_at: float
    then: Callable[[], None] | None = None
    error: Json | None = None
    finished: bool = False


@dataclass(slots=True)
class _World:
    instances: dict[tuple[str, str], Json] = field(default_factory=dict)
    disks: dict[tuple[str, str], Json] = field(default_factory=dict)
    firewalls: dict[str, Json] = field(default_factory=dict)
    operations: dict[str, _Operation] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    images: list[Json] = field(default_factory=list)
    prices: dict[str, list[Json]] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)


class FakeGce:
    """A fake that serves from construction until :meth:`close`; ``operation_s`` is how long everything takes."""

    def __init__(
        self, host: VmHost | None = None, *, operation_s: float = 0.0, page: int = 500, project: str = "proj"
    ) -> None:
        self.host = host or NoHost()
        self.operation_s = operation_s
        self.page = page
        self.project = project
        self.tokens = Tokens(email=f"controller@{project}.iam.gserviceaccount.com")
        self.violations: list[str] = []
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.world = _World()
        self.world.images = [image(_IMAGE.rpartition("/")[2], "common-cu129-ubuntu-2204-nvidia-580")]
        self.held = set(PERMISSIONS)
        self.quotas = [
            {"metric": "NVIDIA_L4_GPUS", "limit": 0.0, "usage": 0.0},
            {"metric": "PREEMPTIBLE_NVIDIA_L4_GPUS", "limit": 16.0, "usage": 2.0},
        ]
        self.offered = {"us-central1-a": {"g2-standard-8"}}
        self.lock = threading.RLock()
        self._timers: list[threading.Timer] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more; VMs that are there are stopped."""
        for timer in self._timers:
            timer.cancel()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self.lock:
            for _, name in list(self.world.instances):
                self.host.stop(name)

    def key_file(self, path: Path) -> Path:
        """Write a service account's key file that works here."""
        return self.tokens.write_key_file(path, f"{self.url}/token", self.project)

    def fault(self, verb: str, path: str, **facts: Any) -> None:
        """Have the next requests that fit go wrong."""
        with self.lock:
            self.faults.append(Fault(verb, path, **facts))

    def preempt(self, name: str, notice_s: float = 0.0) -> None:
        """Take a spot VM back after its notice, and do with it what its termination action says."""
        if notice_s > 0:
            timer = threading.Timer(notice_s, self.preempt, (name,))
            timer.daemon = True
            self._timers.append(timer)
            timer.start()
            return
        with self.lock:
            key = next(key for key in self.world.instances if key[1] == name)
            plan = self.world.instances[key]["scheduling"]
            assert plan.get("provisioningModel") == "SPOT", "only spot VMs are preempted"
            if plan.get("instanceTerminationAction") == "DELETE":
                self._forget(key)
            else:
                self.world.instances[key]["status"] = "TERMINATED"
        self.host.stop(name)

    def methods(self) -> list[str]:
        """The methods that were called, in order."""
        return [seen.method.removeprefix("compute.") for seen in self.seen]

    def calls(self, method: str) -> list[Seen]:
        """The requests of one method, such as ``instances.insert``."""
        return [seen for seen in self.seen if seen.method == f"compute.{method}"]

    # Called by the handler

    def answer(self, seen: Seen) -> Json:
        """The answer to a request, or a Refusal."""
        with self.lock:
            self.seen.append(seen)
            problems = contract_gce.violations(seen.verb, seen.path, seen.query, seen.body)
            if problems:
                self.violations += problems
                raise Refusal(400, "invalid", "; ".join(problems))
        if not self.tokens.accepts(seen.headers.get("authorization", "")):
            raise Refusal(401, "authError", "Invalid Credentials", info="ACCESS_TOKEN_EXPIRED")
        fault = self._fault(seen)
        if fault is not None and fault.delay_s:
            time.sleep(fault.delay_s)
        if fault is not None and fault.status:
            if fault.raw:
                raise _Raw(fault.status, fault.raw)
            raise Refusal(
                fault.status,
                fault.code,
                fault.message,
                info=fault.info,
                permission=fault.permission,
                retry_after=fault.retry_after,
            )
        with self.lock:
            self._settle()
            told = self._do(seen, fault)
        if fault is not None and fault.lost:
            raise _Lost
        fields = seen.query.get("fields")
        return pruned(told, contract_gce.mask_tree(fields)) if fields else told

    def _fault(self, seen: Seen) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if (
                    fault.times > 0
                    and fault.verb == seen.verb
                    and re.search(fault.path, seen.path)
                    and fault.match in json.dumps(seen.body)
                ):
                    fault.times -= 1
                    return fault
        return None

    def _do(self, seen: Seen, fault: Fault | None) -> Json:
        words = seen.path.partition("/projects/")[2].split("/")
        project, place = words[0], words[1:]
        foreign = {"deeplearning-platform-release", "shared"}
        if project != self.project and project not in foreign:
            raise Refusal(404, "notFound", f"The resource 'projects/{project}' was not found")
        known = seen.query.get("requestId") and self.world.asked.get(seen.query["requestId"])
        if known:
            return self._told(self.world.operations[known])
        match [seen.verb, *place]:
            case ["GET", "aggregated", kind]:
                return self._aggregated(kind, seen)
            case ["GET", "regions", _]:
                return {"quotas": self.quotas}
            case ["GET"]:
                return {"quotas": [{"metric": "GPUS_ALL_REGIONS", "limit": 1.0, "usage": 0.0}]}
            case ["GET", "zones", zone, "machineTypes", name]:
                if name not in self.offered.get(zone, ()):
                    raise Refusal(404, "notFound", f"The resource 'projects/p/zones/{zone}/{name}' was not found")
                return {"name": name}
            case ["POST", "zones", zone, "instances"]:
                return self._insert(zone, seen, fault)
            case ["GET", "zones", zone, "instances", name]:
                return self._known(self.world.instances, (zone, name), seen)
            case ["POST", "zones", zone, "instances", name, "simulateMaintenanceEvent"]:
                self._known(self.world.instances, (zone, name), seen)
                return self._operate(f"zones/{zone}", seen, fault, lambda: self.preempt(name))
            case ["DELETE", "zones", zone, "instances", name]:
                return self._delete_instance(zone, name, seen, fault)
            case ["DELETE", "zones", zone, "disks", name]:
                disk = self._known(self.world.disks, (zone, name), seen)
                if disk.get("users"):
                    message = f"The disk resource '{name}' is already being used by '{disk['users'][0]}'"
                    raise Refusal(400, "resourceInUseByAnotherResource", message)
                return self._operate(
                    f"zones/{zone}", seen, fault, lambda: self.world.disks.pop((zone, name), None) and None
                )
            case ["GET", "zones", _, "operations", name] | ["GET", "global", "operations", name]:
                if name not in self.world.operations:
                    raise Refusal(404, "notFound", f"The resource 'operations/{name}' was not found")
                return self._told(self.world.operations[name])
            case ["GET", "global", "images"]:
                chosen = [one for one in self.world.images if fits(one, seen.query.get("filter", ""))]
                return self._paged(chosen, seen)
            case ["GET", "global", "firewalls"]:
                rules = [one for one in self.world.firewalls.values() if fits(one, seen.query.get("filter", ""))]
                return self._paged(rules, seen)
            case ["GET", "global", "firewalls", name]:
                return self._known(self.world.firewalls, name, seen)
            case ["POST", "global", "firewalls"]:
                return self._insert_firewall(seen, fault)
            case ["PATCH", "global", "firewalls", name]:
                rule = self._known(self.world.firewalls, name, seen)
                change = seen.body or {}
                return self._operate("global", seen, fault, lambda: rule.update(change))
            case ["DELETE", "global", "firewalls", name]:
                self._known(self.world.firewalls, name, seen)
                return self._operate("global", seen, fault, lambda: self.world.firewalls.pop(name, None) and None)
            case ["POST", "regions", _, "advice", "capacityHistory"]:
                machine = (seen.body or {})["instanceProperties"]["machineType"]
                return {"machineType": machine, "priceHistory": self.world.prices.get(machine, [])}
        raise AssertionError(f"the fake knows nothing of {seen.method}")

    def _insert(self, zone: str, seen: Seen, fault: Fault | None) -> Json:
        body = seen.body or {}
        key = (zone, body["name"])
        check_instance(zone, body, self.world.images)
        if key in self.world.instances:
            path = f"projects/{self.project}/zones/{zone}/instances/{body['name']}"
            raise Refusal(409, "alreadyExists", f"The resource '{path}' already exists")
        url = f"{_GOOGLE}projects/{self.project}/zones/{zone}"
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        vm = {
            **body,
            "kind": "compute#instance",
            "id": str(uuid.uuid4().int)[:19],
            "status": "PROVISIONING",
            "zone": url,
            "creationTimestamp": now,
            "machineType": f"{url}/{body['machineType'].partition('/')[2].partition('/')[2]}",
            "scheduling": {**body["scheduling"], "preemptible": body["scheduling"]["provisioningModel"] == "SPOT"},
        }
        self.world.instances[key] = vm
        disk = body["disks"][0]
        self.world.disks[key] = {
            "name": body["name"],
            "zone": url,
            "labels": disk["initializeParams"].get("labels", {}),
            "users": [f"{url}/instances/{body['name']}"],
            "creationTimestamp": now,
            "autoDelete": disk.get("autoDelete", False),
        }
        failing = fault is not None and not fault.status and bool(fault.code)
        if not failing:
            self._boot(key, vm)

        def settled() -> None:
            if failing:
                self._forget(key)
            elif key in self.world.instances and vm["status"] == "PROVISIONING":
                vm["status"] = "RUNNING"

        return self._operate(f"zones/{zone}", seen, fault, settled)

    def _boot(self, key: tuple[str, str], vm: Json) -> None:
        metadata = {one["key"]: one["value"] for one in vm["metadata"]["items"]}
        user, _, authorized_key = metadata["ssh-keys"].partition(":")
        self.host.start(
            GrantedVm(
                cloud="gcp",
                name=key[1],
                zone=key[0],
                spot=vm["scheduling"]["provisioningModel"] == "SPOT",
                user_data=metadata.get("user-data", ""),
                authorized_key=authorized_key,
                ssh_user=user,
                tags=dict(vm.get("labels", {})),
            )
        )

    def _delete_instance(self, zone: str, name: str, seen: Seen, fault: Fault | None) -> Json:
        vm = self._known(self.world.instances, (zone, name), seen)
        if vm["status"] == "PROVISIONING":
            raise Refusal(400, "resourceNotReady", f"The resource '{name}' is not ready")
        vm["status"] = "STOPPING"
        self.host.stop(name)
        return self._operate(f"zones/{zone}", seen, fault, lambda: self._forget((zone, name)))

    def _forget(self, key: tuple[str, str]) -> None:
        self.world.instances.pop(key, None)
        if key in self.world.disks:
            self.world.disks[key]["users"] = []
            if self.world.disks[key]["autoDelete"]:
                del self.world.disks[key]

    def _insert_firewall(self, seen: Seen, fault: Fault | None) -> Json:
        rule = dict(seen.body or {})
        if rule["name"] in self.world.firewalls:
            raise Refusal(409, "alreadyExists", f"The resource 'firewalls/{rule['name']}' already exists")
        if bool(rule.get("allowed")) == bool(rule.get("denied")):
            raise Refusal(400, "invalid", "Firewall rules are either allow or deny")
        rule["network"] = _GOOGLE + rule["network"]
        rule["creationTimestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        return self._operate("global", seen, fault, lambda: self.world.firewalls.update({rule["name"]: rule}))

    def _operate(self, scope: str, seen: Seen, fault: Fault | None, then: Callable[[], object]) -> Json:
        name = f"operation-{uuid.uuid4().hex[:12]}"
        base = f"{_GOOGLE}projects/{self.project}/{scope}"
        told = {"kind": "compute#operation", "name": name, "selfLink": f"{base}/operations/{name}"}
        operation = _Operation(told, time.monotonic() + self.operation_s, lambda: then() and None)
        if fault is not None and not fault.status and fault.code:
            operation.error = {"errors": [{"code": fault.code, "message": fault.message}]}
        self.world.operations[name] = operation
        if "requestId" in seen.query:
            self.world.asked[seen.query["requestId"]] = name
        # The first answer is never the last: that has to be asked for.
        return {**told, "status": "RUNNING", "progress": 0}

    def _settle(self) -> None:
        for operation in self.world.operations.values():
            if not operation.finished and time.monotonic() >= operation.done_at:
                operation.finished = True
                if operation.then is not None:
                    operation.then()

    def _told(self, operation: _Operation) -> Json:
        if not operation.finished:
            return {**operation.told, "status": "RUNNING", "progress": 50}
        told = {**operation.told, "status": "DONE", "progress": 100}
        if operation.error:
            told |= {"error": operation.error, "httpErrorStatusCode": 503, "httpErrorMessage": "UNAVAILABLE"}
        return told

    def _known(self, things: dict[Any, Json], key: object, seen: Seen) -> Json:
        if key not in things:
            path = seen.path.partition("/compute/v1/")[2]
            raise Refusal(404, "notFound", f"The resource '{path}' was not found")
        return things[key]

    def _aggregated(self, kind: str, seen: Seen) -> Json:
        things = self.world.instances if kind == "instances" else self.world.disks
        chosen = [one for one in things.values() if fits(one, seen.query.get("filter", ""))]
        page, token = self._page(chosen, seen)
        items: Json = {
            f"zones/{zone}": {"warning": {"code": "UNREACHABLE", "message": "not now"}}
            for zone in self.world.unreachable
        }
        items.setdefault("zones/us-central1-b", {"warning": {"code": "NO_RESULTS_ON_PAGE"}})
        for one in page:
            scope = f"zones/{one['zone'].rpartition('/')[2]}"
            if "UNREACHABLE" in json.dumps(items.get(scope, {})):
                continue
            told = self._addressed(one) if kind == "instances" else one
            items.setdefault(scope, {}).pop("warning", None)
            items[scope].setdefault(kind, []).append(told)
        return {"kind": f"compute#{kind}AggregatedList", "items": items, **token}

    def _addressed(self, vm: Json) -> Json:
        told = vm
        if vm["status"] == "PROVISIONING":
            return told
        address = self.host.address(vm["name"])
        interface = {**vm["networkInterfaces"][0], "networkIP": "10.128.0.9"}
        if "accessConfigs" in interface:
            interface["accessConfigs"] = [{**interface["accessConfigs"][0], "natIP": address}]
        else:
            interface["networkIP"] = address
        return {**told, "networkInterfaces": [interface]}

    def _paged(self, chosen: list[Json], seen: Seen) -> Json:
        page, token = self._page(chosen, seen)
        return {"kind": "compute#list", "items": page, **token} if page else {"kind": "compute#list"}

    def _page(self, chosen: list[Json], seen: Seen) -> tuple[list[Json], Json]:
        first = int(seen.query.get("pageToken", "0"))
        last = first + min(self.page, int(seen.query.get("maxResults", "500")))
        return chosen[first:last], {"nextPageToken": str(last)} if last < len(chosen) else {}


class _Lost(Exception):
    """The connection is broken off."""


class _Raw(Exception):
    """An answer that is no JSON of the API's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeGce


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _serve(self) -> None:
        fake, place = self.server.fake, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:  # its sender died half-way
            self.close_connection = True
            return None
        path, query = unquote(place.path), dict(parse_qsl(place.query))
        try:
            if path == "/token":
                return self._send(200, fake.tokens.exchange(dict(parse_qsl(raw.decode()))))
            if path.startswith("/computeMetadata/"):
                return self._metadata(fake, path)
            if self.command == "HEAD":
                return self._send(200, "")
            body = json.loads(raw) if raw else None
            if path == f"/v1/projects/{fake.project}:testIamPermissions":
                return self._send(200, {"permissions": [one for one in body["permissions"] if one in fake.held]})
            if path.startswith("/_fake/"):
                return self._send(200, _control(fake, path, body))
            method = contract_gce.method_of(self.command, path)
            name = method.id if method else path
            seen = Seen(
                self.command,
                path,
                query,
                {name.lower(): value for name, value in self.headers.items()},
                body,
                name,
            )
            return self._send(200, fake.answer(seen))
        except Refusal as refusal:
            more = {"Retry-After": refusal.retry_after} if refusal.retry_after else {}
            return self._send(refusal.status, refusal.body, more)
        except Refused as refused:
            return self._send(400, {"error": str(refused), "error_description": "Bad Request"})
        except _Raw as odd:
            return self._send(odd.args[0], odd.args[1])
        except _Lost:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = _serve

    def _metadata(self, fake: FakeGce, path: str) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._send(403, "Missing Metadata-Flavor:Google header.")
        flavour = {"Metadata-Flavor": "Google"}
        if path.endswith("/project/project-id"):
            return self._send(200, fake.project, flavour)
        if path.endswith("/token"):
            return self._send(200, fake.tokens.give("metadata"), flavour)
        if "/service-accounts/" in path:
            account = {"email": fake.tokens.email, "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
            return self._send(200, account, flavour)
        return self._send(404, "not here", flavour)

    def _send(self, status: int, body: Json | str, headers: dict[str, str] | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body, default=str)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/text" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _control(fake: FakeGce, path: str, body: Json | None) -> Json:
    told = body or {}
    match path:
        case "/_fake/fault":
            fake.fault(**told)
        case "/_fake/preempt":
            fake.preempt(told["name"], float(told.get("notice_s", 0)))
    with fake.lock:
        return {
            "violations": fake.violations,
            "instances": [name for _, name in fake.world.instances],
            "disks": [name for _, name in fake.world.disks],
            "firewalls": list(fake.world.firewalls),
            "faults": [asdict(fault) for fault in fake.faults],
        }


def main(directory: str) -> None:
    """Serve until the input ends."""
    fake = FakeGce(operation_s=0.5)
    fake.key_file(Path(directory) / "key.json")
    print(fake.url, flush=True)
    sys.stdin.read()
    fake.close()


if __name__ == "__main__":
    main(sys.argv[1])
