"""The tags that everything of ours bears in a cloud, in a form that all clouds take (GCP is the strictest)."""

import re
import socket
from collections.abc import Mapping

SERVICE = "hedgeserve-service"
"""The service's name; what bears this tag is HedgeServe's, and nothing else is ever touched."""
REPLICA = "hedgeserve-replica"
"""The replica's id, which is also the VM's name."""
OWNER = "hedgeserve-owner"
"""The host whose controller made it, for people who find it."""
CONTROLLER = "hedgeserve-controller"
"""Which state directory the VM belongs to: two controllers may give their services the same name."""
LEASE = "hedgeserve-lease-s"
"""After so many seconds without its controller the VM shuts itself down."""


def tags_for(service: str, lease_s: float, replica: str = "", *, controller: str = "") -> Mapping[str, str]:
    """The tags of a service's VM, or without ``replica`` and ``controller`` of what it has besides VMs."""
    owner = re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().lower())[:63]
    tags = {SERVICE: service, OWNER: owner, LEASE: f"{lease_s:.0f}"}
    return tags | {name: text for name, text in ((REPLICA, replica), (CONTROLLER, controller)) if text}


def is_foreign(tags: Mapping[str, str], controller: str) -> bool:
    """Whether a VM with these tags was launched from another state directory."""
    return tags.get(CONTROLLER, controller) != controller
