"""The three fakes of clouds behind one face: what a model.toml needs of them, what they do, what is left."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from tests.clouds.arm_world import VM
from tests.clouds.ec2_bench import aws_environ
from tests.clouds.fake_arm import FakeArm, Trouble
from tests.clouds.fake_ec2 import FakeEc2
from tests.clouds.fake_gce import FakeGce
from tests.clouds.host import NoHost, VmHost

CLOUDS = ("aws", "gcp", "azure")
_POOL = """
[[pools]]
cloud = "{cloud}"
zones = {zones}
instance_types = ["{kind}"]
"""


class World(Protocol):
    """One cloud, as the test-bed sees it."""

    environ: Mapping[str, str]

    def toml(self) -> str:
        """The cloud's own table and a pool of two zones."""

    def vms(self) -> list[str]:
        """Names of the VMs that cost money."""

    def left(self) -> list[str]:
        """Everything that is there, VMs included."""

    def granted(self) -> Counter[str]:
        """How many VMs were granted by each name since the beginning."""

    def preempted(self, name: str) -> None:
        """The cloud has taken the VM back, and says so from now on; unless the VM has been terminated before."""

    def shut_down(self, name: str) -> None:
        """The VM has powered itself off."""

    def refuse(self, *, zone: str, times: int) -> None:
        """Have no capacity in a zone, and say so as late as the cloud may."""

    def throttle(self, times: int) -> None:
        """Answer the next requests of each kind that it takes to launch with "too many"."""

    def dawdle(self, seconds: float) -> None:
        """Answer the next launch only after this time, though the VM is granted."""

    def violations(self) -> list[str]:
        """What was asked against the cloud's own description of its API."""


class _Counting:
    """A host in front of another, which counts what is granted."""

    def __init__(self, host: VmHost) -> None:
        self.granted: Counter[str] = Counter()
        self._host = host
        self.address: Callable[[str], str | None] = host.address
        self.stop: Callable[[str], None] = host.stop

    def start(self, vm: Any) -> None:
        """Count and boot."""
        self.granted[vm.name] += 1
        self._host.start(vm)


class Aws:
    """EC2."""

    zones = ("us-east-1/us-east-1a", "us-east-1/us-east-1b")

    def __init__(self, fake: FakeEc2, host: VmHost, directory: Path) -> None:
        self.fake = fake
        self.host = _Counting(host)
        fake.host = self.host
        self.environ = aws_environ(directory)

    def toml(self) -> str:
        """The endpoint, and a pool."""
        pool = _POOL.format(cloud="aws", zones=_list(self.zones), kind="g6.xlarge")
        return f'[aws]\nendpoint = "{self.fake.url}"\n{pool}'

    def vms(self) -> list[str]:
        """All that are not terminated."""
        return [_name(instance) for instance in self.fake.instances()]

    def left(self) -> list[str]:
        """VMs, volumes, interfaces, key pairs, security groups and spot requests."""
        backend = self.fake.backend("us-east-1")
        groups = [group for groups in backend.groups.values() for group in groups.values()]
        requests = self.fake._spot_requests.items()
        return [
            *self.vms(),
            *backend.volumes,
            *backend.enis,
            *backend.key_pairs,
            *(group.name for group in groups if group.name != "default"),
            *(name for name, request in requests if request["state"] in ("open", "active")),
        ]

    def granted(self) -> Counter[str]:
        """By name."""
        return self.host.granted

    def preempted(self, name: str) -> None:
        """Terminated by the cloud."""
        if name in self.vms():
            self.fake.preempt(self._id(name))

    def shut_down(self, name: str) -> None:
        """Its shutdown behaviour is to terminate."""
        self.fake.preempt(self._id(name))

    def refuse(self, *, zone: str, times: int) -> None:
        """EC2 says so at once."""
        match = {"Placement.AvailabilityZone": zone}
        self.fake.fail("RunInstances", "InsufficientInstanceCapacity", match=match, times=times)

    def throttle(self, times: int) -> None:
        """RequestLimitExceeded."""
        for action in ("RunInstances", "DescribeInstances", "DescribeImages", "TerminateInstances"):
            self.fake.fail(action, "RequestLimitExceeded", times=times)

    def dawdle(self, seconds: float) -> None:
        """The request is carried out late; its sender has gone by then."""
        self.fake.fail("RunInstances", delay_s=seconds)

    def violations(self) -> list[str]:
        """Found by the fake."""
        return self.fake.violations

    def _id(self, name: str) -> str:
        return next(str(instance.id) for instance in self.fake.instances() if _name(instance) == name)


