"""What is said to Compute Engine and what its descriptions of VMs mean. Pure."""

import ipaddress
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine, MachineState
from hedgeserve.drivers.catalogue import find_type
from hedgeserve.drivers.cloudinit import cloud_config, startup_script
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import UnsupportedError
from hedgeserve.replica import Market, ZoneId
from hedgeserve.spec import Cloud, Spec

Json = dict[str, Any]

TOKEN = "hedgeserve-token"
"""Metadata key of the launch's token, which tells a VM of this launch from another of the same name."""
NOTICE = "hedgeserve-notice-s"
"""Metadata key that tells the watcher on the VM how long the notice is."""

INSTANCE_FIELDS = (
    "nextPageToken,unreachables,items/*/warning/code,items/*/instances("
    "name,zone,status,machineType,labels,creationTimestamp,scheduling/provisioningModel,scheduling/preemptible,"
    "networkInterfaces(networkIP,accessConfigs/natIP),guestAccelerators)"
)
"""Of a list of VMs no more than is used: their metadata hold each VM's private host key."""
DISK_FIELDS = (
    "nextPageToken,unreachables,items/*/warning/code,items/*/disks(name,zone,labels,users,creationTimestamp)"
)

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_NAMESPACE = uuid.UUID("6f0c1c1e-62fa-4a55-9d3f-1d5e0a3f2b77")
_SHORT_NOTICE_S = 30
# For machines that do not bring their GPUs with them: "n1-standard-8+T4:1".
_ACCELERATORS = {
    "P4": "nvidia-tesla-p4",
    "P100": "nvidia-tesla-p100",
    "T4": "nvidia-tesla-t4",
    "V100": "nvidia-tesla-v100",
}
_TYPE = re.compile(r"([a-z0-9-]+)(?:\+([A-Z0-9]+)(?::(\d{1,2}))?)?")
_HYPERDISK_ONLY = ("a3-ultragpu-", "a4-", "a4x-", "g4-", "n4-", "c4-")
_STATES = {
    "PENDING": MachineState.PENDING,
    "PROVISIONING": MachineState.PENDING,
    "STAGING": MachineState.PENDING,
    "RUNNING": MachineState.RUNNING,
    "PENDING_STOP": MachineState.STOPPING,
    "STOPPING": MachineState.STOPPING,
    "SUSPENDING": MachineState.STOPPING,
    "DEPROVISIONING": MachineState.STOPPING,
    # It is broken and will not be waited for: its replacement is under way.
    "REPAIRING": MachineState.STOPPED,
    "STOPPED": MachineState.STOPPED,
    "SUSPENDED": MachineState.STOPPED,
    "TERMINATED": MachineState.STOPPED,
}
_OWNER_NOTE = re.compile(rf"{SERVICE}=([a-z][a-z0-9-]*)")


def request_id(token: str) -> str:
    """The UUID by which Compute Engine knows a launch that is asked for twice."""
    return str(uuid.uuid5(_NAMESPACE, token))


def machine_and_gpus(instance_type: str, zone: str) -> tuple[str, list[Json]]:
    """The machine type, and the accelerators to attach: ``n1-standard-8+T4:1`` has one.

    Raises:
        UnsupportedError: It cannot be understood.
    """
    found = _TYPE.fullmatch(instance_type)
    if found is None or (found[2] and found[2] not in _ACCELERATORS):
        known = ", ".join(sorted(_ACCELERATORS))
        raise UnsupportedError(
            f'"{instance_type}" is no instance type of GCP; write one such as "g2-standard-4", or with GPUs to '
            f'attach "n1-standard-8+T4:1" ({known})'
        )
    if not found[2]:
        return found[1], []
    accelerator = f"zones/{zone}/acceleratorTypes/{_ACCELERATORS[found[2]]}"
    return found[1], [{"acceleratorType": accelerator, "acceleratorCount": int(found[3] or 1)}]


def gpus_of(instance_type: str, accelerators: Sequence[Mapping[str, Any]] = ()) -> int:
    """How many GPUs a VM has, by the catalogue, or else by what is attached to it; 0: unknown."""
    row = find_type(Cloud.GCP, instance_type)
    if row is not None:
        return row.gpus
    return sum(int(one.get("acceleratorCount") or 0) for one in accelerators)


