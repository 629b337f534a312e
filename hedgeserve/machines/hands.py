"""What a replica's life is given: the hands that it shares with the others, its past, and the order to end."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hedgeserve.drivers.base import Driver
from hedgeserve.engines.base import Engine
from hedgeserve.hedge import Rule, ZoneNews
from hedgeserve.machines.authority import Authority
from hedgeserve.machines.inventory import Inventory
from hedgeserve.machines.journal import Journal
from hedgeserve.machines.keys import SshKeys
from hedgeserve.machines.probe import Prober
from hedgeserve.metrics import Metrics
from hedgeserve.replica import GoneReason, Offer, Traffic
from hedgeserve.spec import Spec


@dataclass(frozen=True, slots=True)
class Hands:
    """What all lives of a fleet share."""

    spec: Spec
    engine: Engine
    engine_key: str = field(repr=False)
    drivers: Mapping[str, Driver]
    inventory: Inventory
    keys: SshKeys
    authority: Authority
    journal: Journal
    prober: Prober
    traffic: Traffic
    metrics: Metrics
    news: Callable[[ZoneNews], None]
    changed: Callable[[], None]
    offers: Callable[[], Sequence[Offer]]
    boots_s: deque[float]


@dataclass(frozen=True, slots=True)
class Order:
    """End this replica: after its requests (until ``deadline_s``) where ``drain``, else at once."""

    drain: bool
    why: str
    gone: GoneReason
    rule: Rule | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a replica that an earlier run of the controller launched.

    ``age_s`` since its launch, ``unbilled_s`` since the ledger's last line about it; whether it ``served`` and
    whether its notice was counted.
    """

    age_s: float
    unbilled_s: float
    served: bool
    noticed: bool
