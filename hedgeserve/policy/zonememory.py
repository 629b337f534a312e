"""What a policy has learnt of its zones: which lost a replica last, which refuse launches and for how long.

It keeps the news, not conclusions. Which zones are available follows from the news and from the zones that
there are today, so that a question changes nothing and a zone more or less is no special case.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hedgeserve.policy.plan import NewsKind, ZoneNews
from hedgeserve.replica import Market, ZoneId
from hedgeserve.units import format_duration

_MOVES_KEPT = 256
"""Moves between available and preempted that are remembered; older ones are as if they had not been."""

_MOST_DOUBLINGS = 4
_MOST_LIFTS = 3
"""Pauses of a place that end early until a launch there is judged: a cloud that comes and goes is not hammered."""
_QUOTA_REST_S = 600.0
_LONGEST_HOLD_S = 600.0
_VERSIONS_KEPT = 16
"""Versions whose failed boots are counted; the longest ago is forgotten for one more."""
_FORGET_S = 86400.0
"""What is older is not written to the store: a zone that was taken out of the pools must not stay for ever."""

_LOST = frozenset({NewsKind.NOTICE, NewsKind.PREEMPTED, NewsKind.NO_CAPACITY})
_ANSWERED = frozenset(
    {NewsKind.GRANTED, NewsKind.READY, NewsKind.NO_CAPACITY, NewsKind.QUOTA, NewsKind.UNSUPPORTED}
)
_WORDS = {
    NewsKind.NOTICE: "a preemption notice",
    NewsKind.PREEMPTED: "a preemption",
    NewsKind.NO_CAPACITY: "no capacity",
}


@dataclass(frozen=True, slots=True)
class _Move:
    """A spot replica was lost or refused (``lost`` says how) or became ready (``lost`` is empty)."""

    zone: ZoneId
    at_s: float
    lost: str


@dataclass(frozen=True, slots=True)
class _Refusals:
    """Launches refused in a row, those aside that were under way when the first of them was refused.

    One whose VM was taken back before it served is as good as refused; ``taken``: the last one was such a one.
    """

    count: int
    at_s: float
    why: str
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """Why a zone is not asked for a market now, though it may be available; the sentence has no clock in it."""

    word: str
    reason: str
    until_s: float | None = None
    """When it ends by itself; None: never."""


def why_held(held: Mapping[int, str], runs: Collection[int]) -> str | None:
    """Why nothing at all is launched where launches may run these versions; None where one of them is free."""
    return None if any(version not in held for version in runs) else next((held[one] for one in runs), None)


class ZoneMemory:
    """The zones' news, and what follows from them (arXiv 2411.01438, Algorithm 1, with pauses added).

    A zone that loses or refuses a spot replica moves from the available zones Z_A to the preempted ones Z_P;
    one where a spot replica becomes ready moves back. When a move leaves fewer than ``rebalance_below`` zones
    in Z_A, all return. The paper sets that bound to 2 and has many zones; with few, a bound above "all but one"
    would call the zone back that has just failed, so it is never more than that, and never less than 1: with two
    zones the failed one is avoided while the other stands, and a single zone is always available.
    """

    def __init__(self, *, retry_delay_s: float, rebalance_below: int) -> None:
        self._retry_delay_s = retry_delay_s
        self._rebalance_below = rebalance_below
        self._moves: deque[_Move] = deque(maxlen=_MOVES_KEPT)
        self._refusals: dict[tuple[ZoneId, Market], _Refusals] = {}
        # Launches that a cloud did not even judge: nothing is learnt of the zone, but asking on would be no use.
        self._errors: dict[tuple[ZoneId, Market], _Refusals] = {}
        self._lifts: dict[tuple[ZoneId, Market], int] = {}
        self._quota: dict[tuple[ZoneId, Market], _Refusals] = {}
        self._unsupported: dict[tuple[ZoneId, Market], str] = {}
        # By version: what one of them breaks is no reason to hold back another.
        self._boot_failures: dict[int, _Refusals] = {}
        # Z_P is asked for far more often than it changes: the last answer, until another zone counts or moves.
        self._preempted: tuple[frozenset[ZoneId], Mapping[ZoneId, tuple[str, float]]] | None = None

    def observe(self, news: ZoneNews) -> None:
        """Learn one thing."""
        place = (news.zone, news.market)
        why = f"{news.kind.replace('_', ' ')}: {news.detail}" if news.detail else news.kind.replace("_", " ")
        if news.market is Market.SPOT and news.kind in _LOST:
            self._move(news.zone, news.at_s, _WORDS[news.kind])
        if news.kind in _ANSWERED:
            self._errors.pop(place, None)
            self._lifts.pop(place, None)
        match news.kind:
            case NewsKind.REACHABLE:
                self._lift(place)
            case NewsKind.NO_CAPACITY:
                taken = news.held_s is not None
                self._refused(self._refusals, place, news.at_s, (news.detail if taken else "") or why, taken=taken)
            case NewsKind.LAUNCH_ERROR:
                self._refused(self._errors, place, news.at_s, why)
            case NewsKind.READY:
                self._ready(news)
            case NewsKind.QUOTA:
                self._quota[place] = _Refusals(1, news.at_s, news.detail)
            case NewsKind.UNSUPPORTED:
                self._unsupported[place] = news.detail
            case NewsKind.BOOT_FAILED:
                self._boot_failed(news)
            case NewsKind.TAKEN_BACK:
                self._boot_failures.pop(news.version, None)

    def _lift(self, place: tuple[ZoneId, Market]) -> None:
        """Its cloud answers again: what failed for its silence is no reason to wait any more."""
        lifts = self._lifts.get(place, 0)
        if place in self._errors and lifts < _MOST_LIFTS:
            del self._errors[place]
            self._lifts[place] = lifts + 1

    def _ready(self, news: ZoneNews) -> None:
        place = (news.zone, news.market)
        self._boot_failures.pop(news.version, None)
        self._refusals.pop(place, None)
        self._quota.pop(place, None)
        last = next((move for move in reversed(self._moves) if move.zone == news.zone), None)
        # Ready after ready moves nothing, whatever else happened in between: only losses are worth remembering.
        if news.market is Market.SPOT and last is not None and last.lost:
            self._move(news.zone, news.at_s, "")

    def _move(self, zone: ZoneId, at_s: float, lost: str) -> None:
        self._moves.append(_Move(zone, at_s, lost))
        self._preempted = None

    def _refused(
        self,
        known: dict[tuple[ZoneId, Market], _Refusals],
        place: tuple[ZoneId, Market],
        at_s: float,
        why: str,
        *,
        taken: bool = False,
    ) -> None:
        before = known.get(place)
        if before is None:
            known[place] = _Refusals(1, at_s, why, taken)
        elif at_s >= self._rests_until_s(before):
            known[place] = _Refusals(before.count + 1, at_s, why, taken)
        # A refusal during the pause answers a launch from before it: the same asking, not one more in a row.

    def _rests_until_s(self, refusals: _Refusals) -> float:
        return float(refusals.at_s + self._retry_delay_s * 2 ** min(refusals.count - 1, _MOST_DOUBLINGS))

    def _boot_failed(self, news: ZoneNews) -> None:
        known, why = self._boot_failures, f"{news.zone}: {news.detail}" if news.detail else str(news.zone)
        before = known.get(news.version)
        if before is not None and news.at_s < self._held_until_s(before):
            return  # as above: what fails during the hold was launched before it
        known[news.version] = _Refusals(1 if before is None else before.count + 1, news.at_s, why)
        if len(known) > _VERSIONS_KEPT:
            del known[min(known, key=lambda version: known[version].at_s)]

    def _held_until_s(self, failures: _Refusals) -> float:
        if failures.count < 2:
            return failures.at_s
        # The bound on the exponent only keeps the number finite; the longest hold is reached before.
        hold_s = self._retry_delay_s * 2 ** min(failures.count - 1, 20)
        return float(failures.at_s + min(hold_s, _LONGEST_HOLD_S))

    def held(self, now_s: float) -> dict[int, str]:
        """Which versions are not launched now, and why: VMs come up, but no ready replica, no fault of a zone's.

        From the second failure in a row without a ready replica of it on, a version's launches wait for the retry
        delay doubled per failure, 10 minutes at most: an image that crashes must not burn money.
        """
        return {
            version: (
                f"launches {f'of version {version} ' if version else ''}wait: {failures.count} times in a row no "
                f"ready replica came of them (last {failures.why})"
            )
            for version, failures in self._boot_failures.items()
            if now_s < self._held_until_s(failures)
        }

    def held_until_s(self, runs: Collection[int]) -> float | None:
        """Until when the launches of all of these versions wait, or waited; None where one is free of failures."""
        if not all(version in self._boot_failures for version in runs):
            return None
        return min((self._held_until_s(self._boot_failures[version]) for version in runs), default=None)

    def preempted(self, zones: Collection[ZoneId]) -> Mapping[ZoneId, tuple[str, float]]:
        """Z_P among these spot zones: for each of them, what was lost there and when."""
        everywhere = frozenset(zones)
        if self._preempted is not None and self._preempted[0] == everywhere:
            return self._preempted[1]
        fewest = max(1, min(self._rebalance_below, len(everywhere) - 1))
        lost: dict[ZoneId, tuple[str, float]] = {}
        for move in self._moves:
            if move.zone not in everywhere:
                continue
            if not move.lost:
                lost.pop(move.zone, None)
            elif move.zone not in lost:
                lost[move.zone] = (move.lost, move.at_s)
                if len(everywhere) - len(lost) < fewest:
                    lost.clear()
        self._preempted = everywhere, lost
        return lost

    @property
    def lacks(self) -> bool:
        """Whether any zone is known to lack a market."""
        return bool(self._unsupported)

    def supports(self, zone: ZoneId, market: Market) -> bool:
        """Whether a zone has this market at all, as far as is known."""
        return (zone, market) not in self._unsupported

    def barred(self, zone: ZoneId, market: Market, now_s: float) -> Rest | None:
        """Why a zone does not count for this market now; None if it counts.

        It is unsupported there, or without quota, or its cloud fails for reasons that say nothing of the zone.
        """
        place = (zone, market)
        if place in self._unsupported:
            return Rest("unsupported", f"has no {_name(market)} of this kind{_because(self._unsupported[place])}")
        quota = self._quota.get(place)
        if quota is not None and now_s < quota.at_s + _QUOTA_REST_S:
            asked = f"it is asked again every {format_duration(_QUOTA_REST_S)}"
            why = f"has no quota left for {_name(market)}, {asked}{_because(quota.why)}"
            return Rest("no quota", why, quota.at_s + _QUOTA_REST_S)
        return self._pause(self._errors, zone, market, now_s)

    def rest(self, zone: ZoneId, market: Market, now_s: float) -> Rest | None:
        """Why a zone is not asked for this market now: barred, or resting after a refusal; None if it may be."""
        if barred := self.barred(zone, market, now_s):
            return barred
        return self._pause(self._refusals, zone, market, now_s)

    def _pause(
        self, known: Mapping[tuple[ZoneId, Market], _Refusals], zone: ZoneId, market: Market, now_s: float
    ) -> Rest | None:
        refusals = known.get((zone, market))
        if refusals is None or now_s >= self._rests_until_s(refusals):
            return None
        until_s = self._rests_until_s(refusals)
        pause = format_duration(until_s - refusals.at_s)
        times = "once" if refusals.count == 1 else f"{refusals.count} times in a row"
        told = f"refused {times} ({refusals.why})"
        if refusals.taken:
            told = f"a VM was taken back before it served ({refusals.why})"
            if refusals.count > 1:
                told += f", {times} without one that served"
        return Rest("resting", f"rests for {pause} from {_name(market)}: {told}", until_s)

    def rests(self, now_s: float) -> dict[tuple[ZoneId, Market], Rest]:
        """What :meth:`rest` says, for every zone and market that is not asked now."""
        known = {**self._unsupported, **self._quota, **self._refusals, **self._errors}
        return {place: rest for place in known if (rest := self.rest(*place, now_s)) is not None}

    def pauses_end_s(self, places: Collection[tuple[ZoneId, Market]]) -> list[float]:
        """When the pauses of these zones and markets end, or ended: those after refusals, for quota, for boots."""
        ends_s = [
            self._rests_until_s(refusals)
            for known in (self._refusals, self._errors)
            for place, refusals in known.items()
            if place in places
        ]
        ends_s += [quota.at_s + _QUOTA_REST_S for place, quota in self._quota.items() if place in places]
        return [*ends_s, *map(self._held_until_s, self._boot_failures.values())]

    def export(self, now_s: float) -> dict[str, Any]:
        """Everything but what holds only until a restart, JSON-able, with ages for times."""

        def refusals(known: Mapping[tuple[ZoneId, Market], _Refusals]) -> list[dict[str, Any]]:
            return [
                {
                    "zone": zone,
                    "market": str(market),
                    "count": one.count,
                    "age_s": now_s - one.at_s,
                    "why": one.why,
                    "taken": one.taken,
                }
                for (zone, market), one in known.items()
                if now_s - one.at_s < _FORGET_S
            ]

        def failures(version: int, one: _Refusals) -> dict[str, Any]:
            return {"version": version, "count": one.count, "age_s": now_s - one.at_s, "why": one.why}

        return {
            "moves": [
                {"zone": move.zone, "age_s": now_s - move.at_s, "lost": move.lost}
                for move in self._moves
                if now_s - move.at_s < _FORGET_S
            ],
            "refusals": refusals(self._refusals),
            "errors": refusals(self._errors),
            "quota": refusals(self._quota),
            # Of no version, as an earlier release knows them; then those by version.
            "boot_failures": next((failures(0, one) for v, one in self._boot_failures.items() if not v), None),
            "boot_failures_by_version": [failures(v, one) for v, one in self._boot_failures.items() if v],
        }

    def restore(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up what :meth:`export` gave; in place of a memory of another shape, none.

        Zones that are no longer in the pools do no harm: every question names the zones that it is about.
        """
        try:
            moves = [
                _Move(ZoneId(str(one["zone"])), now_s - float(one["age_s"]), str(one["lost"]))
                for one in memory["moves"]
            ]
            refusals = _restored(memory["refusals"], now_s)
            errors = _restored(memory.get("errors", []), now_s)
            quota = _restored(memory["quota"], now_s)
            failures = [memory["boot_failures"] or [], *memory.get("boot_failures_by_version", [])]
            boot_failures = {int(one.get("version", 0)): _restored_one(one, now_s) for one in failures if one}
        except (KeyError, TypeError, ValueError, AttributeError):
            return
        self._moves = deque(moves, maxlen=_MOVES_KEPT)
        self._preempted = None
        self._refusals, self._errors, self._quota = refusals, errors, quota
        self._boot_failures = boot_failures


def _restored_one(one: Mapping[str, Any], now_s: float) -> _Refusals:
    taken = one.get("taken") is True  # a memory of before this was told apart has none
    return _Refusals(max(1, int(one["count"])), now_s - float(one["age_s"]), str(one["why"]), taken)


def _restored(many: list[Mapping[str, Any]], now_s: float) -> dict[tuple[ZoneId, Market], _Refusals]:
    return {(ZoneId(str(one["zone"])), Market(one["market"])): _restored_one(one, now_s) for one in many}


def _name(market: Market) -> str:
    return "on-demand" if market is Market.ON_DEMAND else str(market)


def _because(detail: str) -> str:
    return f" ({detail})" if detail else ""
