"""What a drill costs more than no drill, told beforehand by the policy's own sums. Pure.

The policy is asked what becomes of the fleet with what the drill takes and without it (:func:`settle`, where each
launch is granted): the difference is the price. A bridge of on-demand VMs, and for how long it stays once spot is
ready, is in it; so is, on the other side, a bridge that goes on already and would end anyway.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hedgeserve.hedge import NewsKind, Scene, ZoneNews
from hedgeserve.replica import STARTING, Market, Replica, ReplicaId, ZoneId
from hedgeserve.units import format_count, format_duration, format_usd_per_hour

if TYPE_CHECKING:
    from hedgeserve.simulate.granted import Course, Step

_HORIZON_S = 3600.0
_FASTER, _SLOWER = 0.75, 2.0
"""By so much less or more than usual a boot may take: what it costs at least and at most."""
_BOOTS_SEEN = 3.0
_MARGIN_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What a drill takes, as far as it matters for the price.

    ``victims`` go, and are paid for ``paid_s`` more at most; ``shut`` are zones that refuse. A launch is ready
    after ``boot_s``, and what is let go of is paid for ``drain_s`` more at most.
    """

    victims: frozenset[ReplicaId]
    shut: frozenset[ZoneId]
    boot_s: float
    paid_s: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class Price:
    """From how much to how much a drill costs, and what there is to say of it.

    ``calm`` is how the fleet's price moves without a drill: in how many seconds, and by how many USD an hour.
    ``due`` are the on-demand replicas that would go without it, and in how many seconds.
    """

    least_usd: float
    most_usd: float
    bridges: int
    bridge_s: float
    bridge_usd_per_hour: float
    launches: int
    kept: int
    kept_s: float
    calm: tuple[tuple[float, float], ...] = ()
    due: tuple[tuple[ReplicaId, float], ...] = ()

    def sentence(self, boot_s: float | None) -> str:
        """It in words; ``boot_s`` is how long a boot takes, where that is known."""
        least, most = f"{max(0.0, self.least_usd):.4f}", f"{max(0.0, self.most_usd):.4f}"
        told = f"up to {most} USD" if float(least) == 0 or least == most else f"about {least} to {most} USD"
        if self.launches:
            took = "some minutes" if boot_s is None else format_duration(boot_s)
            told += f": what takes their place is paid for while it starts ({took})"
        else:
            told += ": nothing takes their place; what goes is paid for until its end"
        if self.bridges:
            verb = "bridges" if self.bridges == 1 else "bridge"
            told += (
                f", and {format_count(self.bridges, 'on-demand replica')} {verb} for about "
                f"{format_duration(round(self.bridge_s))}, {format_usd_per_hour(self.bridge_usd_per_hour)}"
            )
        if self.kept:
            verb = "stays" if self.kept == 1 else "stay"
            span = format_duration(round(self.kept_s))
            told += f", and {format_count(self.kept, 'on-demand replica')} {verb} about {span} longer"
        return told


@dataclass(frozen=True, slots=True)
class Rest:
    """What a drill that is over still costs: who is let go of again, and how long that takes."""

    replicas: tuple[ReplicaId, ...] = ()
    usd: float = 0.0
    for_s: float = 0.0

    def sentence(self) -> str:
        """It in words; empty: nothing that is let go of again, or none that is worth a word."""
        if not self.replicas or f"{self.usd:.4f}" == "0.0000":
            return ""
        verb = "runs" if len(self.replicas) == 1 else "run"
        after = format_duration(round(self.for_s)) or "1s"
        return f"{', '.join(self.replicas)} still {verb}, for about {after}: {self.usd:.4f} USD more"


def foresee(scene: Scene, taking: Taking) -> Price:
    """What a drill that takes this costs, in this world. The policy is copied."""
    seen = scene.observation
    doomed = [one for one in seen.replicas if one.id in taking.victims]
    boots_s = (taking.boot_s * longer for longer in (_FASTER, 1.0, _SLOWER))
    fast, usual, slow = (_with(scene, taking, doomed, boot_s) for boot_s in boots_s)
    calm = _course(scene, seen.replicas, frozenset(), taking.boot_s, ())
    until_s = _BOOTS_SEEN * taking.boot_s + scene.hedge.on_demand_hold + _MARGIN_S
    gone_usd = sum(one.offer.usd_per_hour for one in doomed)
    # Those who go are not paid for from the begin on; at most they are for as long as they may last.
    least = _moves_usd(fast, until_s) - gone_usd * until_s / 3600 - _moves_usd(calm, until_s)
    lingers = gone_usd * taking.paid_s + taking.drain_s * sum(
        step.replica.offer.usd_per_hour for step in slow.steps if not step.launches and step.at_s <= until_s
    )
    most = _moves_usd(slow, until_s) - gone_usd * until_s / 3600 - _moves_usd(calm, until_s) + lingers / 3600
    bridges, kept_s = _bridges(usual, until_s), _kept_s(calm, usual, until_s)
    return Price(
        least,
        max(least, most),
        len(bridges),
        max((end_s - begun_s for _, begun_s, end_s in bridges), default=0.0),
        sum(one.offer.usd_per_hour for one, _, _ in bridges),
        sum(step.launches and step.at_s <= until_s for step in usual.steps),
        len(kept_s),
        max(kept_s, default=0.0),
        tuple((step.at_s, _moved(step)) for step in calm.steps),
        tuple(_ends(calm, until_s).items()),
    )


