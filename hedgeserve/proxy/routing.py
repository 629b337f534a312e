"""Which replica takes a request. Pure: a clock and a die are arguments.

All policies share the same tiers. Never one that does not accept or has as many requests as it may have; one that
failed this very request only where all others did too; one that failed somebody a moment ago after all others, one
under a preemption notice after those that are not. The last two are last resorts and never refused: the last
replica standing is better than none. Within a tier the policy chooses.
"""

import math
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from typing import NamedTuple

from hedgeserve.proxy.prefixes import Prefixes, chain
from hedgeserve.replica import Market, ReplicaId, RouteTarget
from hedgeserve.spec import RoutingSpec

# What work is not in its tokens, in tokens: many tiny requests are not nothing.
_REQUEST_TOKENS = 16
# What is known of a request that somebody else sent to the engine: nothing, so it is taken for an ordinary one.
_FOREIGN_TOKENS = 512
# From here on an engine's cache is nearly full, and a new request waits or drives another out; when it is wholly
# full, that weighs as much as so many tokens.
_CACHE_FILLING = 0.9
_FULL_CACHE_TOKENS = 4096
_BELIEVED_FOR = 3  # times the interval in which engines are asked
_MISSED_BEFORE_NOTED = 20

_MASK = 2**64 - 1


class Candidate:
    """A replica and what it has to do now; whoever gives it requests keeps this true.

    ``tokens`` is the work of its ``requests`` that is still to be done; ``last_used`` grows with each use of any.
    ``waiting`` and ``cache_usage`` are what its engine said at ``told_at_s``.
    """

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

    def __init__(self, target: RouteTarget) -> None:
        self.target = target
        self.requests = 0
        self.tokens = 0.0
        self.last_used = 0
        self.shunned_until_s = 0.0
        self.waiting: float | None = None
        self.cache_usage: float | None = None
        self.told_at_s = -math.inf
        self.rtt_s: float | None = None


class Wants(NamedTuple):
    """What a request asks of its replica. (A named tuple: one is made for every request.)

    ``tokens`` is its work, ``prefix`` the beginning of its prompt, ``avoid`` who has failed it: they are taken
    only where every replica that accepts is among them, and only with ``may_return``.
    """

    tokens: int = 1
    prefix: bytes = b""
    session: str = ""
    urgent: bool = False
    avoid: Collection[ReplicaId] = ()
    may_return: bool = False


