"""What EC2 tells of its spot market: prices of the moment, and how likely a request would be granted. Blocking."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, filtered


def spot_prices(ec2: Ec2, types: Sequence[str]) -> Mapping[tuple[str, str], float]:
    """USD per hour by zone and instance type, as the last change left them."""
    latest: dict[tuple[str, str], tuple[str, float]] = {}
    for item in ec2.each(
        Action.SPOT_PRICES,
        "spotPriceHistorySet/item",
        InstanceType=list(types),
        ProductDescription=["Linux/UNIX"],
        StartTime=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),  # from now on: one row each, the present one
    ):
        key = item.findtext("availabilityZone", ""), item.findtext("instanceType", "")
        row = item.findtext("timestamp", ""), float(item.findtext("spotPrice") or 0)
        if row[1] > 0 and row[0] >= latest.get(key, ("", 0.0))[0]:
            latest[key] = row
    return {key: price for key, (_, price) in latest.items()}


def placement_scores(ec2: Ec2, types: Iterable[str]) -> Mapping[str, int]:
    """From 1 (unlikely) to 10, by zone: would one spot VM of any of these types be granted now?"""
    scores = list(
        ec2.each(
            Action.PLACEMENT_SCORES,
            "spotPlacementScoreSet/item",
            InstanceType=sorted(types),
            RegionName=[ec2.region_name],
            SingleAvailabilityZone=True,
            TargetCapacity=1,
        )
    )
    # Scores come by zone id, and each account has its own names for these.
    filters = filtered({"region-name": [ec2.region_name]})
    zones = ec2.each(Action.ZONES, "availabilityZoneInfo/item", Filter=filters)
    names = {zone.findtext("zoneId", ""): zone.findtext("zoneName", "") for zone in zones}
    found = {names.get(score.findtext("availabilityZoneId", "")): score.findtext("score", "") for score in scores}
    return {zone: int(score) for zone, score in found.items() if zone and score.isdigit()}
