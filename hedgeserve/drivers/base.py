"""What a cloud must be able to do for HedgeServe, and the words for what passes between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from hedgeserve.replica import Market, Offer, ZoneId


class MachineState(StrEnum):
    """What the cloud says of a VM. One that the cloud no longer lists is gone."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"


class Dialect(StrEnum):
    """Whose metadata service a VM has: how it is told of its preemption."""

    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """All that a driver needs to start a VM.

    ``name`` and ``token`` are in the journal before the cloud is asked: the same token twice means the same
    VM, and a VM that was started just before a crash is found by its name. ``host_key`` is the private key
    (OpenSSH format) that the VM's SSH server must present: made by us, so that nothing is trusted on first use.
    """

    name: str
    token: str
    offer: Offer
    tags: Mapping[str, str]
    authorized_key: str
    host_key: str = field(repr=False)


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


class Driver(Protocol):
    """One cloud. All methods raise the :class:`~hedgeserve.errors.CloudError` family and nothing else."""

    cloud: str
    poll_s: float
    """How often :meth:`list` may be asked without wearing out the cloud's patience."""

    async def offers(self) -> Sequence[Offer]:
        """What the pools allow here, at today's prices, whether or not there is capacity now."""

    async def launch(self, request: LaunchRequest) -> Machine:
        """Ask for a VM; returns when the cloud has accepted, long before it has booted. Idempotent by token."""

    async def list(self) -> Sequence[Machine]:
        """Every VM of this service that the cloud knows, whoever launched it."""

    async def terminate(self, machine_id: str) -> None:
        """Take a VM away; returns when the cloud has accepted. One that is already gone is a success."""

    async def run(self) -> None:
        """Background work of the driver, if it has any; returns only when cancelled."""

    async def aclose(self) -> None:
        """Release what the driver holds in this process. VMs stay."""
