"""What a transcript holds, and each entry as one JSON line and back, without loss.

The lines, each an object whose ``line`` says what it is:

* ``start``: a service began; its ``[hedge]`` table, and the memory that its policy took up.
* ``offer``: an offer and its number ``n``, by which the lines below name it. Numbers begin anew with each start.
* ``news``: what the policy was told of a zone.
* ``plan``: what it saw (``offers`` only where they are others than in the plan before) and what it answered.

Times that end in ``_s`` are on the monotonic clock of the service that wrote them, enumerations are their values.
URLs of replicas are left out: no policy reads them. Nothing secret is in what a policy is told.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from hedgeserve.hedge import Action, Drain, Launch, NewsKind, Observation, Plan, Rule, Terminate, ZoneNews
from hedgeserve.replica import GoneReason, Market, Notice, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import HedgeSpec

FORMAT = 1
"""Grows when a reader of before could not read the lines any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A service began: its policy was made of ``hedge`` and took up ``memory`` (None: there was none).

    ``memory_at_s`` is the time that the ages in the memory count from, on the clock of all times after this.
    """

    at: datetime
    version: str
    hedge: HedgeSpec
    memory: Mapping[str, Any] | None = None
    memory_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A question to the policy, and its answer."""

    observation: Observation
    plan: Plan


Entry = Started | ZoneNews | Planned


class Encoder:
    """Turns entries into lines; remembers which offers have been written."""

    def __init__(self) -> None:
        self._numbers: dict[Offer, int] = {}
        self._next = 0
        self._offers: list[int] | None = None

    def lines(self, entry: Entry) -> list[str]:
        """The lines of one entry, without their ends: new offers first, the entry last."""
        match entry:
            case Started():
                self._numbers, self._next, self._offers = {}, 0, None
                return [_line("start", _start_document(entry))]
            case ZoneNews():
                return [_line("news", _news_document(entry))]
            case Planned():
                return self._plan_lines(entry)

    def _plan_lines(self, planned: Planned) -> list[str]:
        seen, plan = planned.observation, planned.plan
        named = [*seen.offers, *(replica.offer for replica in seen.replicas)]
        named += [action.offer for action in plan.actions if isinstance(action, Launch)]
        lines: list[str] = []
        numbers: dict[Offer, int] = {}
        for offer in named:
            if offer in numbers:
                continue
            number = self._numbers.get(offer)
            if number is None:
                number, self._next = self._next, self._next + 1
                lines.append(_line("offer", {"n": number, **_offer_document(offer)}))
            numbers[offer] = number
        # Only what was named last: prices are read again and again, and old readings do not come back.
        self._numbers = numbers
        offers = [numbers[offer] for offer in seen.offers]
        document: dict[str, Any] = {"now_s": seen.now_s, "target": seen.target}
        if offers != self._offers:
            document["offers"] = self._offers = offers
        if seen.runs != (0,):
            document["runs"] = seen.runs
        document["replicas"] = [_replica_document(one, numbers[one.offer]) for one in seen.replicas]
        document["plan"] = {
            "target": plan.target,
            "spot_wanted": plan.spot_wanted,
            "on_demand_wanted": plan.on_demand_wanted,
            "actions": [_action_document(action, numbers) for action in plan.actions],
            "notes": list(plan.notes),
            "again_at_s": plan.again_at_s,
        }
        if plan.held:
            document["plan"]["held"] = [*plan.held.items()]
        lines.append(_line("plan", document))
        return lines


class Decoder:
    """Turns lines back into entries; remembers the offers that it has read."""

    def __init__(self) -> None:
        self._offers: dict[int, Offer] = {}
        self._offered: tuple[Offer, ...] = ()

    def entry(self, document: Mapping[str, Any]) -> Entry | None:
        """The entry of one line; None for a line that only names an offer.

        Raises:
            ValueError: It is no line of a transcript, or one of a format to come.
            KeyError, TypeError, AttributeError: Something is missing in it, or is of another shape.
        """
        match document["line"]:
            case "start":
                self._offers, self._offered = {}, ()
                return _start(document)
            case "offer":
                self._offers[document["n"]] = _offer(document)
                return None
            case "news":
                return _news(document)
            case "plan":
                return self._planned(document)
            case other:
                raise ValueError(f"there are no lines of the kind {other!r}")

    def _planned(self, document: Mapping[str, Any]) -> Planned:
        if "offers" in document:
            self._offered = tuple(self._offers[number] for number in document["offers"])
        replicas = tuple(_replica(one, self._offers[one["offer"]]) for one in document["replicas"])
        told = document["plan"]
        plan = Plan(
            target=told["target"],
            spot_wanted=told["spot_wanted"],
            on_demand_wanted=told["on_demand_wanted"],
            actions=tuple(self._action(one) for one in told["actions"]),
            notes=tuple(told["notes"]),
            again_at_s=told["again_at_s"],
            held=dict(told.get("held", ())),
        )
        runs = tuple(document.get("runs", (0,)))
        return Planned(Observation(document["now_s"], document["target"], replicas, self._offered, runs), plan)

    def _action(self, document: Mapping[str, Any]) -> Action:
        rule, reason = Rule(document["rule"]), document["reason"]
        match document["do"]:
            case "launch":
                return Launch(self._offers[document["offer"]], rule, reason)
            case "drain":
                gone = GoneReason(document["gone"])
                return Drain(ReplicaId(document["replica"]), rule, reason, gone, document["deadline_s"])
            case "terminate":
                return Terminate(ReplicaId(document["replica"]), rule, reason, GoneReason(document["gone"]))
            case other:
                raise ValueError(f"there are no actions of the kind {other!r}")


