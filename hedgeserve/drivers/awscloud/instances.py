"""VMs as EC2 has them: the request that makes one, and one of its list read into a Machine. Pure."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from hedgeserve.drivers.awscloud.ec2 import tagged, tags_of
from hedgeserve.drivers.awscloud.images import Image
from hedgeserve.drivers.base import Dialect, LaunchRequest, Machine, MachineState
from hedgeserve.drivers.catalogue import find_type
from hedgeserve.errors import CloudError, UnsupportedError
from hedgeserve.replica import Market, ZoneId
from hedgeserve.spec import Cloud

STATES: Mapping[str, MachineState] = {
    "pending": MachineState.PENDING,
    "running": MachineState.RUNNING,
    "shutting-down": MachineState.STOPPING,
    "stopping": MachineState.STOPPED,
    "stopped": MachineState.STOPPED,
}
"""EC2's states of an instance that may still cost money; what is ``terminated`` does not."""
_USER_DATA_MOST = 16384


@dataclass(frozen=True, slots=True)
class Place:
    """Where a VM goes, and by which key and group it is reached."""

    zone: str
    subnet: str
    group: str
    key_name: str


def run_parameters(
    request: LaunchRequest,
    place: Place,
    image: Image,
    *,
    user_data: str,
    disk_bytes: int,
    public: bool,
    instance_profile: str,
    max_usd_per_hour: float | None,
) -> dict[str, Any]:
    """RunInstances for one VM that leaves nothing behind: its disk, interface and spot request go with it.

    Raises:
        CloudError: The user-data are longer than EC2 takes.
        UnsupportedError: The image does not fit on the disk.
    """
    gib = math.ceil(disk_bytes / 2**30)
    if gib < image.least_gib:
        raise UnsupportedError(f'the image {image.id} needs {image.least_gib} GiB; raise vm.disk ("{gib} GiB")')
    told = user_data.encode()
    if len(told) > _USER_DATA_MOST:
        raise CloudError(f"the user-data of {request.name} have {len(told)} bytes; EC2 takes {_USER_DATA_MOST}")
    spot = request.offer.market is Market.SPOT
    tags = {"Name": request.name, **request.tags}
    kinds = ["instance", "volume", "network-interface", *(["spot-instances-request"] if spot else [])]
    interface: dict[str, Any] = {
        "DeviceIndex": 0,
        "SubnetId": place.subnet,
        "SecurityGroupId": [place.group],
        "DeleteOnTermination": True,
    }
    if public:
        interface["AssociatePublicIpAddress"] = True
    parameters: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": request.offer.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": request.token,
        "KeyName": place.key_name,
        "UserData": base64.b64encode(told).decode(),
        "Placement": {"AvailabilityZone": place.zone},
        "NetworkInterface": [interface],
        "BlockDeviceMapping": [
            {
                "DeviceName": image.root,
                "Ebs": {"VolumeSize": gib, "VolumeType": "gp3", "DeleteOnTermination": True},
            }
        ],
        # A shutdown from inside, the dead-man switch's, must end the bill; a stopped VM's disk goes on costing.
        "InstanceInitiatedShutdownBehavior": "terminate",
        # Two hops, so that a container on the VM reaches the metadata too.
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        "TagSpecification": [tagged(kind, tags) for kind in kinds],
    }
    if instance_profile:
        parameters["IamInstanceProfile"] = {"Name": instance_profile}
    if spot:
        options: dict[str, Any] = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if max_usd_per_hour is not None:
            options["MaxPrice"] = f"{max_usd_per_hour:.6f}".rstrip("0").rstrip(".")
        parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return parameters


def machine(region: str, found: ElementTree.Element, *, user: str, public: bool) -> Machine:
    """An instance of a DescribeInstances answer."""
    tags = tags_of(found)
    kind = found.findtext("instanceType", "")
    row = find_type(Cloud.AWS, kind)
    return Machine(
        id=f"{region}/{found.findtext('instanceId', '')}",
        name=tags.get("Name", ""),
        zone=ZoneId(f"{Cloud.AWS}/{region}/{found.findtext('placement/availabilityZone', '')}"),
        market=Market.SPOT if found.findtext("instanceLifecycle") == "spot" else Market.ON_DEMAND,
        instance_type=kind,
        state=STATES.get(found.findtext("instanceState/name", ""), MachineState.STOPPED),
        tags=tags,
        launched_at=moment(found.findtext("launchTime")),
        address=found.findtext("ipAddress" if public else "privateIpAddress") or None,
        ssh_user=user,
        dialect=Dialect.AWS,
        gpus=row.gpus if row is not None else 0,
    )


def moment(text: str | None) -> datetime:
    """A time of EC2's; now where it tells none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else datetime.now(UTC)
