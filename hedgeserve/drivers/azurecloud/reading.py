"""What Azure Resource Manager says of VMs and their addresses, in our words. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from hedgeserve.drivers.azurecloud.arm import Json
from hedgeserve.drivers.azurecloud.bodies import NO_ZONE
from hedgeserve.drivers.base import Dialect, Machine, MachineState
from hedgeserve.drivers.catalogue import find_type
from hedgeserve.replica import Market, ZoneId
from hedgeserve.spec import Cloud

_STATES: Mapping[str, MachineState] = {
    "creating": MachineState.PENDING,
    "deleting": MachineState.STOPPING,
    # What came to nothing stays there, with an address and a disk that cost money, until it is deleted.
    "failed": MachineState.STOPPED,
    "canceled": MachineState.STOPPED,
}
"""By provisioningState; all others are those of a VM that runs, as far as this field tells."""
_HALTED = frozenset({"stopping", "stopped", "deallocating", "deallocated"})
"""Power states of a VM that was shut down, from within or not: it, or its disk, is billed until it is deleted."""


def read_vm(found: Json, *, region: str, group: str, power: str, address: str | None, user: str) -> Machine:
    """A VM of a list, with its power state and address, which the list does not tell."""
    properties = found.get("properties", {})
    size = str(properties.get("hardwareProfile", {}).get("vmSize", ""))
    row = find_type(Cloud.AZURE, size)
    zone = next(iter(found.get("zones") or ()), NO_ZONE)
    return Machine(
        id=f"{region}/{group}/{found['name']}",
        name=str(found["name"]),
        zone=ZoneId(f"{Cloud.AZURE}/{region}/{zone}"),
        market=Market.SPOT if str(properties.get("priority", "")).lower() == "spot" else Market.ON_DEMAND,
        instance_type=size,
        state=_state(str(properties.get("provisioningState", "")), power),
        tags=dict(found.get("tags") or {}),
        launched_at=_time(properties.get("timeCreated")),
        address=address,
        ssh_user=user,
        dialect=Dialect.AZURE,
        gpus=0 if row is None else row.gpus,
    )


def power_states(found: Iterable[Json]) -> dict[str, str]:
    """By the VM's id in small letters: what its ``PowerState/...`` is, of those that have one."""
    states = {}
    for vm in found:
        for status in vm.get("properties", {}).get("instanceView", {}).get("statuses", ()):
            kind, _, value = str(status.get("code", "")).partition("/")
            if kind.lower() == "powerstate":
                states[str(vm["id"]).lower()] = value.lower()
    return states


def addresses(interfaces: Iterable[Json], public: Iterable[Json] | None) -> dict[str, str]:
    """By the VM's id in small letters: its public address, or its private one where ``public`` is None."""
    known = {str(ip["id"]).lower(): ip.get("properties", {}).get("ipAddress") for ip in public or ()}
    found: dict[str, str] = {}
    for interface in interfaces:
        properties = interface.get("properties", {})
        owner = str((properties.get("virtualMachine") or {}).get("id", "")).lower()
        for configuration in properties.get("ipConfigurations", ()):
            has = configuration.get("properties", {})
            if public is None:
                address = has.get("privateIPAddress")
            else:
                address = known.get(str((has.get("publicIPAddress") or {}).get("id", "")).lower())
            if owner and address:
                found.setdefault(owner, str(address))
    return found


def _state(provisioning: str, power: str) -> MachineState:
    state = _STATES.get(provisioning.lower(), MachineState.RUNNING)
    return MachineState.STOPPED if state is MachineState.RUNNING and power in _HALTED else state


def _time(text: object) -> datetime:
    try:
        read = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.now(UTC)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
