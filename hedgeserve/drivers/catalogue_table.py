"""The catalogue's figures, typed from what the clouds publish: GPU machines, their prices, the zones of regions.

Prices are USD per hour for Linux on the day that :data:`READ_ON` names, in the cheapest large region of the United
States (``us-east-1``, ``us-central1`` and ``eastus``, or where a type is not to be had there the nearest that has
it), rounded. Spot prices move, and other regions may cost half as much again: they are there to plan by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hedgeserve.replica import Market
from hedgeserve.spec import Cloud


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One row; ``gpu_gib`` is the memory of one GPU, and a price is None where no trustworthy figure is known."""

    cloud: Cloud
    name: str
    gpu: str
    gpus: int
    gpu_gib: int
    vcpus: int
    memory_gib: int
    on_demand_usd_per_hour: float | None
    spot_usd_per_hour: float | None


READ_ON: Mapping[tuple[Cloud, Market], datetime] = {
    # AWS's price list, as the Karpenter project publishes it.
    (Cloud.AWS, Market.ON_DEMAND): datetime(2026, 7, 20, tzinfo=UTC),
    # On-demand less the saving that AWS's Spot Advisor gave for us-east-1.
    (Cloud.AWS, Market.SPOT): datetime(2025, 7, 1, tzinfo=UTC),
    # Google's price list for whole machines, as the Karpenter project publishes it.
    (Cloud.GCP, Market.ON_DEMAND): datetime(2026, 8, 3, tzinfo=UTC),
    (Cloud.GCP, Market.SPOT): datetime(2026, 8, 3, tzinfo=UTC),
    # Azure's retail price list, as the Karpenter project publishes it; what is known of its spot prices is too
    # old to be of use, and anybody may ask for the present ones.
    (Cloud.AZURE, Market.ON_DEMAND): datetime(2026, 6, 18, tzinfo=UTC),
    (Cloud.AZURE, Market.SPOT): datetime(2026, 6, 18, tzinfo=UTC),
}
"""When a cloud's prices of a market were read, and from what."""

Row = tuple[str, int, int, int, float | None, float | None]
"""Name, GPUs, vCPUs, GiB of memory, on-demand price, spot price."""