def instance_body(spec: Spec, project: str, zone: str, request: LaunchRequest, image: str) -> Json:
    """All of ``instances.insert``: the VM with its disk, address and labels, in one request."""
    gcp, region = spec.gcp, zone.rpartition("-")[0]
    machine, accelerators = machine_and_gpus(request.offer.instance_type, zone)
    disk_type = "hyperdisk-balanced" if machine.startswith(_HYPERDISK_ONLY) else "pd-balanced"
    labels = dict(request.tags)
    lease_s = spec.timeouts.lease
    metadata = {
        "block-project-ssh-keys": "TRUE",
        "enable-oslogin": "FALSE",
        "ssh-keys": f"{gcp.user}:{request.authorized_key.strip()}",
        # By cloud-init where the image has it; the script serves images without, and does no harm to others.
        "user-data": cloud_config(request, user=gcp.user, lease_s=lease_s),
        "startup-script": startup_script(request, user=gcp.user, lease_s=lease_s),
        # Older Deep Learning VM images ask whether to install the GPU's driver at the first boot.
        "install-nvidia-driver": "True",
        NOTICE: f"{gcp.notice or _SHORT_NOTICE_S:.0f}",
        TOKEN: request_id(request.token),
    }
    interface: Json = {"network": network_path(project, gcp.network)}
    if region in gcp.subnetworks:
        interface["subnetwork"] = subnetwork_path(project, region, gcp.subnetworks[region])
    if spec.vm.address == "public":
        interface["accessConfigs"] = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    body: Json = {
        "name": request.name,
        "description": f"Made by HedgeServe; {SERVICE}={spec.service.name}",
        "machineType": f"zones/{zone}/machineTypes/{machine}",
        "labels": labels,
        "tags": {"items": [firewall_name(spec.service.name)]},
        "scheduling": scheduling(request.offer.market, gcp.notice),
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": image,
                    "diskSizeGb": str(math.ceil(spec.vm.disk / 2**30)),
                    "diskType": f"zones/{zone}/diskTypes/{disk_type}",
                    "labels": labels,
                },
            }
        ],
        "networkInterfaces": [interface],
        "metadata": {"items": [{"key": key, "value": value} for key, value in metadata.items()]},
    }
    if accelerators:
        body["guestAccelerators"] = accelerators
    if gcp.service_account:
        body["serviceAccounts"] = [{"email": gcp.service_account, "scopes": [_CLOUD_PLATFORM]}]
    return body


def scheduling(market: Market, notice_s: float | None) -> Json:
    """How the VM may be interrupted. It never restarts by itself: what was lost is replaced."""
    common: Json = {"onHostMaintenance": "TERMINATE", "automaticRestart": False}
    if market is not Market.SPOT:
        return {"provisioningModel": "STANDARD", **common}
    spot = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE", **common}
    return spot | ({"preemptionNoticeDuration": {"seconds": f"{notice_s:.0f}"}} if notice_s else {})


def network_path(project: str, network: str) -> str:
    """The network's path; one with a slash (``projects/host/global/networks/n``) is a path already."""
    return network if "/" in network else f"projects/{project}/global/networks/{network}"


def subnetwork_path(project: str, region: str, subnetwork: str) -> str:
    """The subnetwork's path; one with a slash is a path already."""
    return subnetwork if "/" in subnetwork else f"projects/{project}/regions/{region}/subnetworks/{subnetwork}"


def firewall_name(service: str) -> str:
    """Name of the service's firewall rule, and the network tag of the VMs that it is about."""
    return f"hedgeserve-{service}"


def firewall_bodies(service: str, network: str, networks: Sequence[str], ports: Sequence[int]) -> Sequence[Json]:
    """The rule that lets the networks in and the one below it that keeps all others out.

    The second is for networks with open rules, such as ``default``, whose SSH is open to everybody.

    Raises:
        UnsupportedError: No network is one of IPv4, which is all that the VMs speak.
    """
    inside = sorted(one for one in networks if ipaddress.ip_network(one).version == 4)
    if not inside:
        raise UnsupportedError(
            f"VMs of gcp have IPv4 addresses, and only {', '.join(networks)} may reach them; write an IPv4 "
            "network into vm.allow_from"
        )
    name = firewall_name(service)
    common: Json = {
        "network": network,
        "description": f"Made by HedgeServe; {SERVICE}={service}",
        "direction": "INGRESS",
        "targetTags": [name],
        "disabled": False,
    }
    allow = {"IPProtocol": "tcp", "ports": [str(port) for port in ports]}
    return (
        {**common, "name": name, "priority": 900, "sourceRanges": inside, "allowed": [allow]},
        {
            **common,
            # No other service's rule can have this name, as f"{name}-deny" might.
            "name": f"deny-{name}",
            "priority": 901,
            "sourceRanges": ["0.0.0.0/0"],
            "denied": [{"IPProtocol": "all"}],
        },
    )


