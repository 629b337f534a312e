"""What serving a model file would come to, against what runs now: changed keys, launches, cost, losses. Pure.

`hedgeserve plan` prints it, and whoever is about to apply a model file may show the same: :func:`plan_service` is
given the spec, what its pools offer, and what runs, and tells nothing but what the policy itself would do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hedgeserve.budgets import budget_of
from hedgeserve.hedge import Means, Rolling, Rollout, Spent, Strategy, make_policy
from hedgeserve.modelfile.effects import Change, Effect, changes
from hedgeserve.replica import Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.simulate.fromspec import cold_starts_s
from hedgeserve.simulate.prospect import Prospect, prospect
from hedgeserve.spec import Cloud, Spec
from hedgeserve.versions import content_of, digest_of

_NOW_S = 1e6
"""The clock's reading now: far enough from 0 that what is long past is still after it."""
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs: what it was told, what its policy has learnt, and its replicas.

    ``memory`` is what :meth:`~hedgeserve.hedge.Policy.export_memory` of the policy ``policy`` gives.
    ``overridden`` are keys that an option or the environment has set: they stand above the file, and are no change
    of it. ``version`` is the one that is wanted, ``rollout`` the roll-out under way, ``boot_s`` how long a replica
    takes until it is ready, going by the last ones (None: nobody knows yet). ``versions`` are the numbers of all
    versions that there have been, by their digests, ``taken_back`` those that were taken back, with the reason.
    ``resting`` says why nothing is launched whatever the load, and what ends that; empty: it is awake.
    """

    spec: Spec
    policy: str
    memory: Mapping[str, Any]
    target: int
    replicas: tuple[Replica, ...]
    overridden: frozenset[str] = frozenset()
    version: int = 1
    rollout: Rollout | None = None
    boot_s: float | None = None
    versions: Mapping[str, int] = field(default_factory=dict)
    taken_back: Mapping[int, str] = field(default_factory=dict)
    resting: str = ""

    @property
    def ready(self) -> int:
        """How many replicas are ready."""
        return sum(replica.state is State.READY for replica in self.replicas)

    @property
    def usd_per_hour(self) -> float:
        """What those with a VM cost now."""
        return sum(replica.offer.usd_per_hour for replica in self.replicas if replica.state is not State.PLANNED)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What would become of a service.

    ``changes`` and ``replaced`` compare with ``running`` and are empty without it: ``replaced`` are the replicas
    that run what would be another version. ``prospect`` is for the target now, or the least that a new service may
    have; ``at_most`` for the most replicas that the load may ask for, where that is another number. ``rollout`` is
    the one that goes on then, ``cold_start_s`` how long each launch is taken to need.
    """

    spec: Spec
    running: Running | None
    changes: tuple[Change, ...]
    replaced: tuple[Replica, ...]
    prospect: Prospect
    at_most: Prospect | None
    rollout: Rollout | None
    cold_start_s: float

    @property
    def needs_restart(self) -> bool:
        """Whether a running service would have to be stopped and started for it."""
        return any(change.effect is Effect.RESTART for change in self.changes)

    @property
    def waits(self) -> tuple[str, ...]:
        """Why launches wait at the begin though they are wanted: boots of what they would run have failed."""
        versions = {0} if self.running is None else {self.running.version}
        if self.rollout is not None:
            versions = {self.rollout.new, self.rollout.old}
        held = self.prospect.course.first.held
        return tuple(why for version, why in held.items() if version in versions)


def plan_service(
    spec: Spec,
    offers: Sequence[Offer],
    running: Running | None = None,
    *,
    externals: Sequence[ZoneId] = (),
    rollout: Rollout | None = None,
    spent: Spent | None = None,
    at: datetime = _EPOCH,
) -> ServicePlan:
    """What serving ``spec`` would come to where its pools make these offers.

    Without ``running`` from nothing, else from the replicas and with the experience of the service that runs.
    ``externals`` are the zones of static servers, which are taken to answer. ``rollout`` is the one that would
    begin, where that is known; else it is the one that the changed keys ask for. ``spent`` is what today
    and this month have cost by ``at``; the caps of the spec leave the rest. Nothing is asked of any cloud.
    """
    lowest, highest = spec.replicas.lowest, spec.replicas.highest
    # A service that may sleep is looked at awake: what it costs to keep none is known.
    least = max(1, lowest)
    target = least if running is None else min(max(running.target, least), highest)
    hedge, policy = spec.hedge_for_load(), make_policy(spec.hedge_for_load())
    theirs = tuple(_external(number, zone) for number, zone in enumerate(externals, start=1))
    mine: tuple[Replica, ...] = ()
    if running is not None:
        mine = tuple(_as_offered(one, offers) for one in running.replicas if one.market is not Market.EXTERNAL)
        if running.policy == policy.name:
            policy.restore_memory(running.memory, _NOW_S)
    cold_start_s = max(cold_starts_s(spec.backtest))
    if running is not None and running.boot_s is not None:
        cold_start_s = running.boot_s
    found: tuple[Change, ...] = ()
    if running is not None:
        found = tuple(one for one in changes(running.spec, spec) if one.key not in running.overridden)
    another = any(change.effect is Effect.VERSION for change in found)
    if running is not None and rollout is None:
        rollout = _next(running, spec) if another else running.rollout
    means = None
    if spec.budget.any:
        means = Means(budget_of(spec), spent or Spent(0.0, 0.0), at, _NOW_S)
    return ServicePlan(
        spec=spec,
        running=running,
        changes=found,
        replaced=tuple(one for one in mine if one.alive) if another else (),
        prospect=prospect(
            hedge,
            target=target,
            offers=offers,
            replicas=(*theirs, *mine),
            policy=policy,
            now_s=_NOW_S,
            cold_start_s=cold_start_s,
            rolling=None if rollout is None else Rolling(rollout, spec.update),
            means=means,
            version=0 if running is None else running.version,
        ),
        at_most=None
        if highest == target
        else prospect(
            hedge,
            target=highest,
            offers=offers,
            replicas=theirs,
            now_s=_NOW_S,
            cold_start_s=cold_start_s,
            means=means,
        ),
        rollout=rollout,
        cold_start_s=cold_start_s,
    )


