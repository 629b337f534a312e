"""The ways to place so many replicas over zones and on-demand, what each costs, and what it risks.

A way is weighed by its price and by the share of time that it is expected to leave too few: the risk of each zone
that cannot be lost without falling short, and that of two zones which are lost one soon after the other. Which is
cheapest in sum is searched among those that can be so: all in few zones, spread so that any one may be lost, mixed
with on-demand, and what there is with a little more or less.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hedgeserve.policy.outlook import region_of
from hedgeserve.replica import ZoneId

_SPARE_DISCOUNT = 0.7
"""Spares within ``overprovision`` are what the user asked for: a way with no more is weighed at so much less."""
_BY_CHOICE = 0.7
"""On-demand where spot may be asked for weighs so much more than its price: it comes and goes by the minute."""
_MOVE = 0.05
"""What a launch weighs, in hourly prices of a spot replica: nothing is moved for less."""
_INERTIA = 0.1
"""A fleet that is large enough is changed only for a gain of this share of its spot price."""
_ONE_BASKET = 0.02
"""What it weighs to have all in one zone, as a share of the fleet's spot price: where risks are alike, spread."""
_TOGETHER = 0.07
"""How likely it is, for each of two zones in one region, that its loss is also that of the other."""
_ABOUT = 1.001
_HEADROOM = 2.0
"""A replica above the target, for the next rise of the load, is worth so many prices of a spot one."""
_FEW_ZONES = 6
_MANY_ZONES = (8, 12, 16, 24, 32, 48, 64, 96, 128)
_FEW_REPLICAS = 4
_PAIRS_COUNTED = 12
_ADDED_TO = 4


