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


from dataclasses import dataclass


class Candidate:
    __slots__ = (
        "cache_usage",
        "last_used",
        "requests",
        "rtt_s",
        "shunned_until_s",
        "target",
        "tokens",
        "told_at_s",
        "waiting",
    )

    def __init__(self, target):
        self.target = target
        self.requests = 0
        self.tokens = 0
        self.last_used = 0
        self.shunned_until_s = 0.0
        self.waiting = self.cache_usage = None
        self.told_at_s = 0.0
        self.rtt_s = None


@dataclass(frozen=True, slots=True)
class Wants:
    tokens: int = 1
    prefix: bytes = b""
    session: str = ""
    urgent: bool = False
    avoid: frozenset = frozenset()
    may_return: bool = False


class Router:
    note = ""
    memory_bytes = 0

    def pick(self, candidates, wants, *, limit, now_s):
        avoid = wants.avoid
        best = None
        best_load = 0.0
        plain = not avoid
        if plain:
            for c in candidates:
                t = c.target
                if c.requests >= limit or not t.accepting or not t.preferred or c.shunned_until_s > now_s:
                    if c.shunned_until_s > now_s or not t.preferred:
                        plain = False
                    continue
                load = c.tokens / t.throughput
                if best is None or load < best_load or (load == best_load and c.last_used < best.last_used):
                    best, best_load = c, load
            if best is not None:
                return best
        t = pick(
            [c.target for c in candidates],
            {c.target.id: c.requests for c in candidates},
            wants.avoid,
            limit=limit,
            last_used={c.target.id: c.last_used for c in candidates},
            shunned=[c.target.id for c in candidates if c.shunned_until_s > now_s],
            fall_back=wants.may_return,
        )
        return None if t is None else next(c for c in candidates if c.target is t)

    def forget(self, replica):
        pass


def make_router(spec, dice):
    return Router()