def _next(running: Running, spec: Spec) -> Rollout:
    """The roll-out of the version that these words are: one that there has been, or the next number."""
    known = (running.version, *running.versions.values(), *(one.version for one in running.replicas))
    number = running.versions.get(digest_of(content_of(spec)), max(known) + 1)
    left, strategy = running.rollout, Strategy(spec.update.strategy)
    if left is not None and left.strategy is not Strategy.ROLLBACK and number == left.old:
        strategy = Strategy.ROLLBACK  # what a roll-out under way leaves has never been left altogether
    return Rollout(old=running.version, new=number, strategy=strategy)


def read_running(document: Mapping[str, Any], status: Mapping[str, Any]) -> Running:
    """The service that answered with these: its `/admin/v1/spec` and its `/admin/v1/status`.

    Raises:
        ValueError: It is of another release, and what it says is not understood here.
    """
    try:
        return Running(
            spec=Spec.model_validate(document["spec"]),
            policy=str(document["policy"]),
            memory=document["memory"],
            target=int(status["target"]),
            replicas=tuple(_replica(told) for told in status["replicas"]),
            overridden=frozenset(map(str, document.get("overridden", ()))),
            version=int(status.get("model_version", 1)),
            rollout=_rollout(status.get("rollout")),
            boot_s=document.get("boot_s"),
            versions={str(digest): int(number) for digest, number in document.get("versions", {}).items()},
            taken_back={int(number): str(why) for number, why in document.get("taken_back", {}).items()},
            resting=_resting(status.get("standing") or {}),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error!r}") from error


def _resting(standing: Mapping[str, Any]) -> str:
    """Why it rests, as its status says it; empty: it is awake."""
    if standing.get("rest", "awake") == "awake":
        return ""
    wakes = "; a request wakes it before" if standing.get("wakes_on_request") else ""
    return f"{standing['why']}{wakes}"


def _rollout(told: Mapping[str, Any] | None) -> Rollout | None:
    if told is None:
        return None
    switched_s = _NOW_S if told["state"] == "switched" else None
    return Rollout(int(told["from"]), int(told["to"]), Strategy(told["strategy"]), switched_s=switched_s)


def _replica(told: Mapping[str, Any]) -> Replica:
    state, since_s = State(told["state"]), _NOW_S - float(told["since_s"])
    notice_in_s = told["notice_in_s"]
    offer = Offer(
        ZoneId(told["zone"]),
        str(told["instance_type"]),
        Market(told["market"]),
        float(told["usd_per_hour"]),
        _EPOCH,
    )
    return Replica(
        id=ReplicaId(told["id"]),
        offer=offer,
        state=state,
        since_s=since_s,
        created_at=_EPOCH - timedelta(seconds=float(told["since_s"])),
        why=str(told["why"]),
        ready_since_s=since_s if state is State.READY else None,
        notice=None if notice_in_s is None else Notice(_NOW_S + float(notice_in_s), "its cloud"),
        version=int(told.get("version", 1)),
    )


def _as_offered(replica: Replica, offers: Sequence[Offer]) -> Replica:
    """The replica with the throughput of what is offered: a status tells what is paid, and no more."""
    mine = (replica.zone, replica.offer.instance_type, replica.market)
    for offer in offers:
        if (offer.zone, offer.instance_type, offer.market) == mine:
            return replace(replica, offer=replace(replica.offer, throughput=offer.throughput))
    return replica


def _external(number: int, zone: ZoneId) -> Replica:
    offer = Offer(zone, "static", Market.EXTERNAL, 0.0, _EPOCH)
    name = ReplicaId(f"{Cloud.STATIC}-{number}")
    return Replica(name, offer, State.READY, _NOW_S, offer.read_at, ready_since_s=_NOW_S)
