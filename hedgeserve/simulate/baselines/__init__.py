"""The rivals that SpotHedge is compared with, each a :class:`~hedgeserve.policy.plan.Policy` like production's.

All of them are what arXiv 2411.01438 compares with, and SpotHedge itself in three readings.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hedgeserve.errors import HedgeServeError
from hedgeserve.hedge import make_policy
from hedgeserve.policy.plan import Policy
from hedgeserve.simulate.baselines.lists import ArtifactSpotHedge, PrintedSpotHedge
from hedgeserve.simulate.baselines.oneregion import AutoScalingGroup, MArk, OneRegion, SpotServe, region_of
from hedgeserve.simulate.baselines.spread import EvenSpread, OnDemandOnly, RoundRobin
from hedgeserve.spec import HedgeSpec

__all__ = ["BASELINES", "Entry", "UnknownPolicyError", "make_baseline", "region_of"]


class UnknownPolicyError(HedgeServeError):
    """No policy has this name; says which have, and which was likely meant."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy that can be named: one line about it, and how it is made.

    ``make`` takes the hedge settings, a seed and a region (None: its own choice). ``overprovision`` is the
    N_extra with which the paper runs it; None: it has none.
    """

    name: str
    summary: str
    make: Callable[[HedgeSpec, int, str | None], Policy]
    overprovision: int | None = 0


def _entries() -> list[Entry]:
    def extra(hedge: HedgeSpec) -> int:
        return hedge.overprovision

    return [
        Entry(
            "on-demand",
            "On-demand replicas alone, as many as the load needs.",
            lambda hedge, seed, region: OnDemandOnly("on-demand", overprovision=0, seed=seed),
            overprovision=None,
        ),
        Entry(
            "even-spread",
            "Spot alone, the same number in each zone; an empty zone is asked again for ever.",
            lambda hedge, seed, region: EvenSpread("even-spread", overprovision=extra(hedge), seed=seed),
        ),
        Entry(
            "even-spread-fallback",
            "Even Spread, with SpotHedge's on-demand fallback.",
            lambda hedge, seed, region: EvenSpread(
                "even-spread-fallback", overprovision=extra(hedge), seed=seed, fallback=True
            ),
            overprovision=1,
        ),
        Entry(
            "round-robin",
            "Spot alone; each missing replica is asked of the zone after the last one asked.",
            lambda hedge, seed, region: RoundRobin("round-robin", overprovision=extra(hedge), seed=seed),
        ),
        Entry(
            "round-robin-fallback",
            "Round Robin, with SpotHedge's on-demand fallback.",
            lambda hedge, seed, region: RoundRobin(
                "round-robin-fallback", overprovision=extra(hedge), seed=seed, fallback=True
            ),
            overprovision=1,
        ),
        Entry(
            "spothedge",
            "SpotHedge as HedgeServe runs it: uses notices, pauses after refusals, holds on-demand for a while.",
            lambda hedge, seed, region: make_policy(hedge.model_copy(update={"policy": "spothedge"})),
            overprovision=1,
        ),
        Entry(
            "spothedge-printed",
            "SpotHedge by the letter of the paper's Algorithm 1: no notice, no pause, no hold.",
            lambda hedge, seed, region: PrintedSpotHedge(
                "spothedge-printed", overprovision=extra(hedge), seed=seed
            ),
            overprovision=1,
        ),
        Entry(
            "spothedge-artifact",
            "SpotHedge as its authors' simulator codes it: random zones, preempted ones return late.",
            lambda hedge, seed, region: ArtifactSpotHedge(
                "spothedge-artifact", overprovision=extra(hedge), seed=seed
            ),
            overprovision=1,
        ),
        Entry(
            "asg",
            "An AWS Auto Scaling group: a tenth on-demand, the rest spot in one region, replaced at a notice.",
            lambda hedge, seed, region: AutoScalingGroup(
                "asg", overprovision=extra(hedge), seed=seed, region=region
            ),
        ),
        Entry(
            "aws-spot",
            "Spot alone, in the zones of one region.",
            lambda hedge, seed, region: OneRegion(
                "aws-spot", overprovision=extra(hedge), seed=seed, region=region
            ),
        ),
        Entry(
            "mark",
            "MArk: spot alone in one region, launched ahead of a growing load.",
            lambda hedge, seed, region: MArk("mark", overprovision=extra(hedge), seed=seed, region=region),
        ),
        Entry(
            "spotserve",
            "SpotServe: spot alone in one zone, replaced at a notice.",
            lambda hedge, seed, region: SpotServe(
                "spotserve", overprovision=extra(hedge), seed=seed, region=region
            ),
        ),
    ]


BASELINES: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _entries()})
"""Every policy that can be named, in the order in which people should read about them."""


def make_baseline(name: str, hedge: HedgeSpec, seed: int = 0, *, region: str | None = None) -> Policy:
    """A new policy of this name. ``hedge.overprovision`` is its N_extra; ``spothedge`` reads all of ``hedge``.

    ``region`` (``cloud/region``) is for those that keep to one; the others have no use for it.

    Raises:
        UnknownPolicyError: No policy has this name.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownPolicyError(f'no policy is called "{name}"; {hint}there are {", ".join(BASELINES)}')
    return BASELINES[name].make(hedge, seed, region)
