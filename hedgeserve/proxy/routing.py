"""Which replica takes a request. Pure: what it knows it is told, its dice are an argument.

Common to all policies are the tiers. A replica that accepts nothing, or has all that it may have, is never taken;
one that failed this very request only where all others did, too; one that failed somebody a moment ago after those
that did not; one under a preemption notice after those that are not. The last two are never refused, since the
last replica standing is better than none.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from math import log
from typing import Protocol

from hedgeserve.proxy.prefixes import Prefixes, beginnings
from hedgeserve.replica import Market, ReplicaId, RouteTarget
from hedgeserve.spec import RoutingSpec

_REQUEST_TOKENS = 16.0
"""What a request costs beside its tokens: so that many short ones weigh something."""
_WAITING_TOKENS = 256.0
"""What a request that waits in an engine, and is not ours, is taken to cost."""
_FULL_CACHE = 0.95
"""Cache use from which an engine begins to throw requests out and start them anew."""
_FRESH_PERIODS = 3
_AS_NEAR = 1.5
"""Replicas whose round trip takes up to so many times the shortest are as near as the nearest."""
_NOT_ENOUGH = 32
"""Requests after which a policy whose input never came says so."""


class Candidate:
    """A replica as routing sees it; kept up to date by the pool.

    ``tokens`` is the work outstanding, ``waiting`` and ``cache_usage`` what its engine told at ``told_at_s``,
    ``rtt_s`` the time that a question to it and back takes.
    """

    __slots__ = (
        "accepting",
        "cache_usage",
        "last_used",
        "preferred",
        "requests",
        "rtt_s",
        "shunned_until_s",
        "target",
        "throughput",
        "tokens",
        "told_at_s",
        "version",
        "waiting",
    )

    def __init__(self, target: RouteTarget) -> None:
        self.show(target)
        self.requests = 0
        self.tokens = 0.0
        self.last_used = 0
        self.shunned_until_s = 0.0
        self.waiting: float | None = None
        self.cache_usage: float | None = None
        self.told_at_s = 0.0
        self.rtt_s: float | None = None

    def show(self, target: RouteTarget) -> None:
        """The replica as a snapshot shows it; what every pick looks at is kept at hand."""
        self.target = target
        self.accepting = target.accepting
        self.preferred = target.preferred
        self.throughput = target.throughput
        self.version = target.version


class Wants:
    """What one request asks of routing; cheap to make, since one is made for each.

    ``prefix`` is the beginning of its prompt, ``session`` whom it belongs to; ``avoid`` are replicas that failed
    it, to be taken again only if there is no other and it ``may_return``. ``versions`` are those that it may be
    sent to (None: any); ``resuming`` is one that goes on with an answer of theirs.
    """

    __slots__ = ("avoid", "may_return", "prefix", "resuming", "session", "tokens", "urgent", "versions")

    def __init__(
        self,
        tokens: int = 1,
        prefix: bytes = b"",
        session: str = "",
        urgent: bool = False,
        avoid: Collection[ReplicaId] = (),
        may_return: bool = False,
        versions: frozenset[int] | None = None,
        resuming: bool = False,
    ) -> None:
        self.tokens = tokens
        self.versions = versions
        self.resuming = resuming
        self.prefix = prefix
        self.session = session
        self.urgent = urgent
        self.avoid = avoid
        self.may_return = may_return

    def avoiding(
        self,
        avoid: Collection[ReplicaId],
        *,
        may_return: bool,
        versions: frozenset[int] | None = None,
        resuming: bool = False,
    ) -> "Wants":
        """The same, of others than these, and of these versions."""
        return Wants(self.tokens, self.prefix, self.session, self.urgent, avoid, may_return, versions, resuming)


class Policy(Protocol):
    """Chooses among candidates of one tier, of which there is at least one, all with room."""

    @property
    def note(self) -> str:
        """Which input is missing, as a sentence; empty while none is."""

    def choose(self, candidates: Sequence[Candidate], wants: Wants, loads: "Loads") -> Candidate:
        """The one that takes the request."""

    def forget(self, replica: ReplicaId) -> None:
        """This replica is gone."""


class Loads:
    """How much candidates have to do, at one moment; engine metrics count while they are fresh."""

    __slots__ = ("_oldest_s",)

    def __init__(self, oldest_s: float) -> None:
        self._oldest_s = oldest_s  # what was told before is not believed

    def of(self, one: Candidate) -> float:
        """Outstanding work in tokens, relative to what the replica can do."""
        load = one.tokens + _REQUEST_TOKENS * one.requests
        if one.told_at_s >= self._oldest_s:
            load = told_load(one, load)
        return load / one.throughput

    def least(self, candidates: Sequence[Candidate]) -> Candidate:
        """The least loaded, of equals the one not used for longest."""
        best, best_load = candidates[0], self.of(candidates[0])
        for one in candidates[1:]:
            load = self.of(one)
            if load < best_load or (load == best_load and one.last_used < best.last_used):
                best, best_load = one, load
        return best

    def within(self, candidates: Sequence[Candidate], bound: float, extra: float) -> list[Candidate]:
        """Those that would not, with ``extra`` more tokens, have more than ``bound`` times the average."""
        average = sum(map(self.of, candidates)) / len(candidates)
        most = bound * (average + extra)
        return [one for one in candidates if self.of(one) + extra / one.throughput <= most]


def told_load(one: Candidate, load: float) -> float:
    """The load with what its engine tells: others' requests that wait there, and a cache that is nearly full."""
    if one.waiting is not None and one.waiting > one.requests:
        load += _WAITING_TOKENS * (one.waiting - one.requests)
    if one.cache_usage is not None and one.cache_usage >= _FULL_CACHE:
        load *= 2
    return load


