"""EC2 on loopback: moto's instances, volumes and networks, behind a layer that behaves as the real one does.

The layer checks every request against the contract, mends moto where it differs (namespace, client tokens, tags of
interfaces, spot requests), and does on demand what a cloud does now and then: refuse, dawdle, hang up, forget.
"""

import base64
import json
import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from tests.clouds.contract_ec2 import Received, check_parameters, check_signature
from tests.clouds.ec2_wire import (
    NAMESPACE,
    Handler,
    Refusal,
    error_body,
    fits,
    key_text,
    plain,
    show,
    tag_specifications,
    wrapped,
    xml,
)
from tests.clouds.host import GrantedVm, NoHost, VmHost

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # 5 s of reading, for images of 2017

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2 import ec2_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.test import Client

ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
"""The example keys of Amazon's documentation; the fake knows them from the start."""


@dataclass(frozen=True, slots=True)
class FakeImage:
    """An AMI of Amazon's."""

    id: str
    name: str
    created: str
    architecture: str = "x86_64"
    state: str = "available"
    root: str = "/dev/sda1"
    gib: int = 65


@dataclass(slots=True)
class Fault:
    """What befalls the next ``times`` requests of an action that have all the parameters of ``match``.

    ``code`` is EC2's answer; None: the ordinary one, after ``delay_s``. ``done`` ones are carried out all the
    same; ``hang_up`` breaks the connection off in place of an answer.
    """

    action: str
    code: str | None = None
    message: str = ""
    match: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    delay_s: float = 0.0
    status: int | None = None
    done: bool = False
    hang_up: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered."""

    action: str
    region: str
    parameters: Mapping[str, str]


class FakeEc2:
    """A whole AWS account, all regions at one URL. One at a time: moto's state belongs to the process.

    ``violations`` must be empty at the end of a test. ``allowed``: actions that the account's policy grants.
    """

    def __init__(self, host: VmHost | None = None) -> None:
        self.host: VmHost = host or NoHost()
        self._moto = Client(DomainDispatcherApplication(create_backend_app))
        self._lock = threading.RLock()
        fake = self

        class Bound(Handler):
            def do_POST(self) -> None:
                fake._serve(self)

            do_GET = do_POST

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake EC2", args=(0.05,))
        self._thread.start()
        self.reset()

    def reset(self) -> None:
        """An empty account; what tests have changed is as it was."""
        with self._lock:
            for backend in ec2_backends[DEFAULT_ACCOUNT_ID].values():
                backend.reset()
            self.violations: list[str] = []
            self.answered: list[Answered] = []
            self.faults: list[Fault] = []
            self.keys = {ACCESS_KEY: SECRET_KEY}
            self.allowed: set[str] | None = None
            self.quotas = {"L-3819A6DF": 64.0, "L-DB2E81BA": 0.0}
            self.images = {
                "x86_64": FakeImage(
                    "ami-0123456789abcdef0",
                    "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20261101",
                    "2026-11-01T08:00:00.000Z",
                )
            }
            self.spot_prices: list[tuple[str, str, float, str]] = []
            self.scores: dict[str, int] = {}
            self.lagging = False
            self.page = 1000
            self._unlisted: set[str] = set()
            self._tokens: dict[tuple[str, str], tuple[dict[str, str], bytes]] = {}
            self._spot_requests: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The endpoint, for any process of this machine."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def actions(self) -> list[str]:
        """What was asked, in order."""
        return [request.action for request in self.answered]

    def of(self, action: str) -> list[Mapping[str, str]]:
        """The parameters of each request for this action."""
        return [request.parameters for request in self.answered if request.action == action]

    def fail(self, action: str, code: str | None = None, **more: Any) -> None:
        """Have the next request for an action end otherwise; see :class:`Fault`."""
        with self._lock:
            self.faults.append(Fault(action, code, **more))

    def catch_up(self) -> None:
        """What was launched while ``lagging`` is known now."""
        with self._lock:
            self._unlisted.clear()

    def backend(self, region: str = "us-east-1") -> Any:
        """Moto's own state of a region."""
        return ec2_backends[DEFAULT_ACCOUNT_ID][region]

    def instances(self, *states: str) -> list[Any]:
        """Moto's instances in all regions, in one of these states (or any that is not terminated)."""
        with self._lock:
            found = [
                instance
                for backend in ec2_backends[DEFAULT_ACCOUNT_ID].values()
                for reservation in backend.reservations.values()
                for instance in reservation.instances
            ]
        return [i for i in found if (i._state.name in states if states else i._state.name != "terminated")]

    def set_state(self, instance_id: str, state: str) -> None:
        """Put an instance into a state, as somebody at the console would."""
        with self._lock:
            self._instance(instance_id)._state.name = state

    def preempt(self, instance_id: str) -> None:
        """The cloud takes the VM back, now; a notice of it before is the metadata service's affair."""
        with self._lock:
            instance = self._instance(instance_id)
            self._end(instance)
            instance._reason = "Server.SpotInstanceTermination"

    def vanish(self, instance_id: str) -> None:
        """The VM is gone as if it had never been."""
        with self._lock:
            instance = self._instance(instance_id)
            self._end(instance)
            self.backend(instance.region_name).reservations.pop(instance.reservation_id, None)

    def open_spot_request(self, tags: Mapping[str, str], region: str = "us-east-1") -> str:
        """A spot request that waits for its VM; its id."""
        with self._lock:
            return self._add_spot_request(region, "open", tags, None)

    def _instance(self, instance_id: str) -> Any:
        return next(instance for instance in self.instances() if instance.id == instance_id)

    def _serve(self, handler: "Handler") -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        if len(body) < length:  # its sender died half-way
            handler.close_connection = True
            return
        headers = {name.lower(): value for name, value in handler.headers.items()}
        if handler.command == "HEAD":  # who only wants to know whether anybody is there, and what the time is
            handler.reply(200, b"")
            return
        if headers.get("x-amz-target", "").startswith("ServiceQuotas"):
            handler.reply(*self._quota(headers["x-amz-target"], json.loads(body)))
            return
        request = Received(handler.command, handler.path, headers, body)
        parameters = dict(request.parameters)
        action = parameters.get("Action", "")
        scope = headers.get("authorization", "").partition("Credential=")[2].split("/")
        region = scope[2] if len(scope) > 2 else "us-east-1"
        with self._lock:
            fault = self._fault(action, parameters)
        if fault is not None and fault.delay_s:
            time.sleep(fault.delay_s)
        try:
            with self._lock:
                self._admit(request)
                self.answered.append(Answered(action, region, parameters))
                if fault is not None and fault.code and not fault.done:
                    raise Refusal(fault.code, fault.message, fault.status)
                status, answer = 200, b""
                if fault is None or not fault.hang_up or fault.done:
                    answer = self._answer(region, action, parameters, headers)
                if fault is not None and fault.code:
                    raise Refusal(fault.code, fault.message, fault.status)
        except Refusal as refusal:
            status, answer = refusal.status, error_body(refusal)
        except Exception:
            self.violations.append(f"the fake itself broke over {action}:\n{traceback.format_exc()}")
            status, answer = 400, error_body(Refusal("FakeBroke"))
        if fault is not None and fault.hang_up:
            handler.close_connection = True
            handler.connection.close()
            return
        handler.reply(status, answer)

    def _quota(self, target: str, asked: dict[str, str]) -> tuple[int, bytes]:
        """What Service Quotas says; held against botocore's model by hand: one operation, two members."""
        if target != "ServiceQuotasV20190624.GetServiceQuota" or set(asked) != {"ServiceCode", "QuotaCode"}:
            self.violations.append(f"{target} with {asked}")
        value = self.quotas.get(asked["QuotaCode"])
        if value is None:
            return 400, json.dumps({"__type": "AccessDeniedException", "message": "no"}).encode()
        return 200, json.dumps({"Quota": {"QuotaCode": asked["QuotaCode"], "Value": value}}).encode()

    def _fault(self, action: str, parameters: Mapping[str, str]) -> Fault | None:
        for fault in self.faults:
            fits = all(parameters.get(name) == value for name, value in fault.match.items())
            if fault.action == action and fault.times > 0 and fits:
                fault.times -= 1
                return fault
        return None

    def _admit(self, request: Received) -> None:
        problems = check_parameters(request.parameters)
        secret = self.keys.get(request.access_key)
        if secret is not None:
            problems += check_signature(request, secret)
        if problems:
            self.violations += problems
            raise Refusal("ContractViolation", "; ".join(problems))
        if secret is None:
            raise Refusal("AuthFailure", "AWS was not able to validate the provided access credentials")
        action = dict(request.parameters)["Action"]
        if self.allowed is not None and action not in self.allowed:
            raise Refusal(
                "UnauthorizedOperation",
                "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/hs is not "
                f"authorized to perform: ec2:{action} on resource: * because no identity-based policy allows the "
                f"ec2:{action} action. Encoded authorization failure message: c2VjcmV0",
            )

    def _answer(self, region: str, action: str, parameters: dict[str, str], headers: Mapping[str, str]) -> bytes:
        own: Mapping[str, Callable[[str, dict[str, str]], bytes]] = {
            "CancelSpotInstanceRequests": self._cancel_spot_requests,
            "DescribeImages": self._describe_images,
            "DescribeSpotInstanceRequests": self._describe_spot_requests,
            "DescribeSpotPriceHistory": self._describe_spot_prices,
            "GetSpotPlacementScores": self._placement_scores,
        }
        if action in own:
            return own[action](region, parameters)
        if action == "RunInstances":
            return self._run(region, parameters, headers)
        if action == "TerminateInstances":
            return self._terminate(region, parameters, headers)
        if action == "DescribeInstances" and self.page < 1000:
            parameters = {**parameters, "MaxResults": str(self.page)}
        if action == "DeleteKeyPair" and "KeyPairId" in parameters:
            parameters = self._by_name(region, parameters)
        if action == "DeleteSecurityGroup":
            self._refuse_in_use(region, parameters)
        answer = self._ask_moto(parameters, headers)
        return self._listed(answer) if action == "DescribeInstances" else answer

    def _ask_moto(self, parameters: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
        answer = self._moto.post(
            "/",
            data=urlencode(parameters),
            headers={"Authorization": headers["authorization"]},
            content_type="application/x-www-form-urlencoded",
        )
        # Moto takes the namespace from botocore's model; the real one has a slash at its end.
        body = answer.data.replace(
            b'xmlns="http://ec2.amazonaws.com/doc/2016-11-15"', f'xmlns="{NAMESPACE}"'.encode()
        )
        if answer.status_code != 200:
            error = plain(body).find(".//Error")
            if error is None:
                raise AssertionError(f"moto failed over {parameters}: {body[:500]!r}")
            raise Refusal(error.findtext("Code", ""), error.findtext("Message", ""), answer.status_code)
        return body

    def _run(self, region: str, parameters: dict[str, str], headers: Mapping[str, str]) -> bytes:
        if parameters.get("DryRun") == "true":
            message = "Request would have succeeded, but DryRun flag is set."
            raise Refusal("DryRunOperation", message, 412)
        token = parameters.get("ClientToken", "")
        if token and (region, token) in self._tokens:
            before, answer = self._tokens[region, token]
            if before != parameters:
                raise Refusal("IdempotentParameterMismatch", "The client token was used with other parameters")
            return answer
        image = parameters.get("ImageId", "")
        if image not in {known.id for known in self.images.values()}:
            raise Refusal("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
        key = parameters.get("KeyName", "")
        pair = self.backend(region).key_pairs.get(key)
        if pair is None:
            raise Refusal("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
        told = plain(self._ask_moto(parameters, headers))
        item = told.find("instancesSet/item")
        assert item is not None
        instance = self._instance(item.findtext("instanceId", ""))
        tags = {kind: dict(found) for kind, found in tag_specifications(parameters)}
        instance.region_name, instance.reservation_id = region, told.findtext("reservationId")
        for interface in instance.nics.values():
            self.backend(region).create_tags([interface.id], tags.get("network-interface", {}))
        spot = parameters.get("InstanceMarketOptions.MarketType") == "spot"
        if spot:
            self._add_spot_request(region, "active", tags.get("spot-instances-request", {}), instance.id)
        if self.lagging:
            self._unlisted.add(instance.id)
        show(item, "pending", None)
        answer = wrapped(told)
        if token:
            self._tokens[region, token] = dict(parameters), answer
        own = tags.get("instance", {})
        self.host.start(
            GrantedVm(
                cloud="aws",
                name=own.get("Name", instance.id),
                zone=parameters.get("Placement.AvailabilityZone", ""),
                spot=spot,
                user_data=base64.b64decode(parameters.get("UserData", "")).decode(),
                authorized_key=key_text(pair.material_public),
                ssh_user="ubuntu",
                tags=own,
            )
        )
        return answer

    def _terminate(self, region: str, parameters: dict[str, str], headers: Mapping[str, str]) -> bytes:
        ids = [value for name, value in parameters.items() if name.startswith("InstanceId.")]
        there = {
            instance.id: instance for instance in self.instances("terminated", "running", "pending", "stopped")
        }
        for instance_id in ids:
            if instance_id not in there or instance_id in self._unlisted:
                raise Refusal("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
            if there[instance_id]._state.name != "terminated":
                self._end(there[instance_id])
        items = "".join(
            f"<item><instanceId>{i}</instanceId><currentState><code>32</code><name>shutting-down</name></currentState>"
            "</item>"
            for i in ids
        )
        return xml("TerminateInstancesResponse", f"<instancesSet>{items}</instancesSet>")

    def _end(self, instance: Any) -> None:
        name = {tag["key"]: tag["value"] for tag in instance.get_tags()}.get("Name", instance.id)
        backend = self.backend(instance.region_name)
        interfaces = [interface.id for interface in instance.nics.values()]
        backend.terminate_instances([instance.id])
        for interface in interfaces:
            backend.enis.pop(interface, None)
        for request in self._spot_requests.values():
            if request["instance"] == instance.id:
                request["state"] = "closed"
        self.host.stop(name)

    def _listed(self, body: bytes) -> bytes:
        root = plain(body)
        for instances in root.iterfind("reservationSet/item/instancesSet"):
            for item in list(instances):
                if item.findtext("instanceId") in self._unlisted:
                    instances.remove(item)
                elif item.findtext("instanceState/name") == "running":
                    tags = {tag.findtext("key"): tag.findtext("value") for tag in item.iterfind("tagSet/item")}
                    address = self.host.address(tags.get("Name") or "")
                    show(item, "running" if address else "pending", address)
        return wrapped(root)

    def _by_name(self, region: str, parameters: dict[str, str]) -> dict[str, str]:
        pairs = self.backend(region).key_pairs.values()
        name = next((pair.key_name for pair in pairs if pair.id == parameters["KeyPairId"]), None)
        if name is None:
            raise Refusal("InvalidKeyPair.NotFound", "The key pair does not exist")
        return {key: value for key, value in parameters.items() if key != "KeyPairId"} | {"KeyName": name}

    def _refuse_in_use(self, region: str, parameters: Mapping[str, str]) -> None:
        group = parameters.get("GroupId")
        if any(group in {g.id for g in eni.group_set} for eni in self.backend(region).enis.values()):
            raise Refusal("DependencyViolation", f"resource {group} has a dependent object")

    def _describe_images(self, region: str, parameters: dict[str, str]) -> bytes:
        items = ""
        for image in self.images.values():
            seen = {
                "name": image.name,
                "architecture": image.architecture,
                "state": image.state,
                "image-id": image.id,
            }
            if fits(parameters, seen, {}):
                items += (
                    f"<item><imageId>{image.id}</imageId><name>{escape(image.name)}</name>"
                    f"<imageState>{image.state}</imageState><architecture>{image.architecture}</architecture>"
                    f"<creationDate>{image.created}</creationDate><rootDeviceName>{image.root}</rootDeviceName>"
                    f"<blockDeviceMapping><item><deviceName>{image.root}</deviceName><ebs><volumeSize>{image.gib}"
                    "</volumeSize></ebs></item></blockDeviceMapping></item>"
                )
        return xml("DescribeImagesResponse", f"<imagesSet>{items}</imagesSet>")

    def _add_spot_request(self, region: str, state: str, tags: Mapping[str, str], instance: str | None) -> str:
        request_id = f"sir-{uuid.uuid4().hex[:8]}"
        self._spot_requests[request_id] = {
            "region": region,
            "state": state,
            "tags": dict(tags),
            "instance": instance,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        }
        return request_id

    def _describe_spot_requests(self, region: str, parameters: dict[str, str]) -> bytes:
        items = ""
        for request_id, request in self._spot_requests.items():
            if request["region"] == region and fits(parameters, {"state": request["state"]}, request["tags"]):
                tags = "".join(
                    f"<item><key>{escape(k)}</key><value>{escape(v)}</value></item>"
                    for k, v in request["tags"].items()
                )
                items += (
                    f"<item><spotInstanceRequestId>{request_id}</spotInstanceRequestId><state>{request['state']}"
                    f"</state><createTime>{request['created']}</createTime><tagSet>{tags}</tagSet></item>"
                )
        found = f"<spotInstanceRequestSet>{items}</spotInstanceRequestSet>"
        return xml("DescribeSpotInstanceRequestsResponse", found)

    def _cancel_spot_requests(self, region: str, parameters: dict[str, str]) -> bytes:
        request = self._spot_requests.get(parameters["SpotInstanceRequestId.1"])
        if request is None:
            raise Refusal("InvalidSpotInstanceRequestID.NotFound")
        request["state"] = "cancelled"
        return xml("CancelSpotInstanceRequestsResponse", "")

    def _describe_spot_prices(self, region: str, parameters: dict[str, str]) -> bytes:
        wanted = {value for name, value in parameters.items() if name.startswith("InstanceType.")}
        items = "".join(
            f"<item><instanceType>{kind}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{price:.6f}</spotPrice><timestamp>{moment}</timestamp>"
            f"<availabilityZone>{zone}</availabilityZone></item>"
            for zone, kind, price, moment in self.spot_prices
            if kind in wanted and zone.startswith(region)
        )
        return xml("DescribeSpotPriceHistoryResponse", f"<spotPriceHistorySet>{items}</spotPriceHistorySet>")

    def _placement_scores(self, region: str, parameters: dict[str, str]) -> bytes:
        items = "".join(
            f"<item><region>{region}</region><availabilityZoneId>{zone}</availabilityZoneId><score>{score}</score></item>"
            for zone, score in self.scores.items()
        )
        return xml("GetSpotPlacementScoresResponse", f"<spotPlacementScoreSet>{items}</spotPlacementScoreSet>")
