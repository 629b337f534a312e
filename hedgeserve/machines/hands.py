"""What a replica's life is given: the hands that it shares with the others, its past, and the order to end."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hedgeserve.drivers.base import Driver
from hedgeserve.engines.base import Engine
from hedgeserve.hedge import Rule, ZoneNews
from hedgeserve.machines.inventory import Inventory
from hedgeserve.machines.journal import Journal
from hedgeserve.machines.probe import Prober
from hedgeserve.metrics import Metrics
from hedgeserve.replica import GoneReason, Offer, Traffic
from hedgeserve.spec import Spec
from hedgeserve.tracing import Tracing

if TYPE_CHECKING:
    from hedgeserve.machines.authority import Authority
    from hedgeserve.machines.credentials import Credentials
    from hedgeserve.machines.keys import SshKeys


@dataclass(slots=True)
class Hands:
    """What all lives of one version share. ``credentials`` is None where no pool has VMs.

    ``spec`` and ``prober`` are other ones after a change of model.toml that needs no new replicas.
    """

    spec: Spec
    engine: Engine
    engine_key: str = field(repr=False)
    drivers: Mapping[str, Driver]
    inventory: Inventory
    credentials: "Credentials | None"
    journal: Journal
    prober: Prober
    traffic: Traffic
    metrics: Metrics
    news: Callable[[ZoneNews], None]
    changed: Callable[[], None]
    offers: Callable[[], Sequence[Offer]]
    boots_s: deque[float]
    tracing: "Tracing | None" = None

    @property
    def keys(self) -> "SshKeys":
        """The SSH keys that the lives of VMs need."""
        return self._for_vms().keys

    @property
    def authority(self) -> "Authority":
        """The authority for the engines of VMs."""
        return self._for_vms().authority

    def _for_vms(self) -> "Credentials":
        if self.credentials is None:
            raise RuntimeError("a VM, in a service whose pools have none: there are no credentials for it")
        return self.credentials


@dataclass(frozen=True, slots=True)
class Order:
    """End this replica: after its requests (until ``deadline_s``) where ``drain``, else at once.

    They have ``patience_s``; None: ``timeouts.drain``.
    """

    drain: bool
    why: str
    gone: GoneReason
    rule: Rule | None = None
    deadline_s: float | None = None
    patience_s: float | None = None


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
