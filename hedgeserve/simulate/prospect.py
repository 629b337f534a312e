"""What a service would come to: its fleet at rest, what it costs, what is left when a zone, region or cloud goes.

Pure. Prices are those of the offers, and every launch is taken to be granted: what preemptions and refusals make
of it, a back-test tells.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hedgeserve.hedge import Means, Policy, Rolling, make_policy
from hedgeserve.replica import Market, Offer, Replica
from hedgeserve.simulate.granted import Course, settle
from hedgeserve.spec import Cloud, HedgeSpec

HOURS_A_MONTH = 730.0
"""As clouds count: a year of 8760 hours in twelve."""


class Domain(StrEnum):
    """What may go at once, the smallest first."""

    ZONE = "zone"
    REGION = "region"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Loss:
    """What is left of a fleet at rest when one domain goes with all that runs there."""

    domain: Domain
    place: str
    lost: int
    left: int
    target: int

    @property
    def enough(self) -> bool:
        """Whether as many stay ready as the load needs."""
        return self.left >= self.target


@dataclass(frozen=True, slots=True)
class Prospect:
    """What becomes of the service at one target: the course of its fleet, and the losses that may befall it.

    ``on_demand_usd_per_hour`` is what the target would cost on demand at the cheapest offer, the baseline of all
    savings; None where no pool offers on-demand.
    """

    course: Course
    on_demand_usd_per_hour: float | None
    losses: tuple[Loss, ...] = field(default=())

    @property
    def target(self) -> int:
        """The replicas that the load needs."""
        return self.course.target

    @property
    def usd_per_hour(self) -> float:
        """What the fleet costs an hour, once it rests."""
        return self.course.usd_per_hour

    @property
    def usd_per_month(self) -> float:
        """The same a month."""
        return self.usd_per_hour * HOURS_A_MONTH

    def worst(self, domain: Domain) -> Loss | None:
        """The loss of this kind that leaves the fewest; None where nothing runs."""
        return min(
            (loss for loss in self.losses if loss.domain is domain), key=lambda loss: loss.left, default=None
        )


def prospect(
    hedge: HedgeSpec,
    *,
    target: int,
    offers: Sequence[Offer],
    replicas: Sequence[Replica] = (),
    policy: Policy | None = None,
    now_s: float = 0.0,
    cold_start_s: float = 120.0,
    rolling: Rolling | None = None,
    means: Means | None = None,
    version: int = 0,
) -> Prospect:
    """Where the policy that ``hedge`` names leads from these replicas, its launches granted.

    ``policy`` is one that has learnt something already, for use here alone; None: a new one. Replicas that
    somebody else runs must be among ``replicas``. ``rolling`` is a roll-out that begins with it,
    ``means`` the caps that are held to, ``version`` what launches run without one.
    """
    asked = make_policy(hedge) if policy is None else policy
    course = settle(
        asked,
        target=target,
        offers=offers,
        replicas=replicas,
        now_s=now_s,
        cold_start_s=cold_start_s,
        rolling=rolling,
        means=means,
        version=version,
    )
    on_demand = [offer.usd_per_hour for offer in offers if offer.market is Market.ON_DEMAND]
    return Prospect(course, min(on_demand) * target if on_demand else None, losses(course.fleet, target))


def losses(fleet: Iterable[Replica], target: int) -> tuple[Loss, ...]:
    """What is left of these replicas for each zone, region and cloud that may go, the worst of each kind first.

    Servers that somebody else runs are each a zone of their own; nothing is known of what they share.
    """
    there = list(fleet)
    lost: dict[tuple[Domain, str], int] = defaultdict(int)
    for replica in there:
        lost[Domain.ZONE, replica.zone] += 1
        cloud, _, _ = replica.zone.partition("/")
        if cloud != Cloud.STATIC:
            lost[Domain.REGION, replica.zone.rpartition("/")[0]] += 1
            lost[Domain.CLOUD, cloud] += 1
    order = [*Domain]
    found = [Loss(domain, place, count, len(there) - count, target) for (domain, place), count in lost.items()]
    return tuple(sorted(found, key=lambda loss: (order.index(loss.domain), loss.left, loss.place)))