class Router:
    """Tiers first, then a policy."""

    def __init__(self, policy: Policy, spec: RoutingSpec) -> None:
        self._policy = policy
        self._least = isinstance(policy, LeastLoad)
        self._fresh_s = _FRESH_PERIODS * spec.engine_metrics
        self._urgent = spec.urgent
        self._prefers = spec.urgent != "any"
        self._bound = spec.load_bound
        self._unmeasured = 0

    @property
    def note(self) -> str:
        """Which input is missing, as a sentence; empty while none is."""
        if self._unmeasured < _NOT_ENOUGH:
            return self._policy.note
        far = 'routing.urgent = "near": no replica is known to be near; urgent requests go like all others'
        return f"{self._policy.note}. {far}" if self._policy.note else far

    @property
    def memory_bytes(self) -> int:
        """What the policy remembers."""
        return self._policy.prefixes.memory_bytes if isinstance(self._policy, ByPrefix) else 0

    def pick(self, candidates: Sequence[Candidate], wants: Wants, *, limit: int, now_s: float) -> Candidate | None:
        """The replica that takes a request, of which each has at most ``limit``; None while none may."""
        if self._least and not wants.avoid and wants.versions is None and not (wants.urgent and self._prefers):
            best = self._quick(candidates, limit, now_s)
            if best is not None:
                return best
        tier = _tier(candidates, wants, limit, now_s)
        if not tier:
            return None
        if len(tier) == 1 and not isinstance(self._policy, ByPrefix):
            return tier[0]
        loads = Loads(now_s - self._fresh_s)
        if wants.urgent and self._prefers:
            tier = self._for_urgent(tier, wants, loads)
        return self._policy.choose(tier, wants, loads)

    def forget(self, replica: ReplicaId) -> None:
        """This replica is gone."""
        self._policy.forget(replica)

    def _quick(self, candidates: Sequence[Candidate], limit: int, now_s: float) -> Candidate | None:
        """The least loaded where nothing is the matter with any of them, as nearly always; else None.

        One loop without a call: it runs for every request.
        """
        best: Candidate | None = None
        best_load = 0.0
        oldest_s = now_s - self._fresh_s
        for one in candidates:
            if not one.accepting:
                continue
            if not one.preferred or one.shunned_until_s > now_s or one.requests >= limit:
                return None
            load = one.tokens + _REQUEST_TOKENS * one.requests
            if one.told_at_s >= oldest_s and (one.waiting or one.cache_usage is not None):
                load = told_load(one, load)
            if one.throughput != 1.0:
                load /= one.throughput
            if best is None or load < best_load or (load == best_load and one.last_used < best.last_used):
                best, best_load = one, load
        return best

    def _for_urgent(self, tier: list[Candidate], wants: Wants, loads: Loads) -> list[Candidate]:
        """Those among which an urgent request should go, as far as they are not overloaded."""
        fit = loads.within(tier, self._bound, wants.tokens)
        if self._urgent == "on_demand":
            return [one for one in fit if one.target.market is not Market.SPOT] or tier
        known = [(one.rtt_s, one) for one in fit if one.rtt_s is not None]
        if known:
            self._unmeasured = 0
            nearest_s = min(rtt_s for rtt_s, _ in known)
            return [one for rtt_s, one in known if rtt_s <= _AS_NEAR * nearest_s]
        if all(one.rtt_s is None for one in tier):
            self._unmeasured += 1
        return fit or tier