_KINDS: Mapping[tuple[Cloud, str, int], tuple[Row, ...]] = {
    (Cloud.AWS, "T4", 16): (
        ("g4dn.xlarge", 1, 4, 16, 0.526, 0.189),
        ("g4dn.2xlarge", 1, 8, 32, 0.752, 0.293),
        ("g4dn.4xlarge", 1, 16, 64, 1.204, 0.385),
        ("g4dn.8xlarge", 1, 32, 128, 2.176, 0.805),
        ("g4dn.16xlarge", 1, 64, 256, 4.352, 1.044),
        ("g4dn.12xlarge", 4, 48, 192, 3.912, 1.408),
        ("g4dn.metal", 8, 96, 384, 7.824, 3.834),
    ),
    # Their spot price was three tenths of on-demand for years, and nobody has told a newer one.
    (Cloud.AWS, "V100", 16): (
        ("p3.2xlarge", 1, 8, 61, 3.06, 0.918),
        ("p3.8xlarge", 4, 32, 244, 12.24, 3.672),
        ("p3.16xlarge", 8, 64, 488, 24.48, 7.344),
    ),
    (Cloud.AWS, "V100-32GB", 32): (("p3dn.24xlarge", 8, 96, 768, 31.212, None),),
    (Cloud.AWS, "A10G", 24): (
        ("g5.xlarge", 1, 4, 16, 1.006, 0.412),
        ("g5.2xlarge", 1, 8, 32, 1.212, 0.509),
        ("g5.4xlarge", 1, 16, 64, 1.624, 0.65),
        ("g5.8xlarge", 1, 32, 128, 2.448, 1.004),
        ("g5.16xlarge", 1, 64, 256, 4.096, 1.597),
        ("g5.12xlarge", 4, 48, 192, 5.672, 2.382),
        ("g5.24xlarge", 4, 96, 384, 8.144, 3.502),
        ("g5.48xlarge", 8, 192, 768, 16.288, 4.724),
    ),
    (Cloud.AWS, "L4", 24): (
        ("g6.xlarge", 1, 4, 16, 0.805, 0.41),
        ("g6.2xlarge", 1, 8, 32, 0.978, 0.411),
        ("g6.4xlarge", 1, 16, 64, 1.323, 0.569),
        ("gr6.4xlarge", 1, 16, 128, 1.539, 0.662),
        ("g6.8xlarge", 1, 32, 128, 2.014, 0.886),
        ("gr6.8xlarge", 1, 32, 256, 2.446, 1.003),
        ("g6.16xlarge", 1, 64, 256, 3.397, 1.223),
        ("g6.12xlarge", 4, 48, 192, 4.602, 1.887),
        ("g6.24xlarge", 4, 96, 384, 6.675, 2.937),
        ("g6.48xlarge", 8, 192, 768, 13.35, 4.139),
    ),
    (Cloud.AWS, "L40S", 48): (
        ("g6e.xlarge", 1, 4, 32, 1.861, 0.782),
        ("g6e.2xlarge", 1, 8, 64, 2.242, 0.83),
        ("g6e.4xlarge", 1, 16, 128, 3.004, 1.142),
        ("g6e.8xlarge", 1, 32, 256, 4.529, 1.54),
        ("g6e.16xlarge", 1, 64, 512, 7.577, 2.576),
        ("g6e.12xlarge", 4, 48, 384, 10.493, 4.617),
        ("g6e.24xlarge", 4, 96, 768, 15.066, 3.917),
        ("g6e.48xlarge", 8, 192, 1536, 30.131, 9.642),
    ),
    (Cloud.AWS, "RTX-PRO-6000", 96): (
        ("g7e.2xlarge", 1, 8, 64, 3.363, None),
        ("g7e.4xlarge", 1, 16, 128, 3.998, None),
        ("g7e.8xlarge", 1, 32, 256, 5.268, None),
        ("g7e.12xlarge", 2, 48, 512, 8.286, None),
        ("g7e.24xlarge", 4, 96, 1024, 16.572, None),
        ("g7e.48xlarge", 8, 192, 2048, 33.144, None),
    ),
    (Cloud.AWS, "A100-40GB", 40): (("p4d.24xlarge", 8, 96, 1152, 21.958, 7.246),),
    (Cloud.AWS, "A100-80GB", 80): (("p4de.24xlarge", 8, 96, 1152, 27.447, 9.606),),
    (Cloud.AWS, "H100", 80): (
        ("p5.4xlarge", 1, 16, 256, 6.88, None),
        ("p5.48xlarge", 8, 192, 2048, 55.04, 26.419),
    ),
    (Cloud.AWS, "H200", 141): (
        ("p5e.48xlarge", 8, 192, 2048, None, None),
        ("p5en.48xlarge", 8, 192, 2048, 63.296, 22.787),
    ),
    (Cloud.AWS, "B200", 179): (("p6-b200.48xlarge", 8, 192, 2048, 113.933, None),),
    (Cloud.AWS, "B300", 269): (("p6-b300.48xlarge", 8, 192, 4096, 142.416, None),),
    (Cloud.GCP, "L4", 24): (
        ("g2-standard-4", 1, 4, 16, 0.707, 0.397),
        ("g2-standard-8", 1, 8, 32, 0.854, 0.48),
        ("g2-standard-12", 1, 12, 48, 1.0, 0.562),
        ("g2-standard-16", 1, 16, 64, 1.147, 0.645),
        ("g2-standard-32", 1, 32, 128, 1.734, 0.975),
        ("g2-standard-24", 2, 24, 96, 2.001, 1.125),
        ("g2-standard-48", 4, 48, 192, 4.002, 2.25),
        ("g2-standard-96", 8, 96, 384, 8.003, 4.499),
    ),
    (Cloud.GCP, "RTX-PRO-6000", 96): (
        ("g4-standard-48", 1, 48, 180, 4.5, 1.8),
        ("g4-standard-96", 2, 96, 360, 9.0, 3.6),
        ("g4-standard-192", 4, 192, 720, 18.0, 7.199),
        ("g4-standard-384", 8, 384, 1440, 36.0, 14.399),
    ),
    (Cloud.GCP, "A100-40GB", 40): (
        ("a2-highgpu-1g", 1, 12, 85, 3.673, 1.928),
        ("a2-highgpu-2g", 2, 24, 170, 7.347, 3.856),
        ("a2-highgpu-4g", 4, 48, 340, 14.694, 7.712),
        ("a2-highgpu-8g", 8, 96, 680, 29.387, 15.424),
        ("a2-megagpu-16g", 16, 96, 1360, 55.74, 29.256),
    ),
    (Cloud.GCP, "A100-80GB", 80): (
        ("a2-ultragpu-1g", 1, 12, 170, 5.069, 2.76),
        ("a2-ultragpu-2g", 2, 24, 340, 10.138, 5.519),
        ("a2-ultragpu-4g", 4, 48, 680, 20.275, 11.038),
        ("a2-ultragpu-8g", 8, 96, 1360, 40.55, 22.076),
    ),
    # Machines with fewer than eight of these are granted as spot VMs only; asking tells, should that change.
    (Cloud.GCP, "H100", 80): (
        ("a3-highgpu-1g", 1, 26, 234, 11.061, 6.326),
        ("a3-highgpu-2g", 2, 52, 468, 22.123, 12.652),
        ("a3-highgpu-4g", 4, 104, 936, 44.245, 25.305),
        ("a3-highgpu-8g", 8, 208, 1872, 88.49, 50.61),
        ("a3-megagpu-8g", 8, 208, 1872, 92.938, 23.275),
    ),
    # Sold by reservation more than by the hour: no price that could be trusted was found.
    (Cloud.GCP, "H200", 141): (("a3-ultragpu-8g", 8, 224, 2952, None, None),),
    (Cloud.GCP, "B200", 180): (("a4-highgpu-8g", 8, 224, 3968, None, None),),
    (Cloud.AZURE, "T4", 16): (
        ("Standard_NC4as_T4_v3", 1, 4, 28, 0.526, None),
        ("Standard_NC8as_T4_v3", 1, 8, 56, 0.752, None),
        ("Standard_NC16as_T4_v3", 1, 16, 110, 1.204, None),
        ("Standard_NC64as_T4_v3", 4, 64, 440, 4.352, None),
    ),
    (Cloud.AZURE, "A100-40GB", 40): (("Standard_ND96asr_v4", 8, 96, 900, 27.197, None),),
    (Cloud.AZURE, "A100-80GB", 80): (
        ("Standard_NC24ads_A100_v4", 1, 24, 220, 3.673, None),
        ("Standard_NC48ads_A100_v4", 2, 48, 440, 7.346, None),
        ("Standard_NC96ads_A100_v4", 4, 96, 880, 14.692, None),
        ("Standard_ND96amsr_A100_v4", 8, 96, 1900, 32.77, None),
    ),
    # The NC machines have the H100 NVL with 94 GiB, which is counted as an H100; the ND ones that with 80.
    (Cloud.AZURE, "H100", 94): (
        ("Standard_NC40ads_H100_v5", 1, 40, 320, 6.98, None),
        ("Standard_NC80adis_H100_v5", 2, 80, 640, 13.96, None),
    ),
    (Cloud.AZURE, "H100", 80): (("Standard_ND96isr_H100_v5", 8, 96, 1900, 98.32, None),),
    (Cloud.AZURE, "H200", 141): (("Standard_ND96isr_H200_v5", 8, 96, 1850, 84.8, None),),
}
# Azure's NVadsA10 machines are left out: they have a share of a GPU (vGPU) and need a licensed driver. Its V100
# machines are left out since Azure retires them.

