"""What is sent to Azure Resource Manager: names, and the bodies of what HedgeServe makes. Pure."""

import base64
import ipaddress
import math
import re
from collections.abc import Mapping, Sequence

from hedgeserve.drivers.azurecloud.arm import Json
from hedgeserve.drivers.base import LaunchRequest
from hedgeserve.replica import Market

NSG = "hedgeserve-nsg"
NETWORK = "hedgeserve-vnet"
SUBNET = "vms"
NO_ZONE = "none"
"""The zone's name in a pool that does not pin its VMs to one."""

_ADDRESSES = "10.117.0.0/16"
_SUBNET_ADDRESSES = "10.117.0.0/20"
_PORTS = ("22", "8000")
_INLINE_NETWORK_VERSION = "2022-11-01"
"""Microsoft.Network's version for the interface inside the VM's body; one of two that the API knows."""


def group_name(prefix: str, service: str, region: str) -> str:
    """The resource group of a service in a region; in small letters, since Azure answers in any."""
    return f"{prefix or f'hedgeserve-{service}'}-{region}".lower()


def vm_path(group: str, name: str) -> str:
    """Where a VM is, below the subscription."""
    return f"/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines/{name}"


def network_path(group: str, kind: str, name: str = "") -> str:
    """Where a thing of Microsoft.Network is, or without a name the list of them."""
    path = f"/resourceGroups/{group}/providers/Microsoft.Network/{kind}"
    return f"{path}/{name}" if name else path


def image_reference(image: str) -> Json:
    """``publisher:offer:sku:version``, or the resource id of an image of one's own or of a gallery."""
    if image.startswith("/"):
        if re.match(r"/communitygalleries/", image, re.IGNORECASE):
            return {"communityGalleryImageId": image}
        if re.match(r"/sharedgalleries/", image, re.IGNORECASE):
            return {"sharedGalleryImageId": image}
        return {"id": image}
    publisher, offer, sku, version = image.split(":")
    return {"publisher": publisher, "offer": offer, "sku": sku, "version": version}


def is_image(image: str) -> bool:
    """Whether this can be an image at all."""
    return image.startswith("/") or (image.count(":") == 3 and all(image.split(":")))


def group_body(region: str, tags: Mapping[str, str]) -> Json:
    """A resource group."""
    return {"location": region, "tags": dict(tags)}


def network_body(region: str, tags: Mapping[str, str]) -> Json:
    """A network with one subnet. Its VMs go out by their own addresses, hence no other way out."""
    return {
        "location": region,
        "tags": dict(tags),
        "properties": {
            "addressSpace": {"addressPrefixes": [_ADDRESSES]},
            "subnets": [
                {
                    "name": SUBNET,
                    "properties": {"addressPrefix": _SUBNET_ADDRESSES, "defaultOutboundAccess": False},
                }
            ],
        },
    }


def security_rules(networks: Sequence[str]) -> list[Json]:
    """SSH and the engine from these networks, nothing else from anywhere."""
    rules = []
    for version, priority in ((4, 100), (6, 110)):
        allowed = [network for network in networks if ipaddress.ip_network(network).version == version]
        if allowed:
            rules.append(_rule(f"hedgeserve-ipv{version}", priority, "Allow", "Tcp", allowed, _PORTS))
    # Azure's own last rules would let in the whole network that the VMs are in, and its load balancers.
    return [*rules, _rule("hedgeserve-others", 4096, "Deny", "*", ["*"], ["*"])]


def firewall_body(region: str, tags: Mapping[str, str], networks: Sequence[str]) -> Json:
    """A network security group with these rules."""
    return {
        "location": region,
        "tags": dict(tags),
        "properties": {"securityRules": security_rules(networks)},
    }


def same_rules(found: Sequence[Json], wanted: Sequence[Json]) -> bool:
    """Whether a security group has these rules and no others, in what the rules say."""
    return sorted(map(_essence, found)) == sorted(map(_essence, wanted))


