"""Forecast: spot replicas where it will hold, spares and on-demand as far as the risk that remains is worth it.

SpotHedge (arXiv 2411.01438) knows of a zone only whether it failed last, pays for its spare replica at all times,
and buys on-demand whenever one spot replica is missing. Three things that it does not use cost next to nothing:
how long each zone has held (:mod:`hedgeserve.policy.outlook`), the lead time of preemption notices, and the cold
start. From these follows how long a loss would leave the service short, and how often, for any way to place the
replicas; a plan is the way with the lowest sum of price and risk. What an hour below the target is worth follows
from the availability that the user asks for.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hedgeserve.policy.muster import Muster
from hedgeserve.policy.outlook import GRAIN_S, Outlook
from hedgeserve.policy.placement import cheapest_by_zone, in_order, place, price_of, why_after
from hedgeserve.policy.plan import (
    Action,
    Candidate,
    Drain,
    Launch,
    Observation,
    Plan,
    Rule,
    Terminate,
    ZoneNews,
    ranked,
)
from hedgeserve.policy.ways import Ground, SpotZone, Way, best_way
from hedgeserve.policy.zonememory import Rest, ZoneMemory, why_held
from hedgeserve.replica import STARTING, GoneReason, Market, Offer, Replica, State, ZoneId
from hedgeserve.spec import HedgeSpec
from hedgeserve.units import format_count, format_duration

_WORTH = 0.1
"""An hour below the target is worth ``_WORTH / (1 - availability)`` hours of an on-demand replica."""
_ON_DEMAND_RATIO = 3.0
"""On-demand counts as at least so many times as dear as spot in this, as it does where no pool offers any."""
_LONG_GAP_H = 150 / 3600
"""Longer gaps are weighed by their square root: a slow model must not be hedged without bound."""
_PROVEN_H = 0.25
"""A zone that has held for this long is trusted to grant one more launch."""
_FREE_USD = 1e-9
_NEVER_SHORT = 1e-6
_SAME_TIME_S = 5.0
_LAST_MOMENT_S = 2.0
_LOOK_AHEAD = 8
"""For so many more replicas it is asked where the next one would go."""
_STAY_S = 300.0
"""A spot replica that the load could use stays for so long in each state: its use may come yet."""


class Forecast:
    """The policy ``forecast``; the news of the zones are all that it remembers."""

    name = "forecast"

    def __init__(self, hedge: HedgeSpec) -> None:
        self._hedge = hedge
        self._outlook = Outlook(retry_delay_s=hedge.retry_delay, notice_lead_s=hedge.notice_lead)
        # For quotas, markets that do not exist, boots that fail and on-demand that is refused.
        self._memory = ZoneMemory(retry_delay_s=hedge.retry_delay, rebalance_below=hedge.rebalance_below)
        self._last_offers: tuple[Offer, ...] = ()
        self._last_now_s = 0.0
        self._sorted: tuple[Offer, ...] | None = None
        self._cheapest: dict[Market, dict[ZoneId, Offer]] = {}

    def observe(self, news: ZoneNews) -> None:
        """Learn one thing about a zone."""
        self._memory.observe(news)
        self._outlook.observe(news)

    def plan(self, observation: Observation) -> Plan:
        """What to launch, drain and terminate now; launches stand first: what replaces comes before what goes."""
        self._last_offers, self._last_now_s = observation.offers, observation.now_s
        if self._sorted is not observation.offers:
            self._sorted = observation.offers
            self._cheapest = {
                market: cheapest_by_zone(observation.offers, market) for market in (Market.SPOT, Market.ON_DEMAND)
            }
        fleet = Muster.of(observation, self._hedge)
        spot, on_demand = self._spot_offers(observation.now_s), self._on_demand_offers(observation.now_s)
        now, chosen = self._choose(fleet, spot, on_demand=bool(on_demand))
        waiting = self._memory.held(observation.now_s)
        held = why_held(waiting, observation.runs)
        wanted = fleet.always + max(chosen.on_demand, self._bridge(fleet, chosen) if on_demand else 0)
        actions: list[Action] = []
        if held is None:
            actions += self._spot_launches(fleet, spot, now, chosen)
            actions += self._on_demand_launches(fleet, on_demand, chosen, wanted)
        actions += self._noticed(fleet)
        actions += self._surplus(fleet, chosen, wanted)
        return Plan(
            target=observation.target,
            spot_wanted=chosen.spot.total(),
            on_demand_wanted=wanted,
            actions=tuple(actions),
            notes=tuple(self._notes(fleet, on_demand, wanted, held)),
            again_at_s=self._again_at_s(fleet),
            held=waiting,
        )

    def zone_states(self) -> Mapping[ZoneId, str]:
        """Each zone in a word and its outlook, as of the last plan."""
        now_s, states = self._last_now_s, {}
        for zone in sorted({offer.zone for offer in self._last_offers}):
            if not any(offer.zone == zone and offer.market is Market.SPOT for offer in self._last_offers):
                rest = self._memory.rest(zone, Market.ON_DEMAND, now_s)
                states[zone] = f"{rest.word}: it {rest.reason}" if rest else "available"
            elif barred := self._memory.barred(zone, Market.SPOT, now_s):
                states[zone] = f"{barred.word}: it {barred.reason}"
            elif trouble := self._outlook.last_trouble(zone):
                ago = format_duration(round(max(0.0, now_s - trouble[1])))
                states[zone] = f"preempted: {trouble[0]} {ago} ago; {self._outlook_of(zone, now_s)}"
            else:
                states[zone] = f"available: {self._outlook_of(zone, now_s)}"
        return states

    def candidates(self, observation: Observation) -> tuple[Candidate, ...]:
        """Each zone and market that might be launched into, in the order of asking; then those not asked."""
        now_s, found = observation.now_s, list[Candidate]()
        held = why_held(self._memory.held(now_s), observation.runs)
        held_until_s = self._memory.held_until_s(observation.runs)
        asked: dict[Market, dict[ZoneId, Offer]] = {Market.SPOT: {}, Market.ON_DEMAND: {}}
        for market, free in asked.items():
            for zone, offer in cheapest_by_zone(observation.offers, market).items():
                rest = self._memory.rest(zone, market, now_s)
                if market is Market.SPOT:  # of spot the outlook knows better when a refusal is over
                    rest = self._memory.barred(zone, market, now_s) or self._outlook_rest(zone, now_s)
                if rest is not None:
                    found.append(Candidate(offer, None, f"it {rest.reason}", rest.until_s))
                elif held is not None:
                    found.append(Candidate(offer, None, held, held_until_s))
                else:
                    free[zone] = offer
        if asked[Market.SPOT]:
            found += self._spot_in_order(observation, asked[Market.SPOT])
        if on_demand := asked[Market.ON_DEMAND]:
            taken = Counter([one.zone for one in observation.replicas if _counts_on_demand(one)])
            order, best = in_order(on_demand, taken), place(on_demand, taken)
            for rank, offer in enumerate(order):
                why = best.why if rank == 0 and best is not None else why_after(offer, order[0], taken)
                found.append(Candidate(offer, rank, why))
        return ranked(found)

    def _spot_in_order(self, observation: Observation, asked: Mapping[ZoneId, Offer]) -> Iterator[Candidate]:
        """Where the next spot replicas would go: what would be launched if more were needed, then by weight."""
        now_s, order = observation.now_s, dict[ZoneId, None]()
        for more in range(_LOOK_AHEAD):
            plan = self.plan(replace(observation, target=observation.target + more))
            order |= dict.fromkeys(
                one.offer.zone
                for one in plan.actions
                if isinstance(one, Launch) and one.offer.market is Market.SPOT and one.offer.zone in asked
            )
            if order:
                break
        self.plan(observation)  # what zone_states tells is as of this one again
        ground = self._ground(Muster.of(observation, self._hedge), asked, on_demand=True)
        weights = {zone.zone: zone.score(ground.unit, ground.worth) for zone in ground.zones}
        order |= dict.fromkeys(sorted(asked, key=lambda zone: (weights.get(zone, 0.0), zone)))
        first = next(iter(order))
        for rank, zone in enumerate(order):
            outlook = f"{price_of(asked[zone])}, {self._outlook_of(zone, now_s)}"
            if rank == 0:
                why = f"{zone} comes first when price and risk are weighed together: {outlook}"
            else:
                there = f"{price_of(asked[first])}, {self._outlook_of(first, now_s)}"
                why = f"{first} comes first: there {there}; here {outlook}"
            yield Candidate(asked[zone], rank, why)

    def _outlook_rest(self, zone: ZoneId, now_s: float) -> Rest | None:
        until_s, trouble = self._outlook.rests_until_s(zone), self._outlook.last_trouble(zone)
        if until_s is None or now_s >= until_s or trouble is None:
            return None
        for_s = format_duration(round(until_s - trouble[1]))
        return Rest("resting", f"rests for {for_s} after {trouble[0]}, longer with each in a row", until_s)

    def sums(self, observation: Observation) -> tuple[str, ...]:
        """Why so many spot and on-demand replicas are wanted, in sentences with the figures of now."""
        plan, hedge = self.plan(observation), self._hedge
        fleet = Muster.of(observation, self._hedge)
        on_demand = self._on_demand_offers(observation.now_s)
        now, chosen = self._choose(fleet, self._spot_offers(observation.now_s), on_demand=bool(on_demand))
        told: list[str] = []
        if fleet.need:
            room = f" and {fleet.headroom} for its next rise (`hedge.headroom`)" if fleet.headroom else ""
            told.append(
                f"{format_count(fleet.need, 'replica', verb=True)} to be placed: {fleet.floor} that the load needs"
                f"{room}; {fleet.counts.total()} on spot run or start"
            )
            where = ", ".join(f"{many} in {zone}" for zone, many in sorted(chosen.spot.items())) or "none"
            told.append(
                f"of all ways to place them this one weighs least by price and risk: spot {where}; it leaves "
                f"too few for {chosen.risk:.2%} of the time"
                + ("" if chosen.spot == now.spot else f", the fleet as it is for {now.risk:.2%}")
                + f" (`hedge.availability` = {hedge.availability:g} says what that is worth)"
            )
        if fleet.always:
            told.append(
                f"{format_count(fleet.always, 'on-demand replica', verb=True)} to run at all times "
                "(`hedge.always_on_demand`)"
            )
        if fleet.need and not self._cheapest[Market.SPOT]:
            told.append(f"no pool offers spot, so that all {fleet.need} replicas are on-demand")
        elif fleet.need and hedge.fallback:
            bridge, bridging = plan.on_demand_wanted - fleet.always, fleet.bridging
            if bridge <= 0:
                why = "the spot replicas there are, and where they are, are enough"
            elif chosen.spot.total() < fleet.need:
                why = f"spot can be asked for {chosen.spot.total()} of {fleet.need} replicas only"
            elif chosen.on_demand >= bridge:
                why = "spot is fresh where it is, and might soon be lost again"
            else:
                why = "spot launches that are not granted yet may be refused"
            told.append(
                f"{format_count(max(0, bridge), 'on-demand replica', verb=True)} wanted in place of spot: {why}; "
                f"{bridging} run or start"
            )
        elif fleet.need:
            told.append("on-demand does not stand in for spot (`hedge.fallback` is false)")
        return tuple(told)

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """What was learnt, as JSON-able data with ages in place of times."""
        return {"zones": self._memory.export(now_s), "outlook": self._outlook.export(now_s)}

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up what an earlier run learnt; a memory of another shape is forgotten."""
        zones, outlook = memory.get("zones"), memory.get("outlook")
        if isinstance(zones, Mapping) and isinstance(outlook, Mapping):
            self._memory.restore(zones, now_s)
            self._outlook.restore(outlook, now_s)

    # What there is

    def _on_demand_offers(self, now_s: float) -> dict[ZoneId, Offer]:
        return {
            zone: offer
            for zone, offer in self._cheapest[Market.ON_DEMAND].items()
            if self._memory.rest(zone, Market.ON_DEMAND, now_s) is None
        }

    def _spot_offers(self, now_s: float) -> dict[ZoneId, Offer]:
        return {
            zone: offer
            for zone, offer in self._cheapest[Market.SPOT].items()
            if self._memory.barred(zone, Market.SPOT, now_s) is None
        }

    # Which way

    def _choose(self, fleet: Muster, spot: Mapping[ZoneId, Offer], *, on_demand: bool) -> tuple[Way, Way]:
        """The fleet as it is and the best way to have it; ``on_demand`` says whether any can be asked for."""
        ground = self._ground(fleet, spot, on_demand=on_demand)
        now, best = best_way(ground)
        if fleet.need == 0:
            return now, Way(Counter(), 0, 0.0, 0.0)
        if not self._cheapest[Market.SPOT]:
            return now, Way(Counter(), fleet.need, 0.0, 0.0)
        return now, best

    def _ground(self, fleet: Muster, spot: Mapping[ZoneId, Offer], *, on_demand: bool) -> Ground:
        now_s, outlook = fleet.now_s, self._outlook
        price = {zone: offer.usd_per_work for zone, offer in spot.items()}
        for zone, replicas in fleet.spot.items():
            price.setdefault(zone, replicas[0].offer.usd_per_work)
        unit = min(price.values(), default=1.0) or _FREE_USD
        prices = [offer.usd_per_work for offer in self._cheapest[Market.ON_DEMAND].values()]
        on_demand_usd = min(prices, default=0.0)
        replica_usd = max(on_demand_usd, _ON_DEMAND_RATIO * unit)
        boot_h = outlook.cold_start_s() / 3600
        zones: list[SpotZone] = []
        for zone, usd_per_hour in price.items():
            losses_per_hour = outlook.losses_per_hour(zone, now_s)
            rests_until_s = outlook.rests_until_s(zone)
            rests = zone not in spot or (rests_until_s is not None and now_s < rests_until_s)
            # Where the last launch was refused, one more is asked for at a time, until one is granted.
            zones.append(
                SpotZone(
                    zone=zone,
                    price=usd_per_hour,
                    risk=min(1.0, losses_per_hour * _weighed(outlook.gap_s(zone) / 3600)),
                    boot_usd=losses_per_hour * boot_h * usd_per_hour,
                    have=fleet.counts[zone],
                    room=None if rests_until_s is None and not rests else fleet.counts[zone] + (not rests),
                )
            )
        return Ground(
            need=fleet.need,
            floor=fleet.floor,
            zones=zones,
            bridging=fleet.bridging,
            on_demand_usd=on_demand_usd if prices and on_demand and self._hedge.fallback else None,
            unit=unit,
            worth=_WORTH / max(_NEVER_SHORT, 1 - self._hedge.availability) * replica_usd,
            spares=self._hedge.overprovision,
        )

    def _bridge(self, fleet: Muster, way: Way) -> int:
        """On-demand to ask for at once, since the launches that would do without it may well be refused."""
        if not self._hedge.fallback:
            return 0
        sure = 0
        for zone, count in way.spot.items():
            held_h = self._outlook.held_for_h(zone, fleet.now_s)
            sure += count if held_h is not None and held_h > _PROVEN_H else min(count, fleet.granted[zone])
        return max(0, fleet.floor - sure)

    # What follows

    def _spot_launches(
        self, fleet: Muster, offers: Mapping[ZoneId, Offer], now: Way, way: Way
    ) -> Iterator[Launch]:
        have, wanted = fleet.counts.total(), way.spot.total()
        instead = f" instead of {now.risk:.2%}" if have + fleet.bridging >= fleet.need else ""
        expects = f"we expect {way.risk:.2%}{instead} of the time below {fleet.target}"
        for zone in sorted(way.spot, key=lambda zone: (-way.spot[zone], zone)):
            for _ in range(way.spot[zone] - fleet.counts[zone]):
                if zone not in offers:
                    break
                if have < fleet.need:
                    why = f"{have} of {wanted} spot replicas run or start (the load needs {fleet.target})"
                elif wanted > fleet.need and have < wanted:
                    why = f"a spare, since a lost zone would be missed for {_gap(self._outlook, zone)}: {expects}"
                else:
                    why = f"a move to where less is lost: {expects}"
                have += 1
                price = price_of(offers[zone])
                outlook = self._outlook_of(zone, fleet.now_s)
                yield Launch(offers[zone], Rule.SPREAD, f"{why}: {zone}, {price}, {outlook}")

    def _on_demand_launches(
        self, fleet: Muster, offers: Mapping[ZoneId, Offer], way: Way, wanted: int
    ) -> Iterator[Launch]:
        taken = Counter(replica.zone for replica in fleet.on_demand)
        for have in range(len(fleet.on_demand), wanted):
            chosen = place(offers, taken)
            if chosen is None:
                return
            taken[chosen.offer.zone] += 1
            if have < fleet.always:
                rule, why = (
                    Rule.ALWAYS_ON,
                    f"{have} of {fleet.always} on-demand replicas that are to run at all times",
                )
            elif not self._cheapest[Market.SPOT]:
                rule, why = Rule.ALWAYS_ON, "no pool offers spot"
            elif way.spot.total() >= fleet.need and have - fleet.always >= way.on_demand:
                rule = Rule.FALLBACK
                why = "on-demand in parallel until the spot launches are granted, since any of them may be refused"
            elif way.spot.total() >= fleet.need:
                rule = Rule.FALLBACK
                why = (
                    f"on-demand stands by while spot is fresh: with it we expect {way.risk:.2%} of the time below "
                    f"{fleet.target}"
                )
            else:
                rule, why = Rule.FALLBACK, f"spot can be asked for {way.spot.total()} of {fleet.need} replicas now"
            yield Launch(chosen.offer, rule, f"{why}; {chosen.why}")

    def _noticed(self, fleet: Muster) -> Iterator[Drain]:
        for replica in fleet.noticed:
            deadline_s = replica.notice.deadline_s if replica.notice else None
            at_last = deadline_s is not None and fleet.now_s >= deadline_s - _LAST_MOMENT_S
            if fleet.ready < fleet.target and not at_last:
                continue
            left = (
                "" if deadline_s is None else f" in {format_duration(round(max(0.0, deadline_s - fleet.now_s)))}"
            )
            who = replica.notice.source if replica.notice else "its cloud"
            others = f"{fleet.ready} others of {fleet.target} are ready"
            reason = f"{who} says that the VM is taken back{left}; {others}"
            yield Drain(replica.id, Rule.NOTICE, reason, GoneReason.PREEMPTED, deadline_s)

    def _surplus(self, fleet: Muster, way: Way, wanted: int) -> Iterator[Action]:
        """What is more than wanted, if enough others are ready, or will be no later: make before break."""
        leaving: list[Replica] = list(_newest_first(fleet.on_demand)[: max(0, len(fleet.on_demand) - wanted)])
        from_spot = len(leaving)
        moving = any(count > fleet.counts[zone] for zone, count in way.spot.items())
        of_use = fleet.need
        for zone in () if moving else sorted(fleet.spot):
            for replica in _newest_first(fleet.spot[zone])[: max(0, fleet.counts[zone] - way.spot[zone])]:
                if of_use and fleet.now_s < replica.since_s + _STAY_S:
                    of_use -= 1
                else:
                    leaving.append(replica)
        if not leaving:
            return
        # When those were launched that are on their way up or there, less those that are let go of here.
        launched = sorted(one.created_at.timestamp() for one in fleet.settled)
        spare = fleet.ready - fleet.target
        for index, replica in enumerate(leaving):
            created = replica.created_at.timestamp()
            rule, gone, why = self._why_it_goes(fleet, way, wanted, on_demand=index < from_spot)
            if replica.state in STARTING:
                counted = replica.state is State.BOOTING or replica.state is State.LOADING
                as_soon = bisect_right(launched, created + _SAME_TIME_S) - counted
                if as_soon >= fleet.floor + min(fleet.always, fleet.target):
                    if counted:
                        launched.remove(created)
                    yield Terminate(replica.id, rule, why, gone)
            elif spare > 0:
                spare -= 1
                launched.remove(created)
                yield Drain(replica.id, rule, why, gone)

    def _why_it_goes(
        self, fleet: Muster, way: Way, wanted: int, *, on_demand: bool
    ) -> tuple[Rule, GoneReason, str]:
        load = f"the load needs {fleet.target}" if fleet.target else "no request needs a replica"
        expects = f"we expect {way.risk:.2%} of the time below {fleet.target}"
        if on_demand:
            counts = f"of {len(fleet.on_demand)} on-demand replicas {wanted} are needed"
            if not fleet.need or not way.spot:
                return Rule.SCALE_DOWN, GoneReason.SCALED_DOWN, f"{load}: {counts}"
            return Rule.BACK_TO_SPOT, GoneReason.REPLACED, f"spot carries the load, {expects}: {counts}"
        counts = f"of {fleet.counts.total()} spot replicas {way.spot.total()} are wanted"
        return Rule.SCALE_DOWN, GoneReason.SCALED_DOWN, f"{load}, {expects} without this one: {counts}"

    def _again_at_s(self, fleet: Muster) -> float | None:
        now_s = fleet.now_s
        ends_s = [(now_s // GRAIN_S + 1) * GRAIN_S]
        zones = self._cheapest[Market.SPOT].keys() | fleet.spot.keys()
        ends_s += [end for zone in zones if (end := self._outlook.rests_until_s(zone)) is not None]
        ends_s += [replica.since_s + _STAY_S for replicas in fleet.spot.values() for replica in replicas]
        ends_s += self._memory.pauses_end_s(
            [(zone, market) for market, offers in self._cheapest.items() for zone in offers]
        )
        ends_s += [one.notice.deadline_s - _LAST_MOMENT_S for one in fleet.noticed if one.notice is not None]
        return min((end for end in ends_s if end > now_s), default=None)

    def _notes(
        self,
        fleet: Muster,
        on_demand: Mapping[ZoneId, Offer],
        wanted: int,
        held: str | None,
    ) -> Iterable[str]:
        """No sentence holds a clock or a count that changes by itself: a note is journalled when it changes."""
        if held is not None:
            yield held
        if fleet.target and not self._cheapest[Market.SPOT] and self._cheapest[Market.ON_DEMAND]:
            yield "no pool offers spot: all replicas are on-demand"
        if wanted > len(fleet.on_demand) and not self._cheapest[Market.ON_DEMAND]:
            yield "on-demand replicas are wanted, and no pool offers any"
        for zone in self._cheapest[Market.SPOT]:
            if barred := self._memory.barred(zone, Market.SPOT, fleet.now_s):
                yield f"{zone} {barred.reason}"
            elif trouble := self._outlook.last_trouble(zone):
                yield f"{zone} has not granted a launch since {trouble[0]}"
        for zone in self._cheapest[Market.ON_DEMAND]:
            if zone not in on_demand and (rest := self._memory.rest(zone, Market.ON_DEMAND, fleet.now_s)):
                yield f"{zone} {rest.reason}"
        for replica in fleet.noticed:
            if fleet.ready < fleet.target and replica.notice is not None:  # else it is in doubt, not under notice
                yield f"{replica.id} serves on under its notice: fewer others are ready than the load needs"

    def _outlook_of(self, zone: ZoneId, now_s: float) -> str:
        losses = f"{self._outlook.losses_per_hour(zone, now_s):.2g} preemptions an hour expected"
        held_h = self._outlook.held_for_h(zone, now_s)
        return f"{losses}, it has held for {format_duration(round(held_h * 3600))}" if held_h else losses


def _counts_on_demand(replica: Replica) -> bool:
    """Whether it counts where the next on-demand replica is placed."""
    return replica.alive and replica.market is Market.ON_DEMAND


def _gap(outlook: Outlook, zone: ZoneId) -> str:
    return format_duration(round(outlook.gap_s(zone)))


def _weighed(gap_h: float) -> float:
    return gap_h if gap_h <= _LONG_GAP_H else float((gap_h * _LONG_GAP_H) ** 0.5)


def _newest_first(replicas: Iterable[Replica]) -> list[Replica]:
    """In the order in which they may go: what does not serve yet before what does, then the newest."""
    return sorted(replicas, key=lambda one: (one.state is State.READY, -one.created_at.timestamp(), one.id))
