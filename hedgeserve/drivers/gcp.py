"""Google Compute Engine through Libcloud: spot and on-demand GPU VMs of one project."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import structlog

from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine
from hedgeserve.drivers.catalogue import zones_of
from hedgeserve.drivers.codes import NoAnswerError
from hedgeserve.drivers.examine import Examination
from hedgeserve.drivers.gcpcloud import bodies, images
from hedgeserve.drivers.gcpcloud.compute import PUBLIC_ENDPOINT, Aggregate, Compute, Json
from hedgeserve.drivers.gcpcloud.credentials import Login
from hedgeserve.drivers.gcpcloud.faults import GceFault, explain, operation_fault
from hedgeserve.drivers.remote import Price, RemoteDriver, pending
from hedgeserve.drivers.tags import SERVICE
from hedgeserve.errors import CloudError, UnsupportedError
from hedgeserve.replica import Market
from hedgeserve.spec import Cloud, Spec

R = TypeVar("R")

_PORTS = (22, 8000)
_POLLS_S = (0.5, 1.0, 1.5, 2.0)
"""Pauses between looks at an operation; the last one again and again."""
_GRANT_S = 90.0
"""A launch that has neither failed nor finished by then goes on under the eyes of :meth:`GcpDriver.list`."""
_RULE_S = 60.0
_SIMULATED_S = 5.0
"""For so long a refusal of a simulated event is waited for; the event itself takes a minute or more."""
_AGAIN_S = (0.5, 2.0)
"""Pauses before a question that Compute Engine broke down over is asked again."""
_IMAGE_FOR_S = 6 * 3600.0

_log = structlog.get_logger("hedgeserve.drivers")


class GcpDriver(RemoteDriver[Compute]):
    """The VMs of one service in one project.

    A VM's native id is ``zone/name``. Lists are of the whole project, so one question serves all regions: it is
    asked when the first of them is.
    """

    cloud = Cloud.GCP
    dialect = Dialect.GCP

    def __init__(self, spec: Spec, environ: Mapping[str, str]) -> None:
        super().__init__(spec, environ)
        self._login = Login(spec.gcp.credentials_file, spec.gcp.project, environ)
        self._rules = asyncio.Lock()
        self._image: tuple[str, float] | None = None
        self._unpriced_regions: set[str] = set()

    def connect(self, region: str) -> Compute:
        """Libcloud's driver for the project; AuthError where there are no credentials or no project."""
        return Compute(self._login, self.spec.gcp.endpoint, self.spec.timeouts.cloud_call)

    def stamp(self, region: str) -> Hashable:
        """Which file the credentials are in, and when it was written."""
        return self._login.stamp()

    def explain(self, error: Exception, what: str) -> CloudError:
        """By the table of :mod:`~hedgeserve.drivers.gcpcloud.faults`."""
        return explain(error, what)

    async def prepare(self, region: str, networks: Sequence[str]) -> None:
        """Have the two firewall rules as they should be; they are the project's, so regions take turns."""
        async with self._rules:
            project = await self._ask(region, lambda api: str(api.project), "find the project")
            network = bodies.network_path(project, self.spec.gcp.network)
            for rule in bodies.firewall_bodies(self.service, network, networks, _PORTS):
                await self._have_rule(region, _rules_of(network, project), rule)

    async def start(self, region: str, zone: str, request: LaunchRequest) -> Machine:
        """Ask with one request, then look at its operation until it is done, or has gone on for long."""
        machine = pending(
            self,
            request,
            f"{zone}/{request.name}",
            gpus=_gpus(request.offer.instance_type, zone),
            user=self.spec.gcp.user,
        )
        spec = request.spec or self.spec
        image = await self._image_path(region, spec.gcp.image)
        what = f"start a VM in {zone}"

        def insert(api: Compute) -> Json | None:
            body = bodies.instance_body(spec, api.project, zone, request, image)
            params = {"requestId": bodies.request_id(request.token)}
            try:
                return api.call("POST", f"zones/{zone}/instances", params=params, body=body)
            except GceFault as fault:
                if fault.status == 409 and _is_this_launch(api, zone, request):
                    return None
                raise

        try:
            operation = await self._ask(region, insert, what, late=lambda _: self.granted_late(machine))
            if operation is not None:
                await self._watch(region, f"zones/{zone}", operation, what, _GRANT_S)
        except NoAnswerError as error:
            # Whether there is a VM now is unclear: only a plain CloudError says so.
            raise CloudError(str(error)) from None
        return machine

    async def vms(self, region: str, service: str | None) -> Sequence[Machine]:
        """All regions' VMs when the first region is asked, for one question tells them all; else none."""
        if region != self.regions[0]:
            return ()
        return await self._instances(service)

    async def end(self, region: str, native_id: str) -> bool:
        """Have the VM deleted, its boot disk and address with it; the operation goes on by itself."""
        zone, _, name = native_id.partition("/")
        done = await self._ask(
            region, lambda api: api.maybe("DELETE", f"zones/{zone}/instances/{name}"), f"delete {name} in {zone}"
        )
        return done is not None

    async def preempt(self, machine_id: str, *, notice_s: float | None = None) -> None:
        """Have Compute Engine simulate a host maintenance event, which preempts a spot VM; for drills.

        https://cloud.google.com/compute/docs/instances/create-use-spot says so of testing preemptions. The notice
        is as long as the VM's own: ``notice_s`` is not ours to say.
        """
        region, zone, name = machine_id.split("/", 2)
        what = f"have {name} in {zone} preempted"
        operation = await self._ask(
            region,
            lambda api: api.call("POST", f"zones/{zone}/instances/{name}/simulateMaintenanceEvent"),
            what,
        )
        await self._watch(region, f"zones/{zone}", operation, what, _SIMULATED_S)

    async def things(self, region: str) -> Sequence[Leftover]:
        """Disks in all regions and the project's firewall rules, when the first region is asked; else none."""
        if region != self.regions[0]:
            return ()
        disks = await self._ask(
            region,
            lambda api: api.aggregated("disks", filter=f"labels.{SERVICE}:*", fields=bodies.DISK_FIELDS),
            "list the disks",
        )
        self._insist(disks)
        project = await self._ask(region, lambda api: str(api.project), "find the project")
        path = _rules_of(bodies.network_path(project, self.spec.gcp.network), project)
        rules = await self._ask(
            region, lambda api: api.listed(path, filter="name eq .*hedgeserve-.*"), "list the firewall rules"
        )
        found = [bodies.disk_leftover(disk) for disk in disks.items]
        found = [disk for disk in found if disk.region in self.regions]
        for rule in rules:
            if service := bodies.service_of(rule.get("description") or ""):
                found.append(bodies.firewall_leftover(rule, region, service))
        return found

    async def remove(self, leftover: Leftover) -> None:
        """Delete a disk or a firewall rule, and wait until it is gone."""
        project = await self._ask(leftover.region, lambda api: str(api.project), "find the project")
        what = f"delete the {leftover.kind} {leftover.name}"
        if leftover.kind == "disk":
            zone, _, name = leftover.id.partition("/")
            scope, path = f"zones/{zone}", f"zones/{zone}/disks/{name}"
        else:
            rules = _rules_of(bodies.network_path(project, self.spec.gcp.network), project)
            scope, path = rules.removesuffix("/firewalls"), f"{rules}/{leftover.id}"
        operation = await self._ask(leftover.region, lambda api: api.maybe("DELETE", path), what)
        if operation is not None:
            await self._finish(leftover.region, scope, operation, what)
        if leftover.kind == "firewall rule" and leftover.service == self.service:
            # It was there for every region.
            self._prepared.clear()

    async def prices(self, region: str, types: Sequence[str]) -> Mapping[Price, float]:
        """The spot list prices of the region; none where the API does not tell them, which is said once."""
        zones = {zone for pool in self.pools for zone in zones_of(pool) if zone.partition("/")[0] == region}
        found: dict[Price, float] = {}
        for name in types:
            try:
                usd_per_hour = await self._spot_price(region, min(zones).partition("/")[2], name)
            except CloudError as error:
                if region not in self._unpriced_regions:
                    self._unpriced_regions.add(region)
                    _log.warning("live prices are not to be had; others stand", cloud=self.cloud, error=str(error))
                # A region has types that it does not know prices of; of all other trouble there is more to come.
                if not isinstance(error, UnsupportedError):
                    return found
            else:
                if usd_per_hour is not None:
                    found |= {(zone, name, Market.SPOT): usd_per_hour for zone in zones}
        return found

    def endpoint(self, region: str) -> str:
        """Compute Engine's, the same for all regions."""
        return self.spec.gcp.endpoint or PUBLIC_ENDPOINT

    async def inspect(self, region: str, found: Examination) -> None:
        """Permissions, the image, what is offered, quotas."""
        from hedgeserve.drivers.gcpcloud.examine import inspect

        await inspect(self, region, found)

    async def image(self, region: str) -> str:
        """The image that VMs boot from."""
        return await self._image_path(region, self.spec.gcp.image)

    # How it is done

    async def _ask(
        self, region: str, work: Callable[[Compute], R], what: str, *, late: Callable[[R], None] | None = None
    ) -> R:
        """As :meth:`ask`; asked again twice where no answer came: all that is asked here may be repeated."""
        for pause_s in _AGAIN_S:
            try:
                return await self.ask(region, work, what, late=late)
            except NoAnswerError:
                await asyncio.sleep(pause_s)
        return await self.ask(region, work, what, late=late)

    async def _spot_price(self, region: str, zone: str, instance_type: str) -> float | None:
        body, path = bodies.price_body(instance_type, zone), f"regions/{region}/advice/capacityHistory"
        what = f"read the spot price of {instance_type} in {region}"
        return bodies.price_of(await self._ask(region, lambda api: api.call("POST", path, body=body), what))

    async def _instances(self, service: str | None) -> Sequence[Machine]:
        chosen = f"labels.{SERVICE}={service}" if service else f"labels.{SERVICE}:*"
        found = await self._ask(
            self.regions[0],
            lambda api: api.aggregated("instances", filter=chosen, fields=bodies.INSTANCE_FIELDS),
            "list the VMs",
        )
        self._insist(found)
        machines = [
            bodies.machine_of(one, address=self.spec.vm.address, user=self.spec.gcp.user) for one in found.items
        ]
        return [machine for machine in machines if machine.id.partition("/")[0] in self.regions]

    def _insist(self, found: Aggregate) -> None:
        """A list without a zone of ours is no list: its VMs would be taken for gone."""
        for scope in found.unreachable:
            zone = bodies.last_word(scope)
            if zone.rpartition("-")[0] in self.regions or zone in self.regions:
                raise CloudError(f"Compute Engine cannot look into {zone} now, so what is there is not known")

    async def _have_rule(self, region: str, path: str, rule: Json) -> None:
        name, scope = rule["name"], path.removesuffix("/firewalls")
        what = f"set the firewall rule {name}"
        there = await self._ask(region, lambda api: api.maybe("GET", f"{path}/{name}"), what)
        if there is None:
            try:
                made = await self.ask(region, lambda api: api.call("POST", path, body=rule), what)
                await self._finish(region, scope, made, what)
                return
            except CloudError:
                # Another controller of this service may have been quicker.
                there = await self._ask(region, lambda api: api.maybe("GET", f"{path}/{name}"), what)
                if there is None:
                    raise
        if bodies.service_of(there.get("description") or "") != self.service:
            raise CloudError(
                f"could not {what}: there is one of this name that HedgeServe has not made; delete it"
            )
        if bodies.differs(there, rule):
            changed = await self._ask(region, lambda api: api.call("PATCH", f"{path}/{name}", body=rule), what)
            await self._finish(region, scope, changed, what)

    async def _watch(self, region: str, scope: str, operation: Json, what: str, for_s: float) -> bool:
        """Whether the operation is done, at last after ``for_s``; raises what it failed of.

        That it cannot be looked at says nothing of what it does: it is taken for one that goes on.
        """
        path = f"{scope}/operations/{operation['name']}"
        pauses = iter(_POLLS_S)
        until_s = asyncio.get_running_loop().time() + for_s
        while operation.get("status") != "DONE":
            if asyncio.get_running_loop().time() > until_s:
                return False
            await asyncio.sleep(next(pauses, _POLLS_S[-1]))
            try:
                operation = await self._ask(region, lambda api: api.call("GET", path), what)
            except CloudError as error:
                _log.warning("an operation cannot be looked at", cloud=self.cloud, error=str(error))
                return False
        fault = operation_fault(operation)
        if fault is not None:
            raise explain(fault, what)
        return True

    async def _finish(self, region: str, scope: str, operation: Json, what: str) -> None:
        if not await self._watch(region, scope, operation, what, _RULE_S):
            raise CloudError(f"could not {what}: Compute Engine has not said that it is done")

    async def _image_path(self, region: str, named: str) -> str:
        """The image that is named, or the newest one, looked for again after some hours."""
        project = await self._ask(region, lambda api: str(api.project), "find the project")
        if named:
            return images.named_image(named, project)
        now_s = asyncio.get_running_loop().time()
        if self._image is None or now_s - self._image[1] > _IMAGE_FOR_S:
            found = await self._ask(
                region,
                lambda api: api.listed(
                    f"projects/{images.PROJECT}/global/images", filter=images.FILTER, fields=images.FIELDS
                ),
                "find an image",
            )
            self._image = (images.newest_image(found), now_s)
        return self._image[0]


def _rules_of(network: str, project: str) -> str:
    """Where a network's firewall rules are: in its own project, which with a shared VPC is another."""
    host = network.partition("projects/")[2].partition("/")[0] or project
    return f"projects/{host}/global/firewalls"


def _gpus(instance_type: str, zone: str) -> int:
    _, accelerators = bodies.machine_and_gpus(instance_type, zone)
    return bodies.gpus_of(instance_type, accelerators)


def _is_this_launch(api: Compute, zone: str, request: LaunchRequest) -> bool:
    """Whether the VM that has this name already is the one that this token has started."""
    there = api.maybe("GET", f"zones/{zone}/instances/{request.name}", fields="metadata/items")
    items = ((there or {}).get("metadata") or {}).get("items") or ()
    return any(
        one.get("key") == bodies.TOKEN and one.get("value") == bodies.request_id(request.token) for one in items
    )