def vm_body(
    request: LaunchRequest,
    *,
    region: str,
    zone: str,
    image: str,
    user: str,
    user_data: str,
    disk_bytes: int,
    subnet_id: str,
    firewall_id: str,
    public: bool,
    max_usd_per_hour: float | None,
) -> Json:
    """A VM with its interface, address and disk, all of which go when it goes; tagged as it is."""
    tags, name = dict(request.tags), request.name
    ip: Json = {"primary": True, "subnet": {"id": subnet_id}, "privateIPAddressVersion": "IPv4"}
    if public:
        ip["publicIPAddressConfiguration"] = {
            "name": f"{name}-ip",
            "sku": {"name": "Standard", "tier": "Regional"},
            "tags": tags,
            "properties": {
                "deleteOption": "Delete",
                "publicIPAllocationMethod": "Static",
                "publicIPAddressVersion": "IPv4",
            },
        }
    properties: Json = {
        "hardwareProfile": {"vmSize": request.offer.instance_type},
        "storageProfile": {
            "imageReference": image_reference(image),
            "osDisk": {
                "name": f"{name}-disk",
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "caching": "ReadWrite",
                "diskSizeGB": math.ceil(disk_bytes / 2**30),
                "managedDisk": {"storageAccountType": "Premium_LRS"},
            },
        },
        "osProfile": {
            "computerName": name[:64],
            "adminUsername": user,
            "customData": base64.b64encode(user_data.encode()).decode(),
            "linuxConfiguration": {
                "disablePasswordAuthentication": True,
                "ssh": {
                    "publicKeys": [
                        {"path": f"/home/{user}/.ssh/authorized_keys", "keyData": request.authorized_key.strip()}
                    ]
                },
            },
        },
        "networkProfile": {
            "networkApiVersion": _INLINE_NETWORK_VERSION,
            "networkInterfaceConfigurations": [
                {
                    "name": f"{name}-nic",
                    "tags": tags,
                    "properties": {
                        "primary": True,
                        "deleteOption": "Delete",
                        "networkSecurityGroup": {"id": firewall_id},
                        "ipConfigurations": [{"name": "main", "properties": ip}],
                    },
                }
            ],
        },
    }
    if request.offer.market is Market.SPOT:
        price = -1 if max_usd_per_hour is None else round(max_usd_per_hour, 5)
        properties |= {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": price}}
    else:
        properties["priority"] = "Regular"
    body: Json = {"location": region, "tags": tags, "properties": properties}
    return body if zone == NO_ZONE else body | {"zones": [zone]}


def _rule(
    name: str, priority: int, access: str, protocol: str, sources: Sequence[str], ports: Sequence[str]
) -> Json:
    properties: Json = {
        "priority": priority,
        "direction": "Inbound",
        "access": access,
        "protocol": protocol,
        "sourcePortRange": "*",
        "destinationAddressPrefix": "*",
    }
    # The API has one key for one of them and another for several, and "*" is only taken alone.
    properties |= (
        {"sourceAddressPrefix": sources[0]} if len(sources) == 1 else {"sourceAddressPrefixes": list(sources)}
    )
    properties |= {"destinationPortRange": ports[0]} if len(ports) == 1 else {"destinationPortRanges": list(ports)}
    return {"name": name, "properties": properties}


def _essence(rule: Json) -> str:
    """A rule without what the API adds to it, in a form that can be compared."""
    has = rule.get("properties", {})
    sources = sorted([*filter(None, [has.get("sourceAddressPrefix")]), *has.get("sourceAddressPrefixes", ())])
    ports = sorted([*filter(None, [has.get("destinationPortRange")]), *has.get("destinationPortRanges", ())])
    said = [str(has.get(key, "")).lower() for key in ("direction", "access", "protocol")]
    return repr((rule.get("name"), has.get("priority"), *said, sources, ports))
