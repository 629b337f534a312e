"""Amazon EC2: spot and on-demand VMs through Libcloud, with a firewall and a key of the service's own."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar, TypeVar

import structlog
from botocore.session import Session  # type: ignore[import-untyped]

from hedgeserve.drivers.awscloud import images, market, network, things
from hedgeserve.drivers.awscloud.credentials import Credentials
from hedgeserve.drivers.awscloud.ec2 import Action, Ec2, Ec2Fault, Keys
from hedgeserve.drivers.awscloud.faults import GONE, explain
from hedgeserve.drivers.awscloud.fis import TEMPLATE, Fis
from hedgeserve.drivers.awscloud.images import Image
from hedgeserve.drivers.awscloud.instances import STATES, Place, machine, run_parameters
from hedgeserve.drivers.awscloud.interruption import interrupt
from hedgeserve.drivers.base import Dialect, LaunchRequest, Leftover, Machine
from hedgeserve.drivers.catalogue import find_type, types_of, zones_of
from hedgeserve.drivers.cloudinit import cloud_config
from hedgeserve.drivers.codes import NoAnswerError
from hedgeserve.drivers.examine import Examination
from hedgeserve.drivers.remote import Price, RemoteDriver, pending
from hedgeserve.drivers.tags import SERVICE, tags_for
from hedgeserve.errors import AuthError, CloudError, UnsupportedError
from hedgeserve.replica import Market, Offer
from hedgeserve.spec import Cloud, Spec

R = TypeVar("R")

_IMAGE_STALE_S = 24 * 3600.0
_SCORES_STALE_S = 3600.0
_ASK_AGAIN_S = (0.5, 2.0)
"""Pauses before a call that was not answered is made again."""

_log = structlog.get_logger("hedgeserve.drivers")


class AwsDriver(RemoteDriver[Ec2]):
    """The VMs of one service in EC2.

    Whatever is made bears the service's tag from its first moment. Every request can be repeated without harm:
    launches carry the replica's token, all the rest says how things should be.
    """

    cloud: ClassVar[Cloud] = Cloud.AWS
    dialect: ClassVar[Dialect] = Dialect.AWS

    def __init__(self, spec: Spec, environ: Mapping[str, str]) -> None:
        super().__init__(spec, environ)
        self.scores: dict[str, int] = {}
        """Spot placement scores by ``region/zone``, where [aws] asks for them."""
        self._credentials = Credentials(spec.aws.profile, environ, spec.aws.endpoint)
        self._tags = tags_for(self.service, spec.timeouts.lease)
        self._places: dict[tuple[str, str], tuple[str, str]] = {}
        self._keys: set[tuple[str, str]] = set()
        self._images: dict[tuple[str, str, str | None], tuple[float, Image]] = {}
        self._scores_at_s: dict[str, float] = {}

    def connect(self, region: str) -> Ec2:
        """EC2 of this region, with the credentials as they are now."""
        return Ec2(self._credentials.keys(), region, self._credentials.url(region))

    def stamp(self, region: str) -> Hashable:
        """The credentials as they are now: botocore renews them before they expire."""
        return self._credentials.keys()

    def explain(self, error: Exception, what: str) -> CloudError:
        """One sentence; credentials that AWS has refused are looked for anew."""
        explained = explain(error, what)
        if isinstance(explained, AuthError):
            self._credentials.forget()
        return explained

    async def prepare(self, region: str, networks: Sequence[str]) -> None:
        """Find the zones' subnets; have the group "hedgeserve-<service>" of each VPC let in only ``networks``."""
        found = await self._ask(
            region,
            lambda ec2: network.subnets(ec2, self._zones(region), self.spec.aws.subnets),
            f"read the subnets of {region}",
        )
        name = f"hedgeserve-{self.service}"
        groups: dict[str, str] = {}
        for vpc in sorted({subnet.vpc for subnet in found.values()}):
            group = self.spec.aws.security_groups.get(region)
            if group is None:
                group = await self._ask(
                    region,
                    partial(network.ensure_group, name=name, vpc=vpc, networks=networks, tags=self._tags),
                    f'set up the security group "{name}" in {vpc} of {region}',
                )
            groups[vpc] = group
        for zone in self._zones(region):
            self._places.pop((region, zone), None)
            if (subnet := found.get(zone)) is not None:
                self._places[region, zone] = subnet.id, groups[subnet.vpc]

    async def start(self, region: str, zone: str, request: LaunchRequest) -> Machine:
        """RunInstances; EC2 says at once whether it has the capacity, for spot VMs too."""
        kind = request.offer.instance_type
        where = self._places.get((region, zone))
        if where is None:
            raise UnsupportedError(
                f"{zone} has no default subnet; write one into model.toml, such as "
                f'[aws] subnets = {{{zone} = "subnet-..."}}, or leave the zone out of the pools'
            )
        key_name = await self._key(region, request.authorized_key)
        spec = request.spec or self.spec
        image = await self._image(region, images.architecture(kind), spec.aws.images.get(region))
        parameters = run_parameters(
            request,
            Place(zone, *where, key_name),
            image,
            user_data=cloud_config(request, user=self.spec.aws.user, lease_s=self.spec.timeouts.lease),
            disk_bytes=spec.vm.disk,
            public=self._public,
            instance_profile=spec.aws.instance_profile,
            max_usd_per_hour=self._max_price(region, zone, request.offer),
        )

        def run(ec2: Ec2) -> Machine:
            try:
                answer = ec2.ask(Action.RUN, **parameters)
            except Ec2Fault as fault:
                self._forget(region, fault.code)
                raise
            granted = answer.findtext("instancesSet/item/instanceId")
            if not granted:
                raise CloudError(f"EC2 has accepted {request.name} without telling its id")
            row = find_type(self.cloud, kind)
            return pending(self, request, granted, gpus=row.gpus if row else 0, user=self.spec.aws.user)

        return await self._ask(region, run, f"start {request.name} ({kind}) in {zone}", late=self.granted_late)

    async def vms(self, region: str, service: str | None) -> Sequence[Machine]:
        """All with the tag that are not terminated, page by page."""
        tag = {f"tag:{SERVICE}": [service]} if service is not None else {"tag-key": [SERVICE]}
        return await self._ask(
            region,
            lambda ec2: [
                machine(region, found, user=self.spec.aws.user, public=self._public)
                for found in ec2.instances({**tag, "instance-state-name": list(STATES)})
            ],
            f"list the VMs in {region}",
        )

    async def end(self, region: str, native_id: str) -> bool:
        """TerminateInstances; disk, interface, address and spot request go with the VM."""

        def terminate(ec2: Ec2) -> bool:
            try:
                ec2.ask(Action.TERMINATE, InstanceId=[native_id])
            except Ec2Fault as fault:
                if GONE.fullmatch(fault.code):
                    return False
                raise
            return True

        return await self._ask(region, terminate, f"terminate {native_id} in {region}")

    async def preempt(self, machine_id: str, *, notice_s: float | None = None) -> None:
        """Have EC2 interrupt a spot VM, by an experiment of FIS, ``notice_s`` after it has begun; for drills."""
        region, _, native_id = machine_id.partition("/")
        await interrupt(self, region, native_id, notice_s)

    async def things(self, region: str) -> Sequence[Leftover]:
        """Volumes, interfaces, security groups, key pairs, spot requests; with a role for it, what drills left."""
        found = await self._ask(region, things.find, f"list what is left in {region}")
        if self.spec.aws.fis_role:
            with suppress(UnsupportedError):  # where there is no FIS, there is nothing of it
                found += await self.ask_fis(region, Fis.templates, f"list the experiment templates in {region}")
        return found

    async def remove(self, leftover: Leftover) -> None:
        """Take one away; a CloudError while something refers to it."""
        what = f"remove the {leftover.kind} {leftover.id} in {leftover.region}"
        if leftover.kind == TEMPLATE:
            await self.ask_fis(leftover.region, lambda fis: fis.delete(leftover.id), what)
            return
        await self._ask(leftover.region, lambda ec2: things.remove(ec2, leftover), what)
        self._keys = {known for known in self._keys if known[0] != leftover.region}

    async def prices(self, region: str, types: Sequence[str]) -> Mapping[Price, float]:
        """Spot prices of the moment in each zone, and now and then placement scores."""
        mine = {name for pool in self.pools if Cloud.AWS is pool.cloud for name in types_of(pool)} & set(types)
        if not mine:
            return {}
        if self.spec.aws.placement_scores:
            await self._score(region, sorted(mine))
        found = await self._ask(
            region, lambda ec2: market.spot_prices(ec2, sorted(mine)), f"read the spot prices of {region}"
        )
        return {(f"{region}/{zone}", name, Market.SPOT): price for (zone, name), price in found.items()}

    def endpoint(self, region: str) -> str:
        """EC2's, of the region."""
        return self._credentials.url(region)

    async def inspect(self, region: str, found: Examination) -> None:
        """Subnets, images, what is offered, quotas, and a launch that EC2 is told not to do."""
        from hedgeserve.drivers.awscloud.examine import inspect

        await inspect(self, region, found)

    async def ask_quotas(self, region: str, read: Callable[[Session, Keys, str], float]) -> float:
        """A question to Service Quotas, by the endpoint of model.toml where that names one."""
        endpoint = self._credentials.url(region) if self.spec.aws.endpoint else ""
        return await self.ask(
            region, lambda _: read(Session(), self._credentials.keys(), endpoint), "read the quotas"
        )

    async def ask_fis(self, region: str, work: Callable[[Fis], R], what: str) -> R:
        """As :meth:`ask`, of the Fault Injection Service."""

        def asked(_: Ec2) -> R:
            client = self._credentials.client("fis", region)
            try:
                return work(Fis(client, region))
            finally:
                client.close()

        return await self.ask(region, asked, what)

    async def ask_account(self, region: str) -> str:
        """Whose credentials these are: the number of the account, which needs no permission."""

        def asked(_: Ec2) -> str:
            client = self._credentials.client("sts", region)
            try:
                return str(client.get_caller_identity()["Account"])
            finally:
                client.close()

        return await self.ask(region, asked, "ask which account this is")

    @property
    def _public(self) -> bool:
        return self.spec.vm.address == "public"

    async def _ask(
        self, region: str, work: Callable[[Ec2], R], what: str, *, late: Callable[[R], None] | None = None
    ) -> R:
        """As :meth:`ask`, and once more where EC2 did not answer: no request of ours does harm when repeated."""
        for pause_s in (*_ASK_AGAIN_S, None):
            try:
                return await self.ask(region, work, what, late=late)
            except NoAnswerError:
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _zones(self, region: str) -> list[str]:
        zones = [zone.partition("/") for pool in self.pools for zone in zones_of(pool)]
        return sorted({name for place, _, name in zones if place == region})

    async def _key(self, region: str, public_key: str) -> str:
        name = network.key_name(self.service, public_key)
        if (region, name) not in self._keys:
            what = f'import the key pair "{name}" into {region}'
            await self._ask(region, lambda ec2: network.ensure_key(ec2, name, public_key, self._tags), what)
            self._keys.add((region, name))
        return name

    async def _image(self, region: str, arch: str, chosen: str | None) -> Image:
        now_s = asyncio.get_running_loop().time()
        known = self._images.get((region, arch, chosen))
        if known is not None and now_s - known[0] < _IMAGE_STALE_S:
            return known[1]
        image = await self._ask(
            region,
            lambda ec2: images.pinned(ec2, chosen, arch) if chosen else images.newest(ec2, arch),
            f"look for an image in {region}",
        )
        self._images[region, arch, chosen] = now_s, image
        return image

    def _forget(self, region: str, code: str) -> None:
        # Somebody has taken away what we had made or found; the next launch makes or finds it anew.
        if code.startswith("InvalidKeyPair"):
            self._keys = {known for known in self._keys if known[0] != region}
        elif code.startswith(("InvalidGroup", "InvalidSecurityGroup", "InvalidSubnet")):
            self._prepared.discard(region)
        elif code.startswith("InvalidAMIID"):
            self._images = {known: image for known, image in self._images.items() if known[0] != region}

    def _max_price(self, region: str, zone: str, offer: Offer) -> float | None:
        """The highest price that one of the offer's pools allows; None where one of them has no limit."""
        limits = [
            pool.max_usd_per_hour
            for pool in self.pools
            if offer.market in pool.markets
            and offer.instance_type in types_of(pool)
            and f"{region}/{zone}" in zones_of(pool)
        ]
        known = [limit for limit in limits if limit is not None]
        return max(known) if known and len(known) == len(limits) else None

    async def _score(self, region: str, types: Sequence[str]) -> None:
        now_s = asyncio.get_running_loop().time()
        asked_at_s = self._scores_at_s.get(region)
        if asked_at_s is not None and now_s - asked_at_s < _SCORES_STALE_S:
            return
        self._scores_at_s[region] = now_s
        what = f"read the spot placement scores of {region}"
        found = await self._ask(region, lambda ec2: market.placement_scores(ec2, types), what)
        self.scores |= {f"{region}/{zone}": score for zone, score in found.items()}
        _log.info("spot placement scores", region=region, scores=dict(found))
