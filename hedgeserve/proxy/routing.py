"""Which replica takes a request: the one with the fewest requests under way. Pure."""

from collections.abc import Collection, Iterable, Mapping

from hedgeserve.replica import ReplicaId, RouteTarget

_NEVER: Mapping[ReplicaId, int] = {}


def pick(
    targets: Iterable[RouteTarget],
    outstanding: Mapping[ReplicaId, int],
    exclude: Collection[ReplicaId] = (),
    *,
    limit: int | None = None,
    last_used: Mapping[ReplicaId, int] = _NEVER,
    shunned: Collection[ReplicaId] = (),
    fall_back: bool = True,
) -> RouteTarget | None:
    """The target that takes the next request, or None while there is none with room for it.

    Least outstanding requests, ties to the one not used for longest (``last_used``: higher is later). A
    target that failed somebody a moment ago (``shunned``) comes after all others, one under a preemption
    notice (not ``preferred``) after those that are not: both are last resorts and never refused, since the
    last replica standing is better than none. ``exclude`` names those that failed this very request: they are
    taken only where every accepting target is among them, and only with ``fall_back``. ``limit`` is the most
    requests that one target is given at a time.
    """
    accepting = [target for target in targets if target.accepting]
    candidates = [target for target in accepting if target.id not in exclude]
    if not candidates and fall_back:
        candidates = accepting
    best: RouteTarget | None = None
    best_rank: tuple[bool, bool, int, int] | None = None
    for target in candidates:
        busy = outstanding.get(target.id, 0)
        if limit is not None and busy >= limit:
            continue
        rank = (target.id in shunned, not target.preferred, busy, last_used.get(target.id, 0))
        if best_rank is None or rank < best_rank:
            best, best_rank = target, rank
    return best
