"""What Google says before a launch: image, permissions, what is offered where, quotas."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import requests

from hedgeserve.drivers.examine import Examination, Wanted, judge_offered, judge_quota, most_replicas, wanted_in
from hedgeserve.drivers.gcpcloud import bodies
from hedgeserve.drivers.gcpcloud.compute import Compute, Json
from hedgeserve.drivers.gcpcloud.faults import fault_of
from hedgeserve.replica import Market

if TYPE_CHECKING:
    from hedgeserve.drivers.gcp import GcpDriver

_RESOURCE_MANAGER = "https://cloudresourcemanager.googleapis.com"
_TIMEOUT_S = 20.0
_ASKED_AT_ONCE = 100
_ALL_REGIONS = "GPUS_ALL_REGIONS"
_QUOTA = "ask for more under IAM & Admin, Quotas, in the Google Cloud console"

PERMISSIONS = (
    "compute.disks.create",
    "compute.disks.delete",
    "compute.disks.list",
    "compute.disks.setLabels",
    "compute.firewalls.create",
    "compute.firewalls.delete",
    "compute.firewalls.get",
    "compute.firewalls.list",
    "compute.firewalls.update",
    "compute.globalOperations.get",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setTags",
    "compute.networks.updatePolicy",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
)
"""Those of the role in docs/clouds/gcp.md."""


async def inspect(driver: "GcpDriver", region: str, found: Examination) -> None:
    """All of one region; of the project with the first."""
    place = f"gcp {region}"
    if region == driver.regions[0]:
        await _judge_permissions(driver, region, found)
        if (image := await found.step("gcp image", driver.image(region))) is not None:
            found.ok("gcp image", image)
    told = await found.step(
        f"{place} quotas",
        driver.ask(region, partial(_quotas, region=region), "read the quotas"),
        else_=found.unknown,
    )
    for one in wanted_in(driver, region):
        offered: list[str] | None = []
        for zone in one.zones:
            what = f"ask whether {zone} has {one.instance_type}"
            there = await found.step(
                f"{place} {zone} {one.instance_type}",
                driver.ask(region, partial(_has, zone=zone, name=one.instance_type), what),
                else_=found.unknown,
            )
            if there is None:
                offered = None
                break
            if there and offered is not None:
                offered.append(zone)
        judge_offered(found, "gcp", one, offered)
        for market in one.markets if told is not None else ():
            _judge_quotas(driver, one, market, told or {}, found)


def _has(api: Compute, zone: str, name: str) -> bool:
    machine, accelerators = bodies.machine_and_gpus(name, zone)
    kinds = [one["acceleratorType"].rpartition("/")[2] for one in accelerators]
    return api.maybe("GET", f"zones/{zone}/machineTypes/{machine}", fields="name") is not None and all(
        api.maybe("GET", f"zones/{zone}/acceleratorTypes/{kind}", fields="name") is not None for kind in kinds
    )


def _quotas(api: Compute, region: str) -> dict[str, tuple[float, float]]:
    """Limit and usage by metric: the region's, and the project's GPUs in all regions."""
    told = [*api.call("GET", f"regions/{region}", params={"fields": "quotas"}).get("quotas", ())]
    project = api.call("GET", f"projects/{api.project}", params={"fields": "quotas"})
    told += [one for one in project.get("quotas", ()) if one.get("metric") == _ALL_REGIONS]
    return {one["metric"]: (float(one.get("limit", 0)), float(one.get("usage", 0))) for one in told}


def _judge_quotas(
    driver: "GcpDriver", one: Wanted, market: Market, told: Mapping[str, tuple[float, float]], found: Examination
) -> None:
    subject = f"gcp {one.region} {one.instance_type} {market} quota"
    before = "PREEMPTIBLE_" if market is Market.SPOT else ""
    metric = f"{before}NVIDIA_{one.gpu.removesuffix('-40GB').replace('-', '_')}_GPUS"
    if not one.gpu or metric not in told:
        found.unknown(subject, f"the project tells no quota for {one.gpu or 'this type'}; look in the console")
        return
    for name in [metric, *([_ALL_REGIONS] if _ALL_REGIONS in told else [])]:
        limit, used = told[name]
        judge_quota(
            found,
            f"{subject} {name}",
            limit=limit,
            used=used,
            one=one.gpus,
            most=most_replicas(driver),
            unit="GPUs",
            advice=_QUOTA,
        )


async def _judge_permissions(driver: "GcpDriver", region: str, found: Examination) -> None:
    held = await found.step(
        "gcp permissions", driver.ask(region, _permissions, "ask for permissions"), else_=found.unknown
    )
    if held is None:
        return
    if missing := [name for name in PERMISSIONS if name not in held]:
        found.fail("gcp permissions", f"this login lacks {', '.join(missing)}; docs/clouds/gcp.md has the role")
    else:
        found.ok("gcp permissions", f"all {len(PERMISSIONS)} of the role")


def _permissions(api: Compute) -> Sequence[str]:
    """Those of ours that this login has in the project; asked of the Resource Manager, which must be enabled."""
    base = api.endpoint if api.endpoint_given else _RESOURCE_MANAGER
    headers: dict[str, str] = {}
    api.login.sign(headers)
    answer = requests.post(
        f"{base}/v1/projects/{api.project}:testIamPermissions",
        json={"permissions": list(PERMISSIONS[:_ASKED_AT_ONCE])},
        headers=headers,
        timeout=_TIMEOUT_S,
    )
    try:
        body: Json | str = answer.json()
    except ValueError:
        body = answer.text
    if answer.status_code >= 400 or not isinstance(body, dict):
        raise fault_of(answer.status_code, body, "")
    return list(body.get("permissions") or ())