def differs(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a firewall rule that is there must be changed; the order of lists is no change."""
    return any(_comparable(key, found.get(key)) != _comparable(key, value) for key, value in wanted.items())


def service_of(description: str) -> str:
    """The service that something without labels was made for; empty where HedgeServe did not make it."""
    found = _OWNER_NOTE.search(description)
    return found[1] if found else ""


def machine_of(told: Mapping[str, Any], *, address: str, user: str) -> Machine:
    """A VM as the API describes it; ``address`` says which of its two is used: ``public`` or ``private``."""
    zone = last_word(told["zone"])
    region = zone.rpartition("-")[0]
    plan = told.get("scheduling") or {}
    spot = plan.get("provisioningModel") == "SPOT" or bool(plan.get("preemptible"))
    interface = (told.get("networkInterfaces") or [{}])[0]
    natted = [one.get("natIP") for one in interface.get("accessConfigs") or ()]
    accelerators = told.get("guestAccelerators") or ()
    instance_type = _type_name(last_word(told["machineType"]), accelerators)
    return Machine(
        id=f"{region}/{zone}/{told['name']}",
        name=told["name"],
        zone=ZoneId(f"{Cloud.GCP}/{region}/{zone}"),
        market=Market.SPOT if spot else Market.ON_DEMAND,
        instance_type=instance_type,
        state=_STATES.get(told.get("status") or "", MachineState.PENDING),
        tags=dict(told.get("labels") or {}),
        launched_at=when(told.get("creationTimestamp")) or datetime.now(UTC),
        address=((natted or [None])[0] if address == "public" else interface.get("networkIP")) or None,
        ssh_user=user,
        dialect=Dialect.GCP,
        gpus=gpus_of(instance_type, accelerators),
    )


def disk_leftover(told: Mapping[str, Any]) -> Leftover:
    """A disk; it is in use as long as it is attached to a VM."""
    zone = last_word(told["zone"])
    return Leftover(
        cloud=Cloud.GCP,
        region=zone.rpartition("-")[0],
        kind="disk",
        id=f"{zone}/{told['name']}",
        service=(told.get("labels") or {}).get(SERVICE, ""),
        name=told["name"],
        in_use=bool(told.get("users")),
        created_at=when(told.get("creationTimestamp")),
    )


def firewall_leftover(told: Mapping[str, Any], region: str, service: str) -> Leftover:
    """A firewall rule, which serves its service as a whole."""
    return Leftover(
        cloud=Cloud.GCP,
        region=region,
        kind="firewall rule",
        id=told["name"],
        service=service,
        name=told["name"],
        in_use=True,
        created_at=when(told.get("creationTimestamp")),
    )


def price_body(instance_type: str, zone: str) -> Json:
    """All of ``advice.capacityHistory`` for the spot price of a type."""
    machine, accelerators = machine_and_gpus(instance_type, zone)
    properties: Json = {"machineType": machine, "scheduling": {"provisioningModel": "SPOT"}}
    if accelerators:
        properties["guestAccelerators"] = accelerators
    return {"instanceProperties": properties, "types": ["PRICE"]}


def price_of(told: Mapping[str, Any]) -> float | None:
    """The latest price in USD per hour; None where there is none."""
    latest: tuple[datetime, float] | None = None
    for record in told.get("priceHistory") or ():
        money, interval = record.get("listPrice") or {}, record.get("interval") or {}
        since = when(interval.get("startTime"))
        usd = int(money.get("units") or 0) + int(money.get("nanos") or 0) / 1e9
        if money.get("currencyCode") == "USD" and usd > 0 and since and (latest is None or since > latest[0]):
            latest = (since, usd)
    return latest[1] if latest else None


def when(text: str | None) -> datetime | None:
    """A time in RFC 3339 form; None where there is none."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found.astimezone(UTC) if found and found.tzinfo else None


def last_word(url: str) -> str:
    """The name at the end of a resource's URL."""
    return url.rpartition("/")[2]


def _type_name(machine: str, accelerators: Sequence[Mapping[str, Any]]) -> str:
    """As pools write it: machines that bring their GPUs list them too, but only those of N1 were attached."""
    if machine.startswith("n1-") and accelerators:
        attached = last_word(accelerators[0].get("acceleratorType") or "")
        kind = next((short for short, name in _ACCELERATORS.items() if name == attached), None)
        if kind:
            return f"{machine}+{kind}:{accelerators[0].get('acceleratorCount') or 1}"
    return machine


def _comparable(key: str, value: Any) -> Any:
    if key == "network":
        return str(value).partition("/projects/")[2] or str(value).removeprefix("projects/")
    if key in ("sourceRanges", "targetTags"):
        return sorted(value or ())
    if key in ("allowed", "denied"):
        return sorted((one.get("IPProtocol"), tuple(sorted(one.get("ports") or ()))) for one in value or ())
    return value or False
