"""Which AMI a VM boots from: the newest GPU image of Amazon's own, or the one that model.toml names. Blocking."""

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, filtered
from hedgeserve.errors import UnsupportedError

_NAMES = {
    "x86_64": "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)*",
    "arm64": "Deep Learning ARM64 Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)*",
}
"""See https://docs.aws.amazon.com/dlami/latest/devguide/ for what these hold."""
_ARM = re.compile(r"([a-z]+\d+[a-z]*g[a-z]*|[a-z0-9]+-gb\d+|a1)\.")


@dataclass(frozen=True, slots=True)
class Image:
    """An AMI: its root device, and the least that its root volume must hold, in GiB."""

    id: str
    name: str
    root: str
    least_gib: int


def architecture(instance_type: str) -> str:
    """``arm64`` for types with Graviton or Grace processors (g5g, p6e-gb200), else ``x86_64``."""
    return "arm64" if _ARM.match(instance_type) else "x86_64"


def newest(ec2: Ec2, arch: str) -> Image:
    """Amazon's newest Deep Learning Base AMI for this architecture.

    Raises:
        UnsupportedError: The region has none.
    """
    filters = {"name": [_NAMES[arch]], "architecture": [arch], "state": ["available"]}
    found = list(ec2.each(Action.IMAGES, "imagesSet/item", Owner=["amazon"], Filter=filtered(filters)))
    if not found:
        raise UnsupportedError(
            f'{ec2.region_name} has no image "{_NAMES[arch]}" of Amazon\'s; name an AMI with an NVIDIA driver in '
            "[aws] images"
        )
    return _image(max(found, key=lambda image: image.findtext("creationDate", "")))


def pinned(ec2: Ec2, image_id: str, arch: str) -> Image:
    """The AMI of this id.

    Raises:
        UnsupportedError: It is not there, not ready, or for another architecture.
    """
    filters = filtered({"image-id": [image_id]})
    found = next(ec2.each(Action.IMAGES, "imagesSet/item", Filter=filters), None)
    if found is None:
        raise UnsupportedError(f"[aws] images names {image_id} for {ec2.region_name}, which is not there")
    if (state := found.findtext("imageState", "available")) != "available":
        raise UnsupportedError(f"the image {image_id} in {ec2.region_name} is {state}")
    if (own := found.findtext("architecture", arch)) != arch:
        raise UnsupportedError(f"the image {image_id} is for {own}, and the instance type needs {arch}")
    return _image(found)


def _image(found: ElementTree.Element) -> Image:
    root = found.findtext("rootDeviceName") or "/dev/sda1"
    sizes = [
        int(item.findtext("ebs/volumeSize") or 0)
        for item in found.iterfind("blockDeviceMapping/item")
        if item.findtext("deviceName") == root
    ]
    return Image(found.findtext("imageId", ""), found.findtext("name", ""), root, max(sizes, default=0))
