"""Every policy that a back-test knows by name: those of production, their rivals, and the one that knows all."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args

from hedgeserve.errors import BacktestError
from hedgeserve.hedge import Policy, make_policy
from hedgeserve.simulate.baselines import BASELINES, make_baseline
from hedgeserve.simulate.scenario import Scenario
from hedgeserve.spec import HedgeSpec

OMNISCIENT = "omniscient"
"""Knows all of the record: no policy, but the bound that none can pass."""

_PRODUCTION: tuple[str, ...] = get_args(HedgeSpec.model_fields["policy"].annotation)


def policy_names() -> tuple[str, ...]:
    """Every name that may be asked for."""
    return tuple(dict.fromkeys([*BASELINES, *_PRODUCTION, OMNISCIENT]))


def check_policies(names: Iterable[str]) -> None:
    """Return where all of these can be tried.

    Raises:
        BacktestError: One is not known, or none is asked for.
    """
    there = policy_names()
    names = tuple(names)
    if not names:
        raise BacktestError("no policy was asked for")
    for name in names:
        if name not in there:
            near = get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BacktestError(f'no policy is called "{name}"; {hint}there are {", ".join(there)}')


def make(name: str, scenario: Scenario, *, seed: int) -> Policy:
    """A new policy of this name, set as the scenario says."""
    if name in _PRODUCTION:
        scaled = scenario.demand is not None and scenario.demand.scaled
        return make_policy(scenario.hedge.with_headroom(scaled=scaled).model_copy(update={"policy": name}))
    own = BASELINES[name].overprovision or 0
    extra = own if scenario.overprovision is None else scenario.overprovision
    return make_baseline(name, scenario.hedge.model_copy(update={"overprovision": extra}), seed)
