"""What a VM's network needs in a region: a subnet per zone, a security group per VPC, a key pair. Blocking.

Each function may be called again at any time and changes only what is not yet as it should be.
"""

import base64
import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, Ec2Fault, filtered, tagged, tags_of
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import CloudError, UnsupportedError

PORTS = (22, 8000)
"""SSH and the engine."""

Rule = tuple[str, str, str, str]
"""An ingress rule: protocol, first and last port, network."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """Where the VMs of a zone are attached."""

    id: str
    vpc: str
    zone: str


def subnets(ec2: Ec2, zones: Sequence[str], chosen: Mapping[str, str]) -> dict[str, Subnet]:
    """The subnet of each zone that has one: the ``chosen``, else the default one.

    Raises:
        UnsupportedError: A chosen one does not exist, or lies in another zone.
    """
    named = {zone: chosen[zone] for zone in zones if zone in chosen}
    found: dict[str, Subnet] = {}
    if named:
        there = {subnet.id: subnet for subnet in _subnets(ec2, {"subnet-id": list(named.values())})}
        for zone, subnet_id in named.items():
            subnet = there.get(subnet_id)
            if subnet is None:
                raise UnsupportedError(f"[aws] subnets names {subnet_id} for {zone}, which is not there")
            if subnet.zone != zone:
                raise UnsupportedError(f"[aws] subnets names {subnet_id} for {zone}, but it lies in {subnet.zone}")
            found[zone] = subnet
    if rest := [zone for zone in zones if zone not in named]:
        usual = _subnets(ec2, {"default-for-az": ["true"], "availability-zone": rest})
        found |= {subnet.zone: subnet for subnet in usual}
    return found


def ensure_group(ec2: Ec2, name: str, vpc: str, networks: Iterable[str], tags: Mapping[str, str]) -> str:
    """The id of the security group of this name, which lets in ``networks`` and nobody else.

    Raises:
        CloudError: There is such a group already and somebody else has made it.
    """
    group = _group(ec2, name, vpc)
    if group is None:
        group_id, rules = _make_group(ec2, name, vpc, tags), {}
    else:
        group_id, rules = group.findtext("groupId", ""), _rules(group)
        if tags_of(group).get(SERVICE) != tags[SERVICE]:
            raise CloudError(
                f'the security group {group_id} is called "{name}" and is not ours; rename it, or name one in '
                "[aws] security_groups"
            )
    wanted = {("tcp", str(port), str(port), network) for port in PORTS for network in networks}
    # First the new ones, so that a controller that has moved is not shut out for longer than it must be.
    if missing := sorted(wanted - set(rules)):
        _change(ec2, Action.AUTHORIZE_INGRESS, group_id, [_permission(rule) for rule in missing])
    if surplus := sorted(set(rules) - wanted):
        _change(ec2, Action.REVOKE_INGRESS, group_id, [rules[rule] for rule in surplus])
    return group_id


def key_name(service: str, public_key: str) -> str:
    """The name of the key pair of this public key: another key has another name."""
    mark = hashlib.sha256(" ".join(public_key.split()[:2]).encode()).hexdigest()[:12]
    return f"hedgeserve-{service}-{mark}"


def ensure_key(ec2: Ec2, name: str, public_key: str, tags: Mapping[str, str]) -> None:
    """Import this public key under its name, unless that was done before."""
    try:
        ec2.ask(
            Action.IMPORT_KEY,
            KeyName=name,
            PublicKeyMaterial=base64.b64encode(public_key.strip().encode()).decode(),
            TagSpecification=[tagged("key-pair", {"Name": name, **tags})],
        )
    except Ec2Fault as fault:
        if fault.code != "InvalidKeyPair.Duplicate":
            raise


def _subnets(ec2: Ec2, filters: Mapping[str, Sequence[str]]) -> list[Subnet]:
    return [
        Subnet(item.findtext("subnetId", ""), item.findtext("vpcId", ""), item.findtext("availabilityZone", ""))
        for item in ec2.each(Action.SUBNETS, "subnetSet/item", Filter=filtered(filters))
    ]


def _group(ec2: Ec2, name: str, vpc: str) -> ElementTree.Element | None:
    filters = filtered({"group-name": [name], "vpc-id": [vpc]})
    return next(ec2.each(Action.GROUPS, "securityGroupInfo/item", Filter=filters), None)


def _make_group(ec2: Ec2, name: str, vpc: str, tags: Mapping[str, str]) -> str:
    made = ec2.ask(
        Action.CREATE_GROUP,
        GroupName=name,
        GroupDescription="HedgeServe: SSH and engine, for the controller only",
        VpcId=vpc,
        TagSpecification=[tagged("security-group", {"Name": name, **tags})],
    )
    return made.findtext("groupId", "")


def _rules(group: ElementTree.Element) -> dict[Rule, Any]:
    """The ingress rules that a group has, each with the permission that takes it back."""
    rules: dict[Rule, Any] = {}
    for item in group.iterfind("ipPermissions/item"):
        protocol = item.findtext("ipProtocol", "")
        ports = {"FromPort": item.findtext("fromPort"), "ToPort": item.findtext("toPort")}
        base: dict[str, Any] = {"IpProtocol": protocol} | {name: port for name, port in ports.items() if port}
        first, last = str(ports["FromPort"] or ""), str(ports["ToPort"] or "")
        for path, source, name, key in (
            ("ipRanges/item", "cidrIp", "IpRanges", "CidrIp"),
            ("ipv6Ranges/item", "cidrIpv6", "Ipv6Ranges", "CidrIpv6"),
            ("groups/item", "groupId", "Groups", "GroupId"),
            ("prefixListIds/item", "prefixListId", "PrefixListIds", "PrefixListId"),
        ):
            for range_ in item.iterfind(path):
                value = range_.findtext(source, "")
                rules[protocol, first, last, value] = {**base, name: [{key: value}]}
    return rules


def _permission(rule: Rule) -> dict[str, Any]:
    protocol, first, last, network = rule
    kind, key = (
        ("IpRanges", "CidrIp") if ipaddress.ip_network(network).version == 4 else ("Ipv6Ranges", "CidrIpv6")
    )
    return {"IpProtocol": protocol, "FromPort": first, "ToPort": last, kind: [{key: network}]}


def _change(ec2: Ec2, action: Action, group_id: str, permissions: Sequence[dict[str, Any]]) -> None:
    try:
        ec2.ask(action, GroupId=group_id, IpPermissions=permissions)
    except Ec2Fault as fault:
        # Somebody was quicker; what is still missing is put right the next time.
        if fault.code not in ("InvalidPermission.Duplicate", "InvalidPermission.NotFound"):
            raise
