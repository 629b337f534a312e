"""Forecast: spot replicas where it will hold, spares and on-demand as far as the risk that remains is worth it.

SpotHedge (arXiv 2411.01438) knows of a zone only whether it failed last, pays for its spare replica at all times,
and buys on-demand whenever one spot replica is missing. Three things that it does not use cost next to nothing:
how long each zone has held (:mod:`hedgeserve.policy.outlook`), the lead time of preemption notices, and the cold
start. From these follows how long a loss would leave the service short, and how often, for any way to place the
replicas; a plan is the way with the lowest sum of price and risk. What an hour below the target is worth follows
from the availability that the user asks for.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hedgeserve.policy.outlook import GRAIN_S, Outlook, likeliest, region_of
from hedgeserve.policy.placement import cheapest_by_zone, place
from hedgeserve.policy.plan import Action, Drain, Launch, Observation, Plan, Rule, Terminate, ZoneNews
from hedgeserve.policy.zonememory import ZoneMemory
from hedgeserve.replica import STARTING, GoneReason, Market, Offer, Replica, State, ZoneId
from hedgeserve.spec import HedgeSpec
from hedgeserve.units import format_duration, format_usd_per_hour

_WORTH = 0.018
"""An hour below the target is worth ``_WORTH / (1 - availability)`` hours of the whole fleet on-demand."""
_ON_DEMAND_RATIO = 3.0
"""On-demand counts as at least so many times as dear as spot in this, as it does where no pool offers any."""
_LONG_GAP_H = 150 / 3600
"""Longer gaps are weighed by their square root: a slow model must not be hedged without bound."""
_SPARE_DISCOUNT = 0.5
"""Spares within ``overprovision`` are what the user asked for: their price is weighed at so much less."""
_STANDBY = 0.5
"""On-demand beyond what is missing weighs so much more than its price: it comes and goes by the minute."""
_MOVE = 0.05
"""What a launch weighs, in hourly prices of a spot replica: nothing is moved for less."""
_INERTIA = 0.1
"""A fleet that is large enough is changed only for a gain of this share of its spot price."""
_TOGETHER = 0.3
"""How likely it is that a zone's loss is also that of another one in its region."""
_PROVEN_H = 0.25
"""A zone that has held for this long is trusted to grant one more launch."""
_SAME_TIME_S = 5.0
_LAST_MOMENT_S = 2.0
_FEW_ZONES = 6
_MANY_ZONES = (8, 12, 16, 24, 32, 48, 64, 96, 128)
_PAIRS_COUNTED = 12

_Counts = Mapping[ZoneId, int]


