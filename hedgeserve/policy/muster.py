"""The fleet as the policy ``forecast`` counts it. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hedgeserve.policy.plan import Observation
from hedgeserve.replica import Market, Replica, State, ZoneId
from hedgeserve.spec import HedgeSpec


@dataclass(frozen=True, slots=True)
class Muster:
    """What is there: spot by zone (granted or asked for), on-demand, what is ready, what needs no placing."""

    target: int
    floor: int
    headroom: int
    now_s: float
    spot: Mapping[ZoneId, tuple[Replica, ...]]
    counts: Counter[ZoneId]
    granted: Counter[ZoneId]
    on_demand: tuple[Replica, ...]
    always: int
    ready: int
    settled: tuple[Replica, ...]
    noticed: tuple[Replica, ...]

    @property
    def need(self) -> int:
        """Replicas to place: those that the load needs beside what runs anyway, and those for its next rise."""
        return self.floor + self.headroom

    @property
    def bridging(self) -> int:
        """On-demand replicas beyond those that run at all times."""
        return max(0, len(self.on_demand) - self.always)

    @classmethod
    def of(cls, observation: Observation, hedge: HedgeSpec) -> Self:
        """The fleet of this moment; spot under notice is on its way out, wherever it is."""
        spot: dict[ZoneId, list[Replica]] = {}
        on_demand: list[Replica] = []
        noticed: list[Replica] = []
        settled: list[Replica] = []
        ready = external = 0
        for replica in observation.replicas:
            state = replica.state
            if state is State.NOTICED:
                noticed.append(replica)
            if not replica.alive or (replica.notice is not None and replica.market is Market.SPOT):
                continue
            ready += state is State.READY
            if replica.market is Market.EXTERNAL:
                external += state is State.READY
                continue
            if state is State.READY or state is State.BOOTING or state is State.LOADING:
                settled.append(replica)
            if replica.market is Market.SPOT:
                spot.setdefault(replica.zone, []).append(replica)
            else:
                on_demand.append(replica)
        always = hedge.always_on_demand
        return cls(
            target=observation.target,
            floor=max(0, observation.target - always - external) if observation.target else 0,
            headroom=(hedge.headroom or 0) if observation.target else 0,
            now_s=observation.now_s,
            spot={zone: tuple(replicas) for zone, replicas in spot.items()},
            counts=Counter({zone: len(replicas) for zone, replicas in spot.items()}),
            on_demand=tuple(on_demand),
            always=always,
            ready=ready,
            granted=Counter([one.offer.zone for one in settled if one.offer.market is Market.SPOT]),
            settled=tuple(settled),
            noticed=tuple(noticed),
        )
