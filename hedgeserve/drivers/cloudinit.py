"""What a cloud VM is told at its first boot: our host key, our key to log in with, its dead-man switch. Pure."""

import json

from hedgeserve.drivers.base import LaunchRequest


def cloud_config(request: LaunchRequest, *, user: str, lease_s: float) -> str:
    """The user-data of a VM, as cloud-config (written as JSON, which is YAML too)."""
    config = {
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": request.host_key},
        "users": [
            {"name": user, "ssh_authorized_keys": [request.authorized_key], "sudo": "ALL=(ALL) NOPASSWD:ALL"}
        ],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1)