class Router:
    """Chooses by least load: the fewest outstanding tokens for what the replica can do, this request's included.

    Ties go to the one that was not used for longest. Other policies are its subclasses.
    """

    _plain = True  # where nothing is amiss the loop in `pick` decides; a policy of its own decides in `_choose`

    def __init__(self, spec: RoutingSpec) -> None:
        self._load_bound = spec.load_bound
        self._urgent = spec.urgent
        self._sorts_urgent = spec.urgent != "any"
        self._believed_s = _BELIEVED_FOR * spec.engine_metrics
        self._distance_unknown = False

    @property
    def note(self) -> str:
        """Which input of the policy is missing, in a sentence; "" where none is."""
        if self._distance_unknown:
            return "urgent: no replica's round-trip time is known; urgent requests go where all others do"
        return ""

    @property
    def memory_bytes(self) -> int:
        """What it takes to remember prompts' beginnings."""
        return 0

    def forget(self, replica: ReplicaId) -> None:
        """This replica is gone; one that comes back under its id is a new one."""

    def pick(self, candidates: Sequence[Candidate], wants: Wants, *, limit: int, now_s: float) -> Candidate | None:
        """The one that takes this request, which is counted as taken; None while there is none with room for it.

        ``limit`` is the most requests that one of them is given at a time.
        """
        if self._plain and not wants.avoid and not (wants.urgent and self._sorts_urgent):
            # Every request comes through here: no call, no allocation where all replicas are well.
            oldest_s = now_s - self._believed_s
            own = wants.tokens
            best = None
            best_load = math.inf
            for each in candidates:
                target = each.target
                if (
                    each.requests >= limit
                    or each.shunned_until_s > now_s
                    or not target.accepting
                    or not target.preferred
                ):
                    continue
                work = each.tokens + each.requests * _REQUEST_TOKENS + own
                if each.told_at_s >= oldest_s:
                    work += _told_work(each)
                load = work / target.throughput
                if load < best_load or (load == best_load and best and each.last_used < best.last_used):
                    best, best_load = each, load
            if best is not None:
                return best
        among = _best_tier(candidates, wants, limit, now_s)
        if not among:
            return None
        if wants.urgent and self._sorts_urgent:
            among = self._first_for_urgent(among, wants, now_s)
        return self._choose(among, wants, now_s)

    def _choose(self, among: list[Candidate], wants: Wants, now_s: float) -> Candidate:
        return self._least_loaded(among, wants.tokens, now_s)

    def _least_loaded(self, among: list[Candidate], own: int, now_s: float) -> Candidate:
        oldest_s = now_s - self._believed_s
        return min(
            among, key=lambda each: ((_work(each, oldest_s) + own) / each.target.throughput, each.last_used)
        )

    def _not_overloaded(self, among: list[Candidate], own: int, now_s: float) -> list[Candidate]:
        """Those with at most ``load_bound`` times the average load, this request's work included in that.

        Never empty, and one that has no more than another such request to do is not overloaded, however idle
        the others are.
        """
        oldest_s = now_s - self._believed_s
        works = [_work(each, oldest_s) for each in among]
        average = (sum(works) + own) / sum(each.target.throughput for each in among)
        bound, alone = self._load_bound * average, own + _REQUEST_TOKENS
        return [
            each
            for each, work in zip(among, works, strict=True)
            if work <= alone or work <= bound * each.target.throughput
        ] or among

    def _first_for_urgent(self, among: list[Candidate], wants: Wants, now_s: float) -> list[Candidate]:
        fit = self._not_overloaded(among, wants.tokens, now_s)
        if self._urgent == "on_demand":
            return [each for each in fit if each.target.market in (Market.ON_DEMAND, Market.EXTERNAL)] or among
        nearest_s = min((each.rtt_s for each in fit if each.rtt_s is not None), default=None)
        self._distance_unknown = nearest_s is None and all(each.rtt_s is None for each in among)
        if nearest_s is None:
            return among
        return [each for each in fit if each.rtt_s == nearest_s]


class RoundRobin(Router):
    """Each in turn, whatever it has to do."""

    _plain = False

    def _choose(self, among: list[Candidate], wants: Wants, now_s: float) -> Candidate:
        return min(among, key=_last_used)


class TwoChoices(Router):
    """The less loaded of two drawn at random: as good as least load where several balancers share the replicas."""

    _plain = False

    def __init__(self, spec: RoutingSpec, dice: Callable[[], float]) -> None:
        super().__init__(spec)
        self._dice = dice

    def _choose(self, among: list[Candidate], wants: Wants, now_s: float) -> Candidate:
        count = len(among)
        if count > 2:
            first = int(self._dice() * count)
            second = int(self._dice() * (count - 1))
            among = [among[first], among[second + (second >= first)]]
        return self._least_loaded(among, wants.tokens, now_s)


class _ByInput(Router):
    """A policy that needs something of the requests which they may lack; then they go by least load."""

    _plain = False
    _says = ""

    def __init__(self, spec: RoutingSpec) -> None:
        super().__init__(spec)
        self._missed_in_a_row = 0

    @property
    def note(self) -> str:
        """Which input of the policy is missing, in a sentence; "" where none is."""
        return self._says if self._missed_in_a_row >= _MISSED_BEFORE_NOTED else super().note

    def _missed(self, among: list[Candidate], wants: Wants, now_s: float) -> Candidate:
        self._missed_in_a_row += 1
        return self._least_loaded(among, wants.tokens, now_s)


class ByPrefix(_ByInput):
    """Where the longest beginning of the prompt is cached, unless that replica is overloaded."""

    _says = "prefix: requests carry no prompt that can be read; they go by least load"

    def __init__(self, spec: RoutingSpec) -> None:
        super().__init__(spec)
        self._prefixes = Prefixes(spec.prefix_memory)

    @property
    def memory_bytes(self) -> int:
        """What it takes to remember prompts' beginnings."""
        return self._prefixes.memory_bytes

    def forget(self, replica: ReplicaId) -> None:
        """This replica is gone, and its cache with it."""
        self._prefixes.forget(replica)

    def _choose(self, among: list[Candidate], wants: Wants, now_s: float) -> Candidate:
        if not wants.prefix:
            return self._missed(among, wants, now_s)
        self._missed_in_a_row = 0
        hashes = chain(wants.prefix)
        if not hashes:
            return self._least_loaded(among, wants.tokens, now_s)
        fit = {each.target.id: each for each in self._not_overloaded(among, wants.tokens, now_s)}
        for replica in self._prefixes.holders(hashes):
            if replica in fit:
                chosen = fit[replica]
                break
        else:
            chosen = self._least_loaded(among, wants.tokens, now_s)
        self._prefixes.remember(hashes, chosen.target.id)
        return chosen


