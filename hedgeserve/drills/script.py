"""What a drill will do in a fleet as it is now: which VMs go and how, what else is set, what speaks against it.

Pure. What can be done differs from cloud to cloud (docs/drills.md has the table): where there is no way to have a
cloud do it, either HedgeServe does it in its place, and says so, or the drill is refused with what to do instead.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hedgeserve.drills.choice import choose, of_its_version
from hedgeserve.drills.price import Price, Taking
from hedgeserve.drills.request import DrillError, DrillKind, DrillRequest
from hedgeserve.hedge import Leaving
from hedgeserve.replica import STARTING, Market, Replica, ReplicaId, State, ZoneId, zones_meant
from hedgeserve.units import format_count, format_duration

_AWS_NOTICE_S = 120.0
_FIS_LEAST_S, _FIS_MOST_S = 120.0, 900.0
"""What FIS takes as the time before an interruption."""
_UNKNOWN_BOOT_S = 900.0
_BOOTS_WITHIN = 2.0
_GRACE_S = 15.0
_CLOUD_TAKES_S = {"gcp": 120.0, "azure": 1830.0}
"""From the question to the VM's end: GCP's event may take a minute to begin, Azure says "within 30 minutes"."""
_FIS_BEGINS_S = 60.0
"""For so long an experiment of FIS may be about to begin."""


class Means(StrEnum):
    """How a VM is taken away."""

    CLOUD = "its cloud is asked to preempt it"
    SILENCE = "it falls silent, with its connections open"
    ANNOUNCE = "HedgeServe gives the notice itself, and terminates the VM when it is over"
    TERMINATE = "it is terminated behind the fleet's back"


@dataclass(frozen=True, slots=True)
class Victim:
    """A replica that goes, with the VM that it had when the drill was planned."""

    replica: ReplicaId
    vm_id: str
    cloud: str
    zone: ZoneId
    means: Means
    notice_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A drill, ready to be done. ``refusal`` is why not, empty where nothing speaks against it.

    Of ``ready_before`` replicas the load needs ``needed``; so many as ``wanted`` are to be ready again. ``taking``
    is what it takes (None: nothing), ``price`` what that costs, once it was asked.
    """

    request: DrillRequest
    victims: tuple[Victim, ...]
    zones: tuple[ZoneId, ...]
    cloud: str
    wanted: int
    ready_before: int
    within_s: float
    needed: int
    boot_s: float | None
    taking: Taking | None
    sentences: tuple[str, ...]
    refusal: str = ""
    price: Price | None = None

    def priced(self, price: Price) -> "Script":
        """The same with what it costs."""
        return replace(self, price=price, sentences=(*self.sentences, price.sentence(self.boot_s)))