class Gcp:
    """Compute Engine."""

    zones = ("us-central1/us-central1-a", "us-central1/us-central1-c")

    def __init__(self, fake: FakeGce, host: VmHost, directory: Path) -> None:
        self.fake = fake
        self.host = _Counting(host)
        fake.host = self.host
        fake.key_file(directory / "key.json")
        self.environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(directory / "key.json"), "HOME": str(directory)}

    def toml(self) -> str:
        """The endpoint, and a pool."""
        pool = _POOL.format(cloud="gcp", zones=_list(self.zones), kind="g2-standard-4")
        return f'[gcp]\nendpoint = "{self.fake.url}"\nproject = "{self.fake.project}"\n{pool}'

    def vms(self) -> list[str]:
        """All, however they are."""
        self._settle()
        return [name for _, name in self.fake.world.instances]

    def left(self) -> list[str]:
        """VMs, disks, firewall rules."""
        return [*self.vms(), *(name for _, name in self.fake.world.disks), *self.fake.world.firewalls]

    def granted(self) -> Counter[str]:
        """By name."""
        return self.host.granted

    def preempted(self, name: str) -> None:
        """Deleted, or stopped, as its scheduling says."""
        if name in self.vms():
            self.fake.preempt(name)

    def shut_down(self, name: str) -> None:
        """It stays, stopped."""
        with self.fake.lock:
            key = next(key for key in self.fake.world.instances if key[1] == name)
            self.fake.world.instances[key]["status"] = "TERMINATED"

    def refuse(self, *, zone: str, times: int) -> None:
        """The operation is accepted and fails."""
        self.fake.fault("POST", f"/zones/{zone}/instances$", code="ZONE_RESOURCE_POOL_EXHAUSTED", times=times)

    def throttle(self, times: int) -> None:
        """rateLimitExceeded, for whatever is asked."""
        for verb, path in (("POST", "/instances$"), ("GET", "/aggregated/"), ("DELETE", "/instances/")):
            self.fake.fault(verb, path, status=403, code="rateLimitExceeded", times=times)

    def dawdle(self, seconds: float) -> None:
        """The request is carried out late; its sender has gone by then."""
        self.fake.fault("POST", "/instances$", delay_s=seconds)

    def violations(self) -> list[str]:
        """Found by the fake."""
        return self.fake.violations

    def _settle(self) -> None:
        with self.fake.lock:
            self.fake._settle()


class Azure:
    """Azure Resource Manager."""

    zones = ("eastus/1", "eastus/2")

    def __init__(self, fake: FakeArm, host: VmHost, directory: Path) -> None:
        self.fake = fake
        self.host = _Counting(host)
        fake.world.host = self.host
        self.environ = fake.environ(directory, path=os.environ["PATH"])

    def toml(self) -> str:
        """The endpoint, and a pool."""
        pool = _POOL.format(cloud="azure", zones=_list(self.zones), kind="Standard_NC24ads_A100_v4")
        return self.fake.toml() + pool

    def vms(self) -> list[str]:
        """All, however they are."""
        return self.fake.world.names(VM)

    def left(self) -> list[str]:
        """Groups, and all that is in them."""
        with self.fake.world.lock:
            self.fake.world.advance()
            return [*self.fake.world.groups, *self.fake.world.things]

    def granted(self) -> Counter[str]:
        """By name."""
        return self.host.granted

    def preempted(self, name: str) -> None:
        """Evicted."""
        if name in self.vms():
            self.fake.world.evict(name)

    def shut_down(self, name: str) -> None:
        """It stays, stopped, and costs."""
        self.fake.world.shut_down(name)

    def refuse(self, *, zone: str, times: int) -> None:
        """The VM is accepted and fails; whichever zone it is for, as the path does not tell."""
        path = "/virtualMachines/[^/]+$"
        self.fake.troubles.append(Trouble("PUT", path, code="ZonalAllocationFailed", late=True, times=times))

    def throttle(self, times: int) -> None:
        """429, with how long to wait."""
        for method in ("PUT", "GET", "DELETE"):
            trouble = Trouble(method, "/virtualMachines", code="OperationNotAllowed", status=429, times=times)
            self.fake.troubles.append(trouble)

    def dawdle(self, seconds: float) -> None:
        """The VM is made; its sender has gone before it is told."""
        self.fake.troubles.append(Trouble("PUT", "/virtualMachines/[^/]+$", slow_s=seconds))

    def violations(self) -> list[str]:
        """Found by the fake."""
        return self.fake.violations


@contextmanager
def world_of(cloud: str, directory: Path, host: VmHost | None = None) -> Iterator[World]:
    """A fake of this cloud, with VMs on this host (or on paper)."""
    directory.mkdir(exist_ok=True)
    host = host or NoHost()
    world: World
    match cloud:
        case "aws":
            ec2 = FakeEc2()
            world = Aws(ec2, host, directory)
            close: Callable[[], None] = ec2.close
        case "gcp":
            gce = FakeGce(operation_s=0.05)
            world = Gcp(gce, host, directory)
            close = gce.close
        case _:
            arm = FakeArm()
            arm.__enter__()
            world = Azure(arm, host, directory)
            close = arm.__exit__
    try:
        with patch.dict(os.environ, world.environ):  # azure-identity reads the process's own
            yield world
    finally:
        close()
    assert world.violations() == []


def _list(zones: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{zone}"' for zone in zones) + "]"


def _name(instance: Any) -> str:
    return next((tag["value"] for tag in instance.get_tags() if tag["key"] == "Name"), str(instance.id))
