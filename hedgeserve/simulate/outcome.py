"""What came of one simulated window: lives, decisions, money, and the share of the time that held."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hedgeserve.replica import GoneReason, Market, ReplicaId, ZoneId


@dataclass(frozen=True, slots=True)
class Life:
    """One simulated replica, in seconds since the window began; ``gone`` None: it was there at the end."""

    id: ReplicaId
    zone: ZoneId
    market: Market
    launched_s: float
    ready_s: float | None
    noticed_s: float | None
    ended_s: float
    gone: GoneReason | None
    usd: float


@dataclass(frozen=True, slots=True)
class Decision:
    """One action of the policy: what (``"launch"``, ``"drain"``, ``"terminate"``), where, by which rule, why."""

    at_s: float
    what: str
    zone: ZoneId
    market: Market
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A launch that the zone refused."""

    at_s: float
    zone: ZoneId
    market: Market


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOutcome:
    """What became of the requests: one latency (arrival to last byte) and one TTFT for each that was answered.

    Requests that arrived before ``warm_up_s`` are not counted. ``failed`` by reason: ``"timeout"``, ``"lost"``,
    ``"queue_full"``, ``"no_replica"``. ``unfinished`` were waiting or being answered at the end: ``arrived`` is
    the sum of answered, failed and unfinished.
    """

    arrived: int
    latencies_s: tuple[float, ...]
    ttfts_s: tuple[float, ...]
    failed: Mapping[str, int]
    unfinished: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOutcome:
    """One window under one policy.

    Everything but ``lives``, ``decisions``, ``refusals`` and the step functions leaves out the warm-up. The step
    functions (``ready``, ``targets``) hold (time, value) at each change, from the window's begin on.
    ``available_s`` is the time with as many ready replicas as the target, of ``counted_s``; a replica under
    notice counts until its end.
    """

    policy: str
    window_s: float
    warm_up_s: float
    counted_s: float
    available_s: float
    spot_usd: float
    on_demand_usd: float
    on_demand_h: float
    preemptions: int
    launches: int
    refused: int
    lives: tuple[Life, ...]
    refusals: tuple[Refusal, ...]
    decisions: tuple[Decision, ...]
    ready: Mapping[ZoneId, Mapping[Market, tuple[tuple[float, int], ...]]]
    targets: tuple[tuple[float, int], ...]
    load: LoadOutcome | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def cost_usd(self) -> float:
        """Everything that was billed."""
        return self.spot_usd + self.on_demand_usd

    @property
    def availability(self) -> float:
        """The share of the time with as many ready replicas as the target."""
        return self.available_s / self.counted_s if self.counted_s else 1.0
