"""A service's transcript, played to a fresh policy: does it decide the same, or what would another have decided?

The policy is fed what the one of the service was: its memory, the news and the observations, in their order. So
the same settings give the same plans, which proves that what is simulated is what runs. Other settings are asked
at the same moments about the same fleet, the one that the recorded decisions had made: what would have come of
other decisions is for a back-test to tell.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from hedgeserve.errors import TranscriptError
from hedgeserve.hedge import Action, Drain, Launch, Plan, Policy, ZoneNews, make_policy
from hedgeserve.replica import Market, Replica, ReplicaId
from hedgeserve.spec import HedgeSpec
from hedgeserve.transcript.entries import Planned, Started
from hedgeserve.transcript.reader import read_transcript
from hedgeserve.units import format_duration

_DIFFERENCES_KEPT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One plan that came out otherwise; ``recorded`` and ``replayed`` tell in words what differs in it.

    ``plan`` counts from 1 through the whole transcript, ``at_s`` is seconds since the first plan of its run.
    ``again`` plans after it differ in the same words.
    """

    plan: int
    run: int
    at_s: float
    recorded: str
    replayed: str
    again: int = 0

    def line(self) -> str:
        """The difference in one sentence."""
        when = f"plan {self.plan}, {format_duration(round(self.at_s, 3))} after the start of run {self.run}"
        return f"{when}: recorded {self.recorded}; replayed {self.replayed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What came of a replay: of ``plans`` plans, ``same`` came out as they were recorded.

    ``recorded`` and ``replayed`` name the policies; ``runs`` are the service's starts. With ``other_settings``
    only what a plan does and where counts as a difference, else every number and sentence of it. ``differences``
    are the first ones.
    """

    recorded: tuple[str, ...]
    replayed: tuple[str, ...]
    other_settings: bool
    runs: int
    news: int
    plans: int
    same: int
    decisions: int
    differences: tuple[Difference, ...]


def replay_transcript(
    path: Path, *, policy: str | None = None, overprovision: int | None = None, keep: int = _DIFFERENCES_KEPT
) -> ReplayReport:
    """Feed a transcript to fresh policies, made as recorded or with these settings in place of the recorded ones.

    A policy that was not the service's own begins without the memory that the service took up. ``keep`` is how
    many differences are reported.

    Raises:
        TranscriptError: The transcript cannot be read, or the settings cannot be.
    """
    changes = {"policy": policy, "overprovision": overprovision}
    given = {key: value for key, value in changes.items() if value is not None}
    kept: list[Difference] = []
    recorded: dict[str, None] = {}
    replayed: dict[str, None] = {}
    runs = news = plans = same = decisions = 0
    others = other = False
    ordered: set[ReplicaId] = set()
    begun_s: float | None = None
    last: tuple[str, str] | None = None
    fresh: Policy
    for entry in read_transcript(path):
        match entry:
            case Started(hedge=before):
                hedge = _changed(before, given)
                other = hedge != before
                others = others or other
                fresh, begun_s, last, runs = make_policy(hedge), None, None, runs + 1
                ordered.clear()
                recorded[before.policy], replayed[hedge.policy] = None, None
                if entry.memory is not None and hedge.policy == before.policy:
                    fresh.restore_memory(entry.memory, entry.memory_at_s)
            case ZoneNews():
                news += 1
                fresh.observe(entry)
            case Planned(observation=seen, plan=old):
                plans, decisions = plans + 1, decisions + sum(1 for _ in _new_orders(old, ordered))
                begun_s = seen.now_s if begun_s is None else begun_s
                new = fresh.plan(seen)
                words = _acts_otherwise(old, new, seen.replicas) if other else _differs(old, new)
                same += words is None
                if words is not None and words == last and kept and kept[-1].plan + kept[-1].again + 1 == plans:
                    kept[-1] = replace(kept[-1], again=kept[-1].again + 1)
                elif words is not None and len(kept) < keep:
                    at_s = seen.now_s - begun_s
                    kept.append(Difference(plan=plans, run=runs, at_s=at_s, recorded=words[0], replayed=words[1]))
                last = words
    return ReplayReport(
        recorded=tuple(recorded),
        replayed=tuple(replayed),
        other_settings=others,
        runs=runs,
        news=news,
        plans=plans,
        same=same,
        decisions=decisions,
        differences=tuple(kept),
    )


def decisions_of(path: Path) -> Iterator[tuple[float, Action, Replica | None]]:
    """What the service of a transcript did: each decision once, when it was made, and the replica that it ends.

    A replica's end is planned anew until it is seen to have begun; it is told here when it was decided.

    Raises:
        TranscriptError: The transcript cannot be read.
    """
    ordered: set[ReplicaId] = set()
    for entry in read_transcript(path):
        if isinstance(entry, Started):
            ordered.clear()
        if not isinstance(entry, Planned):
            continue
        there = {replica.id: replica for replica in entry.observation.replicas}
        for action in _new_orders(entry.plan, ordered):
            replica = None if isinstance(action, Launch) else there.get(action.replica)
            yield entry.observation.now_s, action, replica


def _new_orders(plan: Plan, ordered: set[ReplicaId]) -> Iterator[Action]:
    """What is not planned once more for a replica that is in ``ordered``, into which the others go."""
    for action in plan.actions:
        if isinstance(action, Launch):
            yield action
        elif action.replica not in ordered:
            ordered.add(action.replica)
            yield action


def _changed(hedge: HedgeSpec, given: dict[str, str | int]) -> HedgeSpec:
    try:
        checked = HedgeSpec.model_validate(given)
    except ValidationError as error:
        told = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise TranscriptError(f"the transcript cannot be replayed with these settings: {told}") from None
    return hedge.model_copy(update={key: getattr(checked, key) for key in given})


def _differs(old: Plan, new: Plan) -> tuple[str, str] | None:
    """The first thing in which two plans differ, in words for each; None: they are the same."""
    if old == new:
        return None
    for one, other in zip(old.actions, new.actions, strict=False):
        if one != other:
            return _full(one), _full(other)
    if len(old.actions) != len(new.actions):
        shared = min(len(old.actions), len(new.actions))
        return (
            "; ".join(map(_full, old.actions[shared:])) or "nothing more",
            "; ".join(map(_full, new.actions[shared:])) or "nothing more",
        )
    for words, one_value, other_value in (
        ("a target of {}", old.target, new.target),
        ("{} spot replicas wanted", old.spot_wanted, new.spot_wanted),
        ("{} on-demand replicas wanted", old.on_demand_wanted, new.on_demand_wanted),
        ("the notes {}", old.notes, new.notes),
    ):
        if one_value != other_value:
            return words.format(one_value), words.format(other_value)
    return f"to be asked again at {old.again_at_s}", f"to be asked again at {new.again_at_s}"


def _acts_otherwise(old: Plan, new: Plan, replicas: tuple[Replica, ...]) -> tuple[str, str] | None:
    there = {replica.id: replica for replica in replicas}
    did = Counter(_short(action, there) for action in old.actions)
    would = Counter(_short(action, there) for action in new.actions)
    if did == would:
        return None
    return _counted(did), _counted(would)


def _counted(actions: Counter[str]) -> str:
    told = [f"{count} x {words}" if count > 1 else words for words, count in actions.items()]
    return ", ".join(told) or "nothing"


def _short(action: Action, there: dict[ReplicaId, Replica]) -> str:
    if isinstance(action, Launch):
        return f"launch {_market(action.offer.market)} in {action.offer.zone}"
    what = "drain" if isinstance(action, Drain) else "terminate"
    replica = there.get(action.replica)
    where = "" if replica is None else f" ({_market(replica.market)} in {replica.zone})"
    return f"{what} {action.replica}{where}"


def _full(action: Action) -> str:
    return f"{_short(action, {})} ({action.rule}: {action.reason})"


def _market(market: Market) -> str:
    return "on-demand" if market is Market.ON_DEMAND else str(market)