def write_script(
    request: DrillRequest,
    replicas: Sequence[Replica],
    *,
    zones: Sequence[ZoneId],
    wanted: int,
    needed: int,
    boot_s: float | None,
    found_s: float,
    drain_s: float,
    local_notice_s: float,
    fis: bool,
    outstanding: Callable[[ReplicaId], int],
    leaving: Leaving,
) -> Script:
    """What this drill does in a fleet of these replicas, of which ``wanted`` are meant to be ready.

    The load needs ``needed`` of them. ``found_s`` is how long it takes until a silent one is known to be gone,
    ``drain_s`` how long one that leaves may take. ``zones`` are all that the pools name, ``boot_s`` is how long a
    boot takes, where that is known; ``fis`` whether AWS may be asked for notices ([aws] fis_role is given);
    ``leaving`` whom a roll-out ends.

    Raises:
        DrillError: It cannot be done here; says why, and what can be.
    """
    ready = [replica for replica in replicas if replica.state is State.READY]
    where = _zones_of(request, zones, ready)
    cloud = _cloud_of(request, zones, where)
    doomed, going = choose(request, replicas, where, outstanding, leaving)
    victims = tuple(_victim(request, replica, fis=fis) for replica in doomed)
    left = len(ready) - sum(replica.state is State.READY for replica in doomed)
    refusal = going
    if doomed and left < 1:
        refusal = (
            f"this would leave no replica ready ({len(ready)} now): requests would wait until another one is; "
            "--force does it all the same"
        )
    elif not ready and not request.force:
        refusal = "no replica is ready now, so a drill would prove nothing; wait, or --force does it all the same"
    boot = _UNKNOWN_BOOT_S if boot_s is None else boot_s
    end_s = max((_end_s(victim, local_notice_s) for victim in victims), default=0.0)
    held_s = request.for_s + (request.by_s if request.kind is DrillKind.SLOW_BOOT else 0.0)
    within_s = request.within_s
    if within_s is None:
        within_s = _GRACE_S + end_s + held_s + _BOOTS_WITHIN * boot
    taking = Taking(
        victims=frozenset(replica.id for replica in doomed),
        shut=frozenset(where if request.kind in (DrillKind.BLACKOUT, DrillKind.REFUSE) else ()),
        boot_s=boot + (request.by_s if request.kind is DrillKind.SLOW_BOOT else 0.0),
        paid_s=max((_paid_s(victim, local_notice_s, found_s) for victim in victims), default=0.0),
        drain_s=drain_s,
    )
    return Script(
        request=request,
        victims=victims,
        zones=where,
        cloud=cloud,
        wanted=max(1, min(len(ready), wanted)),
        ready_before=len(ready),
        within_s=within_s,
        needed=needed,
        boot_s=None if boot_s is None else taking.boot_s,
        taking=taking if doomed else None,
        sentences=(
            *_trouble(request, victims, where, cloud),
            *(_what_stays(doomed, replicas, left) if doomed else ()),
        ),
        refusal="" if request.force else refusal,
    )


def _zones_of(request: DrillRequest, zones: Sequence[ZoneId], ready: Sequence[Replica]) -> tuple[ZoneId, ...]:
    """The zone that is meant, by its name or its end; where a kind needs one and none is named, the fullest."""
    if request.zone:
        found = zones_meant(request.zone, zones)
        if len(found) != 1:
            there = f"{request.zone!r} is {'more than one zone' if found else 'no zone'} of the pools"
            raise DrillError(
                f"{there}; there are {', '.join(found or zones) or 'none (static servers have none)'}"
            )
        return tuple(found)
    if request.kind not in (DrillKind.BLACKOUT, DrillKind.REFUSE):
        return ()
    if not zones:
        raise DrillError("no pool has zones: servers of static pools are somebody else's, and no drill takes them")
    count = {zone: sum(replica.zone == zone for replica in ready) for zone in zones}
    return (max(zones, key=lambda zone: count[zone]),)


def _cloud_of(request: DrillRequest, zones: Sequence[ZoneId], where: Sequence[ZoneId]) -> str:
    clouds = list(dict.fromkeys(zone.partition("/")[0] for zone in zones))
    if request.cloud:
        if request.cloud not in clouds:
            raise DrillError(f"no pool is on {request.cloud!r}; there are {', '.join(clouds) or 'no clouds'}")
        return request.cloud
    if where:
        return where[0].partition("/")[0]
    if request.kind is DrillKind.API_DOWN and len(clouds) != 1:
        raise DrillError(f"say which cloud is to be silent with --cloud: {', '.join(clouds) or 'there is none'}")
    return clouds[0] if len(clouds) == 1 else ""


def _victim(request: DrillRequest, replica: Replica, *, fis: bool) -> Victim:
    cloud, spot = replica.offer.cloud, replica.market is Market.SPOT
    notice_s = request.notice_s
    if request.kind in (DrillKind.VANISH, DrillKind.BLACKOUT):
        means = Means.SILENCE if cloud == "local" and spot else Means.TERMINATE
        notice_s = None
    elif cloud == "aws" and fis:
        means, notice_s = Means.CLOUD, _AWS_NOTICE_S if notice_s is None else notice_s
        if not _FIS_LEAST_S <= notice_s <= _FIS_MOST_S or notice_s % 1:
            raise DrillError(
                f"--notice {format_duration(notice_s) or '0s'}: AWS takes a VM {format_duration(_FIS_LEAST_S)} to "
                f"{format_duration(_FIS_MOST_S)} after it was asked to, in whole seconds; without [aws] fis_role "
                "HedgeServe plays notices of any length"
            )
    elif cloud == "aws":
        # Only FIS gives a real notice, with a role that the user has made for it in the account.
        if replica.state in STARTING:
            raise DrillError(f"{replica.id} is {replica.state}: on aws only a ready one can be given a notice")
        means, notice_s = Means.ANNOUNCE, _AWS_NOTICE_S if notice_s is None else notice_s
    else:
        if cloud != "local" and notice_s is not None:
            raise DrillError(f"how long before the end its notice comes is for {cloud} to say; leave --notice out")
        means = Means.CLOUD
    assert replica.vm_id is not None
    return Victim(replica.id, replica.vm_id, cloud, replica.zone, means, notice_s)