TYPES: tuple[InstanceType, ...] = tuple(
    InstanceType(cloud, name, gpu, gpus, gpu_gib, vcpus, memory_gib, on_demand, spot)
    for (cloud, gpu, gpu_gib), rows in _KINDS.items()
    for name, gpus, vcpus, memory_gib, on_demand, spot in rows
)

ZONES: Mapping[Cloud, Mapping[str, Sequence[str]]] = {
    # Which letters an account sees differs in some of the older regions; one that is not there is refused when
    # it is asked for, and then left alone. us-west-1, where accounts differ most, must be written as `zones`.
    Cloud.AWS: {
        "us-east-1": "abcdef",
        "us-east-2": "abc",
        "us-west-2": "abcd",
        "ca-central-1": "abd",
        "sa-east-1": "abc",
        "eu-central-1": "abc",
        "eu-north-1": "abc",
        "eu-south-1": "abc",
        "eu-south-2": "abc",
        "eu-west-1": "abc",
        "eu-west-2": "abc",
        "eu-west-3": "abc",
        "ap-northeast-1": "acd",
        "ap-northeast-2": "abcd",
        "ap-south-1": "abc",
        "ap-southeast-1": "abc",
        "ap-southeast-2": "abc",
        "ap-southeast-3": "abc",
        "me-central-1": "abc",
        "il-central-1": "abc",
    },
    Cloud.GCP: {
        "us-central1": "abcf",
        "us-east1": "bcd",
        "us-east4": "abc",
        "us-east5": "abc",
        "us-south1": "abc",
        "us-west1": "abc",
        "us-west2": "abc",
        "us-west3": "abc",
        "us-west4": "abc",
        "northamerica-northeast1": "abc",
        "northamerica-northeast2": "abc",
        "southamerica-east1": "abc",
        "europe-central2": "abc",
        "europe-north1": "abc",
        "europe-west1": "bcd",
        "europe-west2": "abc",
        "europe-west3": "abc",
        "europe-west4": "abc",
        "europe-west6": "abc",
        "europe-west9": "abc",
        "asia-east1": "abc",
        "asia-northeast1": "abc",
        "asia-northeast3": "abc",
        "asia-south1": "abc",
        "asia-southeast1": "abc",
        "australia-southeast1": "abc",
        "me-west1": "abc",
    },
    Cloud.AZURE: {
        "eastus": "123",
        "eastus2": "123",
        "centralus": "123",
        "southcentralus": "123",
        "westus2": "123",
        "westus3": "123",
        "canadacentral": "123",
        "brazilsouth": "123",
        "northeurope": "123",
        "westeurope": "123",
        "uksouth": "123",
        "francecentral": "123",
        "germanywestcentral": "123",
        "italynorth": "123",
        "norwayeast": "123",
        "polandcentral": "123",
        "swedencentral": "123",
        "switzerlandnorth": "123",
        "australiaeast": "123",
        "centralindia": "123",
        "eastasia": "123",
        "japaneast": "123",
        "koreacentral": "123",
        "southeastasia": "123",
        "southafricanorth": "123",
        "uaenorth": "123",
        # Regions without zones.
        "westus": ("none",),
        "northcentralus": ("none",),
    },
}
"""Letters (Azure: numbers) of the zones of each region."""
