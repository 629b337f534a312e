"""SpotHedge: spot replicas over many zones, one or more to spare, and on-demand only while spot is missing.

The policy of Mao et al., "SkyServe: Serving AI Models across Regions and Clouds with Spot Instances", EuroSys '25
(arXiv 2411.01438, section 3), kept faithful so that others can be compared with it. Added, because real clouds
ask for it: a preemption notice counts as the loss itself, so that the replacement starts then; pauses after
refusals; and on-demand is let go only once spot has been ready for a while, so that it does not flap.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hedgeserve.policy.placement import cheapest_by_zone, in_order, most_dispensable, place, why_after
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
from hedgeserve.policy.zonememory import Rest, ZoneMemory, why_held
from hedgeserve.replica import STARTING, GoneReason, Market, Offer, Replica, State, ZoneId
from hedgeserve.spec import HedgeSpec
from hedgeserve.units import format_count, format_duration

_LAST_MOMENT_S = 2.0
"""A replica under notice that is the last one to serve is let go this long before its deadline."""

_PRICED = (Market.SPOT, Market.ON_DEMAND)
_Rests = Mapping[tuple[ZoneId, Market], Rest]
_SPOT_FIRST = (Market.SPOT, Market.ON_DEMAND, Market.EXTERNAL)


def spot_wanted(*, target: int, overprovision: int, base: int) -> int:
    """Spot replicas to keep: ``N_target + N_extra`` less the base that needs no spot; none for a target of 0."""
    return max(0, target + overprovision - base) if target > 0 else 0


def on_demand_wanted(
    *, target: int, base: int, external: int, always: int, spot_wanted: int, spot_ready: int, fallback: bool
) -> int:
    """On-demand replicas to keep, ``O = min(N_target, N_target + N_extra - S_ready)``, written with a base.

    ``base`` replicas need no spot: ``always`` of our own on-demand ones and ``external`` ones of somebody else
    (which are in ``base`` and not in the answer). Where the base is no more than ``N_target + N_extra``,
    ``base + spot_wanted`` is just that sum, and with no base this is the paper's formula. Never below ``always``.
    """
    if target == 0 or not fallback:
        return always
    return max(always, min(target, base + max(0, spot_wanted - spot_ready)) - external)


@dataclass(frozen=True, slots=True)
class _Sums:
    """What is there and what is wanted, at one moment. ``_kept`` is the bound above which on-demand may go."""

    target: int
    now_s: float
    external: int
    ready: int
    spot: tuple[Replica, ...]
    spot_ready: int
    spot_settled: int
    spot_wanted: int
    on_demand: tuple[Replica, ...]
    on_demand_wanted: int
    on_demand_kept: int
    noticed: tuple[Replica, ...]
    settles_s: float | None
    """When the next ready spot replica will have been so for as long as on-demand is held."""


class SpotHedge:
    """The policy ``spothedge``; :class:`~hedgeserve.policy.zonememory.ZoneMemory` is all that it remembers."""

    name = "spothedge"

    def __init__(self, hedge: HedgeSpec) -> None:
        self._hedge = hedge
        self._memory = ZoneMemory(retry_delay_s=hedge.retry_delay, rebalance_below=hedge.rebalance_below)
        # For zone_states alone, which is asked without a time: no decision reads it.
        self._last_offers: tuple[Offer, ...] = ()
        self._last_now_s = 0.0
        # The cheapest offers are sorted out anew only where they are other ones: a plan is asked for often.
        self._sorted: tuple[Offer, ...] | None = None
        self._cheapest: dict[Market, dict[ZoneId, Offer]] = {}

    def observe(self, news: ZoneNews) -> None:
        """Learn one thing about a zone."""
        self._memory.observe(news)

    def plan(self, observation: Observation) -> Plan:
        """What to launch, drain and terminate now; launches stand first: what replaces comes before what goes."""
        self._last_offers, self._last_now_s = observation.offers, observation.now_s
        if self._sorted is not observation.offers:
            self._sorted = observation.offers
            self._cheapest = {market: cheapest_by_zone(observation.offers, market) for market in _PRICED}
        rests = self._memory.rests(observation.now_s)
        offers = {
            market: {zone: offer for zone, offer in cheapest.items() if self._memory.supports(zone, market)}
            if self._memory.lacks
            else cheapest
            for market, cheapest in self._cheapest.items()
        }
        sums = self._sums(observation, spot_offered=bool(offers[Market.SPOT]))
        waiting = self._memory.held(observation.now_s)
        held = why_held(waiting, observation.runs)
        launches: list[Launch] = []
        if held is None:
            launches += self._missing_spot(sums, offers[Market.SPOT], rests)
            launches += self._missing_on_demand(
                sums, offers[Market.ON_DEMAND], rests, launches, bool(offers[Market.SPOT])
            )
        actions: list[Action] = [*launches]
        actions += self._noticed(sums)
        actions += self._surplus(sums)
        return Plan(
            target=observation.target,
            spot_wanted=sums.spot_wanted,
            on_demand_wanted=sums.on_demand_wanted,
            actions=tuple(actions),
            notes=tuple(self._notes(sums, offers, rests, held)),
            again_at_s=self._again_at_s(observation, sums),
            held=waiting,
        )

    def zone_states(self) -> Mapping[ZoneId, str]:
        """Each zone in a word and a reason, as of the last plan."""
        now_s = self._last_now_s
        spot = self._askable_spot(cheapest_by_zone(self._last_offers, Market.SPOT), now_s)
        preempted = self._memory.preempted(spot)
        states: dict[ZoneId, str] = {}
        for zone in sorted({offer.zone for offer in self._last_offers}):
            # A zone is in the pools for its spot, where it has any; on-demand that rests has its note in the plan.
            market = min(
                (offer.market for offer in self._last_offers if offer.zone == zone), key=_SPOT_FIRST.index
            )
            rest = self._memory.rest(zone, market, now_s)
            if zone in preempted:
                lost, at_s = preempted[zone]
                states[zone] = f"preempted: {lost} {format_duration(round(max(0.0, now_s - at_s)))} ago"
            elif rest is not None:
                states[zone] = f"{rest.word}: it {rest.reason}"
            else:
                states[zone] = "available"
        return states

    def candidates(self, observation: Observation) -> tuple[Candidate, ...]:
        """Each zone and market that might be launched into, in the order of asking; then those not asked."""
        now_s, found = observation.now_s, list[Candidate]()
        held = why_held(self._memory.held(now_s), observation.runs)
        held_until_s = self._memory.held_until_s(observation.runs)
        for market in _PRICED:
            cheapest = cheapest_by_zone(observation.offers, market)
            lost = self._memory.preempted(self._askable_spot(cheapest, now_s)) if market is Market.SPOT else {}
            taken = Counter([one.zone for one in _counted(observation, market)])
            asked: dict[ZoneId, Offer] = {}
            for zone, offer in cheapest.items():
                if rest := self._memory.rest(zone, market, now_s):
                    found.append(Candidate(offer, None, f"it {rest.reason}", rest.until_s))
                elif zone in lost:
                    found.append(Candidate(offer, None, self._why_lost(*lost[zone], now_s)))
                elif held is not None:
                    found.append(Candidate(offer, None, held, held_until_s))
                else:
                    asked[zone] = offer
            order = in_order(asked, taken)
            best = place(asked, taken)
            for rank, offer in enumerate(order):
                why = best.why if rank == 0 and best is not None else why_after(offer, order[0], taken)
                found.append(Candidate(offer, rank, why))
        return ranked(found)

    def _why_lost(self, lost: str, at_s: float, now_s: float) -> str:
        ago = format_duration(round(max(0.0, now_s - at_s)))
        return (
            f"the last news of its spot capacity was bad, {lost} {ago} ago: zones without such news are asked "
            "first, until a spot replica is ready here again, or until too few of the others are left "
            f"(`hedge.rebalance_below` = {self._hedge.rebalance_below})"
        )

    def sums(self, observation: Observation) -> tuple[str, ...]:
        """Why so many spot and on-demand replicas are wanted, in sentences with the figures of now."""
        hedge, target = self._hedge, observation.target
        spot = cheapest_by_zone(observation.offers, Market.SPOT)
        offered = any(self._memory.supports(zone, Market.SPOT) for zone in spot)
        sums = self._sums(observation, spot_offered=offered)
        told: list[str] = []
        if target and offered:
            extra = f" and {hedge.overprovision} more to spare (N_extra, `hedge.overprovision`)"
            base = hedge.always_on_demand + sums.external
            less = f", less {base} that need no spot" if base else ""
            told.append(
                f"{format_count(sums.spot_wanted, 'spot replica', verb=True)} wanted: the load needs {target} "
                f"(N_target){extra if hedge.overprovision else ''}{less}; {len(sums.spot)} run or start, "
                f"{sums.spot_ready} of them ready"
            )
        if hedge.always_on_demand:
            always = format_count(hedge.always_on_demand, "on-demand replica", verb=True)
            told.append(f"{always} to run at all times (`hedge.always_on_demand`)")
        if target and not offered:
            told.append(f"no pool offers spot, so that all {target} replicas are on-demand")
        elif target and hedge.fallback:
            whole = hedge.always_on_demand + sums.external + sums.spot_wanted
            ready = min(sums.spot_ready, sums.spot_wanted)
            external = f", {sums.external} of them external" if sums.external else ""
            told.append(
                "on-demand stands in for spot that is not ready: "
                "O = min(N_target, N_target + N_extra − ready spot) "
                f"= min({target}, {whole} − {ready}) = {sums.on_demand_wanted + sums.external}{external}; "
                f"{len(sums.on_demand)} run or start"
            )
            if (held_back := min(sums.on_demand_kept, len(sums.on_demand))) > sums.on_demand_wanted:
                kept = format_count(held_back, "on-demand replica", verb=True)
                held = f"until spot has been ready for {format_duration(hedge.on_demand_hold)}"
                told.append(f"{kept} kept {held} (`hedge.on_demand_hold`), so that they do not come and go")
        elif target:
            told.append("on-demand does not stand in for spot (`hedge.fallback` is false)")
        return tuple(told)

    def export_memory(self, now_s: float) -> dict[str, Any]:
        """What was learnt, as JSON-able data with ages in place of times."""
        return self._memory.export(now_s)

    def restore_memory(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up what an earlier run learnt; a memory of another shape is forgotten."""
        self._memory.restore(memory, now_s)

    # The sums

    def _sums(self, observation: Observation, *, spot_offered: bool) -> _Sums:
        hedge, now_s, target = self._hedge, observation.now_s, observation.target
        # One pass over replicas that may be a thousand, by names that are looked up once.
        is_ready, is_noticed, is_spot, is_external = State.READY, State.NOTICED, Market.SPOT, Market.EXTERNAL
        spot: list[Replica] = []
        on_demand_alive: list[Replica] = []
        noticed: list[Replica] = []
        spot_since_s: list[float] = []
        others_ready = external = 0
        for replica in observation.replicas:
            state, market = replica.state, replica.offer.market
            if state is is_ready:
                if market is is_spot:
                    spot.append(replica)
                    since_s = replica.ready_since_s
                    spot_since_s.append(replica.since_s if since_s is None else since_s)
                    continue
                others_ready += 1
                if market is is_external:
                    external += 1
                else:
                    on_demand_alive.append(replica)
            elif state is is_noticed:
                noticed.append(replica)
            elif state in STARTING and market is not is_external:
                (spot if market is is_spot else on_demand_alive).append(replica)
        spot_ready, hold_s = len(spot_since_s), hedge.on_demand_hold
        settles_s = [since_s + hold_s for since_s in spot_since_s if now_s < since_s + hold_s]
        settled = spot_ready - len(settles_s)
        always, base = hedge.always_on_demand, hedge.always_on_demand + external
        wanted = spot_wanted(target=target, overprovision=hedge.overprovision, base=base) if spot_offered else 0

        def on_demand(spot_that_counts: int) -> int:
            if not spot_offered:
                return max(always, target - external)
            return on_demand_wanted(
                target=target, base=base, external=external, always=always,
                spot_wanted=wanted, spot_ready=spot_that_counts, fallback=hedge.fallback,
            )  # fmt: skip

        return _Sums(
            target=target,
            now_s=now_s,
            external=external,
            ready=spot_ready + others_ready,
            spot=tuple(spot),
            spot_ready=spot_ready,
            spot_settled=settled,
            spot_wanted=wanted,
            on_demand=tuple(on_demand_alive),
            on_demand_wanted=on_demand(spot_ready),
            on_demand_kept=on_demand(settled),
            noticed=tuple(noticed),
            settles_s=min(settles_s, default=None),
        )

    # What is missing

    def _askable_spot(self, offers: Mapping[ZoneId, Offer], now_s: float) -> dict[ZoneId, Offer]:
        """The zones that count when it is asked how many are left: a zone without quota is not one of them."""
        return {z: offer for z, offer in offers.items() if self._memory.barred(z, Market.SPOT, now_s) is None}

    def _missing_spot(self, sums: _Sums, offers: Mapping[ZoneId, Offer], rests: _Rests) -> Iterable[Launch]:
        if len(sums.spot) >= sums.spot_wanted:
            return
        candidates = self._askable_spot(offers, sums.now_s)
        preempted = self._memory.preempted(candidates)
        available = {
            zone: offer
            for zone, offer in candidates.items()
            if zone not in preempted and (zone, Market.SPOT) not in rests
        }
        taken = Counter([replica.offer.zone for replica in sums.spot])
        extra = f", {self._hedge.overprovision} more to spare" if self._hedge.overprovision else ""
        for alive in range(len(sums.spot), sums.spot_wanted):
            chosen = place(available, taken)
            if chosen is None:
                return
            taken[chosen.offer.zone] += 1
            have = (
                f"{alive} of {sums.spot_wanted} spot replicas run or start (the load needs {sums.target}{extra})"
            )
            yield Launch(chosen.offer, Rule.SPREAD, f"{have}: {chosen.why}")

    def _missing_on_demand(
        self,
        sums: _Sums,
        offers: Mapping[ZoneId, Offer],
        rests: _Rests,
        spot_launches: Iterable[Launch],
        spot_offered: bool,
    ) -> Iterable[Launch]:
        if len(sums.on_demand) >= sums.on_demand_wanted:
            return
        free = {zone: offer for zone, offer in offers.items() if (zone, Market.ON_DEMAND) not in rests}
        taken = Counter([replica.offer.zone for replica in sums.on_demand])
        starting = {replica.zone for replica in sums.spot if replica.state in STARTING}
        coming = sorted(starting | {launch.offer.zone for launch in spot_launches})
        until = f"until {', '.join(coming)} {'come' if len(coming) > 1 else 'comes'} up"
        bridge = (
            f"{sums.spot_ready} of {sums.spot_wanted} spot replicas are ready: on-demand bridges "
            f"{until if coming else 'until a zone has spot capacity again'}"
        )
        for alive in range(len(sums.on_demand), sums.on_demand_wanted):
            chosen = place(free, taken)
            if chosen is None:
                return
            taken[chosen.offer.zone] += 1
            always = self._hedge.always_on_demand
            if alive < always:
                rule, why = Rule.ALWAYS_ON, f"{alive} of {always} on-demand replicas that are to run at all times"
            elif not spot_offered:
                rule = Rule.ALWAYS_ON
                why = (
                    f"{alive} of {sums.on_demand_wanted} on-demand replicas run or start, and no pool offers spot"
                )
            else:
                rule, why = Rule.FALLBACK, bridge
            yield Launch(chosen.offer, rule, f"{why}; {chosen.why}")

    # What goes

    def _noticed(self, sums: _Sums) -> Iterable[Drain]:
        for replica in sums.noticed:
            deadline_s = replica.notice.deadline_s if replica.notice else None
            at_last = deadline_s is not None and sums.now_s >= deadline_s - _LAST_MOMENT_S
            if not (sums.ready or sums.target == 0 or at_last):
                continue
            left = "" if deadline_s is None else f" in {format_duration(round(max(0.0, deadline_s - sums.now_s)))}"
            who = replica.notice.source if replica.notice else "its cloud"
            if sums.ready:
                others = f"{sums.ready} other {'replicas are' if sums.ready > 1 else 'replica is'} ready"
            else:
                others = "no other replica is ready, and there is no time left to wait for one"
                if sums.target == 0:
                    others = "none is needed"
            reason = f"{who} says that the VM is taken back{left}; {others}"
            yield Drain(replica.id, Rule.NOTICE, reason, GoneReason.PREEMPTED, deadline_s)

    def _surplus(self, sums: _Sums) -> Iterable[Action]:
        # What serves may go only as long as enough others do: make before break. On-demand is looked at first,
        # for it is what costs most.
        if len(sums.on_demand) <= sums.on_demand_kept and len(sums.spot) <= sums.spot_wanted:
            return
        spare = sums.ready - sums.target
        leaving = [
            (replica, *self._why_on_demand_goes(sums))
            for replica in _dispensable(sums.on_demand, sums.on_demand_kept, crowding=False)
        ]
        spot_goes = f"{_load(sums)}: of {len(sums.spot)} spot replicas {sums.spot_wanted} are wanted"
        leaving += [
            (replica, Rule.SCALE_DOWN, spot_goes, GoneReason.SCALED_DOWN)
            for replica in _dispensable(sums.spot, sums.spot_wanted, crowding=True)
        ]
        for replica, rule, reason, gone in leaving:
            if replica.state in STARTING:
                yield Terminate(replica.id, rule, reason, gone)
            elif spare > 0:
                spare -= 1
                yield Drain(replica.id, rule, reason, gone)

    def _why_on_demand_goes(self, sums: _Sums) -> tuple[Rule, str, GoneReason]:
        have, kept = len(sums.on_demand), sums.on_demand_kept
        counts = f"of {have} on-demand ones {kept} {'is' if kept == 1 else 'are'} needed"
        if sums.target == 0 or not self._hedge.fallback or kept + sums.external >= sums.target:
            others = f", {sums.external} external ones are ready" if sums.external and sums.target else ""
            return Rule.SCALE_DOWN, f"{_load(sums)}{others}: {counts}", GoneReason.SCALED_DOWN
        hold_s = self._hedge.on_demand_hold
        been = f"have been ready for {format_duration(hold_s)}" if hold_s else "are ready"
        settled = f"{sums.spot_settled} of {sums.spot_wanted} spot replicas {been}"
        return Rule.BACK_TO_SPOT, f"{settled}: {counts}", GoneReason.REPLACED

    # When to look again

    def _again_at_s(self, observation: Observation, sums: _Sums) -> float | None:
        """When the clock alone may call for other actions; a pause that keeps nothing from being done is none."""
        times_s: list[float] = []
        if len(sums.spot) < sums.spot_wanted or len(sums.on_demand) < sums.on_demand_wanted:
            times_s += self._memory.pauses_end_s({(offer.zone, offer.market) for offer in observation.offers})
        times_s += [one.notice.deadline_s - _LAST_MOMENT_S for one in sums.noticed if one.notice is not None]
        if sums.on_demand and sums.settles_s is not None:
            times_s.append(sums.settles_s)
        return min((time_s for time_s in times_s if time_s > sums.now_s), default=None)

    # What is not done, and why

    def _notes(
        self,
        sums: _Sums,
        offers: Mapping[Market, Mapping[ZoneId, Offer]],
        rests: _Rests,
        held: str | None,
    ) -> Iterable[str]:
        """No sentence holds a clock or a count that changes by itself: a note is journalled when it changes."""
        if held is not None:
            yield held
        if sums.target and not offers[Market.SPOT] and offers[Market.ON_DEMAND]:
            yield "no pool offers spot: all replicas are on-demand"
        if sums.on_demand_wanted > len(sums.on_demand) and not offers[Market.ON_DEMAND]:
            yield "on-demand replicas are wanted, and no pool offers any"
        if rests:
            for market, cheapest in self._cheapest.items():
                for zone in cheapest:
                    if rest := rests.get((zone, market)):
                        yield f"{zone} {rest.reason}"
        if not sums.ready and sums.target:
            for replica in sums.noticed:
                if replica.notice is not None:  # else it is in doubt, not under notice
                    yield f"{replica.id} serves on under its notice: no other replica is ready"


def _counted(observation: Observation, market: Market) -> list[Replica]:
    """The replicas of this market that count where the next one is placed."""
    return [one for one in observation.replicas if one.alive and one.market is market]


def _load(sums: _Sums) -> str:
    return f"the load needs {sums.target}" if sums.target else "no request needs a replica"


def _dispensable(replicas: tuple[Replica, ...], kept: int, *, crowding: bool) -> list[Replica]:
    """Those that are more than ``kept``, in the order in which they may go."""
    return most_dispensable(replicas, crowding=crowding, at_most=len(replicas) - kept)
