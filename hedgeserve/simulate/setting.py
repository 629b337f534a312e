"""What a simulated world is like; every time in seconds, every price in USD per hour."""

from dataclasses import dataclass

from hedgeserve.replica import Offer
from hedgeserve.simulate.traces import ZoneTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTrace:
    """A price that changes: ``usd_per_hour[i]`` from ``i * gap_s`` on; past its end the record begins anew."""

    gap_s: float
    usd_per_hour: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferModel:
    """How one offer behaves.

    ``capacity`` None is no end of VMs (on-demand). ``available`` is the share of asked launches that are granted
    even so. ``cold_start_s`` are equally likely times from a granted launch to a ready replica: one for a
    constant, more for a distribution. Of the preemptions a share of ``no_notice_share`` comes without a word,
    the others ``notice_s`` after it. ``price`` overrides the offer's own for billing and for what the policy
    sees.
    """

    offer: Offer
    capacity: ZoneTrace | None = None
    cold_start_s: tuple[float, ...] = (120.0,)
    notice_s: float = 0.0
    no_notice_share: float = 0.0
    available: float = 1.0
    price: PriceTrace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSetting:
    """One window of one recorded world.

    The window begins ``start_s`` after the first count of the traces and lasts ``window_s``; cost, availability
    and counts leave out its first ``warm_up_s`` (the paper: one cold start). The policy decides on a grid of
    ``tick_s``. ``target`` is N_target where no load sets it. A replica that is drained is billed until its
    requests have ended, at most ``drain_s``; where no load is simulated a drain takes no time.
    ``preemption_order`` says whom a falling capacity takes: ``"newest"``, ``"oldest"`` or ``"random"``.
    """

    offers: tuple[OfferModel, ...]
    target: int
    start_s: float = 0.0
    window_s: float = 86400.0
    warm_up_s: float = 0.0
    tick_s: float = 30.0
    launch_latency_s: float = 0.0
    drain_s: float = 0.0
    preemption_order: str = "newest"
    seed: int = 0
