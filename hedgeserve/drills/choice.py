"""Which replicas a drill takes: those that were named, all of a zone, or the one where it is felt most. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hedgeserve.drills.request import TAKES, DrillError, DrillKind, DrillRequest
from hedgeserve.hedge import Leaving
from hedgeserve.replica import Market, Replica, ReplicaId, State, ZoneId

_SERVING = (State.READY, State.NOTICED)


class Choice(NamedTuple):
    """The replicas that go; ``refusal`` is why none should, empty where nothing speaks against it."""

    replicas: tuple[Replica, ...] = ()
    refusal: str = ""


def choose(
    request: DrillRequest,
    replicas: Sequence[Replica],
    where: Sequence[ZoneId],
    outstanding: Callable[[ReplicaId], int],
    leaving: Leaving,
) -> Choice:
    """Whom this drill takes. One that a roll-out lets go next is taken only where it was named or forced.

    Raises:
        DrillError: There is none that could be taken, or the one that was named cannot be.
    """
    if request.kind not in TAKES and not request.take:
        return Choice()
    if request.replica:
        return Choice((_named(request, replicas),))
    spot_only = request.kind is not DrillKind.VANISH and request.kind is not DrillKind.BLACKOUT
    there = [
        replica
        for replica in replicas
        if can_go(replica)
        and (not where or replica.zone in where)
        and not (spot_only and replica.market is not Market.SPOT)
    ]
    if request.kind is DrillKind.BLACKOUT:
        return Choice(tuple(there))
    if request.zone and request.kind in TAKES:
        if not there:
            raise DrillError(f"no {'spot ' if spot_only else ''}replica is in {where[0]} now")
        return Choice(tuple(there))
    ready = [replica for replica in there if replica.state is State.READY]
    if not ready:
        kind = "spot replica" if spot_only else "replica with a VM of ours"
        raise DrillError(f"no {kind} is ready now, so there is none to take; `hedgeserve status` shows them")
    staying = [replica for replica in ready if replica.id not in leaving.next]
    refusal = ""
    if not staying:
        names = ", ".join(replica.id for replica in ready)
        refusal = (
            f"the update lets {names} go next, and no other {'spot ' if spot_only else ''}replica is ready: what "
            "is taken would go anyway; wait until one is (`hedgeserve status` says what the update waits for), or "
            "name one with --replica"
        )
    return Choice((_felt_most(request, staying or ready, replicas, outstanding, leaving),), refusal)


def can_go(replica: Replica) -> bool:
    """Whether it has a VM of ours that does not go already."""
    return replica.vm_id is not None and (replica.alive or replica.state in _SERVING)


def of_its_version(one: Replica, replicas: Sequence[Replica]) -> list[Replica]:
    """The other ready replicas that run the same version: on these alone its answers can go on."""
    return [
        other
        for other in replicas
        if other.state is State.READY and other.id != one.id and other.version == one.version
    ]


def _felt_most(
    request: DrillRequest,
    among: Sequence[Replica],
    replicas: Sequence[Replica],
    outstanding: Callable[[ReplicaId], int],
    leaving: Leaving,
) -> Replica:
    """The one that was agreed to; else spot, whose answers can go on elsewhere, that stays, with most requests."""
    spot = [replica for replica in among if replica.market is Market.SPOT] or among
    return max(
        spot,
        key=lambda one: (
            one.id == request.prefer,
            bool(of_its_version(one, replicas)),
            one.id not in leaving.later,
            outstanding(one.id),
        ),
    )


def _named(request: DrillRequest, replicas: Sequence[Replica]) -> Replica:
    found = next((replica for replica in replicas if replica.id == request.replica), None)
    if found is None:
        names = ", ".join(replica.id for replica in replicas) or "none"
        raise DrillError(f"there is no replica {request.replica} now; there are {names}")
    if found.market is Market.EXTERNAL:
        raise DrillError(f"{found.id} is somebody else's server: HedgeServe cannot take it away; stop it yourself")
    if not can_go(found):
        raise DrillError(f"{found.id} is {found.state}: there is no VM to take, or it goes already")
    if request.kind is not DrillKind.VANISH and found.market is not Market.SPOT:
        raise DrillError(f"{found.id} is an on-demand VM, and no cloud preempts those; `drill vanish` takes it")
    return found
