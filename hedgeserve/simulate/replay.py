"""Windows that stand for the others, played once more with everything that happened in them."""

from dataclasses import dataclass

from hedgeserve.simulate.backtests import Backtest, Steps, run_window, solve_window, targets_of
from hedgeserve.simulate.omniscient import OmniscientOutcome
from hedgeserve.simulate.outcome import Decision, FleetOutcome
from hedgeserve.simulate.parallel import Task
from hedgeserve.simulate.policies import OMNISCIENT
from hedgeserve.units import format_duration

_FIRST_CHOICES = ("forecast", "spothedge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One window under one policy. ``rank`` says why this one: ``"worst"`` or ``"median"``."""

    policy: str
    rank: str
    window: int
    start_s: float
    outcome: FleetOutcome


def focus(result: Backtest) -> str | None:
    """The policy to look at closely: the model's own, else one of production, else the first that decides."""
    tried = [figures.policy for figures in result.policies if figures.policy != OMNISCIENT]
    own: tuple[str, ...] = () if result.scenario.name == "paper" else (result.scenario.hedge.policy,)
    for name in (*own, *_FIRST_CHOICES):
        if name in tried:
            return name
    return next((name for name in tried if name != "on-demand"), tried[0] if tried else None)


def replay(result: Backtest, policy: str | None = None, rank: str = "worst") -> Replay | None:
    """The ``"worst"`` or the ``"median"`` window of a policy (None: the one in :func:`focus`), by availability.

    Among equally available ones the dearest is the worst. None: no policy was tried that acts without hindsight.
    """
    name = policy or focus(result)
    if name is None:
        return None
    windows = sorted(result.policy(name).windows, key=lambda one: (one.availability or 0.0, -one.cost_usd))
    chosen = windows[0 if rank == "worst" else len(windows) // 2]
    task = Task(0, name, chosen.window, chosen.start_s, result.seed)
    return Replay(
        policy=name,
        rank=rank,
        window=chosen.window,
        start_s=chosen.start_s,
        outcome=run_window(result.scenario, task),
    )


def rival(result: Backtest, policy: str, window: int) -> FleetOutcome:
    """The same window under another policy."""
    return run_window(result.scenario, Task(0, policy, window, result.starts_s[window], result.seed))


def bound(result: Backtest, window: int) -> OmniscientOutcome:
    """The same window in hindsight."""
    task = Task(0, OMNISCIENT, window, result.starts_s[window], result.seed)
    targets: Steps = targets_of(result.scenario, task)
    return solve_window(result.scenario, task, targets)


def decision_line(decision: Decision) -> str:
    """A decision as a line: when, what, where, why."""
    market = "on-demand" if decision.market == "on_demand" else str(decision.market)
    return f"{clock(decision.at_s)}  {decision.what} {market} in {decision.zone}: {decision.reason}"


def clock(time_s: float) -> str:
    """A time since the window began, as ``hh:mm:ss``."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def title(played: Replay) -> str:
    """Which window it is, in words."""
    begins = format_duration(played.start_s)
    return f"the {played.rank} window of {played.policy} (number {played.window + 1}, from {begins} of the record)"