@dataclass(frozen=True, slots=True)
class _Market:
    """The spot zones as they may be used now; prices in USD per hour, ``risk`` the share of time lost to each."""

    offers: Mapping[ZoneId, Offer]
    best_first: Sequence[ZoneId]
    room: Mapping[ZoneId, int | None]
    risk: Mapping[ZoneId, float]
    price: Mapping[ZoneId, float]
    boot_usd: Mapping[ZoneId, float]
    unit: float
    on_demand_usd: float | None
    worth: float


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What is there: spot by zone (granted or asked for), on-demand, what is ready, what needs no placing."""

    target: int
    need: int
    now_s: float
    spot: Mapping[ZoneId, tuple[Replica, ...]]
    counts: Counter[ZoneId]
    on_demand: tuple[Replica, ...]
    always: int
    ready: int
    settled: tuple[Replica, ...]
    noticed: tuple[Replica, ...]

    @property
    def bridging(self) -> int:
        """On-demand replicas beyond those that run at all times."""
        return max(0, len(self.on_demand) - self.always)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to place the replicas, what it costs, and the share of time below the target it would leave."""

    spot: Counter[ZoneId]
    on_demand: int
    cost: float = 0.0
    risk: float = 0.0


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
        fleet = self._fleet(observation)
        on_demand = self._on_demand_offers(observation.now_s)
        market = self._market(fleet, bool(on_demand))
        now, chosen = self._choose(fleet, market)
        held = self._memory.held(observation.now_s)
        wanted = fleet.always + max(chosen.on_demand, self._bridge(fleet, market, chosen))
        actions: list[Action] = []
        if held is None:
            actions += self._spot_launches(fleet, market, now, chosen)
            actions += self._on_demand_launches(fleet, market, on_demand, chosen, wanted)
        actions += self._noticed(fleet)
        actions += self._surplus(fleet, market, chosen, wanted)
        return Plan(
            target=observation.target,
            spot_wanted=chosen.spot.total(),
            on_demand_wanted=wanted,
            actions=tuple(actions),
            notes=tuple(self._notes(fleet, market, on_demand, wanted, held)),
            again_at_s=self._again_at_s(fleet),
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

    def _fleet(self, observation: Observation) -> _Fleet:
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
        always = self._hedge.always_on_demand
        return _Fleet(
            target=observation.target,
            need=max(0, observation.target - always - external) if observation.target else 0,
            now_s=observation.now_s,
            spot={zone: tuple(replicas) for zone, replicas in spot.items()},
            counts=Counter({zone: len(replicas) for zone, replicas in spot.items()}),
            on_demand=tuple(on_demand),
            always=always,
            ready=ready,
            settled=tuple(settled),
            noticed=tuple(noticed),
        )

    def _on_demand_offers(self, now_s: float) -> dict[ZoneId, Offer]:
        return {
            zone: offer
            for zone, offer in self._cheapest[Market.ON_DEMAND].items()
            if self._memory.rest(zone, Market.ON_DEMAND, now_s) is None
        }

    def _market(self, fleet: _Fleet, on_demand_free: bool) -> _Market:
        now_s, outlook, memory = fleet.now_s, self._outlook, self._memory
        offers = {
            zone: offer
            for zone, offer in self._cheapest[Market.SPOT].items()
            if memory.barred(zone, Market.SPOT, now_s) is None
        }
        price = {zone: offer.usd_per_hour for zone, offer in offers.items()}
        for zone, replicas in fleet.spot.items():
            price.setdefault(zone, replicas[0].offer.usd_per_hour)
        unit = min(price.values(), default=1.0) or 1e-9
        prices = [offer.usd_per_hour for offer in self._cheapest[Market.ON_DEMAND].values()]
        on_demand_usd = min(prices, default=0.0)
        worth_usd = max(1, fleet.need) * max(on_demand_usd, _ON_DEMAND_RATIO * unit)
        boot_h = outlook.cold_start_s() / 3600
        losses = {zone: outlook.losses_per_hour(zone, now_s) for zone in price}
        risk = {zone: min(1.0, losses[zone] * _weighed(outlook.gap_s(zone) / 3600)) for zone in price}
        boot_usd = {zone: losses[zone] * boot_h * price[zone] for zone in price}
        room: dict[ZoneId, int | None] = {}
        for zone in price:
            rests_until_s = outlook.rests_until_s(zone)
            rests = zone not in offers or (rests_until_s is not None and now_s < rests_until_s)
            room[zone] = fleet.counts[zone] if rests else None
        worth = _WORTH / max(1e-6, 1 - self._hedge.availability) * worth_usd
        score = {
            zone: price[zone] + worth * risk[zone] + boot_usd[zone] - _MOVE * unit * (zone in fleet.counts)
            for zone in price
        }
        return _Market(
            offers=offers,
            best_first=likeliest((zone for zone in price if room[zone] != 0), score),
            room=room,
            risk=risk,
            price=price,
            boot_usd=boot_usd,
            unit=unit,
            on_demand_usd=on_demand_usd if prices and on_demand_free and self._hedge.fallback else None,
            worth=worth,
        )

    # Which way

    def _choose(self, fleet: _Fleet, market: _Market) -> tuple[_Way, _Way]:
        """The fleet as it is and the best way to have it, which is the same while no other is clearly better."""
        now = self._weigh(_Way(Counter(fleet.counts), fleet.bridging), fleet, market)
        if fleet.need == 0:
            return now, _Way(Counter(), 0)
        if not self._cheapest[Market.SPOT]:
            return now, _Way(Counter(), fleet.need)
        best: _Way | None = None
        seen: set[tuple[int, frozenset[tuple[ZoneId, int]]]] = set()
        for spot, on_demand in self._ways(fleet, market):
            if on_demand and market.on_demand_usd is None:
                on_demand = 0
            key = on_demand, frozenset(spot.items())
            if key in seen:
                continue
            seen.add(key)
            way = self._weigh(_Way(spot, on_demand), fleet, market)
            if best is None or way.cost < best.cost:
                best = way
        if best is None:
            return now, now
        enough = now.spot.total() + now.on_demand >= fleet.need
        if enough and now.cost <= best.cost + _INERTIA * fleet.need * market.unit:
            return now, now
        return now, best

    def _ways(self, fleet: _Fleet, market: _Market) -> Iterator[tuple[Counter[ZoneId], int]]:
        """The ways that are weighed: all in few zones, spread so that any one may fail, mixed with on-demand."""
        need, zones = fleet.need, market.best_first
        for order in (zones, _regions_in_turn(zones)):
            for among in _amounts(len(zones)):
                even = -(-need // among)
                spot, left = _spread(need, order[:among], even, market.room)
                yield spot, left
                if among > 1:
                    for bridging in range(need if need <= 4 else 1):
                        # One zone of `among` may go, and what is left is still enough.
                        total = -(-(need - bridging) * among // (among - 1))
                        covered, missing = _spread(total, order[:among], -(-total // among), market.room)
                        yield covered, bridging + missing
                yield spot, left + max(spot.values(), default=0)
        yield Counter(), need
        there = fleet.counts.total()
        most = fleet.bridging if need <= 4 else 0
        for on_demand in {*range(most + 1), fleet.bridging, max(0, need - there)}:
            if there + on_demand >= need:
                yield Counter(fleet.counts), on_demand
        for zone in zones[:4]:
            if market.room[zone] is None:
                more = Counter(fleet.counts)
                more[zone] += max(1, need - there)
                yield more, 0

    def _weigh(self, way: _Way, fleet: _Fleet, market: _Market) -> _Way:
        unit = market.unit
        price = sum(market.price[zone] * count for zone, count in way.spot.items())
        standing_by = min(way.on_demand, max(0, way.spot.total() + way.on_demand - fleet.need))
        price += (way.on_demand + _STANDBY * standing_by) * (market.on_demand_usd or 0.0)
        spare = min(self._hedge.overprovision * unit, max(0.0, price - fleet.need * unit))
        risk = _risk(way, fleet.need, market.risk)
        moves = sum(max(0, count - fleet.counts[zone]) for zone, count in way.spot.items())
        boots = sum(market.boot_usd[zone] for zone, count in way.spot.items() if count)
        cost = price - _SPARE_DISCOUNT * spare + market.worth * risk + boots + _MOVE * unit * moves
        short = fleet.need - way.spot.total() - way.on_demand
        if short > 0:  # no way that leaves the service short may win over one that does not
            cost += market.worth * short
        return _Way(way.spot, way.on_demand, cost, risk)

    def _bridge(self, fleet: _Fleet, market: _Market, way: _Way) -> int:
        """On-demand to ask for at once, since the launches that would do without it may well be refused."""
        if market.on_demand_usd is None:
            return 0
        sure = 0
        for zone, count in way.spot.items():
            granted = sum(
                replica.state is not State.PLANNED and replica.state is not State.PROVISIONING
                for replica in fleet.spot.get(zone, ())
            )
            held_h = self._outlook.held_for_h(zone, fleet.now_s)
            sure += count if held_h is not None and held_h > _PROVEN_H else min(count, granted)
        return max(0, fleet.need - sure)

    # What follows

    def _spot_launches(self, fleet: _Fleet, market: _Market, now: _Way, way: _Way) -> Iterator[Launch]:
        have, wanted = fleet.counts.total(), way.spot.total()
        instead = f" instead of {now.risk:.2%}" if have + fleet.bridging >= fleet.need else ""
        expects = f"we expect {way.risk:.2%}{instead} of the time below {fleet.target}"
        for zone in likeliest(way.spot, {zone: float(-way.spot[zone]) for zone in way.spot}):
            for _ in range(way.spot[zone] - fleet.counts[zone]):
                if zone not in market.offers:
                    break
                if have < fleet.need:
                    why = f"{have} of {wanted} spot replicas run or start (the load needs {fleet.target})"
                elif wanted > fleet.need and have < wanted:
                    why = f"a spare, since a lost zone would be missed for {_gap(self._outlook, zone)}: {expects}"
                else:
                    why = f"a move to where less is lost: {expects}"
                have += 1
                price = format_usd_per_hour(market.price[zone])
                outlook = self._outlook_of(zone, fleet.now_s)
                yield Launch(market.offers[zone], Rule.SPREAD, f"{why}: {zone}, {price}, {outlook}")

    def _on_demand_launches(
        self, fleet: _Fleet, market: _Market, offers: Mapping[ZoneId, Offer], way: _Way, wanted: int
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
                rule, why = Rule.FALLBACK, "on-demand in parallel until the spot launches are granted"
            elif way.spot.total() >= fleet.need:
                rule = Rule.FALLBACK
                why = (
                    f"on-demand stands by while spot is fresh: with it we expect {way.risk:.2%} of the time below "
                    f"{fleet.target}"
                )
            else:
                rule, why = Rule.FALLBACK, f"spot can be asked for {way.spot.total()} of {fleet.need} replicas now"
            yield Launch(chosen.offer, rule, f"{why}; {chosen.why}")

    def _noticed(self, fleet: _Fleet) -> Iterator[Drain]:
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

    def _surplus(self, fleet: _Fleet, market: _Market, way: _Way, wanted: int) -> Iterator[Action]:
        """What is more than wanted, if enough others are ready, or will be no later: make before break."""
        leaving: list[Replica] = list(_newest_first(fleet.on_demand)[: max(0, len(fleet.on_demand) - wanted)])
        from_spot = len(leaving)
        moving = any(count > fleet.counts[zone] for zone, count in way.spot.items())
        for zone in () if moving else sorted(fleet.spot):
            leaving += _newest_first(fleet.spot[zone])[: max(0, fleet.counts[zone] - way.spot[zone])]
        spare, going = fleet.ready - fleet.target, set[str]()
        for index, replica in enumerate(leaving):
            rule, gone, why = self._why_it_goes(fleet, way, wanted, on_demand=index < from_spot)
            if replica.state in STARTING:
                as_soon = sum(
                    other.id != replica.id
                    and other.id not in going
                    and (other.created_at - replica.created_at).total_seconds() <= _SAME_TIME_S
                    for other in fleet.settled
                )
                if as_soon >= fleet.need:
                    going.add(replica.id)
                    yield Terminate(replica.id, rule, why, gone)
            elif spare > 0:
                spare -= 1
                going.add(replica.id)
                yield Drain(replica.id, rule, why, gone)

    def _why_it_goes(
        self, fleet: _Fleet, way: _Way, wanted: int, *, on_demand: bool
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

    def _again_at_s(self, fleet: _Fleet) -> float | None:
        now_s = fleet.now_s
        ends_s = [(now_s // GRAIN_S + 1) * GRAIN_S]
        zones = self._cheapest[Market.SPOT].keys() | fleet.spot.keys()
        ends_s += [end for zone in zones if (end := self._outlook.rests_until_s(zone)) is not None]
        ends_s += self._memory.pauses_end_s(
            [(zone, market) for market, offers in self._cheapest.items() for zone in offers]
        )
        ends_s += [one.notice.deadline_s - _LAST_MOMENT_S for one in fleet.noticed if one.notice is not None]
        return min((end for end in ends_s if end > now_s), default=None)

    def _notes(
        self,
        fleet: _Fleet,
        market: _Market,
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
            if fleet.ready < fleet.target:
                yield f"{replica.id} serves on under its notice: fewer others are ready than the load needs"

    def _outlook_of(self, zone: ZoneId, now_s: float) -> str:
        losses = f"{self._outlook.losses_per_hour(zone, now_s):.2g} preemptions an hour expected"
        held_h = self._outlook.held_for_h(zone, now_s)
        return f"{losses}, it has held for {format_duration(round(held_h * 3600))}" if held_h else losses


def _gap(outlook: Outlook, zone: ZoneId) -> str:
    return format_duration(round(outlook.gap_s(zone)))


def _weighed(gap_h: float) -> float:
    return gap_h if gap_h <= _LONG_GAP_H else float((gap_h * _LONG_GAP_H) ** 0.5)


def _amounts(zones: int) -> list[int]:
    """In how many zones a way may place its replicas: every small number, and some larger ones."""
    return [*range(1, min(zones, _FEW_ZONES) + 1), *(many for many in _MANY_ZONES if many <= zones)]


def _regions_in_turn(zones: Sequence[ZoneId]) -> list[ZoneId]:
    """The best zone of each region before the second best of any."""
    seen: Counter[str] = Counter()
    turns: dict[ZoneId, int] = {}
    for zone in zones:
        region = region_of(zone)
        turns[zone] = seen[region]
        seen[region] += 1
    return sorted(zones, key=turns.__getitem__)


def _spread(
    total: int, zones: Sequence[ZoneId], each: int, room: Mapping[ZoneId, int | None]
) -> tuple[Counter[ZoneId], int]:
    """So many replicas over these zones, ``each`` at first, as far as there is room; and how many are left."""
    spot: Counter[ZoneId] = Counter()
    for most in (each, total):
        for zone in zones:
            free = room[zone]
            more = min(total, most if free is None else min(free, most)) - spot[zone]
            if more > 0:
                more = min(more, total - spot.total())
                spot[zone] += more
        if spot.total() >= total:
            break
    return +spot, total - spot.total()


def _risk(way: _Way, need: int, risk: Mapping[ZoneId, float]) -> float:
    """The expected share of time with fewer than ``need``: one zone lost, or two before the first is replaced."""
    total = way.spot.total() + way.on_demand
    alone, together = 0.0, []
    for zone, count in way.spot.items():
        if total - count < need:
            alone += risk[zone]
        else:
            together.append((zone, count, risk[zone]))
    pairs = 0.0
    if len(together) > _PAIRS_COUNTED:  # so many zones hold few replicas each, and any two are too many
        whole = sum(one[2] for one in together)
        pairs = (whole * whole - sum(one[2] ** 2 for one in together)) / 2
        regions = Counter(region_of(one[0]) for one in together)
        pairs += _TOGETHER * sum(one[2] * (regions[region_of(one[0])] - 1) for one in together)
    else:
        for index, (zone, count, lost) in enumerate(together):
            for other, others, lost_too in together[:index]:
                if total - count - others < need:
                    same = _TOGETHER * (lost + lost_too) if region_of(zone) == region_of(other) else 0.0
                    pairs += lost * lost_too + same
    return alone + pairs


def _newest_first(replicas: Iterable[Replica]) -> list[Replica]:
    """In the order in which they may go: what does not serve yet before what does, then the newest."""
    return sorted(replicas, key=lambda one: (one.state is State.READY, -one.created_at.timestamp(), one.id))