def foresee_rest(
    scene: Scene, known: frozenset[ReplicaId], boot_s: float, due: Mapping[ReplicaId, float] | None = None
) -> Rest:
    """What goes on after a drill, of the replicas that were launched in it, and of those that stay longer for it.

    ``due`` are on-demand ones of before, each with the seconds after which it would have gone without the drill.
    """
    due = due or {}
    there = scene.observation.replicas
    ages_s = [(scene.at - one.created_at).total_seconds() for one in there if one.state in STARTING]
    left_s = max(1.0, boot_s - min(ages_s, default=0.0))
    course = _course(scene, there, frozenset(), left_s, ())
    until_s = _BOOTS_SEEN * boot_s + scene.hedge.on_demand_hold + _MARGIN_S
    theirs = {one.id for one in there} - known
    goes = [
        step
        for step in course.steps
        if not step.launches
        and (step.replica.id in theirs or step.at_s > due.get(step.replica.id, until_s) + 1)
        and step.at_s <= until_s
    ]
    return Rest(
        tuple(step.replica.id for step in goes),
        sum(
            step.replica.offer.usd_per_hour * (step.at_s - max(0.0, due.get(step.replica.id, 0.0)))
            for step in goes
        )
        / 3600,
        max((step.at_s for step in goes), default=0.0),
    )


def _with(scene: Scene, taking: Taking, doomed: Sequence[Replica], boot_s: float) -> "Course":
    now_s = scene.now_s
    news = [
        ZoneNews(
            one.zone,
            one.market,
            NewsKind.PREEMPTED,
            now_s,
            held_s=now_s - one.since_s,
            instance_type=one.offer.instance_type,
            staged=True,
        )
        for one in doomed
        if one.market is Market.SPOT
    ]
    left = [one for one in scene.observation.replicas if one.id not in taking.victims]
    return _course(scene, left, taking.shut, boot_s, news)


def _course(
    scene: Scene, replicas: Sequence[Replica], shut: frozenset[ZoneId], boot_s: float, news: Sequence[ZoneNews]
) -> "Course":
    from hedgeserve.simulate.granted import settle  # only here: a service without drills does without

    policy = deepcopy(scene.policy)
    for one in news:
        policy.observe(one)
    return settle(
        policy,
        target=scene.observation.target,
        offers=[offer for offer in scene.observation.offers if offer.zone not in shut],
        replicas=replicas,
        now_s=scene.now_s,
        cold_start_s=boot_s,
        rolling=scene.rolling,
        means=scene.means,
        horizon_s=_HORIZON_S,
    )


def _moves_usd(course: "Course", until_s: float) -> float:
    """What all that is launched costs until then, less what is no longer paid for."""
    return sum(_moved(step) * (until_s - step.at_s) for step in course.steps if step.at_s < until_s) / 3600


def _moved(step: "Step") -> float:
    return step.replica.offer.usd_per_hour * (1 if step.launches else -1)


def _bridges(course: "Course", until_s: float) -> list[tuple[Replica, float, float]]:
    """On-demand replicas that are launched and let go of again, with when."""
    begun = {
        step.replica.id: step.at_s
        for step in course.steps
        if step.launches and step.replica.market is Market.ON_DEMAND
    }
    return [
        (step.replica, begun[step.replica.id], step.at_s)
        for step in course.steps
        if not step.launches and step.replica.id in begun and step.at_s <= until_s
    ]


def _kept_s(calm: "Course", usual: "Course", until_s: float) -> list[float]:
    """How much longer each on-demand replica stays that would have gone anyway."""
    ends = _ends(usual, until_s)
    longer = [ends.get(one, until_s) - at_s for one, at_s in _ends(calm, until_s).items()]
    return [span_s for span_s in longer if span_s > 1]


def _ends(course: "Course", until_s: float) -> dict[ReplicaId, float]:
    """When which on-demand replica of now is let go of."""
    launched = {step.replica.id for step in course.steps if step.launches}
    return {
        step.replica.id: step.at_s
        for step in course.steps
        if not step.launches
        and step.replica.market is Market.ON_DEMAND
        and step.replica.id not in launched
        and step.at_s <= until_s
    }
