"""A cloud of dictionaries behind the common half of the remote drivers, with troubles to be said beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine, MachineState
from hedgeserve.drivers.remote import Price, RemoteDriver, pending
from hedgeserve.drivers.tags import OWNER, REPLICA, SERVICE, tags_for
from hedgeserve.errors import CloudError
from hedgeserve.replica import Market, ZoneId
from hedgeserve.spec import Cloud, Spec

MODEL = """
[service]
name = "svc"
listen = "127.0.0.1:0"
state_dir = "{state}"

[model]
engine = "demo"

[vm]
allow_from = ["203.0.113.7"]

[[pools]]
cloud = "aws"
zones = ["us-east-1/us-east-1a", "us-west-2/us-west-2b"]
instance_types = ["g6.xlarge"]
{pool}
"""


@dataclass
class Sky:
    """What the cloud has, shared by all drivers that a test makes; VMs go when they have been listed so often."""

    machines: dict[str, Machine] = field(default_factory=dict)
    leftovers: list[Leftover] = field(default_factory=list)
    live: dict[Price, float] = field(default_factory=dict)
    error: CloudError | None = None
    clear_refusals: int = 0
    listed_after_end: int = 0
    calls: list[str] = field(default_factory=list)

    def add_vm(
        self,
        name: str,
        *,
        service: str = "svc",
        owner: str | None = None,
        state: MachineState = MachineState.RUNNING,
        region: str = "us-east-1",
    ) -> Machine:
        """A VM as a controller would have made it; on this machine where no owner is given."""
        tags = dict(tags_for(service, 900.0, name))
        if owner is not None:
            tags[OWNER] = owner
        machine = Machine(
            id=f"{region}/i-{name}",
            name=name,
            zone=ZoneId(f"aws/{region}/{region}a"),
            market=Market.SPOT,
            instance_type="g6.xlarge",
            state=state,
            tags=tags,
            launched_at=datetime.now(UTC),
        )
        self.machines[machine.id] = machine
        return machine

    def add_thing(
        self,
        id: str,
        *,
        kind: str = "security group",
        service: str = "svc",
        in_use: bool = True,
        age: timedelta = timedelta(hours=2),
    ) -> Leftover:
        """Something that is no VM."""
        leftover = Leftover("aws", "us-east-1", kind, id, service, "", in_use, datetime.now(UTC) - age)
        self.leftovers.append(leftover)
        return leftover


class MemoryCloud(RemoteDriver[str]):
    """The driver; ``sky`` is put on the class by the test."""

    cloud = Cloud.AWS
    dialect = Dialect.AWS
    poll_s = 0.05
    sky = Sky()

    def __init__(self, spec: Spec, environ: Mapping[str, str]) -> None:
        super().__init__(spec, environ)

    def connect(self, region: str) -> str:
        return region

    def explain(self, error: Exception, what: str) -> CloudError:
        return CloudError(f"could not {what}: {error}")

    async def prepare(self, region: str, networks: Sequence[str]) -> None:
        self.sky.calls.append(f"prepare {region}")

    async def start(self, region: str, zone: str, request: LaunchRequest) -> Machine:
        machine = pending(self, request, f"i-{request.name}")
        self.sky.machines[machine.id] = machine
        return machine

    async def vms(self, region: str, service: str | None) -> Sequence[Machine]:
        self.sky.calls.append(f"list {region}")
        if self.sky.error is not None:
            raise self.sky.error
        found = [
            machine
            for machine in self.sky.machines.values()
            if machine.id.startswith(f"{region}/") and service in (None, machine.tags[SERVICE])
        ]
        for machine in found:
            if machine.state is MachineState.STOPPING:
                if self.sky.listed_after_end <= 0:
                    del self.sky.machines[machine.id]
                self.sky.listed_after_end -= 1
        return found

    async def end(self, region: str, native_id: str) -> bool:
        machine_id = f"{region}/{native_id}"
        self.sky.calls.append(f"end {machine_id}")
        if (machine := self.sky.machines.get(machine_id)) is None:
            return False
        if self.sky.listed_after_end > 0:
            self.sky.machines[machine_id] = replace(machine, state=MachineState.STOPPING)
        else:
            del self.sky.machines[machine_id]
        return True

    async def things(self, region: str) -> Sequence[Leftover]:
        return [leftover for leftover in self.sky.leftovers if leftover.region == region]

    async def remove(self, leftover: Leftover) -> None:
        self.sky.calls.append(f"remove {leftover.id}")
        if self.sky.clear_refusals > 0:
            self.sky.clear_refusals -= 1
            raise CloudError(f"{leftover.id} is still in use")
        users = [one for one in self.sky.machines.values() if one.tags[SERVICE] == leftover.service]
        if leftover.in_use and users:
            raise CloudError(f"{leftover.id} is used by {users[0].tags[REPLICA]}")
        self.sky.leftovers = [one for one in self.sky.leftovers if one.id != leftover.id]

    async def prices(self, region: str, types: Sequence[str]) -> Mapping[Price, float]:
        if self.sky.error is not None:
            raise self.sky.error
        return {key: usd for key, usd in self.sky.live.items() if key[0].startswith(f"{region}/")}
