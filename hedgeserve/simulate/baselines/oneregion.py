"""The paper's rivals that keep to one region: AWS Auto Scaling groups, MArk and SpotServe.

What is modelled is where replicas are placed and when they are replaced, as far as the SkyServe paper (arXiv
2411.01438, end-to-end comparison) and their own papers and manuals tell; none of their code is run.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from hedgeserve.policy.plan import NewsKind, Rule, ZoneNews
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.simulate.baselines.base import Baseline, Sums

_SHORT = frozenset({NewsKind.PREEMPTED, NewsKind.NOTICE, NewsKind.NO_CAPACITY})

_ON_DEMAND_SHARE = 0.1
"""Share of on-demand in the paper's Auto Scaling group."""

_LOOK_BACK_S = 600.0
"""Over this long MArk's growth of the load is measured, and for as long it is expected to go on."""


def region_of(zone: ZoneId) -> str:
    """``cloud/region`` of ``cloud/region/zone``."""
    return zone.rsplit("/", 1)[0]


class OneRegion(Baseline):
    """Spot replicas in the zones of one region: the one with the most zones, of equal ones the first by name.

    A missing replica goes to the zone that has shown no shortage (a refusal, a notice or a preemption) since its
    last grant, else to the one whose shortage was longest ago; of those to the one with the fewest, then the
    cheapest. A refused launch is asked for again at once.
    """

    def __init__(self, name: str, *, overprovision: int, seed: int, region: str | None = None) -> None:
        super().__init__(name, overprovision=overprovision, seed=seed)
        self._region = region
        self._short_at_s: dict[ZoneId, float] = {}

    def usable(self, offers: dict[ZoneId, Offer]) -> dict[ZoneId, Offer]:
        """The offers of the region."""
        if not offers:
            return offers
        zones = Counter(region_of(zone) for zone in offers)
        region = self._region or min(zones, key=lambda region: (-zones[region], region))
        return {zone: offer for zone, offer in offers.items() if region_of(zone) == region}

    def spot_wanted(self, sums: Sums) -> int:
        """The target and N_extra."""
        return sums.target + self.overprovision

    def learn(self, news: ZoneNews) -> None:
        """Note a shortage, or its end."""
        if news.market is not Market.SPOT:
            return
        if news.kind in _SHORT:
            self._short_at_s[news.zone] = news.at_s
        elif news.kind is NewsKind.GRANTED:
            self._short_at_s.pop(news.zone, None)

    def choose(self, sums: Sums, taken: Counter[ZoneId], nth: int) -> ZoneId | None:
        """The zone most likely to have capacity, as far as can be known."""

        def rank(zone: ZoneId) -> tuple[float, int, float, ZoneId]:
            return (self._short_at_s.get(zone, -math.inf), taken[zone], self.price(zone), zone)

        return min(self.zones, key=rank, default=None)

    def zone_states(self) -> Mapping[ZoneId, str]:
        """Which zones are used, and which were short."""
        return {
            zone: ("short of capacity" if zone in self._short_at_s else state)
            if zone in self.zones
            else "not used: another region"
            for zone, state in super().zone_states().items()
        }

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """When zones were short."""
        return {"short": {zone: now_s - at_s for zone, at_s in self._short_at_s.items()}}

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up when zones were short."""
        short = memory.get("short")
        if isinstance(short, dict) and all(isinstance(age_s, int | float) for age_s in short.values()):
            self._short_at_s = {ZoneId(str(zone)): now_s - age_s for zone, age_s in short.items()}


class AutoScalingGroup(OneRegion):
    """An AWS Auto Scaling group with mixed instances and Capacity Rebalancing, as the paper sets it up (ASG).

    Of ``N_target + N_extra`` replicas a tenth, rounded up, is on-demand at all times, the rest spot. Capacity
    Rebalancing launches a replacement as soon as a replica is under notice, and lets the old one serve until it
    is taken. Lost spot is never bridged by on-demand. Not modelled: a rebalance recommendation that comes before
    the notice (it names no certain loss), moving replicas so that zones are even, and the group's cool-downs.
    """

    heeds_notice = True

    def _base(self, sums: Sums) -> int:
        # Rounded first: a tenth of 30 is 3, not 3.0000000000000004.
        return max(1, math.ceil(round((sums.target + self.overprovision) * _ON_DEMAND_SHARE, 9)))

    def spot_wanted(self, sums: Sums) -> int:
        """All but the on-demand share."""
        return sums.target + self.overprovision - self._base(sums)

    def on_demand_wanted(self, sums: Sums, spot_wanted: int) -> int:
        """The on-demand share."""
        return self._base(sums)

    def why_on_demand(self, sums: Sums, spot_wanted: int) -> tuple[Rule, str]:
        """It is always there."""
        base = self._base(sums)
        return Rule.ALWAYS_ON, f"{len(sums.on_demand)} of {base} on-demand replicas of the group's base share run"


class MArk(OneRegion):
    """MArk (Zhang et al., USENIX ATC '19) on spot GPUs, as the paper adapts it: predictive, spot alone.

    MArk launches for the load that it predicts, so that instances are up when it comes. Here the target is taken
    to go on growing as it grew over the last ten minutes, at most to twice what it is; a falling one is not
    predicted. With a constant target that is spot in one region, and nothing else. Not modelled: its LSTM, its
    choice among instance types, batching, and its CPU or serverless stand-ins for bursts, which cannot hold a
    large language model.
    """

    def __init__(self, name: str, *, overprovision: int, seed: int, region: str | None = None) -> None:
        super().__init__(name, overprovision=overprovision, seed=seed, region=region)
        self._targets: deque[tuple[float, int]] = deque()

    def turn(self, sums: Sums) -> None:
        """Write the target down."""
        targets = self._targets
        if not targets or targets[-1][1] != sums.target:
            targets.append((sums.now_s, sums.target))
        while len(targets) > 1 and targets[1][0] <= sums.now_s - _LOOK_BACK_S:
            targets.popleft()

    def spot_wanted(self, sums: Sums) -> int:
        """The predicted target and N_extra."""
        grown = max(0, sums.target - self._targets[0][1])
        return sums.target + min(grown, sums.target) + self.overprovision

    def again_at_s(self, sums: Sums) -> float | None:
        """When the oldest growth is no longer counted."""
        return self._targets[1][0] + _LOOK_BACK_S if len(self._targets) > 1 else None


class SpotServe(OneRegion):
    """SpotServe (Miao et al., ASPLOS '24), as far as whole replicas are concerned: spot in one zone.

    The zone is the region's cheapest, of equal ones the first by name. The notice is used: the replacement is
    launched at once, while the old replica serves on. Not modelled: changing the parallelism of what is left and
    moving the KV cache, which keep a model alive that spans several VMs; a replica here is one VM.
    """

    heeds_notice = True

    def usable(self, offers: dict[ZoneId, Offer]) -> dict[ZoneId, Offer]:
        """The offer of the zone."""
        in_region = super().usable(offers)
        if not in_region:
            return in_region
        zone = min(in_region, key=lambda zone: (in_region[zone].usd_per_hour, zone))
        return {zone: in_region[zone]}
