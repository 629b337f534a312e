"""Azure, through Azure Resource Manager: one resource group per service and region, one request per VM.

A VM is made together with its interface, address and disk, which are all deleted with it, whoever deletes it:
we, or Azure when it takes a spot VM back. What becomes of a request is told later than that it was accepted:
:meth:`AzureDriver.start` waits for what is told within half a minute, and a VM that fails after that is listed as
stopped, so that it is ended.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import structlog
from azure.core.credentials import TokenCredential

from hedgeserve.drivers.azurecloud import bodies
from hedgeserve.drivers.azurecloud.arm import (
    COMPUTE_VERSION,
    GROUPS_VERSION,
    NETWORK_VERSION,
    Answer,
    ArmDriver,
    ArmFault,
    Json,
    failure_of,
)
from hedgeserve.drivers.azurecloud.faults import explain
from hedgeserve.drivers.azurecloud.leftovers import GROUP, group_leftovers, strangers, version_of
from hedgeserve.drivers.azurecloud.login import PUBLIC_ENDPOINT, Tokens, find_credential, scope_of
from hedgeserve.drivers.azurecloud.reading import addresses, power_states, read_vm
from hedgeserve.drivers.azurecloud.retail import PRICES_URL, read_prices
from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine
from hedgeserve.drivers.catalogue import find_type, types_of, zones_of
from hedgeserve.drivers.cloudinit import cloud_config
from hedgeserve.drivers.examine import Examination
from hedgeserve.drivers.remote import Price, RemoteDriver, pending
from hedgeserve.drivers.tags import REPLICA, SERVICE, tags_for
from hedgeserve.errors import AuthError, CloudError, UnsupportedError
from hedgeserve.replica import Offer
from hedgeserve.spec import Cloud, Spec

_log = structlog.get_logger("hedgeserve.drivers")

_GONE = (204, 404)


class AzureDriver(RemoteDriver[ArmDriver]):
    """The VMs of one service in one Azure subscription.

    ``credential`` takes the place of the one that azure-identity finds, ``prices_url`` that of the public list of
    prices, which is only asked by itself for the public Azure.
    """

    cloud = Cloud.AZURE
    dialect = Dialect.AZURE

    settle_s = 25.0
    """For so long a launch waits for a refusal that comes after the request was accepted."""
    setup_s = 30.0
    """For so long it waits for a firewall or network to be ready, and a removal for its end."""
    operation_pause_s = 3.0
    """Between two looks at an operation, where Azure does not say how long to wait."""
    least_pause_s = 0.5
    """Shorter ones are not taken, even where Azure says to come back at once."""
    power_age_s = 60.0
    """How old the VMs' power states may be; they are read for the whole subscription in one list."""

    def __init__(
        self,
        spec: Spec,
        environ: Mapping[str, str],
        *,
        credential: TokenCredential | None = None,
        prices_url: str = "",
    ) -> None:
        super().__init__(spec, environ)
        self._environ = environ
        self._settings = spec.azure
        self._endpoint = spec.azure.endpoint or PUBLIC_ENDPOINT
        self._subscription = spec.azure.subscription or environ.get("AZURE_SUBSCRIPTION_ID", "")
        public = urlsplit(self._endpoint).hostname == urlsplit(PUBLIC_ENDPOINT).hostname
        self._prices_url = prices_url or (PRICES_URL if public else "")
        self._credential = credential
        self._tokens: Tokens | None = None
        self._login = threading.Lock()
        self._addresses: dict[str, str] = {}
        self._power: dict[str, str] = {}
        self._power_at_s: float | None = None
        self._asking_power = asyncio.Lock()

    # In threads

    def connect(self, region: str) -> ArmDriver:
        """A connection of its own, with the tokens that all share."""
        if not self._subscription:
            raise AuthError(
                "Azure: which subscription is not known; write azure.subscription, or set AZURE_SUBSCRIPTION_ID "
                "(`az account show --query id` tells it)"
            )
        with self._login:
            if self._tokens is None:
                if self._credential is None:
                    self._credential = find_credential(self._endpoint, self._environ)
                self._tokens = Tokens(self._credential, scope_of(self._endpoint))
        return ArmDriver(
            tokens=self._tokens, endpoint=self._endpoint, subscription=self._subscription, region=region
        )

    def explain(self, error: Exception, what: str) -> CloudError:
        """By the table of :mod:`hedgeserve.drivers.azurecloud.faults`."""
        return explain(error, what)

    # The network

    async def prepare(self, region: str, networks: Sequence[str]) -> None:
        """Have the resource group, its firewall as it should be, and a network where the user names no subnet."""
        group, tags = self._group(region), self._tags()
        private = self.spec.vm.address == "private"
        if private and region not in self._settings.subnets:
            raise CloudError(
                f'vm.address = "private" needs a subnet that reaches the controller and the internet; '
                f'write its resource id as azure.subnets = {{{region} = "..."}}'
            )
        await self._have_group(region, group, tags)
        found = await self._find(region, bodies.network_path(group, "networkSecurityGroups", bodies.NSG))
        rules = (found or {}).get("properties", {}).get("securityRules", [])
        if found is None or not bodies.same_rules(rules, bodies.security_rules(networks)):
            body = bodies.firewall_body(region, tags, networks)
            await self._make(region, group, "networkSecurityGroups", bodies.NSG, body, "set up the firewall")
        if region not in self._settings.subnets:
            path = bodies.network_path(group, "virtualNetworks", bodies.NETWORK)
            if await self._find(region, path) is None:
                body = bodies.network_body(region, tags)
                await self._make(region, group, "virtualNetworks", bodies.NETWORK, body, "make the network")

    async def _have_group(self, region: str, group: str, tags: Mapping[str, str]) -> None:
        found = await self._find(region, f"/resourceGroups/{group}", GROUPS_VERSION)
        if found is None:
            body = bodies.group_body(region, tags)
            await self._call(
                region, "PUT", f"/resourceGroups/{group}", GROUPS_VERSION, "make the group", body=body
            )
        elif (found.get("tags") or {}).get(SERVICE) != self.service:
            raise CloudError(
                f"there is a resource group {group} without the tag {SERVICE}={self.service}, which is not this "
                f"service's; write another prefix as azure.resource_group"
            )
        elif found.get("properties", {}).get("provisioningState") == "Deleting":
            raise CloudError(f"the resource group {group} is still being deleted; try again in some minutes")
        elif str(found.get("location", region)).lower() != region:
            raise CloudError(
                f"the resource group {group} is in {found.get('location')}, not in {region}; "
                f"write another prefix as azure.resource_group"
            )

    async def _make(self, region: str, group: str, kind: str, name: str, body: Json, what: str) -> None:
        path = bodies.network_path(group, kind, name)
        answer = await self._call(region, "PUT", path, NETWORK_VERSION, what, body=body)
        if (failed := await self._outcome(region, answer, self.setup_s)) is not None:
            raise explain(failed, what)

    # VMs

    async def start(self, region: str, zone: str, request: LaunchRequest) -> Machine:
        """One request for the VM and all it needs; then a look at what becomes of it."""
        group, what = self._group(region), f"make the VM {request.name}"
        image = (request.spec or self.spec).azure.image
        if not bodies.is_image(image):
            raise UnsupportedError(
                f'azure.image "{image}" is neither publisher:offer:sku:version nor a resource id'
            )
        row = find_type(Cloud.AZURE, request.offer.instance_type)
        machine = pending(
            self,
            request,
            f"{group}/{request.name}",
            gpus=0 if row is None else row.gpus,
            user=self._settings.user,
        )
        body = self._vm_body(region, zone, group, request)
        path = bodies.vm_path(group, request.name)
        answer = await self.ask(
            region,
            lambda arm: _create(arm, path, body),
            what,
            late=lambda answer: self.granted_late(machine) if answer is not None else None,
        )
        if answer is None:
            return await self._known(region, group, request)
        try:
            failed = await self._outcome(region, answer, self.settle_s)
        except asyncio.CancelledError:
            self.granted_late(machine)
            raise
        except CloudError as error:  # it was accepted; what becomes of it is seen in the next list
            _log.warning("a launch could not be followed", vm=machine.id, error=str(error))
            return machine
        if failed is not None:
            try:
                await self.end(region, f"{group}/{request.name}")  # what there is of it keeps an address
            except CloudError as error:
                _log.warning("a VM that failed could not be deleted yet", vm=machine.id, error=str(error))
            raise explain(failed, what)
        return machine

    async def _known(self, region: str, group: str, request: LaunchRequest) -> Machine:
        """The VM of this name, which is there already; ours, or it is not touched."""
        found = await self._find(region, bodies.vm_path(group, request.name), COMPUTE_VERSION)
        tags = (found or {}).get("tags") or {}
        if found is None:
            raise CloudError(f"Azure has just taken away a VM with the name {request.name}")
        if tags.get(SERVICE) != self.service or tags.get(REPLICA) != request.name:
            raise CloudError(f"a VM with the name {request.name} is in {group} and is not ours; it is left alone")
        return self._read(found, region, group)

    async def vms(self, region: str, service: str | None) -> Sequence[Machine]:
        """The service's resource group tells; or all groups that bear our tag."""
        if service == self.service:
            groups = [self._group(region)]
        else:
            groups = [str(group["name"]).lower() for group in await self._groups(region)]
        machines: list[Machine] = []
        for group in groups:
            listed = await self._list_vms(region, group, service)
            if listed:
                await self._refresh_power(region)
            if service is not None:
                await self._refresh_addresses(region, group, listed)
            machines += [self._read(vm, region, group) for vm in listed]
        return machines

    async def end(self, region: str, native_id: str) -> bool:
        """Delete the VM without a shutdown; its disk, interface and address go with it."""
        group, _, name = native_id.partition("/")
        path = bodies.vm_path(group, name)
        answer = await self._delete(region, path, COMPUTE_VERSION, f"delete the VM {name}", forceDeletion="true")
        return answer is not None

    async def preempt(self, machine_id: str, *, notice_s: float | None = None) -> None:
        """Have Azure simulate the eviction of a spot VM, within 30 minutes and with a notice; for drills.

        How long the notice is, is not ours to say.
        """
        region, group, name = machine_id.split("/", 2)
        path, what = f"{bodies.vm_path(group, name)}/simulateEviction", f"have {name} evicted"
        await self._call(region, "POST", path, COMPUTE_VERSION, what)

    async def _list_vms(self, region: str, group: str, service: str | None) -> list[Json]:
        path = f"/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines"
        found = await self.ask(
            region, lambda arm: _items_if_any(arm, path, COMPUTE_VERSION), f"list the VMs in {region}"
        )
        tagged = [vm for vm in found if SERVICE in (vm.get("tags") or {})]
        return [vm for vm in tagged if service is None or vm["tags"][SERVICE] == service]

    async def _refresh_power(self, region: str) -> None:
        """A list of a group does not tell power states, and one of the subscription tells little else."""
        now_s = asyncio.get_running_loop().time()
        async with self._asking_power:
            if self._power_at_s is not None and now_s - self._power_at_s < self.power_age_s:
                return
            path = "/providers/Microsoft.Compute/virtualMachines"
            try:
                found = await self.ask(
                    region,
                    lambda arm: arm.items(path, version=COMPUTE_VERSION, params={"statusOnly": "true"}),
                    "list the VMs' power states",
                )
            except CloudError as error:
                # They only tell of VMs that have shut themselves down; the list is worth more without than not.
                _log.warning("power states could not be read; the last ones stand", error=str(error))
            else:
                self._power = power_states(found)
            self._power_at_s = now_s

    async def _refresh_addresses(self, region: str, group: str, listed: Sequence[Json]) -> None:
        ids = {str(vm["id"]).lower(): vm for vm in listed}
        gone = [known for known in self._addresses if f"/{group}/" in known and known not in ids]
        for known in gone:
            del self._addresses[known]
        if all(
            known in self._addresses or vm["properties"].get("provisioningState") == "Creating"
            for known, vm in ids.items()
        ):
            return
        public = self.spec.vm.address == "public"

        def look(arm: ArmDriver) -> dict[str, str]:
            interfaces = arm.items(bodies.network_path(group, "networkInterfaces"), version=NETWORK_VERSION)
            path = bodies.network_path(group, "publicIPAddresses")
            return addresses(interfaces, arm.items(path, version=NETWORK_VERSION) if public else None)

        self._addresses |= await self.ask(region, look, f"list the VMs' addresses in {region}")

    def _read(self, vm: Json, region: str, group: str) -> Machine:
        known = str(vm["id"]).lower()
        return read_vm(
            vm,
            region=region,
            group=group,
            power=self._power.get(known, ""),
            address=self._addresses.get(known),
            user=self._settings.user,
        )

    def _vm_body(self, region: str, zone: str, group: str, request: LaunchRequest) -> Json:
        spec = request.spec or self.spec
        network = bodies.network_path(group, "virtualNetworks", bodies.NETWORK)
        made = f"/subscriptions/{self._subscription}{network}/subnets/{bodies.SUBNET}"
        firewall = bodies.network_path(group, "networkSecurityGroups", bodies.NSG)
        return bodies.vm_body(
            request,
            region=region,
            zone=zone,
            image=spec.azure.image,
            user=self._settings.user,
            user_data=cloud_config(request, user=self._settings.user, lease_s=self.spec.timeouts.lease),
            disk_bytes=spec.vm.disk,
            subnet_id=self._settings.subnets.get(region, made),
            firewall_id=f"/subscriptions/{self._subscription}{firewall}",
            public=self.spec.vm.address == "public",
            max_usd_per_hour=self._price_cap(request.offer),
        )

    def _price_cap(self, offer: Offer) -> float | None:
        """The highest price that a pool with this offer allows; None where one of them allows any."""
        zone = offer.zone.partition("/")[2]
        caps = [
            pool.max_usd_per_hour
            for pool in self.pools
            if offer.market in pool.markets and zone in zones_of(pool) and offer.instance_type in types_of(pool)
        ]
        given = [cap for cap in caps if cap is not None]
        return max(given) if given and len(given) == len(caps) else None

    # What there is besides VMs

    async def things(self, region: str) -> Sequence[Leftover]:
        """The groups that bear our tag, and what of ours is in them."""
        found: list[Leftover] = []
        for group in await self._groups(region):
            found += group_leftovers(group, await self._resources(region, str(group["name"])), region)
        return found

    async def remove(self, leftover: Leftover) -> None:
        """Delete it and wait a while for the end; a group only if nothing is in it but what is ours."""
        if leftover.kind == GROUP:
            group = await self._find(leftover.region, leftover.id, GROUPS_VERSION)
            if group is None:
                return
            if SERVICE not in (group.get("tags") or {}):
                raise CloudError(f"the resource group {leftover.name} no longer bears our tag; it is left alone")
            if others := strangers(group, await self._resources(leftover.region, leftover.name)):
                raise CloudError(
                    f"the resource group {leftover.name} has more in it than what HedgeServe leaves: "
                    f"{', '.join(others)}; take that away first"
                )
        what = f"delete the {leftover.kind} {leftover.name}"
        answer = await self._delete(leftover.region, leftover.id, version_of(leftover.kind), what)
        if answer is None:
            return
        if (failed := await self._outcome(leftover.region, answer, self.setup_s)) is not None:
            raise explain(failed, what)

    async def _groups(self, region: str) -> list[Json]:
        """The resource groups of HedgeServe services in this region."""
        groups = await self.ask(
            region,
            lambda arm: arm.items(
                "/resourcegroups", version=GROUPS_VERSION, params={"$filter": f"tagName eq '{SERVICE}'"}
            ),
            "list the resource groups",
        )
        return [
            group
            for group in groups
            if SERVICE in (group.get("tags") or {}) and str(group.get("location", "")).lower() == region
        ]

    async def _resources(self, region: str, group: str) -> list[Json]:
        path, params = f"/resourceGroups/{group}/resources", {"$expand": "createdTime"}
        return await self.ask(
            region,
            lambda arm: _items_if_any(arm, path, GROUPS_VERSION, params),
            f"list what is in the resource group {group}",
        )

    # Prices

    async def prices(self, region: str, types: Sequence[str]) -> Mapping[Price, float]:
        """Azure's list prices, the same in all zones of the region; none for clouds other than the public one."""
        if not self._prices_url:
            return {}
        zones = {zone for pool in self.pools for zone in zones_of(pool) if zone.partition("/")[0] == region}
        listed = await read_prices(self._prices_url, region, types)
        return {(zone, name, market): usd for (name, market), usd in listed.items() for zone in zones}

    def endpoint(self, region: str) -> str:
        """The Resource Manager's, the same for all regions."""
        return self._endpoint

    async def inspect(self, region: str, found: Examination) -> None:
        """Permissions, the image, what is offered, quotas."""
        from hedgeserve.drivers.azurecloud.examine import inspect

        await inspect(self, region, found)

    async def aclose(self) -> None:
        """Take no more calls, and let go of the credential's connections."""
        await super().aclose()
        if (close := getattr(self._credential, "close", None)) is not None:
            await asyncio.to_thread(close)

    # How Azure is asked

    def _group(self, region: str) -> str:
        return bodies.group_name(self._settings.resource_group, self.service, region)

    def _tags(self) -> Mapping[str, str]:
        return tags_for(self.service, self.spec.timeouts.lease)

    async def _call(
        self, region: str, method: str, path: str, version: str, what: str, *, body: Json | None = None
    ) -> Answer:
        return await self.ask(region, lambda arm: arm.call(method, path, version=version, body=body), what)

    async def _find(self, region: str, path: str, version: str = NETWORK_VERSION) -> Json | None:
        """The resource, None where there is none."""

        def look(arm: ArmDriver) -> Json | None:
            try:
                return arm.call("GET", path, version=version).body
            except ArmFault as fault:
                if fault.status in _GONE:
                    return None
                raise

        return await self.ask(region, look, f"look at {path.rpartition('/')[2]}")

    async def _delete(self, region: str, path: str, version: str, what: str, **params: str) -> Answer | None:
        """None where it was gone already."""

        def delete(arm: ArmDriver) -> Answer | None:
            try:
                answer = arm.call("DELETE", path, version=version, params=params)
            except ArmFault as fault:
                if fault.status in _GONE:
                    return None
                raise
            return None if answer.status in _GONE else answer

        return await self.ask(region, delete, what)

    async def _outcome(self, region: str, answer: Answer, wait_s: float) -> ArmFault | None:
        """What went wrong with an operation, as far as it is told within this time; None: nothing, or not yet."""
        url = answer.operation or answer.location
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        while url and (left_s := deadline_s - loop.time()) > 0:
            pause_s = self.operation_pause_s if answer.retry_after_s is None else answer.retry_after_s
            await asyncio.sleep(min(max(pause_s, self.least_pause_s), left_s))
            seen = await self.ask(region, lambda arm: _look(arm, url), "look at an operation")
            if seen is None:
                return None
            status = str(seen.body.get("status", ""))
            if answer.operation and status in ("Failed", "Canceled"):
                return failure_of(seen.body)
            if (status == "Succeeded") if answer.operation else (seen.status != 202):
                return None
            answer = replace(answer, retry_after_s=seen.retry_after_s)
        return None


def _create(arm: ArmDriver, path: str, body: Json) -> Answer | None:
    """None where a VM of this name is there; it is not made anew, and not changed."""
    try:
        return arm.call("PUT", path, version=COMPUTE_VERSION, body=body, headers={"If-None-Match": "*"})
    except ArmFault as fault:
        if fault.status == 412:
            return None
        raise


def _items_if_any(arm: ArmDriver, path: str, version: str, params: Mapping[str, str] | None = None) -> list[Json]:
    """A list of things in a resource group; empty where there is no such group."""
    try:
        return arm.items(path, version=version, params=params)
    except ArmFault as fault:
        if fault.code == "ResourceGroupNotFound":
            return []
        raise


def _look(arm: ArmDriver, url: str) -> Answer | None:
    """What the operation says of itself; None once it is forgotten, which it is some time after its end."""
    try:
        return arm.follow(url)
    except ArmFault as fault:
        if fault.status in _GONE:
            return None
        raise
