"""Who may reach the VMs: the networks of model.toml, or the one address that the controller is seen with."""

import ipaddress

import aiohttp

from hedgeserve.errors import CloudError
from hedgeserve.spec import VmSpec

_TIMEOUT_S = 10.0


async def allowed_networks(vm: VmSpec) -> tuple[str, ...]:
    """Networks in CIDR form, sorted.

    Raises:
        CloudError: ``vm.allow_from`` is empty and ``vm.whoami`` does not tell an address.
    """
    if vm.allow_from:
        return tuple(sorted(str(ipaddress.ip_network(network)) for network in vm.allow_from))
    hint = "write the controller's address into vm.allow_from"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
            session.get(vm.whoami) as answer,
        ):
            answer.raise_for_status()
            text = (await answer.content.read(200)).decode("ascii", "replace").strip()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise CloudError(f"{vm.whoami} did not tell which address we are seen with: {why}; {hint}") from None
    try:
        return (str(ipaddress.ip_network(text)),)
    except ValueError:
        raise CloudError(f"{vm.whoami} answered {text[:60]!r}, which is no address; {hint}") from None
