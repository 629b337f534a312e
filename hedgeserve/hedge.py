"""The face of :mod:`hedgeserve.policy`: an :class:`Observation` goes in, a :class:`Plan` comes out.

How many replicas the load needs is the :class:`Autoscaler`'s to say; where they should be, the policy's.
"""

from hedgeserve.policy.autoscale import Autoscaler, Bounds, LoadSignal, ScaleDecision
from hedgeserve.policy.forecast import Forecast
from hedgeserve.policy.plan import (
    Action,
    Drain,
    Launch,
    NewsKind,
    Observation,
    Plan,
    Policy,
    Rule,
    Terminate,
    ZoneNews,
)
from hedgeserve.policy.spothedge import SpotHedge
from hedgeserve.policy.typerests import TypeRests
from hedgeserve.policy.winddown import Pause, Rest, Standing, WindDown, rest_plan
from hedgeserve.spec import HedgeSpec

__all__ = [
    "Action",
    "Autoscaler",
    "Bounds",
    "Drain",
    "Launch",
    "LoadSignal",
    "NewsKind",
    "Observation",
    "Pause",
    "Plan",
    "Policy",
    "Rest",
    "Rule",
    "ScaleDecision",
    "Standing",
    "Terminate",
    "TypeRests",
    "WindDown",
    "ZoneNews",
    "make_policy",
    "rest_plan",
]


def make_policy(hedge: HedgeSpec) -> Policy:
    """The policy that model.toml names, knowing nothing yet."""
    match hedge.policy:
        case "spothedge":
            return SpotHedge(hedge)
        case "forecast":
            return Forecast(hedge)
