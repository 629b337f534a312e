"""The face of :mod:`hedgeserve.policy`: an :class:`Observation` goes in, a :class:`Plan` comes out.

How many replicas the load needs is the :class:`Autoscaler`'s to say; where they should be, the policy's.
"""

from hedgeserve.policy.autoscale import Autoscaler, LoadSignal, ScaleDecision
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
from hedgeserve.spec import HedgeSpec

__all__ = [
    "Action",
    "Autoscaler",
    "Drain",
    "Launch",
    "LoadSignal",
    "NewsKind",
    "Observation",
    "Plan",
    "Policy",
    "Rule",
    "ScaleDecision",
    "Terminate",
    "TypeRests",
    "ZoneNews",
    "make_policy",
]


def make_policy(hedge: HedgeSpec) -> Policy:
    """The policy that model.toml names, knowing nothing yet."""
    match hedge.policy:
        case "spothedge":
            return SpotHedge(hedge)
        case "forecast":
            return Forecast(hedge)
