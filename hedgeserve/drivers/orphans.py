"""Whose a VM in a cloud is: a journal's of this machine, another controller's, or nobody's. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hedgeserve.drivers.base import Leftover, Machine, MachineState
from hedgeserve.drivers.clearance import is_old
from hedgeserve.drivers.tags import OWNER, REPLICA, SERVICE


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal of a service on this machine holds: the VM of each replica that is not gone, by its name.

    None for one that its cloud may still be granting. ``running`` says whether a controller holds the journal.
    """

    vms: Mapping[str, str | None] = field(default_factory=dict)
    running: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A thing in a cloud that no journal of this machine owns. ``ours`` says whether it may go just so.

    Where it is false, a controller elsewhere may need it: only who names its service may remove it.
    """

    thing: Machine | Leftover
    service: str
    owner: str
    ours: bool
    why: str


def orphans_among(
    machines: Iterable[Machine],
    leftovers: Iterable[Leftover],
    known: Mapping[str, Known],
    *,
    host: str,
    now: datetime,
) -> Iterator[Finding]:
    """All that no journal owns, VMs first. ``known`` holds the services with a journal here.

    ``host`` is this machine, in the form of the owner's tag.
    """
    elsewhere: set[str] = set()
    for machine in machines:
        service, owner = machine.tags.get(SERVICE, ""), machine.tags.get(OWNER, "")
        if machine.state is MachineState.STOPPING:
            continue
        journal = known.get(service)
        name = machine.tags.get(REPLICA) or machine.name
        if journal is not None and name in journal.vms and journal.vms[name] in (None, machine.id):
            continue
        ours, why = _whose_vm(journal, owner, host)
        if not ours:
            elsewhere.add(service)
        yield Finding(machine, service, owner, ours, why)
    for leftover in leftovers:
        journal = known.get(leftover.service)
        if journal is not None and (journal.vms or journal.running):
            # What is in use here is nobody's orphan, whatever else bears this service's name.
            if not leftover.in_use and is_old(leftover, now):
                yield Finding(leftover, leftover.service, "", True, "nothing uses it")
        elif journal is None:
            why = "no journal on this machine knows its service"
            yield Finding(leftover, leftover.service, "", False, why)
        elif leftover.service in elsewhere:
            why = "VMs of its service belong to a controller elsewhere"
            yield Finding(leftover, leftover.service, "", False, why)
        else:
            yield Finding(leftover, leftover.service, "", True, "its service has no VM and does not run")


def _whose_vm(journal: Known | None, owner: str, host: str) -> tuple[bool, str]:
    if journal is None:
        made = f"; {owner} made it" if owner else ""
        return False, f"no journal on this machine knows its service{made}"
    if owner not in ("", host):
        return False, f"{owner} made it, and the journal on this machine does not know it"
    return True, "no replica in the journal of its service owns it"
