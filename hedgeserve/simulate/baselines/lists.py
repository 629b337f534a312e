"""SpotHedge by the letter: the paper's Algorithm 1 and the artifact's code, without what production adds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hedgeserve.policy.placement import most_dispensable
from hedgeserve.policy.plan import Launch, NewsKind, ZoneNews
from hedgeserve.replica import Market, Replica, ZoneId
from hedgeserve.simulate.baselines.base import Sums
from hedgeserve.simulate.baselines.spread import SpotSpread

_LOST = frozenset({NewsKind.PREEMPTED, NewsKind.NO_CAPACITY})


class _TwoLists(SpotSpread):
    """Available zones (Z_A) and preempted ones (Z_P); fallback always."""

    def __init__(self, name: str, *, overprovision: int, seed: int) -> None:
        super().__init__(name, overprovision=overprovision, seed=seed, fallback=True)
        self._preempted: dict[ZoneId, None] = {}

    @property
    def _active(self) -> list[ZoneId]:
        return [zone for zone in self.zones if zone not in self._preempted]

    def zone_states(self) -> Mapping[ZoneId, str]:
        """Which list each zone is on."""
        return {
            zone: "preempted: a launch was refused or a replica lost" if zone in self._preempted else state
            for zone, state in super().zone_states().items()
        }

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """The preempted zones."""
        return {"preempted": list(self._preempted)}

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up the preempted zones."""
        preempted = memory.get("preempted")
        if isinstance(preempted, list):
            self._preempted = {ZoneId(str(zone)): None for zone in preempted}


class PrintedSpotHedge(_TwoLists):
    """Algorithm 1 of arXiv 2411.01438 by the letter: no pause after a refusal, no hold, no use of a notice.

    A preemption or a refused launch moves a zone from Z_A to Z_P, a replica that becomes ready there moves it
    back; as soon as fewer than two zones are left in Z_A, all return. Of Z_A the zones without a replica come
    first, then those with the fewest, then the cheapest, then by name.
    """

    def learn(self, news: ZoneNews) -> None:
        """Move the zone."""
        if news.market is not Market.SPOT:
            return
        if news.kind is NewsKind.READY:
            self._preempted.pop(news.zone, None)
        elif news.kind in _LOST:
            self._preempted[news.zone] = None
            if len(self._active) < 2:
                self._preempted.clear()

    def choose(self, sums: Sums, taken: Counter[ZoneId], nth: int) -> ZoneId | None:
        """SELECT-NEXT-ZONE."""
        active = self._active or self.zones
        return min(active, key=lambda zone: (taken[zone], self.price(zone), zone), default=None)


class ArtifactSpotHedge(_TwoLists):
    """SpotHedge as its authors' simulator codes it (github MaoZiming/spothedge_ae), which made their figures.

    It differs from the paper's Algorithm 1. A zone that lost or refused any replica since the last tick goes to
    Z_P; one that holds replicas and lost none returns, ready or not. All return only when Z_A has no more than
    ``min(1, zones - 3)`` zones: for three zones when it is empty. The next zone is drawn at random among those of
    Z_A without a replica, else among all of Z_A. A scale-down places all spot replicas anew.
    """

    def __init__(self, name: str, *, overprovision: int, seed: int) -> None:
        super().__init__(name, overprovision=overprovision, seed=seed)
        self._lost: set[ZoneId] = set()

    def learn(self, news: ZoneNews) -> None:
        """Note the loss for the next tick."""
        if news.market is Market.SPOT and news.kind in _LOST:
            self._lost.add(news.zone)

    def turn(self, sums: Sums) -> None:
        """Move zones by what became of the last tick's plan, then see whether enough are left."""
        for zone in {replica.zone for replica in sums.spot} - self._lost:
            self._preempted.pop(zone, None)
        for zone in self._lost:
            self._preempted[zone] = None
        self._lost.clear()
        if len(self._active) <= max(0, min(1, len(self.zones) - 3)):
            self._preempted.clear()

    def choose(self, sums: Sums, taken: Counter[ZoneId], nth: int) -> ZoneId | None:
        """A throw of the dice."""
        active = self._active
        candidates = [zone for zone in active if not taken[zone]] or active
        return self.dice(sums, nth).choice(candidates) if candidates else None

    # A scale-down: what should be where is drawn anew, and what is there stays where the draw happens to want it.

    def missing_spot(self, sums: Sums, wanted: int) -> Iterable[Launch]:
        """What is missing, also where it is missing because the zones were drawn anew."""
        if wanted >= len(sums.spot):
            yield from super().missing_spot(sums, wanted)
            return
        anew = self._drawn_anew(sums, wanted) - Counter(replica.zone for replica in sums.spot)
        for zone in anew.elements():
            why = f"of {len(sums.spot)} spot replicas {wanted} are wanted, and all are placed anew"
            yield self.spot_launch(zone, why)

    def surplus_spot(self, sums: Sums, wanted: int) -> list[Replica]:
        """What is not where the zones were drawn anew."""
        if wanted >= len(sums.spot):
            return []
        stay, gone = self._drawn_anew(sums, wanted), []
        for replica in reversed(most_dispensable(sums.spot, crowding=False)):
            if stay[replica.zone] > 0:
                stay[replica.zone] -= 1
            else:
                gone.append(replica)
        return gone

    def _drawn_anew(self, sums: Sums, wanted: int) -> Counter[ZoneId]:
        drawn: Counter[ZoneId] = Counter()
        for nth in range(wanted):
            zone = self.choose(sums, drawn, nth)
            if zone is not None:
                drawn[zone] += 1
        return drawn