class BySession(_ByInput):
    """The same replica for the same session, without remembering any: rendezvous hashing with bounded load.

    When a replica comes or goes only its own sessions move, and several balancers agree on all of them.
    """

    _says = "session: requests name no session; they go by least load"

    def __init__(self, spec: RoutingSpec) -> None:
        super().__init__(spec)
        self._seeds: dict[ReplicaId, int] = {}

    def forget(self, replica: ReplicaId) -> None:
        """This replica is gone; its sessions go elsewhere, each to the next in its own order."""
        self._seeds.pop(replica, None)

    def _choose(self, among: list[Candidate], wants: Wants, now_s: float) -> Candidate:
        if not wants.session:
            return self._missed(among, wants, now_s)
        self._missed_in_a_row = 0
        session = _hash(wants.session)
        return max(
            self._not_overloaded(among, wants.tokens, now_s), key=lambda each: self._score(each.target, session)
        )

    def _score(self, target: RouteTarget, session: int) -> float:
        """Its bid for the session: a replica of twice the throughput wins twice as many."""
        seed = self._seeds.get(target.id)
        if seed is None:
            seed = self._seeds[target.id] = _hash(target.id)
        # 52 bits and a half: never 0 or 1, whose logarithms are no bids.
        drawn = ((_mix(seed ^ session) >> 12) + 0.5) / 2**52
        return target.throughput / -math.log(drawn)


def make_router(spec: RoutingSpec, dice: Callable[[], float]) -> Router:
    """The policy that the configuration names; ``dice`` draws from 0 to below 1."""
    match spec.policy:
        case "least_load":
            return Router(spec)
        case "round_robin":
            return RoundRobin(spec)
        case "p2c":
            return TwoChoices(spec, dice)
        case "prefix":
            return ByPrefix(spec)
        case "session":
            return BySession(spec)


def _best_tier(candidates: Sequence[Candidate], wants: Wants, limit: int, now_s: float) -> list[Candidate]:
    """Those with room of the first tier that has any."""
    standing = [each for each in candidates if each.target.accepting]
    if wants.avoid:
        fresh = [each for each in standing if each.target.id not in wants.avoid]
        # Others that are full are waited for: who failed the request is asked again only where there is no other.
        standing = fresh or (standing if wants.may_return else [])
    room = [each for each in standing if each.requests < limit]
    well = [each for each in room if each.shunned_until_s <= now_s] or room
    return [each for each in well if each.target.preferred] or well


def _work(candidate: Candidate, oldest_s: float) -> float:
    """What it has to do, in tokens; with what its engine says of others' requests, unless that is too old."""
    work = candidate.tokens + candidate.requests * _REQUEST_TOKENS
    return work + _told_work(candidate) if candidate.told_at_s >= oldest_s else work


def _told_work(candidate: Candidate) -> float:
    """What others have given its engine to do, by what that says."""
    work = 0.0
    waiting, cache_usage = candidate.waiting, candidate.cache_usage
    if waiting is not None and waiting > candidate.requests:
        work = (waiting - candidate.requests) * _FOREIGN_TOKENS
    if cache_usage is not None and cache_usage > _CACHE_FILLING:
        work += min((cache_usage - _CACHE_FILLING) / (1 - _CACHE_FILLING), 1.0) * _FULL_CACHE_TOKENS
    return work


def _last_used(candidate: Candidate) -> int:
    return candidate.last_used


def _hash(text: str) -> int:
    # Not `hash`, which differs from process to process: a session stays where it is when the balancer restarts.
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _mix(number: int) -> int:
    """splitmix64's finaliser: each bit of the result depends on all of the number's."""
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _MASK
    return number ^ number >> 31