def make_router(spec: RoutingSpec, dice: Callable[[], float]) -> Router:
    """The router that model.toml asks for; ``dice`` gives numbers from 0 up to 1."""
    policy: Policy
    match spec.policy:
        case "least_load":
            policy = LeastLoad()
        case "round_robin":
            policy = RoundRobin()
        case "p2c":
            policy = TwoChoices(dice)
        case "prefix":
            policy = ByPrefix(spec.load_bound, spec.prefix_memory)
        case "session":
            policy = BySession(spec.load_bound, spec.session_header)
    return Router(policy, spec)


class LeastLoad:
    """The replica with the least outstanding work."""

    note = ""

    def choose(self, candidates: Sequence[Candidate], wants: Wants, loads: Loads) -> Candidate:
        """The least loaded."""
        return loads.least(candidates)

    def forget(self, replica: ReplicaId) -> None:
        """Nothing is remembered."""


class RoundRobin:
    """One after the other: the one not used for longest."""

    note = ""

    def choose(self, candidates: Sequence[Candidate], wants: Wants, loads: Loads) -> Candidate:
        """The one not used for longest."""
        return min(candidates, key=lambda one: one.last_used)

    def forget(self, replica: ReplicaId) -> None:
        """Nothing is remembered."""


class TwoChoices:
    """The less loaded of two that were drawn (Mitzenmacher, 2001): close to the least loaded, and no herd follows
    one that has just come."""

    note = ""

    def __init__(self, dice: Callable[[], float]) -> None:
        self._dice = dice

    def choose(self, candidates: Sequence[Candidate], wants: Wants, loads: Loads) -> Candidate:
        """The less loaded of two different ones."""
        count = len(candidates)
        if count < 3:
            return loads.least(candidates)
        first = int(self._dice() * count)
        second = int(self._dice() * (count - 1))
        return loads.least([candidates[first], candidates[second if second < first else second + 1]])

    def forget(self, replica: ReplicaId) -> None:
        """Nothing is remembered."""