@dataclass(frozen=True, slots=True)
class SpotZone:
    """A spot zone as it may be used now; prices in USD per hour.

    ``risk`` is the share of time that its preemptions would leave a replica missing, ``boot_usd`` what its
    replacements cost while they boot. ``have`` replicas are there; ``room`` None: it may be asked for more.
    """

    zone: ZoneId
    price: float
    risk: float
    boot_usd: float
    have: int
    room: int | None

    def score(self, unit: float, worth: float) -> float:
        """What a replica there costs in all, for the order in which zones are used."""
        return self.price + worth * self.risk + self.boot_usd - (_MOVE * unit if self.have else 0.0)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where ``need`` replicas are to be placed, of which ``floor`` must not be missed.

    ``bridging`` on-demand ones are there for ``on_demand_usd`` (None: none can be had). ``unit`` is the price of a
    spot replica, ``worth`` what an hour with too few costs, ``spares`` how many extra ones the user asked for.
    """

    need: int
    floor: int
    zones: Sequence[SpotZone]
    bridging: int
    on_demand_usd: float | None
    unit: float
    worth: float
    spares: int


@dataclass(frozen=True, slots=True)
class Way:
    """One way: replicas by zone and on-demand, its weight in USD per hour, the share of time it leaves short."""

    spot: Counter[ZoneId]
    on_demand: int
    cost: float
    risk: float


def best_way(ground: Ground) -> tuple[Way, Way]:
    """The fleet as it is, and the best way to have it: the same one while no other is clearly better."""
    zones = sorted(
        (zone for zone in ground.zones if zone.room != 0),
        key=lambda zone: (zone.score(ground.unit, ground.worth), zone.zone),
    )
    search = _Search(ground, zones)
    now = search.weigh(tuple(zone.have for zone in zones), ground.bridging)
    best, seen = None, set[tuple[tuple[int, ...], int]]()
    for counts, on_demand in search.ways():
        key = counts, on_demand if ground.on_demand_usd is not None else 0
        if key not in seen:
            seen.add(key)
            weighed = search.weigh(*key)
            if best is None or weighed[0] < best[0]:
                best = weighed
    enough = sum(now[2]) + now[3] >= ground.need
    if best is None or (enough and now[0] <= best[0] + _INERTIA * ground.need * ground.unit):
        best = now
    return search.way(now), search.way(best)


_Weighed = tuple[float, float, tuple[int, ...], int]


class _Search:
    """Ways as counts by the zones' places in one order, since very many are looked at."""

    def __init__(self, ground: Ground, zones: Sequence[SpotZone]) -> None:
        self._ground = ground
        self._zones = zones
        self._room = [zone.room for zone in zones]
        self._open = any(zone.room is None or zone.room > zone.have for zone in zones)
        self._regions = [region_of(zone.zone) for zone in zones]
        self._terms = [(zone.price, zone.risk, zone.boot_usd, zone.have) for zone in zones]

    def way(self, weighed: _Weighed) -> Way:
        cost, risk, counts, on_demand = weighed
        spot = Counter({zone.zone: count for zone, count in zip(self._zones, counts, strict=True) if count})
        return Way(spot, on_demand, cost, min(1.0, risk))

    def ways(self) -> Iterator[tuple[tuple[int, ...], int]]:
        need, many = self._ground.need, len(self._zones)
        orders = [range(many), self._regions_in_turn()]
        if orders[1] == [*orders[0]]:
            orders.pop()
        for order in orders:
            for among in _amounts(many):
                spot, left = self._spread(need, order[:among], -(-need // among))
                yield spot, left
                if among > 1:
                    for bridging in range(need if need <= _FEW_REPLICAS else 1):
                        # One zone of `among` may go, and what is left is still enough.
                        total = -(-(need - bridging) * among // (among - 1))
                        covered, missing = self._spread(total, order[:among], -(-total // among))
                        yield covered, bridging + missing
                yield spot, left + max(spot)
        yield (0,) * many, need
        there = tuple(zone.have for zone in self._zones)
        missing, bridging = need - sum(there), self._ground.bridging
        few = range(bridging + 1) if need <= _FEW_REPLICAS else ()
        for on_demand in sorted({*few, bridging, max(0, missing)}):
            if on_demand >= missing:
                yield there, on_demand
        for place in range(min(many, _ADDED_TO)):
            room = self._room[place]
            more = max(1, missing) if room is None else min(room - there[place], max(1, missing))
            if more > 0:
                yield (*there[:place], there[place] + more, *there[place + 1 :]), max(0, missing - more)

    def weigh(self, counts: tuple[int, ...], on_demand: int) -> _Weighed:
        ground, need = self._ground, self._ground.need
        total, moves, crowd, price, boots = on_demand, 0, 0, 0.0, 0.0
        used: list[tuple[int, int, float]] = []
        for place, count in enumerate(counts):
            if count:
                each, risk, boot_usd, have = self._terms[place]
                total += count
                crowd += count * count
                price += each * count
                boots += boot_usd
                if count > have:
                    moves += count - have
                used.append((place, count, risk))
        by_choice = on_demand if self._open else min(on_demand, max(0, total - need))
        price += (on_demand + _BY_CHOICE * by_choice) * (ground.on_demand_usd or 0.0)
        spares = max(0.0, price - need * ground.unit)
        if spares > ground.spares * ground.unit * _ABOUT:
            spares = 0.0
        risk = self._risk(used, total)
        cost = price - _SPARE_DISCOUNT * spares + ground.worth * risk + boots
        cost += ground.unit * (_MOVE * moves + _ONE_BASKET * crowd / max(1, need))
        if total < ground.floor:  # no way that leaves the service short may win over one that does not
            cost += ground.worth * (ground.floor - total)
        if total < need:
            cost += _HEADROOM * ground.unit * (need - max(total, ground.floor))
        return cost, risk, counts, on_demand

    def _risk(self, used: Sequence[tuple[int, int, float]], total: int) -> float:
        """The expected share of time with too few: one zone lost, or two before the first is replaced."""
        spare = total - self._ground.floor
        alone, together = 0.0, []
        for one in used:
            if one[1] > spare:
                alone += one[2]
            else:
                together.append(one)
        if len(together) > _PAIRS_COUNTED:  # so many zones hold few replicas each: any two are taken for too many
            whole = sum(risk for _, _, risk in together)
            pairs = (whole * whole - sum(risk * risk for _, _, risk in together)) / 2
            regions = Counter(self._regions[place] for place, _, _ in together)
            near = sum(risk * (regions[self._regions[place]] - 1) for place, _, risk in together)
            return alone + pairs + _TOGETHER * near
        for index, (place, count, risk) in enumerate(together):
            for other, others, risk_too in together[:index]:
                if count + others > spare:
                    alone += risk * risk_too
                    if self._regions[place] == self._regions[other]:
                        alone += _TOGETHER * (risk + risk_too)
        return alone

    def _spread(self, total: int, order: Sequence[int], each: int) -> tuple[tuple[int, ...], int]:
        """So many replicas over these zones, ``each`` at first, as far as there is room; and how many are left."""
        counts, left = [0] * len(self._zones), total
        for most in (each, total):
            for place in order:
                if left <= 0:
                    return tuple(counts), 0
                room = self._room[place]
                more = min(left, (most if room is None else min(room, most)) - counts[place])
                if more > 0:
                    counts[place] += more
                    left -= more
        return tuple(counts), left

    def _regions_in_turn(self) -> list[int]:
        """The best zone of each region before the second best of any."""
        seen: Counter[str] = Counter()
        turns: list[int] = []
        for region in self._regions:
            turns.append(seen[region])
            seen[region] += 1
        return sorted(range(len(turns)), key=turns.__getitem__)


def _amounts(zones: int) -> list[int]:
    """In how many zones a way may place its replicas: every small number, and some larger ones."""
    return [*range(1, min(zones, _FEW_ZONES) + 1), *(many for many in _MANY_ZONES if many <= zones)]
