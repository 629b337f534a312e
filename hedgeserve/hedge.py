"""The face of :mod:`hedgeserve.policy`: an :class:`Observation` goes in, a :class:`Plan` comes out.

How many replicas the load needs is the :class:`Autoscaler`'s to say; where they should be, the policy's.
"""

from hedgeserve.policy.amending import amend
from hedgeserve.policy.autoscale import Autoscaler, Bounds, LoadSignal, ScaleDecision
from hedgeserve.policy.budget import Budget, Cap, Held, Marks, Rung, Shut, Spent
from hedgeserve.policy.doubt import counted, spared
from hedgeserve.policy.explain import NOW, explain_gone, explain_now, explain_replica, explain_zone, near_misses
from hedgeserve.policy.forecast import Forecast
from hedgeserve.policy.ledger import (
    COMPARABLE_S,
    KEYS,
    Account,
    Period,
    Purse,
    baseline_usd_per_hour,
    begin_of,
    compares,
    forecast_month_usd,
    price_now,
)
from hedgeserve.policy.means import Means
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
from hedgeserve.policy.rolling import Leaving, Rolling
from hedgeserve.policy.rollout import LEAVING, Count, Health, Rollout, Step, Strategy, Verdict, unneeded
from hedgeserve.policy.scene import Explanation, Past, Scene, Told
from hedgeserve.policy.spothedge import SpotHedge
from hedgeserve.policy.typerests import TypeRests
from hedgeserve.policy.verdict import look
from hedgeserve.policy.waits import waits_for
from hedgeserve.policy.winddown import Pause, Rest, Standing, WindDown, rest_plan
from hedgeserve.spec import HedgeSpec

__all__ = [
    "COMPARABLE_S",
    "KEYS",
    "LEAVING",
    "NOW",
    "Account",
    "Action",
    "Autoscaler",
    "Bounds",
    "Budget",
    "Candidate",
    "Cap",
    "Count",
    "Drain",
    "Explanation",
    "Health",
    "Held",
    "Launch",
    "Leaving",
    "LoadSignal",
    "Marks",
    "Means",
    "NewsKind",
    "Observation",
    "Past",
    "Pause",
    "Period",
    "Plan",
    "Policy",
    "Purse",
    "Rest",
    "Rolling",
    "Rollout",
    "Rule",
    "Rung",
    "ScaleDecision",
    "Scene",
    "Shut",
    "Spent",
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
    "baseline_usd_per_hour",
    "begin_of",
    "compares",
    "counted",
    "explain_gone",
    "explain_now",
    "explain_replica",
    "explain_zone",
    "forecast_month_usd",
    "look",
    "make_policy",
    "near_misses",
    "price_now",
    "rest_plan",
    "spared",
    "unneeded",
    "waits_for",
]


def make_policy(hedge: HedgeSpec) -> Policy:
    """The policy that model.toml names, knowing nothing yet."""
    match hedge.policy:
        case "spothedge":
            return SpotHedge(hedge)
        case "forecast":
            return Forecast(hedge)
