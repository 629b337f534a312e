"""What Azure says before a launch: image, permissions, what is offered where, quotas."""

from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from hedgeserve.drivers.azurecloud import bodies
from hedgeserve.drivers.azurecloud.arm import COMPUTE_VERSION, ArmDriver, Json
from hedgeserve.drivers.examine import Examination, Wanted, judge_offered, judge_quota, most_replicas, wanted_in
from hedgeserve.replica import Market

if TYPE_CHECKING:
    from hedgeserve.drivers.azure import AzureDriver

SKUS_VERSION = "2021-07-01"
PERMISSIONS_VERSION = "2022-04-01"
_SPOT = "lowPriorityCores"
_QUOTA = "ask for more in the portal, under Quotas"

NEEDED = (
    "Microsoft.Resources/subscriptions/resourceGroups/write",
    "Microsoft.Resources/subscriptions/resourceGroups/delete",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/disks/delete",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/networkSecurityGroups/write",
    "Microsoft.Network/virtualNetworks/write",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
)
"""Of the role in docs/clouds/azure.md those without which no VM comes or goes."""


async def inspect(driver: "AzureDriver", region: str, found: Examination) -> None:
    """All of one region; of the subscription with the first."""
    place = f"azure {region}"
    if region == driver.regions[0]:
        await _judge_permissions(driver, region, found)
    await _judge_image(driver, region, found)
    skus = await found.step(
        f"{place} sizes", driver.ask(region, partial(_skus, region=region), "list the sizes"), else_=found.unknown
    )
    usages = await found.step(
        f"{place} quotas",
        driver.ask(region, partial(_usages, region=region), "read the quotas"),
        else_=found.unknown,
    )
    for one in wanted_in(driver, region):
        sku = (skus or {}).get(one.instance_type.lower())
        if skus is not None:
            judge_offered(found, "azure", one, _offered(sku, region, one))
        for market in one.markets if usages is not None else ():
            _judge_quota(driver, one, market, sku, usages or {}, found)


def _skus(arm: ArmDriver, region: str) -> dict[str, Json]:
    params = {"$filter": f"location eq '{region}'"}
    listed = arm.items("/providers/Microsoft.Compute/skus", version=SKUS_VERSION, params=params)
    return {str(one["name"]).lower(): one for one in listed if one.get("resourceType") == "virtualMachines"}


def _offered(sku: Json | None, region: str, one: Wanted) -> list[str]:
    """The zones that have the size for this subscription; ``none`` is the region as a whole."""
    if sku is None:
        return []
    barred: set[str] = set()
    for restriction in sku.get("restrictions") or ():
        if restriction.get("type") == "Location":
            return []
        barred.update((restriction.get("restrictionInfo") or {}).get("zones") or ())
    zones = {zone for info in sku.get("locationInfo") or () for zone in info.get("zones") or ()}
    return ["none", *sorted(zones - barred)]


def _usages(arm: ArmDriver, region: str) -> dict[str, tuple[float, float]]:
    path = f"/providers/Microsoft.Compute/locations/{region}/usages"
    return {
        str(one["name"]["value"]).lower(): (float(one["limit"]), float(one["currentValue"]))
        for one in arm.items(path, version=COMPUTE_VERSION)
    }


def _judge_quota(
    driver: "AzureDriver",
    one: Wanted,
    market: Market,
    sku: Json | None,
    usages: dict[str, tuple[float, float]],
    found: Examination,
) -> None:
    """Spot VMs of all families share one quota; on-demand ones have that of their family."""
    subject = f"azure {one.region} {one.instance_type} {market} quota"
    name = _SPOT if market is Market.SPOT else str((sku or {}).get("family") or "")
    known = usages.get(name.lower())
    if known is None or one.vcpus is None:
        found.unknown(subject, "the subscription tells no quota for it; look in the portal, under Quotas")
        return
    judge_quota(
        found,
        subject,
        limit=known[0],
        used=known[1],
        one=one.vcpus,
        most=most_replicas(driver),
        unit=f"vCPUs of {name}",
        advice=_QUOTA,
    )


async def _judge_image(driver: "AzureDriver", region: str, found: Examination) -> None:
    subject, image = f"azure {region} image", driver.spec.azure.image
    if not bodies.is_image(image):
        found.fail(subject, f'azure.image "{image}" is neither publisher:offer:sku:version nor a resource id')
        return
    if image.startswith("/"):
        found.unknown(subject, "an image of your own is looked at when it is used")
        return
    publisher, offer, sku, _ = image.split(":")
    path = (
        f"/providers/Microsoft.Compute/locations/{region}/publishers/{publisher}/artifacttypes/vmimage/offers/"
        f"{offer}/skus/{sku}/versions"
    )

    def look(arm: ArmDriver) -> bool:
        return bool(arm.call("GET", path, version=COMPUTE_VERSION, params={"$top": "1"}))

    if await found.step(subject, driver.ask(region, look, f"look for {image}")):
        found.ok(subject, image)


async def _judge_permissions(driver: "AzureDriver", region: str, found: Examination) -> None:
    """What the login's roles allow in the subscription. Roles of single resource groups are not seen here."""

    def read(arm: ArmDriver) -> list[Json]:
        return arm.items("/providers/Microsoft.Authorization/permissions", version=PERMISSIONS_VERSION)

    held = await found.step(
        "azure permissions", driver.ask(region, read, "read the permissions"), else_=found.unknown
    )
    if held is None:
        return
    if missing := [action for action in NEEDED if not any(_allows(one, action) for one in held)]:
        found.warn(
            "azure permissions",
            f"this login may not do {', '.join(missing)} in the whole subscription; docs/clouds/azure.md has the "
            "role (one that holds for single resource groups is not seen here)",
        )
    else:
        found.ok("azure permissions", f"all {len(NEEDED)} that VMs need")


def _allows(permission: Json, action: str) -> bool:
    def fits(patterns: list[str]) -> bool:
        return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)

    return fits(permission.get("actions") or []) and not fits(permission.get("notActions") or [])
