"""Which image a VM starts from: the one that is named, or the newest Deep Learning VM with a driver. Pure.

Families are called like ``common-cu129-ubuntu-2204-nvidia-580``: CUDA 12.9, Ubuntu 22.04, driver 580.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hedgeserve.drivers.gcpcloud.bodies import when
from hedgeserve.errors import UnsupportedError

PROJECT = "deeplearning-platform-release"
FILTER = "family eq common-cu.*-ubuntu-2204-nvidia-.*"
FIELDS = "nextPageToken,items(name,family,creationTimestamp,architecture,deprecated/state,status,diskSizeGb)"

_FAMILY = re.compile(r"common-cu(\d+)-ubuntu-2204-nvidia-(\d+)")


def named_image(image: str, project: str) -> str:
    """The path of the image that model.toml names: a URL, a path, or the name of one of the project's own."""
    image = re.sub(r"^https://[^/]+/compute/v1/", "", image)
    return image if "/" in image else f"projects/{project}/global/images/{image}"


def newest_image(found: Sequence[Mapping[str, Any]]) -> str:
    """The path of the image with the newest driver, then the newest CUDA, then the newest build.

    Raises:
        UnsupportedError: None of them will do.
    """
    usable = [
        (int(family[2]), int(family[1]), str(when(one.get("creationTimestamp")) or ""), str(one["name"]))
        for one in found
        if (family := _FAMILY.fullmatch(one.get("family") or ""))
        and (one.get("deprecated") or {}).get("state", "ACTIVE") == "ACTIVE"
        and one.get("architecture", "X86_64") == "X86_64"
        and one.get("status", "READY") == "READY"
    ]
    if not usable:
        raise UnsupportedError(
            f"no image of {PROJECT} has a family like common-cu129-ubuntu-2204-nvidia-580 now; name one with a "
            "GPU driver in gcp.image"
        )
    return f"projects/{PROJECT}/global/images/{max(usable)[3]}"
