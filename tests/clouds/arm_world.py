"""What there is in a subscription of the fake Azure, and what becomes of it; no HTTP here.

Things come and go as the documentation says: a VM's request makes its interface, address and disk, which live and
die by their ``deleteOption``; whatever takes time is an operation that may fail after it was accepted. Names of
interfaces and addresses that a VM's request makes get a suffix, as in Azure, so that nobody may count on them.
"""

import base64
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.clouds.host import GrantedVm, NoHost, VmHost

Json = dict[str, Any]

VM, NIC, IP, DISK, NSG, NETWORK = (
    "Microsoft.Compute/virtualMachines",
    "Microsoft.Network/networkInterfaces",
    "Microsoft.Network/publicIPAddresses",
    "Microsoft.Compute/disks",
    "Microsoft.Network/networkSecurityGroups",
    "Microsoft.Network/virtualNetworks",
)
TYPES = {kind.lower(): kind for kind in (VM, NIC, IP, DISK, NSG, NETWORK)}


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(code)


@dataclass
class Operation:
    """Something that goes on after its request was accepted."""

    id: str
    target: str
    kind: str
    due_s: float
    error: tuple[str, str] | None = None
    status: str = "InProgress"


@dataclass
class ArmWorld:
    """The subscription; all methods are to be called with ``lock`` held, or from the tests.

    ``create_s``, ``setup_s`` and ``delete_s`` are how long VMs and networks take to come, and all things to go.
    """

    subscription: str
    host: VmHost = field(default_factory=NoHost)
    create_s: float = 0.05
    delete_s: float = 0.05
    setup_s: float = 0.02
    spot_usd: dict[str, float] = field(default_factory=dict)
    groups: dict[str, Json] = field(default_factory=dict)
    things: dict[str, Json] = field(default_factory=dict)
    power: dict[str, str] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    # What tests do and look at

    def names(self, kind: str) -> list[str]:
        """The names of all things of a kind."""
        with self.lock:
            self.advance()
            return sorted(thing["name"] for thing in self.things.values() if thing["type"] == kind)

    def vm(self, name: str) -> Json:
        """The VM of this name, as it was asked for."""
        with self.lock:
            return next(t for t in self.things.values() if t["type"] == VM and t["name"] == name)

    def evict(self, name: str) -> None:
        """Azure takes a spot VM back."""
        with self.lock:
            self.advance()
            vm = self.vm(name)
            self.host.stop(name)
            if vm["properties"].get("evictionPolicy") == "Delete":
                self._vanish(vm)
            else:
                self.power[vm["id"].lower()] = "deallocated"

    def shut_down(self, name: str) -> None:
        """The VM shuts itself down, which Azure goes on billing."""
        with self.lock:
            self.advance()
            self.power[self.vm(name)["id"].lower()] = "stopped"
            self.host.stop(name)

    def add(self, group: str, kind: str, name: str, **more: Any) -> str:
        """Something is there that a driver has not made; its id."""
        with self.lock:
            key = self.key(group, kind, name)
            self.things[key.lower()] = {
                "id": key,
                "name": name,
                "type": kind,
                "location": self.groups[group.lower()]["location"],
                "properties": {"provisioningState": "Succeeded"},
                **more,
            }
            return key

    # What requests do

    def key(self, group: str, kind: str, name: str) -> str:
        """A resource id."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{group}/providers/{kind}/{name}"

    def group(self, name: str) -> Json:
        """The resource group, or a refusal."""
        if (found := self.groups.get(name.lower())) is None:
            raise Refusal(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        return found

    def within(self, group: str, kind: str | None = None) -> list[Json]:
        """What is in a group."""
        prefix = f"/subscriptions/{self.subscription}/resourcegroups/{group}/".lower()
        found = [thing for key, thing in self.things.items() if key.startswith(prefix)]
        return [thing for thing in found if kind is None or thing["type"] == kind]

    def put_group(self, name: str, body: Json) -> tuple[int, Json]:
        """Make or change a resource group."""
        known = self.groups.get(name.lower())
        if known is not None and known["properties"]["provisioningState"] == "Deleting":
            raise Refusal(409, "ResourceGroupBeingDeleted", f"The resource group '{name}' is being deleted.")
        if known is not None and known["location"] != body["location"]:
            raise Refusal(409, "InvalidResourceGroupLocation", f"The group '{name}' exists in another location.")
        group = {
            "id": f"/subscriptions/{self.subscription}/resourceGroups/{name}",
            "name": name,
            "type": "Microsoft.Resources/resourceGroups",
            "location": body["location"],
            "tags": body.get("tags", {}),
            "properties": {"provisioningState": "Succeeded"},
        }
        self.groups[name.lower()] = group
        return (200 if known else 201), group

    def put_network(self, group: str, kind: str, name: str, body: Json) -> tuple[int, Json, Operation]:
        """Make or change a security group or a network."""
        self.group(group)
        key = self.key(group, kind, name)
        known = self.things.get(key.lower())
        thing = {**body, "id": key, "name": name, "type": kind, "createdTime": _now()}
        thing["properties"] = {**body.get("properties", {}), "provisioningState": "Updating"}
        for subnet in thing["properties"].get("subnets", ()):
            subnet["id"] = f"{key}/subnets/{subnet['name']}"
        self.things[key.lower()] = thing
        return (200 if known else 201), thing, self._begin(key, "setup", self.setup_s)

    def put_vm(
        self, group: str, name: str, body: Json, fails: tuple[str, str] | None
    ) -> tuple[int, Json, Operation]:
        """Make a VM; ``fails``: with which code and message it will fail after it was accepted."""
        self.group(group)
        key = self.key(group, VM, name)
        if (known := self.things.get(key.lower())) is not None:
            for part in ("osProfile", "priority", "evictionPolicy"):
                if body["properties"].get(part) != known["_asked"]["properties"].get(part):
                    raise Refusal(409, "PropertyChangeNotAllowed", f"Changing property '{part}' is not allowed.")
            return 200, known, self._begin(key, "setup", self.setup_s)
        self._check_price(body["properties"])
        vm: Json = {
            "id": key,
            "name": name,
            "type": VM,
            "location": body["location"],
            "tags": body.get("tags", {}),
            "createdTime": _now(),
            "_asked": body,
            "properties": {**body["properties"], "provisioningState": "Creating", "vmId": secrets.token_hex(8)},
        }
        if "zones" in body:
            vm["zones"] = body["zones"]
        interfaces = [self._interface(group, vm, wanted) for wanted in self._inline(body)]
        vm["properties"]["timeCreated"] = _now()
        vm["properties"]["networkProfile"] = {
            **body["properties"]["networkProfile"],
            "networkInterfaces": interfaces,
        }
        vm["properties"]["osProfile"] = {
            k: v for k, v in body["properties"]["osProfile"].items() if k != "customData"
        }
        self.things[key.lower()] = vm
        operation = self._begin(key, "create", self.create_s)
        operation.error = fails
        if fails is None:
            self.host.start(_granted(vm))
        return 201, vm, operation

    def delete_vm(self, group: str, name: str) -> Operation | None:
        """Take a VM away; None where there is none."""
        self.group(group)
        if (vm := self.things.get(self.key(group, VM, name).lower())) is None:
            return None
        for operation in self.operations.values():
            if operation.target == vm["id"] and operation.kind == "create" and operation.status == "InProgress":
                operation.status = "Failed"
                operation.error = ("OperationPreempted", "The operation was preempted by a delete.")
        if vm["properties"]["provisioningState"] != "Deleting":
            self.host.stop(name)
        vm["properties"]["provisioningState"] = "Deleting"
        return self._begin(vm["id"], "vanish", self.delete_s)

    def delete_thing(self, group: str, kind: str, name: str) -> Operation | None:
        """Take anything else away; None where there is none."""
        self.group(group)
        if (thing := self.things.get(self.key(group, kind, name).lower())) is None:
            return None
        self._check_use(thing)
        return self._begin(thing["id"], "remove", self.delete_s)

    def delete_group(self, name: str) -> Operation:
        """Take a group away with all that is in it."""
        group = self.group(name)
        group["properties"]["provisioningState"] = "Deleting"
        return self._begin(group["id"], "group", self.delete_s)

    def advance(self) -> None:
        """Let happen what is due."""
        now = time.monotonic()
        for operation in [o for o in self.operations.values() if o.status == "InProgress" and o.due_s <= now]:
            operation.status = "Succeeded" if operation.error is None else "Failed"
            target = operation.target.lower()
            if operation.kind == "group":
                self._drop_group(target)
                continue
            if (thing := self.things.get(target)) is None:
                continue
            if operation.kind == "vanish":
                self._vanish(thing)
            elif operation.kind == "remove":
                del self.things[target]
            elif operation.kind == "create":
                self._come(thing, operation)
            else:
                thing["properties"]["provisioningState"] = "Succeeded"
        self._assign_addresses()

    # How

    def _assign_addresses(self) -> None:
        """An interface without a public address has the VM's address as its private one."""
        for thing in self.things.values():
            if "_vm" not in thing or (address := self.host.address(thing["_vm"])) is None:
                continue
            if thing["type"] == IP:
                thing["properties"]["ipAddress"] = address
            if thing["type"] == NIC:
                for ip in thing["properties"]["ipConfigurations"]:
                    if "publicIPAddress" not in ip["properties"]:
                        ip["properties"]["privateIPAddress"] = address

    def _begin(self, target: str, kind: str, takes_s: float) -> Operation:
        operation = Operation(secrets.token_hex(12), target, kind, time.monotonic() + takes_s)
        self.operations[operation.id] = operation
        return operation

    def _check_price(self, asked: Json) -> None:
        if asked.get("priority") != "Spot":
            return
        size, limit = asked["hardwareProfile"]["vmSize"], asked.get("billingProfile", {}).get("maxPrice", -1)
        price = self.spot_usd.get(size, 0.0)
        if limit != -1 and limit < price:
            raise Refusal(
                409,
                "SpotPriceGreaterThanProvidedMaxPrice",
                f"Unable to perform operation 'Create' since the provided max price '{limit} USD' is lower than "
                f"the current spot price '{price} USD' for Azure Spot VM size '{size}'.",
            )

    def _inline(self, body: Json) -> list[Json]:
        wanted = body["properties"]["networkProfile"]["networkInterfaceConfigurations"]
        for interface in wanted:
            has = interface["properties"]
            subnets = [ip["properties"]["subnet"]["id"] for ip in has["ipConfigurations"]]
            for needed in [has["networkSecurityGroup"]["id"], *subnets]:
                if not needed.startswith("/subscriptions/user/") and not self._has(needed):
                    raise Refusal(400, "InvalidResourceReference", f"Resource {needed} was not found.")
        return list(wanted)

    def _has(self, resource_id: str) -> bool:
        network, _, subnet = resource_id.partition("/subnets/")
        found = self.things.get(network.lower())
        return found is not None and (
            not subnet or any(s["name"] == subnet for s in found["properties"].get("subnets", ()))
        )

    def _interface(self, group: str, vm: Json, wanted: Json) -> Json:
        has = wanted["properties"]
        configurations = []
        for number, ip in enumerate(has["ipConfigurations"]):
            inside: Json = {"privateIPAddress": f"10.117.0.{4 + number}", "subnet": ip["properties"]["subnet"]}
            if (public := ip["properties"].get("publicIPAddressConfiguration")) is not None:
                name = f"{public['name']}-{secrets.token_hex(4)}"
                address = self.add(
                    group,
                    IP,
                    name,
                    tags=public.get("tags", {}),
                    sku=public["sku"],
                    createdTime=_now(),
                    _delete=public["properties"].get("deleteOption") == "Delete",
                    _vm=vm["name"],
                )
                inside["publicIPAddress"] = {"id": address}
            configurations.append({"name": ip["name"], "properties": inside})
        nic = self.add(
            group,
            NIC,
            f"{wanted['name']}-{secrets.token_hex(4)}",
            tags=wanted.get("tags", {}),
            createdTime=_now(),
            _delete=has.get("deleteOption") == "Delete",
            _vm=vm["name"],
        )
        self.things[nic.lower()]["properties"] |= {
            "ipConfigurations": configurations,
            "networkSecurityGroup": has["networkSecurityGroup"],
        }
        return {"id": nic, "properties": {"primary": True, "deleteOption": has.get("deleteOption", "Detach")}}

    def _come(self, vm: Json, operation: Operation) -> None:
        """A VM's creation ends. One that fails keeps its interface and address, and has no disk."""
        vm["properties"]["provisioningState"] = "Failed" if operation.error else "Succeeded"
        if operation.error:
            return
        group = vm["id"].split("/")[4]
        disk = vm["properties"]["storageProfile"]["osDisk"]
        self.add(
            group,
            DISK,
            disk["name"],
            managedBy=vm["id"],
            createdTime=_now(),
            _delete=disk.get("deleteOption") == "Delete",
            _vm=vm["name"],
        )
        for interface in vm["properties"]["networkProfile"]["networkInterfaces"]:
            self.things[interface["id"].lower()]["properties"]["virtualMachine"] = {"id": vm["id"]}
        self.power.setdefault(vm["id"].lower(), "running")

    def _vanish(self, vm: Json) -> None:
        """A VM goes, with those of its parts that say so; others stay, and belong to nobody."""
        self.things.pop(vm["id"].lower(), None)
        self.power.pop(vm["id"].lower(), None)
        for key, thing in list(self.things.items()):
            if thing.get("_vm") == vm["name"]:
                thing.pop("managedBy", None)
                thing["properties"].pop("virtualMachine", None)
                if thing["_delete"]:
                    del self.things[key]

    def _drop_group(self, target: str) -> None:
        name = target.rpartition("/")[2]
        for thing in self.within(name):
            if thing["type"] == VM:
                self.host.stop(thing["name"])
            del self.things[thing["id"].lower()]
        self.groups.pop(name, None)

    def _check_use(self, thing: Json) -> None:
        """Refuse to take away what something else needs."""
        kind, own = thing["type"], thing["id"].lower()
        interfaces = [t for t in self.things.values() if t["type"] == NIC]
        if kind == NIC and "virtualMachine" in thing["properties"]:
            raise Refusal(400, "NicInUse", f"Network Interface {thing['id']} is used by a virtual machine.")
        if kind == DISK and thing.get("managedBy"):
            raise Refusal(
                409, "OperationNotAllowed", f"Disk {thing['name']} is attached to VM {thing['managedBy']}."
            )
        used = {
            IP: ("publicIPAddress", "PublicIPAddressCannotBeDeleted"),
            NETWORK: ("subnet", "InUseSubnetCannotBeDeleted"),
        }
        for interface in interfaces:
            has = interface["properties"]
            if kind == NSG and has.get("networkSecurityGroup", {}).get("id", "").lower() == own:
                raise Refusal(400, "InUseNetworkSecurityGroupCannotBeDeleted", f"{thing['id']} is in use.")
            if kind in used:
                part, code = used[kind]
                for ip in has.get("ipConfigurations", ()):
                    if ip["properties"].get(part, {}).get("id", "").lower().startswith(own):
                        raise Refusal(400, code, f"{thing['id']} is used by {interface['id']}.")


def _granted(vm: Json) -> GrantedVm:
    asked = vm["_asked"]["properties"]
    profile = asked["osProfile"]
    zone = next(iter(vm.get("zones", ())), "none")
    return GrantedVm(
        cloud="azure",
        name=vm["name"],
        zone=f"{vm['location']}/{zone}",
        spot=asked.get("priority") == "Spot",
        user_data=base64.b64decode(profile.get("customData", "")).decode(),
        authorized_key=profile["linuxConfiguration"]["ssh"]["publicKeys"][0]["keyData"],
        ssh_user=profile["adminUsername"],
        tags=dict(vm["tags"]),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