def _line(kind: str, document: Mapping[str, Any]) -> str:
    return json.dumps({"line": kind, **document}, separators=(",", ":"))


def _start_document(started: Started) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": started.version,
        "at": started.at.isoformat(),
        "hedge": _hedge_document(started.hedge),
        "memory": started.memory,
        "memory_at_s": started.memory_at_s,
    }


def _start(document: Mapping[str, Any]) -> Started:
    if document["format"] != FORMAT:
        raise ValueError(f"it is of the format {document['format']}, and this HedgeServe reads {FORMAT}")
    return Started(
        at=datetime.fromisoformat(document["at"]),
        version=document["version"],
        hedge=HedgeSpec.model_validate(document["hedge"]),
        memory=document["memory"],
        memory_at_s=document["memory_at_s"],
    )


def _hedge_document(hedge: HedgeSpec) -> dict[str, Any]:
    """The table as a model file would have it, with every digit of its durations."""
    written = hedge.model_dump(mode="json")
    for key, value in hedge:
        if isinstance(written[key], str) and isinstance(value, float):
            written[key] = f"{Decimal(repr(value)):f}s"
    return written


def _news_document(news: ZoneNews) -> dict[str, Any]:
    return {
        "zone": news.zone,
        "market": news.market,
        "kind": news.kind,
        "at_s": news.at_s,
        "detail": news.detail,
        "held_s": news.held_s,
        "lead_s": news.lead_s,
        **({"instance_type": news.instance_type} if news.instance_type else {}),
        **({"staged": True} if news.staged else {}),
        **({"version": news.version} if news.version else {}),
    }


def _news(document: Mapping[str, Any]) -> ZoneNews:
    return ZoneNews(
        ZoneId(document["zone"]),
        Market(document["market"]),
        NewsKind(document["kind"]),
        document["at_s"],
        document["detail"],
        document["held_s"],
        document["lead_s"],
        document.get("instance_type", ""),
        document.get("staged", False),
        document.get("version", 0),
    )


def _offer_document(offer: Offer) -> dict[str, Any]:
    return {
        "zone": offer.zone,
        "instance_type": offer.instance_type,
        "market": offer.market,
        "usd_per_hour": offer.usd_per_hour,
        "read_at": offer.read_at.isoformat(),
    } | ({"throughput": offer.throughput} if offer.throughput != 1 else {})


def _offer(document: Mapping[str, Any]) -> Offer:
    return Offer(
        ZoneId(document["zone"]),
        document["instance_type"],
        Market(document["market"]),
        document["usd_per_hour"],
        datetime.fromisoformat(document["read_at"]),
        document.get("throughput", 1.0),
    )


def _replica_document(replica: Replica, offer: int) -> dict[str, Any]:
    notice = replica.notice
    return {
        "id": replica.id,
        "offer": offer,
        "state": replica.state,
        "since_s": replica.since_s,
        "created_at": replica.created_at.isoformat(),
        "why": replica.why,
        "vm_id": replica.vm_id,
        "ready_since_s": replica.ready_since_s,
        "notice": None if notice is None else {"deadline_s": notice.deadline_s, "source": notice.source},
        "gone": replica.gone,
    }


def _replica(document: Mapping[str, Any], offer: Offer) -> Replica:
    notice, gone = document["notice"], document["gone"]
    return Replica(
        id=ReplicaId(document["id"]),
        offer=offer,
        state=State(document["state"]),
        since_s=document["since_s"],
        created_at=datetime.fromisoformat(document["created_at"]),
        why=document["why"],
        vm_id=document["vm_id"],
        ready_since_s=document["ready_since_s"],
        notice=None if notice is None else Notice(notice["deadline_s"], notice["source"]),
        gone=None if gone is None else GoneReason(gone),
    )


def _action_document(action: Action, numbers: Mapping[Offer, int]) -> dict[str, Any]:
    match action:
        case Launch():
            document: dict[str, Any] = {"do": "launch", "offer": numbers[action.offer]}
        case Drain():
            document = {"do": "drain", "replica": action.replica, "gone": action.gone}
            document["deadline_s"] = action.deadline_s
        case Terminate():
            document = {"do": "terminate", "replica": action.replica, "gone": action.gone}
    return {**document, "rule": action.rule, "reason": action.reason}
