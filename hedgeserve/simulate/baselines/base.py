"""What the rivals of SpotHedge have in common: the sums, what goes, and how on-demand bridges."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hedgeserve.policy.placement import cheapest_by_zone, most_dispensable, place
from hedgeserve.policy.plan import Action, Candidate, Drain, Launch, Observation, Plan, Rule, Terminate, ZoneNews
from hedgeserve.replica import STARTING, GoneReason, Market, Offer, Replica, State, ZoneId


@dataclass(frozen=True, slots=True)
class Sums:
    """What there is at one moment, as a policy counts it. ``spot`` and ``on_demand`` are those it holds on to."""

    now_s: float
    target: int
    spot: tuple[Replica, ...]
    spot_ready: int
    on_demand: tuple[Replica, ...]


class Baseline(ABC):
    """A policy of the literature: so many spot replicas, so many on-demand ones, and a way to choose zones.

    It is asked for the world as it was, and answers without remembering that it did: what it asked for at one
    time counts as asked once it is questioned at a later time, or hears news. So the same observation twice
    gives the same plan twice, as :class:`~hedgeserve.policy.plan.Policy` promises.

    A refused launch is asked for again at the next question, without a pause. A replica under notice is held on
    to like any other until it is gone, unless ``heeds_notice``. On-demand that is no longer wanted goes at once.
    """

    heeds_notice = False

    def __init__(self, name: str, *, overprovision: int, seed: int) -> None:
        self.name = name
        self.overprovision = overprovision
        self.seed = seed
        self._asked_at_s: float | None = None
        self._heard = False
        self._offers: tuple[Offer, ...] = ()
        self._order: tuple[ZoneId, ...] = ()
        self._spot: dict[ZoneId, Offer] = {}
        self._on_demand: dict[ZoneId, Offer] = {}

    # Policy

    def observe(self, news: ZoneNews) -> None:
        """Learn one thing about a zone."""
        self._heard = True
        self.learn(news)

    def plan(self, observation: Observation) -> Plan:
        """What to launch, drain and terminate now."""
        if observation.offers != self._offers:
            self._offers = observation.offers
            self._spot = self.usable(cheapest_by_zone(observation.offers, Market.SPOT))
            self._on_demand = cheapest_by_zone(observation.offers, Market.ON_DEMAND)
            self._order = self._shuffled(self._spot)
        sums = self._sums(observation)
        if self._heard or observation.now_s != self._asked_at_s:
            self.turn(sums)
            self._heard, self._asked_at_s = False, observation.now_s
        spot_wanted = self.spot_wanted(sums) if self._spot and sums.target else 0
        on_demand_wanted = self.on_demand_wanted(sums, spot_wanted) if sums.target else 0
        launches = [
            *self.missing_spot(sums, spot_wanted),
            *self._missing_on_demand(sums, spot_wanted, on_demand_wanted),
        ]
        self.planned(launches)
        actions: list[Action] = [*launches]
        actions += self._on_demand_leaves(sums, on_demand_wanted)
        actions += self._spot_leaves(sums, spot_wanted)
        again_at_s = self.again_at_s(sums)
        if launches:
            again_at_s = sums.now_s
        return Plan(
            target=sums.target,
            spot_wanted=spot_wanted,
            on_demand_wanted=on_demand_wanted,
            actions=tuple(actions),
            notes=tuple(self._notes(sums, spot_wanted, on_demand_wanted)),
            again_at_s=again_at_s,
        )

    def zone_states(self) -> Mapping[ZoneId, str]:
        """Each zone in a word, as of the last plan; these policies hold nothing against a zone unless they say."""
        return dict.fromkeys(sorted({offer.zone for offer in self._offers}), "available")

    def candidates(self, observation: Observation) -> tuple[Candidate, ...]:
        """Nothing: these policies run in back-tests, where nobody asks them to explain themselves."""
        return ()

    def sums(self, observation: Observation) -> tuple[str, ...]:
        """Nothing, as above."""
        return ()

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """What was learnt: nothing, unless the policy remembers something."""
        return {}

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up what an earlier run learnt; a memory of another shape is forgotten."""
        return

    # What a policy says about itself

    @abstractmethod
    def spot_wanted(self, sums: Sums) -> int:
        """Spot replicas to keep, where there is spot and the target is not 0."""

    def on_demand_wanted(self, sums: Sums, spot_wanted: int) -> int:
        """On-demand replicas to keep, where the target is not 0."""
        return 0

    def choose(self, sums: Sums, taken: Counter[ZoneId], nth: int) -> ZoneId | None:
        """The zone for the ``nth`` replica missing now (0 is the first), ``taken`` with those before it."""
        return None

    def usable(self, offers: dict[ZoneId, Offer]) -> dict[ZoneId, Offer]:
        """The spot offers, one a zone, that this policy may use: all, unless it keeps to a region."""
        return offers

    def learn(self, news: ZoneNews) -> None:
        """One thing was heard."""
        return

    def turn(self, sums: Sums) -> None:
        """A new question begins: what was heard and asked since the last one has happened."""
        return

    def planned(self, launches: Sequence[Launch]) -> None:
        """What this question will ask for, known once more at the next :meth:`turn`."""
        return

    def again_at_s(self, sums: Sums) -> float | None:
        """When the same world would be planned differently though nothing was asked for; None: never."""
        return None

    def why_on_demand(self, sums: Sums, spot_wanted: int) -> tuple[Rule, str]:
        """By which rule, and why, on-demand is launched."""
        why = f"{sums.spot_ready} of {spot_wanted} spot replicas are ready: on-demand bridges"
        return Rule.FALLBACK, why

    def missing_spot(self, sums: Sums, wanted: int) -> Iterable[Launch]:
        """The spot launches, one for each that is missing, as :meth:`choose` says."""
        taken = Counter(replica.zone for replica in sums.spot)
        have = len(sums.spot)
        for nth in range(max(0, wanted - have)):
            zone = self.choose(sums, taken, nth)
            if zone is None:
                return
            why = f"{have + nth} of {wanted} spot replicas run or start: {zone}, which has {taken[zone]}, is next"
            taken[zone] += 1
            yield self.spot_launch(zone, why)

    def surplus_spot(self, sums: Sums, wanted: int) -> list[Replica]:
        """The spot replicas that are more than wanted: those that serve least, then of the fullest zone."""
        return most_dispensable(sums.spot, crowding=True)[: max(0, len(sums.spot) - wanted)]

    # Tools for them

    @property
    def zones(self) -> Sequence[ZoneId]:
        """The spot zones in an order drawn once from the seed, so that no zone is favoured for its name."""
        return self._order

    def dice(self, sums: Sums, nth: int) -> Random:
        """Randomness that belongs to this question alone: asked twice, it falls the same."""
        return Random(f"{self.seed}/{self.name}/{sums.now_s}/{nth}")

    def price(self, zone: ZoneId) -> float:
        """The spot price of a zone, in USD per hour."""
        return self._spot[zone].usd_per_hour

    def spot_launch(self, zone: ZoneId, why: str) -> Launch:
        """A launch on the spot offer of this zone."""
        return Launch(self._spot[zone], Rule.SPREAD, why)

    # The sums and what follows from them

    def _shuffled(self, zones: Iterable[ZoneId]) -> tuple[ZoneId, ...]:
        before = set(self._order)
        wanted = sorted(zones)
        if before == set(wanted):  # only a price has changed
            return self._order
        Random(f"{self.seed}/zones").shuffle(wanted)
        return tuple(wanted)

    def _sums(self, observation: Observation) -> Sums:
        held = [
            replica
            for replica in observation.replicas
            if replica.alive or (replica.state is State.NOTICED and not self.heeds_notice)
        ]
        spot = tuple(replica for replica in held if replica.market is Market.SPOT)
        return Sums(
            now_s=observation.now_s,
            target=observation.target,
            spot=spot,
            spot_ready=sum(replica.state not in STARTING for replica in spot),
            on_demand=tuple(replica for replica in held if replica.market is Market.ON_DEMAND),
        )

    def _missing_on_demand(self, sums: Sums, spot_wanted: int, wanted: int) -> Iterable[Launch]:
        missing = wanted - len(sums.on_demand)
        if missing <= 0:
            return
        rule, why = self.why_on_demand(sums, spot_wanted)
        taken = Counter(replica.zone for replica in sums.on_demand)
        for _ in range(missing):
            chosen = place(self._on_demand, taken)
            if chosen is None:
                return
            taken[chosen.offer.zone] += 1
            yield Launch(chosen.offer, rule, f"{why}; {chosen.why}")

    def _on_demand_leaves(self, sums: Sums, wanted: int) -> Iterable[Action]:
        have = len(sums.on_demand)
        if have <= wanted:
            return
        if sums.target and self.why_on_demand(sums, 0)[0] is Rule.FALLBACK:
            rule, gone = Rule.BACK_TO_SPOT, GoneReason.REPLACED
            why = f"{sums.spot_ready} spot replicas are ready: of {have} on-demand ones {wanted} are needed"
        else:
            rule, gone = Rule.SCALE_DOWN, GoneReason.SCALED_DOWN
            why = f"the load needs {sums.target}: of {have} on-demand replicas {wanted} are wanted"
        for replica in most_dispensable(sums.on_demand, crowding=False)[: have - wanted]:
            yield _end(replica, rule, why, gone)

    def _spot_leaves(self, sums: Sums, wanted: int) -> Iterable[Action]:
        why = f"the load needs {sums.target}: of {len(sums.spot)} spot replicas {wanted} are wanted"
        for replica in self.surplus_spot(sums, wanted):
            yield _end(replica, Rule.SCALE_DOWN, why, GoneReason.SCALED_DOWN)

    def _notes(self, sums: Sums, spot_wanted: int, on_demand_wanted: int) -> Iterable[str]:
        if sums.target and not self._spot and spot_wanted == 0 and on_demand_wanted == 0:
            yield f"{self.name} runs on spot alone, and no pool offers any"
        if on_demand_wanted > len(sums.on_demand) and not self._on_demand:
            yield "on-demand replicas are wanted, and no pool offers any"


def _end(replica: Replica, rule: Rule, why: str, gone: GoneReason) -> Action:
    if replica.state in STARTING:
        return Terminate(replica.id, rule, why, gone)
    return Drain(replica.id, rule, why, gone)