class ByPrefix:
    """Where the longest beginning of the prompt was answered last, and so lies in the engine's cache; where that
    replica is too loaded, or nothing is known, the least loaded."""

    def __init__(self, bound: float, memory_bytes: int) -> None:
        self._bound = bound
        self.prefixes = Prefixes(memory_bytes)
        self._blind = 0

    @property
    def note(self) -> str:
        """Says so where requests carry no prompt that can be read."""
        if self._blind < _NOT_ENOUGH:
            return ""
        return 'routing.policy = "prefix": the requests carry no prompt that can be read; they go by least load'

    def choose(self, candidates: Sequence[Candidate], wants: Wants, loads: Loads) -> Candidate:
        """The one that knows most of the prompt and is not overloaded."""
        if not wants.prefix:
            self._blind += 1
            return loads.least(candidates)
        self._blind = 0
        by_id = {one.target.id: one for one in loads.within(candidates, self._bound, wants.tokens)}
        prompt = beginnings(wants.prefix)
        known = self.prefixes.longest(prompt, by_id)
        chosen = by_id[known] if known is not None else loads.least(candidates)
        self.prefixes.answered(prompt, chosen.target.id)
        return chosen

    def forget(self, replica: ReplicaId) -> None:
        """Its cache is gone with it."""
        self.prefixes.forget(replica)


class BySession:
    """The same replica for the same session, whoever comes and goes: the best draw of session and replica
    (rendezvous hashing; Thaler and Ravishankar, 1998), the next one where that replica is too loaded. A replica of
    twice the throughput has twice as many sessions."""

    def __init__(self, bound: float, header: str) -> None:
        self._bound = bound
        self._header = header
        self._blind = 0

    @property
    def note(self) -> str:
        """Says so where requests name no session."""
        if self._blind < _NOT_ENOUGH:
            return ""
        return (
            f'routing.policy = "session": the requests have neither the header {self._header} nor a `user`; '
            "they go by least load"
        )

    def choose(self, candidates: Sequence[Candidate], wants: Wants, loads: Loads) -> Candidate:
        """The session's own, unless it is overloaded."""
        if not wants.session:
            self._blind += 1
            return loads.least(candidates)
        self._blind = 0
        session = wants.session.encode("utf-8", "surrogatepass")
        fit = loads.within(candidates, self._bound, wants.tokens) or candidates
        return max(fit, key=lambda one: one.throughput / -log(_draw(session, one.target.id)))

    def forget(self, replica: ReplicaId) -> None:
        """Nothing is remembered."""


def _draw(session: bytes, replica: ReplicaId) -> float:
    """A number above 0 and below 1, ever the same for the two."""
    drawn = blake2b(session + b"\0" + replica.encode(), digest_size=8).digest()
    # 52 bits and a half: neither end is reached by rounding.
    return ((int.from_bytes(drawn) >> 12) + 0.5) / 2**52


def _tier(candidates: Sequence[Candidate], wants: Wants, limit: int, now_s: float) -> list[Candidate]:
    """The best tier that has anybody in it."""
    if wants.versions is None:
        accepting = [one for one in candidates if one.accepting]
    else:
        accepting = [
            one
            for one in candidates
            if one.version in wants.versions and (one.accepting or (wants.resuming and one.target.resumes))
        ]
    if wants.avoid:
        fresh = [one for one in accepting if one.target.id not in wants.avoid]
        if fresh or not wants.may_return:
            accepting = fresh
    best: list[Candidate] = []
    best_rank = 4
    for one in accepting:
        if one.requests >= limit:
            continue
        rank = 2 * (one.shunned_until_s > now_s) + (not one.preferred)
        if rank < best_rank:
            best, best_rank = [one], rank
        elif rank == best_rank:
            best.append(one)
    return best


def fewest(
    targets: Iterable[RouteTarget],
    outstanding: Mapping[ReplicaId, int],
    *,
    limit: int | None,
    last_used: Mapping[ReplicaId, int],
) -> RouteTarget | None:
    """The target with the fewest requests, of equals the one not used for longest: least load where all requests
    are the same, as in back-tests. None while each accepting one has ``limit`` (None: any number)."""
    best: RouteTarget | None = None
    best_rank: tuple[bool, int, int] | None = None
    for target in targets:
        busy = outstanding.get(target.id, 0)
        if not target.accepting or (limit is not None and busy >= limit):
            continue
        rank = (not target.preferred, busy, last_used.get(target.id, 0))
        if best_rank is None or rank < best_rank:
            best, best_rank = target, rank
    return best
