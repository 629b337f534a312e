"""What a cloud must be able to do for HedgeServe, and the words for what passes between."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from hedgeserve.replica import Market, Offer, ZoneId

if TYPE_CHECKING:
    from hedgeserve.spec import Spec


class MachineState(StrEnum):
    """What the cloud says of a VM. One that the cloud no longer lists is gone."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"  # on its way out by itself; nothing needs to be done
    STOPPED = "stopped"  # it will not run again and may still cost money: it must be terminated


class Dialect(StrEnum):
    """Whose metadata service a VM has: how it is told of its preemption."""

    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """All that a driver needs to start a VM; ``tags`` hold at least those of :mod:`hedgeserve.drivers.tags`.

    ``name`` and ``token`` are in the journal before the cloud is asked: the same token twice means the same
    VM, and a VM that was started just before a crash is found by its name. ``host_key`` is the private key
    (OpenSSH format) that the VM's SSH server must present: made by us, so that nothing is trusted on first use.
    ``spec`` says what kind of VM the replica's version wants (image, disk); None: the driver's own.
    """

    name: str
    token: str
    offer: Offer
    tags: Mapping[str, str]
    authorized_key: str
    host_key: str = field(repr=False)
    spec: "Spec | None" = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM as its cloud describes it. ``address`` is None until the cloud has given it one."""

    id: str
    name: str
    zone: ZoneId
    market: Market
    instance_type: str
    state: MachineState
    tags: Mapping[str, str]
    launched_at: datetime
    address: str | None = None
    ssh_port: int = 22
    ssh_user: str = "root"
    engine_port: int = 8000
    dialect: Dialect = Dialect.AWS
    metadata_url: str = "http://169.254.169.254"
    python: str = "python3"
    workdir: str = "hedgeserve"
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Leftover:
    """A thing in a cloud that is no VM and bears a service's tag: a disk, an address, a firewall, a key.

    ``in_use`` ones belong to a VM that is there, or serve the service as a whole; they go when it is taken down.
    """

    cloud: str
    region: str
    kind: str
    id: str
    service: str
    name: str = ""
    in_use: bool = False
    created_at: datetime | None = None


class Driver(Protocol):
    """One cloud. All methods raise the :class:`~hedgeserve.errors.CloudError` family and nothing else."""

    @property
    def cloud(self) -> str:
        """Its name, the first part of its zones."""

    @property
    def poll_s(self) -> float:
        """How often :meth:`list` may be asked without wearing out the cloud's patience."""

    async def adopt(self, spec: "Spec") -> None:
        """Go by this spec from now on: other pools in the same cloud, with the same account and network.

        VMs where no pool is any more stay listed until they are gone.
        """

    def watch(self, regions: Iterable[str]) -> None:
        """List VMs in these regions too, whatever the pools say."""

    async def offers(self) -> Sequence[Offer]:
        """What the pools allow here, at today's prices, whether or not there is capacity now."""

    def withheld(self) -> Mapping[ZoneId, Sequence[str]]:
        """What the pools name and :meth:`offers` leaves out, by zone, each in a sentence with its reason."""

    async def launch(self, request: LaunchRequest) -> Machine:
        """Ask for a VM; returns when the cloud has accepted, long before it has booted. Idempotent by token."""

    async def list(self) -> Sequence[Machine]:
        """Every VM of this service that the cloud knows, whoever launched it."""

    async def terminate(self, machine_id: str) -> None:
        """Take a VM away; returns when the cloud has accepted. One that is already gone is a success."""

    async def everyone(self) -> Sequence[Machine]:
        """Every VM of any HedgeServe service in the regions that the pools name; the tags tell whose it is."""

    async def leftovers(self) -> Sequence[Leftover]:
        """All that HedgeServe services have in these regions besides VMs."""

    async def clear(self, leftover: Leftover) -> None:
        """Take one of them away; one that is already gone is a success, one that is still used a CloudError."""

    async def run(self) -> None:
        """Background work of the driver, if it has any; returns only when cancelled."""

    async def aclose(self) -> None:
        """Release what the driver holds in this process. VMs stay."""
