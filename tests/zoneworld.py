"""Zones, fleets and policies in few words, and a small world in which a policy's plans are carried out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hedgeserve.hedge import (
    Drain,
    Launch,
    NewsKind,
    Observation,
    Plan,
    Policy,
    Terminate,
    ZoneNews,
    make_policy,
)
from hedgeserve.replica import Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import HedgeSpec

BORN = datetime(2026, 1, 1, tzinfo=UTC)
A, B, C = (ZoneId(f"local/east/{letter}") for letter in "abc")
SPOT, ON_DEMAND, EXTERNAL = Market.SPOT, Market.ON_DEMAND, Market.EXTERNAL


def offer(zone: ZoneId, market: Market = SPOT, usd: float | None = None, kind: str = "small") -> Offer:
    price = usd if usd is not None else {SPOT: 0.3, ON_DEMAND: 1.0, EXTERNAL: 0.0}[market]
    return Offer(zone, kind, market, price, BORN)


def offers(*zones: ZoneId) -> tuple[Offer, ...]:
    return tuple(offer(zone, market) for zone in zones for market in (SPOT, ON_DEMAND))


THREE = offers(A, B, C)


def replica(
    number: int,
    zone: ZoneId = A,
    market: Market = SPOT,
    state: State = State.READY,
    since_s: float = 0.0,
    **more: Any,
) -> Replica:
    return Replica(
        id=ReplicaId(f"chat-{number}"),
        offer=more.pop("offer", None) or offer(zone, market),
        state=state,
        since_s=since_s,
        created_at=BORN + timedelta(seconds=number),
        ready_since_s=since_s if state is State.READY else None,
        **more,
    )


def see(
    *replicas: Replica, target: int = 3, now_s: float = 1000.0, offers: Sequence[Offer] = THREE
) -> Observation:
    return Observation(now_s, target, replicas, tuple(offers))


def hedge(**settings: Any) -> Policy:
    return make_policy(
        HedgeSpec(**({"policy": "spothedge", "on_demand_hold": "60s", "retry_delay": "30s"} | settings))
    )


def tell(
    policy: Policy, zone: ZoneId, kind: NewsKind, at_s: float = 1000.0, market: Market = SPOT, detail: str = ""
) -> None:
    policy.observe(ZoneNews(zone, market, kind, at_s, detail))


def launches(plan: Plan, market: Market | None = None) -> list[Launch]:
    found = [action for action in plan.actions if isinstance(action, Launch)]
    return [launch for launch in found if market is None or launch.offer.market is market]


def zones(launched: Iterable[Launch]) -> list[str]:
    return [launch.offer.zone[-1] for launch in launched]


def drains(plan: Plan) -> list[Drain]:
    return [action for action in plan.actions if isinstance(action, Drain)]


def terminations(plan: Plan) -> list[Terminate]:
    return [action for action in plan.actions if isinstance(action, Terminate)]


def applied(seen: Observation, plan: Plan) -> Observation:
    """The observation a moment after the plan was begun, nothing else having happened."""
    replicas = {one.id: one for one in seen.replicas}
    for action in plan.actions:
        match action:
            case Launch():
                number = 10_000 + len(replicas)
                replicas[ReplicaId(f"chat-{number}")] = replica(
                    number, state=State.PLANNED, since_s=seen.now_s, offer=action.offer
                )
            case Drain():
                old = replicas[action.replica]
                replicas[action.replica] = old.to(State.DRAINING, now_s=seen.now_s, why=action.reason)
            case Terminate():
                old = replicas.pop(action.replica)
                if old.state is not State.PLANNED:
                    replicas[old.id] = old.to(State.TERMINATING, now_s=seen.now_s, why=action.reason)
    return replace(seen, replicas=tuple(replicas.values()))


# A small world: zones with a capacity that comes and goes, cold starts, notices and preemptions


@dataclass
class World:
    """Seconds go by; what a plan asks for is done as a cloud would, and told as news."""

    policy: Policy
    offers: tuple[Offer, ...]
    cold_start_s: int
    target: int
    capacity: dict[ZoneId, int]
    now_s: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    born: int = 0
    disturbed_s: float = 0.0
    """When a replica was last lost, or the target last rose."""
    launched: Counter[Market] = field(default_factory=Counter)
    went: list[Replica] = field(default_factory=list)
    """Those that were let go of by a plan, as they were just before."""

    def tick(self) -> None:
        self.now_s += 1
        for zone in self.capacity:
            self._take_back(zone)
        for one in self.replicas:
            if one.state is State.LOADING and self.now_s - one.since_s >= self.cold_start_s:
                self._change(one, one.to(State.READY, now_s=self.now_s, why="ready"))
                tell(self.policy, one.zone, NewsKind.READY, self.now_s, one.market)
        seen = Observation(self.now_s, self.target, tuple(self.replicas), self.offers)
        plan = self.policy.plan(seen)
        for action in plan.actions:
            match action:
                case Launch():
                    self._launch(action)
                case Drain() | Terminate():
                    [one] = [one for one in self.replicas if one.id == action.replica]
                    self.replicas.remove(one)
                    self.went.append(one)

    def ready(self, market: Market | None = None) -> int:
        return sum(one.state is State.READY and market in (None, one.market) for one in self.replicas)

    def alive(self, market: Market | None = None) -> int:
        return sum(one.alive and market in (None, one.market) for one in self.replicas)

    def notice(self, one: Replica, seconds: float) -> None:
        notice = Notice(self.now_s + seconds, "aws")
        self._change(one, one.to(State.NOTICED, now_s=self.now_s, why="aws", notice=notice))
        tell(self.policy, one.zone, NewsKind.NOTICE, self.now_s)
        self.disturbed_s = self.now_s

    def take(self, one: Replica) -> None:
        self.replicas.remove(one)
        tell(self.policy, one.zone, NewsKind.PREEMPTED, self.now_s)
        self.disturbed_s = self.now_s

    def _take_back(self, zone: ZoneId) -> None:
        there = [one for one in self.replicas if one.zone == zone and one.market is SPOT]
        for one in there:
            if one.notice is not None and self.now_s >= one.notice.deadline_s:
                self.take(one)
                there.remove(one)
                break
        for one in there[self.capacity[zone] :]:
            self.take(one)

    def _launch(self, action: Launch) -> None:
        zone, market = action.offer.zone, action.offer.market
        there = sum(one.zone == zone and one.market is SPOT for one in self.replicas)
        if market is SPOT and there >= self.capacity[zone]:
            tell(self.policy, zone, NewsKind.NO_CAPACITY, self.now_s)
            return
        self.born += 1
        self.launched[market] += 1
        self.replicas.append(replica(self.born, state=State.LOADING, since_s=self.now_s, offer=action.offer))

    def _change(self, old: Replica, new: Replica) -> None:
        self.replicas[self.replicas.index(old)] = new


def world(cold_start_s: int = 5, target: int = 2, **settings: Any) -> World:
    return World(hedge(**settings), THREE, cold_start_s, target, {A: 4, B: 4, C: 4})
