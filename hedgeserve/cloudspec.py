"""What a model.toml may say of the clouds themselves: accounts, networks, images, and the VMs in general."""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hedgeserve.spectable import Conflict, Duration, Shape, Size, Table

Endpoint = Annotated[str, Shape(r"(https?://[^\s?#@]+[^\s?#@/])?", "is not a base URL, such as https://host")]
"""An API's base URL without a slash at the end; empty: the cloud's public one."""

RoleArn = Annotated[
    str,
    Shape(
        r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512})?",
        'is not the ARN of an IAM role; write one such as "arn:aws:iam::123456789012:role/hedgeserve-fis"',
    ),
]
"""A role of an AWS account, in full; empty: none."""


class VmSpec(Table):
    """What all VMs of the clouds have in common; `local` and `static` pools take nothing from here."""

    disk: Size = Field(200 * 2**30, ge=30 * 2**30)
    """Size of the boot disk, which holds the engine and, where the VM has no fast disk of its own, the weights."""
    address: Literal["public", "private"] = "public"
    """Address under which the controller reaches its VMs: `public`, or `private` where it runs in the same network."""
    allow_from: list[str] = []
    """Addresses or networks (CIDR) that may reach SSH and the engine of the VMs; empty: the controller's own, asked for at `whoami`."""
    whoami: Endpoint = "https://checkip.amazonaws.com"
    """Where the controller asks which address it is seen with, as plain text; only asked while `allow_from` is empty."""
    call_threads: int = Field(8, ge=1, le=64)
    """Calls to one cloud that may be under way at the same time."""
    driver_wait: Duration = Field(600.0, gt=0)
    """Time for the GPU's driver to answer on a new VM, where the image installs it at the first boot."""

    def conflicts(self) -> Iterator[Conflict]:
        """Networks that are none."""
        for index, network in enumerate(self.allow_from):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                yield Conflict(
                    ("allow_from", index),
                    f'"{network}" is not an address or network: {error}',
                    'write one such as "203.0.113.7" or "10.0.0.0/16"',
                )


class AwsSpec(Table):
    """The account and network that `aws` pools use; credentials come from the environment, a profile or a role."""

    profile: str = ""
    """Profile of `~/.aws/config`; empty: what `AWS_PROFILE`, the environment or the instance's role gives."""
    images: dict[str, str] = {}
    """AMI by region, such as `{us-east-1 = "ami-0123"}`; a region that is left out: the newest Deep Learning Base AMI."""
    user: str = Field("ubuntu", min_length=1)
    """User of the image who may become root."""
    subnets: dict[str, str] = {}
    """Subnet by availability zone, such as `{us-east-1a = "subnet-0123"}`; left out: the zone's default subnet."""
    security_groups: dict[str, str] = {}
    """Security group by region, made by you; left out: HedgeServe makes one that lets only `vm.allow_from` in."""
    instance_profile: str = ""
    """Name of an instance profile for the VMs, such as one that may read weights from a bucket."""
    fis_role: RoleArn = ""
    """Role that AWS's Fault Injection Service takes on to give VMs real notices in a drill; empty: drills play them."""
    placement_scores: bool = False
    """Ask for spot placement scores every hour and write them into the log (needs `ec2:GetSpotPlacementScores`)."""
    endpoint: Endpoint = ""
    """Base URL of the EC2 API in place of the public one of each region, such as a VPC endpoint or an emulator; drills ask FIS there too, unless `AWS_ENDPOINT_URL_FIS` names another."""


class GcpSpec(Table):
    """The project and network that `gcp` pools use; credentials are application-default ones or a key file's."""

    project: str = ""
    """Project; empty: `GOOGLE_CLOUD_PROJECT`, or the credentials' own."""
    credentials_file: str = ""
    """Service-account key file; empty: application-default credentials. A relative path starts at model.toml."""
    image: str = ""
    """Image or family, such as `projects/p/global/images/family/f`; empty: the newest Deep Learning VM image with a driver."""
    user: str = Field("hedgeserve", min_length=1)
    """User that is made on the VMs and may become root."""
    network: str = Field("default", min_length=1)
    """VPC network of the VMs."""
    subnetworks: dict[str, str] = {}
    """Subnetwork by region; left out: the network's own of that region."""
    service_account: str = ""
    """Service account for the VMs, such as one that may read weights from a bucket; empty: none."""
    notice: Duration | None = Field(None, ge=30, le=600)
    """Preemption notice to ask for (the API's `preemptionNoticeDuration`); unset: the usual 30 s."""
    endpoint: Endpoint = ""
    """Base URL of the Compute Engine API in place of the public one, such as an emulator."""


class AzureSpec(Table):
    """The subscription and network that `azure` pools use; credentials are those that azure-identity finds."""

    subscription: str = ""
    """Subscription id; empty: `AZURE_SUBSCRIPTION_ID`."""
    resource_group: str = ""
    """Prefix of the resource groups, one per region; empty: `hedgeserve-<service>`."""
    image: str = Field("microsoft-dsvm:ubuntu-hpc:2204:latest", min_length=1)
    """Marketplace image as `publisher:offer:sku:version`, or the resource id of your own."""
    user: str = Field("azureuser", min_length=1)
    """User that is made on the VMs and may become root."""
    subnets: dict[str, str] = {}
    """Resource id of a subnet by region; left out: HedgeServe makes a network of its own."""
    endpoint: Endpoint = ""
    """Base URL of Azure Resource Manager in place of the public one: another cloud's, or an emulator's."""
