"""What a service has in Azure besides VMs, as its resource group lists it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hedgeserve.drivers.azurecloud.arm import (
    DISK_VERSION,
    GROUPS_VERSION,
    NETWORK_VERSION,
    Json,
)
from hedgeserve.drivers.base import Leftover
from hedgeserve.drivers.tags import REPLICA, SERVICE
from hedgeserve.spec import Cloud

VM_TYPE = "microsoft.compute/virtualmachines"
GROUP = "resource group"


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    version: str
    shared: bool = False


# In the order in which they can be taken away: an interface holds its address, its firewall and its network.
_KINDS: Mapping[str, _Kind] = {
    "microsoft.network/networkinterfaces": _Kind("network interface", NETWORK_VERSION),
    "microsoft.network/publicipaddresses": _Kind("public address", NETWORK_VERSION),
    "microsoft.compute/disks": _Kind("disk", DISK_VERSION),
    "microsoft.network/networksecuritygroups": _Kind("firewall", NETWORK_VERSION, shared=True),
    "microsoft.network/virtualnetworks": _Kind("network", NETWORK_VERSION, shared=True),
}
_VERSIONS = {kind.name: kind.version for kind in _KINDS.values()} | {GROUP: GROUPS_VERSION}


def version_of(kind: str) -> str:
    """The API version to delete such a leftover with."""
    return _VERSIONS[kind]


def group_leftovers(group: Json, resources: Sequence[Json], region: str) -> list[Leftover]:
    """A tagged resource group and what of ours is in it, in the order in which it can be taken away."""
    service = str(group["tags"][SERVICE])
    vms = [str(resource["name"]) for resource in resources if _type(resource) == VM_TYPE]
    found = [
        Leftover(
            cloud=Cloud.AZURE,
            region=region,
            kind=kind.name,
            id=_below_subscription(str(resource["id"])),
            service=service,
            name=str(resource["name"]),
            in_use=bool(vms) if kind.shared else _is_used(resource, vms),
            created_at=_time(resource.get("createdTime")),
        )
        for type_name, kind in _KINDS.items()
        for resource in resources
        if _type(resource) == type_name and _is_ours(resource, service)
    ]
    found.append(
        Leftover(
            cloud=Cloud.AZURE,
            region=region,
            kind=GROUP,
            id=_below_subscription(str(group["id"])),
            service=service,
            name=str(group["name"]),
            in_use=bool(vms),
        )
    )
    return found


def strangers(group: Json, resources: Iterable[Json]) -> list[str]:
    """The names of what is in a service's group and was not made by HedgeServe, and of the VMs that are there."""
    service = str((group.get("tags") or {}).get(SERVICE, ""))
    return sorted(
        str(resource["name"])
        for resource in resources
        if _type(resource) not in _KINDS or not _is_ours(resource, service)
    )


def _type(resource: Json) -> str:
    return str(resource.get("type", "")).lower()


def _is_ours(resource: Json, service: str) -> bool:
    if SERVICE in (resource.get("tags") or {}):
        return True
    # The API takes no tags for the disk that it makes with a VM; its name is ours.
    name = str(resource["name"])
    return (
        _type(resource) == "microsoft.compute/disks" and name.startswith(f"{service}-") and name.endswith("-disk")
    )


def _is_used(resource: Json, vms: Sequence[str]) -> bool:
    # By name, for a VM that is just being made has an interface that does not know it yet.
    owner = (resource.get("tags") or {}).get(REPLICA) or str(resource["name"]).removesuffix("-disk")
    return owner in vms or bool(resource.get("managedBy"))


def _below_subscription(resource_id: str) -> str:
    return "/" + resource_id.lstrip("/").split("/", 2)[2]


def _time(text: object) -> datetime | None:
    try:
        read = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
