"""The fleet as requests may use it: one immutable snapshot after the other."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hedgeserve.machines.external import ExternalLife
from hedgeserve.replica import STARTING, Replica, ReplicaId, Role, RouteTarget, RoutingSnapshot, State

if TYPE_CHECKING:
    from hedgeserve.machines.life import ReplicaLife

_ROUTABLE = frozenset({State.READY, State.NOTICED, State.DRAINING})


class Routes:
    """Makes the snapshots, and numbers them; knows what the replicas of each version are for."""

    def __init__(self, engine_key: str) -> None:
        self._engine_key = engine_key
        self._version = 0
        self._roles: Mapping[int, Role] = {}

    def assign(self, roles: Mapping[int, Role]) -> bool:
        """Say what the replicas of each version are for; whether that is new."""
        is_new = roles != self._roles
        self._roles = dict(roles)
        return is_new

    def snapshot(
        self, lives: Mapping[ReplicaId, "ReplicaLife"], externals: Mapping[ReplicaId, ExternalLife]
    ) -> RoutingSnapshot:
        """All replicas that requests may be on."""
        self._version += 1
        replicas = [*(life.replica for life in externals.values()), *(life.replica for life in lives.values())]
        targets = tuple(
            self._target(one, lives.get(one.id), externals.get(one.id))
            for one in replicas
            if one.state in _ROUTABLE and one.url
        )
        coming = frozenset(one.version for one in replicas if one.state in STARTING)
        return RoutingSnapshot(self._version, targets, coming)

    def _target(self, replica: Replica, life: "ReplicaLife | None", external: ExternalLife | None) -> RouteTarget:
        role, url = self._roles.get(replica.version, Role.SERVE), replica.url or ""
        is_draining = replica.state is State.DRAINING
        is_patient = is_draining and life is not None and life.is_patient
        ends_s = [replica.notice.deadline_s] if replica.notice else []
        if is_draining and life is not None:
            ends_s.append(replica.since_s + life.patience_s)
        return RouteTarget(
            id=replica.id,
            url=url,
            zone=replica.zone,
            market=replica.market,
            accepting=not is_draining and role is not Role.HOLD,
            preferred=replica.state is State.READY and role is Role.SERVE,
            api_key=external.api_key if external else self._engine_key,
            own_tls=external is None and url.startswith("https:"),
            ends_at_s=min(ends_s, default=None),
            throughput=replica.offer.throughput,
            version=replica.version,
            resumes=role is Role.HOLD if replica.state is State.READY else is_patient,
        )
