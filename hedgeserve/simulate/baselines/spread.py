"""The paper's plain rivals: on-demand alone, Even Spread and Round Robin, with and without fallback."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hedgeserve.policy.plan import Launch, Rule
from hedgeserve.policy.spothedge import on_demand_wanted
from hedgeserve.replica import Market, ZoneId
from hedgeserve.simulate.baselines.base import Baseline, Sums


class OnDemandOnly(Baseline):
    """As many on-demand replicas as the load needs. N_extra hedges preemptions, of which it has none."""

    def spot_wanted(self, sums: Sums) -> int:
        """None."""
        return 0

    def on_demand_wanted(self, sums: Sums, spot_wanted: int) -> int:
        """The target."""
        return sums.target

    def why_on_demand(self, sums: Sums, spot_wanted: int) -> tuple[Rule, str]:
        """It is all there is."""
        why = f"{len(sums.on_demand)} of {sums.target} on-demand replicas run or start, and spot is not used"
        return Rule.ALWAYS_ON, why


class SpotSpread(Baseline):
    """``N_target + N_extra`` spot replicas at all times, and with ``fallback`` on-demand as SpotHedge has it.

    The fallback is ``O = min(N_target, N_target + N_extra - S_ready)`` (arXiv 2411.01438, section 3), with
    the spot replicas that were ready at the end of the tick before, and without any hold.
    """

    def __init__(self, name: str, *, overprovision: int, seed: int, fallback: bool = False) -> None:
        super().__init__(name, overprovision=overprovision, seed=seed)
        self.fallback = fallback

    def spot_wanted(self, sums: Sums) -> int:
        """The target and N_extra."""
        return sums.target + self.overprovision

    def on_demand_wanted(self, sums: Sums, spot_wanted: int) -> int:
        """What bridges, with fallback; else none."""
        return on_demand_wanted(
            target=sums.target, base=0, external=0, always=0,
            spot_wanted=spot_wanted, spot_ready=sums.spot_ready, fallback=self.fallback,
        )  # fmt: skip


class EvenSpread(SpotSpread):
    """Even Spread, as arXiv 2411.01438 replays traces: each zone has its share, with capacity or without.

    A missing replica goes to the zone with the fewest, the first of them in an order drawn once from the seed;
    a zone that refused has the fewest, so it is asked again, for ever.
    """

    def choose(self, sums: Sums, taken: Counter[ZoneId], nth: int) -> ZoneId | None:
        """The first zone of those with the fewest."""
        return min(self.zones, key=lambda zone: taken[zone], default=None)


class RoundRobin(SpotSpread):
    """Round Robin, as arXiv 2411.01438 replays traces: each missing replica goes to the zone after the last."""

    def __init__(self, name: str, *, overprovision: int, seed: int, fallback: bool = False) -> None:
        super().__init__(name, overprovision=overprovision, seed=seed, fallback=fallback)
        self._asked = 0
        self._asking = 0

    def turn(self, sums: Sums) -> None:
        """The zones of the last question have been asked."""
        self._asked += self._asking
        self._asking = 0

    def planned(self, launches: Sequence[Launch]) -> None:
        """So many zones are asked by this question."""
        self._asking = sum(launch.offer.market is Market.SPOT for launch in launches)

    def choose(self, sums: Sums, taken: Counter[ZoneId], nth: int) -> ZoneId | None:
        """The next zone."""
        return self.zones[(self._asked + nth) % len(self.zones)] if self.zones else None

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """Where the pointer stands."""
        return {"asked": self._asked + self._asking}

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up the pointer."""
        asked = memory.get("asked")
        if isinstance(asked, int) and asked >= 0:
            self._asked, self._asking = asked, 0