def _end_s(victim: Victim, local_notice_s: float) -> float:
    if victim.notice_s is not None:
        return victim.notice_s + (_FIS_BEGINS_S if _by_fis(victim) else 0.0)
    if victim.means is Means.CLOUD:
        return _CLOUD_TAKES_S.get(victim.cloud, local_notice_s)
    return 0.0


def _paid_s(victim: Victim, local_notice_s: float, found_s: float) -> float:
    """For how long it is paid at most from now on."""
    return found_s if victim.means is Means.SILENCE else _end_s(victim, local_notice_s)


def _by_fis(victim: Victim) -> bool:
    return victim.cloud == "aws" and victim.means is Means.CLOUD


def _trouble(
    request: DrillRequest, victims: Sequence[Victim], where: Sequence[ZoneId], cloud: str
) -> Iterator[str]:
    for_ = format_duration(request.for_s)
    yield from (f"{victim.replica} in {victim.zone}: {victim.means}" for victim in victims)
    if any(victim.cloud == "azure" and victim.means is Means.CLOUD for victim in victims):
        yield "azure carries a simulated eviction out within 30 minutes, not at once"
    if asked := [victim for victim in victims if _by_fis(victim)]:
        after_s = asked[0].notice_s or 0.0
        early = "" if after_s == _FIS_LEAST_S else "; until then the VM is only recommended to move"
        yield (
            f"by AWS's Fault Injection Service EC2 takes it {format_duration(after_s)} after the experiment has "
            f"begun, and tells the VM {format_duration(_FIS_LEAST_S)} before{early}"
        )
    if any(victim.cloud == "aws" and victim.means is Means.ANNOUNCE for victim in victims):
        yield "with [aws] fis_role in model.toml EC2 itself would give the notice, and the VM hear it"
    match request.kind:
        case DrillKind.BLACKOUT | DrillKind.REFUSE:
            yield f"launches in {where[0]} are refused for {for_}"
        case DrillKind.SLOW_BOOT:
            by = format_duration(request.by_s)
            yield f"VMs that are launched within {for_} take {by} longer to come up"
        case DrillKind.API_DOWN:
            yield f"no call to {cloud} is answered for {for_}; nothing can be launched or ended there"


def _what_stays(doomed: Sequence[Replica], replicas: Sequence[Replica], left: int) -> Iterator[str]:
    """How many stay, in a roll-out by version: an answer goes on only where its own version runs."""
    gone = {replica.id for replica in doomed}
    staying = [one for one in replicas if one.id not in gone and one.state is State.READY]
    count = Counter(one.version for one in staying)
    by_version = [f"{count[version]} of version {version}" for version in sorted(count) if version]
    several = len({one.version for one in (*staying, *doomed) if one.version}) > 1
    stay = f"{format_count(left, 'ready replica')} stay{'s' if left == 1 else ''}"
    yield f"{stay}: {', '.join(by_version)}" if several and by_version else stay
    for version in sorted({one.version for one in doomed if one.state is State.READY}) if several else ():
        last = [one for one in doomed if one.version == version and one.state is State.READY]
        if not any(other.id not in gone for other in of_its_version(last[0], replicas)):
            names = ", ".join(one.id for one in last)
            yield (
                f"no other ready replica runs version {version} of {names}: an answer that is cut there goes on "
                "on none of another version, and may end with an error"
            )
