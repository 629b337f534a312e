"""What AWS says before a launch: images, subnets, what is offered where, quotas, whether a launch is allowed."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from botocore import exceptions as trouble  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from hedgeserve.drivers.awscloud import images, network
from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, Ec2Fault, Keys, Look, Parameter, filtered, tagged
from hedgeserve.drivers.awscloud.fis import INTERRUPT, Fis, FisAction
from hedgeserve.drivers.examine import Examination, Wanted, judge_offered, judge_quota, most_replicas, wanted_in
from hedgeserve.errors import AuthError, CloudError
from hedgeserve.replica import Market

if TYPE_CHECKING:
    from hedgeserve.drivers.aws import AwsDriver

_ALLOWED = "DryRunOperation"
_QUOTAS: Mapping[str, Mapping[Market, tuple[str, str]]] = {
    # https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html; all count vCPUs.
    "g": {
        Market.ON_DEMAND: ("L-DB2E81BA", "Running On-Demand G and VT instances"),
        Market.SPOT: ("L-3819A6DF", "All G and VT Spot Instance Requests"),
    },
    "p": {
        Market.ON_DEMAND: ("L-417A185B", "Running On-Demand P instances"),
        Market.SPOT: ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    },
    "p5": {
        Market.ON_DEMAND: ("L-417A185B", "Running On-Demand P instances"),
        Market.SPOT: ("L-C4BD4855", "All P5 Spot Instance Requests"),
    },
}


async def inspect(driver: "AwsDriver", region: str, found: Examination) -> None:
    """All of one region."""
    wanted, place = wanted_in(driver, region), f"aws {region}"
    zones = sorted({zone for one in wanted for zone in one.zones})
    subnets = await found.step(
        f"{place} subnets",
        driver.ask(region, lambda ec2: network.subnets(ec2, zones, driver.spec.aws.subnets), "read the subnets"),
    )
    for zone in zones if subnets is not None else ():
        if zone in (subnets or {}):
            found.ok(f"{place} {zone} subnet", (subnets or {})[zone].id)
        else:
            found.fail(
                f"{place} {zone} subnet", f'no default subnet; name one in [aws] subnets, as {zone} = "..."'
            )
    for arch in sorted({images.architecture(one.instance_type) for one in wanted}):
        named = driver.spec.aws.images.get(region)
        look = partial(images.pinned, image_id=named, arch=arch) if named else partial(images.newest, arch=arch)
        image = await found.step(f"{place} image {arch}", driver.ask(region, look, "find the image"))
        if image is None:
            continue
        found.ok(f"{place} image {arch}", f"{image.id} {image.name}".rstrip())
        for one in wanted:
            if images.architecture(one.instance_type) == arch and subnets:
                await _try_launch(driver, one, image.id, next(iter(subnets.values())).id, found)
    for one in wanted:
        offered = await found.step(
            f"{place} {one.instance_type} offered",
            driver.ask(region, partial(_offered, name=one.instance_type), "ask where it is offered"),
            else_=found.unknown,
        )
        judge_offered(found, "aws", one, offered)
        for market in one.markets:
            await _judge_quota(driver, one, market, found)
    if driver.spec.aws.fis_role:
        await _judge_notices(driver, region, found)


async def _judge_notices(driver: "AwsDriver", region: str, found: Examination) -> None:
    """Whether a drill's notices can be asked for here. Only a warning where not: serving needs none of it."""
    subject, role = f"aws {region} drill notices", driver.spec.aws.fis_role
    asked = driver.ask_account(region)
    account = await found.step(f"aws {region} account", asked, else_=found.unknown)
    if account not in (None, role.split(":")[4]):
        found.warn(
            subject,
            f"these credentials are of account {account}, and FIS takes on roles of that one only; [aws] fis_role "
            f"is of account {role.split(':')[4]}",
        )
        return

    def look(fis: Fis) -> int:
        fis.ask(FisAction.ACTION, id=INTERRUPT)
        return len(fis.templates())

    if await found.step(subject, driver.ask_fis(region, look, "look at FIS"), else_=found.warn) is not None:
        found.ok(
            subject,
            f"FIS answers and has {INTERRUPT}; whether this login may hand it [aws] fis_role, and what that role "
            "may do, is only seen in a drill",
        )


def _offered(ec2: Ec2, name: str) -> list[str]:
    items = ec2.each(
        Look.OFFERINGS,
        "instanceTypeOfferingSet/item",
        LocationType="availability-zone",
        Filter=filtered({"instance-type": [name]}),
    )
    return [item.findtext("location", "") for item in items]


async def _try_launch(driver: "AwsDriver", one: Wanted, image: str, subnet: str, found: Examination) -> None:
    """A launch that EC2 is told not to do: whether this login may, and whether the parameters are sound."""
    tags = {"hedgeserve-service": driver.service}
    parameters: dict[str, Parameter] = {
        "ImageId": image,
        "InstanceType": one.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": subnet,
        "DryRun": True,
        "TagSpecification": [tagged("instance", tags)],
    }
    if one.markets[0] is Market.SPOT:
        parameters["InstanceMarketOptions"] = {"MarketType": "spot"}

    def run(ec2: Ec2) -> bool:
        try:
            ec2.ask(Action.RUN, **parameters)
        except Ec2Fault as fault:
            if fault.code != _ALLOWED:
                raise
        return True

    subject = f"aws {one.region} {one.instance_type} launch"
    what = f"rehearse a launch of {one.instance_type}"
    if await found.step(subject, driver.ask(one.region, run, what)):
        found.ok(subject, "this login may launch it (asked by a dry run)")


async def _judge_quota(driver: "AwsDriver", one: Wanted, market: Market, found: Examination) -> None:
    subject = f"aws {one.region} {one.instance_type} {market} quota"
    family = one.instance_type.partition(".")[0]
    kind = next((name for name in ("p5", "p6", "p", "g") if family.startswith(name)), "")
    code = _QUOTAS.get("p" if kind == "p6" and market is Market.ON_DEMAND else kind, {}).get(market)
    if code is None or one.vcpus is None:
        found.unknown(subject, "which quota holds for this type is not known here; look in Service Quotas, EC2")
        return
    limit = await found.step(
        subject,
        driver.ask_quotas(one.region, partial(read_quota, region=one.region, code=code[0])),
        else_=found.unknown,
    )
    if limit is not None:
        judge_quota(
            found,
            subject,
            limit=limit,
            used=None,
            one=one.vcpus,
            most=most_replicas(driver),
            unit="vCPUs",
            advice=f"ask for more in Service Quotas, EC2, '{code[1]}'",
        )


def read_quota(session: Session, keys: Keys, endpoint: str, *, region: str, code: str) -> float:
    """The value of a quota of EC2. Blocking.

    Raises:
        CloudError: It cannot be read; says why.
    """
    client = session.create_client(
        "service-quotas",
        region_name=region,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        aws_session_token=keys.token,
        endpoint_url=endpoint or None,
    )
    try:
        return float(client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    except trouble.ClientError as error:
        told = error.response.get("Error", {}).get("Code", "")
        if told in ("AccessDeniedException", "AccessDenied"):
            raise AuthError(
                "the quota may not be read by this login; allow servicequotas:GetServiceQuota"
            ) from None
        raise CloudError(f"the quota could not be read: {told or error}") from None
    except trouble.BotoCoreError as error:
        raise CloudError(f"the quota could not be read: {error}") from None
    finally:
        client.close()
