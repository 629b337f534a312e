"""The face of :mod:`hedgeserve.policy`: an :class:`Observation` goes in, a :class:`Plan` comes out.

How many replicas the load needs is the :class:`Autoscaler`'s to say; where they should be, the policy's.
"""

from hedgeserve.policy.autoscale import Autoscaler, Bounds, LoadSignal, ScaleDecision
from hedgeserve.policy.explain import NOW, explain_gone, explain_now, explain_replica, explain_zone, near_misses
from hedgeserve.policy.forecast import Forecast
from hedgeserve.policy.plan import (
    Action,
    Candidate,
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
from hedgeserve.policy.rollout import (
    Count,
    Health,
    Rollout,
    Step,
    Strategy,
    Verdict,
    amend,
    look,
)
from hedgeserve.policy.scene import Explanation, Past, Scene, Told
from hedgeserve.policy.spothedge import SpotHedge
from hedgeserve.policy.typerests import TypeRests
from hedgeserve.policy.winddown import Pause, Rest, Standing, WindDown, rest_plan
from hedgeserve.spec import HedgeSpec

__all__ = [
    "NOW",
    "Action",
    "Autoscaler",
    "Bounds",
    "Candidate",
    "Count",
    "Drain",
    "Explanation",
    "Health",
    "Launch",
    "LoadSignal",
    "NewsKind",
    "Observation",
    "Past",
    "Pause",
    "Plan",
    "Policy",
    "Rest",
    "Rollout",
    "Rule",
    "ScaleDecision",
    "Scene",
    "Standing",
    "Step",
    "Strategy",
    "Terminate",
    "Told",
    "TypeRests",
    "Verdict",
    "WindDown",
    "ZoneNews",
    "amend",
    "explain_gone",
    "explain_now",
    "explain_replica",
    "explain_zone",
    "look",
    "make_policy",
    "near_misses",
    "rest_plan",
]


def make_policy(hedge: HedgeSpec) -> Policy:
    """The policy that model.toml names, knowing nothing yet."""
    match hedge.policy:
        case "spothedge":
            return SpotHedge(hedge)
        case "forecast":
            return Forecast(hedge)
