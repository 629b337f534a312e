"""Where the next replica goes: the zone with the fewest, the cheapest of them, the same answer every time.

Cheap is what costs little for its work: prices are compared per throughput, and told as they are paid.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hedgeserve.replica import Market, Offer, Replica, State, ZoneId
from hedgeserve.units import format_usd_per_hour

_STEPS = {state: step for step, state in enumerate(State)}
"""How far along its life each state is."""


@dataclass(frozen=True, slots=True)
class Placement:
    """An offer, and the words that say why it was this one."""

    offer: Offer
    why: str


def cheapest_by_zone(offers: Iterable[Offer], market: Market) -> dict[ZoneId, Offer]:
    """For each zone that has this market, its cheapest instance type; of equal ones the first by name."""
    cheapest: dict[ZoneId, Offer] = {}
    for offer in sorted(offers, key=lambda offer: (offer.zone, offer.usd_per_work, offer.instance_type)):
        if offer.market is market:
            cheapest.setdefault(offer.zone, offer)
    return cheapest


def place(offers: Mapping[ZoneId, Offer], taken: Counter[ZoneId]) -> Placement | None:
    """The best of these offers when ``taken`` says how many replicas each zone has; None when there is no offer.

    A zone without a replica before any with one, then fewer before more; of those the cheapest (SELECT-NEXT-ZONE
    of arXiv 2411.01438, Algorithm 1, with its text's preference for fewer placements); then by name.
    """
    if not offers:
        return None
    offer = min(offers.values(), key=_order(taken))
    fewest = taken[offer.zone]
    rivals = sum(taken[zone] == fewest for zone in offers)
    has = "without one" if fewest == 0 else f"with the fewest ({fewest})"
    rank = f"the cheapest of {rivals} zones {has}" if rivals > 1 else f"the only zone {has}"
    return Placement(offer, f"{offer.zone} is {rank} that may be asked, {price_of(offer)}")


def in_order(offers: Mapping[ZoneId, Offer], taken: Counter[ZoneId]) -> list[Offer]:
    """These offers in the order in which :func:`place` would take them."""
    return sorted(offers.values(), key=_order(taken))


def _order(taken: Counter[ZoneId]) -> Callable[[Offer], tuple[int, float, ZoneId]]:
    return lambda offer: (taken[offer.zone], offer.usd_per_work, offer.zone)


def why_after(offer: Offer, first: Offer, taken: Counter[ZoneId]) -> str:
    """Why ``first`` comes before this offer, by the order of :func:`place`."""
    here, there = taken[offer.zone], taken[first.zone]
    if here != there:
        return f"{first.zone} comes first: it has {there or 'no'} replica{'s' * (there > 1)}, this one {here}"
    if offer.usd_per_work > first.usd_per_work:
        return f"{first.zone} comes first: it costs {price_of(first)}, this one {price_of(offer)}"
    return f"{first.zone} comes first: it is the first by name of those that are as good"


def price_of(offer: Offer) -> str:
    """Its price as a person reads it, and what it does for it where that is not the ordinary."""
    does = "" if offer.throughput == 1 else f" for {offer.throughput:g} times the throughput"
    return f"{format_usd_per_hour(offer.usd_per_hour)}{does}"


def most_dispensable(replicas: Iterable[Replica], *, crowding: bool, at_most: int | None = None) -> list[Replica]:
    """The replicas in the order in which they may go; ``at_most`` so many of them, all where it is None.

    Those that do not serve yet go first, the least advanced of them before the others; then, with ``crowding``,
    those in the zone with the most, counted anew after each; then the dearest; then the newest.
    """
    left = list(replicas)
    wanted = len(left) if at_most is None else max(0, min(at_most, len(left)))
    if wanted == 0:
        return []
    if not crowding:
        return sorted(left, key=lambda replica: (_STEPS[replica.state], *_dearest_newest(replica)))[:wanted]
    crowd = Counter(replica.zone for replica in left)
    order: list[Replica] = []
    ranks = {replica.id: _dearest_newest(replica) for replica in left}

    def dispensable(replica: Replica) -> tuple[object, ...]:
        return (_STEPS[replica.state], -crowd[replica.zone], *ranks[replica.id])

    while len(order) < wanted:
        next_one = min(left, key=dispensable)
        left.remove(next_one)
        crowd[next_one.zone] -= 1
        order.append(next_one)
    return order


def _dearest_newest(replica: Replica) -> tuple[float, float, str]:
    return -replica.offer.usd_per_work, -replica.created_at.timestamp(), replica.id
