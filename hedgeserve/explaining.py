"""What ``hedgeserve explain`` is about: a question and the journal in, an answer out."""

import asyncio
from copy import deepcopy
from dataclasses import replace

from hedgeserve.errors import UnknownSubjectError
from hedgeserve.hedge import (
    NOW,
    Explanation,
    Past,
    Scene,
    Told,
    explain_gone,
    explain_now,
    explain_replica,
    explain_zone,
    near_misses,
)
from hedgeserve.replica import ReplicaId, zones_meant
from hedgeserve.store import Store

_EVENTS_OF_A_REPLICA = 200
_MOST_NAMED = 12


async def explain(subject: str, scene: Scene, store: Store, service: str) -> Explanation:
    """Why this replica, this zone or (``now``) this fleet is as it is; what is gone is explained by the journal.

    Raises:
        UnknownSubjectError: There is no such replica or zone, and never was such a replica.
        StateDirectoryError: The journal cannot be read.
    """
    # The policy is asked many times over, for a large fleet longer than requests may wait: a copy, in a thread.
    scene = replace(scene, policy=deepcopy(scene.policy))
    if subject == NOW:
        return await asyncio.to_thread(explain_now, scene)
    replica = next((one for one in scene.observation.replicas if one.id == subject), None)
    if replica is not None:
        return await asyncio.to_thread(explain_replica, scene, replica, await _story(store, replica.id))
    zones = scene.zones()
    meant_zones = zones_meant(subject, zones)
    if len(meant_zones) == 1:
        return await asyncio.to_thread(explain_zone, scene, meant_zones[0])
    if meant_zones:
        raise UnknownSubjectError(f'"{subject}" is more than one zone: {", ".join(meant_zones)}; name one in full')
    known = await store.known_replica(service, ReplicaId(subject))
    if known is not None:
        past = Past(
            id=known.id,
            zone=known.offer.zone,
            market=known.offer.market,
            why=known.why,
            gone=known.gone,
            ended_at=known.state_since,
            story=await _story(store, known.id),
        )
        return await asyncio.to_thread(explain_gone, scene, past)
    alive = [one.id for one in scene.observation.replicas]
    meant = near_misses(subject, [*alive, *zones, *await store.last_replicas(service), NOW])
    named = ", ".join(zones[:_MOST_NAMED]) + (
        f" and {more} more" if (more := len(zones) - _MOST_NAMED) > 0 else ""
    )
    known_zones = f"the zones are {named}" if zones else "there is no zone"
    perhaps = f"did you mean {', '.join(meant)}? " if meant else ""
    hint = f"{perhaps}{known_zones}; `hedgeserve status` lists the replicas"
    raise UnknownSubjectError(f'there is no replica or zone "{subject}" and no such replica before; {hint}')


async def _story(store: Store, replica: ReplicaId) -> tuple[Told, ...]:
    events = await store.events(limit=_EVENTS_OF_A_REPLICA, replica=replica)
    # What was found out late is told where it belongs.
    told = [Told(one.at, one.kind, one.message) for one in events]
    return tuple(sorted(told, key=lambda one: one.at))
