"""What bears our tag in a region and is no VM: found, and taken away. Blocking."""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, Ec2Fault, Parameter, filtered, tags_of
from hedgeserve.drivers.awscloud.faults import GONE
from hedgeserve.drivers.awscloud.instances import moment
from hedgeserve.drivers.base import Leftover
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import CloudError
from hedgeserve.spec import Cloud


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of thing is listed, read and removed; things in one of the states ``gone`` are not there."""

    name: str
    listing: Action
    items: str
    id: str
    removal: Action
    removed_by: str
    created: str = ""
    state: str = ""
    idle: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()


KINDS = (
    _Kind(
        "spot-request",
        Action.SPOT_REQUESTS,
        "spotInstanceRequestSet/item",
        "spotInstanceRequestId",
        Action.CANCEL_SPOT_REQUESTS,
        "SpotInstanceRequestId",
        created="createTime",
        state="state",
        idle=frozenset({"open", "disabled"}),
        gone=frozenset({"closed", "cancelled", "failed"}),
    ),
    _Kind(
        "volume",
        Action.VOLUMES,
        "volumeSet/item",
        "volumeId",
        Action.DELETE_VOLUME,
        "VolumeId",
        created="createTime",
        state="status",
        idle=frozenset({"available", "error"}),
        gone=frozenset({"deleting", "deleted"}),
    ),
    _Kind(
        "network-interface",
        Action.INTERFACES,
        "networkInterfaceSet/item",
        "networkInterfaceId",
        Action.DELETE_INTERFACE,
        "NetworkInterfaceId",
        state="status",
        idle=frozenset({"available"}),
    ),
    _Kind(
        "security-group",
        Action.GROUPS,
        "securityGroupInfo/item",
        "groupId",
        Action.DELETE_GROUP,
        "GroupId",
    ),
    _Kind(
        "key-pair",
        Action.KEYS,
        "keySet/item",
        "keyPairId",
        Action.DELETE_KEY,
        "KeyPairId",
        created="createTime",
    ),
)
"""In the order in which they may be removed: a security group only when no interface refers to it."""


def find(ec2: Ec2) -> list[Leftover]:
    """All of them, of every service."""
    return [leftover for kind in KINDS for leftover in _find(ec2, kind)]


def remove(ec2: Ec2, leftover: Leftover) -> None:
    """Take it away; one that is gone already is a success.

    Raises:
        Ec2Fault: EC2 refuses, for instance because something still refers to it.
    """
    kind = next((kind for kind in KINDS if kind.name == leftover.kind), None)
    if kind is None:
        raise CloudError(f"AWS has no {leftover.kind} that could be removed ({leftover.id})")
    listed: Parameter = [leftover.id] if kind.removal is Action.CANCEL_SPOT_REQUESTS else leftover.id
    try:
        ec2.ask(kind.removal, **{kind.removed_by: listed})
    except Ec2Fault as fault:
        if not GONE.fullmatch(fault.code):
            raise


def _find(ec2: Ec2, kind: _Kind) -> Iterator[Leftover]:
    for item in ec2.each(kind.listing, kind.items, Filter=filtered({"tag-key": [SERVICE]})):
        state = item.findtext(kind.state, "") if kind.state else ""
        if state not in kind.gone:
            yield _leftover(ec2.region_name, kind, item, in_use=state not in kind.idle)


def _leftover(region: str, kind: _Kind, item: ElementTree.Element, *, in_use: bool) -> Leftover:
    tags = tags_of(item)
    created = item.findtext(kind.created) if kind.created else None
    return Leftover(
        cloud=Cloud.AWS,
        region=region,
        kind=kind.name,
        id=item.findtext(kind.id, ""),
        service=tags.get(SERVICE, ""),
        name=tags.get("Name", ""),
        in_use=in_use,
        created_at=moment(created) if created else None,
    )
