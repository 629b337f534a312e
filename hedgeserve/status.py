"""The status document: everything at a glance, JSON-able, one shape for the command line, programs and people."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hedgeserve._version import __version__
from hedgeserve.balancer import Load
from hedgeserve.hedge import Plan
from hedgeserve.replica import Market, Offer, Replica, ReplicaId, State, ZoneId


@dataclass(frozen=True, slots=True)
class Glance:
    """What the document is made of, at one moment of the monotonic clock (``now_s``)."""

    service: str
    model: str
    url: str
    state: str
    started_at: datetime
    now_s: float
    load: Load
    plan: Plan
    standing: Mapping[str, Any]
    cost: Mapping[str, Any]
    replicas: Sequence[Replica]
    offers: Sequence[Offer]
    zones: Mapping[ZoneId, str]
    asked_total: int
    outstanding: Callable[[ReplicaId], int]
    in_doubt: Mapping[ReplicaId, str]
    trouble: Sequence[str]
    tasks: int
    recent: Sequence[Mapping[str, Any]]
    model_version: int = 0
    rollout: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The document; its shape is described in ``docs/cli.md`` and only ever grows."""
        on_demand = [offer.usd_per_hour for offer in self.offers if offer.market is Market.ON_DEMAND]
        return {
            "service": self.service,
            "version": __version__,
            "python": platform.python_version(),
            "model": self.model,
            "model_version": self.model_version,
            "rollout": dict(self.rollout) if self.rollout else None,
            "url": self.url,
            "state": self.state,
            "standing": dict(self.standing),
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "uptime_s": round((datetime.now(UTC) - self.started_at).total_seconds(), 1),
            "target": self.plan.target,
            "ready": sum(replica.state is State.READY for replica in self.replicas),
            "queued": self.load.queued,
            "in_flight": self.load.in_flight,
            "requests_total": self.asked_total,
            "usd_per_hour": round(sum(r.offer.usd_per_hour for r in self.replicas if r.vm_id is not None), 4),
            # What the target would cost if all of it ran on demand, at the cheapest offer.
            "on_demand_usd_per_hour": round(min(on_demand) * self.plan.target, 4) if on_demand else None,
            "cost": dict(self.cost),
            "trouble": list(self.trouble),
            "plan": {
                "spot_wanted": self.plan.spot_wanted,
                "on_demand_wanted": self.plan.on_demand_wanted,
                "notes": list(self.plan.notes),
            },
            "replicas": [self._of(replica) for replica in self.replicas],
            "zones": [{"zone": zone, "state": state} for zone, state in self.zones.items()],
            "tasks": self.tasks,
            "events": list(self.recent),
        }

    def _of(self, replica: Replica) -> dict[str, Any]:
        return {
            "id": replica.id,
            "zone": replica.zone,
            "market": str(replica.market),
            "instance_type": replica.offer.instance_type,
            "usd_per_hour": replica.offer.usd_per_hour,
            "state": str(replica.state),
            "version": replica.version,
            "since_s": round(self.now_s - replica.since_s, 1),
            "why": replica.why,
            "url": replica.url,
            "outstanding": self.outstanding(replica.id),
            "in_doubt": self.in_doubt.get(replica.id),
            "notice_in_s": round(replica.notice.deadline_s - self.now_s, 1) if replica.notice else None,
        }
